//! Proofs of guilt that prove nothing: whoever believes one opens a sum again without somebody.

use super::by_sites::upload_garbage;
use super::*;
use crate::guilt::{DealerGuilt, NoGuilt};

#[test]
fn a_proof_is_of_this_study_attempt_and_dealer_and_its_shares_are_those_that_were_dealt() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    upload_garbage(&mut federation, 3, &context, &inputs[3]);
    let phase = federation.collect(&context, &inputs);
    let phase = federation.open(phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap());
    let Err(NotRecovered::Guilty(proofs)) = phase.recover() else { panic!("recovered from garbage") };
    let (pin, good) = (&federation.pin, &proofs[0]);
    assert_eq!(good.check(pin), Ok(name(3)));
    let elsewhere = crate::pin::StudyPin { study: Hash::of_bytes(b"other"), ..pin.clone() };
    assert_eq!(good.check(&elsewhere), Err(NoGuilt::Foreign));
    let changed = |change: &dyn Fn(&mut DealerGuilt)| {
        let mut proof = good.clone();
        change(&mut proof);
        proof.check(pin)
    };
    let next = federation.sign(federation.fields(2));
    assert_eq!(changed(&|proof| proof.context = next.clone()), Err(NoGuilt::Foreign));
    assert_eq!(changed(&|proof| proof.about = SiteIndex::new(9).unwrap()), Err(NoGuilt::Foreign));
    let mut fields = (*good.receipt.claim().unwrap()).clone();
    fields.envelopes.push(Hash::of_bytes(b"more"));
    fields.pair_commitments.push(Hash::of_bytes(b"more"));
    let more = Receipt::new(fields).unwrap();
    let more = Signed::seal(&more, Principal::Site(name(3)), &federation.nodes[3].key);
    assert_eq!(changed(&|proof| proof.receipt = more.clone()), Err(NoGuilt::Foreign));
    let shares: [&dyn Fn(&mut DealerGuilt); 4] = [
        &|proof| proof.shares[0].given.dealer = SiteIndex::new(1).unwrap(),
        &|proof| proof.shares[0].holder = SiteIndex::new(4).unwrap(),
        &|proof| proof.shares[0].given.shares[0].share.as_mut_slice()[0] ^= 1,
        &|proof| drop(proof.shares.pop()),
    ];
    for change in shares {
        assert_eq!(changed(change), Err(NoGuilt::Shares));
    }
}
