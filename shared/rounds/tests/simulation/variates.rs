//! Control variates: their mean is that of what sites go on from, whatever becomes of attempts and candidates.

use std::collections::BTreeMap;

use consilium_rounds::Act;
use consilium_rounds::control::OwnVariate;
use consilium_rounds::reason::Withdrawal;
use consilium_rounds::record::{Record, Verdict};
use consilium_secagg::context::Purpose;
use consilium_secagg::numbering::Attempt;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;

use crate::parts::{name, study_text};
use crate::scenario::until;
use crate::sim::{Faults, Sim};

fn study(sites: usize, rounds: u32, gate: &str) -> String {
    study_text(sites, rounds, "strategy = { kind = \"scaffold\" }", gate).replace("epochs = 1", "steps = 5")
}

/// The mean beside the adopted model and the attempt of each site's variate in it, as the records say.
fn recorded(sim: &Sim) -> (Option<Hash>, BTreeMap<SiteName, Attempt>) {
    let (mut mean, mut counted) = (None, BTreeMap::new());
    let (mut survivors, mut made, mut begins_anew) = (BTreeMap::new(), None, true);
    for record in &sim.records {
        match record {
            Record::Context(context) => {
                let context = context.claim().unwrap();
                if context.purpose == Purpose::Train {
                    begins_anew = context.control.is_none();
                }
            }
            Record::Proposed(proposed) => {
                survivors.insert(proposed.attempt, proposed.survivors.clone());
            }
            Record::Opened(sum) if sum.candidate.is_some() => made = Some((sum.attempt, sum.control)),
            Record::Adoption(adoption) if !matches!(adoption.verdict, Verdict::Refused(_)) => {
                let (attempt, control) = made.unwrap();
                if begins_anew {
                    counted.clear();
                }
                mean = control;
                counted.extend(survivors[&attempt].iter().map(|(site, _)| (site.clone(), attempt)));
            }
            _ => {}
        }
    }
    (mean, counted)
}

/// The variate of a site that an attempt made.
fn of_attempt(own: &OwnVariate, attempt: Attempt) -> Vec<f32> {
    match &own.before {
        Some(before) if before.attempt == attempt => before.variate.clone(),
        _ => {
            assert_eq!(own.attempt, attempt, "a site still has what is counted");
            own.after.clone()
        }
    }
}

/// The theorem: the mean that the next round begins with is the weighted mean of the variates that the sites begin with.
fn the_mean_is_right(sim: &Sim) {
    let (mean, counted) = recorded(sim);
    let Some(mean) = mean else { return };
    let weight = |position: usize| f64::from(1_u32 << position.min(4));
    let positions = || (0..sim.sites.len()).filter(|position| counted.contains_key(&name(*position)));
    let all: f64 = positions().map(weight).sum();
    let mut expected = vec![0.0; sim.machine.study().model.averaged_len()];
    for position in positions() {
        let own = sim.sites[position].work.variate.as_ref().unwrap();
        for (mean, entry) in expected.iter_mut().zip(of_attempt(own, counted[&name(position)])) {
            *mean += weight(position) / all * f64::from(entry);
        }
    }
    let got = sim.machine.study().model.compact(sim.models[&mean].clone());
    for (got, want) in got.iter().zip(&expected) {
        // Updates of 0.25 over rates that add up to 0.5, as f32.
        assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
    }
    assert!(expected.iter().any(|entry| entry.abs() > 1e-3));
}

/// Every training context names what the records before it lead to.
fn contexts_are_right(sim: &Sim) {
    let records = sim.records.clone();
    let mut before = Sim::new(1, sim.sites.len(), &study(sim.sites.len(), 1, ""));
    before.records.clear();
    for record in records {
        if let Record::Context(context) = &record
            && let context = context.claim().unwrap()
            && let Some(control) = &context.control
        {
            let (mean, counted) = recorded(&before);
            assert_eq!(Some(control.mean), mean);
            let named = context.selection.members().iter().map(|member| control.counted(member.index));
            let wanted = context.selection.members().iter().map(|member| counted.get(&member.site).copied());
            assert!(named.eq(wanted));
        }
        before.records.push(record);
    }
}

#[test]
fn a_refused_candidate_and_a_missing_site_leave_the_mean_right() {
    let mut sim = Sim::new(7, 5, &study(5, 6, "gate = { max_loss_increase = 0.01 }"));
    sim.sites.iter_mut().for_each(|site| site.work.length = |round| 0.25 / round as f32);
    sim.connect_all();
    sim.act(Act::Start);
    for (round, (worse, away)) in
        [(false, None), (true, None), (false, None), (false, Some(1)), (false, None), (false, Some(4))]
            .into_iter()
            .enumerate()
    {
        for (position, site) in sim.sites.iter_mut().enumerate() {
            site.work.worse = worse;
            site.work.leaves = (away == Some(position)).then_some(Withdrawal::StoppedAtSite);
        }
        until(&mut sim, |sim| sim.machine.adoptions().len() == round + 1);
        assert_eq!(matches!(sim.machine.adoptions()[round].verdict, Verdict::Refused(_)), worse);
        the_mean_is_right(&sim);
    }
    sim.settle(5_000);
    sim.ends_released_once();
    contexts_are_right(&sim);
    let trained =
        |sim: &Sim| sim.contexts().into_iter().filter(|context| context.purpose == Purpose::Train).count();
    assert!(trained(&sim) >= 6);
}

#[test]
fn the_mean_is_right_whatever_is_lost_and_whoever_dies() {
    let faults = Faults {
        lose_request: 6,
        lose_reply: 6,
        repeat_directive: 40,
        site_crash: 60,
        site_leaves: 90,
        coordinator_crash: 60,
        time_jumps: 200,
        replay: 8,
    };
    for seed in 0..6 {
        let mut sim = Sim::new(seed, 5, &study(5, 4, ""));
        sim.connect_all();
        sim.act(Act::Start);
        let mut seen = 0;
        for _ in 0..6_000 {
            sim.step(&faults);
            if sim.machine.adoptions().len() > seen {
                seen = sim.machine.adoptions().len();
                the_mean_is_right(&sim);
            }
            if sim.is_over() {
                break;
            }
        }
        sim.connect_all();
        sim.settle(20_000);
        sim.ends_released_once();
        the_mean_is_right(&sim);
        contexts_are_right(&sim);
    }
}

/// A site that cannot go on from what is counted for it says so, and all begin without variates once more.
#[test]
fn after_a_site_has_lost_its_variate_all_begin_anew() {
    let mut sim = Sim::new(3, 4, &study(4, 5, ""));
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 2);
    sim.sites[2].work.variate = None;
    until(&mut sim, |sim| sim.machine.adoptions().len() == 3);
    // Whoever withdrew is left alone for a while.
    sim.now += 3_600_000;
    sim.settle(10_000);
    sim.ends_released_once();
    the_mean_is_right(&sim);
    contexts_are_right(&sim);
    let trainings: Vec<_> =
        sim.contexts().into_iter().filter(|context| context.purpose == Purpose::Train).collect();
    let mut without: Vec<u32> = trainings
        .iter()
        .filter(|context| context.control.is_none())
        .map(|context| context.round.get())
        .collect();
    without.dedup();
    assert_eq!(without, [1, 4]);
    let last = trainings.last().unwrap().control.as_ref().unwrap();
    assert_eq!(last.counted.len(), 4, "the site that had lost it is among them");
}
