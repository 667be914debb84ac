//! Where the simulated hospitals work: all those of a Selection at once, each on one thread.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use consilium_learning::TrainError;
use consilium_rounds::control::{OwnVariate, correction};
use consilium_rounds::local::{Trained, Work};
use consilium_rounds::metrics::EvaluationCounts;
use consilium_rounds::reason::Withdrawal;
use consilium_secagg::context::Context;
use consilium_secagg::numbering::Attempt;
use consilium_site_agent::contribution::{
    LocalLayers, LocalUpdate, evaluation_counts, local_update, losses, put_own,
};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::engine::Shelf;
use super::hospitals::{Hospital, Hospitals};
use super::hostile::Hostile;
use crate::demo::progress::Story;

/// How often the line of progress is redrawn.
const REDRAW: Duration = Duration::from_millis(200);

/// What came of the work of each site.
type Outcomes<T> = Vec<(SiteName, Result<T, Withdrawal>)>;

/// Pools with one thread each. Sums over threads depend on their number, and one is what an agent uses unless
/// its configuration says otherwise; so a site gets the same bytes here, however many work at once.
pub(crate) struct Crew(Vec<ThreadPool>);

impl Crew {
    /// One pool for each processor.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build().context("starting a thread");
        Ok(Self((0..count).map(pool).collect::<anyhow::Result<_>>()?))
    }

    /// Does one piece of work on one thread.
    pub(crate) fn alone<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0[0].install(work)
    }

    /// Does a piece of work for each item, as many at once as there are threads.
    fn each<I: Sync, T: Send>(&self, items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for pool in self.0.iter().take(items.len()) {
                scope.spawn(|| {
                    loop {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let Some(item) = items.get(place) else { return };
                        let result = pool.install(|| work(item));
                        done.lock().expect("no thread panics while it holds the list").push((place, result));
                    }
                });
            }
        });
        let mut done = done.into_inner().expect("a thread that panicked has ended the scope");
        done.sort_by_key(|(place, _)| *place);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// What sites made of one starting model. An attempt that is made again finds it here.
struct Batch<T> {
    of: Option<(Hash, Option<Hash>, Option<Hash>, u32)>,
    done: BTreeMap<SiteName, Result<T, Withdrawal>>,
}

impl<T: Clone> Batch<T> {
    const fn new() -> Self {
        Self { of: None, done: BTreeMap::new() }
    }

    /// Forgets what belongs to another model or round, and returns the members that still have to work.
    fn open<'c>(&mut self, context: &'c Context) -> Vec<&'c SiteName> {
        let control = context.control.as_ref().map(|control| control.mean);
        let of = Some((context.model, context.baseline, control, context.round.get()));
        if self.of != of {
            *self = Self { of, done: BTreeMap::new() };
        }
        let members = context.selection.members().iter().map(|member| &member.site);
        members.filter(|site| !self.done.contains_key(*site)).collect()
    }

    fn of(&self, site: &SiteName) -> Result<T, Withdrawal> {
        self.done.get(site).cloned().unwrap_or(Err(Withdrawal::NoData))
    }
}

/// All hospitals and what they made last.
pub(super) struct Bench<'a> {
    study: &'a Study,
    hospitals: &'a Hospitals,
    crew: &'a Crew,
    shelf: Shelf,
    story: &'a Story,
    trained: Batch<LocalUpdate>,
    evaluated: Batch<EvaluationCounts>,
    /// Each hospital's own numbers in local layers.
    own: BTreeMap<SiteName, LocalLayers>,
    /// Each hospital's control variate.
    variates: Variates,
    /// Time spent on it since it was last asked.
    busy: Duration,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        study: &'a Study,
        hospitals: &'a Hospitals,
        crew: &'a Crew,
        shelf: Shelf,
        story: &'a Story,
    ) -> Self {
        let (trained, evaluated) = (Batch::new(), Batch::new());
        let (own, variates, busy) = (BTreeMap::new(), Variates::new(), Duration::ZERO);
        Self { study, hospitals, crew, shelf, story, trained, evaluated, own, variates, busy }
    }

    /// The plain update of a site in the current round. Only a simulation has one.
    pub(super) fn update(&self, site: &SiteName) -> Option<&LocalUpdate> {
        self.trained.done.get(site)?.as_ref().ok()
    }

    /// The local layers of each hospital that has trained, as they are now.
    pub(super) fn own(&self) -> BTreeMap<SiteName, Vec<f32>> {
        self.own.iter().map(|(site, own)| (site.clone(), own.after.clone())).collect()
    }

    /// Time that local work took since this was last asked.
    pub(super) fn take_busy(&mut self) -> Duration {
        std::mem::take(&mut self.busy)
    }

    fn train(&mut self, site: &SiteName, context: &Context) -> Result<LocalUpdate, Withdrawal> {
        let waiting = self.trained.open(context);
        if !waiting.is_empty() {
            let start = self.shelf.get(&context.model).ok_or(Withdrawal::ModelUnavailable)?;
            let mean = self.mean(context)?;
            let redraw = Mutex::new(None::<Instant>);
            let (took, done) = self.work(waiting, |site, hospital| {
                if hospital.train.is_empty() {
                    return Err(Withdrawal::NothingToTrainOn);
                }
                let mut progress = |at: consilium_learning::Progress<'_>| {
                    if is_due(&redraw) {
                        let round = context.round.get();
                        self.story.progress(&format!(
                            "round {round}: {site} trains, step {} of {}",
                            at.step, at.steps
                        ));
                    }
                    ControlFlow::Continue(())
                };
                let own = self.own.get(site).and_then(|own| own.at_start(context.round, context.model));
                let mut start = start.to_vec();
                put_own(&self.study.model, &mut start, own);
                let before = begun(&self.variates, site, context)?.map(|(_, own)| own);
                let correction = mean.as_ref().map(|mean| correction(&self.study.model, mean, before));
                let (study, round, cases) = (self.study, context.round, &hospital.train);
                let correction = correction.as_deref();
                local_update(study, site, round, &start, correction, cases, &mut progress).map_err(
                    |error: TrainError| {
                        self.story.tell(&format!("{site}: {error}"));
                        Withdrawal::TrainingFailed
                    },
                )
            });
            self.busy += took;
            for (site, result) in &done {
                if let Ok(LocalUpdate { own, .. }) = result
                    && !own.is_empty()
                {
                    self.keep(site, context, own);
                }
            }
            self.trained.done.extend(done);
        }
        self.trained.of(site)
    }

    /// The mean that steps are corrected by, where there is one.
    fn mean(&self, context: &Context) -> Result<Option<Arc<[f32]>>, Withdrawal> {
        let mean = context.control.as_ref().map(|control| self.shelf.get(&control.mean));
        mean.map(|mean| mean.ok_or(Withdrawal::ModelUnavailable)).transpose()
    }

    /// Keeps what follows from the update of a hospital that is summed.
    fn sent(&mut self, site: &SiteName, context: &Context, sent: &[f32]) {
        let (Ok(mean), Ok(before)) = (self.mean(context), begun(&self.variates, site, context)) else {
            return;
        };
        let own = before.map(|(_, own)| own);
        let correction = mean.map(|mean| correction(&self.study.model, &mean, own));
        let after = OwnVariate::after(self.study, context, before, correction.as_deref(), sent);
        self.variates.insert(site.clone(), after);
    }

    /// Keeps what a training made of a hospital's local layers.
    fn keep(&mut self, site: &SiteName, context: &Context, after: &[f32]) {
        let (round, start) = (context.round, context.model);
        let before = self.own.get(site).and_then(|own| own.at_start(round, start)).map(<[f32]>::to_vec);
        let own = LocalLayers { study: self.study.hash(), round, start, before, after: after.to_vec() };
        self.own.insert(site.clone(), own);
    }

    fn evaluate(&mut self, site: &SiteName, context: &Context) -> Result<EvaluationCounts, Withdrawal> {
        let waiting = self.evaluated.open(context);
        if !waiting.is_empty() {
            let model = self.shelf.get(&context.model).ok_or(Withdrawal::ModelUnavailable)?;
            let baseline = context
                .baseline
                .map(|baseline| self.shelf.get(&baseline).ok_or(Withdrawal::ModelUnavailable));
            let baseline = baseline.transpose()?;
            let (took, done) = self.work(waiting, |site, hospital| {
                if hospital.held_out.is_empty() {
                    return Err(Withdrawal::NothingHeldOut);
                }
                let own = self.own.get(site).map(|own| own.after.as_slice());
                let with_own = |model: &[f32]| {
                    let mut model = model.to_vec();
                    put_own(&self.study.model, &mut model, own);
                    model
                };
                let identity = self.study.model_identity();
                let start = |baseline| losses(&identity, &with_own(baseline), &hospital.held_out);
                let start = baseline.as_deref().map(start).transpose();
                start
                    .and_then(|start| {
                        evaluation_counts(self.study, &with_own(&model), start.as_deref(), &hospital.held_out)
                    })
                    .map_err(|_| Withdrawal::TrainingFailed)
            });
            self.busy += took;
            self.evaluated.done.extend(done);
        }
        self.evaluated.of(site)
    }

    /// Lets these sites work, the largest first so that no processor waits long for the last.
    fn work<T: Send>(
        &self,
        mut sites: Vec<&SiteName>,
        work: impl Fn(&SiteName, &Hospital) -> Result<T, Withdrawal> + Sync,
    ) -> (Duration, Outcomes<T>) {
        let began = Instant::now();
        let hospitals = self.hospitals;
        let size = |site: &SiteName| match hospitals.get(site) {
            Some(Ok(hospital)) => hospital.train.len(),
            Some(Err(_)) | None => 0,
        };
        sites.sort_by_key(|site| Reverse(size(site)));
        let results = self.crew.each(&sites, |site| match hospitals.get(*site) {
            Some(Ok(hospital)) => work(site, hospital),
            Some(Err(cause)) => Err(*cause),
            None => Err(Withdrawal::NoData),
        });
        (began.elapsed(), sites.into_iter().cloned().zip(results).collect())
    }
}

/// Each hospital's control variate.
type Variates = BTreeMap<SiteName, OwnVariate>;

/// The variate that a hospital's training begins with.
fn begun<'v>(
    variates: &'v Variates,
    site: &SiteName,
    context: &Context,
) -> Result<Option<(Attempt, &'v [f32])>, Withdrawal> {
    let place = context.selection.index_of(site).ok_or(Withdrawal::NoData)?;
    OwnVariate::at_start(variates.get(site), context, place).map_err(|_| Withdrawal::VariateLost)
}

fn is_due(last: &Mutex<Option<Instant>>) -> bool {
    let Ok(mut last) = last.try_lock() else { return false };
    let due = last.is_none_or(|last| last.elapsed() >= REDRAW);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// One site's place at the bench.
pub(super) struct Desk<'b, 'a> {
    pub(super) site: SiteName,
    pub(super) bench: &'b RefCell<Bench<'a>>,
    pub(super) hostile: Option<&'a Hostile>,
}

impl Work for Desk<'_, '_> {
    fn train(&mut self, context: &Context) -> Result<Trained, Withdrawal> {
        let LocalUpdate { update, mean_loss, .. } = self.bench.borrow_mut().train(&self.site, context)?;
        // The engine's clock does not move meanwhile, so there is no time to take off the round's.
        Ok(Trained { update, mean_loss, busy_ms: 0 })
    }

    fn evaluate(&mut self, context: &Context) -> Result<EvaluationCounts, Withdrawal> {
        self.bench.borrow_mut().evaluate(&self.site, context)
    }

    fn sent(&mut self, context: &Context, sent: &[f32]) {
        self.bench.borrow_mut().sent(&self.site, context, sent);
    }

    fn tamper(&mut self, context: &Context, words: &mut [u32]) {
        if let Some(hostile) = self.hostile {
            hostile.tamper(&self.site, context, words);
        }
    }
}
