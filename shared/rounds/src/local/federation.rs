//! Drives a study from its proposal to its release.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consilium_secagg::numbering::Attempt;
use consilium_study::hash::Hash;
use consilium_study::name::{PersonName, Principal, SiteName};
use consilium_study::sign::SigningKey;

use super::site::{LocalSite, Reply, Work};
use crate::event::{Act, Effect, Event, Notice, SumRefused, Summed};
use crate::message::{Directive, DirectiveId, Letter, SiteMessage, StudyState};
use crate::metrics::Figures;
use crate::record::{Record, Release};
use crate::status::Wait;
use crate::sum::{Sum, SumJob, sum};
use crate::{StudyMachine, Timestamp};

/// Where models are kept.
pub trait Models {
    /// The parameters behind a hash, shape `[params]`.
    fn read(&self, model: &Hash) -> Option<Vec<f32>>;
    /// Keeps parameters and names them.
    fn write(&mut self, parameters: Vec<f32>) -> Hash;
    /// Bytes that travel when a site fetches it.
    fn bytes(&self, model: &Hash) -> u64 {
        self.read(model).map_or(0, |parameters| 4 * parameters.len() as u64)
    }
}

/// So many attempts in a row may be given up before the study counts as stuck: whatever makes them fail does
/// not pass by itself.
const PATIENCE: u32 = 64;

/// The study waits for something that nobody in this process will do. Whoever shows it says what, for whom and why.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the study waits for what nobody in this process will do")]
pub struct Stuck(pub Vec<Wait>);

/// A study with all its sites.
pub struct Federation<M> {
    machine: StudyMachine,
    key: SigningKey,
    sites: Vec<LocalSite>,
    models: M,
    sent: BTreeMap<SiteName, BTreeSet<DirectiveId>>,
    uploads: BTreeMap<(Attempt, SiteName), Vec<Vec<u8>>>,
    pending: VecDeque<Effect>,
    /// Models that each site has fetched.
    fetched: BTreeMap<SiteName, BTreeSet<Hash>>,
    /// Attempts given up since the last sum.
    given_up: u32,
    /// Time that was skipped, in milliseconds.
    skipped: u64,
}

impl<M: Models> Federation<M> {
    /// Puts a proposed study and its sites together. `key` is the coordinator's.
    pub fn new(
        (machine, effects): (StudyMachine, Vec<Effect>),
        key: SigningKey,
        sites: Vec<LocalSite>,
        models: M,
    ) -> Self {
        let (sent, uploads, fetched) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            machine,
            key,
            sites,
            models,
            sent,
            uploads,
            pending: effects.into(),
            fetched,
            given_up: 0,
            skipped: 0,
        }
    }

    /// The coordinator's machine.
    pub fn machine(&self) -> &StudyMachine {
        &self.machine
    }

    /// The models, the released one among them.
    pub fn models(&self) -> &M {
        &self.models
    }

    /// Starts the study and runs it to its release. `clock` tells the time, `work` is what each site does with
    /// its cases, `watch` sees every effect (records, lines) as it happens. Waits are skipped, not slept.
    pub fn run<W: Work>(
        &mut self,
        mut clock: impl FnMut() -> Timestamp,
        mut work: impl FnMut(&SiteName) -> W,
        mut watch: impl FnMut(&Effect),
    ) -> Result<Release, Stuck> {
        let operator = Principal::Operator(PersonName::new("local").expect("this is a name"));
        for site in self.sites.iter().map(|site| site.name().clone()).collect::<Vec<_>>() {
            self.handle(Event::Connected(site), &mut clock);
        }
        self.handle(Event::Operator { by: operator, act: Act::Start }, &mut clock);
        loop {
            let moved = self.deliver(&mut clock, &mut work) | self.perform(&mut clock, &mut watch);
            if let StudyState::Released { .. } = self.machine.state() {
                return Ok(self.machine.release().cloned().expect("a released study has a release"));
            }
            if self.given_up > PATIENCE {
                return Err(Stuck(self.machine.status().waits));
            }
            if !moved {
                self.skip_ahead(&mut clock)?;
            }
        }
    }

    fn now(&self, clock: &mut impl FnMut() -> Timestamp) -> Timestamp {
        Timestamp::from_millis(clock().as_millis().saturating_add(self.skipped))
    }

    fn handle(&mut self, event: Event, clock: &mut impl FnMut() -> Timestamp) {
        let now = self.now(clock);
        let (machine, effects) = self.machine.clone().handle(event, now, &self.key);
        self.machine = machine;
        self.pending.extend(effects);
    }

    /// Brings every site what it has not heard yet. Returns whether anything was delivered.
    fn deliver<W: Work>(
        &mut self,
        clock: &mut impl FnMut() -> Timestamp,
        work: &mut impl FnMut(&SiteName) -> W,
    ) -> bool {
        let mut moved = false;
        for index in 0..self.sites.len() {
            let name = self.sites[index].name().clone();
            for letter in self.machine.directives_for(&name) {
                let id = DirectiveId::of(&letter.to_bytes());
                if !self.sent.entry(name.clone()).or_default().insert(id) {
                    continue;
                }
                moved = true;
                self.count_down(&name, &letter, clock);
                for reply in self.sites[index].hear(&letter.message, &mut work(&name)) {
                    self.reply(&name, id, reply, clock);
                }
            }
        }
        moved
    }

    fn reply(
        &mut self,
        from: &SiteName,
        id: DirectiveId,
        reply: Reply,
        clock: &mut impl FnMut() -> Timestamp,
    ) {
        let message = match reply {
            Reply::Say(message) => message,
            Reply::Upload { attempt, chunks } => {
                let up = chunks.iter().map(|chunk| chunk.len() as u64).sum();
                self.handle(Event::Traffic { attempt, up, down: 0 }, clock);
                self.uploads.insert((attempt, from.clone()), chunks);
                return self.handle(Event::Uploaded { from: from.clone(), attempt }, clock);
            }
            Reply::Again => {
                if let Some(sent) = self.sent.get_mut(from) {
                    sent.remove(&id);
                }
                return;
            }
            // A site in this process refuses what it would refuse in a hospital.
            Reply::Refused(_) => SiteMessage::Declined {
                directive: id,
                attempt: self.attempt(),
                reason: crate::reason::Decline::Context,
            },
        };
        if let Some(attempt) = self.attempt() {
            let up = Letter { study: self.machine.study().hash(), message: message.clone() }.to_bytes().len()
                as u64;
            self.handle(Event::Traffic { attempt, up, down: 0 }, clock);
        }
        self.handle(Event::Message { from: from.clone(), message }, clock);
    }

    /// The attempt that is running.
    fn attempt(&self) -> Option<Attempt> {
        self.machine.status().attempt.and_then(|attempt| Attempt::new(attempt).ok())
    }

    /// Counts what a directive brings to a site: itself, and models that the site does not have yet.
    fn count_down(
        &mut self,
        site: &SiteName,
        letter: &Letter<Directive>,
        clock: &mut impl FnMut() -> Timestamp,
    ) {
        let mut down = letter.to_bytes().len() as u64;
        if let Directive::Begin { context } = &letter.message
            && let Ok(context) = context.claim()
        {
            let fetched = self.fetched.entry(site.clone()).or_default();
            let control = context.control.as_ref().map(|control| control.mean);
            for model in std::iter::once(context.model).chain(context.baseline).chain(control) {
                if fetched.insert(model) {
                    down += self.models.bytes(&model);
                }
            }
        }
        if let Some(attempt) = self.attempt() {
            self.handle(Event::Traffic { attempt, up: 0, down }, clock);
        }
    }

    /// Does what the machine asks for. Returns whether there was anything.
    fn perform(&mut self, clock: &mut impl FnMut() -> Timestamp, watch: &mut impl FnMut(&Effect)) -> bool {
        let mut any = false;
        // What an answer leads to is performed too, so that a line is seen before the next round begins.
        while let Some(effect) = self.pending.pop_front() {
            any = true;
            watch(&effect);
            match &effect {
                Effect::Record(record) if matches!(**record, Record::Opened(_)) => self.given_up = 0,
                Effect::Notify(Notice::Abandoned { .. }) => self.given_up += 1,
                _ => {}
            }
            match effect {
                Effect::Sum(job) => {
                    let attempt = job.context.attempt;
                    let outcome = self.sum(&job);
                    self.handle(Event::Summed { attempt, outcome }, clock);
                }
                Effect::Publish(_) => self.handle(Event::Published, clock),
                Effect::DiscardUploads { attempt, .. } => {
                    self.uploads.retain(|(of, _), _| *of != attempt);
                }
                Effect::Record(_) | Effect::Refuse { .. } | Effect::RefuseAct(_) | Effect::Notify(_) => {}
            }
        }
        any
    }

    fn sum(&mut self, job: &SumJob) -> Result<Summed, SumRefused> {
        let study = self.machine.study();
        let models: BTreeMap<_, _> = std::iter::once(job.context.model)
            .chain(job.before)
            .chain(job.moments.into_iter().flatten())
            .chain(job.context.control.as_ref().map(|control| control.mean))
            .map(|hash| (hash, self.models.read(&hash)))
            .collect();
        let model = |hash: &Hash, block: usize| {
            let range = study.model.parameters()[block].range();
            let model = models.get(hash).and_then(Option::as_ref);
            model.and_then(|model| model.get(range)).map(<[f32]>::to_vec).ok_or(SumRefused)
        };
        let attempt = job.context.attempt;
        let uploads = &self.uploads;
        let read = |site: &SiteName, index: usize| {
            uploads.get(&(attempt, site.clone())).and_then(|chunks| chunks.get(index)).ok_or(SumRefused)
        };
        match sum(study, job, 1, read, model).map_err(|_| SumRefused)? {
            Sum::Train { aggregate, candidate, figures, largest, moments, control } => {
                let candidate = self.models.write(candidate);
                let moments = moments.map(|moments| moments.map(|moment| self.models.write(moment)));
                let control = control.map(|control| self.models.write(control));
                Ok(Summed::Train { aggregate, candidate, figures, largest, moments, control })
            }
            Sum::Evaluate { aggregate, figures } => {
                let figures: Option<Figures> = figures.ok().flatten();
                Ok(Summed::Evaluate { aggregate, figures })
            }
        }
    }

    /// Nothing is left to do now: goes to the next moment at which something happens.
    fn skip_ahead(&mut self, clock: &mut impl FnMut() -> Timestamp) -> Result<(), Stuck> {
        let deadline = self.machine.deadline().ok_or_else(|| Stuck(self.machine.status().waits))?;
        let now = self.now(clock);
        self.skipped += u64::try_from(deadline.since(now).as_millis()).unwrap_or(0);
        self.handle(Event::Tick, clock);
        Ok(())
    }
}
