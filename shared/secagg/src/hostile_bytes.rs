//! Bytes from a peer: whatever they are, decoding gives a value that encodes to the same bytes, or an error.

use std::sync::{Arc, OnceLock};

use consilium_fuzz::{Target, canonical, run};
use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::{Signed, SigningKey};

use crate::accumulator::OpenedSeeds;
use crate::alarm::{Alarm, Occasion};
use crate::chain::Chain;
use crate::context::Context;
use crate::coordinator::{CollectMasked, ConsistencyCheck, EpochSetup, Unmask};
use crate::federation::{Disk, Federation, vectors};
use crate::grouping::DrawProof;
use crate::guilt::{DealerGuilt, HolderShares};
use crate::layout::Layout;
use crate::message::{
    Advert, Answer, Confirmation, DealerVerdict, DrawCall, Encapsulation, Envelope, EpochOpening, Receipt,
    Reveal, Survivors, SurvivorsSignature, UnmaskRequest, Upload,
};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;
use crate::quantiser;
use crate::site::{RepeatBook, SiteMachine};
use crate::terms::{Floors, Terms};

fn study() -> Hash {
    Hash::of_bytes(b"study")
}

/// The book as a site restores it.
fn book(bytes: &[u8]) -> bool {
    let Ok(book) = RepeatBook::restore(bytes) else { return false };
    assert_eq!(book.to_canonical(), bytes);
    true
}

/// A chain file has no second reader, so its bytes need not be the only ones; what is read is written as it was.
fn chain(bytes: &[u8]) -> bool {
    let Ok(chain) = Chain::from_bytes(bytes, &study()) else { return false };
    let written = chain.to_bytes(&study());
    assert!(Chain::from_bytes(&written, &study()).is_ok_and(|again| again.to_bytes(&study()) == written));
    true
}

/// What the parsers below need beside bytes.
struct Known {
    pin: StudyPin,
    /// Of a study that sums groups.
    grouped: StudyPin,
    site: SiteName,
    key: Arc<SigningKey>,
    context: Context,
}

static KNOWN: OnceLock<Known> = OnceLock::new();

fn known() -> &'static Known {
    KNOWN.get().expect("the targets were made first")
}

/// The record of a site, as it is restored without a chain.
fn record(bytes: &[u8]) -> bool {
    let Known { pin, site, key, .. } = known();
    SiteMachine::restore(pin.clone(), site.clone(), key.clone(), Floors::default(), bytes, None).is_ok()
}

/// The words of an opened sum, as they came out of masks that sites are free to fill.
fn sum(bytes: &[u8]) -> bool {
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    quantiser::decode(&known().context, words).is_ok()
}

/// A proof of guilt, checked as a site or an auditor does who hears of it.
fn guilt(bytes: &[u8]) -> bool {
    let taken = canonical::<DealerGuilt>(bytes);
    if taken {
        let proof = DealerGuilt::from_canonical(bytes).unwrap();
        assert!(proof.check(&known().pin).is_err(), "everybody is honest here");
    }
    taken
}

/// A draw as an auditor checks it. Whatever it came to, it is one of the study's.
fn draw(bytes: &[u8]) -> bool {
    let taken = canonical::<DrawProof>(bytes);
    if taken && let Ok((call, drawn)) = DrawProof::from_canonical(bytes).unwrap().check(&known().grouped) {
        assert!(call.participants.iter().all(|participant| drawn.group_of(&participant.site).is_some()));
    }
    taken
}

/// Every type that arrives from a peer or comes back from a store, with honest bytes of it.
fn targets() -> Vec<Target> {
    let layout = Layout::of_counts(3);
    let mut federation = Federation::new(4, &layout);
    let inputs = vectors(4, layout.words(), 1);
    let context = federation.sign(federation.fields(1));
    let upload = federation.nodes[0].upload(&federation.pin.clone(), &context, &inputs[0]).unwrap();
    let collect = federation.collect(&context, &inputs);
    let check = collect.clone().close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    let unmask = federation.open(check.clone());
    let mail = federation.setup.mail_for(&"site-002".parse().unwrap());
    let pin = federation.pin.clone();
    let grouped = Federation::grouped(12, &layout, 2);
    let proof_of_draw = grouped.setup.proof_of_draw().unwrap();
    let answer =
        federation.nodes[1].say(&pin, |machine, book| machine.answer(unmask.request(), book)).unwrap();
    let receipt = upload.receipt.claim().unwrap();
    let signature = &unmask.request().signatures[0];
    let Disk { chain: chain_file, record: record_file, book: book_file } = federation.nodes[0].disk.clone();
    let Known { context: claimed, .. } = KNOWN.get_or_init(|| Known {
        pin: pin.clone(),
        grouped: grouped.pin.clone(),
        site: federation.nodes[0].name.clone(),
        key: federation.nodes[0].key.clone(),
        context: context.claim().unwrap(),
    });
    let mut words = vec![0_u32; claimed.layout.words()];
    words[claimed.layout.weight()] = 7;
    // Shares that lead to the seed that was committed to: a proof in form.
    let about = receipt.sender;
    let given = answer.claim().unwrap().dealers.into_iter().filter(|given| given.dealer == about);
    let holder = SiteIndex::from_position(1).unwrap();
    let proof = DealerGuilt {
        context: context.clone(),
        receipt: upload.receipt.clone(),
        about,
        shares: given.map(|given| HolderShares { holder, given }).collect(),
    };
    let alarm = Alarm {
        occasion: Occasion::Context(claimed.attempt),
        first: Hash::of_bytes(b"first"),
        second: Hash::of_bytes(b"second"),
    };
    vec![
        Target::canonical("secagg-opening-signed", [federation.setup.opening().clone()]),
        Target::canonical::<EpochOpening>("secagg-opening", [federation.setup.statement().clone()]),
        Target::canonical::<Signed<Advert>>("secagg-advert-signed", [mail.adverts[0].clone()]),
        Target::canonical::<Advert>("secagg-advert", [mail.adverts[0].claim().unwrap()]),
        Target::canonical::<Encapsulation>("secagg-encapsulation", [mail.encapsulations[0].claim().unwrap()]),
        Target::canonical::<Confirmation>("secagg-confirmation", [mail.confirmations[0].claim().unwrap()]),
        Target::canonical::<EpochSetup>("secagg-setup", [federation.setup.clone()]),
        Target::canonical::<Context>("secagg-context", [context.claim().unwrap()]),
        Target::canonical("secagg-context-signed", [context.clone()]),
        Target::canonical::<Terms>("secagg-terms", [receipt.terms.clone()]),
        Target::canonical::<Receipt>("secagg-receipt", [receipt]),
        Target::canonical::<Envelope>("secagg-envelope", [upload.envelopes[0].clone()]),
        Target::canonical::<Upload>("secagg-upload", [upload]),
        Target::canonical::<Survivors>("secagg-survivors", [check.survivors().clone()]),
        Target::canonical::<SurvivorsSignature>("secagg-signature", [signature.claim().unwrap()]),
        Target::canonical::<UnmaskRequest>("secagg-unmask-request", [unmask.request().clone()]),
        Target::canonical::<Answer>("secagg-answer", [answer.claim().unwrap()]),
        Target::canonical("secagg-answer-signed", [answer]),
        Target::canonical::<OpenedSeeds>("secagg-opened-seeds", [unmask.recover().unwrap()]),
        Target::canonical::<DrawCall>("secagg-draw-call", [proof_of_draw.call.claim().unwrap()]),
        Target::canonical::<Reveal>("secagg-reveal", [proof_of_draw.reveals[0].claim().unwrap()]),
        Target::new("secagg-draw", draw, [proof_of_draw.to_canonical()]),
        Target::canonical::<Context>(
            "secagg-context-grouped",
            [grouped.sign(grouped.fields(1)).claim().unwrap()],
        ),
        Target::new("secagg-repeat-book", book, book_file),
        Target::new("secagg-chain", chain, chain_file),
        Target::new("secagg-record", record, record_file),
        Target::new("secagg-guilt", guilt, [proof.to_canonical()]),
        Target::new("secagg-sum", sum, [words.into_iter().flat_map(u32::to_le_bytes).collect()]),
        Target::canonical("secagg-alarm", [alarm]),
        Target::canonical("secagg-verdicts", [vec![DealerVerdict { dealer: holder, good: true }]]),
        Target::canonical::<CollectMasked>("secagg-collect", [collect]),
        Target::canonical::<ConsistencyCheck>("secagg-consistency", [check]),
        Target::canonical::<Unmask>("secagg-unmask", [unmask]),
    ]
}

#[test]
fn what_decodes_has_the_same_bytes_and_nothing_panics() {
    run(targets());
}
