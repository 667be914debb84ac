//! The rules of a study: who is waited for, when keys change, whose messages count.

use std::collections::BTreeSet;

use consilium_rounds::local::{Federation, Models};
use consilium_rounds::message::{Directive, SiteMessage, StudyState};
use consilium_rounds::reason::{Abandonment, Withdrawal};
use consilium_rounds::record::Record;
use consilium_rounds::status::{Kind, Phase, Rung, WaitReason};
use consilium_rounds::{Act, Effect, Event, Refused, Shortage, Timestamp};
use consilium_secagg::message::{Receipt, ReceiptFields};
use consilium_secagg::terms::Terms;
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};

use crate::parts::{OneHot, hash_of_model, name, study_text};
use crate::scenario::{sim, until, waits_for};
use crate::sim::{Faults, Packet, Sim};

#[test]
fn a_required_site_holds_the_start_and_an_optional_one_joins_later() {
    let mut sim = sim(5, 5, "required = [\"s04\"]", "");
    for site in 0..3 {
        sim.connect(site);
    }
    sim.act(Act::Start);
    sim.settle(2_000);
    assert_eq!(sim.machine.state(), StudyState::Proposed);
    assert!(sim.machine.status().waits.iter().any(|wait| wait.sites.contains(&name(4))));
    sim.connect(4);
    until(&mut sim, |sim| sim.machine.status().lines.len() >= 2);
    assert!(sim.contexts().iter().all(|context| context.selection.len() == 4));
    sim.connect(3);
    until(&mut sim, |sim| sim.contexts().last().unwrap().selection.len() == 5);
    sim.disconnect(4);
    sim.settle(5_000);
    assert!(waits_for(&sim, &WaitReason::Sites(Shortage::Required { missing: vec![name(4)] })));
    sim.connect(4);
    sim.settle(20_000);
    sim.ends_released_once();
}

#[test]
fn below_quorum_an_attempt_is_given_up_and_the_round_waits_by_name() {
    let mut sim = sim(4, 2, "", "");
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.status().phase == Phase::CollectMasked);
    sim.disconnect(2);
    sim.disconnect(3);
    until(&mut sim, |sim| {
        sim.machine.status().waits.iter().any(|wait| matches!(wait.reason, WaitReason::Sites(_)))
    });
    let abandoned = sim.records.iter().any(|record| {
        matches!(record, Record::Abandoned { cause: Abandonment::BelowQuorum, missing, .. } if missing.len() == 2)
    });
    assert!(abandoned);
    sim.settle(5_000);
    let status = sim.machine.status();
    let wait = &status.waits[0];
    assert_eq!(wait.reason, WaitReason::Sites(Shortage::TooFew { ready: 2, needed: 3 }));
    assert_eq!(wait.sites, [name(2), name(3)]);
    sim.connect(2);
    sim.connect(3);
    sim.settle(20_000);
    sim.ends_released_once();
}

/// Sites `0..count` leave whenever they are to train.
fn leave(sim: &mut Sim, count: usize, why: Option<Withdrawal>) {
    for site in &mut sim.sites[..count] {
        site.work.leaves = why;
    }
}

fn trainings(sim: &Sim) -> Vec<(u32, u32)> {
    let lines = sim.machine.status().lines;
    let train = lines.into_iter().filter(|line| line.kind == Kind::Train);
    train.map(|line| (line.selected, line.counted)).collect()
}

/// Eight hospitals can lose two, and five are enough for a round of their own.
#[test]
fn hospitals_that_leave_an_attempt_do_not_bring_the_next_one_down() {
    let mut sim = sim(8, 2, "", "");
    leave(&mut sim, 3, Some(Withdrawal::TrainingFailed));
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| !sim.machine.status().lines.is_empty());
    sim.now += 3_000;
    sim.event(Event::Tick);
    let site = &sim.machine.status().sites[0];
    assert!(site.missing.is_some() && site.connected, "an operator sees why it is left out: {site:?}");
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    assert_eq!(trainings(&sim)[1..], [(5, 5)]);
    assert_eq!(sim.machine.status().lines[1].absent, [name(0), name(1), name(2)]);
    // They are asked again for the next model.
    leave(&mut sim, 3, None);
    sim.now += 60_000;
    sim.settle(20_000);
    sim.ends_released_once();
    assert_eq!(sim.contexts().last().unwrap().selection.len(), 8);
}

/// Four hospitals need three: whoever left is asked again, because nothing goes on without them.
#[test]
fn a_round_that_needs_the_hospitals_that_left_asks_them_again() {
    let mut sim = sim(4, 1, "", "");
    leave(&mut sim, 2, Some(Withdrawal::TrainingFailed));
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.status().lines.len() == 2);
    leave(&mut sim, 2, None);
    sim.settle(20_000);
    sim.ends_released_once();
    assert_eq!(sim.contexts().last().unwrap().selection.len(), 4);
}

/// What passes by itself, and what the study cannot do without, leaves nobody out.
#[test]
fn a_passing_reason_and_a_required_hospital_leave_nobody_out() {
    let mut passing = sim(8, 1, "", "");
    leave(&mut passing, 3, Some(Withdrawal::ModelUnavailable));
    let mut required = sim(8, 1, "required = [\"s00\"]", "");
    leave(&mut required, 3, Some(Withdrawal::TrainingFailed));
    for (mut sim, expected) in [(passing, 8), (required, 6)] {
        sim.connect_all();
        sim.act(Act::Start);
        until(&mut sim, |sim| sim.machine.status().lines.len() == 1);
        leave(&mut sim, 3, None);
        sim.settle(20_000);
        sim.ends_released_once();
        assert_eq!(trainings(&sim)[1..], [(expected, expected)]);
    }
}

/// Twelve hospitals can lose three, and eight are enough; but one that is willing wants ten in every round.
#[test]
fn nobody_is_left_out_where_that_costs_a_willing_hospital() {
    let floor = |site: usize| if site == 5 { 10 } else { 3 };
    let mut sim = Sim::with_floors(7, 12, &study_text(12, 1, "", ""), floor);
    leave(&mut sim, 4, Some(Withdrawal::TrainingFailed));
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| trainings(sim).len() == 1);
    leave(&mut sim, 4, None);
    sim.settle(20_000);
    sim.ends_released_once();
    let (_, counted) = trainings(&sim)[1];
    assert!(counted >= 10, "{counted}");
}

/// An attempt without them that fails for another reason is no ground to go on without them.
#[test]
fn whoever_was_left_out_is_asked_again_when_that_did_not_help() {
    let mut sim = sim(8, 1, "", "");
    leave(&mut sim, 3, Some(Withdrawal::TrainingFailed));
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| trainings(sim).len() == 1);
    leave(&mut sim, 3, None);
    // Of the five that are asked now none can be spared, and two vanish.
    until(&mut sim, |sim| sim.contexts().last().is_some_and(|context| context.selection.len() == 5));
    sim.disconnect(6);
    sim.disconnect(7);
    until(&mut sim, |sim| trainings(sim).len() == 2);
    sim.connect(6);
    sim.connect(7);
    sim.settle(20_000);
    sim.ends_released_once();
    assert_eq!(trainings(&sim)[1..], [(5, 0), (8, 8)]);
}

#[test]
fn a_round_names_the_sites_it_was_without() {
    let mut sim = sim(4, 4, "", "");
    for site in 0..3 {
        sim.connect(site);
    }
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    sim.connect(3);
    sim.settle(20_000);
    sim.ends_released_once();
    let lines = sim.machine.status().lines;
    for line in &lines {
        let absent = if line.selected == 3 { vec![name(3)] } else { Vec::new() };
        assert_eq!((&line.absent, line.missing.len()), (&absent, 0), "{line:?}");
    }
    assert_eq!((lines[0].selected, lines.last().unwrap().selected), (3, 4));
}

#[test]
fn keys_change_when_they_are_used_up_or_lost() {
    let mut sim = sim(4, 5, "attempts_per_epoch = 2", "");
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 2);
    let epochs = |sim: &Sim| sim.records.iter().filter(|record| matches!(record, Record::Epoch(_))).count();
    assert!(epochs(&sim) >= 2);
    let before = epochs(&sim);
    sim.sites[2].local.lose_keys();
    sim.disconnect(2);
    sim.connect(2);
    until(&mut sim, |sim| sim.machine.status().sites[2].rung == Rung::Preparing);
    // It rests for a moment, so that it cannot keep the others busy with new keys.
    sim.now += 3_000;
    sim.settle(20_000);
    sim.ends_released_once();
    assert!(epochs(&sim) > before);
    assert_eq!(sim.contexts().last().unwrap().selection.len(), 4);
}

#[test]
fn a_restored_coordinator_goes_on_above_what_the_sites_have_seen() {
    let mut sim = sim(4, 4, "", "");
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.adoptions().len() == 1);
    let backup = sim.machine.clone();
    let models = sim.models.clone();
    until(&mut sim, |sim| sim.machine.adoptions().len() == 2);
    let above = sim.contexts().last().unwrap().attempt.get();
    sim.machine = backup;
    sim.models = models;
    sim.uploads.clear();
    sim.jobs.clear();
    sim.crash_coordinator();
    sim.act(Act::Restored { above });
    sim.settle(20_000);
    assert!(matches!(sim.machine.state(), StudyState::Released { .. }), "{:#?}", sim.machine.status());
}

#[test]
fn a_study_that_cannot_begin_any_more_says_so() {
    let mut sim = sim(4, 1, "", "");
    assert!(waits_for(&sim, &WaitReason::Acceptances));
    sim.event(Event::Revoked(name(0)));
    assert!(waits_for(&sim, &WaitReason::Acceptances), "three can still begin it");
    sim.event(Event::Revoked(name(1)));
    assert!(waits_for(&sim, &WaitReason::Stop));
    assert_eq!(sim.machine.status().waits[0].sites, [name(0), name(1)]);
}

#[test]
fn a_refusal_or_a_revocation_ends_a_sites_part_and_not_the_study() {
    let mut sim = sim(5, 3, "", "");
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.status().phase == Phase::CollectMasked);
    sim.event(Event::Revoked(name(4)));
    assert_eq!(sim.machine.directives_for(&name(4)), []);
    sim.settle(20_000);
    sim.ends_released_once();
    assert!(sim.contexts().last().unwrap().selection.index_of(&name(4)).is_none());
}

/// A line that is slower than the study's timeout: while bytes come in the site is waited for, and not for long after.
#[test]
fn an_upload_that_grows_is_waited_for() {
    for grows in [true, false] {
        let mut sim = sim(4, 1, "", "");
        sim.connect_all();
        sim.act(Act::Start);
        let is_upload =
            |(from, packet): &(usize, Packet)| *from == 3 && matches!(packet, Packet::Upload { .. });
        until(&mut sim, |sim| sim.network.iter().any(is_upload));
        let at = sim.network.iter().position(is_upload).unwrap();
        let late = sim.network.remove(at);
        let attempt = sim.contexts()[0].attempt;
        until(&mut sim, |sim| sim.uploads.len() == 3);
        for bytes in 1..=3 {
            sim.now += 50_000;
            if grows {
                sim.event(Event::Receiving { from: name(3), attempt, bytes, of: 4 });
            }
            sim.event(Event::Tick);
        }
        let waited_for = sim.machine.status().phase == Phase::CollectMasked;
        assert_eq!(waited_for, grows);
        sim.network.push(late);
        sim.settle(20_000);
        sim.ends_released_once();
        assert_eq!(sim.machine.status().lines[0].counted, if grows { 4 } else { 3 });
    }
}

#[test]
fn a_site_that_is_there_and_waited_for_is_shown_with_its_reason() {
    let mut sim = sim(3, 1, "", "");
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.status().phase == Phase::CollectMasked);
    let attempt = sim.contexts().last().unwrap().attempt;
    let cause = Withdrawal::TrainingFailed;
    sim.event(Event::Message { from: name(2), message: SiteMessage::Withdrawn { attempt, cause } });
    let status = sim.machine.status();
    assert_eq!(status.phase, Phase::Gathering, "three of three are needed");
    let missing = status.sites[2].missing.as_ref().expect("the reason");
    assert_eq!(missing.withdrawal, Some(cause));
    sim.settle(20_000);
    sim.ends_released_once();
    assert!(sim.machine.status().sites.iter().all(|site| site.missing.is_none()));
}

#[test]
fn strangers_and_strange_messages_change_nothing() {
    let mut sim = sim(4, 1, "", "");
    sim.connect_all();
    sim.act(Act::Start);
    until(&mut sim, |sim| sim.machine.status().phase == Phase::CollectMasked);
    let before = sim.machine.clone();
    let stranger = "stranger".parse().unwrap();
    let settled = SiteMessage::PairsSettled { epoch: sim.contexts()[0].epoch, with: Vec::new() };
    sim.event(Event::Message { from: stranger, message: settled });
    assert!(sim.machine == before);
    // One site's receipt in another's mouth, and bytes that do not match the receipt.
    until(&mut sim, |sim| {
        sim.network.iter().any(|(_, packet)| matches!(packet, Packet::Say(SiteMessage::Masked(_))))
    });
    let (from, masked) = sim
        .network
        .iter()
        .find_map(|(from, packet)| match packet {
            Packet::Say(message @ SiteMessage::Masked(_)) => Some((*from, message.clone())),
            _ => None,
        })
        .unwrap();
    let other = (from + 1) % 4;
    sim.event(Event::Message { from: name(other), message: masked.clone() });
    let attempt = sim.contexts()[0].attempt;
    assert_eq!(sim.machine.expects_upload(&name(other), attempt), None);
    sim.event(Event::Message { from: name(from), message: masked });
    let expected = sim.machine.expects_upload(&name(from), attempt).unwrap();
    let wrong = vec![7; expected.bytes as usize];
    assert!(sim.machine.check_chunk(&name(from), attempt, 0, &wrong).is_err());
    assert!(sim.refused.len() >= 2);
    sim.settle(20_000);
    sim.ends_released_once();
}

/// The others cannot be chosen by what a site first says in its receipt.
#[test]
fn a_receipt_asks_for_what_its_site_accepted_with() {
    let mut sim = sim(4, 1, "", "");
    sim.connect_all();
    sim.act(Act::Start);
    let mut changed = None;
    until(&mut sim, |sim| {
        changed = sim.network.iter().find_map(|(from, packet)| match packet {
            Packet::Say(SiteMessage::Masked(masked)) => Some((*from, masked.clone())),
            _ => None,
        });
        changed.is_some()
    });
    let (from, mut masked) = changed.unwrap();
    let honest = masked.upload.receipt.claim().unwrap();
    let terms = Terms { min_selection: honest.terms.min_selection + 1, ..honest.terms.clone() };
    let receipt = Receipt::new(ReceiptFields { terms, ..(*honest).clone() }).unwrap();
    masked.upload.receipt = Signed::seal(&receipt, Principal::Site(name(from)), &SigningKey::generate());
    let before = sim.machine.clone();
    sim.event(Event::Message { from: name(from), message: SiteMessage::Masked(masked) });
    assert_eq!(sim.refused.last(), Some(&Refused::Mismatch("what the receipt asks of the round")));
    assert!(sim.machine == before);
    sim.settle(20_000);
    sim.ends_released_once();
}

#[test]
fn directives_are_a_function_of_the_state() {
    let mut sim = sim(4, 1, "", "");
    sim.connect_all();
    sim.act(Act::Start);
    let mut kinds = BTreeSet::new();
    while !sim.is_over() {
        for site in 0..4 {
            let stored = consilium_rounds::StudyMachine::from_bytes(&sim.machine.to_bytes()).unwrap();
            let list = sim.machine.directives_for(&name(site));
            assert_eq!(stored.directives_for(&name(site)), list);
            kinds.extend(list.iter().map(|letter| match letter.message {
                Directive::Proposal { .. } => "proposal",
                Directive::StudyState(_) => "state",
                Directive::Opening(_) => "opening",
                Directive::Adverts(_) => "adverts",
                Directive::Encapsulations(_) => "encapsulations",
                Directive::Confirmations(_) => "confirmations",
                Directive::Begin { .. } => "begin",
                Directive::Receipts { .. } => "receipts",
                Directive::Envelopes { .. } => "envelopes",
                Directive::Survivors { .. } => "survivors",
                Directive::Unmask(_) => "unmask",
                Directive::Settled(_) => "settled",
                Directive::Guilt(_) => "guilt",
                Directive::Bound(_) => "bound",
                Directive::Draw(_) => "draw",
                Directive::Reveals(_) => "reveals",
            }));
        }
        for _ in 0..5 {
            sim.step(&Faults::default());
        }
    }
    assert_eq!(kinds.len(), 12, "{kinds:?}");
}

#[derive(Default)]
struct Memory(std::collections::BTreeMap<Hash, Vec<f32>>);

impl Models for Memory {
    fn read(&self, model: &Hash) -> Option<Vec<f32>> {
        self.0.get(model).cloned()
    }

    fn write(&mut self, parameters: Vec<f32>) -> Hash {
        let hash = hash_of_model(&parameters);
        self.0.insert(hash, parameters);
        hash
    }
}

#[test]
fn a_federation_in_one_process_reaches_its_release() {
    let sim = sim(4, 3, "", "");
    let study = sim.machine.study().clone();
    let mut models = Memory::default();
    models.write(vec![0.0; study.model.len()]);
    let locals = sim.sites.into_iter().map(|site| site.local).collect();
    let mut federation = Federation::new((sim.machine, Vec::new()), sim.key, locals, models);
    let mut now = 5_000;
    let mut sums = 0;
    let release = federation
        .run(
            || {
                now += 1;
                Timestamp::from_millis(now)
            },
            |site| {
                let position = (0..4).find(|position| name(*position) == *site).unwrap();
                OneHot {
                    study: study.clone(),
                    position,
                    length: |round| 0.25 * round as f32,
                    worse: false,
                    declines: false,
                    blind: false,
                    leaves: None,
                    variate: None,
                    means: std::collections::BTreeMap::new(),
                }
            },
            |effect| sums += usize::from(matches!(effect, Effect::Sum(_))),
        )
        .unwrap();
    assert_eq!(sums, 6);
    let parameters = federation.models().read(&release.model).unwrap();
    assert!(parameters[3] > parameters[0] && parameters[0] > 0.0);
}
