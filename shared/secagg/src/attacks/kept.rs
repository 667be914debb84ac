//! What a site keeps, and in which order it is written: alarms, the repeat book, the models of a round.

use std::convert::Infallible;

use super::*;
use crate::context::ContextFields;
use crate::site::{RepeatBook, Store};

/// A context of the first attempt that nobody else asked for.
fn another(federation: &Federation, number: u32) -> Signed<Context> {
    let mut fields = federation.fields(1);
    fields.model = Hash::of_bytes(&number.to_le_bytes());
    federation.sign(fields)
}

#[test]
fn alarms_are_kept_once_through_a_restart_and_not_without_end() {
    let (mut federation, _) = federation(3);
    let pin = federation.pin.clone();
    let first = federation.sign(federation.fields(1));
    begin(&mut federation, &first).unwrap();
    let second = another(&federation, 1000);
    for _ in 0..2 {
        assert!(matches!(begin(&mut federation, &second), Err(SiteRefusal::Alarm(_))));
        federation.nodes[0].restart(&pin);
        assert_eq!(federation.nodes[0].machine.alarms().len(), 1);
    }
    for number in 2000..2300 {
        let next = another(&federation, number);
        let node = &mut federation.nodes[0];
        assert!(matches!(node.machine.begin(&next, &node.book), Err(SiteRefusal::Alarm(_))));
    }
    assert_eq!(federation.nodes[0].machine.alarms().len(), 256);
}

#[test]
fn an_alarm_is_told_before_whatever_else_is_wrong_with_its_batch() {
    let (mut federation, inputs) = federation(4);
    let old: Vec<_> = {
        let context = federation.sign(federation.fields(1));
        federation.collect(&context, &inputs).receipts_for(&name(0))
    };
    let context = federation.sign(federation.fields(2));
    let ctx = context.claim().unwrap().hash();
    let known = federation.collect(&context, &inputs).receipts_for(&name(0));
    let mut fields = (*known[0].claim().unwrap()).clone();
    fields.chunks = Hash::of_bytes(b"another vector");
    let twice =
        Signed::seal(&Receipt::new(fields).unwrap(), known[0].signer().clone(), &federation.nodes[1].key);
    let Federation { pin, nodes, .. } = &mut federation;
    let refused = nodes[0].say(pin, |machine, _| machine.take_receipts(&ctx, &[twice, old[0].clone()]));
    assert!(matches!(refused, Err(SiteRefusal::Alarm(_))), "{refused:?}");
}

/// What was written, in order.
#[derive(Default)]
struct Order(Vec<&'static str>);

impl Store for Order {
    type Error = Infallible;

    fn save_chain(&mut self, _: &Hash, _: &[u8]) -> Result<(), Infallible> {
        self.0.push("chain");
        Ok(())
    }

    fn save_record(&mut self, _: &Hash, _: &[u8], book: Option<&[u8]>) -> Result<(), Infallible> {
        self.0.push(if book.is_some() { "record and book" } else { "record" });
        Ok(())
    }
}

#[test]
fn the_chain_is_written_first_and_nothing_twice() {
    let (mut federation, _) = federation(3);
    let context = federation.sign(federation.fields(1));
    let node = &mut federation.nodes[0];
    let _unsent = node.machine.begin(&context, &node.book).unwrap();
    let mut order = Order::default();
    for _ in 0..2 {
        let _proof = node.machine.persist(&mut node.book, &mut order).unwrap();
    }
    assert_eq!(order.0, ["chain", "record"]);
    // A consent changes the book alone.
    node.book.consent(Purpose::Train, Hash::of_bytes(b"model"), None, Repeat::Ask).unwrap();
    for _ in 0..2 {
        let _proof = node.machine.persist(&mut node.book, &mut order).unwrap();
    }
    assert_eq!(order.0[2..], ["chain", "record and book"]);
}

#[test]
fn an_epoch_that_was_opened_is_known_after_a_restart() {
    let (mut federation, _) = federation(3);
    let opening = opening(&federation.pin, &federation.coordinator, 2, 2);
    let Federation { pin, nodes, .. } = &mut federation;
    let advert = nodes[0].say(pin, |machine, _| machine.open_epoch(&opening)).unwrap();
    nodes[0].restart(pin);
    assert_eq!(nodes[0].machine.epoch(), Some(Epoch::new(2).unwrap()));
    assert_eq!(nodes[0].say(pin, |machine, _| machine.open_epoch(&opening)), Ok(advert));
}

#[test]
fn erased_setup_keys_are_erased_after_a_restart() {
    let mut federation = Federation::unsettled(3, &layout(), |_| Floors::default(), false);
    federation.advertise();
    let pin = federation.pin.clone();
    let node = &mut federation.nodes[0];
    let has_keys = |machine: &SiteMachine| machine.chain().epoch.as_ref().unwrap().secrets().is_some();
    node.restart(&pin);
    assert!(has_keys(&node.machine));
    node.machine.erase_setup_keys();
    let _proof = node.machine.persist(&mut node.book, &mut node.disk).unwrap();
    node.restart(&pin);
    assert!(!has_keys(&node.machine));
}

/// Opens an attempt of one round with these sites and this model, to the end.
fn opened(
    federation: &mut Federation,
    attempt: u32,
    sites: &[usize],
    change: impl FnOnce(&mut ContextFields),
) {
    let context = asked(federation, attempt, sites, change);
    let inputs = vectors(federation.nodes.len(), layout().words(), 3);
    run(federation, &context, &inputs);
}

fn asked(
    federation: &Federation,
    attempt: u32,
    sites: &[usize],
    change: impl FnOnce(&mut ContextFields),
) -> Signed<Context> {
    let mut fields = federation.fields_of(attempt, &names(sites));
    fields.round = RoundNumber::new(5).unwrap();
    change(&mut fields);
    federation.sign(fields)
}

#[test]
fn a_round_remembers_the_model_of_each_of_its_sums() {
    let (mut federation, _) = federation(4);
    let (start, candidate) = (Hash::of_bytes(b"start"), Hash::of_bytes(b"candidate"));
    opened(&mut federation, 1, &[0, 1, 2, 3], |fields| fields.model = start);
    opened(&mut federation, 2, &[0, 1, 2, 3], |fields| {
        (fields.purpose, fields.model, fields.baseline) = (Purpose::Evaluate, candidate, Some(start));
    });
    let twin = asked(&federation, 3, &[0, 1, 2], |fields| fields.model = Hash::of_bytes(b"twin"));
    let Err(SiteRefusal::Alarm(alarm)) = begin(&mut federation, &twin) else { panic!("began") };
    assert_eq!(alarm.occasion, Occasion::Model(Attempt::new(3).unwrap()));
}

#[test]
fn a_baseline_binds_as_well_and_each_part_for_itself() {
    let (mut federation, _) = federation(4);
    let [first, second, start] = [b"first", b"secnd", b"start"].map(|model| Hash::of_bytes(model));
    let evaluate = |model, round| {
        move |fields: &mut ContextFields| {
            fields.round = RoundNumber::new(round).unwrap();
            (fields.purpose, fields.model, fields.baseline) = (Purpose::Evaluate, model, Some(start));
        }
    };
    opened(&mut federation, 1, &[0, 1, 2], evaluate(first, 5));
    // Its loss on the start is in that sum, too: it shows the difference as well as the candidate's does.
    let again = asked(&federation, 2, &[0, 1, 3], evaluate(second, 6));
    assert_eq!(begin(&mut federation, &again), Err(SiteRefusal::RepeatRule));
    let again = asked(&federation, 2, &[0, 1, 2], evaluate(second, 6));
    assert!(begin(&mut federation, &again).is_ok());
    // Training from what was evaluated, and from what it was compared with, is another sum.
    for (attempt, model) in [(3, first), (4, start)] {
        let train = asked(&federation, attempt, &[0, 1, 3], |fields| {
            fields.round = RoundNumber::new(attempt + 4).unwrap();
            fields.model = model;
        });
        assert!(begin(&mut federation, &train).is_ok());
    }
}

#[test]
fn what_is_bound_stays_bound() {
    let (federation, _) = federation(4);
    let context = Context::new(federation.fields(1)).unwrap();
    let mut book = RepeatBook::new();
    book.bind(&context, &names(&[0, 1, 2, 3]));
    book.bind(&context, &names(&[0, 1, 2]));
    assert_eq!(book.binding(&context), [&names(&[0, 1, 2, 3])]);
}

#[test]
fn a_site_whose_key_is_not_that_of_the_roster_says_nothing() {
    let (mut federation, inputs) = federation(3);
    let context = federation.sign(federation.fields(1));
    begin(&mut federation, &context).unwrap();
    let opening = opening(&federation.pin, &federation.coordinator, 2, 2);
    let Federation { pin, nodes, .. } = &mut federation;
    let node = &mut nodes[0];
    node.key = SigningKey::generate().into();
    node.restart(pin);
    assert!(matches!(node.upload(pin, &context, &inputs[0]), Err(SiteRefusal::Signature(_))));
    let refused = node.say(pin, |machine, _| machine.open_epoch(&opening));
    assert!(matches!(refused, Err(SiteRefusal::Signature(_))));
}
