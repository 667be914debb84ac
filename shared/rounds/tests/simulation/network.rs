//! Bad networks and dying processes.

use std::collections::BTreeSet;

use consilium_rounds::message::StudyState;
use consilium_rounds::status::WaitReason;
use consilium_rounds::{Act, Refused};

use crate::parts::study_text;
use crate::sim::{Faults, Sim};

fn started(seed: u64, sites: usize, rounds: u32) -> Sim {
    let mut sim = Sim::new(seed, sites, &study_text(sites, rounds, "", ""));
    sim.connect_all();
    sim.act(Act::Start);
    sim
}

#[test]
fn a_quiet_study_runs_to_its_release() {
    let mut sim = started(1, 4, 3);
    sim.settle(4_000);
    sim.ends_released_once();
    let status = sim.machine.status();
    assert_eq!(status.lines.len(), 6);
    assert!(
        status.lines.iter().all(|line| line.counted == 4 && line.missing.is_empty()),
        "{:#?}",
        status.lines
    );
    // Said after it mattered; everything else is taken.
    assert!(sim.refused.iter().all(|refused| *refused == Refused::NotNow), "{:?}", sim.refused);
    // Weighted mean of one-hot updates over three rounds: weights 1, 2, 4, 8 of 15, steps 0.25, 0.5, 0.75.
    let release = sim.machine.release().unwrap();
    assert_eq!(release.absent, BTreeSet::new());
    let last = &sim.models[&sim.machine.model()];
    for (site, weight) in [1.0, 2.0, 4.0, 8.0].into_iter().enumerate() {
        assert!((last[site] - 1.5 * weight / 15.0).abs() < 1e-5, "{last:?}");
    }
}

#[test]
fn every_bad_network_ends_in_one_release() {
    for seed in 0..24 {
        let sites = 4 + (seed as usize % 3);
        let mut sim = started(seed, sites, 3);
        let faults = Faults {
            lose_request: 9,
            lose_reply: 9,
            repeat_directive: 60,
            site_crash: 50,
            site_leaves: 80,
            coordinator_crash: 40,
            time_jumps: 120,
            replay: 10,
        };
        for _ in 0..1_000 {
            sim.step(&faults);
        }
        sim.connect_all();
        sim.settle(20_000);
        sim.ends_released_once();
    }
}

#[test]
fn a_site_that_dies_costs_one_round_and_comes_back() {
    let mut sim = started(3, 4, 6);
    while sim.machine.status().lines.len() < 2 {
        assert!(sim.step(&Faults::default()));
    }
    sim.disconnect(3);
    while sim.machine.status().lines.len() < 6 {
        if !sim.step(&Faults::default()) {
            sim.now = sim.machine.deadline().unwrap().as_millis();
            sim.event(consilium_rounds::Event::Tick);
        }
    }
    sim.connect(3);
    sim.settle(8_000);
    sim.ends_released_once();
    let selections: Vec<usize> = sim.contexts().iter().map(|context| context.selection.len()).collect();
    assert!(selections.contains(&3), "it left the Selection: {selections:?}");
    assert_eq!(selections.last(), Some(&4), "it came back: {selections:?}");
}

#[test]
fn a_lost_reply_counts_a_site_once() {
    let mut sim = started(4, 4, 1);
    let faults = Faults { lose_reply: 1, repeat_directive: 5, ..Faults::default() };
    for _ in 0..3_000 {
        sim.step(&faults);
    }
    sim.settle(8_000);
    sim.ends_released_once();
    assert!(sim.machine.status().lines.iter().all(|line| line.counted == 4));
}

#[test]
fn stop_and_pause_are_taken_in_every_state() {
    for at in (0..700).step_by(19) {
        let mut stopped = started(5, 4, 2);
        for _ in 0..at {
            stopped.step(&Faults::default());
        }
        if stopped.is_over() {
            break;
        }
        for _ in 0..2 {
            stopped.act(Act::Stop { reason: "enough".into() });
            assert_eq!(stopped.machine.state(), StudyState::Stopped);
        }
        stopped.settle(100);
        assert_eq!(stopped.machine.state(), StudyState::Stopped);
        assert_eq!(stopped.machine.deadline(), None);

        let mut paused = started(5, 4, 2);
        for _ in 0..at {
            paused.step(&Faults::default());
        }
        paused.act(Act::Pause);
        let contexts = paused.contexts().len();
        paused.act(Act::Pause);
        paused.settle(2_000);
        assert_eq!(paused.contexts().len(), contexts, "no attempt begins in a pause");
        assert!(
            paused.is_over()
                || paused.machine.status().waits.iter().any(|wait| wait.reason == WaitReason::Resume)
        );
        paused.act(Act::Resume);
        paused.act(Act::Resume);
        paused.settle(4_000);
        paused.ends_released_once();
    }
}
