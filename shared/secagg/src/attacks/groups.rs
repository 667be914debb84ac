//! Groups: sums apart, drawn by everybody, and what a coordinator might do to choose them.

use consilium_study::grouping::NoGroups;
use consilium_study::sign::Signed;

use super::*;
use crate::context::ContextFields;
use crate::grouping::{BadDraw, MAX_DRAWS, NotDrawn};
use crate::message::{DrawCall, Reveal};

/// Thirty sites in two groups of fifteen, of which eleven make a sum: enough for dropouts in both.
fn thirty() -> (Federation, Vec<Vec<u32>>) {
    (Federation::grouped(30, &layout(), 2), vectors(30, layout().words(), 5))
}

/// Positions of the sites of a group.
fn of_group(federation: &Federation, group: u16) -> Vec<usize> {
    let drawn = federation.setup.drawn().unwrap();
    (0..federation.nodes.len()).filter(|at| drawn.group_of(&name(*at)) == Some(group)).collect()
}

/// A group and the sum over it.
type GroupSum = (u16, Vec<u32>);

/// Everybody but `dropped` uploads; the survivors, and the sum of each group that is in it.
fn run_without(
    federation: &mut Federation,
    inputs: &[Vec<u32>],
    attempt: u32,
    dropped: &[usize],
) -> Option<(BTreeSet<SiteName>, Vec<GroupSum>)> {
    let context = federation.sign(federation.fields(attempt));
    let Federation { pin, nodes, .. } = federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    for (at, node) in nodes.iter_mut().enumerate().filter(|(at, _)| !dropped.contains(at)) {
        let upload = node.upload(pin, &context, &inputs[at]).unwrap();
        arrive(pin, &mut phase, node, upload);
    }
    for (_, node) in nodes.iter_mut().enumerate().filter(|(at, _)| !dropped.contains(at)) {
        judge(pin, &mut phase, node);
    }
    let mut phase = phase.close(pin, 0).ok()?;
    let (survivors, ctx) = (phase.names(), phase.context().hash());
    for node in nodes.iter_mut().filter(|node| survivors.contains(&node.name)) {
        sign(pin, &ctx, &mut phase, node).unwrap();
    }
    let mut phase = phase.unmask().unwrap();
    for (_, node) in nodes.iter_mut().enumerate().filter(|(at, _)| !dropped.contains(at)) {
        crate::federation::answer(pin, &mut phase, node).unwrap();
    }
    let opened = phase.recover().unwrap();
    let context = phase.context();
    let groups = (0..federation.pin.groups).map(|group| {
        let members: BTreeSet<_> = context
            .selection
            .members()
            .iter()
            .filter(|member| context.group_of(member.index) == group && survivors.contains(&member.site))
            .map(|member| member.site.clone())
            .collect();
        let sum = federation.sum(context, &members, &opened.of_group(context, group));
        (!members.is_empty()).then_some((group, sum))
    });
    let sums = groups.flatten().collect();
    Some((survivors, sums))
}

#[test]
fn every_group_has_its_own_sum_whoever_drops_out() {
    let (mut federation, inputs) = thirty();
    let [first, second] = [0, 1].map(|group| of_group(&federation, group));
    assert_eq!([first.len(), second.len()], [15, 15]);
    for (attempt, dropped) in
        [vec![], vec![first[0]], [&first[..4], &second[3..5]].concat()].into_iter().enumerate()
    {
        let run = run_without(&mut federation, &inputs, attempt as u32 + 1, &dropped);
        let (survivors, sums) = run.unwrap();
        assert_eq!(survivors.len(), 30 - dropped.len());
        for (group, sum) in sums {
            let members = of_group(&federation, group);
            let members = members.iter().filter(|at| !dropped.contains(at)).map(|at| name(*at)).collect();
            assert_eq!(sum, plain_sum(&inputs, &members), "group {group} without {dropped:?}");
        }
    }
}

#[test]
fn a_group_that_is_too_thin_stays_out_as_a_whole() {
    let mut federation = Federation::grouped(36, &layout(), 4);
    let inputs = vectors(36, layout().words(), 5);
    let thin = of_group(&federation, 1);
    let floor = 9;
    assert_eq!(thin.len(), 9);
    // At its floor the group is in; below it is out, and the others go on without it.
    let (survivors, sums) = run_without(&mut federation, &inputs, 1, &thin[floor..]).unwrap();
    assert_eq!((survivors.len(), sums.len()), (36, 4));
    let (survivors, sums) = run_without(&mut federation, &inputs, 2, &thin[floor - 1..]).unwrap();
    assert_eq!(survivors.len(), 27);
    for (group, sum) in sums {
        assert_ne!(group, 1);
        assert_eq!(
            sum,
            plain_sum(&inputs, &of_group(&federation, group).iter().map(|at| name(*at)).collect())
        );
    }
    // A coordinator that proposes the rest of the thin group all the same finds nobody who signs.
    let context = federation.sign(federation.fields(3));
    let phase = federation.collect(&context, &inputs);
    let survivors = crate::message::Survivors::new(
        (0..36usize)
            .filter(|at| !thin[..1].contains(at))
            .map(|at| {
                let site = SiteIndex::from_position(at).unwrap();
                crate::message::Survivor { site, receipt: phase.receipts[&site].hash() }
            })
            .collect(),
    )
    .unwrap();
    let (pin, ctx) = (federation.pin.clone(), phase.context().hash());
    let honest = of_group(&federation, 0)[0];
    let refused = federation.nodes[honest].say(&pin, |machine, book| machine.sign(&ctx, &survivors, book));
    let of = SiteIndex::from_position(thin[1]).unwrap();
    let want = SiteRefusal::Inconsistent(Inconsistent::ThinGroup { of, got: 8 });
    assert_eq!(refused.map(|_| ()), Err(want));
}

/// A masked vector carries masks of its own group only, and is as random as any.
#[test]
fn nobody_gets_a_mask_off_a_single_vector() {
    let (mut federation, inputs) = thirty();
    let context = federation.sign(federation.fields(1));
    let phase =
        federation.collect(&context, &inputs).close(&federation.pin, 0).map_err(|(_, why)| why).unwrap();
    let opened = federation.open(phase).recover().unwrap();
    let context = context.claim().unwrap();
    for (at, input) in inputs.iter().enumerate() {
        let alone = BTreeSet::from([name(at)]);
        assert_ne!(federation.sum(&context, &alone, &opened), *input);
        // Self masks are open; without those of the pairs the vector stays closed.
        let of_group = opened.of_group(&context, context.group_of(SiteIndex::from_position(at).unwrap()));
        assert_ne!(federation.sum(&context, &alone, &of_group), *input);
    }
}

#[test]
fn groups_that_were_not_drawn_are_refused() {
    let (mut federation, _) = thirty();
    let refused = |federation: &mut Federation, change: &dyn Fn(&mut ContextFields)| {
        let mut fields = federation.fields(1);
        change(&mut fields);
        let context = federation.sign(fields);
        begin(federation, &context).unwrap_err()
    };
    let swap = |fields: &mut ContextFields| {
        let of = &mut fields.grouping.as_mut().unwrap().of;
        let other = of.iter().position(|group| *group != of[0]).unwrap();
        of.swap(0, other);
    };
    assert_eq!(refused(&mut federation, &swap), SiteRefusal::OtherGroups, "drawn around a victim");
    let seed = |fields: &mut ContextFields| fields.grouping.as_mut().unwrap().seed = Hash::of_bytes(b"mine");
    assert_eq!(refused(&mut federation, &seed), SiteRefusal::OtherGroups);
    let together = |fields: &mut ContextFields| (fields.groups, fields.grouping) = (1, None);
    assert_eq!(refused(&mut federation, &together), SiteRefusal::Pin(PinMismatch::Groups));
    let fewer = federation.fields(1);
    for change in [
        &|fields: &mut ContextFields| fields.grouping = None,
        &|fields: &mut ContextFields| fields.purpose = Purpose::Evaluate,
        &|fields: &mut ContextFields| fields.grouping.as_mut().unwrap().of[0] = 2,
        &|fields: &mut ContextFields| fields.grouping.as_mut().unwrap().of.fill(0),
        &|fields: &mut ContextFields| fields.grouping.as_mut().unwrap().of.truncate(29),
        // Odds of a draw among more sites than there are.
        &|fields: &mut ContextFields| fields.grouping.as_mut().unwrap().participants = 31,
        &|fields: &mut ContextFields| fields.groups = 1,
        &|fields: &mut ContextFields| fields.groups = 7,
    ] as [&dyn Fn(&mut ContextFields); 8]
    {
        let mut fields = fewer.clone();
        change(&mut fields);
        let refused = Context::new(fields).map(|_| ());
        assert!(matches!(refused, Err(InvalidContext::Grouping | InvalidContext::Groups(_))), "{refused:?}");
    }
}

/// A federation that has settled its pairs and not drawn yet.
fn undrawn(sites: usize, groups: u16) -> Federation {
    let mut federation = Federation::unsettled(sites, &layout(), |_| Floors::default(), false);
    federation.group_by(groups);
    federation.advertise();
    federation.settle_pairs();
    federation
}

#[test]
fn a_draw_is_called_once_with_everybody_committed() {
    let mut federation = undrawn(12, 2);
    let pin = federation.pin.clone();
    let reveal = |federation: &mut Federation, call: &Signed<DrawCall>| {
        federation.nodes[0].say(&pin, |machine, _| machine.reveal(call))
    };
    let call = federation.call();
    // An advert that nobody has seen could commit to anything afterwards.
    let mut swapped = call.clone();
    swapped.participants[3].advert = Hash::of_bytes(b"later");
    let swapped = federation.sign_call(swapped);
    assert_eq!(reveal(&mut federation, &swapped), Err(SiteRefusal::OtherAdvert(name(3))));
    let mut without = call.clone();
    without.participants.remove(0);
    let without = federation.sign_call(without);
    assert_eq!(reveal(&mut federation, &without), Err(SiteRefusal::NotInDraw));
    // Of fewer participants too many could be friends.
    let mut few = call.clone();
    few.participants.truncate(11);
    let few = federation.sign_call(few);
    let refused = reveal(&mut federation, &few);
    assert!(matches!(refused, Err(SiteRefusal::Groups(NoGroups::Chance { .. }))), "{refused:?}");
    let mut foreign = call.clone();
    foreign.epoch = Epoch::new(2).unwrap();
    let foreign = federation.sign_call(foreign);
    assert_eq!(reveal(&mut federation, &foreign), Err(SiteRefusal::Foreign));
    let forged =
        Signed::seal(&DrawCall::new(call.clone()).unwrap(), Principal::Coordinator, &SigningKey::generate());
    assert!(matches!(reveal(&mut federation, &forged), Err(SiteRefusal::Signature(_))));
    // Once the nonce is out, it is out for this draw and no other; asked again the site says the same.
    let signed = federation.sign_call(call.clone());
    let first = reveal(&mut federation, &signed).unwrap();
    assert_eq!(reveal(&mut federation, &signed), Ok(first));
    let refused = reveal(&mut federation, &few);
    assert!(
        matches!(&refused, Err(SiteRefusal::Alarm(alarm)) if matches!(alarm.occasion, Occasion::Draw(_))),
        "{refused:?}"
    );
    // A restart changes nothing.
    federation.nodes[0].restart(&pin);
    assert_eq!(reveal(&mut federation, &signed).unwrap().claim(), first_claim(&mut federation, &signed));
    assert!(reveal(&mut federation, &few).is_err());
}

fn first_claim(
    federation: &mut Federation,
    call: &Signed<DrawCall>,
) -> Result<Reveal, consilium_study::canonical::NotCanonical> {
    let pin = federation.pin.clone();
    federation.nodes[0].say(&pin, |machine, _| machine.reveal(call)).unwrap().claim()
}

#[test]
fn a_nonce_that_was_not_committed_to_draws_nothing() {
    let mut federation = undrawn(12, 2);
    let call = federation.sign_call(federation.call());
    let Federation { pin, nodes, setup, .. } = &mut federation;
    let pin = pin.clone();
    setup.call_draw(&pin, &call).unwrap();
    let reveals: Vec<_> =
        nodes.iter_mut().map(|node| node.say(&pin, |machine, _| machine.reveal(&call)).unwrap()).collect();
    let mut lie = reveals[5].claim().unwrap();
    lie.nonce = [1; 32].into();
    let lie = Signed::seal(&lie, Principal::Site(name(5)), &nodes[5].key);
    assert_eq!(setup.take_reveal(&pin, &lie), Err(CoordinatorRefusal::WrongReveal(name(5))));
    assert_eq!(nodes[0].machine.take_reveals(&[lie]), Ok(vec![SiteRefusal::WrongReveal(name(5))]));
    let mut stranger = reveals[5].claim().unwrap();
    stranger.epoch = Epoch::new(9).unwrap();
    let stranger = Signed::seal(&stranger, Principal::Site(name(5)), &nodes[5].key);
    assert_eq!(nodes[0].machine.take_reveals(&[stranger]), Ok(vec![SiteRefusal::Foreign]));
    // Without the last nonce there are no groups, and so no masks.
    assert_eq!(nodes[0].machine.take_reveals(&reveals[..11]), Ok(vec![]));
    for reveal in &reveals {
        setup.take_reveal(&pin, reveal).unwrap();
    }
    assert_eq!(setup.hidden(), []);
    let context = federation.sign(federation.fields(1));
    assert_eq!(begin(&mut federation, &context), Err(SiteRefusal::NotYet(Missing::Draw)));
    assert_eq!(federation.nodes[0].machine.take_reveals(&reveals), Ok(vec![]));
    assert!(begin(&mut federation, &context).is_ok());
}

#[test]
fn a_coordinator_cannot_draw_until_it_likes_what_it_sees() {
    let mut federation = undrawn(12, 2);
    for epoch in 1..=MAX_DRAWS {
        federation.draw();
        federation.open_epoch(epoch + 1, epoch + 1);
    }
    let call = federation.sign_call(federation.call());
    let pin = federation.pin.clone();
    for node in &mut federation.nodes[..2] {
        let refused = node.say(&pin, |machine, _| machine.reveal(&call));
        assert_eq!(refused, Err(SiteRefusal::TooManyDraws));
    }
}

/// The difference of two sums over other groups of the same sites would show how single sites differ.
#[test]
fn a_model_is_not_opened_again_in_other_groups() {
    let (mut federation, inputs) = thirty();
    run_without(&mut federation, &inputs, 1, &[]).unwrap();
    let model = federation.fields(1).model;
    federation.open_epoch(2, 2);
    federation.draw();
    let mut fields = federation.fields(2);
    fields.model = model;
    let context = federation.sign(fields);
    assert_eq!(begin(&mut federation, &context), Err(SiteRefusal::RepeatRule));
    let consent = federation.nodes[0].book.consent(Purpose::Train, model, None, Repeat::Ask);
    assert_eq!(consent, Ok(()));
    assert!(begin(&mut federation, &context).is_ok(), "a person may allow it");
}

#[test]
fn anybody_can_draw_again_from_the_record() {
    let (federation, _) = thirty();
    let proof = federation.setup.proof_of_draw().unwrap();
    let (call, drawn) = proof.check(&federation.pin).unwrap();
    assert_eq!(Some(&drawn), federation.setup.drawn());
    assert_eq!(call.participants.len(), 30);
    let mut short = proof.clone();
    let gone = short.reveals.remove(4).claim().unwrap().site;
    assert_eq!(short.check(&federation.pin), Err(BadDraw::Nonce(NotDrawn::Hidden(gone))));
    let mut other = proof;
    let advert = other.adverts.remove(7).claim().unwrap().site;
    assert_eq!(other.check(&federation.pin), Err(BadDraw::Nonce(NotDrawn::Broken(advert))));
}

#[test]
fn an_advert_commits_where_groups_are_drawn_and_nowhere_else() {
    let mut federation = undrawn(12, 2);
    let pin = federation.pin.clone();
    let advert = federation.setup.mail_for(&name(0)).adverts[0].claim().unwrap();
    let signed = |nonce| {
        let advert = crate::message::Advert { nonce, ..advert.clone() };
        Signed::seal(&advert, Principal::Site(name(1)), &federation.nodes[1].key)
    };
    let without = signed(None);
    let reply = federation.nodes[0]
        .say(&pin, |machine, _| machine.take_adverts(std::slice::from_ref(&without)))
        .unwrap();
    assert_eq!(reply.refused, [SiteRefusal::Foreign]);
    assert_eq!(federation.setup.take_advert(&pin, &without), Err(CoordinatorRefusal::Foreign));

    let mut plain = Federation::unsettled(3, &layout(), |_| Floors::default(), false);
    plain.advertise();
    let advert = plain.setup.mail_for(&name(0)).adverts[0].claim().unwrap();
    let advert = crate::message::Advert { nonce: Some(Hash::of_bytes(b"nonce")), ..advert };
    let with = Signed::seal(&advert, Principal::Site(name(1)), &plain.nodes[1].key);
    let pin = plain.pin.clone();
    let reply = plain.nodes[0].say(&pin, |machine, _| machine.take_adverts(&[with])).unwrap();
    assert_eq!(reply.refused, [SiteRefusal::Foreign]);
}
