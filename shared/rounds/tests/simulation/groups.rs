//! Studies that sum groups: the draw, what becomes of it, and a median that one group does not move.

use consilium_rounds::message::{Decision, SiteMessage, StudyState};
use consilium_rounds::record::Record;
use consilium_rounds::status::WaitReason;
use consilium_rounds::{Act, Event, Shortage};
use consilium_secagg::context::Purpose;
use consilium_secagg::grouping::{DrawProof, Drawn};
use consilium_study::statement::SiteTerms;

use crate::parts::{SHARED, name};
use crate::scenario::{sim, until, waits_for};
use crate::sim::{Faults, Sim};

fn grouped(sites: usize, rounds: u32) -> Sim {
    let mut sim = sim(sites, rounds, "[aggregation]\ngroups = { count = 3 }", "");
    sim.connect_all();
    sim.act(Act::Start);
    sim
}

fn draws(sim: &Sim) -> Vec<&DrawProof> {
    let draws = sim.records.iter().filter_map(|record| match record {
        Record::Draw(proof) => Some(&**proof),
        _ => None,
    });
    draws.collect()
}

fn drawn(sim: &Sim, proof: &DrawProof) -> Drawn {
    proof.check(&sim.machine.pin()).unwrap().1
}

#[test]
fn groups_are_drawn_once_and_serve_every_training() {
    let mut sim = grouped(24, 2);
    let faults = Faults {
        lose_request: 9,
        lose_reply: 9,
        site_crash: 400,
        coordinator_crash: 300,
        ..Faults::default()
    };
    for _ in 0..3_000 {
        sim.step(&faults);
    }
    sim.settle(60_000);
    sim.ends_released_once();
    let draws = draws(&sim);
    assert_eq!(draws.len(), 1);
    let drawn = drawn(&sim, draws[0]);
    for context in sim.contexts() {
        let want = (context.purpose == Purpose::Train).then(|| drawn.grouping(&context.selection).unwrap());
        assert_eq!(context.grouping, want, "evaluations are summed over everybody");
    }
    // What one site alone sends moves its own group, and the median is what the other groups have there.
    let model = &sim.models[&sim.machine.release().unwrap().model];
    assert!(model[..24].iter().all(|entry| *entry == 0.0) && model[SHARED] > 0.1);
}

#[test]
fn whoever_keeps_its_nonce_costs_one_draw() {
    let mut sim = grouped(29, 1);
    until(&mut sim, |sim| waits_for(sim, &WaitReason::Draw));
    // Some have answered already; one never does.
    let silent = (0..29).rev().find(|site| {
        let waits = sim.machine.status().waits;
        waits.iter().any(|wait| wait.reason == WaitReason::Draw && wait.sites.contains(&name(*site)))
    });
    let silent = silent.unwrap();
    sim.disconnect(silent);
    sim.settle(80_000);
    sim.ends_released_once();
    let draws = draws(&sim);
    assert_eq!(draws.len(), 1, "the first draw came to nothing");
    assert_eq!(drawn(&sim, draws[0]).group_of(&name(silent)), None);
    assert_eq!(drawn(&sim, draws[0]).participants().count(), 28);
}

#[test]
fn when_a_group_is_too_thin_the_others_draw_again() {
    let mut sim = grouped(30, 2);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    let first = drawn(&sim, draws(&sim)[0]);
    let of_one_group: Vec<usize> = (0..30).filter(|site| first.group_of(&name(*site)) == Some(1)).collect();
    // Of ten, nine are enough; of two more nobody would hear in the sum of their group.
    sim.disconnect(of_one_group[0]);
    sim.disconnect(of_one_group[1]);
    sim.settle(80_000);
    assert!(matches!(sim.machine.state(), StudyState::Released { .. }), "{:#?}", sim.machine.status());
    let draws = draws(&sim);
    assert_eq!(draws.len(), 2);
    assert_eq!(drawn(&sim, draws[1]).participants().count(), 28);
    let last = sim.contexts().into_iter().rfind(|context| context.purpose == Purpose::Train).unwrap();
    assert_eq!(last.selection.len(), 28);
}

/// A hospital that asks for more honest ones than the groups keep costs a wait, and nothing worse.
#[test]
fn a_hospital_that_becomes_stricter_than_the_draw_is_waited_for() {
    let mut sim = grouped(24, 2);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    let accepted = sim.records.iter().find_map(|record| match record {
        Record::Acceptance(signed) => signed.claim().ok(),
        _ => None,
    });
    let terms = SiteTerms { min_honest: 5, ..accepted.unwrap().terms };
    let signed = sim.sites[3].local.accept_on(terms);
    let message = SiteMessage::Decision(Decision::Accepted(signed));
    sim.event(Event::Message { from: name(3), message });
    sim.settle(60_000);
    let want = Shortage::TooFewGroups { ready: 24, groups: 3 };
    assert!(waits_for(&sim, &WaitReason::Sites(want)), "{:#?}", sim.machine.status().waits);
}

#[test]
fn with_too_few_sites_for_groups_the_study_waits_for_them() {
    let mut sim = sim(24, 1, "[aggregation]\ngroups = { count = 3 }", "");
    for site in 0..23 {
        sim.connect(site);
    }
    sim.act(Act::Start);
    sim.settle(60_000);
    let waits = sim.machine.status().waits;
    let want = Shortage::TooFewGroups { ready: 23, groups: 3 };
    assert_eq!(waits[0].reason, WaitReason::Sites(want));
    assert_eq!(waits[0].sites, [name(23)]);
    sim.connect(23);
    sim.settle(60_000);
    sim.ends_released_once();
}
