//! Hostile setup messages, backups and crashes.

use super::*;

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
}

#[test]
fn a_crash_between_the_two_writes_loses_nothing() {
    let (mut federation, inputs) = federation(4);
    let pin = federation.pin.clone();
    let context = federation.sign(federation.fields(1));
    let before = federation.nodes[0].disk.record.clone();
    begin(&mut federation, &context).unwrap();
    // The chain stepped on, the record did not.
    let node = &mut federation.nodes[0];
    node.disk.record = before;
    node.restart(&pin);
    assert!(node.machine.epoch().is_some());
    assert_eq!(run(&mut federation, &context, &inputs), plain_sum(&inputs, &names(&[0, 1, 2, 3])));
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
    let refused = node.say(&pin, |machine, _| machine.take_confirmations(&[foreign]));
    assert_eq!(refused.map(|_| ()), Err(SiteRefusal::Foreign));
}

#[test]
fn a_wrong_tag_settles_nothing() {
    let (mut federation, _) = federation(3);
    let pin = federation.pin.clone();
    let opening = opening(&pin, &federation.coordinator, 2, 1);
    let mut adverts = Vec::new();
    for node in &mut federation.nodes {
        adverts.push(node.say(&pin, |machine, _| machine.open_epoch(&opening)).unwrap());
    }
    let [first, second, _] = &mut federation.nodes[..] else { panic!("three sites") };
    let reply = first.say(&pin, |machine, _| machine.take_adverts(&adverts[1..])).unwrap();
    second.say(&pin, |machine, _| machine.take_adverts(&adverts[..1])).unwrap();
    second.say(&pin, |machine, _| machine.take_encapsulations(&reply.encapsulations[..1])).unwrap();
    let mut claim = reply.confirmations[0].claim().unwrap();
    claim.tag.as_mut_slice()[0] ^= 1;
    let wrong = Signed::seal(&claim, Principal::Site(name(0)), &first.key);
    let refused = second.say(&pin, |machine, _| machine.take_confirmations(&[wrong]));
    assert_eq!(refused.map(|_| ()), Err(SiteRefusal::WrongTag(name(0))));
    let settled =
        second.say(&pin, |machine, _| machine.take_confirmations(&reply.confirmations[..1])).unwrap();
    assert_eq!(settled.with, [name(0)]);
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
