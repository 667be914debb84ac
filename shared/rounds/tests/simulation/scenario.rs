//! How a scenario is told: a quiet network, and steps until something holds.

use consilium_rounds::Event;
use consilium_rounds::status::WaitReason;

use crate::parts::study_text;
use crate::sim::{Faults, Sim};

pub(crate) fn sim(sites: usize, rounds: u32, extra: &str, gate: &str) -> Sim {
    Sim::new(7, sites, &study_text(sites, rounds, extra, gate))
}

/// Steps in peace until something holds; time passes only when nothing else can happen.
pub(crate) fn until(sim: &mut Sim, mut what: impl FnMut(&Sim) -> bool) {
    for _ in 0..20_000 {
        if what(sim) {
            return;
        }
        if !sim.step(&Faults::default()) {
            let deadline = sim.machine.deadline().unwrap_or_else(|| panic!("{:#?}", sim.machine.status()));
            sim.now = sim.now.max(deadline.as_millis());
            sim.event(Event::Tick);
        }
    }
    panic!("it never came: {:#?}", sim.machine.status());
}

pub(crate) fn waits_for(sim: &Sim, reason: &WaitReason) -> bool {
    sim.machine.status().waits.iter().any(|wait| wait.reason == *reason)
}
