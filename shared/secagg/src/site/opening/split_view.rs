//! Why the consistency trip must stay: the smallest attack that it stops (design, section 3).
//!
//! n = 4, c = 1, t = 3; v, p, q honest, m helps the coordinator. Tell p that everyone is in, q that v is out, v
//! that p is out. The self-mask seed of v opens from v, p and m; its seed with p comes from v, with q from q, with
//! m from m: the vector of v is open, and nobody forged anything.

use consilium_study::name::Principal;
use consilium_study::sign::Signed;

use super::*;
use crate::accumulator::{Accumulator, OpenedMask, OpenedSeeds};
use crate::federation::{Federation, vectors};
use crate::layout::Layout;
use crate::message::Survivor;
use crate::shamir;
use crate::threshold::Thresholds;

fn index(number: u8) -> SiteIndex {
    SiteIndex::new(number).unwrap()
}

/// The survivors that one site is told of: everybody but `out`.
fn story(receipts: &[Signed<Receipt>], out: Option<u8>) -> Survivors {
    let members = receipts
        .iter()
        .map(|signed| signed.claim().unwrap())
        .filter(|receipt| out.map(index) != Some(receipt.sender))
        .map(|receipt| Survivor { site: receipt.sender, receipt: receipt.hash() })
        .collect();
    Survivors::new(members).unwrap()
}

/// Four sites whose vectors, receipts and envelopes have all arrived.
fn collected() -> (Federation, Vec<Vec<u32>>, Context, Vec<Signed<Receipt>>) {
    let layout = Layout::of_counts(6);
    let mut federation = Federation::new(4, &layout);
    let inputs = vectors(4, layout.words(), 1);
    let context = federation.sign(federation.fields(1));
    let phase = federation.collect(&context, &inputs);
    let receipts: Vec<_> = phase.receipts.values().map(|held| held.signed().clone()).collect();
    for node in &mut federation.nodes {
        let ctx = phase.context().hash();
        node.say(&federation.pin, |machine, _| machine.take_receipts(&ctx, &receipts)).unwrap();
    }
    let context = phase.context().clone();
    (federation, inputs, context, receipts)
}

const V: usize = 0;
const P: usize = 1;
const Q: usize = 2;
const M: usize = 3;

#[test]
fn without_the_check_one_sites_vector_is_open() {
    let (federation, inputs, context, receipts) = collected();
    let ctx = context.hash();
    assert_eq!(context.thresholds, Thresholds::new(4, 4, 0).unwrap());
    assert_eq!((context.thresholds.threshold, context.thresholds.corrupt), (3, 1));
    // The check removed: each site answers for the story it was told.
    let tell = |site: usize, out: Option<u8>| {
        let machine = &federation.nodes[site].machine;
        machine.make_answer(&ctx, index(site as u8 + 1), &story(&receipts, out)).unwrap()
    };
    let answers = [(V, tell(V, Some(2))), (P, tell(P, None)), (Q, tell(Q, Some(1))), (M, tell(M, None))];
    let self_share = |answer: &Answer| {
        let dealt_by_v = answer.dealers.iter().find(|given| given.dealer == index(1)).unwrap();
        *dealt_by_v.shares.iter().find(|opened| opened.about == index(1)).unwrap().share
    };
    let shares = [0, 1, 3].map(|at: usize| (index(answers[at].0 as u8 + 1), self_share(&answers[at].1)));
    let own = shamir::combine(&shares, &context.thresholds).unwrap();
    let from_v = &answers[0].1.seeds;
    let from_q = &answers[2].1.seeds;
    assert_eq!((from_v[0].dropped, from_q[0].dropped), (index(2), index(1)));
    let helper = federation.nodes[M].machine.pair_key(&context, index(1)).unwrap().mask_seed(&ctx);
    let mask = |peer, seed: [u8; 32]| OpenedMask { survivor: index(1), peer: index(peer), seed: seed.into() };
    let opened = OpenedSeeds {
        masks: vec![
            mask(1, *own.as_bytes()),
            mask(2, *from_v[0].seed),
            mask(3, *from_q[0].seed),
            mask(4, *helper.as_bytes()),
        ],
    };
    let mut sum = Accumulator::new(&context.layout);
    sum.add_chunk(0, &federation.nodes[V].spool[0]).unwrap();
    sum.remove_masks(&context, &opened, 1);
    assert_eq!(sum.into_words(), inputs[V], "the attack succeeds where the check is off");
}

#[test]
fn with_the_check_no_story_finds_enough_signatures() {
    let (mut federation, _, context, receipts) = collected();
    let ctx = context.hash();
    let stories =
        [(V, story(&receipts, Some(2))), (P, story(&receipts, None)), (Q, story(&receipts, Some(1)))];
    let helper = federation.nodes[M].key.clone();
    let pin = federation.pin.clone();
    for (site, survivors) in &stories {
        let node = &mut federation.nodes[*site];
        let signature = node.say(&pin, |machine, book| machine.sign(&ctx, survivors, book)).unwrap();
        let statement = SurvivorsSignature { ctx, survivors: survivors.hash() };
        let by_helper = Signed::seal(&statement, Principal::Site(crate::federation::name(M)), &helper);
        // The helper signs every story, and signatures may be repeated: two voices stay two.
        let request = UnmaskRequest {
            ctx,
            survivors: survivors.clone(),
            signatures: vec![signature.clone(), by_helper.clone(), signature, by_helper],
        };
        let refused = node.say(&pin, |machine, book| machine.answer(&request, book));
        assert_eq!(refused.map(|_| ()), Err(SiteRefusal::Signatures { got: 2, want: 3 }));
    }
    // Nobody signs a second story, not even after a restart.
    for (site, _) in &stories {
        let node = &mut federation.nodes[*site];
        node.restart(&pin);
        for (other, survivors) in &stories {
            let again = node.say(&pin, |machine, book| machine.sign(&ctx, survivors, book));
            assert_eq!(again.is_ok(), site == other, "site {site}, story of {other}");
            assert!(again.is_ok() || matches!(again, Err(SiteRefusal::Alarm(_) | SiteRefusal::NotSurvivor)));
        }
        assert_eq!(node.machine.alarms().len(), 2);
    }
}
