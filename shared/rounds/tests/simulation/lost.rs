//! An attempt whose survivors are named: only persons give it up, and what it leaves behind binds.

use consilium_rounds::local::Reply;
use consilium_rounds::message::{Binding, Directive, StudyState};
use consilium_rounds::record::Record;
use consilium_rounds::status::{Phase, WaitReason};
use consilium_rounds::{Act, Event, Shortage};
use consilium_secagg::context::Context;
use consilium_secagg::numbering::Attempt;

use crate::parts::name;
use crate::scenario::{sim, until, waits_for};
use crate::sim::{Packet, Sim};

/// Everybody is there, and the survivors of the first such attempt are named, but nobody has heard of them yet.
fn until_survivors_are_named(sim: &mut Sim, such: impl Fn(&Context) -> bool) -> Attempt {
    sim.connect_all();
    sim.act(Act::Start);
    until(sim, |sim| {
        sim.machine.status().phase == Phase::ConsistencyCheck && sim.contexts().last().is_some_and(&such)
    });
    sim.contexts().last().unwrap().attempt
}

#[test]
fn once_survivors_are_named_only_a_person_gives_the_attempt_up() {
    let mut sim = sim(4, 2, "", "");
    let attempt = until_survivors_are_named(&mut sim, |_| true);
    sim.disconnect(0);
    sim.disconnect(1);
    sim.now += 10_000_000_000;
    sim.event(Event::Tick);
    sim.settle(5_000);
    assert_eq!(sim.machine.status().phase, Phase::ConsistencyCheck, "no deadline ends it");
    assert!(waits_for(&sim, &WaitReason::Signatures));
    sim.act(Act::DeclareLost { attempt });
    sim.act(Act::DeclareLost { attempt });
    sim.settle(5_000);
    // The repeat rule still counts it as opened.
    assert!(waits_for(&sim, &WaitReason::Sites(Shortage::Bound { missing: vec![name(0), name(1)] })));
    // One of the two comes back, which is not enough; with the other the same set is complete again.
    sim.connect(0);
    sim.settle(5_000);
    assert!(waits_for(&sim, &WaitReason::Sites(Shortage::Bound { missing: vec![name(1)] })));
    sim.connect(1);
    sim.settle(20_000);
    assert!(matches!(sim.machine.state(), StudyState::Released { .. }), "{:#?}", sim.machine.status());
}

/// Persons at these sites say yes to what they are asked.
fn consent(sim: &mut Sim, sites: &[usize]) {
    for site in sites {
        let binding = question(sim, *site).unwrap_or_else(|| panic!("{site} is not asked"));
        for reply in sim.sites[*site].local.consent(binding) {
            let Reply::Say(message) = reply else { unreachable!() };
            sim.network.push((*site, Packet::Say(message)));
        }
        sim.settle(5_000);
    }
}

/// With a gate a lost evaluation binds twice: by its candidate and by the model that it is compared with. One yes is
/// for both, and for nothing else.
#[test]
fn a_lost_evaluation_goes_on_with_one_yes_of_each() {
    let mut sim = sim(4, 1, "", "gate = { max_loss_increase = 0.5 }");
    let attempt = until_survivors_are_named(&mut sim, |context| context.baseline.is_some());
    sim.disconnect(0);
    sim.disconnect(1);
    sim.settle(5_000);
    sim.act(Act::DeclareLost { attempt });
    sim.settle(5_000);
    let missing = vec![name(0), name(1)];
    assert!(waits_for(&sim, &WaitReason::Sites(Shortage::Bound { missing })));
    assert!(waits_for(&sim, &WaitReason::Consent));
    sim.connect(1);
    sim.settle(5_000);
    assert!(question(&sim, 2).is_some());
    // While one is expected back nobody is asked.
    sim.disconnect(1);
    assert_eq!(question(&sim, 2), None);
    sim.connect(1);
    sim.settle(5_000);
    let attempts = sim.contexts().len();
    consent(&mut sim, &[2, 3]);
    assert!(matches!(sim.machine.state(), StudyState::Released { .. }), "{:#?}", sim.machine.status());
    assert_eq!(sim.contexts().len(), attempts + 1, "nobody refuses the next attempt");
}

/// What `site` is asked about the repeat rule.
fn question(sim: &Sim, site: usize) -> Option<Binding> {
    sim.machine.directives_for(&name(site)).into_iter().find_map(|letter| match letter.message {
        Directive::Bound(binding) => Some(binding),
        _ => None,
    })
}

#[test]
fn without_one_of_a_lost_sum_the_study_goes_on_when_persons_allow_it() {
    let mut sim = sim(4, 2, "", "");
    let attempt = until_survivors_are_named(&mut sim, |_| true);
    // Two never hear of the survivors; the others sign.
    sim.disconnect(0);
    sim.disconnect(1);
    sim.settle(5_000);
    assert!(question(&sim, 2).is_none(), "while the attempt lives nobody is asked");
    sim.act(Act::DeclareLost { attempt });
    // One of the two is gone for good. The other says by itself that nothing binds it.
    sim.connect(0);
    sim.settle(5_000);
    assert!(waits_for(&sim, &WaitReason::Sites(Shortage::Bound { missing: vec![name(1)] })));
    assert_eq!(question(&sim, 0), None);
    let survivors = question(&sim, 2).map(|binding| binding.survivors);
    assert_eq!(survivors, Some((0..4).map(name).collect()));
    consent(&mut sim, &[2, 3]);
    assert!(matches!(sim.machine.state(), StudyState::Released { .. }), "{:#?}", sim.machine.status());
    let consents: Vec<_> = sim
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Consent { site, .. } => Some(site.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(consents, [name(2), name(3)], "only persons consent");
}
