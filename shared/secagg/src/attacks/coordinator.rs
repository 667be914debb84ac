//! What the coordinator keeps of what sites say. It believes none, so that no hospital has to sort out another's lies.

use consilium_study::sign::Statement;

use super::*;
use crate::coordinator::{ConsistencyCheck, EpochSetup, Unmask};
use crate::masker::chunk_leaf;
use crate::merkle;
use crate::message::{
    Advert, Answer, Confirmation, Encapsulation, EpochOpening, ReceiptFields, SurvivorsSignature, Upload,
};
use crate::pin::StudyPin;

fn other() -> Hash {
    Hash::of_bytes(b"other")
}

/// Signs as a site of the federation.
fn seal<T: Statement>(federation: &Federation, site: usize, statement: &T) -> Signed<T> {
    Signed::seal(statement, Principal::Site(name(site)), &federation.nodes[site].key)
}

/// The same words under a key that nobody knows.
fn forge<T: Statement>(signed: &Signed<T>) -> Signed<T> {
    Signed::seal(&signed.claim().unwrap(), signed.signer().clone(), &SigningKey::generate())
}

fn is_forged(said: &Result<(), CoordinatorRefusal>) -> bool {
    matches!(said, Err(CoordinatorRefusal::Signature(_)))
}

/// Four sites of which the first three have advertised.
fn advertised() -> Federation {
    let mut federation = Federation::unsettled(4, &layout(), |_| Floors::default(), false);
    let Federation { pin, nodes, setup, .. } = &mut federation;
    for node in &mut nodes[..3] {
        let advert = node.say(pin, |machine, _| machine.open_epoch(setup.opening())).unwrap();
        setup.take_advert(pin, &advert).unwrap();
    }
    federation
}

#[test]
fn an_epoch_is_of_this_study_and_under_the_key_of_the_coordinator() {
    let (Federation { pin, coordinator, .. }, _) = federation(3);
    let new = |opening: &Signed<EpochOpening>| EpochSetup::new(&pin, opening).map(|_| ());
    let good = opening(&pin, &coordinator, 2, 1);
    assert!(is_forged(&new(&forge(&good))));
    let claim = good.claim().unwrap();
    for wrong in [EpochOpening { study: other(), ..claim.clone() }, EpochOpening { roster: other(), ..claim }]
    {
        let wrong = Signed::seal(&wrong, Principal::Coordinator, &coordinator);
        assert_eq!(new(&wrong), Err(CoordinatorRefusal::Foreign));
    }
    assert_eq!(new(&good), Ok(()));
}

#[test]
fn adverts_are_of_their_site_and_of_this_epoch() {
    let mut federation = advertised();
    let pin = federation.pin.clone();
    let opening = federation.setup.opening().clone();
    let good = federation.nodes[3].say(&pin, |machine, _| machine.open_epoch(&opening)).unwrap();
    let claim = good.claim().unwrap();
    for wrong in [
        Advert { study: other(), ..claim.clone() },
        Advert { roster: other(), ..claim.clone() },
        Advert { epoch: Epoch::new(2).unwrap(), ..claim },
    ] {
        let wrong = seal(&federation, 3, &wrong);
        assert_eq!(federation.setup.take_advert(&pin, &wrong), Err(CoordinatorRefusal::Foreign));
    }
    assert!(is_forged(&federation.setup.take_advert(&pin, &forge(&good))));
    assert_eq!(federation.setup.take_advert(&pin, &good), Ok(()));
}

#[test]
fn ciphertexts_and_tags_are_of_a_pair_of_this_epoch() {
    let mut federation = advertised();
    let pin = federation.pin.clone();
    let mail = federation.setup.mail_for(&name(0));
    let reply = federation.nodes[0].say(&pin, |machine, _| machine.take_adverts(&mail.adverts)).unwrap();
    let (good, tag) = (&reply.encapsulations[0], &reply.confirmations[0]);
    let epoch = Epoch::new(2).unwrap();
    let advert = |site| federation.setup.advert(&name(site)).unwrap();
    let claim = good.claim().unwrap();
    let (from, to) = (name(2), name(1));
    let upwards = Encapsulation { from, to, from_advert: advert(2), to_advert: advert(1), ..claim.clone() };
    for (signer, wrong) in [
        (0, Encapsulation { study: other(), ..claim.clone() }),
        (0, Encapsulation { epoch, ..claim.clone() }),
        (0, Encapsulation { from_advert: other(), ..claim.clone() }),
        (0, Encapsulation { to_advert: other(), ..claim }),
        (2, upwards),
    ] {
        let wrong = seal(&federation, signer, &wrong);
        assert_eq!(federation.setup.take_encapsulation(&pin, &wrong), Err(CoordinatorRefusal::Foreign));
    }
    let claim = tag.claim().unwrap();
    for (signer, wrong) in [
        (0, Confirmation { study: other(), ..claim.clone() }),
        (0, Confirmation { epoch, ..claim.clone() }),
        (0, Confirmation { to: name(0), ..claim.clone() }),
        (0, Confirmation { to: name(3), ..claim.clone() }),
        (3, Confirmation { from: name(3), ..claim }),
    ] {
        let wrong = seal(&federation, signer, &wrong);
        assert_eq!(federation.setup.take_confirmation(&pin, &wrong), Err(CoordinatorRefusal::Foreign));
    }
    let setup = &mut federation.setup;
    assert!(is_forged(&setup.take_encapsulation(&pin, &forge(good))));
    assert!(is_forged(&setup.take_confirmation(&pin, &forge(tag))));
    assert_eq!(setup.take_encapsulation(&pin, good), Ok(()));
    assert_eq!(setup.take_confirmation(&pin, tag), Ok(()));
    assert_eq!(setup.mail_for(&name(1)).encapsulations, std::slice::from_ref(good));
    assert_eq!(setup.mail_for(&name(2)).encapsulations, [], "not for this one");
}

#[test]
fn only_sites_that_share_keys_with_all_others_are_selected() {
    let mut setup = advertised().setup;
    let ready = names(&[0, 1, 2, 3]);
    // Words of a site without an advert, and words about one, are not kept.
    let before = setup.clone();
    setup.take_settled(&name(3), [name(0)]);
    assert_eq!(setup, before);
    setup.take_settled(&name(0), [name(1), name(2), name(3)]);
    let kept = setup.clone();
    setup.take_settled(&name(0), [name(1), name(2)]);
    assert_eq!(setup, kept);
    // Two ends have to say so: the second says nothing of the third.
    setup.take_settled(&name(1), [name(0)]);
    setup.take_settled(&name(2), [name(0), name(1)]);
    assert!(setup.is_settled(&name(0), &name(1)) && !setup.is_settled(&name(1), &name(2)));
    assert_eq!(setup.selectable(&ready), [], "the two that are left are too few");
    setup.take_settled(&name(1), [name(0), name(2)]);
    let selected: BTreeSet<_> = setup.selectable(&ready).into_iter().map(|(site, _)| site).collect();
    assert_eq!(selected, names(&[0, 1, 2]));
}

/// The first site has uploaded; what it signed can be changed.
struct Uploaded {
    federation: Federation,
    phase: CollectMasked,
    upload: Upload,
}

impl Uploaded {
    fn new() -> Self {
        let (mut federation, inputs) = federation(4);
        let context = federation.sign(federation.fields(1));
        let Federation { pin, nodes, .. } = &mut federation;
        let phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
        let upload = nodes[0].upload(pin, &context, &inputs[0]).unwrap();
        Self { federation, phase, upload }
    }

    /// What the coordinator says to it, changed and signed again.
    fn says(&self, change: impl FnOnce(&mut Upload, &mut ReceiptFields)) -> Result<(), CoordinatorRefusal> {
        self.take(change).map(|_| ())
    }

    fn take(
        &self,
        change: impl FnOnce(&mut Upload, &mut ReceiptFields),
    ) -> Result<CollectMasked, CoordinatorRefusal> {
        let (mut phase, mut upload) = (self.phase.clone(), self.upload.clone());
        let mut fields = (*upload.receipt.claim().unwrap()).clone();
        change(&mut upload, &mut fields);
        upload.receipt = seal(&self.federation, 0, &Receipt::new(fields).unwrap());
        phase.take_upload(&self.federation.pin, &name(0), upload).map(|()| phase)
    }
}

#[test]
fn an_upload_is_of_its_site_and_for_this_selection() {
    let it = Uploaded::new();
    assert_eq!(it.says(|_, _| ()), Ok(()));
    let elsewhere = Context::new(it.federation.fields(2)).unwrap().hash();
    let foreign = Err(CoordinatorRefusal::Foreign);
    assert_eq!(it.says(|_, fields| fields.ctx = elsewhere), foreign);
    assert_eq!(it.says(|_, fields| fields.sender = SiteIndex::new(2).unwrap()), foreign);
    let more = |_: &mut Upload, fields: &mut ReceiptFields| {
        fields.envelopes.push(other());
        fields.pair_commitments.push(other());
    };
    assert_eq!(it.says(more), foreign);
    let mut forged = it.upload.clone();
    forged.receipt = forge(&forged.receipt);
    assert!(is_forged(&it.phase.clone().take_upload(&it.federation.pin, &name(0), forged)));
}

#[test]
fn envelopes_of_an_upload_are_those_of_its_receipt() {
    let it = Uploaded::new();
    let refused = Err(CoordinatorRefusal::Envelopes);
    assert_eq!(it.says(|upload, _| upload.envelopes[0].sealed = vec![7; 8].into()), refused);
    assert_eq!(it.says(|upload, _| drop(upload.envelopes.pop())), refused);
    // Named by the receipt, and of another sender, or for the sender itself.
    let swapped = |upload: &mut Upload, fields: &mut ReceiptFields| {
        upload.envelopes[0].sender = SiteIndex::new(3).unwrap();
        fields.envelopes[1] = upload.envelopes[0].hash();
    };
    assert_eq!(it.says(swapped), refused);
    let own = |upload: &mut Upload, fields: &mut ReceiptFields| {
        upload.envelopes[0].recipient = SiteIndex::new(1).unwrap();
        fields.envelopes[0] = upload.envelopes[0].hash();
    };
    assert_eq!(it.says(own), refused);
}

#[test]
fn chunks_are_as_many_and_as_long_as_those_of_the_vector() {
    let it = Uploaded::new();
    let two = |upload: &mut Upload, fields: &mut ReceiptFields| {
        upload.chunks.push(other());
        fields.chunks = merkle::root(&upload.chunks);
    };
    assert_eq!(it.says(two), Err(CoordinatorRefusal::Chunks));
    assert_eq!(it.says(|_, fields| fields.chunks = other()), Err(CoordinatorRefusal::Chunks));
    // A site commits to a chunk that is too short.
    let bytes = [1, 2, 3];
    let ctx = it.phase.context().hash();
    let short = |upload: &mut Upload, fields: &mut ReceiptFields| {
        upload.chunks = vec![chunk_leaf(&ctx, fields.sender, 0, &bytes)];
        fields.chunks = merkle::root(&upload.chunks);
    };
    let phase = it.take(short).unwrap();
    assert_eq!(phase.check_chunk(&name(0), 0, &bytes), Err(CoordinatorRefusal::WrongChunk { index: 0 }));
}

#[test]
fn an_attempt_is_of_this_study_and_under_the_key_of_the_coordinator() {
    let (federation, _) = federation(4);
    let (pin, context) = (&federation.pin, federation.sign(federation.fields(1)));
    let new = |pin: &StudyPin, context: &Signed<Context>| {
        CollectMasked::new(pin, context, BTreeSet::new()).map(|_| ())
    };
    assert!(is_forged(&new(pin, &forge(&context))));
    let elsewhere = StudyPin { study: other(), ..pin.clone() };
    assert_eq!(new(&elsewhere, &context), Err(CoordinatorRefusal::Foreign));
    assert_eq!(new(pin, &context), Ok(()));
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    assert_eq!(phase.complete(&name(0)), Err(CoordinatorRefusal::NoReceipt(name(0))));
    assert_eq!(phase.complete(&name(4)), Err(CoordinatorRefusal::NotSelected(name(4))));
}

#[test]
fn verdicts_are_about_dealers_whose_vectors_are_here_and_the_first_word_counts() {
    let it = Uploaded::new();
    let mut phase = it.take(|_, _| ()).unwrap();
    let dealer = SiteIndex::new(1).unwrap();
    let says = |good| [DealerVerdict { dealer, good }];
    let no_dealer = Err(CoordinatorRefusal::NoDealer(dealer));
    assert_eq!(phase.take_verdicts(&name(1), &says(false)), no_dealer);
    assert_eq!(phase.envelopes_for(&name(1)), [], "nothing is passed on of a vector that is not complete");
    assert_eq!(phase.receipts_for(&name(1)), []);
    phase.complete(&name(0)).unwrap();
    assert_eq!((phase.envelopes_for(&name(1)).len(), phase.receipts_for(&name(1)).len()), (1, 1));
    assert_eq!(phase.take_verdicts(&name(0), &says(false)), no_dealer, "about itself");
    for good in [false, true] {
        assert_eq!(phase.take_verdicts(&name(1), &says(good)), Ok(()));
    }
    assert!(!phase.verdicts[&(SiteIndex::new(2).unwrap(), dealer)]);
}

/// All sites have accepted; then some learn in another study that the model was opened with others.
fn uploaded_by(federation: &mut Federation, sites: usize, bound: &BTreeSet<SiteName>) -> CollectMasked {
    let mut other = Federation::new(federation.nodes.len(), &layout());
    let model = Hash::of_bytes(b"start");
    let inputs = vectors(federation.nodes.len(), layout().words(), 5);
    if !bound.is_empty() {
        let mut fields = other.fields_of(1, bound);
        fields.model = model;
        let context = other.sign(fields);
        run(&mut other, &context, &inputs);
    }
    let mut fields = federation.fields(1);
    fields.model = model;
    let context = federation.sign(fields);
    let Federation { pin, nodes, .. } = federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    for ((node, twin), input) in nodes.iter_mut().zip(&other.nodes).zip(&inputs).take(sites) {
        node.say(pin, |machine, book| machine.begin(&context, book)).unwrap();
        node.book = twin.book.clone();
        let upload = node.upload(pin, &context, input).unwrap();
        arrive(pin, &mut phase, node, upload);
    }
    phase
}

#[test]
fn a_sum_is_closed_over_as_many_as_quorum_and_threshold() {
    let (mut federation, _) = federation(4);
    let phase = uploaded_by(&mut federation, 2, &BTreeSet::new());
    let closed = |phase: CollectMasked, quorum| phase.close(&federation.pin, quorum).map_err(|(_, why)| why);
    assert_eq!(closed(phase, 0).unwrap_err(), NotClosed::BelowQuorum { got: 2, want: 3 });
    let (mut second, _) = super::federation(4);
    let phase = uploaded_by(&mut second, 3, &BTreeSet::new());
    let close = |quorum| phase.clone().close(&second.pin, quorum).map_err(|(_, why)| why);
    assert_eq!(close(4).unwrap_err(), NotClosed::BelowQuorum { got: 3, want: 4 });
    assert_eq!(close(3).unwrap().names(), names(&[0, 1, 2]));
}

#[test]
fn survivors_that_bind_are_proposed_again() {
    let (mut federation, _) = federation(5);
    let bound = names(&[0, 1, 2, 3]);
    let phase = uploaded_by(&mut federation, 5, &bound);
    let closed = phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    assert_eq!(closed.names(), bound);
}

#[test]
fn nobody_is_left_out_for_asking_for_a_larger_change() {
    let floors = |site| Floors { min_change: if site == 0 { 2 } else { 0 }, ..Floors::default() };
    let mut federation = Federation::with(7, &layout(), floors, false);
    let inputs = vectors(7, layout().words(), 2);
    let context = federation.sign(federation.fields(1));
    run(&mut federation, &context, &inputs);
    let context = federation.sign(federation.fields(2));
    let Federation { pin, nodes, .. } = &mut federation;
    let mut phase = CollectMasked::new(pin, &context, BTreeSet::new()).unwrap();
    for (node, input) in nodes.iter_mut().zip(&inputs).take(6) {
        let upload = node.upload(pin, &context, input).unwrap();
        arrive(pin, &mut phase, node, upload);
    }
    // Without the first site the other five could go on, and the change would be its absence.
    let reason = phase.close(pin, 0).map_err(|(_, reason)| reason).unwrap_err();
    let first = SiteIndex::new(1).unwrap();
    assert_eq!(reason, NotClosed::Terms(Inconsistent::Terms { site: first, unmet: UnmetTerms::MinChange }));
}

/// Three of four have uploaded and judged, and the sum is closed over them. The fourth has judged them too.
fn closed(federation: &mut Federation) -> ConsistencyCheck {
    let mut phase = uploaded_by(federation, 3, &BTreeSet::new());
    let Federation { pin, nodes, .. } = federation;
    let context = phase.signed_context().clone();
    nodes[3].say(pin, |machine, book| machine.begin(&context, book)).unwrap();
    for node in nodes {
        judge(pin, &mut phase, node);
    }
    phase.close(pin, 0).map_err(|(_, reason)| reason).unwrap()
}

#[test]
fn a_vector_that_is_not_complete_is_in_no_sum() {
    let (mut federation, _) = federation(4);
    let mut phase = uploaded_by(&mut federation, 3, &BTreeSet::new());
    let (context, input) = (phase.signed_context().clone(), vec![0; layout().words()]);
    let upload = federation.nodes[3].upload(&federation.pin, &context, &input).unwrap();
    phase.take_upload(&federation.pin, &name(3), upload).unwrap();
    let closed = phase.close(&federation.pin, 0).map_err(|(_, reason)| reason).unwrap();
    assert_eq!(closed.names(), names(&[0, 1, 2]));
}

#[test]
fn only_survivors_sign_and_only_what_was_asked() {
    let (mut federation, _) = federation(4);
    let mut phase = closed(&mut federation);
    let pin = federation.pin.clone();
    assert_eq!(phase.envelopes_for(&name(1)), [], "all were judged");
    let asked = SurvivorsSignature { ctx: phase.context().hash(), survivors: phase.survivors().hash() };
    let good = seal(&federation, 0, &asked);
    let others = SurvivorsSignature { survivors: other(), ..asked.clone() };
    let elsewhere = Context::new(federation.fields(2)).unwrap().hash();
    let elsewhere = SurvivorsSignature { ctx: elsewhere, ..asked.clone() };
    for wrong in [others, elsewhere] {
        let wrong = seal(&federation, 0, &wrong);
        assert_eq!(phase.take_signature(&pin, &name(0), &wrong), Err(CoordinatorRefusal::Foreign));
    }
    assert!(is_forged(&phase.take_signature(&pin, &name(0), &forge(&good))));
    assert!(is_forged(&phase.take_signature(&pin, &name(1), &good)), "of another");
    let dropped = seal(&federation, 3, &asked);
    let refused = phase.take_signature(&pin, &name(3), &dropped);
    assert_eq!(refused, Err(CoordinatorRefusal::NotSurvivor(name(3))));
    assert_eq!(phase.take_signature(&pin, &name(0), &good), Ok(()));
    let second = seal(&federation, 1, &asked);
    assert_eq!(phase.take_signature(&pin, &name(1), &second), Ok(()));
    // Two are not enough, also where they sign twice.
    assert_eq!(phase.take_signature(&pin, &name(1), &second), Ok(()));
    let Err(mut phase) = phase.unmask() else { panic!("two signatures opened a sum") };
    phase.take_signature(&pin, &name(2), &seal(&federation, 2, &asked)).unwrap();
    assert!(phase.unmask().is_ok());
}

#[test]
fn an_answer_has_what_was_asked_and_nothing_else() {
    let (mut federation, _) = federation(4);
    let mut phase = closed(&mut federation);
    let Federation { pin, nodes, .. } = &mut federation;
    let ctx = phase.context().hash();
    for node in &mut nodes[..3] {
        sign(pin, &ctx, &mut phase, node).unwrap();
    }
    let mut phase = phase.unmask().unwrap();
    let mut answer_of = |site: usize| {
        let node = &mut nodes[site];
        node.say(pin, |machine, book| machine.answer(phase.request(), book)).unwrap()
    };
    let [good, outsider] = [0, 3].map(&mut answer_of);
    let pin = federation.pin.clone();
    let says = |phase: &mut Unmask, site: usize, change: &dyn Fn(&mut Answer)| {
        let mut answer = if site == 0 { good.claim().unwrap() } else { outsider.claim().unwrap() };
        change(&mut answer);
        phase.take_answer(&pin, &name(site), &seal(&federation, site, &answer))
    };
    let elsewhere = Context::new(federation.fields(2)).unwrap().hash();
    let foreign = Err(CoordinatorRefusal::Foreign);
    assert_eq!(says(&mut phase, 0, &|answer| answer.ctx = elsewhere), foreign);
    assert_eq!(says(&mut phase, 0, &|answer| answer.survivors = other()), foreign);
    assert_eq!(says(&mut phase, 0, &|answer| answer.holder = SiteIndex::new(2).unwrap()), foreign);
    assert!(is_forged(&phase.take_answer(&pin, &name(0), &forge(&good))));
    let wrong = Err(CoordinatorRefusal::WrongAnswer(name(0)));
    for change in [
        (&|answer: &mut Answer| answer.dealers.swap(0, 1)) as &dyn Fn(&mut Answer),
        &|answer| answer.dealers[1] = answer.dealers[0].clone(),
        &|answer| drop(answer.dealers[0].shares.pop()),
        &|answer| answer.dealers[0].dealer = SiteIndex::new(4).unwrap(),
        &|answer| answer.seeds.clear(),
        &|answer| answer.seeds[0].dropped = SiteIndex::new(2).unwrap(),
        &|answer| answer.seeds.push(answer.seeds[0].clone()),
    ] {
        assert_eq!(says(&mut phase, 0, change), wrong);
    }
    let dropped = SiteIndex::new(4).unwrap();
    let blamed = Err(CoordinatorRefusal::WrongSeed { holder: name(0), dropped });
    assert_eq!(says(&mut phase, 0, &|answer| answer.seeds[0].seed = [7; 32].into()), blamed);
    // Who did not survive gives no seeds of its own, and is not asked for any.
    let seeds = good.claim().unwrap().seeds;
    let refused = says(&mut phase, 3, &|answer| answer.seeds.clone_from(&seeds));
    assert_eq!(refused, Err(CoordinatorRefusal::WrongAnswer(name(3))));
    for site in [0, 3] {
        assert_eq!(says(&mut phase, site, &|_| ()), Ok(()));
    }
}
