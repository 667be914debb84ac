//! One attempt at this site: context, model, training, masking, upload, survivors, answer.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use consilium_rounds::message::{Directive, DirectiveId, Letter, Progress, SiteMessage, Stage};
use consilium_rounds::reason::{Decline, Withdrawal};
use consilium_secagg::context::{Context, CtxHash};
use consilium_secagg::layout::CHUNK_BYTES;
use consilium_secagg::masker::MaskedVector;
use consilium_secagg::message::{
    DealerVerdict, Envelope, Receipt, Survivors, UnmaskRequest, Upload as SealedUpload,
};
use consilium_secagg::numbering::Attempt;
use consilium_secagg::site::{Begun, MaskPermit, SiteRefusal, Unsent};
use consilium_secagg::{Inconsistent, UnmetTerms};
use consilium_study::hash::Hash;
use consilium_study::policy::Policy;
use consilium_study::sign::Signed;

use super::case::{Case, Doing, Topic};
use super::consent::question_about;
use super::core::{Core, Taken};
use super::fetching::models_of;
use super::proposal::model_limit;
use super::reason::decline_of;
use super::record::{Question, StudyRecord, Withdrawn};
use super::work::{AttemptJob, Halt, Job, SpoolJob, Vector, span};
use crate::journal::Event;
use crate::pipe::message::{FromVault, Upload, Work};
use crate::store::Kind;

impl Core {
    /// An attempt begins, or is repeated to this site.
    pub(super) fn begin(&mut self, study: Hash, context: &Signed<Context>) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        if !case.record.may_work() {
            return Ok(Taken::Park);
        }
        let claimed = context.claim().ok().map(|context| context.attempt);
        if let (Some(settled), Some(attempt)) = (case.record.settled(), claimed)
            && attempt <= settled.attempt
        {
            return self.begin_late(study, context, attempt);
        }
        if let Some(key) = stricter(&self.policy, &case.record) {
            let why = format!(
                "policy.{key} asks for more than this study was accepted with; put it back, or ask the consortium to \
                 propose the study again"
            );
            case.trouble = Some(why.clone());
            return Ok(Taken::Refused { reason: Decline::Policy, attempt: claimed, why });
        }
        let result = machine.begin(context, &self.book);
        let proof = self.keeping.persist(machine, &mut self.book)?;
        let begun = match result {
            Ok(unsent) => unsent.open(&proof)?,
            Err(SiteRefusal::Superseded(_)) => return self.pass_over(study, context),
            Err(refusal) => {
                let about = context.claim().ok().and_then(|context| question_about(&self.book, &context));
                return self.refuse_in_attempt(study, &refusal, claimed, about);
            }
        };
        let context_now = context.claim()?;
        let attempt = context_now.attempt;
        let participation = case.record.participation_mut().expect("a machine stands for a participation");
        let mut withdrawn = participation.withdrawn.filter(|withdrawn| withdrawn.attempt == attempt);
        if participation.begun.as_ref() != Some(context) {
            let before = participation.begun.replace(context.clone());
            participation.withdrawn = None;
            withdrawn = None;
            case.record.write(&*self.store, &self.folder)?;
            case.leave_attempt();
            case.asked = None;
            case.trouble = None;
            if let Some(before) = before {
                let spool = self.spool(&study, before.claim()?.attempt);
                self.store.remove(Kind::Spool, &spool)?;
            }
            self.note(Event::Began {
                study,
                attempt: attempt.get(),
                purpose: format!("{:?}", context_now.purpose).to_lowercase(),
                model: context_now.model,
            })?;
        }
        match begun {
            Begun::Sealed(upload) => self.offer(study, *upload)?,
            Begun::Mask(permit) => match (withdrawn, self.cases.get_mut(&study)) {
                (Some(Withdrawn { cause, .. }), Some(case)) => {
                    case.say(Topic::Withdrawn, SiteMessage::Withdrawn { attempt, cause });
                }
                (None, Some(case)) if matches!(case.doing, Doing::Nothing) => self.start(study, permit)?,
                _ => {}
            },
        }
        Ok(Taken::Done)
    }

    /// A context of an attempt that the coordinator has reported over. It did not sign that, so a second context for
    /// the attempt is an alarm all the same.
    fn begin_late(
        &mut self,
        study: Hash,
        context: &Signed<Context>,
        attempt: Attempt,
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        // Where it is above all that was accepted, the machine would accept it.
        if machine.highest_attempt() >= Some(attempt) {
            let result = machine.begin(context, &self.book);
            let _ = self.keeping.persist(machine, &mut self.book)?;
            match result {
                Ok(_) => return Ok(Taken::Done),
                Err(SiteRefusal::Superseded(_)) => {}
                Err(refusal) => return self.refuse_in_attempt(study, &refusal, Some(attempt), None),
            }
        }
        self.pass_over(study, context)
    }

    /// Does nothing about a context, and writes that down, unless it is the one that this site accepted last.
    fn pass_over(&mut self, study: Hash, context: &Signed<Context>) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get(&study) else { return Ok(Taken::Done) };
        let begun = case.record.participation().and_then(|participation| participation.begun.as_ref());
        if begun != Some(context) {
            let claimed = context.claim()?;
            let (attempt, context) = (claimed.attempt.get(), *claimed.hash().hash());
            self.note_once(study, Event::ContextPassedOver { study, attempt, context })?;
        }
        Ok(Taken::Done)
    }

    /// Goes on with the attempt that was under way when the vault stopped or the study paused.
    pub(super) fn go_on(&mut self, study: Hash) -> anyhow::Result<()> {
        let begun = self
            .cases
            .get(&study)
            .and_then(|case| case.record.participation())
            .and_then(|participation| participation.begun.clone());
        if let Some(context) = begun
            && let Taken::Refused { why, .. } = self.begin(study, &context)?
        {
            tracing::info!(study = study.short(), why, "the attempt under way does not go on");
        }
        Ok(())
    }

    /// Starts the work of an attempt as soon as its models are here.
    pub(super) fn start(&mut self, study: Hash, permit: MaskPermit) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        let Some((context, ..)) = case.machine.as_ref().and_then(|machine| machine.current()) else {
            return Ok(());
        };
        let context = context.clone();
        let limit = model_limit(&case.study);
        let wanted = models_of(&case.study, &context);
        for hash in &wanted {
            self.models.want(*hash, limit);
        }
        let here: BTreeMap<_, _> =
            wanted.iter().filter_map(|hash| Some((*hash, self.models.find(hash)?))).collect();
        if wanted.iter().any(|hash| !here.contains_key(hash)) {
            case.doing = Doing::Fetching { permit };
            self.say_fetching(study);
            return Ok(());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let participation = case.record.participation().expect("a machine stands for a participation");
        let job = AttemptJob {
            study: Arc::clone(&case.study),
            context,
            weight: participation.weight_class,
            models: here,
            reference: participation.reference,
            last: participation.reference.and_then(|last| self.models.find(&last.model)),
            folder: self.folder.study(&study),
            stop: Arc::clone(&stop),
            parent: case.parent.clone(),
        };
        case.doing = Doing::Working { permit, stop };
        self.jobs.send(Job::Attempt(Box::new(job)))?;
        Ok(())
    }

    /// Work goes on.
    pub(super) fn progress(&mut self, study: Hash, attempt: u32, stage: Stage, done: u64, total: u64) {
        if let Some(case) = self.cases.get_mut(&study)
            && matches!(case.doing, Doing::Working { .. })
            && let Some(attempt) = current_attempt(case, attempt)
        {
            case.say(Topic::Progress, SiteMessage::Progress(Progress { attempt, stage, done, total }));
        }
    }

    /// The vector of an attempt is there, or will not be.
    pub(super) fn worked(
        &mut self,
        study: Hash,
        attempt: u32,
        result: Result<Vector, Halt>,
    ) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        let Some(attempt) = current_attempt(case, attempt) else { return Ok(()) };
        if !matches!(case.doing, Doing::Working { .. }) || matches!(result, Err(Halt::Stopped)) {
            return Ok(());
        }
        let Doing::Working { permit, .. } = std::mem::replace(&mut case.doing, Doing::Nothing) else {
            return Ok(());
        };
        let Vector { mut words, reference, kept, busy } = match result {
            Ok(vector) => vector,
            Err(Halt::Withdraw(cause)) => return self.withdraw(study, Withdrawn { attempt, cause }),
            Err(Halt::SitOut(cause, why)) => {
                case.trouble = Some(why);
                return self.withdraw(study, Withdrawn { attempt, cause });
            }
            Err(Halt::Decline(reason, why)) => {
                case.trouble = Some(why.clone());
                let participation = case.record.participation().expect("work stands for a participation");
                let Some(context) = participation.begun.clone() else { return Ok(()) };
                let letter = Letter { study, message: Directive::Begin { context } };
                return self.decline(study, DirectiveId::of(&letter.to_bytes()), reason, Some(attempt), why);
            }
            Err(Halt::Stopped) => return Ok(()),
        };
        let Some(machine) = &case.machine else { return Ok(()) };
        let masker = match machine.mask(permit, std::mem::take(&mut *words)) {
            Ok(masker) => masker.on(consilium_learning::threads()),
            Err(refusal) => {
                tracing::error!(study = study.short(), %refusal, "a vector of this site cannot be masked");
                let cause = Withdrawal::TrainingFailed;
                return self.withdraw(study, Withdrawn { attempt, cause });
            }
        };
        case.doing = Doing::Spooling { busy, reference };
        let parent = case.parent.clone();
        let spool = self.spool(&study, attempt);
        let folder = self.folder.study(&study);
        let job = SpoolJob { study, attempt: attempt.get(), masker, spool, kept, folder, parent };
        self.jobs.send(Job::Spool(Box::new(job)))?;
        Ok(())
    }

    /// Sits an attempt out.
    fn withdraw(&mut self, study: Hash, withdrawn: Withdrawn) -> anyhow::Result<()> {
        let Withdrawn { attempt, cause } = withdrawn;
        self.note(Event::Withdrew { study, attempt: attempt.get(), cause: format!("{cause:?}") })?;
        if let Some(case) = self.cases.get_mut(&study) {
            case.leave_attempt();
            if let Some(participation) = case.record.participation_mut() {
                participation.withdrawn = Some(withdrawn);
            }
            case.record.write(&*self.store, &self.folder)?;
            case.say(Topic::Withdrawn, SiteMessage::Withdrawn { attempt, cause });
        }
        Ok(())
    }

    /// The spool is flushed: sign for it, write that down, and only then offer it.
    pub(super) fn spooled(&mut self, study: Hash, attempt: u32, masked: MaskedVector) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        if current_attempt(case, attempt).is_none() {
            return Ok(());
        }
        let Doing::Spooling { busy, reference } = std::mem::replace(&mut case.doing, Doing::Nothing) else {
            return Ok(());
        };
        if let Some(participation) = case.record.participation_mut() {
            participation.busy_ms = busy.as_millis() as u64;
            participation.reference = reference.or(participation.reference);
        }
        case.record.write(&*self.store, &self.folder)?;
        let Some(machine) = &mut case.machine else { return Ok(()) };
        let result = machine.seal(masked, &self.book);
        let proof = self.keeping.persist(machine, &mut self.book)?;
        match result {
            Ok(unsent) => {
                let upload = unsent.open(&proof)?;
                let receipt = upload.receipt.claim()?.hash();
                let bytes = machine.current().map_or(0, |(context, ..)| context.layout.words() as u64 * 4);
                self.note(Event::Masked { study, attempt, receipt, bytes })?;
                self.offer(study, upload)
            }
            Err(refusal) => {
                tracing::warn!(study = study.short(), %refusal, "a masked vector is not signed for");
                Ok(())
            }
        }
    }

    /// Announces a masked vector that was signed for.
    fn offer(&mut self, study: Hash, upload: SealedUpload) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        let Some((context, ctx, _)) = case.machine.as_ref().and_then(|machine| machine.current()) else {
            return Ok(());
        };
        let attempt = context.attempt;
        let name = Upload { study, attempt: attempt.get(), length: context.layout.words() as u64 * 4 };
        let busy_ms = case.record.participation().map_or(0, |participation| participation.busy_ms);
        case.hush(|topic| matches!(topic, Topic::Progress | Topic::Masked(_)));
        let messages = SiteMessage::of_upload(attempt, ctx, upload, busy_ms);
        let announced = messages
            .into_iter()
            .enumerate()
            .map(|(number, message)| case.say(Topic::Masked(number), message))
            .collect();
        case.upload = Some((name, announced));
        self.retry_parked(study)
    }

    /// Hands out a chunk of a spool.
    pub(super) fn read_chunk(&mut self, upload: Upload, index: u32) {
        let offered = self
            .cases
            .get(&upload.study)
            .is_some_and(|case| case.upload.as_ref().is_some_and(|(offered, _)| *offered == upload));
        let path = self.folder.study(&upload.study).spool(upload.attempt);
        let offset = u64::from(index) * CHUNK_BYTES as u64;
        let length = upload.length.saturating_sub(offset).min(CHUNK_BYTES as u64);
        let mut bytes = vec![0; if offered { length as usize } else { 0 }];
        if !bytes.is_empty() {
            let read = std::fs::File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, offset));
            if let Err(error) = read {
                tracing::warn!(attempt = upload.attempt, %error, "a chunk of the spool cannot be read");
                bytes.clear();
            }
        }
        self.out.push(FromVault::Chunk { upload, index, bytes: bytes.into() });
    }

    /// Receipts of other members.
    pub(super) fn receipts(
        &mut self,
        study: Hash,
        ctx: &CtxHash,
        receipts: &[Signed<Receipt>],
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let result = machine.take_receipts(ctx, receipts);
        self.opened(study, *ctx, result)
    }

    /// Envelopes for this site.
    pub(super) fn envelopes(
        &mut self,
        study: Hash,
        ctx: &CtxHash,
        envelopes: &[Envelope],
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let began = SystemTime::now();
        let result = machine.take_envelopes(ctx, envelopes);
        self.trace(study, Work::OpenEnvelopes, began);
        self.opened(study, *ctx, result)
    }

    fn opened(
        &mut self,
        study: Hash,
        ctx: CtxHash,
        result: Result<Unsent<Vec<DealerVerdict>>, SiteRefusal>,
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let proof = self.keeping.persist(machine, &mut self.book)?;
        match result {
            Ok(unsent) => {
                let verdicts = unsent.open(&proof)?;
                if !verdicts.is_empty() {
                    case.say(Topic::Opened, SiteMessage::Opened { ctx, verdicts });
                }
                Ok(Taken::Done)
            }
            Err(refusal) => self.refuse_in_attempt(study, &refusal, None, None),
        }
    }

    /// Survivors, to be checked and signed.
    pub(super) fn survivors(
        &mut self,
        study: Hash,
        ctx: &CtxHash,
        survivors: &Survivors,
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let began = SystemTime::now();
        let result = machine.sign(ctx, survivors, &mut self.book);
        let proof = self.keeping.persist(machine, &mut self.book)?;
        let attempt = machine.current().map(|(context, ..)| context.attempt);
        match result {
            Ok(unsent) => {
                let signature = unsent.open(&proof)?;
                self.spend_consent(study)?;
                let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
                case.say(Topic::Signature, SiteMessage::Signature(signature));
                self.trace(study, Work::SignSurvivors, began);
                self.note(Event::Signed { study, attempt: attempt.map_or(0, Attempt::get) })?;
                Ok(Taken::Done)
            }
            Err(refusal) => {
                let about = machine.current().and_then(|(context, ..)| question_about(&self.book, context));
                self.refuse_in_attempt(study, &refusal, attempt, about)
            }
        }
    }

    /// Enough survivors have signed: give shares and seeds.
    pub(super) fn unmask(&mut self, study: Hash, request: &UnmaskRequest) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let began = SystemTime::now();
        let result = machine.answer(request, &mut self.book);
        let proof = self.keeping.persist(machine, &mut self.book)?;
        let attempt = machine.current().map(|(context, ..)| context.attempt);
        match result {
            Ok(unsent) => {
                let answer = unsent.open(&proof)?;
                self.spend_consent(study)?;
                let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
                case.say(Topic::Answer, SiteMessage::Answer(answer));
                self.trace(study, Work::Answer, began);
                self.note(Event::Answered { study, attempt: attempt.map_or(0, Attempt::get) })?;
                Ok(Taken::Done)
            }
            Err(refusal) => self.refuse_in_attempt(study, &refusal, attempt, None),
        }
    }

    fn refuse_in_attempt(
        &mut self,
        study: Hash,
        refusal: &SiteRefusal,
        attempt: Option<Attempt>,
        about: Option<Question>,
    ) -> anyhow::Result<Taken> {
        self.raise(study, refusal)?;
        if is_about_repeating(refusal)
            && let Some(case) = self.cases.get_mut(&study)
        {
            case.asked = about;
        }
        Ok(match refusal {
            refusal if refusal.is_temporary() => Taken::Park,
            // About an attempt that this site has left behind: there is nothing to be said about it any more.
            SiteRefusal::Superseded(_) | SiteRefusal::UnknownAttempt => Taken::Done,
            refusal => Taken::Refused { reason: decline_of(refusal), attempt, why: refusal.to_string() },
        })
    }

    /// Notes a finished piece of work for the round's trace.
    fn trace(&mut self, study: Hash, work: Work, began: SystemTime) {
        if let Some(case) = self.cases.get(&study)
            && !case.parent.is_empty()
            && let Some((context, ..)) = case.machine.as_ref().and_then(|machine| machine.current())
        {
            self.out.push(FromVault::Span(span(work, &case.parent, context.attempt.get(), began)));
        }
    }
}

/// The clause of the policy, changed since, in which it asks for more than the study was accepted with.
fn stricter(policy: &Policy, record: &StudyRecord) -> Option<&'static str> {
    policy.terms(record.plan()).stricter_than(&record.accepted_terms()?)
}

/// Whether a person's consent would change the answer.
fn is_about_repeating(refusal: &SiteRefusal) -> bool {
    let own_terms =
        matches!(refusal, SiteRefusal::Inconsistent(Inconsistent::Terms { unmet: UnmetTerms::Repeat, .. }));
    own_terms || matches!(refusal, SiteRefusal::RepeatRule)
}

/// The attempt that the site is in, if it is this one.
fn current_attempt(case: &Case, attempt: u32) -> Option<Attempt> {
    let (context, ..) = case.machine.as_ref()?.current()?;
    (context.attempt.get() == attempt).then_some(context.attempt)
}
