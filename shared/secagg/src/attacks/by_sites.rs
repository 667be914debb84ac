//! Hostile sites.

use super::*;

#[test]
fn wrong_chunks_are_refused_and_the_round_goes_on() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    let first = nodes[0].upload(pin, &context, &inputs[0]).unwrap();
    let second = nodes[1].upload(pin, &context, &inputs[1]).unwrap();
    let chunk = nodes[0].spool[0].clone();
    assert!(matches!(phase.check_chunk(&name(0), 0, &chunk), Err(CoordinatorRefusal::NoReceipt(_))));
    phase.take_upload(pin, &name(0), first.clone()).unwrap();
    phase.take_upload(pin, &name(0), first.clone()).unwrap();
    phase.take_upload(pin, &name(1), second.clone()).unwrap();
    assert_eq!(phase.check_chunk(&name(0), 0, &chunk), Ok(()));
    let mut flipped = chunk.clone();
    flipped[3] ^= 1;
    for wrong in [&flipped, &chunk[1..], &nodes[1].spool[0], &[][..]] {
        assert_eq!(phase.check_chunk(&name(0), 0, wrong), Err(CoordinatorRefusal::WrongChunk { index: 0 }));
    }
    assert!(phase.check_chunk(&name(0), 1, &chunk).is_err());
    // Another's upload, missing envelopes, foreign chunk hashes.
    assert!(phase.take_upload(pin, &name(2), first.clone()).is_err());
    let mut fewer = first.clone();
    fewer.envelopes.pop();
    assert_eq!(phase.take_upload(pin, &name(0), fewer), Err(CoordinatorRefusal::Envelopes));
    let foreign = crate::message::Upload { chunks: second.chunks.clone(), ..first };
    assert_eq!(phase.take_upload(pin, &name(0), foreign), Err(CoordinatorRefusal::Chunks));
}

#[test]
fn a_second_receipt_never_counts() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let before = federation.nodes[0].disk.clone();
    let pin = federation.pin.clone();
    let first = federation.nodes[0].upload(&pin, &context, &inputs[0]).unwrap();
    // A hospital that rolls its whole disk back masks a second time.
    federation.nodes[0].disk = before;
    federation.nodes[0].restart(&pin);
    let second = federation.nodes[0].upload(&pin, &context, &inputs[0]).unwrap();
    assert_ne!(first.receipt, second.receipt);
    let mut phase = CollectMasked::new(&pin, &context, BTreeSet::new()).unwrap();
    phase.take_upload(&pin, &name(0), first.clone()).unwrap();
    assert_eq!(
        phase.take_upload(&pin, &name(0), second.clone()),
        Err(CoordinatorRefusal::Equivocation(name(0)))
    );
    let peer = &mut federation.nodes[1];
    peer.say(&pin, |machine, book| machine.begin(&context, book)).unwrap();
    let ctx = phase.context().hash();
    peer.say(&pin, |machine, _| machine.take_receipts(&ctx, &[first.receipt])).unwrap();
    peer.restart(&pin);
    let refused = peer.say(&pin, |machine, _| machine.take_receipts(&ctx, &[second.receipt]));
    assert!(
        matches!(refused, Err(SiteRefusal::Alarm(alarm)) if matches!(alarm.occasion, Occasion::Receipt(_)))
    );
}

/// Seals a vector whose shares lead nowhere.
pub(super) fn upload_garbage(
    federation: &mut Federation,
    site: usize,
    context: &Signed<Context>,
    input: &[u32],
) {
    let Federation { pin, nodes, .. } = federation;
    let node = &mut nodes[site];
    let Begun::Mask(permit) = node.say(pin, |machine, book| machine.begin(context, book)).unwrap() else {
        panic!("sealed before")
    };
    let plain = context.claim().unwrap();
    let mut masker = node.machine.mask(permit, input.to_vec()).unwrap();
    node.spool = vec![masker.next_chunk().unwrap().bytes.to_vec()];
    let mut masked = masker.finish().unwrap();
    let indices = plain.selection.indices();
    let keys: Vec<_> = indices.map(|index| node.machine.pair_key(&plain, index).unwrap().clone()).collect();
    let me = plain.selection.index_of(&node.name).unwrap();
    masked.dealt = deal_garbage(&masked.dealt, &plain.hash(), me, &plain.thresholds, &keys);
    node.say(pin, |machine, book| machine.seal(masked, book)).unwrap();
}

#[test]
fn garbage_shares_name_the_dealer_with_proof_and_cost_one_round() {
    let (mut federation, inputs) = federation(4);
    let model = Hash::of_bytes(b"start");
    let mut fields = federation.fields(1);
    fields.model = model;
    let context = federation.sign(fields);
    upload_garbage(&mut federation, 3, &context, &inputs[3]);
    let phase = federation.collect(&context, &inputs);
    let phase = federation.open(phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap());
    let Err(NotRecovered::Guilty(proofs)) = phase.recover() else { panic!("recovered from garbage") };
    assert_eq!(proofs.len(), 1);
    assert_eq!(proofs[0].check(&federation.pin), Ok(name(3)));
    // The proof does not work against anybody else, and not with other shares.
    let mut forged = proofs[0].clone();
    forged.receipt = phase.receipts()[0].clone();
    assert!(forged.check(&federation.pin).is_err());
    let mut forged = proofs[0].clone();
    forged.shares.pop();
    assert!(forged.check(&federation.pin).is_err());
    // The same start without the culprit: refused until the proof is known, opened afterwards.
    let mut fields = federation.fields_of(2, &names(&[0, 1, 2]));
    fields.model = model;
    let context = federation.sign(fields);
    assert_eq!(begin(&mut federation, &context), Err(SiteRefusal::RepeatRule));
    let pin = federation.pin.clone();
    for node in &mut federation.nodes {
        assert_eq!(node.machine.take_guilt(&proofs[0]), Ok(name(3)));
        let _proof = node.machine.persist(&mut node.book, &mut node.disk).unwrap();
        node.restart(&pin);
    }
    let mut phase = CollectMasked::new(&pin, &context, names(&[3])).unwrap();
    for (node, input) in federation.nodes.iter_mut().zip(&inputs).take(3) {
        let upload = node.upload(&pin, &context, input).unwrap();
        arrive(&pin, &mut phase, node, upload);
    }
    for node in federation.nodes.iter_mut().take(3) {
        judge(&pin, &mut phase, node);
    }
    let phase = federation.open(phase.close(&pin, 0).map_err(|(_, reason)| reason).unwrap());
    let sum = federation.sum(phase.context(), &names(&[0, 1, 2]), &phase.recover().unwrap());
    assert_eq!(sum, plain_sum(&inputs, &names(&[0, 1, 2])));
}

#[test]
fn a_wrong_share_names_its_holder_and_another_is_used() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let phase = federation.collect(&context, &inputs);
    let mut phase = phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    let ctx = phase.context().hash();
    let Federation { pin, nodes, .. } = &mut federation;
    for node in nodes.iter_mut() {
        sign(pin, &ctx, &mut phase, node).unwrap();
    }
    let mut phase = phase.unmask().unwrap();
    for (site, node) in nodes.iter_mut().enumerate() {
        let answer = node.say(pin, |machine, book| machine.answer(phase.request(), book)).unwrap();
        if site == 1 {
            let mut lie = answer.claim().unwrap();
            let share = &mut lie.dealers[2].shares[0].share;
            share.as_mut_slice()[0] ^= 1;
            let lie = Signed::seal(&lie, Principal::Site(node.name.clone()), &node.key);
            let blamed =
                CoordinatorRefusal::WrongShare { holder: name(1), dealer: SiteIndex::new(3).unwrap() };
            assert_eq!(phase.take_answer(pin, &name(1), &lie), Err(blamed));
        } else {
            phase.take_answer(pin, &node.name, &answer).unwrap();
        }
    }
    assert_eq!(phase.waits(), [name(1)]);
    let sum = federation.sum(phase.context(), &phase.names(), &phase.recover().unwrap());
    assert_eq!(sum, plain_sum(&inputs, &phase.names()));
}

#[test]
fn disputes_cost_the_liar() {
    let (mut federation, inputs) = federation(7);
    let context = federation.sign(federation.fields(1));
    let phase = federation.collect(&context, &inputs);
    // One holder says that everybody's envelopes are bad.
    let mut slander = phase.clone();
    slander.verdicts.clear();
    let all = (1..=6).map(|dealer| DealerVerdict { dealer: SiteIndex::new(dealer).unwrap(), good: false });
    slander.take_verdicts(&name(6), &all.collect::<Vec<_>>()).unwrap();
    let slander = slander.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    assert_eq!(slander.names(), names(&[0, 1, 2, 3, 4, 5]));
    // One bad envelope: its dealer goes.
    let mut single = phase;
    single.verdicts.clear();
    single
        .take_verdicts(&name(6), &[DealerVerdict { dealer: SiteIndex::new(2).unwrap(), good: false }])
        .unwrap();
    let single = single.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    assert_eq!(single.names(), names(&[0, 2, 3, 4, 5, 6]));
}

#[test]
fn a_pair_with_unequal_commitments_is_left_out() {
    let (mut federation, inputs) = federation(7);
    let context = federation.sign(federation.fields(1));
    let plain = context.claim().unwrap();
    let Federation { pin, nodes, .. } = &mut federation;
    let node = &mut nodes[6];
    let Begun::Mask(permit) = node.say(pin, |machine, book| machine.begin(&context, book)).unwrap() else {
        panic!("sealed before")
    };
    let mut masker = node.machine.mask(permit, inputs[6].clone()).unwrap();
    node.spool = vec![masker.next_chunk().unwrap().bytes.to_vec()];
    let mut masked = masker.finish().unwrap();
    masked.dealt.pair_commitments[2] = Hash::of_bytes(b"another seed");
    let keys: Vec<_> = plain
        .selection
        .indices()
        .map(|index| node.machine.pair_key(&plain, index).unwrap().clone())
        .collect();
    masked.dealt =
        deal_garbage(&masked.dealt, &plain.hash(), SiteIndex::new(7).unwrap(), &plain.thresholds, &keys);
    node.say(pin, |machine, book| machine.seal(masked, book)).unwrap();
    let phase = federation.collect(&context, &inputs);
    let closed = phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    assert_eq!(closed.names(), names(&[0, 1, 3, 4, 5]));
    let survivors = closed.names();
    let opened = federation.open(closed);
    let sum = federation.sum(opened.context(), &survivors, &opened.recover().unwrap());
    assert_eq!(sum, plain_sum(&inputs, &survivors));
}
