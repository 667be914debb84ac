//! A site without a hospital around it: hears directives, works, masks, answers.

use std::sync::Arc;

use consilium_secagg::context::{Context, Purpose};
use consilium_secagg::message::{EpochOpening, Upload};
use consilium_secagg::numbering::Attempt;
use consilium_secagg::pin::StudyPin;
use consilium_secagg::quantiser::{ClippedUpdate, RoundingKey, decode, encode, encode_counts};
use consilium_secagg::site::{
    Begun, MaskPermit, PairsSettled, RepeatBook, SetupReply, SiteMachine, SiteRefusal, Store, Unsent,
};
use consilium_secagg::terms::Floors;
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};
use consilium_study::statement::{Acceptance, Rule, SiteTerms};

use crate::message::{Binding, Decision, Directive, SiteMessage};
use crate::metrics::{EvaluationCounts, TrainCounts};
use crate::reason::Withdrawal;

/// What a site does with its own cases.
pub trait Work {
    /// Trains from the model that the context names.
    fn train(&mut self, context: &Context) -> Result<Trained, Withdrawal>;
    /// Scores held-out cases with the candidate that the context names and with its baseline.
    fn evaluate(&mut self, context: &Context) -> Result<EvaluationCounts, Withdrawal>;
    /// What of an update is in the vector that is masked next, entries as in [`Trained::update`]: clipped and quantised. Told in a
    /// study with control variates.
    fn sent(&mut self, _: &Context, _: &[f32]) {}
    /// What a hostile site makes of its vector before it is masked. An honest one leaves it alone.
    fn tamper(&mut self, _: &Context, _: &mut [u32]) {}
}

/// The result of local training.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Local minus starting parameters of the averaged blocks, in their order.
    pub update: Vec<f32>,
    /// Mean training loss.
    pub mean_loss: f64,
    /// Milliseconds spent.
    pub busy_ms: u64,
}

/// What a site answers to a directive.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A message for the coordinator.
    Say(SiteMessage),
    /// The chunks of its masked vector, after the `Masked` message.
    Upload {
        /// The attempt.
        attempt: Attempt,
        /// All chunks in order.
        chunks: Vec<Vec<u8>>,
    },
    /// Something that must come first has not come; the directive is to be repeated.
    Again,
    /// It will not do this.
    Refused(SiteRefusal),
}

/// State in memory that survives [`LocalSite::restart`] as a disk would.
#[derive(Default)]
struct Memory {
    chain: Option<Vec<u8>>,
    record: Option<Vec<u8>>,
    book: Vec<u8>,
}

impl Store for Memory {
    type Error = std::convert::Infallible;

    fn save_chain(&mut self, _: &Hash, chain: &[u8]) -> Result<(), Self::Error> {
        self.chain = Some(chain.to_vec());
        Ok(())
    }

    fn save_record(&mut self, _: &Hash, record: &[u8], book: Option<&[u8]>) -> Result<(), Self::Error> {
        self.record = Some(record.to_vec());
        if let Some(book) = book {
            self.book = book.to_vec();
        }
        Ok(())
    }
}

/// One site of a federation in one process.
pub struct LocalSite {
    name: SiteName,
    key: Arc<SigningKey>,
    study: Study,
    pin: StudyPin,
    terms: SiteTerms,
    weight: u32,
    machine: SiteMachine,
    book: RepeatBook,
    memory: Memory,
    /// The masked vector of the current attempt.
    spool: Option<(Attempt, Vec<Vec<u8>>, u64)>,
}

impl LocalSite {
    /// A site that takes part in `study` on `terms`, with a weight fixed from now on.
    ///
    /// # Panics
    /// When the study does not name the site.
    pub fn new(
        name: SiteName,
        key: SigningKey,
        study: Study,
        pin: StudyPin,
        terms: SiteTerms,
        weight: u32,
    ) -> Self {
        let key = Arc::new(key);
        let machine = SiteMachine::new(pin.clone(), name.clone(), key.clone(), Floors::of(&terms))
            .expect("a local site is named in its study");
        let (book, memory, spool) = (RepeatBook::new(), Memory::default(), None);
        Self { name, key, study, pin, terms, weight, machine, book, memory, spool }
    }

    /// The site's name.
    pub fn name(&self) -> &SiteName {
        &self.name
    }

    /// The process was killed and starts again from what it had written.
    pub fn restart(&mut self) {
        let Some(record) = &self.memory.record else { return };
        let chain = self.memory.chain.as_deref();
        let (pin, name, key) = (self.pin.clone(), self.name.clone(), self.key.clone());
        self.machine = SiteMachine::restore(pin, name, key, Floors::of(&self.terms), record, chain)
            .expect("what a site wrote it can read");
        if !self.memory.book.is_empty() {
            self.book = RepeatBook::restore(&self.memory.book).expect("what a site wrote it can read");
        }
    }

    /// The site was restored from a backup: its chain keys are gone.
    pub fn lose_keys(&mut self) {
        self.memory.chain = None;
        self.restart();
    }

    /// A person allows a model to be opened once more with other survivors than these.
    pub fn consent(&mut self, binding: Binding) -> Vec<Reply> {
        let repeat = match self.terms.repeat {
            consilium_study::statement::Repeat::Ask => consilium_secagg::terms::Repeat::Ask,
            consilium_study::statement::Repeat::Never => consilium_secagg::terms::Repeat::Never,
        };
        match self.book.consent(binding.purpose, binding.model, binding.baseline, repeat) {
            Ok(()) => {
                let Ok(_) = self.machine.persist(&mut self.book, &mut self.memory);
                vec![Reply::Say(SiteMessage::Consent(binding))]
            }
            Err(_) => Vec::new(),
        }
    }

    /// Does what a directive asks, as often as it comes.
    pub fn hear(&mut self, directive: &Directive, work: &mut impl Work) -> Vec<Reply> {
        match self.answer(directive, work) {
            Ok(replies) => replies,
            Err(SiteRefusal::NotYet(_)) => vec![Reply::Again],
            Err(refusal) => vec![Reply::Refused(refusal)],
        }
    }

    fn answer(&mut self, directive: &Directive, work: &mut impl Work) -> Result<Vec<Reply>, SiteRefusal> {
        let said = match directive {
            Directive::Proposal { .. } => vec![SiteMessage::Decision(Decision::Accepted(self.acceptance()))],
            Directive::Opening(opening) => return self.open_epoch(opening),
            Directive::Adverts(adverts) => {
                let reply = self.machine.take_adverts(adverts)?;
                return Ok(setup_replies(self.persisted(reply)));
            }
            Directive::Encapsulations(list) => {
                let reply = self.machine.take_encapsulations(list)?;
                return Ok(setup_replies(self.persisted(reply)));
            }
            Directive::Confirmations(list) => {
                let reply = self.machine.take_confirmations(list)?;
                self.persisted(reply);
                self.settled().into_iter().collect()
            }
            Directive::Draw(call) => {
                let reveal = self.machine.reveal(call)?;
                vec![SiteMessage::Reveal(self.persisted(reveal))]
            }
            Directive::Reveals(reveals) => {
                self.machine.take_reveals(reveals)?;
                let Ok(_) = self.machine.persist(&mut self.book, &mut self.memory);
                Vec::new()
            }
            Directive::Begin { context } => {
                let begun = self.machine.begin(context, &self.book)?;
                return match self.persisted(begun) {
                    Begun::Mask(permit) => self.mask(permit, work),
                    Begun::Sealed(upload) => Ok(self.uploads(*upload)),
                };
            }
            Directive::Receipts { ctx, receipts } => {
                let verdicts = self.machine.take_receipts(ctx, receipts)?;
                vec![SiteMessage::Opened { ctx: *ctx, verdicts: self.persisted(verdicts) }]
            }
            Directive::Envelopes { ctx, envelopes } => {
                let verdicts = self.machine.take_envelopes(ctx, envelopes)?;
                vec![SiteMessage::Opened { ctx: *ctx, verdicts: self.persisted(verdicts) }]
            }
            Directive::Survivors { ctx, survivors } => {
                let signature = self.machine.sign(ctx, survivors, &mut self.book)?;
                vec![SiteMessage::Signature(self.persisted(signature))]
            }
            Directive::Unmask(request) => {
                let answer = self.machine.answer(request, &mut self.book)?;
                vec![SiteMessage::Answer(self.persisted(answer))]
            }
            Directive::Guilt(proof) => {
                // A proof that proves nothing changes nothing.
                let _ = self.machine.take_guilt(proof);
                Vec::new()
            }
            // Whoever is bound asks a person; see [`LocalSite::consent`].
            Directive::Bound(Binding { model, purpose, baseline, .. })
                if !self.book.sets_for(*purpose, *model, *baseline).is_empty() =>
            {
                Vec::new()
            }
            Directive::Bound(binding) => vec![SiteMessage::Unbound(binding.clone())],
            Directive::StudyState(_) | Directive::Settled(_) => Vec::new(),
        };
        Ok(said.into_iter().map(Reply::Say).collect())
    }

    /// With whom this site shares keys.
    fn settled(&self) -> Option<SiteMessage> {
        let PairsSettled { epoch, with } = self.machine.pairs_settled()?;
        Some(SiteMessage::PairsSettled { epoch, with })
    }

    fn open_epoch(&mut self, opening: &Signed<EpochOpening>) -> Result<Vec<Reply>, SiteRefusal> {
        match self.machine.open_epoch(opening) {
            Ok(advert) => {
                let mut said = vec![SiteMessage::Advert(self.persisted(advert))];
                // Said again after a restart: the coordinator may not have heard it.
                said.extend(self.settled());
                Ok(said.into_iter().map(Reply::Say).collect())
            }
            Err(SiteRefusal::StaleEpoch(epoch)) if self.machine.epoch().is_none() => {
                Ok(vec![Reply::Say(SiteMessage::KeysLost { epoch })])
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn mask(&mut self, permit: MaskPermit, work: &mut impl Work) -> Result<Vec<Reply>, SiteRefusal> {
        let Some((context, _, _)) = self.machine.current() else { return Err(SiteRefusal::UnknownAttempt) };
        let context = context.clone();
        let attempt = context.attempt;
        let (mut vector, busy_ms) = match self.vector(&context, work) {
            Ok(made) => made,
            Err(cause) => return Ok(vec![Reply::Say(SiteMessage::Withdrawn { attempt, cause })]),
        };
        work.tamper(&context, &mut vector);
        let mut masker = self.machine.mask(permit, vector)?;
        let mut chunks = Vec::new();
        while let Some(chunk) = masker.next_chunk() {
            chunks.push(chunk.bytes.to_vec());
        }
        let masked = masker.finish().expect("all chunks were taken");
        self.spool = Some((attempt, chunks, busy_ms));
        let upload = self.machine.seal(masked, &self.book)?;
        let upload = self.persisted(upload);
        Ok(self.uploads(upload))
    }

    fn vector(&self, context: &Context, work: &mut impl Work) -> Result<(Vec<u32>, u64), Withdrawal> {
        match context.purpose {
            Purpose::Train => {
                let trained = work.train(context)?;
                let update = ClippedUpdate::clip(trained.update, &context.layout, context.clip_norm)
                    .map_err(|_| Withdrawal::TrainingFailed)?;
                let counts = TrainCounts::new(trained.mean_loss, self.weight).to_words();
                let rounding = RoundingKey::new(self.study.seed, &self.name, context.round);
                let vector = encode(context, self.weight, update, &counts, &rounding)
                    .map_err(|_| Withdrawal::TrainingFailed)?;
                if self.study.rounds.strategy.keeps_control() {
                    // A sum over one.
                    let sent = decode(context, vector.clone()).map_err(|_| Withdrawal::TrainingFailed)?;
                    work.sent(context, &sent.update);
                }
                Ok((vector, trained.busy_ms))
            }
            Purpose::Evaluate => {
                let counts = work.evaluate(context)?.to_words();
                let vector = encode_counts(context, &counts);
                Ok((vector.map_err(|_| Withdrawal::TrainingFailed)?, 0))
            }
            Purpose::Statistics => Err(Withdrawal::NoData),
        }
    }

    fn uploads(&self, upload: Upload) -> Vec<Reply> {
        let Some((attempt, chunks, busy_ms)) = &self.spool else { return Vec::new() };
        let ctx = upload.receipt.claim().map(|receipt| receipt.ctx).expect("a site's own receipt decodes");
        let announce = SiteMessage::of_upload(*attempt, ctx, upload, *busy_ms);
        let chunks = Reply::Upload { attempt: *attempt, chunks: chunks.clone() };
        announce.into_iter().map(Reply::Say).chain([chunks]).collect()
    }

    /// The hospital changes what it asks for, and accepts the study once more.
    pub fn accept_on(&mut self, terms: SiteTerms) -> Signed<Acceptance> {
        self.terms = terms;
        self.machine.set_floors(Floors::of(&terms));
        self.acceptance()
    }

    fn acceptance(&self) -> Signed<Acceptance> {
        let acceptance = Acceptance {
            study: self.pin.study,
            roster: self.pin.roster,
            rule: Rule::new("a local site takes part").expect("this is one readable line"),
            weight_class: self.weight,
            terms: self.terms,
        };
        Signed::seal(&acceptance, Principal::Site(self.name.clone()), &self.key)
    }

    /// Writes before speaking.
    fn persisted<T>(&mut self, unsent: Unsent<T>) -> T {
        let proof = match self.machine.persist(&mut self.book, &mut self.memory) {
            Ok(proof) => proof,
            Err(never) => match never {},
        };
        unsent.open(&proof).expect("the state was written just now")
    }
}

/// What a site says to a batch, and whether it wants to hear it again: some of it may have come too early.
fn setup_replies(reply: SetupReply) -> Vec<Reply> {
    let SetupReply { encapsulations, confirmations, refused } = reply;
    let encapsulations =
        crate::message::in_batches(encapsulations).into_iter().map(SiteMessage::Encapsulations);
    let confirmations = crate::message::in_batches(confirmations).into_iter().map(SiteMessage::Confirmations);
    let early = refused.iter().any(SiteRefusal::is_temporary);
    encapsulations.chain(confirmations).map(Reply::Say).chain(early.then_some(Reply::Again)).collect()
}
