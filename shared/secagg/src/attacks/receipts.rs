//! Receipts and envelopes that are not what they say.

use super::*;
use crate::dealing::Dealt;
use crate::message::{
    Envelope, ReceiptFields, Survivor, Survivors, SurvivorsSignature, UnmaskRequest, Upload,
};

/// The first site has accepted the context; the others have uploaded.
fn uploads(federation: &mut Federation, inputs: &[Vec<u32>]) -> (Signed<Context>, Vec<Upload>) {
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut *federation;
    let uploads =
        nodes.iter_mut().zip(inputs).map(|(node, input)| node.upload(pin, &context, input).unwrap());
    let uploads = uploads.collect();
    (context, uploads)
}

fn fields_of(receipt: &Signed<Receipt>) -> ReceiptFields {
    (*receipt.claim().unwrap()).clone()
}

fn take(federation: &mut Federation, receipt: Signed<Receipt>) -> Result<Vec<DealerVerdict>, SiteRefusal> {
    let Federation { pin, nodes, .. } = federation;
    let ctx = nodes[0].machine.current().unwrap().1;
    nodes[0].say(pin, |machine, _| machine.take_receipts(&ctx, &[receipt]))
}

fn open(federation: &mut Federation, envelope: Envelope) -> Result<Vec<DealerVerdict>, SiteRefusal> {
    let Federation { pin, nodes, .. } = federation;
    let ctx = nodes[0].machine.current().unwrap().1;
    nodes[0].say(pin, |machine, _| machine.take_envelopes(&ctx, &[envelope]))
}

#[test]
fn a_receipt_counts_with_its_senders_signature_only() {
    let (mut federation, inputs) = federation(4);
    let (_, uploads) = uploads(&mut federation, &inputs);
    let good = uploads[1].receipt.clone();
    // Its words in another name, or under a key of somebody else: of a stranger, of a member, of the coordinator.
    let (second, coordinator) = (name(1), federation.coordinator.clone());
    let (own, other) = (federation.nodes[1].key.clone(), federation.nodes[2].key.clone());
    for (signer, key) in [
        (Principal::Site(name(2)), own),
        (Principal::Site(second.clone()), SigningKey::generate().into()),
        (Principal::Site(second), other.clone()),
        (Principal::Site(name(2)), other),
        (Principal::Coordinator, coordinator),
    ] {
        let forged = Signed::seal(&good.claim().unwrap(), signer, &key);
        let refusal = take(&mut federation, forged).unwrap_err();
        assert!(matches!(refusal, SiteRefusal::Signature(_)), "{refusal}");
    }
    // More envelopes than sites, also from a sender whom the Selection does not have.
    let key = federation.nodes[1].key.clone();
    let sealed = |fields| Signed::seal(&Receipt::new(fields).unwrap(), Principal::Site(name(1)), &key);
    let mut more = fields_of(&good);
    more.envelopes.push(Hash::of_bytes(b"more"));
    more.pair_commitments.push(Hash::of_bytes(b"more"));
    let mut stranger = more.clone();
    stranger.sender = SiteIndex::new(5).unwrap();
    for fields in [stranger, more] {
        assert_eq!(take(&mut federation, sealed(fields)), Err(SiteRefusal::Foreign));
    }
    // This site's own receipt, shown to it by others, is no news; another one under its key is.
    assert!(take(&mut federation, uploads[0].receipt.clone()).is_ok());
    assert!(take(&mut federation, good).is_ok());
}

#[test]
fn a_receipt_of_its_own_that_a_site_did_not_make_is_refused() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    begin(&mut federation, &context).unwrap();
    let before = federation.nodes[0].disk.clone();
    let Federation { pin, nodes, .. } = &mut federation;
    let upload = nodes[0].upload(pin, &context, &inputs[0]).unwrap();
    // The disk is set back, chain and all, and the coordinator shows what it forgot.
    nodes[0].disk = before;
    nodes[0].restart(pin);
    assert_eq!(take(&mut federation, upload.receipt), Err(SiteRefusal::OtherReceipt));
}

#[test]
fn a_second_seal_of_one_attempt_is_refused() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut federation;
    let node = &mut nodes[0];
    // Two permits, two masks of one vector: their difference would show nothing, two sealed ones would.
    let mut masked = Vec::new();
    for _ in 0..2 {
        let Begun::Mask(permit) = node.say(pin, |machine, book| machine.begin(&context, book)).unwrap()
        else {
            panic!("sealed before")
        };
        let mut masker = node.machine.mask(permit, inputs[0].clone()).unwrap();
        while masker.next_chunk().is_some() {}
        masked.push(masker.finish().unwrap());
    }
    let (first, second) = (masked.remove(0), masked.remove(0));
    node.say(pin, |machine, book| machine.seal(first, book)).unwrap();
    let refused = node.say(pin, |machine, book| machine.seal(second, book));
    assert_eq!(refused.map(|_| ()), Err(SiteRefusal::AlreadySealed));
}

#[test]
fn envelopes_are_those_that_their_dealers_receipt_names() {
    let (mut federation, inputs) = federation(4);
    let (_, uploads) = uploads(&mut federation, &inputs);
    let dealer = SiteIndex::new(2).unwrap();
    let mine = |upload: &Upload| {
        let to_me = upload.envelopes.iter().find(|envelope| envelope.recipient.get() == 1);
        to_me.unwrap().clone()
    };
    let good = mine(&uploads[1]);
    // Before its receipt an envelope waits.
    let early = open(&mut federation, good.clone());
    assert_eq!(early, Err(SiteRefusal::NotYet(Missing::Receipt(dealer))));
    take(&mut federation, uploads[1].receipt.clone()).unwrap();
    let mut changed = Vec::new();
    for change in [
        (|envelope: &mut Envelope| envelope.sealed.as_mut_slice()[0] ^= 1) as fn(&mut Envelope),
        |envelope| envelope.recipient = SiteIndex::new(3).unwrap(),
        |envelope| envelope.sender = SiteIndex::new(1).unwrap(),
        |envelope| envelope.sender = SiteIndex::new(9).unwrap(),
    ] {
        let mut envelope = good.clone();
        change(&mut envelope);
        changed.push(envelope);
    }
    // The same envelope of another attempt.
    let elsewhere = federation.sign(federation.fields(2));
    let mut replayed = good.clone();
    replayed.ctx = elsewhere.claim().unwrap().hash();
    changed.push(replayed);
    for envelope in changed {
        let sender = envelope.sender;
        assert_eq!(open(&mut federation, envelope), Err(SiteRefusal::ForeignEnvelope(sender)));
    }
    assert_eq!(open(&mut federation, good), Ok(vec![DealerVerdict { dealer, good: true }]));
}

/// A dealer may name any bytes in its receipt: such shares would later seem to be wrong ones of their holder.
#[test]
fn a_receipt_that_names_an_envelope_of_elsewhere_does_not_help() {
    let (mut federation, inputs) = federation(4);
    let (_, uploads) = uploads(&mut federation, &inputs);
    let dealer = SiteIndex::new(2).unwrap();
    let elsewhere = Context::new(federation.fields(2)).unwrap().hash();
    for change in
        [(&|envelope: &mut Envelope| envelope.ctx = elsewhere) as &dyn Fn(&mut Envelope), &|envelope| {
            envelope.recipient = SiteIndex::new(3).unwrap();
        }]
    {
        let mut envelope = uploads[1].envelopes[0].clone();
        change(&mut envelope);
        let mut fields = fields_of(&uploads[1].receipt);
        fields.envelopes[0] = envelope.hash();
        let lie = Receipt::new(fields).unwrap();
        let lie = Signed::seal(&lie, Principal::Site(name(1)), &federation.nodes[1].key);
        let disk = federation.nodes[0].disk.clone();
        take(&mut federation, lie).unwrap();
        assert_eq!(open(&mut federation, envelope), Err(SiteRefusal::ForeignEnvelope(dealer)));
        // As if it had not heard this one.
        federation.nodes[0].disk = disk;
        federation.nodes[0].restart(&federation.pin);
    }
}

/// What the first site finds in the envelope of a second one that deals as `spoil` says, and signs for it.
fn verdict(spoil: impl FnOnce(&mut Dealt)) -> bool {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut federation;
    nodes[0].upload(pin, &context, &inputs[0]).unwrap();
    let node = &mut nodes[1];
    let Begun::Mask(permit) = node.say(pin, |machine, book| machine.begin(&context, book)).unwrap() else {
        panic!("sealed before")
    };
    let mut masker = node.machine.mask(permit, inputs[1].clone()).unwrap();
    while masker.next_chunk().is_some() {}
    let mut masked = masker.finish().unwrap();
    spoil(&mut masked.dealt);
    let upload = node.say(pin, |machine, book| machine.seal(masked, book)).unwrap();
    take(&mut federation, upload.receipt).unwrap();
    let found = open(&mut federation, upload.envelopes[0].clone()).unwrap();
    assert_eq!((upload.envelopes[0].recipient.get(), found.len()), (1, 1));
    found[0].good
}

/// Whoever dealt one holder nothing costs the others nothing: that holder answers about everybody else.
#[test]
fn nothing_is_given_back_of_a_bad_envelope() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let ctx = context.claim().unwrap().hash();
    let Federation { pin, nodes, .. } = &mut federation;
    let mut uploads = Vec::new();
    for (site, (node, input)) in nodes.iter_mut().zip(&inputs).enumerate() {
        let Begun::Mask(permit) = node.say(pin, |machine, book| machine.begin(&context, book)).unwrap()
        else {
            panic!("sealed before")
        };
        let mut masker = node.machine.mask(permit, input.clone()).unwrap();
        while masker.next_chunk().is_some() {}
        let mut masked = masker.finish().unwrap();
        if site == 1 {
            masked.dealt.envelopes[0].sealed = vec![7; 8].into();
        }
        uploads.push(node.say(pin, |machine, book| machine.seal(masked, book)).unwrap());
    }
    let receipts: Vec<_> = uploads.iter().map(|upload| upload.receipt.clone()).collect();
    let envelopes: Vec<_> = uploads[1..].iter().map(|upload| upload.envelopes[0].clone()).collect();
    nodes[0].say(pin, |machine, _| machine.take_receipts(&ctx, &receipts)).unwrap();
    nodes[0].say(pin, |machine, _| machine.take_envelopes(&ctx, &envelopes)).unwrap();
    let members = receipts.iter().map(|receipt| receipt.claim().unwrap());
    let members = members.map(|receipt| Survivor { site: receipt.sender, receipt: receipt.hash() });
    let survivors = Survivors::new(members.collect()).unwrap();
    let statement = SurvivorsSignature { ctx, survivors: survivors.hash() };
    let sign = |site: usize| Signed::seal(&statement, Principal::Site(name(site)), &nodes[site].key);
    let request = UnmaskRequest { ctx, survivors, signatures: [1, 2, 3].map(sign).to_vec() };
    let answer = nodes[0].say(pin, |machine, book| machine.answer(&request, book)).unwrap();
    let dealers: Vec<u8> = answer.claim().unwrap().dealers.iter().map(|given| given.dealer.get()).collect();
    assert_eq!(dealers, [1, 3, 4]);
}

#[test]
fn a_holder_reports_an_envelope_that_does_not_hold_its_shares() {
    assert!(verdict(|_| ()));
    // Bytes that do not open under the key of the pair, though the receipt names them.
    assert!(!verdict(|dealt| dealt.envelopes[0].sealed.as_mut_slice()[40] ^= 1));
    assert!(!verdict(|dealt| dealt.envelopes[0].sealed = vec![7; 8].into()));
    // What is sealed for one holder, sent to another.
    assert!(!verdict(|dealt| dealt.envelopes[0].sealed = dealt.envelopes[2].sealed.clone()));
    // Commitments that are not those it was sealed with.
    assert!(!verdict(|dealt| dealt.self_commitment = Hash::of_bytes(b"another seed")));
    // Shares that are not below the root of the receipt.
    assert!(!verdict(|dealt| dealt.shares = Hash::of_bytes(b"another root")));
}
