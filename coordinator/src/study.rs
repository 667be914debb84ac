//! One task owns each study: it turns every source into an event, commits, and then speaks.
//!
//! The pure machine decides; this shell performs. Events that have queued up are handled together and committed
//! in one transaction, together with what the ledger has to record; only then are their senders answered and
//! effects performed. A crash before the commit loses events whose senders were not answered and say them
//! again; a crash after it loses nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use consilium_ledger::record::{Record, Sealed};
use consilium_rounds::StudyMachine;
use consilium_rounds::Timestamp;
use consilium_rounds::status::Phase;
use consilium_rounds::{ActRefused, Effect, Event, Notice, Refused};
use consilium_secagg::numbering::Attempt;
use consilium_study::hash::Hash;
use consilium_study::name::{SiteName, StudyName};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::ledger::{self, LedgerError};
use crate::parts::Parts;
use crate::store::{StoreError, Table, Transaction};
use crate::{release, sum};

/// Events that wait for a study's task. Senders beyond wait themselves.
const QUEUE: usize = 1024;
/// Events that are committed together.
const BATCH: usize = 128;

/// How other tasks reach a study.
#[derive(Clone)]
pub struct StudyHandle {
    /// Hash of the study.
    pub hash: Hash,
    /// Its name.
    pub name: StudyName,
    /// The sites it names.
    pub sites: Arc<BTreeSet<SiteName>>,
    machine: watch::Receiver<Arc<StudyMachine>>,
    events: watch::Receiver<u64>,
    commands: mpsc::Sender<Command>,
    traffic: Arc<Traffic>,
}

struct Command {
    event: Event,
    /// Statements of others that belong into the ledger with this event, if it is not refused.
    orders: Vec<Record>,
    reply: Option<oneshot::Sender<Result<(), Refusal>>>,
}

/// Bytes that crossed the wire since the machine was told last.
#[derive(Default)]
struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
}

/// Why an event changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A site's message.
    #[error(transparent)]
    Message(#[from] Refused),
    /// An operator's act.
    #[error(transparent)]
    Act(#[from] ActRefused),
    /// The coordinator is stopping.
    #[error("the coordinator is stopping; try again in a moment")]
    Stopping,
}

impl StudyHandle {
    /// The machine as it was committed last.
    pub fn machine(&self) -> Arc<StudyMachine> {
        Arc::clone(&self.machine.borrow())
    }

    /// Wakes when a new state of the machine was committed.
    pub fn changes(&self) -> watch::Receiver<Arc<StudyMachine>> {
        self.machine.clone()
    }

    /// Wakes when there are more events for watchers; holds their number.
    pub fn events(&self) -> watch::Receiver<u64> {
        self.events.clone()
    }

    /// Tells the study what happened, and returns when that is committed.
    pub async fn tell(&self, event: Event) -> Result<(), Refusal> {
        self.order(event, Vec::new()).await
    }

    /// The same, with statements that belong into the ledger.
    pub async fn order(&self, event: Event, orders: Vec<Record>) -> Result<(), Refusal> {
        let (reply, verdict) = oneshot::channel();
        let command = Command { event, orders, reply: Some(reply) };
        self.commands.send(command).await.map_err(|_| Refusal::Stopping)?;
        verdict.await.unwrap_or(Err(Refusal::Stopping))
    }

    /// Counts bytes from sites.
    pub fn count_up(&self, bytes: u64) {
        self.traffic.up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes to sites.
    pub fn count_down(&self, bytes: u64) {
        self.traffic.down.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A study's task before it runs.
pub struct StudyTask {
    parts: Arc<Parts>,
    hash: Hash,
    machine: Arc<StudyMachine>,
    publish: watch::Sender<Arc<StudyMachine>>,
    shown: watch::Sender<u64>,
    inbox: mpsc::Receiver<Command>,
    /// For answers of jobs.
    own: mpsc::WeakSender<Command>,
    traffic: Arc<Traffic>,
    /// Effects of starting or resuming.
    first: Vec<Effect>,
    phase: Option<(&'static str, u64, SystemTime)>,
    /// The round that runs, and since when.
    round: Option<(u64, SystemTime)>,
}

/// A study cannot go on: the disk or the ledger failed.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The record store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Content-addressed files.
    #[error("a file cannot be written: {0}. Check the disk, then start the coordinator again")]
    Files(#[from] std::io::Error),
}

impl StudyTask {
    /// A study that was just proposed, or that was found after a restart. `effects` are those of its first step.
    pub fn new(
        parts: Arc<Parts>,
        machine: StudyMachine,
        effects: Vec<Effect>,
    ) -> Result<(Self, StudyHandle), Fatal> {
        let hash = machine.study().hash();
        let seen = parts.store.scan(Table::Events, hash.as_bytes())?.len() as u64;
        let machine = Arc::new(machine);
        let (publish, machine_out) = watch::channel(Arc::clone(&machine));
        let (shown, events) = watch::channel(seen);
        let (commands, inbox) = mpsc::channel(QUEUE);
        let traffic = Arc::<Traffic>::default();
        let handle = StudyHandle {
            hash,
            name: machine.study().name.clone(),
            sites: Arc::new(machine.study().sites.iter().cloned().collect()),
            machine: machine_out,
            events,
            commands: commands.clone(),
            traffic: Arc::clone(&traffic),
        };
        let own = commands.downgrade();
        let task = Self {
            parts,
            hash,
            machine,
            publish,
            shown,
            inbox,
            own,
            traffic,
            first: effects,
            phase: None,
            round: None,
        };
        Ok((task, handle))
    }

    /// Commits the first step.
    pub fn commit_first(&mut self, records: Vec<Record>) -> Result<(), Fatal> {
        let effects = std::mem::take(&mut self.first);
        self.commit((*self.machine).clone(), effects, records, true)
    }

    /// Runs until nobody holds a handle any more.
    pub async fn run(mut self) -> Result<(), Fatal> {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                received = self.inbox.recv_many(&mut batch, BATCH) => if received == 0 { return Ok(()) },
                () = until(self.machine.deadline()) => batch.push(Command::tick()),
            }
            // Commits wait for the disk; other tasks of this thread move elsewhere meanwhile.
            tokio::task::block_in_place(|| self.step(batch))?;
        }
    }

    fn step(&mut self, batch: Vec<Command>) -> Result<(), Fatal> {
        let now = now();
        let mut machine = (*self.machine).clone();
        let mut effects = Vec::new();
        let mut records = Vec::new();
        let mut answers = Vec::new();
        if let Some(event) = self.traffic(&machine) {
            machine = self.handle(machine, event, now, &mut effects).0;
        }
        for Command { event, orders, reply } in batch {
            let (next, verdict) = self.handle(machine, event, now, &mut effects);
            machine = next;
            if verdict.is_ok() {
                records.extend(orders);
            }
            answers.push((reply, verdict));
        }
        let changed = machine != *self.machine;
        self.commit(machine, effects, records, changed)?;
        for (reply, verdict) in answers {
            if verdict.is_err() {
                self.parts.telemetry.counters.message_refused();
            }
            if let Some(reply) = reply {
                // Whoever asked may have gone; it asks again.
                let _ = reply.send(verdict);
            }
        }
        Ok(())
    }

    fn handle(
        &self,
        machine: StudyMachine,
        event: Event,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> (StudyMachine, Result<(), Refusal>) {
        let (next, out) = machine.handle(event, now, &self.parts.key);
        let mut verdict = Ok(());
        for effect in out {
            match effect {
                Effect::Refuse { site, refusal } => {
                    tracing::warn!(study = %self.hash.short(), %site, reason = %refusal, "message refused");
                    verdict = Err(Refusal::Message(refusal));
                }
                Effect::RefuseAct(refusal) => verdict = Err(Refusal::Act(refusal)),
                other => effects.push(other),
            }
        }
        (next, verdict)
    }

    /// What crossed the wire since last time, for the attempt that is running.
    fn traffic(&self, machine: &StudyMachine) -> Option<Event> {
        let attempt = machine.status().attempt.and_then(|number| Attempt::new(number).ok())?;
        let up = self.traffic.up.swap(0, Ordering::Relaxed);
        let down = self.traffic.down.swap(0, Ordering::Relaxed);
        (up + down > 0).then_some(Event::Traffic { attempt, up, down })
    }

    fn commit(
        &mut self,
        machine: StudyMachine,
        effects: Vec<Effect>,
        mut records: Vec<Record>,
        changed: bool,
    ) -> Result<(), Fatal> {
        let mut later = Vec::new();
        let mut notices = Vec::new();
        for effect in effects {
            match effect {
                Effect::Record(happened) => {
                    let sealed = Sealed::of(&happened, self.hash, &self.parts.key);
                    for blob in &sealed.blobs {
                        self.parts.blobs.put(&blob.bytes)?;
                    }
                    records.push(sealed.record);
                }
                Effect::Notify(notice) => notices.push(notice),
                other => later.push(other),
            }
        }
        let mut transaction = Transaction::new();
        if changed {
            transaction = transaction.put(Table::Studies, self.hash.as_bytes(), machine.to_bytes());
        }
        let mut number = *self.shown.borrow();
        for notice in &notices {
            let key = [self.hash.as_bytes().as_slice(), &number.to_be_bytes()].concat();
            transaction = transaction.put(Table::Events, &key, describe(notice).to_string().into_bytes());
            number += 1;
        }
        if !records.is_empty() {
            let mut sequence = self.parts.sequence.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            transaction = transaction.and(ledger::pending(&records, now().as_millis(), &mut sequence));
        }
        if !transaction.is_empty() {
            let phase = phase_name(machine.status().phase);
            self.parts.store.commit(&format!("study-{phase}"), transaction)?;
        }
        if !records.is_empty() {
            self.parts.ledger.append_pending(&*self.parts.store)?;
        }
        self.trace(&machine);
        self.machine = Arc::new(machine);
        self.publish.send_replace(Arc::clone(&self.machine));
        self.shown.send_replace(number);
        for notice in &notices {
            self.log(notice);
        }
        later.into_iter().try_for_each(|effect| self.perform(effect))
    }

    fn perform(&self, effect: Effect) -> Result<(), Fatal> {
        match effect {
            Effect::Sum(job) => {
                let (parts, machine, own) =
                    (Arc::clone(&self.parts), Arc::clone(&self.machine), self.own.clone());
                tokio::task::spawn_blocking(move || {
                    let attempt = job.context.attempt;
                    let outcome = sum::perform(&parts, &machine, &job);
                    answer(&own, Event::Summed { attempt, outcome });
                });
            }
            Effect::Publish(release) => {
                let (parts, machine, own) =
                    (Arc::clone(&self.parts), Arc::clone(&self.machine), self.own.clone());
                tokio::task::spawn_blocking(move || match release::publish(&parts, &machine, &release) {
                    Ok(()) => answer(&own, Event::Published),
                    Err(error) => {
                        tracing::error!(%error, "the release cannot be written; it is tried again at the next start");
                    }
                });
            }
            Effect::DiscardUploads { attempt, survivors: _ } => {
                self.parts.uploads.discard_attempt(&self.hash, u64::from(attempt.get()))?;
            }
            Effect::Record(_) | Effect::Notify(_) | Effect::Refuse { .. } | Effect::RefuseAct(_) => {}
        }
        Ok(())
    }

    /// Reports a phase of the round to the collector when the machine has left it.
    fn trace(&mut self, machine: &StudyMachine) {
        let status = machine.status();
        let name = phase_name(status.phase);
        let round = u64::from(status.round);
        if self.phase.is_some_and(|(before, of, _)| (before, of) == (name, round)) {
            return;
        }
        let now = SystemTime::now();
        if let Some((before, of, since)) = self.phase.replace((name, round, now)) {
            self.parts.telemetry.phase(&self.hash, of, before, (since, now));
        }
        let running = (status.phase != Phase::Idle).then_some(round);
        if self.round.map(|(of, _)| of) != running {
            if let Some((of, since)) = self.round {
                self.parts.telemetry.round(&self.hash, of, (since, now));
            }
            self.round = running.map(|round| (round, now));
        }
    }

    fn log(&self, notice: &Notice) {
        let study = self.machine.study().name.clone();
        match notice {
            Notice::Line(line) => {
                self.parts.telemetry.counters.round(line.state.name());
                tracing::info!(%study, round = line.round, kind = ?line.kind, state = line.state.name(), "round");
            }
            Notice::Abandoned { attempt, cause } => {
                self.parts.telemetry.counters.round("abandoned");
                tracing::warn!(%study, attempt = attempt.get(), %cause, "attempt given up");
            }
            Notice::State(state) => tracing::info!(%study, state = state.name(), "study"),
            Notice::ReleaseLate => tracing::error!(%study, "writing the release takes longer than it should"),
            Notice::Alarm(site) => tracing::error!(%study, %site, "a site noticed what no honest party does"),
        }
    }
}

impl Command {
    fn tick() -> Self {
        Self { event: Event::Tick, orders: Vec::new(), reply: None }
    }
}

/// Brings a job's answer back to the study, if it still runs.
fn answer(own: &mpsc::WeakSender<Command>, event: Event) {
    if let Some(own) = own.upgrade() {
        let _ = own.blocking_send(Command { event, orders: Vec::new(), reply: None });
    }
}

/// One event as watchers get it, with stable keys.
fn describe(notice: &Notice) -> serde_json::Value {
    match notice {
        Notice::Line(line) => json!(line),
        Notice::Abandoned { attempt, cause } => {
            json!({"event": "abandoned", "attempt": attempt.get(), "cause": cause})
        }
        Notice::State(state) => {
            json!({"event": "state", "state": state, "released": state.released()})
        }
        Notice::ReleaseLate => json!({"event": "release_late"}),
        Notice::Alarm(site) => json!({"event": "alarm", "site": site}),
    }
}

async fn until(deadline: Option<Timestamp>) {
    match deadline {
        None => std::future::pending().await,
        Some(deadline) => tokio::time::sleep_until(Instant::now() + deadline.since(now())).await,
    }
}

/// The coordinator's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether an attempt number from the wire is one.
pub fn attempt_number(number: u64) -> Option<Attempt> {
    Attempt::new(u32::try_from(number).ok()?).ok()
}

/// Name of a phase's span.
const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Gathering => "gathering",
        Phase::CollectMasked => "collect_masked",
        Phase::ConsistencyCheck => "consistency_check",
        Phase::Unmask => "unmask",
        Phase::Summing => "summing",
    }
}
