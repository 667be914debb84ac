//! Sets of survivors, and signatures on them, that must not open anything.

use consilium_study::canonical::Canonical;

use super::*;
use crate::context::CtxHash;
use crate::guilt::{DealerGuilt, HolderShares, NoGuilt};
use crate::message::{Survivor, Survivors, SurvivorsSignature, UnmaskRequest};

/// Four sites have uploaded and judged; the coordinator may say what it likes.
struct Stage {
    federation: Federation,
    ctx: CtxHash,
    phase: CollectMasked,
}

fn index(site: u8) -> SiteIndex {
    SiteIndex::new(site).unwrap()
}

impl Stage {
    fn new(sites: usize) -> Self {
        Self::with(sites, |_| Floors::default())
    }

    fn with(sites: usize, floors: impl Fn(usize) -> Floors) -> Self {
        let mut federation = Federation::with(sites, &layout(), floors, false);
        let inputs = vectors(sites, layout().words(), 11);
        let context = federation.sign(federation.fields(1));
        let phase = federation.collect(&context, &inputs);
        // Every site has every receipt, as if the coordinator had proposed everybody.
        let ctx = phase.context().hash();
        let Federation { pin, nodes, .. } = &mut federation;
        for node in nodes {
            let receipts = phase.receipts_for(&node.name);
            node.say(pin, |machine, _| machine.take_receipts(&ctx, &receipts)).unwrap();
        }
        Self { federation, ctx, phase }
    }

    fn survivor(&self, site: u8) -> Survivor {
        Survivor { site: index(site), receipt: self.phase.receipts[&index(site)].hash() }
    }

    fn survivors(&self, sites: &[u8]) -> Survivors {
        Survivors::new(sites.iter().map(|site| self.survivor(*site)).collect()).unwrap()
    }

    fn sign(
        &mut self,
        site: usize,
        survivors: &Survivors,
    ) -> Result<Signed<SurvivorsSignature>, SiteRefusal> {
        let Federation { pin, nodes, .. } = &mut self.federation;
        nodes[site].say(pin, |machine, book| machine.sign(&self.ctx, survivors, book))
    }

    fn answer(&mut self, site: usize, request: &UnmaskRequest) -> Result<(), SiteRefusal> {
        let Federation { pin, nodes, .. } = &mut self.federation;
        nodes[site].say(pin, |machine, book| machine.answer(request, book)).map(|_| ())
    }

    fn request(&self, survivors: &Survivors, signatures: Vec<Signed<SurvivorsSignature>>) -> UnmaskRequest {
        UnmaskRequest { ctx: self.ctx, survivors: survivors.clone(), signatures }
    }
}

/// A signature on anything, by whom and with which key one likes.
fn forge(ctx: CtxHash, survivors: &Survivors, site: usize, key: &SigningKey) -> Signed<SurvivorsSignature> {
    let statement = SurvivorsSignature { ctx, survivors: survivors.hash() };
    Signed::seal(&statement, Principal::Site(name(site)), key)
}

#[test]
fn survivors_stand_in_order_each_once() {
    let stage = Stage::new(4);
    let [a, b, c] = [1, 2, 3].map(|site| stage.survivor(site));
    assert!(Survivors::new(vec![a, b, c]).is_ok());
    for list in [vec![], vec![a, c, b], vec![a, b, b, c]] {
        assert!(Survivors::new(list.clone()).is_err());
        assert!(Survivors::from_canonical(&list.to_canonical()).is_err(), "nor when it arrives");
    }
}

#[test]
fn fewer_than_the_threshold_are_not_signed_for() {
    let mut stage = Stage::new(5);
    let few = stage.survivors(&[1, 2, 3]);
    let want = Inconsistent::TooFew { got: 3, want: 4 };
    assert_eq!(stage.sign(0, &few), Err(SiteRefusal::Inconsistent(want)));
}

#[test]
fn a_site_signs_only_for_itself_and_for_its_own_receipt() {
    let mut stage = Stage::new(4);
    let without = stage.survivors(&[2, 3, 4]);
    assert_eq!(stage.sign(0, &without), Err(SiteRefusal::NotSurvivor));
    let mut members = stage.survivors(&[1, 2, 3]).members().to_vec();
    members[0].receipt = Hash::of_bytes(b"another receipt");
    let other = Survivors::new(members.clone()).unwrap();
    assert_eq!(stage.sign(0, &other), Err(SiteRefusal::OtherReceipt));
    assert_eq!(stage.answer(0, &stage.request(&other, Vec::new())), Err(SiteRefusal::OtherReceipt));
    // For the others the same list names a receipt that they do not have.
    let refusal = SiteRefusal::Inconsistent(Inconsistent::Receipt(index(1)));
    assert_eq!(stage.sign(1, &other), Err(refusal));
    // Somebody whom the Selection does not have.
    members.push(Survivor { site: index(9), receipt: Hash::of_bytes(b"ninth") });
    let stranger = Survivors::new(members).unwrap();
    assert_eq!(stage.sign(1, &stranger), Err(SiteRefusal::Inconsistent(Inconsistent::Foreign(index(9)))));
}

/// Everybody has uploaded, and the first site has heard nothing since.
fn unheard(federation: &mut Federation) -> (CtxHash, Vec<Signed<Receipt>>) {
    let context = federation.sign(federation.fields(1));
    let inputs = vectors(4, layout().words(), 11);
    let Federation { pin, nodes, .. } = federation;
    let upload = |(node, input): (&mut crate::federation::Node, &Vec<u32>)| {
        node.upload(pin, &context, input).unwrap().receipt
    };
    let receipts = nodes.iter_mut().zip(&inputs).map(upload).collect();
    (context.claim().unwrap().hash(), receipts)
}

fn named(receipts: &[Signed<Receipt>]) -> Survivors {
    let members = receipts.iter().map(|receipt| receipt.claim().unwrap());
    let members = members.map(|receipt| Survivor { site: receipt.sender, receipt: receipt.hash() });
    Survivors::new(members.collect()).unwrap()
}

#[test]
fn a_receipt_that_has_not_come_is_waited_for() {
    let (mut federation, _) = federation(4);
    let (ctx, receipts) = unheard(&mut federation);
    let Federation { pin, nodes, .. } = &mut federation;
    let survivors = named(&receipts);
    for heard in 1..4 {
        let missing = SiteRefusal::NotYet(Missing::Receipt(index(heard + 1)));
        let refused = nodes[0].say(pin, |machine, book| machine.sign(&ctx, &survivors, book));
        assert_eq!(refused, Err(missing));
        let next = receipts[usize::from(heard)].clone();
        nodes[0].say(pin, |machine, _| machine.take_receipts(&ctx, &[next])).unwrap();
    }
    assert!(nodes[0].say(pin, |machine, book| machine.sign(&ctx, &survivors, book)).is_ok());
}

#[test]
fn unequal_commitments_are_not_signed_for_whatever_the_coordinator_says() {
    let (mut federation, _) = federation(4);
    let (ctx, mut receipts) = unheard(&mut federation);
    let Federation { pin, nodes, .. } = &mut federation;
    // The fourth hospital commits to another seed with the third than the third does.
    let mut fields = (*receipts[3].claim().unwrap()).clone();
    fields.pair_commitments[2] = Hash::of_bytes(b"another seed");
    let lie = Receipt::new(fields).unwrap();
    receipts[3] = Signed::seal(&lie, Principal::Site(name(3)), &nodes[3].key);
    nodes[0].say(pin, |machine, _| machine.take_receipts(&ctx, &receipts[1..])).unwrap();
    let refused = nodes[0].say(pin, |machine, book| machine.sign(&ctx, &named(&receipts), book));
    let unequal = Inconsistent::UnequalPair(index(3), index(4));
    assert_eq!(refused, Err(SiteRefusal::Inconsistent(unequal)));
}

#[test]
fn t_valid_signatures_of_survivors_on_this_set_open_it_and_nothing_else_does() {
    let mut stage = Stage::new(4);
    let all = stage.survivors(&[1, 2, 3, 4]);
    let three = stage.survivors(&[1, 2, 3]);
    let good: Vec<_> = (0..3).map(|site| stage.sign(site, &all).unwrap()).collect();
    let key = stage.federation.nodes[2].key.clone();
    let victim = 3;
    let too_few = |got| Err(SiteRefusal::Signatures { got, want: 3 });
    // Two and: nothing, the same again, another key, another set, another attempt, somebody who is no survivor.
    let elsewhere = stage.federation.sign(stage.federation.fields(2)).claim().unwrap().hash();
    let stranger = SigningKey::generate();
    for third in [
        None,
        Some(good[0].clone()),
        Some(forge(stage.ctx, &all, 2, &stranger)),
        Some(forge(stage.ctx, &three, 2, &key)),
        Some(forge(elsewhere, &all, 2, &key)),
        Some(forge(stage.ctx, &all, 9, &key)),
    ] {
        let signatures = good[..2].iter().cloned().chain(third).collect();
        let request = stage.request(&all, signatures);
        assert_eq!(stage.answer(victim, &request), too_few(2));
    }
    // Signatures of members that did not survive do not count for the survivors' set.
    let keys: Vec<_> = stage.federation.nodes.iter().map(|node| node.key.clone()).collect();
    let mut two_and_one: Vec<_> = (0..2).map(|site| forge(stage.ctx, &three, site, &keys[site])).collect();
    two_and_one.push(forge(stage.ctx, &three, 3, &keys[3]));
    let request = stage.request(&three, two_and_one);
    assert_eq!(stage.answer(victim, &request), too_few(2));
    // The three are enough, and after them no other set is answered for.
    assert_eq!(stage.answer(victim, &stage.request(&all, good)), Ok(()));
    let forged = (0..3).map(|site| forge(stage.ctx, &three, site, &keys[site])).collect();
    let refused = stage.answer(victim, &stage.request(&three, forged));
    let second = Occasion::Survivors(Attempt::new(1).unwrap());
    assert!(matches!(refused, Err(SiteRefusal::Alarm(alarm)) if alarm.occasion == second), "{refused:?}");
}

#[test]
fn shares_are_given_of_the_receipt_that_is_here() {
    let mut stage = Stage::new(4);
    let mut members = stage.survivors(&[1, 2, 3, 4]).members().to_vec();
    members[1].receipt = Hash::of_bytes(b"another receipt");
    let other = Survivors::new(members).unwrap();
    let keys: Vec<_> = stage.federation.nodes.iter().map(|node| node.key.clone()).collect();
    let signed = (0..3).map(|site| forge(stage.ctx, &other, site, &keys[site])).collect();
    let refused = SiteRefusal::Inconsistent(Inconsistent::Receipt(index(2)));
    assert_eq!(stage.answer(3, &stage.request(&other, signed)), Err(refused));
}

#[test]
fn whoever_has_not_sealed_is_no_survivor() {
    let (mut federation, _) = federation(4);
    let context = federation.sign(federation.fields(1));
    begin(&mut federation, &context).unwrap();
    let ctx = context.claim().unwrap().hash();
    let member = |site| Survivor { site: index(site), receipt: Hash::of_bytes(b"receipt") };
    let survivors = Survivors::new([1, 2, 3].map(member).to_vec()).unwrap();
    let Federation { pin, nodes, .. } = &mut federation;
    let refused = nodes[0].say(pin, |machine, book| machine.sign(&ctx, &survivors, book));
    assert_eq!(refused, Err(SiteRefusal::OtherReceipt));
}

#[test]
fn the_book_of_today_counts_and_not_only_the_receipts() {
    let mut stage = Stage::new(4);
    let all = stage.survivors(&[1, 2, 3, 4]);
    let three = stage.survivors(&[1, 2, 3]);
    // Meanwhile the first hospital, in another study, signed for the same model with other survivors.
    let model = stage.phase.context().model;
    let mut other = Federation::new(4, &layout());
    let mut fields = other.fields_of(1, &names(&[0, 1, 2]));
    fields.model = model;
    let context = other.sign(fields);
    let inputs = vectors(4, layout().words(), 11);
    run(&mut other, &context, &inputs);
    stage.federation.nodes[0].book = other.nodes[0].book.clone();
    stage.federation.nodes[3].book = other.nodes[0].book.clone();
    let repeated = Occasion::Repeat(Attempt::new(1).unwrap());
    let refused = stage.sign(0, &all);
    assert!(matches!(refused, Err(SiteRefusal::Alarm(alarm)) if alarm.occasion == repeated), "{refused:?}");
    let keys: Vec<_> = stage.federation.nodes.iter().map(|node| node.key.clone()).collect();
    let signed = (0..3).map(|site| forge(stage.ctx, &all, site, &keys[site])).collect();
    let refused = stage.answer(3, &stage.request(&all, signed));
    assert!(matches!(refused, Err(SiteRefusal::Alarm(alarm)) if alarm.occasion == repeated), "{refused:?}");
    // The set that it is bound to it signs.
    assert!(stage.sign(0, &three).is_ok());
}

#[test]
fn floors_that_a_policy_raised_after_the_selection_bind_every_signer() {
    let mut federation = Federation::new(6, &layout());
    let inputs = vectors(6, layout().words(), 11);
    let context = federation.sign(federation.fields(1));
    let Federation { pin, nodes, .. } = &mut federation;
    nodes[0].upload(pin, &context, &inputs[0]).unwrap();
    let Begun::Mask(permit) = nodes[1].say(pin, |machine, book| machine.begin(&context, book)).unwrap()
    else {
        panic!("sealed before")
    };
    let mut masker = nodes[1].machine.mask(permit, inputs[1].clone()).unwrap();
    while masker.next_chunk().is_some() {}
    // From now on the second site asks for five honest sites; its receipt says so.
    nodes[1].machine.set_floors(Floors { min_honest: 5, ..Floors::default() });
    let masked = masker.finish().unwrap();
    nodes[1].say(pin, |machine, book| machine.seal(masked, book)).unwrap();
    let phase = federation.collect(&context, &inputs);
    let receipts = |site: SiteIndex| phase.receipts.get(&site).map(|held| -> &Receipt { held });
    let members =
        phase.receipts.iter().map(|(site, held)| Survivor { site: *site, receipt: held.hash() }).collect();
    let survivors = Survivors::new(members).unwrap();
    let checked =
        crate::consistency::check(&federation.pin, phase.context(), &survivors, receipts, &BTreeSet::new());
    assert_eq!(checked, Err(Inconsistent::Terms { site: index(2), unmet: UnmetTerms::MinHonest }));
}

#[test]
fn nobody_is_proved_guilty_by_good_shares() {
    let (mut federation, inputs) = federation(4);
    let context = federation.sign(federation.fields(1));
    let phase = federation.collect(&context, &inputs);
    let phase = federation.open(phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap());
    let about = index(2);
    let Federation { pin, nodes, .. } = &mut federation;
    let shares = nodes.iter_mut().take(3).map(|node| {
        let answer = node.say(pin, |machine, book| machine.answer(phase.request(), book)).unwrap();
        let answer = answer.claim().unwrap();
        let given = answer.dealers.iter().find(|given| given.dealer == about).unwrap().clone();
        HolderShares { holder: answer.holder, given }
    });
    let (context, receipt) = (context.clone(), phase.receipts()[1].clone());
    let proof = DealerGuilt { context, receipt, about, shares: shares.collect() };
    assert_eq!(proof.check(&federation.pin), Err(NoGuilt::Innocent));
    // A context that the coordinator did not sign, a receipt that the dealer did not sign.
    let stranger = SigningKey::generate();
    let mut forged = proof.clone();
    forged.context = Signed::seal(&proof.context.claim().unwrap(), Principal::Coordinator, &stranger);
    assert!(matches!(forged.check(&federation.pin), Err(NoGuilt::Signature(_))));
    let mut forged = proof.clone();
    forged.receipt = Signed::seal(&proof.receipt.claim().unwrap(), Principal::Site(name(1)), &stranger);
    assert!(matches!(forged.check(&federation.pin), Err(NoGuilt::Signature(_))));
    // And a machine believes none of them.
    for node in &mut federation.nodes {
        assert!(node.machine.take_guilt(&proof).is_err());
    }
}
