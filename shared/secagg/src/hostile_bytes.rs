//! Bytes from a peer: whatever they are, decoding gives a value that encodes to the same bytes, or an error.

use std::fmt::Debug;

use consilium_study::canonical::Canonical;
use consilium_study::sign::Signed;
use proptest::prelude::*;

use crate::accumulator::OpenedSeeds;
use crate::context::Context;
use crate::coordinator::{CollectMasked, ConsistencyCheck, Unmask};
use crate::federation::{Federation, vectors};
use crate::guilt::DealerGuilt;
use crate::layout::Layout;
use crate::message::{
    Advert, Answer, Confirmation, Encapsulation, Envelope, EpochOpening, Receipt, Survivors,
    SurvivorsSignature, UnmaskRequest, Upload,
};
use crate::site::RepeatBook;
use crate::terms::Terms;

/// A decoder that re-encodes what it accepts. Gives false where the bytes come back changed.
type Fuzz = fn(&[u8]) -> bool;

fn faithful<T: Canonical>(bytes: &[u8]) -> bool {
    T::from_canonical(bytes).map_or(true, |value| value.to_canonical() == bytes)
}

fn entry<T: Canonical + Debug>(value: &T) -> (Vec<u8>, Fuzz) {
    (value.to_canonical(), faithful::<T>)
}

/// Every type that arrives from a peer or comes back from a store, with honest bytes of it.
fn honest() -> Vec<(Vec<u8>, Fuzz)> {
    let layout = Layout::of_counts(3);
    let mut federation = Federation::new(4, &layout);
    let inputs = vectors(4, layout.words(), 1);
    let context = federation.sign(federation.fields(1));
    let upload = federation.nodes[0].upload(&federation.pin.clone(), &context, &inputs[0]).unwrap();
    let collect = federation.collect(&context, &inputs);
    let check = collect.clone().close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    let unmask = federation.open(check.clone());
    let mail = federation.setup.mail_for(&"site-002".parse().unwrap());
    let book = federation.nodes[0].book.clone();
    let pin = federation.pin.clone();
    let signed_answer =
        federation.nodes[1].say(&pin, |machine, book| machine.answer(unmask.request(), book)).unwrap();
    let receipt = upload.receipt.claim().unwrap();
    vec![
        entry::<Signed<EpochOpening>>(federation.setup.opening()),
        entry(federation.setup.statement()),
        entry::<Signed<Advert>>(&mail.adverts[0]),
        entry(&mail.adverts[0].claim().unwrap()),
        entry::<Encapsulation>(&mail.encapsulations[0].claim().unwrap()),
        entry::<Confirmation>(&mail.confirmations[0].claim().unwrap()),
        entry::<Context>(&context.claim().unwrap()),
        entry::<Receipt>(&receipt),
        entry::<Terms>(&receipt.terms),
        entry::<Upload>(&upload),
        entry::<Envelope>(&upload.envelopes[0]),
        entry::<Survivors>(check.survivors()),
        entry::<SurvivorsSignature>(&unmask.request().signatures[0].claim().unwrap()),
        entry::<UnmaskRequest>(unmask.request()),
        entry::<Answer>(&signed_answer.claim().unwrap()),
        entry::<OpenedSeeds>(&unmask.recover().unwrap()),
        entry::<RepeatBook>(&book),
        entry::<CollectMasked>(&collect),
        entry::<ConsistencyCheck>(&check),
        entry::<Unmask>(&unmask),
        (Vec::new(), faithful::<DealerGuilt>),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Cut, changed and invented bytes.
    #[test]
    fn decoding_never_panics_and_never_accepts_a_second_spelling(
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 64),
        invented in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        static HONEST: std::sync::OnceLock<Vec<(Vec<u8>, Fuzz)>> = std::sync::OnceLock::new();
        for (bytes, fuzz) in HONEST.get_or_init(honest) {
            prop_assert!(fuzz(bytes) && fuzz(&invented));
            for (at, value) in &changes {
                if bytes.is_empty() {
                    continue;
                }
                // Headers stand in front: half of the changes go there.
                let at = usize::from(*at) % if value % 2 == 0 { bytes.len() } else { bytes.len().min(64) };
                let mut changed = bytes.clone();
                changed[at] = *value;
                prop_assert!(fuzz(&changed));
                changed[at] = bytes[at] ^ (1 << (value % 8));
                prop_assert!(fuzz(&changed));
                prop_assert!(fuzz(&bytes[..at]));
            }
        }
    }
}

/// Four bytes that declare four billion elements must not allocate for them.
#[test]
fn declared_lengths_are_not_believed() {
    let huge: [&[u8]; 4] = [
        &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x9a, 0xff, 0xff, 0xff, 0xff],
    ];
    for bytes in huge {
        for (_, fuzz) in honest() {
            assert!(fuzz(bytes));
        }
    }
}
