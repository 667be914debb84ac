//! Contexts that are no context, or not this study's, or not this site's.

use consilium_study::canonical::Canonical;

use super::*;
use crate::context::{ContextFields, InvalidSelection, Member, Selection};
use crate::control::{Control, Counted};
use crate::layout::{Block, BlockKind};
use crate::quantiser::{ClipNorm, count_limit};
use crate::ring::Ring;

/// The fields make no context, neither here nor when they arrive, and a site says why.
fn refused(federation: &mut Federation, fields: &ContextFields) -> InvalidContext {
    assert!(
        Context::from_canonical(&fields.to_canonical()).is_err(),
        "decoding goes through the constructor"
    );
    let why = Context::new(fields.clone()).unwrap_err();
    let signed = Signed::seal(fields, Principal::Coordinator, &federation.coordinator).to_canonical();
    let signed = Signed::from_canonical(&signed).unwrap();
    assert_eq!(begin(federation, &signed), Err(SiteRefusal::Context(why.clone())));
    why
}

#[test]
fn what_this_protocol_does_not_speak_is_no_context() {
    let (mut federation, _) = federation(4);
    let mut with = |change: &dyn Fn(&mut ContextFields)| {
        let mut fields = federation.fields(1);
        change(&mut fields);
        refused(&mut federation, &fields)
    };
    let mut unsupported = |change: &dyn Fn(&mut ContextFields), what| {
        let refusal = with(change);
        assert!(matches!(refusal, InvalidContext::Unsupported { what: got, .. } if got == what), "{refusal}");
    };
    unsupported(&|fields| fields.version = 2, "protocol version");
    unsupported(&|fields| fields.chunk_words = 1, "chunk length");
    assert_eq!(with(&|fields| fields.thresholds.threshold -= 1), InvalidContext::Formula);
    assert_eq!(with(&|fields| fields.thresholds.corrupt = 0), InvalidContext::Formula);
    // Only an evaluation compares, and with another model.
    let other = Hash::of_bytes(b"other");
    assert_eq!(with(&|fields| fields.baseline = Some(other)), InvalidContext::Baseline);
    let itself = |fields: &mut ContextFields| {
        (fields.purpose, fields.baseline) = (Purpose::Evaluate, Some(fields.model));
    };
    assert_eq!(with(&itself), InvalidContext::Baseline);
    // A ring that is none, or not the layout's.
    for bits in [0, 16, 64] {
        assert_eq!(with(&|fields| fields.ring_bits = bits), InvalidContext::Ring { bits });
    }
    // Weights that could wrap around.
    for cap in [0, count_limit(4) + 1] {
        let refusal = with(&|fields| fields.weight_cap = cap);
        assert_eq!(refusal, InvalidContext::WeightCap { cap, sites: 4 });
    }
}

/// What sites correct their steps by is the same for all, by the hash of the context, and of members and earlier attempts only.
#[test]
fn control_variates_are_of_a_training_and_of_its_members() {
    let (mut federation, _) = federation(4);
    federation.pin.control = true;
    let counted = |site, attempt| Counted {
        site: SiteIndex::new(site).unwrap(),
        attempt: Attempt::new(attempt).unwrap(),
    };
    let fields = |federation: &Federation, counted: Vec<Counted>| {
        let control = Some(Control { mean: Hash::of_bytes(b"mean"), counted });
        ContextFields { control, ..federation.fields(3) }
    };
    let lawful = fields(&federation, vec![counted(1, 2), counted(4, 1)]);
    let context = Context::new(lawful.clone()).unwrap();
    assert_eq!(Context::from_canonical(&context.to_canonical()), Ok(context.clone()));
    assert_eq!(federation.pin.check(&context), Ok(()));
    let control = context.control.as_ref().unwrap();
    let of = |site| control.counted(SiteIndex::new(site).unwrap()).map(Attempt::get);
    assert_eq!([1, 2, 3, 4].map(of), [Some(2), None, None, Some(1)]);
    for wrong in [
        vec![counted(4, 1), counted(1, 2)],
        vec![counted(1, 1), counted(1, 2)],
        vec![counted(5, 1)],
        vec![counted(1, 3)],
    ] {
        let wrong = fields(&federation, wrong);
        assert_eq!(refused(&mut federation, &wrong), InvalidContext::Control);
    }
    let evaluation = ContextFields { purpose: Purpose::Evaluate, ..lawful.clone() };
    assert_eq!(refused(&mut federation, &evaluation), InvalidContext::Control);
    // The example of the specification, section 5.
    let rep = |byte| Hash::from_bytes([byte; 32]);
    let sites = ["a", "b", "c"].iter().zip(10..).map(|(site, byte)| (site.parse().unwrap(), rep(byte)));
    let example = Context::new(ContextFields {
        study: rep(1),
        roster: rep(2),
        round: RoundNumber::new(1).unwrap(),
        attempt: Attempt::new(5).unwrap(),
        model: rep(7),
        selection: Selection::new(sites).unwrap(),
        thresholds: Thresholds::new(3, 3, 0).unwrap(),
        layout: Layout::new(vec![Block { kind: BlockKind::Update, length: 4, range_exponent: 0 }], 2)
            .unwrap(),
        weight_cap: 4,
        control: Some(Control { mean: rep(9), counted: vec![counted(1, 4), counted(3, 2)] }),
        ..lawful.clone()
    });
    let ctx = "59e3b5cfc291512557b292d0784b76f6a27eee5ff22666f602c4405f4e526c8b";
    assert_eq!(*example.unwrap().hash().hash(), ctx.parse().unwrap());
    // Another mean, or another variate of one site, is another context, and no mask of it fits.
    let mut other = lawful.clone();
    other.control.as_mut().unwrap().mean = Hash::of_bytes(b"other");
    let fewer = fields(&federation, vec![counted(1, 2)]);
    let none = ContextFields { control: None, ..lawful };
    for other in [other, fewer, none] {
        assert_ne!(Context::new(other).unwrap().hash(), context.hash());
    }
}

#[test]
fn a_selection_names_each_site_once_and_in_order() {
    let (federation, _) = federation(4);
    let good = federation.fields(1).selection;
    let list = |change: &dyn Fn(&mut Vec<Member>)| {
        let mut members = good.members().to_vec();
        change(&mut members);
        Selection::from_canonical(&members.to_canonical()).map_err(|error| error.to_string())
    };
    assert_eq!(list(&|_| ()), Ok(good.clone()));
    for (change, complaint) in [
        (&(|members: &mut Vec<Member>| members.swap(1, 2)) as &dyn Fn(&mut Vec<Member>), "out of order"),
        (&|members| members[2] = members[1].clone(), "out of order"),
        (&|members| members[3].index = SiteIndex::new(9).unwrap(), "index of its position"),
        (&|members| members.truncate(2), "3 to 200 sites"),
    ] {
        let refusal = list(change).unwrap_err();
        assert!(refusal.contains(complaint), "{refusal}");
    }
    let advert = good.members()[0].advert;
    let many = (0..201).map(|site| (name(site), advert));
    assert_eq!(Selection::new(many), Err(InvalidSelection::Size(201)));
}

#[test]
fn ranges_and_members_are_those_of_the_study() {
    let block = |range_exponent| Block { kind: BlockKind::Update, length: 2, range_exponent };
    let with_range = |exponent| Layout::new(vec![block(exponent)], 0).unwrap();
    let mut federation = Federation::new(4, &with_range(0));
    // The clip norm is 1: ranges lie between 2^-20 and 1.
    for (exponent, lawful) in [(0, true), (-20, true), (1, false), (-21, false)] {
        let mut fields = federation.fields(1);
        fields.layout = with_range(exponent);
        let checked = federation.pin.check(&Context::new(fields).unwrap());
        assert_eq!(checked, if lawful { Ok(()) } else { Err(PinMismatch::Range(0)) }, "2^{exponent}");
    }
    // A kind of sum that the study does not have.
    federation.pin.layouts.remove(&Purpose::Statistics);
    let mut fields = federation.fields(1);
    fields.purpose = Purpose::Statistics;
    assert_eq!(federation.pin.check(&Context::new(fields).unwrap()), Err(PinMismatch::Layout));
    // Somebody whom the study does not name, in the place of somebody whom it does.
    let mut fields = federation.fields(1);
    let mut members: Vec<_> =
        fields.selection.members().iter().map(|member| (member.site.clone(), member.advert)).collect();
    members[3].0 = "stranger".parse().unwrap();
    fields.selection = Selection::new(members).unwrap();
    assert_eq!(federation.pin.check(&Context::new(fields).unwrap()), Err(PinMismatch::Stranger));
    // Another study, and fewer honest sites than the study asks for.
    let context = Context::new(federation.fields(1)).unwrap();
    let study = std::mem::replace(&mut federation.pin.study, Hash::of_bytes(b"other"));
    assert_eq!(federation.pin.check(&context), Err(PinMismatch::Study));
    federation.pin.study = study;
    federation.pin.min_honest = 3;
    assert_eq!(federation.pin.check(&context), Err(PinMismatch::MinHonest));
}

#[test]
fn only_updates_are_packed_and_only_where_the_study_says_so() {
    let block = |range_exponent| Block { kind: BlockKind::Update, length: 2, range_exponent };
    let with_range = |exponent| Layout::new(vec![block(exponent)], 0).unwrap().in_ring(Ring::Packed).unwrap();
    let mut federation = Federation::new(4, &with_range(0));
    assert_eq!(federation.fields(1).ring_bits, 16);
    for (exponent, lawful) in [(0, true), (-40, true), (1, false), (-41, false)] {
        let mut fields = federation.fields(1);
        fields.layout = with_range(exponent);
        let checked = federation.pin.check(&Context::new(fields).unwrap());
        assert_eq!(checked, if lawful { Ok(()) } else { Err(PinMismatch::Range(0)) }, "2^{exponent}");
    }
    // The same vector in the other ring, and the other way round.
    let words = Layout::new(vec![block(0)], 0).unwrap();
    let fields = ContextFields { ring_bits: 32, layout: words.clone(), ..federation.fields(1) };
    assert_eq!(federation.pin.check(&Context::new(fields).unwrap()), Err(PinMismatch::Ring));
    let unpacked = Federation::new(4, &words);
    let fields = ContextFields { ring_bits: 16, layout: with_range(0), ..unpacked.fields(1) };
    assert_eq!(unpacked.pin.check(&Context::new(fields).unwrap()), Err(PinMismatch::Ring));
    // Counts are exact, and an update without a bound has no transform.
    for purpose in [Purpose::Evaluate, Purpose::Statistics] {
        let fields = ContextFields { purpose, ..federation.fields(1) };
        assert_eq!(refused(&mut federation, &fields), InvalidContext::Ring { bits: 16 });
    }
    let clip_norm = ClipNorm::new(2f64.powi(65)).unwrap();
    let fields = ContextFields { clip_norm, ..federation.fields(1) };
    assert_eq!(refused(&mut federation, &fields), InvalidContext::Ring { bits: 16 });
}

#[test]
fn a_site_insists_on_its_own_policy() {
    let floors = |site| match site {
        0 => Floors { min_honest: 4, ..Floors::default() },
        1 => Floors { known_sites: vec![name(5)], ..Floors::default() },
        _ => Floors::default(),
    };
    let mut federation = Federation::with(6, &layout(), floors, false);
    let context = federation.sign(federation.fields_of(1, &names(&[0, 1, 2, 3, 4])));
    let Federation { pin, nodes, .. } = &mut federation;
    let mut says =
        |site: usize| nodes[site].say(pin, |machine, book| machine.begin(&context, book)).unwrap_err();
    assert_eq!(says(0), SiteRefusal::MinHonest { got: 3, want: 4 });
    assert_eq!(says(1), SiteRefusal::UnknownSelection(name(5)));
    assert_eq!(says(5), SiteRefusal::NotSelected);
}

#[test]
fn without_settled_pairs_a_site_does_not_begin() {
    let mut federation = Federation::unsettled(4, &layout(), |_| Floors::default(), false);
    federation.advertise();
    let context = federation.sign(federation.fields(1));
    let refusal = begin(&mut federation, &context).unwrap_err();
    assert_eq!(refusal, SiteRefusal::NoPairKey(name(1)));
    // The adverts of the others are known, and no key is confirmed.
    let Federation { pin, nodes, setup, .. } = &mut federation;
    let mail = setup.mail_for(&name(0));
    nodes[0].say(pin, |machine, _| machine.take_adverts(&mail.adverts)).unwrap();
    let refusal = begin(&mut federation, &context).unwrap_err();
    assert_eq!(refusal, SiteRefusal::NoPairKey(name(1)));
    // Nothing was used up: once all is settled the same context is accepted.
    federation.settle_pairs();
    assert!(begin(&mut federation, &context).is_ok());
}
