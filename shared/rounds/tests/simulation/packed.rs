//! Studies whose updates are rotated and packed, over the real machines.

use consilium_rounds::Act;
use consilium_rounds::record::Record;
use consilium_secagg::context::{Context, Purpose};
use consilium_secagg::ring::Ring;

use crate::parts::study_text;
use crate::sim::{Faults, Sim};

fn started(seed: u64, sites: usize) -> Sim {
    let extra = "[aggregation]\nring_bits = 16\nweight_cap = 16\n";
    let mut sim = Sim::new(seed, sites, &study_text(sites, 3, extra, ""));
    sim.connect_all();
    sim.act(Act::Start);
    sim
}

fn trainings(sim: &Sim) -> Vec<Context> {
    let contexts = sim.records.iter().filter_map(|record| match record {
        Record::Context(context) => context.claim().ok(),
        _ => None,
    });
    contexts.filter(|context| context.purpose == Purpose::Train).collect()
}

fn saturated(sim: &Sim) -> Vec<u64> {
    let adoptions = sim.records.iter().filter_map(|record| match record {
        Record::Adoption(adoption) => Some(adoption.trained.saturated),
        _ => None,
    });
    adoptions.collect()
}

/// Every opened sum is the plain one, word for word: the simulation checks that. Here, that the model follows.
#[test]
fn a_packed_study_runs_to_its_release() {
    let mut sim = started(1, 4);
    sim.settle(4_000);
    sim.ends_released_once();
    let last = &sim.models[&sim.machine.model()];
    for (site, weight) in [1.0, 2.0, 4.0, 8.0].into_iter().enumerate() {
        assert!((last[site] - 1.5 * weight / 15.0).abs() < 0.01, "{last:?}");
    }
    let trainings = trainings(&sim);
    assert!(trainings.iter().all(|context| context.layout.ring() == Ring::Packed && context.ring_bits == 16));
    // The clip norm at first, and from then on what the mean update asks for.
    let exponents: Vec<i16> =
        trainings.iter().map(|context| context.layout.blocks()[0].range_exponent).collect();
    assert_eq!(exponents, [4, -5, -4]);
    let counts = sim.records.iter().filter_map(|record| match record {
        Record::Context(context) => context.claim().ok(),
        _ => None,
    });
    let counts: Vec<_> = counts.filter(|context| context.purpose == Purpose::Evaluate).collect();
    assert!(counts.len() == 3 && counts.iter().all(|context| context.ring_bits == 32));
}

#[test]
fn entries_that_saturate_widen_the_ranges() {
    let mut sim = started(1, 4);
    for site in &mut sim.sites {
        // Eight times as long from the second round on: beyond the range that the first asked for.
        site.work.length = |round| if round == 1 { 0.25 } else { 2.0 };
    }
    sim.settle(4_000);
    sim.ends_released_once();
    let saturated = saturated(&sim);
    assert!(saturated[0] == 0 && saturated[1] >= 256 && saturated[2] == 0, "{saturated:?}");
    let exponents: Vec<i16> =
        trainings(&sim).iter().map(|context| context.layout.blocks()[0].range_exponent).collect();
    assert_eq!(exponents, [4, -5, -1], "the rule alone gives -2");
}

#[test]
fn a_bad_network_ends_in_one_release_of_packed_sums() {
    for seed in 0..8 {
        let mut sim = started(seed, 4 + (seed as usize % 3));
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
