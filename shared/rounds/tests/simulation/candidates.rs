//! What is adopted, what is refused, and what waits for its evaluation.

use consilium_rounds::reason::{CandidateRefusal, Unevaluated};
use consilium_rounds::record::{ReleaseReason, Verdict};
use consilium_rounds::status::{Kind, LineState, WaitReason};
use consilium_rounds::{Act, Shortage};

use crate::parts::name;
use crate::scenario::{sim, until, waits_for};

#[test]
fn a_refused_candidate_leaves_the_model_and_is_never_the_last_word() {
    let mut sim = sim(4, 3, "", "gate = { max_loss_increase = 0.01 }");
    for site in &mut sim.sites {
        site.work.worse = true;
    }
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    assert!(matches!(sim.machine.adoptions()[0].verdict, Verdict::Refused(_)));
    assert_eq!(sim.machine.model(), sim.machine.study().initial_model());
    // The same starting model again: a site that is missing now is waited for, not left out.
    sim.disconnect(1);
    sim.settle(5_000);
    assert!(waits_for(&sim, &WaitReason::Sites(Shortage::Bound { missing: vec![name(1)] })));
    sim.connect(1);
    for site in &mut sim.sites {
        site.work.worse = false;
    }
    sim.settle(20_000);
    sim.ends_released_once();
    assert!(sim.machine.status().lines.iter().any(|line| matches!(line.state, LineState::Refused(_))));
}

/// Losses get worse after the first round, and patience ends; what is released is the best, not the last.
#[test]
fn a_study_that_gets_no_better_ends_early_with_its_best_model() {
    let mut sim = sim(4, 9, "patience = 2", "recommend = \"loss\"");
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    sim.sites.iter_mut().for_each(|site| site.work.worse = true);
    sim.settle(20_000);
    sim.ends_released_once();
    let adoptions = sim.machine.adoptions();
    assert_eq!(adoptions.len(), 3);
    assert!(adoptions.iter().all(|last| last.verdict == Verdict::Adopted));
    assert_eq!(sim.machine.release().unwrap().model, adoptions[0].candidate);
    assert_eq!(sim.machine.release().unwrap().rounds, 3);
}

/// Start and candidate of four rounds, and whether it was refused: the second is. The same updates whatever model they
/// start from.
fn four_rounds(strategy: &str) -> Vec<(Vec<f32>, Vec<f32>, bool)> {
    let mut sim = sim(4, 4, strategy, "gate = { max_loss_increase = 0.01 }");
    sim.sites.iter_mut().for_each(|site| site.work.length = |_| 0.25);
    sim.connect_all();
    sim.act(Act::Start);
    for (round, worse) in [false, true, false, false].into_iter().enumerate() {
        sim.sites.iter_mut().for_each(|site| site.work.worse = worse);
        until(&mut sim, |sim| sim.machine.adoptions().len() == round + 1);
    }
    let adoptions = sim.machine.adoptions().iter();
    let models: Vec<_> = adoptions
        .map(|last| {
            let model = |hash| sim.models[hash].clone();
            (model(&last.start), model(&last.candidate), matches!(last.verdict, Verdict::Refused(_)))
        })
        .collect();
    assert_eq!(models.iter().map(|(.., refused)| *refused).collect::<Vec<_>>(), [false, true, false, false]);
    models
}

/// Moments are those beside the last adopted model: a refused candidate takes its own away.
#[test]
fn an_adaptive_server_forgets_what_was_refused() {
    let adaptive = four_rounds("strategy = { kind = \"fedadam\", server_learning_rate = 0.01, tau = 0.1 }");
    let averaged = four_rounds("");
    let (mut first, mut second) = (vec![0.0; adaptive[0].0.len()], vec![0.01; adaptive[0].0.len()]);
    for ((start, candidate, refused), (plain_start, plain_candidate, _)) in adaptive.iter().zip(&averaged) {
        let (mut next_first, mut next_second) = (first.clone(), second.clone());
        for at in 0..start.len() {
            let mean = f64::from(plain_candidate[at]) - f64::from(plain_start[at]);
            next_first[at] = 0.9 * first[at] + 0.1 * mean;
            next_second[at] = 0.99 * second[at] + 0.01 * mean * mean;
            let expected = f64::from(start[at]) + 0.01 * next_first[at] / (next_second[at].sqrt() + 0.1);
            let got = f64::from(candidate[at]);
            assert!((got - expected).abs() < 1e-5, "{at}: {got} {expected}");
        }
        if !refused {
            (first, second) = (next_first, next_second);
        }
    }
}

#[test]
fn momentum_goes_on_from_the_last_two_adopted_models() {
    let averaged = four_rounds("");
    let with_momentum = four_rounds("strategy = { kind = \"fedavgm\", server_momentum = 0.5 }");
    let mut before = with_momentum[0].0.clone();
    for ((start, candidate, refused), (plain_start, plain_candidate, _)) in
        with_momentum.iter().zip(&averaged)
    {
        for at in 0..start.len() {
            let mean = plain_candidate[at] - plain_start[at];
            let expected = start[at] + mean + 0.5 * (start[at] - before[at]);
            assert!((candidate[at] - expected).abs() < 1e-5, "{at}: {} {expected}", candidate[at]);
        }
        if !refused {
            before.clone_from(start);
        }
    }
}

#[test]
fn a_candidate_that_too_few_would_train_from_is_refused_and_the_study_goes_on() {
    let mut sim = sim(4, 3, "", "");
    sim.sites[0].work.declines = true;
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    assert_eq!(sim.machine.adoptions()[0].verdict, Verdict::Adopted, "three are enough");
    sim.sites[1].work.declines = true;
    until(&mut sim, |sim| sim.machine.adoptions().len() == 2);
    let refused = &sim.machine.adoptions()[1];
    assert_eq!(refused.verdict, Verdict::Refused(CandidateRefusal::TooFewWilling));
    assert_eq!(refused.start, sim.machine.model());
    sim.sites[1].work.declines = false;
    sim.settle(20_000);
    sim.ends_released_once();
}

/// Of five sites a round needs four, whatever the quorum: the thresholds ask for them.
#[test]
fn what_the_thresholds_ask_for_counts_as_too_few() {
    let mut sim = sim(5, 2, "", "");
    for site in 0..2 {
        sim.sites[site].work.declines = true;
    }
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    assert_eq!(sim.machine.adoptions()[0].verdict, Verdict::Refused(CandidateRefusal::TooFewWilling));
}

/// The next candidate from the same starting model is not adopted unseen, with the gate off either.
#[test]
fn after_a_declined_candidate_the_next_waits_for_its_evaluation() {
    let mut sim = sim(4, 2, "", "");
    for site in 0..2 {
        sim.sites[site].work.declines = true;
    }
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    until(&mut sim, |sim| sim.machine.candidate().is_some());
    sim.disconnect(0);
    sim.disconnect(1);
    sim.settle(10_000);
    assert!(sim.machine.candidate().is_some(), "the candidate waits: {:#?}", sim.machine.status());
    for site in 0..2 {
        sim.sites[site].work.declines = false;
        sim.connect(site);
    }
    sim.settle(20_000);
    assert_eq!(sim.machine.adoptions()[1].verdict, Verdict::Adopted);
    sim.ends_released_once();
}

#[test]
fn nothing_adopted_releases_the_initial_model() {
    let mut sim = sim(3, 1, "", "gate = { max_loss_increase = 0.01 }");
    for site in &mut sim.sites {
        site.work.worse = true;
    }
    sim.connect_all();
    sim.act(Act::Start);
    sim.settle(20_000);
    let release = sim.machine.release().unwrap();
    assert_eq!(release.reason, ReleaseReason::NothingAdopted);
    assert_eq!(release.model, sim.machine.study().initial_model());
}

#[test]
fn without_a_gate_nobody_waits_for_an_evaluation_and_with_one_everybody_does() {
    for (gate, waits) in [("", false), ("gate = { max_loss_increase = 0.5 }", true)] {
        let mut sim = sim(4, 1, "", gate);
        sim.connect_all();
        sim.act(Act::Start);
        until(&mut sim, |sim| sim.machine.candidate().is_some());
        sim.disconnect(0);
        sim.disconnect(1);
        sim.settle(10_000);
        if waits {
            assert!(sim.machine.candidate().is_some(), "the candidate waits");
            sim.connect(0);
            sim.connect(1);
            sim.settle(20_000);
            assert_eq!(sim.machine.adoptions()[0].verdict, Verdict::Adopted);
        } else {
            let verdict = sim.machine.adoptions()[0].verdict;
            assert_eq!(verdict, Verdict::Unevaluated(Unevaluated::NoQuorum));
            assert!(matches!(sim.machine.release().unwrap().reason, ReleaseReason::LastAdopted { .. }));
        }
        sim.ends_released_once();
    }
}

#[test]
fn a_site_without_held_out_cases_still_trains() {
    let mut sim = sim(4, 4, "", "");
    sim.sites[3].work.blind = true;
    sim.connect_all();
    sim.act(Act::Start);
    sim.settle(20_000);
    sim.ends_released_once();
    for line in sim.machine.status().lines {
        assert_eq!(line.counted, if line.kind == Kind::Train { 4 } else { 3 }, "{line:?}");
    }
}
