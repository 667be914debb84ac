//! Attacks that must fail: a hostile coordinator against the real machines.

mod by_sites;
mod context;
mod coordinator;
mod groups;
mod guilt;
mod kept;
mod receipts;
mod setup;
mod survivors;

use std::collections::BTreeSet;

use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};

use crate::alarm::Occasion;
use crate::consistency::{Inconsistent, UnmetTerms};
use crate::context::{Context, InvalidContext, Purpose};
use crate::coordinator::{CollectMasked, CoordinatorRefusal, NotClosed, NotRecovered};
use crate::dealing::deal_garbage;
use crate::federation::{Federation, arrive, judge, name, opening, plain_sum, sign, vectors};
use crate::layout::Layout;
use crate::message::{DealerVerdict, Receipt};
use crate::numbering::{Attempt, Epoch, RoundNumber, SiteIndex};
use crate::pin::PinMismatch;
use crate::site::{Begun, Missing, SiteMachine, SiteRefusal};
use crate::terms::{Floors, Repeat};
use crate::threshold::{NoThreshold, Thresholds};

fn layout() -> Layout {
    Layout::of_counts(3)
}

fn federation(sites: usize) -> (Federation, Vec<Vec<u32>>) {
    (Federation::new(sites, &layout()), vectors(sites, layout().words(), 11))
}

fn names(sites: &[usize]) -> BTreeSet<SiteName> {
    sites.iter().map(|site| name(*site)).collect()
}

/// What the first site says to a context.
fn begin(federation: &mut Federation, context: &Signed<Context>) -> Result<Begun, SiteRefusal> {
    let Federation { pin, nodes, .. } = federation;
    nodes[0].say(pin, |machine, book| machine.begin(context, book))
}

/// Runs an attempt in which everybody of the Selection takes part, up to the sum.
fn run(federation: &mut Federation, context: &Signed<Context>, inputs: &[Vec<u32>]) -> Vec<u32> {
    let phase = federation.collect(context, inputs);
    let phase = phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    let survivors = phase.names();
    let phase = federation.open(phase);
    federation.sum(phase.context(), &survivors, &phase.recover().unwrap())
}

#[test]
fn a_selection_around_a_victim_or_a_tiny_threshold_is_refused() {
    let (mut federation, _) = federation(7);
    assert!(matches!(Thresholds::new(7, 3, 0), Err(NoThreshold::Unreachable { .. })));
    // With a smaller roster in the thresholds the formula holds, and the site counts for itself.
    let mut fields = federation.fields(1);
    fields.thresholds.threshold = 3;
    assert_eq!(Context::new(fields).map(|_| ()), Err(InvalidContext::Formula));
    let everybody = federation.fields(1);
    let mut fields = federation.fields(1);
    fields.selection = crate::context::Selection::new(
        everybody
            .selection
            .members()
            .iter()
            .filter(|member| names(&[0, 1, 2]).contains(&member.site))
            .map(|member| (member.site.clone(), member.advert)),
    )
    .unwrap();
    fields.thresholds = Thresholds::new(3, 3, 0).unwrap();
    let context = federation.sign(fields);
    assert_eq!(begin(&mut federation, &context), Err(SiteRefusal::Pin(PinMismatch::RosterSize)));
}

#[test]
fn every_field_of_a_context_is_checked() {
    let (mut federation, _) = federation(4);
    let other = Hash::of_bytes(b"other");
    let good = federation.fields(1);
    let mut wrong = Vec::new();
    let mut change = |change: &dyn Fn(&mut crate::context::ContextFields), refusal: SiteRefusal| {
        let mut fields = good.clone();
        change(&mut fields);
        wrong.push((fields, refusal));
    };
    change(&|fields| fields.study = other, SiteRefusal::Foreign);
    change(&|fields| fields.roster = other, SiteRefusal::Pin(PinMismatch::Roster));
    change(&|fields| fields.epoch = Epoch::new(2).unwrap(), SiteRefusal::StaleEpoch(Epoch::new(2).unwrap()));
    change(
        &|fields| fields.attempt = Attempt::new(101).unwrap(),
        SiteRefusal::OutsideEpoch(Attempt::new(101).unwrap()),
    );
    change(&|fields| fields.layout = Layout::of_counts(2), SiteRefusal::Pin(PinMismatch::Layout));
    change(&|fields| fields.weight_cap = 32, SiteRefusal::Pin(PinMismatch::WeightCap));
    change(&|fields| fields.noise = 1, SiteRefusal::Pin(PinMismatch::Noise));
    let control = || Some(crate::control::Control { mean: other, counted: Vec::new() });
    change(&|fields| fields.control = control(), SiteRefusal::Pin(PinMismatch::Control));
    change(&|fields| fields.round = RoundNumber::new(1001).unwrap(), SiteRefusal::Pin(PinMismatch::Round));
    change(
        &|fields| fields.round = RoundNumber::new(1).unwrap(),
        SiteRefusal::Pin(PinMismatch::InitialModel),
    );
    change(
        &|fields| fields.clip_norm = crate::quantiser::ClipNorm::new(2.0).unwrap(),
        SiteRefusal::Pin(PinMismatch::ClipNorm),
    );
    for (fields, refusal) in wrong {
        let context = federation.sign(fields);
        assert_eq!(begin(&mut federation, &context), Err(refusal));
    }
    // Another key of a peer or of this site, and a signature that is not the coordinator's.
    for swapped in [2, 0].map(name) {
        let mut fields = federation.fields(1);
        let sites = fields.selection.members().iter().map(|member| {
            let advert = if member.site == swapped { other } else { member.advert };
            (member.site.clone(), advert)
        });
        fields.selection = crate::context::Selection::new(sites).unwrap();
        let context = federation.sign(fields);
        assert_eq!(begin(&mut federation, &context), Err(SiteRefusal::OtherAdvert(swapped)));
    }
    let good = Context::new(federation.fields(1)).unwrap();
    for (signer, key) in [
        (Principal::Coordinator, SigningKey::generate().into()),
        (Principal::Site(name(0)), federation.coordinator.clone()),
    ] {
        let context = Signed::seal(&good, signer, &key);
        assert!(matches!(begin(&mut federation, &context), Err(SiteRefusal::Signature(_))));
    }
    // Nothing of all this used the attempt up.
    assert_eq!(federation.nodes[0].machine.highest_attempt(), None);
}

#[test]
fn a_second_context_for_an_attempt_is_an_alarm_that_peers_carry() {
    let (mut federation, inputs) = federation(4);
    let first = federation.sign(federation.fields(1));
    let mut fields = federation.fields(1);
    fields.purpose = Purpose::Statistics;
    let second = federation.sign(fields);
    begin(&mut federation, &first).unwrap();
    let pin = federation.pin.clone();
    federation.nodes[0].restart(&pin);
    let Err(SiteRefusal::Alarm(alarm)) = begin(&mut federation, &second) else { panic!("no alarm") };
    assert_eq!(alarm.occasion, Occasion::Context(Attempt::new(1).unwrap()));
    let next = federation.sign(federation.fields(2));
    let phase = federation.collect(&next, &inputs);
    let receipt = phase.receipts[&SiteIndex::new(1).unwrap()].signed().claim().unwrap();
    assert_eq!(receipt.alarms, [alarm]);
    // Attempts that are over stay over.
    assert_eq!(begin(&mut federation, &first), Err(SiteRefusal::Superseded(Attempt::new(1).unwrap())));
}

#[test]
fn sealed_bytes_are_resent_and_never_remade() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let pin = federation.pin.clone();
    let node = &mut federation.nodes[0];
    let Begun::Mask(permit) = node.say(&pin, |machine, book| machine.begin(&context, book)).unwrap() else {
        panic!("nothing is sealed yet")
    };
    let Begun::Mask(spare) = node.say(&pin, |machine, book| machine.begin(&context, book)).unwrap() else {
        panic!("nothing is sealed yet")
    };
    assert_eq!(
        node.machine.mask(permit, vec![0; 3]).map(|_| ()),
        Err(SiteRefusal::VectorLength { got: 3, want: 4 })
    );
    let upload = node.upload(&pin, &context, &inputs[0]).unwrap();
    node.restart(&pin);
    assert_eq!(node.upload(&pin, &context, &inputs[1]).unwrap(), upload);
    assert_eq!(node.machine.mask(spare, inputs[1].clone()).map(|_| ()), Err(SiteRefusal::AlreadySealed));
}

#[test]
fn a_message_only_leaves_with_the_proof_for_its_own_state() {
    let (mut federation, _) = federation(4);
    let (first, second) = (federation.sign(federation.fields(1)), federation.sign(federation.fields(2)));
    let node = &mut federation.nodes[0];
    let early = node.machine.begin(&first, &node.book).unwrap();
    let late = node.machine.begin(&second, &node.book).unwrap();
    let proof = node.machine.persist(&mut node.book, &mut node.disk).unwrap();
    assert!(early.open(&proof).is_err(), "attempt 1 is dead once attempt 2 was accepted");
    assert!(late.open(&proof).is_ok());
    let peer = &mut federation.nodes[1];
    let other = peer.machine.begin(&second, &peer.book).unwrap();
    assert!(other.open(&proof).is_err(), "another site's state");
}

#[test]
fn the_same_start_is_opened_with_the_same_survivors_only() {
    let (mut federation, inputs) = federation(4);
    let model = Hash::of_bytes(b"start");
    let mut fields = federation.fields(1);
    fields.model = model;
    let context = federation.sign(fields);
    assert_eq!(run(&mut federation, &context, &inputs), plain_sum(&inputs, &names(&[0, 1, 2, 3])));
    // A retry without the victim is refused before anybody trains.
    let mut fields = federation.fields_of(2, &names(&[0, 1, 2]));
    fields.model = model;
    let without = federation.sign(fields);
    assert_eq!(begin(&mut federation, &without), Err(SiteRefusal::RepeatRule));
    // A retry with everybody is not opened without the victim either: the terms of the receipts say so.
    let mut fields = federation.fields(3);
    fields.model = model;
    let context = federation.sign(fields.clone());
    let mut phase = CollectMasked::new(&federation.pin, &context, BTreeSet::new()).unwrap();
    let Federation { pin, nodes, .. } = &mut federation;
    for (node, input) in nodes.iter_mut().zip(&inputs).take(3) {
        let upload = node.upload(pin, &context, input).unwrap();
        arrive(pin, &mut phase, node, upload);
    }
    let Err((phase, NotClosed::Terms(Inconsistent::Terms { unmet, .. }))) = phase.close(pin, 0) else {
        panic!("closed against the terms")
    };
    assert_eq!(unmet, UnmetTerms::Repeat);
    // A coordinator that goes on all the same finds nobody who signs.
    let receipts = phase.receipts_for(&name(3));
    let survivors = crate::message::Survivors::new(
        receipts
            .iter()
            .map(|receipt| receipt.claim().unwrap())
            .map(|receipt| crate::message::Survivor { site: receipt.sender, receipt: receipt.hash() })
            .collect(),
    )
    .unwrap();
    let ctx = phase.context().hash();
    for node in nodes.iter_mut().take(3) {
        node.say(pin, |machine, _| machine.take_receipts(&ctx, &receipts)).unwrap();
        let refused = node.say(pin, |machine, book| machine.sign(&ctx, &survivors, book));
        assert!(matches!(refused, Err(SiteRefusal::Inconsistent(_))), "{refused:?}");
    }
    // With everybody, the same set, it is opened again.
    fields.attempt = Attempt::new(4).unwrap();
    let context = federation.sign(fields.clone());
    assert_eq!(run(&mut federation, &context, &inputs), plain_sum(&inputs, &names(&[0, 1, 2, 3])));
    // Consent of persons at all sites lets another set be opened, and only under "ask".
    for node in &mut federation.nodes {
        assert!(node.book.consent(Purpose::Train, model, None, Repeat::Never).is_err());
        node.book.consent(Purpose::Train, model, None, Repeat::Ask).unwrap();
    }
    let mut fields = federation.fields_of(5, &names(&[0, 1, 2]));
    fields.model = model;
    let context = federation.sign(fields);
    assert_eq!(run(&mut federation, &context, &inputs), plain_sum(&inputs, &names(&[0, 1, 2])));
}

#[test]
fn a_round_is_opened_for_one_model() {
    let (mut federation, inputs) = federation(4);
    let asked = |federation: &Federation, attempt, round, sites: &[usize], model: &[u8]| {
        let mut fields = federation.fields_of(attempt, &names(sites));
        fields.round = RoundNumber::new(round).unwrap();
        fields.model = Hash::of_bytes(model);
        federation.sign(fields)
    };
    let context = asked(&federation, 1, 5, &[0, 1, 2, 3], b"start");
    run(&mut federation, &context, &inputs);
    // A twin: the same numbers in another file. Training would repeat itself, and the difference of the two sums
    // would be the vector of whoever is left out. Neither does a restart help.
    let twin = asked(&federation, 2, 5, &[0, 1, 2], b"twin");
    for _ in 0..2 {
        let Err(SiteRefusal::Alarm(alarm)) = begin(&mut federation, &twin) else { panic!("began") };
        assert_eq!(alarm.occasion, Occasion::Model(Attempt::new(2).unwrap()));
        federation.nodes[0].restart(&federation.pin);
    }
    // In the next round training repeats nothing.
    let next = asked(&federation, 3, 6, &[0, 1, 2], b"twin");
    run(&mut federation, &next, &inputs);
    let back = asked(&federation, 4, 5, &[0, 1, 2], b"twin");
    assert_eq!(begin(&mut federation, &back), Err(SiteRefusal::RoundOver(RoundNumber::new(5).unwrap())));
}

#[test]
fn the_repeat_rule_holds_across_studies() {
    let (mut first, inputs) = federation(4);
    let (mut second, _) = federation(4);
    let model = Hash::of_bytes(b"start");
    let mut fields = first.fields_of(1, &names(&[0, 1, 2]));
    fields.model = model;
    let context = first.sign(fields);
    run(&mut first, &context, &inputs);
    // The same hospital is in a second study that starts from the same model.
    std::mem::swap(&mut first.nodes[0].book, &mut second.nodes[0].book);
    let mut fields = second.fields_of(1, &names(&[0, 1, 3]));
    fields.model = model;
    let context = second.sign(fields);
    assert_eq!(begin(&mut second, &context), Err(SiteRefusal::RepeatRule));
    let mut fields = second.fields_of(1, &names(&[0, 1, 2]));
    fields.model = model;
    let context = second.sign(fields);
    assert!(begin(&mut second, &context).is_ok());
}

#[test]
fn the_terms_of_one_site_bind_all() {
    let floors = |site| Floors { min_selection: if site == 2 { 5 } else { 0 }, ..Floors::default() };
    let mut federation = Federation::with(5, &layout(), floors, false);
    let inputs = vectors(5, layout().words(), 2);
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    for (node, input) in nodes.iter_mut().zip(&inputs).take(4) {
        let upload = node.upload(pin, &context, input).unwrap();
        arrive(pin, &mut phase, node, upload);
    }
    let expected = Inconsistent::Terms { site: SiteIndex::new(3).unwrap(), unmet: UnmetTerms::MinSelection };
    let Err((mut phase, NotClosed::Terms(reason))) = phase.close(pin, 0) else { panic!("closed") };
    assert_eq!(reason, expected);
    // With the fifth vector the terms are met.
    let upload = nodes[4].upload(pin, &context, &inputs[4]).unwrap();
    arrive(pin, &mut phase, &nodes[4], upload);
    assert!(phase.close(pin, 0).is_ok());
    // Below its floor the site does not even begin.
    let fields = federation.fields_of(2, &names(&[0, 1, 2, 3]));
    let context = federation.sign(fields);
    let Federation { pin, nodes, .. } = &mut federation;
    let refused = nodes[2].say(pin, |machine, book| machine.begin(&context, book));
    assert_eq!(refused, Err(SiteRefusal::MinSelection { got: 4, want: 5 }));
}

#[test]
fn whoever_asks_too_much_costs_itself_the_round_and_not_the_others() {
    let floors = |site| Floors { min_selection: if site == 2 { 7 } else { 0 }, ..Floors::default() };
    let mut federation = Federation::with(7, &layout(), floors, false);
    let inputs = vectors(7, layout().words(), 2);
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    for (node, input) in nodes.iter_mut().zip(&inputs).take(6) {
        let upload = node.upload(pin, &context, input).unwrap();
        arrive(pin, &mut phase, node, upload);
    }
    let Ok(check) = phase.close(pin, 0) else { panic!("one site's terms stopped five others") };
    let survivors: Vec<u8> = check.survivors().indices().map(SiteIndex::get).collect();
    assert_eq!(survivors, [1, 2, 4, 5, 6]);
}

#[test]
fn survivors_that_differ_by_one_are_refused_where_a_site_asks_for_more() {
    let floors = |site| Floors { min_change: if site == 0 { 2 } else { 0 }, ..Floors::default() };
    let mut federation = Federation::with(4, &layout(), floors, false);
    let inputs = vectors(4, layout().words(), 2);
    let context = federation.sign(federation.fields(1));
    run(&mut federation, &context, &inputs);
    let context = federation.sign(federation.fields_of(2, &names(&[0, 1, 2])));
    let phase = federation.collect(&context, &inputs);
    let Err((_, NotClosed::Terms(Inconsistent::Terms { unmet, .. }))) = phase.close(&federation.pin, 0)
    else {
        panic!("closed")
    };
    assert_eq!(unmet, UnmetTerms::MinChange);
    // The same survivors as before are always admitted.
    let context = federation.sign(federation.fields(3));
    run(&mut federation, &context, &inputs);
}

#[test]
fn receipts_of_another_attempt_are_refused() {
    let (mut federation, inputs) = federation(4);
    let first = federation.sign(federation.fields(1));
    let old: Vec<Signed<Receipt>> = federation.collect(&first, &inputs).receipts_for(&name(0));
    let second = federation.sign(federation.fields(2));
    begin(&mut federation, &second).unwrap();
    let ctx = second.claim().unwrap().hash();
    let pin = federation.pin.clone();
    let refused = federation.nodes[0].say(&pin, |machine, _| machine.take_receipts(&ctx, &old));
    assert_eq!(refused.map(|_| ()), Err(SiteRefusal::Foreign));
    let old_ctx = first.claim().unwrap().hash();
    let refused = federation.nodes[0].say(&pin, |machine, _| machine.take_receipts(&old_ctx, &old));
    assert_eq!(refused.map(|_| ()), Err(SiteRefusal::UnknownAttempt));
}

/// An answer removes the masks of the survivors and nothing else: of no site both kinds of seed are asked, and what two
/// dropped sites share stays closed.
#[test]
fn seeds_between_dropped_sites_stay_closed() {
    let (mut federation, inputs) = federation(7);
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    for (node, input) in nodes.iter_mut().zip(&inputs).take(5) {
        let upload = node.upload(pin, &context, input).unwrap();
        arrive(pin, &mut phase, node, upload);
    }
    let outsider = &mut nodes[5];
    outsider.say(pin, |machine, book| machine.begin(&context, book)).unwrap();
    for node in nodes.iter_mut().take(6) {
        judge(pin, &mut phase, node);
    }
    let mut phase = phase.close(pin, 0).map_err(|(_, reason)| reason).unwrap();
    let ctx = phase.context().hash();
    for node in nodes.iter_mut().take(5) {
        sign(pin, &ctx, &mut phase, node).unwrap();
    }
    let phase = phase.unmask().unwrap();
    let index = |number| SiteIndex::new(number).unwrap();
    let survivors: Vec<_> = (1..=5).map(index).collect();
    for (position, node) in nodes.iter_mut().enumerate().take(6) {
        let answer = node.say(pin, |machine, book| machine.answer(phase.request(), book)).unwrap();
        let answer = answer.claim().unwrap();
        assert!(answer.dealers.iter().map(|given| given.dealer).eq(survivors.iter().copied()));
        for given in &answer.dealers {
            let about: BTreeSet<_> = given.shares.iter().map(|opened| opened.about).collect();
            assert_eq!(about, [given.dealer, index(6), index(7)].into());
        }
        let seeds: Vec<_> = answer.seeds.iter().map(|opened| opened.dropped).collect();
        let expected: &[SiteIndex] = if position < 5 { &[index(6), index(7)] } else { &[] };
        assert_eq!(seeds, expected, "a site that dropped out gives no seed of its own");
    }
}
