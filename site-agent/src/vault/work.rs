//! The heavy work of the vault, on a thread of its own: reading data, training, scoring, masking.
//!
//! The rest of the vault stays responsive meanwhile. What comes back is an [`Outcome`]; a plain update
//! leaves this thread only as the vector that is masked next, and no file ever holds it. What files do hold are a site's
//! own numbers in local layers, which are in no sum, and its control variate ([`super::variates`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use consilium_learning::score::ScoreError;
use consilium_learning::{ModelFile, release, threads};
use consilium_memory::trim;
use consilium_rounds::control::OwnVariate;
use consilium_rounds::message::Stage;
use consilium_rounds::metrics::TrainCounts;
use consilium_rounds::reason::{Decline, Withdrawal};
use consilium_secagg::context::{Context, Purpose};
use consilium_secagg::masker::{MaskedVector, Masker};
use consilium_secagg::quantiser::{ClippedUpdate, RoundingKey, encode_counts, encode_on};
use consilium_study::canonical::Canonical as _;
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::model_file::ModelFileError;
use consilium_study::name::SiteName;
use zeroize::Zeroizing;

use super::cases::{Found, criteria};
use super::limits::{distance, furthest, most_loss};
use super::record::Reference;
use super::trainer::Trainer;
use crate::contribution::{LocalLayers, enough, evaluation_counts, losses, put_own};
use crate::data::{Cache, Cohort, Decoder, LoadError, Room, Source, SplitKey, load};
use crate::folder::StudyFolder;
use crate::gpu::Training;
use crate::pipe::message::{Span, Work};
use crate::store::{Kind, Store, StoreError};

/// How often progress is told at most.
pub(super) const TELL_AFTER: Duration = Duration::from_secs(1);

/// Something for the worker to do.
pub(super) enum Job {
    /// Read the data of a study for the first time.
    Load(Arc<Study>),
    /// Make the vector of an attempt.
    Attempt(Box<AttemptJob>),
    /// Mask a vector into its spool.
    Spool(Box<SpoolJob>),
    /// The study is over: forget its cases.
    Forget(Hash),
    /// No study is left that this site has accepted: remove decoded pictures.
    EmptyCache,
}

/// Everything the vector of an attempt follows from.
pub(super) struct AttemptJob {
    pub(super) study: Arc<Study>,
    pub(super) context: Context,
    /// The site's weight in the study.
    pub(super) weight: u32,
    /// The files of the attempt's models, [`super::fetching::models_of`] it.
    pub(super) models: BTreeMap<Hash, PathBuf>,
    /// The starting model that was accepted last.
    pub(super) reference: Option<Reference>,
    /// Its file, if it is still here.
    pub(super) last: Option<PathBuf>,
    /// Where what the site keeps of the study is.
    pub(super) folder: StudyFolder,
    /// Set when the attempt is over or the study pauses.
    pub(super) stop: Arc<AtomicBool>,
    /// W3C trace context of the round.
    pub(super) parent: String,
}

/// A vector that is masked chunk by chunk.
pub(super) struct SpoolJob {
    pub(super) study: Hash,
    pub(super) attempt: u32,
    pub(super) masker: Masker,
    pub(super) spool: PathBuf,
    /// What training leaves at the site, and where.
    pub(super) kept: Kept,
    pub(super) folder: StudyFolder,
    pub(super) parent: String,
}

/// What the worker reports.
pub(super) enum Outcome {
    /// The data of a study was read, or could not be.
    Loaded { study: Hash, found: Result<Found, LoadError> },
    /// Work goes on.
    Progress { study: Hash, attempt: u32, stage: Stage, done: u64, total: u64 },
    /// The vector of an attempt, or why there is none.
    Worked { study: Hash, attempt: u32, result: Result<Vector, Halt> },
    /// A spool is complete and flushed.
    Spooled { study: Hash, attempt: u32, masked: Result<Box<MaskedVector>, StoreError> },
    /// A finished piece of work, for the trace.
    Span(Span),
}

/// What a site contributes, before it is masked.
pub(super) struct Vector {
    /// Wiped when it is dropped, as when the attempt is over before it can be masked.
    pub(super) words: Zeroizing<Vec<u32>>,
    /// The starting model, if it was judged for the first time.
    pub(super) reference: Option<Reference>,
    pub(super) kept: Kept,
    pub(super) busy: Duration,
}

/// What a training leaves at the site besides its vector.
#[derive(Default)]
pub(super) struct Kept {
    /// In a study with local layers.
    pub(super) own: Option<LocalLayers>,
    /// In a study whose sites correct their steps.
    pub(super) variate: Option<Box<OwnVariate>>,
}

impl Kept {
    fn write(&self, store: &dyn Store, folder: &StudyFolder) -> Result<(), StoreError> {
        if let Some(own) = &self.own {
            store.replace(Kind::LocalLayers, &folder.local_layers(), &own.to_canonical())?;
        }
        if let Some(variate) = &self.variate {
            store.replace(Kind::ControlVariate, &folder.control_variate(), &variate.to_canonical())?;
        }
        Ok(())
    }
}

impl Vector {
    fn of(words: Vec<u32>) -> Self {
        Self { words: Zeroizing::new(words), reference: None, kept: Kept::default(), busy: Duration::ZERO }
    }
}

/// Why an attempt has no vector here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// The site sits it out.
    Withdraw(Withdrawal),
    /// The same, with words for its own screen.
    SitOut(Withdrawal, String),
    /// The site will not do it: the reason for all, and the words for its own screen.
    Decline(Decline, String),
    /// It was told to stop.
    Stopped,
}

/// What the worker needs for every job.
pub(super) struct Bench {
    pub(super) site: SiteName,
    pub(super) source: Source,
    pub(super) split: SplitKey,
    pub(super) decoder: Decoder,
    /// Where decoded pictures lie; opened while files are read, so that `data check` may write there at other times.
    pub(super) cache: Room,
    pub(super) store: Arc<dyn Store>,
    /// Least labelled, usable cases, by study.
    pub(super) minimum_cases: Box<dyn Fn(&Study) -> u32 + Send>,
    pub(super) trap_factor: f64,
    pub(super) trainer: Trainer,
}

/// Does jobs one after the other until there are no more.
pub(super) fn run<E>(bench: Bench, jobs: &Receiver<Job>, outcomes: &SyncSender<E>)
where
    E: From<Outcome>,
{
    // What a newer configuration or loader has no room for goes now, not with the next study.
    drop(bench.open_cache());
    let mut worker = Worker { bench, cohorts: BTreeMap::new() };
    while let Ok(job) = jobs.recv() {
        // A closed channel means that the vault ends, and this thread with it.
        worker.perform(job, &|outcome| drop(outcomes.send(outcome.into())));
        // A machine that waits for the next round has its memory for something else.
        release();
        trim();
    }
}

/// The worker, with the cohorts it has read.
pub(super) struct Worker {
    pub(super) bench: Bench,
    pub(super) cohorts: BTreeMap<Hash, Cohort>,
}

impl Worker {
    /// Does one job and tells what comes of it.
    pub(super) fn perform(&mut self, job: Job, tell: &dyn Fn(Outcome)) {
        let Self { bench, cohorts } = self;
        match job {
            Job::Load(study) => {
                let found = bench.load(&study, cohorts, &mut |_, _| {}).map(|cohort| Found {
                    counts: cohort.counts,
                    train: cohort.train.parts(study.data.task, study.model.classes()),
                });
                tell(Outcome::Loaded { study: study.hash(), found });
            }
            Job::Attempt(job) => {
                let (study, attempt) = (job.study.hash(), job.context.attempt.get());
                let mut ticker = Ticker { last: None, study, attempt, tell };
                let result = bench.attempt(&job, cohorts, &mut ticker);
                tell(Outcome::Worked { study, attempt, result });
            }
            Job::Spool(job) => {
                let SpoolJob { study, attempt, masker, spool, kept, folder, parent } = *job;
                let began = SystemTime::now();
                // First what the site keeps: whatever can be sent has left its trace there.
                let masked = kept
                    .write(&*bench.store, &folder)
                    .and_then(|()| write_spool(&*bench.store, masker, &spool))
                    .map(Box::new);
                tell(Outcome::Span(span(Work::Mask, &parent, attempt, began)));
                tell(Outcome::Spooled { study, attempt, masked });
            }
            Job::Forget(study) => {
                cohorts.remove(&study);
                bench.trainer.forget(&study);
            }
            Job::EmptyCache => {
                if let Err(error) = bench.cache.empty() {
                    tracing::warn!(%error, "decoded pictures of studies that are over could not all be removed");
                }
            }
        }
    }
}

/// Tells progress, but not too often.
struct Ticker<'a> {
    last: Option<(Stage, Instant)>,
    study: Hash,
    attempt: u32,
    tell: &'a dyn Fn(Outcome),
}

impl Ticker<'_> {
    /// Tells per cents: how many steps or files there are in all would tell how many cases a hospital has.
    fn tick(&mut self, stage: Stage, done: u64, total: u64) {
        let now = Instant::now();
        let due = self.last.is_none_or(|(last, at)| last != stage || now.duration_since(at) >= TELL_AFTER);
        if due || done == total {
            self.last = Some((stage, now));
            let (study, attempt) = (self.study, self.attempt);
            let done = done.saturating_mul(100) / total.max(1);
            (self.tell)(Outcome::Progress { study, attempt, stage, done, total: 100 });
        }
    }
}

impl Bench {
    /// Decoded pictures are a convenience: without them files are decoded again.
    fn open_cache(&self) -> Option<Cache> {
        let cache = self.cache.open();
        cache.map_err(|error| tracing::warn!(%error, "decoded pictures are not kept")).ok()
    }

    /// The cohort of a study, read once per life of the vault.
    fn load<'a>(
        &mut self,
        study: &Study,
        cohorts: &'a mut BTreeMap<Hash, Cohort>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<&'a Cohort, LoadError> {
        match cohorts.entry(study.hash()) {
            std::collections::btree_map::Entry::Occupied(loaded) => Ok(loaded.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                let criteria =
                    criteria(study).expect("the check of a study admits only sizes that can be made");
                let cache = self.open_cache();
                let cohort = load(
                    &self.source,
                    &criteria,
                    &self.split,
                    &mut self.decoder,
                    cache.as_ref(),
                    &mut |at| progress(at.done, at.total),
                )?;
                Ok(place.insert(cohort))
            }
        }
    }

    fn attempt(
        &mut self,
        job: &AttemptJob,
        cohorts: &mut BTreeMap<Hash, Cohort>,
        ticker: &mut Ticker<'_>,
    ) -> Result<Vector, Halt> {
        let began = Instant::now();
        let study = &job.study;
        let least = (self.minimum_cases)(study);
        let (site, trap_factor) = (self.site.clone(), self.trap_factor);
        let (own, variate) = (self.own_layers(job)?, self.own_variate(job)?);
        let cohort = self
            .load(study, cohorts, &mut |done, total| ticker.tick(Stage::Loading, done, total))
            .map_err(|error| {
            tracing::warn!(study = study.hash().short(), "{error}");
            Halt::Withdraw(Withdrawal::NoData)
        })?;
        enough(study, least, &cohort.counts).map_err(Halt::Withdraw)?;
        let (own, variate) = (own.as_ref(), variate.as_ref());
        let task = Task { study, site: &site, cohort, job, own, variate, trap_factor };
        let vector = match job.context.purpose {
            Purpose::Train => task.train(&mut self.trainer, ticker)?,
            Purpose::Evaluate => Vector::of(task.evaluate(ticker)?),
            Purpose::Statistics => {
                return Err(Halt::Decline(Decline::Context, "nothing of this kind is summed".to_owned()));
            }
        };
        Ok(Vector { busy: began.elapsed(), ..vector })
    }
}

/// One attempt, its data at hand.
pub(super) struct Task<'a> {
    pub(super) study: &'a Study,
    pub(super) site: &'a SiteName,
    cohort: &'a Cohort,
    pub(super) job: &'a AttemptJob,
    own: Option<&'a LocalLayers>,
    pub(super) variate: Option<&'a OwnVariate>,
    trap_factor: f64,
}

impl Task<'_> {
    fn train(&self, trainer: &mut Trainer, ticker: &mut Ticker<'_>) -> Result<Vector, Halt> {
        let AttemptJob { context, weight, stop, parent, reference: last, .. } = self.job;
        if self.cohort.train.is_empty() {
            return Err(Halt::Withdraw(Withdrawal::NothingToTrainOn));
        }
        let before = self.own.and_then(|own| own.at_start(context.round, context.model));
        let start = self.model(&context.model, before)?;
        let correction = self.correction()?;
        let began = SystemTime::now();
        let reference = self.judge(&start)?;
        let (study, site, round) = (self.study, self.site, context.round);
        let (start, cases, entries) = (&start, &self.cohort.train, correction.entries.as_deref());
        let training = Training { study, site, round, start, cases, correction: entries };
        // The reference is written down before the receipt of a vector that was trained from it.
        let given = last.is_some_and(|last| last.model == context.model);
        let trained = trainer.update(training, context.model, given, &mut |step, steps| {
            ticker.tick(Stage::Training, step, steps);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (ticker.tell)(Outcome::Span(span(Work::Train, parent, ticker.attempt, began)));
        let trained = trained?;
        let rounding = RoundingKey::new(self.study.seed, self.site, context.round);
        let counts = TrainCounts::new(trained.mean_loss, *weight).to_words();
        let unsummed = |error: &dyn std::fmt::Display| {
            tracing::warn!(study = self.study.hash().short(), %error, "the update cannot be summed");
            Halt::Withdraw(Withdrawal::TrainingFailed)
        };
        let words = ClippedUpdate::clip(trained.update, &context.layout, context.clip_norm)
            .and_then(|clipped| encode_on(threads(), context, *weight, clipped, &counts, &rounding))
            .map_err(|error| unsummed(&error))?;
        let variate = self.next_variate(&correction, &words).map_err(|error| unsummed(&error))?;
        let own = (!trained.own.is_empty()).then(|| LocalLayers {
            study: self.study.hash(),
            round: context.round,
            start: context.model,
            before: before.map(<[f32]>::to_vec),
            after: trained.own,
        });
        Ok(Vector { reference, kept: Kept { own, variate }, ..Vector::of(words) })
    }

    /// Whether a model with this loss here is too bad to train from. A site that has not trained yet has nothing to
    /// compare with, and declines nothing.
    fn is_too_bad(&self, loss: f64) -> bool {
        let data = &self.study.data;
        let last = self.job.reference.and_then(|last| last.loss);
        last.is_some_and(|last| loss > most_loss(last, self.trap_factor, data.task, data.labels.len()))
    }

    /// Refuses a starting model that is further from the last one than the rounds since then can have moved it.
    fn check_movement(&self, start: &[f32]) -> Result<(), Halt> {
        let (Some(last), Some(file)) = (self.job.reference, &self.job.last) else { return Ok(()) };
        let rounds = self.job.context.round.get().saturating_sub(last.round.get()).max(1);
        let (moved, most) = (distance(self.study, start, &self.read(file)?), furthest(self.study, rounds));
        if moved <= most {
            return Ok(());
        }
        let words = format!(
            "declines a starting model that no honest sum leads to: it is {moved:.3} away from the one of round {}, \
             and {rounds} rounds of this study move a model by at most {most:.3}. Tell the consortium: the \
             coordinator may be lying, or a hospital sends updates that are not clipped",
            last.round.get()
        );
        Err(Halt::Decline(Decline::Model, words))
    }

    /// Refuses a starting model that is much worse here than the last one: a trap that makes single cases
    /// show in the update is one. The coordinator heard in the evaluation how many would refuse it, so an honest
    /// one goes on with what was evaluated only where enough are left.
    fn judge(&self, start: &[f32]) -> Result<Option<Reference>, Halt> {
        let (model, round) = (self.job.context.model, self.job.context.round);
        let last = self.job.reference;
        if last.is_some_and(|last| last.model == model) {
            return Ok(None);
        }
        self.check_movement(start)?;
        if self.cohort.held_out.is_empty() {
            return Ok(Some(Reference { model, loss: None, round }));
        }
        let losses = self.losses(start)?;
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        let first = model == self.study.initial_model();
        if let Some(last) = last.and_then(|last| last.loss)
            && !first
            && self.is_too_bad(loss)
        {
            let words = format!(
                "declines a starting model that is much worse here than the last: loss {loss:.2} after {:.2}; \
                 policy.trap_factor = {} sets the limit. Ask the consortium for a smaller learning rate, or raise \
                 the limit in site.toml and start the agent again",
                last, self.trap_factor
            );
            return Err(Halt::Decline(Decline::Model, words));
        }
        Ok(Some(Reference { model, loss: Some(loss), round }))
    }

    fn evaluate(&self, ticker: &mut Ticker<'_>) -> Result<Vec<u32>, Halt> {
        let AttemptJob { context, parent, .. } = self.job;
        if self.cohort.held_out.is_empty() {
            return Err(Halt::Withdraw(Withdrawal::NothingHeldOut));
        }
        let began = SystemTime::now();
        ticker.tick(Stage::Evaluating, 0, 2);
        let own = self.own.map(|own| own.after.as_slice());
        let start = match &context.baseline {
            Some(baseline) => Some(self.losses(&self.model(baseline, own)?)?),
            None => None,
        };
        ticker.tick(Stage::Evaluating, 1, 2);
        let candidate = self.model(&context.model, own)?;
        let counts = evaluation_counts(self.study, &candidate, start.as_deref(), &self.cohort.held_out);
        let mut counts = counts.map_err(|error| self.unscored(&error))?;
        if counts.figures().is_some_and(|figures| self.is_too_bad(figures.loss)) {
            counts.decline();
        }
        ticker.tick(Stage::Evaluating, 2, 2);
        (ticker.tell)(Outcome::Span(span(Work::Evaluate, parent, ticker.attempt, began)));
        encode_counts(context, &counts.to_words()).map_err(|error| {
            tracing::warn!(study = self.study.hash().short(), %error, "the counts cannot be summed");
            Halt::Withdraw(Withdrawal::TrainingFailed)
        })
    }

    /// A model of the attempt, with the site's own numbers in its local layers. What the study does not average has to be as
    /// in the initial model: frozen layers that move would carry whatever a coordinator puts there, past every bound on
    /// updates.
    fn model(&self, hash: &Hash, own: Option<&[f32]>) -> Result<Vec<f32>, Halt> {
        let mut model = self.read(self.file(hash)?)?;
        if !self.study.model.has_fixed() {
            return Ok(model);
        }
        let initial = self.read(self.file(&self.study.initial_model())?)?;
        match self.study.model.altered(&initial, &model) {
            None => {
                put_own(&self.study.model, &mut model, own);
                Ok(model)
            }
            Some(block) => {
                let words = format!(
                    "declines a model that no honest sum leads to: {} is {} in this study and not as in the initial model. \
                     Tell the consortium: the coordinator may be lying",
                    block.name(),
                    block.treatment().name()
                );
                Err(Halt::Decline(Decline::Model, words))
            }
        }
    }

    /// The file of a model of the attempt.
    pub(super) fn file(&self, hash: &Hash) -> Result<&PathBuf, Halt> {
        self.job.models.get(hash).ok_or(Halt::Withdraw(Withdrawal::ModelUnavailable))
    }

    /// Reads a model file and checks that it is of this study's graph.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<f32>, Halt> {
        let file = File::open(path).map_err(|_| Halt::Withdraw(Withdrawal::ModelUnavailable))?;
        let identity = self.study.model_identity();
        ModelFile::read(file).and_then(|file| file.expect(&identity)).map_err(|error| {
            tracing::warn!(study = self.study.hash().short(), %error, "the model is not one of this study");
            match error {
                ModelFileError::Io(_) => Halt::Withdraw(Withdrawal::ModelUnavailable),
                error => {
                    Halt::Decline(Decline::Model, format!("the model is not one of this study: {error}"))
                }
            }
        })
    }

    /// Clipped cross-entropy of each held-out case.
    fn losses(&self, model: &[f32]) -> Result<Vec<f64>, Halt> {
        losses(&self.study.model_identity(), model, &self.cohort.held_out)
            .map_err(|error| self.unscored(&error))
    }

    fn unscored(&self, error: &ScoreError) -> Halt {
        tracing::warn!(study = self.study.hash().short(), %error, "the held-out cases cannot be scored");
        Halt::Withdraw(Withdrawal::TrainingFailed)
    }
}

/// Masks a vector into a file. The file has its name only when all of it is flushed.
fn write_spool(store: &dyn Store, mut masker: Masker, path: &Path) -> Result<MaskedVector, StoreError> {
    let mut spool = store.stage(Kind::Spool, path)?;
    while let Some(chunk) = masker.next_chunk() {
        spool.write(chunk.bytes)?;
    }
    spool.commit()?;
    Ok(masker.finish().expect("every chunk was taken"))
}

pub(super) fn span(work: Work, parent: &str, attempt: u32, began: SystemTime) -> Span {
    let nanos = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    Span {
        work,
        parent: parent.to_owned(),
        start_ns: nanos(began),
        end_ns: nanos(SystemTime::now()),
        attempt,
    }
}
