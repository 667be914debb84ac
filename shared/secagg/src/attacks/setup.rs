//! Hostile setup messages, backups and crashes.

use super::*;
use crate::message::{Advert, Confirmation, Encapsulation, EpochOpening};
use crate::pin::StudyPin;
use crate::site::RestoreError;

#[test]
fn an_agent_restored_from_a_backup_waits_for_the_next_epoch() {
    let (mut federation, inputs) = federation(4);
    let backup = federation.nodes[0].disk.clone();
    let context = federation.sign(federation.fields(1));
    run(&mut federation, &context, &inputs);
    let pin = federation.pin.clone();
    // A backup holds no chain file; and a chain file from another time does not fit the record.
    let chain = federation.nodes[0].disk.chain.clone();
    for chain in [None, chain] {
        let node = &mut federation.nodes[0];
        node.disk = crate::federation::Disk { chain, ..backup.clone() };
        node.restart(&pin);
        assert_eq!(node.machine.epoch(), None);
        let context = federation.sign(federation.fields(2));
        assert_eq!(begin(&mut federation, &context), Err(SiteRefusal::NotYet(Missing::Epoch)));
        let again = federation.setup.opening().clone();
        let node = &mut federation.nodes[0];
        let refused = node.say(&pin, |machine, _| machine.open_epoch(&again));
        assert_eq!(refused.map(|_| ()), Err(SiteRefusal::StaleEpoch(Epoch::new(1).unwrap())));
    }
    federation.open_epoch(2, 2);
    let context = federation.sign(federation.fields(2));
    assert_eq!(run(&mut federation, &context, &inputs), plain_sum(&inputs, &names(&[0, 1, 2, 3])));
    // From now on record and chain belong together again.
    federation.nodes[0].restart(&pin);
    assert_eq!(federation.nodes[0].machine.epoch(), Epoch::new(2).ok());
}

#[test]
fn a_record_that_was_set_back_opens_nothing_with_a_later_chain() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let phase = federation.collect(&context, &inputs);
    let mut phase = phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    let ctx = phase.context().hash();
    let Federation { pin, nodes, .. } = &mut federation;
    let node = &mut nodes[0];
    let before = node.disk.clone();
    sign(pin, &ctx, &mut phase, node).unwrap();
    // Record and book forget the signature; the chain file, which no backup holds, is the one of today.
    node.disk.record = before.record;
    node.disk.book = before.book;
    node.restart(pin);
    assert_eq!(node.machine.epoch(), None);
    let refused = node.say(pin, |machine, book| machine.sign(&ctx, phase.survivors(), book));
    assert_eq!(refused, Err(SiteRefusal::UnknownAttempt));
}

/// A backup is restored, the agent goes on, and somebody puts back the chain that was written as often before.
#[test]
fn a_chain_of_an_earlier_life_is_not_taken() {
    let (mut federation, _) = federation(3);
    let (pin, backup) = (federation.pin.clone(), federation.nodes[0].disk.clone());
    let context = federation.sign(federation.fields(1));
    begin(&mut federation, &context).unwrap();
    let node = &mut federation.nodes[0];
    let earlier = node.disk.chain.clone();
    node.disk = crate::federation::Disk { chain: None, ..backup };
    node.restart(&pin);
    let _proof = node.machine.persist(&mut node.book, &mut node.disk).unwrap();
    node.disk.chain = earlier;
    node.restart(&pin);
    assert!(node.machine.chain().epoch.is_none());
}

#[test]
fn a_key_that_gives_no_secret_is_refused() {
    let mut federation = Federation::unsettled(3, &layout(), |_| Floors::default(), false);
    federation.advertise();
    let pin = federation.pin.clone();
    // To the second site, of a lower name, which would encapsulate, and of a higher one, which it encapsulates for.
    for (from, to) in [(0, 1), (2, 1)] {
        let mail = federation.setup.mail_for(&name(to)).adverts;
        let mut claim = mail[from / 2].claim().unwrap();
        claim.x25519 = [0; 32].into();
        let bad = Signed::seal(&claim, Principal::Site(name(from)), &federation.nodes[from].key);
        let node = &mut federation.nodes[to];
        let mut refused =
            node.say(&pin, |machine, _| machine.take_adverts(std::slice::from_ref(&bad))).unwrap().refused;
        if from < to {
            let good = node.machine.pairs_settled().unwrap();
            assert_eq!((refused, good.with), (vec![], vec![]), "nothing is made of it yet");
            let advert = federation.setup.mail_for(&name(0)).adverts[0].clone();
            let sender = &mut federation.nodes[from];
            let reply = sender.say(&pin, |machine, _| machine.take_adverts(&[advert])).unwrap();
            let mut claim = reply.encapsulations[0].claim().unwrap();
            claim.from_advert = bad.claim().unwrap().hash();
            let lie = Signed::seal(&claim, Principal::Site(name(from)), &sender.key);
            let node = &mut federation.nodes[to];
            refused = node.say(&pin, |machine, _| machine.take_encapsulations(&[lie])).unwrap().refused;
        }
        let why = crate::BadKey::X25519;
        assert_eq!(refused, [SiteRefusal::BadKey { site: name(from), why }]);
    }
}

#[test]
fn a_repeat_book_from_a_backup_is_noticed() {
    let (mut federation, inputs) = federation(4);
    let pin = federation.pin.clone();
    let context = federation.sign(federation.fields(1));
    run(&mut federation, &context, &inputs);
    let old = federation.nodes[0].disk.book.clone();
    let context = federation.sign(federation.fields(2));
    run(&mut federation, &context, &inputs);
    let node = &mut federation.nodes[0];
    node.restart(&pin);
    assert!(node.machine.goes_with(&node.book));
    for book in [old, None] {
        node.disk.book = book;
        node.restart(&pin);
        assert!(!node.machine.goes_with(&node.book));
    }
}

#[test]
fn setup_refuses_strangers_second_stories_and_foreign_tags() {
    let (mut federation, _) = federation(4);
    let pin = federation.pin.clone();
    let second = opening(&pin, &federation.coordinator, 1, 5);
    let stale = opening(&pin, &federation.coordinator, 1, 1);
    let node = &mut federation.nodes[0];
    let refused = node.say(&pin, |machine, _| machine.open_epoch(&second));
    assert!(
        matches!(refused, Err(SiteRefusal::Alarm(alarm)) if matches!(alarm.occasion, Occasion::Opening(_)))
    );
    assert!(node.say(&pin, |machine, _| machine.open_epoch(&stale)).is_ok(), "the same opening again");
    let advert = federation.setup.mail_for(&name(0)).adverts[0].clone();
    let stranger = SigningKey::generate();
    // The right words under another key, and another advert under the right key.
    let mut claim = advert.claim().unwrap();
    let swapped = Signed::seal(&claim, Principal::Site(name(1)), &stranger);
    claim.x25519 = [9; 32].into();
    let other = Signed::seal(&claim, Principal::Site(name(1)), &federation.nodes[1].key);
    claim.site = "stranger".parse().unwrap();
    let unknown = Signed::seal(&claim, Principal::Site(claim.site.clone()), &stranger);
    let node = &mut federation.nodes[0];
    let reply =
        node.say(&pin, |machine, _| machine.take_adverts(&[swapped, other.clone(), unknown])).unwrap();
    assert_eq!(reply.encapsulations, []);
    assert!(matches!(reply.refused[0], SiteRefusal::Signature(_)));
    assert!(matches!(reply.refused[1], SiteRefusal::Alarm(_)));
    assert!(matches!(reply.refused[2], SiteRefusal::Signature(_)));
    assert_eq!(federation.setup.take_advert(&pin, &other), Err(CoordinatorRefusal::Equivocation(name(1))));
    // Tags of other pairs and changed tags confirm nothing.
    let mail = federation.setup.mail_for(&name(1));
    let foreign = mail.confirmations[0].clone();
    let node = &mut federation.nodes[0];
    let reply = node.say(&pin, |machine, _| machine.take_confirmations(&[foreign])).unwrap();
    assert_eq!(reply.refused, [SiteRefusal::Foreign]);
}

#[test]
fn a_wrong_tag_settles_nothing_and_hides_no_other() {
    let (mut federation, _) = federation(3);
    let pin = federation.pin.clone();
    let opening = opening(&pin, &federation.coordinator, 2, 1);
    let mut adverts = Vec::new();
    for node in &mut federation.nodes {
        adverts.push(node.say(&pin, |machine, _| machine.open_epoch(&opening)).unwrap());
    }
    let [first, second, third] = &mut federation.nodes[..] else { panic!("three sites") };
    let reply = first.say(&pin, |machine, _| machine.take_adverts(&adverts[1..])).unwrap();
    third.say(&pin, |machine, _| machine.take_adverts(&adverts[1..2])).unwrap();
    let others = [adverts[0].clone(), adverts[2].clone()];
    let for_third = second.say(&pin, |machine, _| machine.take_adverts(&others)).unwrap().encapsulations;
    second.say(&pin, |machine, _| machine.take_encapsulations(&reply.encapsulations[..1])).unwrap();
    let of_third =
        third.say(&pin, |machine, _| machine.take_encapsulations(&for_third)).unwrap().confirmations;
    let mut claim = reply.confirmations[0].claim().unwrap();
    claim.tag.as_mut_slice()[0] ^= 1;
    let wrong = Signed::seal(&claim, Principal::Site(name(0)), &first.key);
    // Alone, and in one message with a good one.
    for (message, settled) in [
        (vec![wrong.clone()], vec![]),
        (vec![wrong.clone(), of_third[0].clone()], vec![name(2)]),
        (vec![of_third[0].clone(), wrong], vec![name(2)]),
    ] {
        let reply = second.say(&pin, |machine, _| machine.take_confirmations(&message)).unwrap();
        assert_eq!(reply.refused, [SiteRefusal::WrongTag(name(0))]);
        assert_eq!(second.machine.pairs_settled().unwrap().with, settled);
    }
    let good = second.say(&pin, |machine, _| machine.take_confirmations(&reply.confirmations[..1])).unwrap();
    assert_eq!(good.refused, []);
    let settled = second.machine.pairs_settled().unwrap();
    assert_eq!(settled.with, [name(0), name(2)]);
    second.restart(&pin);
    assert_eq!(second.machine.pairs_settled(), Some(settled), "it was written down");
    // Once the secret keys are erased, no further pair of this epoch is settled.
    first.machine.erase_setup_keys();
    let late = first.say(&pin, |machine, _| machine.take_adverts(&adverts[1..])).unwrap();
    assert_eq!(late.encapsulations, reply.encapsulations, "made once, resent byte for byte");
}

#[test]
fn a_stranger_has_no_machine() {
    let (federation, _) = federation(3);
    let key = std::sync::Arc::new(SigningKey::generate());
    let stranger = SiteMachine::new(federation.pin, "stranger".parse().unwrap(), key, Floors::default());
    assert!(stranger.is_err());
}

#[test]
fn openings_are_of_this_study_and_begin_after_what_was_accepted() {
    let (mut federation, _) = federation(3);
    let pin = federation.pin.clone();
    let context = federation.sign(federation.fields(7));
    begin(&mut federation, &context).unwrap();
    let good = opening(&pin, &federation.coordinator, 2, 8).claim().unwrap();
    let says = |federation: &mut Federation, opening: &EpochOpening, key: &SigningKey| {
        let signed = Signed::seal(opening, Principal::Coordinator, key);
        let node = &mut federation.nodes[0];
        node.say(&pin, |machine, _| machine.open_epoch(&signed)).map(|_| ())
    };
    let key = federation.coordinator.clone();
    assert!(matches!(says(&mut federation, &good, &SigningKey::generate()), Err(SiteRefusal::Signature(_))));
    let other = Hash::of_bytes(b"other");
    let stale = SiteRefusal::StaleEpoch(Epoch::new(2).unwrap());
    for (opening, refusal) in [
        (EpochOpening { study: other, ..good.clone() }, SiteRefusal::Foreign),
        (EpochOpening { roster: other, ..good.clone() }, SiteRefusal::Foreign),
        (EpochOpening { first_attempt: Attempt::new(7).unwrap(), ..good.clone() }, stale.clone()),
        (EpochOpening { attempts: 0, ..good.clone() }, stale.clone()),
        (EpochOpening { attempts: 101, ..good.clone() }, stale),
    ] {
        assert_eq!(says(&mut federation, &opening, &key), Err(refusal));
    }
    assert!(federation.nodes[0].machine.current().is_some());
    assert_eq!(says(&mut federation, &good, &key), Ok(()));
    assert!(federation.nodes[0].machine.current().is_none(), "the attempt of the epoch before is over");
}

#[test]
fn tags_are_of_this_study_epoch_and_pair() {
    let mut federation = Federation::unsettled(3, &layout(), |_| Floors::default(), false);
    let pin = federation.pin.clone();
    let before = SiteRefusal::NotYet(Missing::Epoch);
    let node = &mut federation.nodes[0];
    assert_eq!(node.say(&pin, |machine, _| machine.take_adverts(&[])), Err(before.clone()));
    assert_eq!(node.say(&pin, |machine, _| machine.take_encapsulations(&[])), Err(before.clone()));
    assert_eq!(node.say(&pin, |machine, _| machine.take_confirmations(&[])), Err(before));
    federation.advertise();
    let mail = [0, 1].map(|site| federation.setup.mail_for(&name(site)).adverts);
    let reply = federation.nodes[0].say(&pin, |machine, _| machine.take_adverts(&mail[0])).unwrap();
    let good = reply.confirmations[0].clone();
    let key = federation.nodes[0].key.clone();
    let node = &mut federation.nodes[1];
    let mut hear = |message: &Signed<Confirmation>| {
        let message = std::slice::from_ref(message);
        let mut heard = node.say(&pin, |machine, _| machine.take_confirmations(message)).unwrap();
        let refused = heard.refused.pop();
        if refused == Some(SiteRefusal::NotYet(Missing::Advert(name(0)))) {
            node.say(&pin, |machine, _| machine.take_adverts(&mail[1])).unwrap();
            let heard = &reply.encapsulations[..1];
            let reply = node.say(&pin, |machine, _| machine.take_encapsulations(heard)).unwrap();
            assert_eq!((reply.encapsulations, reply.confirmations.len()), (vec![], 1));
        }
        refused.map_or_else(|| Ok(node.machine.pairs_settled().unwrap().with), Err)
    };
    assert_eq!(hear(&good), Err(SiteRefusal::NotYet(Missing::Advert(name(0)))));
    let claim = good.claim().unwrap();
    for wrong in [
        Confirmation { study: Hash::of_bytes(b"other"), ..claim.clone() },
        Confirmation { epoch: Epoch::new(2).unwrap(), ..claim.clone() },
    ] {
        let wrong = Signed::seal(&wrong, Principal::Site(name(0)), &key);
        assert_eq!(hear(&wrong), Err(SiteRefusal::Foreign));
    }
    let forged = Signed::seal(&claim, Principal::Site(name(0)), &SigningKey::generate());
    assert!(matches!(hear(&forged), Err(SiteRefusal::Signature(_))));
    assert_eq!(hear(&good), Ok(vec![name(0)]));
}

#[test]
fn setup_messages_are_of_this_study_epoch_and_pair() {
    let mut federation = Federation::unsettled(3, &layout(), |_| Floors::default(), false);
    federation.advertise();
    let pin = federation.pin.clone();
    let other = Hash::of_bytes(b"other");
    let second = Epoch::new(2).unwrap();
    let sealed = |federation: &Federation, site: usize| {
        let key = federation.nodes[site].key.clone();
        (Principal::Site(name(site)), key)
    };
    // Adverts, as the second site would sign them; its own, as the first site signed it.
    let advert = federation.setup.mail_for(&name(0)).adverts[0].claim().unwrap();
    let mine = federation.setup.mail_for(&name(1)).adverts[0].clone();
    let (signer, key) = sealed(&federation, 1);
    for change in [
        (|advert: &mut Advert| advert.epoch = Epoch::new(2).unwrap()) as fn(&mut Advert),
        |advert| advert.study = Hash::of_bytes(b"other"),
        |advert| advert.roster = Hash::of_bytes(b"other"),
    ] {
        let mut wrong = advert.clone();
        change(&mut wrong);
        let wrong = Signed::seal(&wrong, signer.clone(), &key);
        let reply = federation.nodes[0].say(&pin, |machine, _| machine.take_adverts(&[wrong])).unwrap();
        assert_eq!((reply.refused, reply.encapsulations), (vec![SiteRefusal::Foreign], vec![]));
    }
    let reply = federation.nodes[0].say(&pin, |machine, _| machine.take_adverts(&[mine])).unwrap();
    assert_eq!(reply.refused, [SiteRefusal::Foreign], "a site settles nothing with itself");
    // Encapsulations of the first site for the second.
    let mail = federation.setup.mail_for(&name(0)).adverts;
    let good = federation.nodes[0].say(&pin, |machine, _| machine.take_adverts(&mail)).unwrap();
    let good = good.encapsulations[0].clone();
    let hear = |federation: &mut Federation, message: &Signed<Encapsulation>| {
        let node = &mut federation.nodes[1];
        let reply =
            node.say(&pin, |machine, _| machine.take_encapsulations(std::slice::from_ref(message))).unwrap();
        reply.refused
    };
    assert_eq!(hear(&mut federation, &good), [SiteRefusal::NotYet(Missing::Advert(name(0)))]);
    let mail = federation.setup.mail_for(&name(1)).adverts;
    federation.nodes[1].say(&pin, |machine, _| machine.take_adverts(&mail)).unwrap();
    let (signer, key) = sealed(&federation, 0);
    let changed = |change: &dyn Fn(&mut Encapsulation)| {
        let mut claim = good.claim().unwrap();
        change(&mut claim);
        claim
    };
    for wrong in [
        changed(&|claim| claim.study = other),
        changed(&|claim| claim.epoch = second),
        changed(&|claim| claim.to = name(2)),
        changed(&|claim| claim.from_advert = other),
        changed(&|claim| claim.to_advert = other),
    ] {
        let wrong = Signed::seal(&wrong, signer.clone(), &key);
        assert_eq!(hear(&mut federation, &wrong), [SiteRefusal::Foreign]);
    }
    let forged = Signed::seal(&good.claim().unwrap(), signer.clone(), &SigningKey::generate());
    assert!(matches!(hear(&mut federation, &forged)[..], [SiteRefusal::Signature(_)]));
    // The higher name never encapsulates.
    let (higher, its_key) = sealed(&federation, 2);
    let upwards = changed(&|claim| (claim.from, claim.to) = (name(2), name(1)));
    assert_eq!(hear(&mut federation, &Signed::seal(&upwards, higher, &its_key)), [SiteRefusal::Foreign]);
    assert_eq!(hear(&mut federation, &good), []);
    // A second ciphertext for one pair is an alarm.
    let twice = changed(&|claim| claim.ciphertext.as_mut_slice()[0] ^= 1);
    let refused = hear(&mut federation, &Signed::seal(&twice, signer, &key));
    assert!(
        matches!(refused[..], [SiteRefusal::Alarm(alarm)] if matches!(alarm.occasion, Occasion::Encapsulation(_)))
    );
}

#[test]
fn without_setup_keys_no_further_pair_settles() {
    let mut federation = Federation::unsettled(3, &layout(), |_| Floors::default(), false);
    federation.advertise();
    let pin = federation.pin.clone();
    let [first, second, _] = &mut federation.nodes[..] else { panic!("three sites") };
    let of = |site: usize| federation.setup.mail_for(&name(site)).adverts;
    let good = first.say(&pin, |machine, _| machine.take_adverts(&of(0))).unwrap();
    second.say(&pin, |machine, _| machine.take_adverts(&of(1))).unwrap();
    second.machine.erase_setup_keys();
    let reply = second.say(&pin, |machine, _| machine.take_encapsulations(&good.encapsulations)).unwrap();
    assert!(reply.refused.contains(&SiteRefusal::StaleEpoch(Epoch::new(1).unwrap())), "{:?}", reply.refused);
    // When everybody is settled, the keys go by themselves.
    let mut settled = Federation::new(3, &layout());
    for node in &mut settled.nodes {
        assert!(node.machine.chain().epoch.as_ref().unwrap().secrets().is_none(), "{}", node.name);
    }
}

#[test]
fn a_record_of_another_study_roster_or_site_makes_no_machine() {
    let (federation, _) = federation(3);
    let node = &federation.nodes[0];
    let (record, chain) = (node.disk.record.clone().unwrap(), node.disk.chain.clone());
    let restored = |pin: StudyPin, me: SiteName| {
        SiteMachine::restore(pin, me, node.key.clone(), Floors::default(), &record, chain.as_deref())
            .map(|_| ())
    };
    let pin = &federation.pin;
    let other = Hash::of_bytes(b"other");
    assert_eq!(restored(pin.clone(), name(0)), Ok(()));
    for (pin, me) in [
        (StudyPin { study: other, ..pin.clone() }, name(0)),
        (StudyPin { roster: other, ..pin.clone() }, name(0)),
        (pin.clone(), name(1)),
    ] {
        assert_eq!(restored(pin, me), Err(RestoreError::Foreign));
    }
    let damaged = SiteMachine::restore(
        pin.clone(),
        name(0),
        node.key.clone(),
        Floors::default(),
        &record[1..],
        chain.as_deref(),
    );
    assert!(matches!(damaged.map(|_| ()), Err(RestoreError::Record(_))));
}
