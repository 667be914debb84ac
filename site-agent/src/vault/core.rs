//! The vault's core: takes what happened, changes durable state, and says what follows.
//!
//! It runs on one thread and owns everything but the worker's data. An error here is one of this machine (a
//! full disk, a damaged file): the process ends, is started again, and goes on from what was written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use consilium_identity::roster;
use consilium_rounds::message::{Directive, DirectiveId, Letter, SiteMessage};
use consilium_rounds::reason::Decline;
use consilium_rounds::vector::study_pin;
use consilium_secagg::numbering::{Attempt, Epoch};
use consilium_secagg::site::{RepeatBook, SiteMachine};
use consilium_secagg::terms::Floors;
use consilium_study::canonical::Canonical as _;
use consilium_study::disclosure::DisclosureGate;
use consilium_study::hash::Hash;
use consilium_study::policy::Policy;
use consilium_study::sign::SigningKey;
use jiff::Timestamp;

use super::board::{Asked, StudyStatus, VaultStatus};
use super::case::{Case, Topic, saying};
use super::identity::Identity;
use super::keeping::Keeping;
use super::models::{Models, Piece};
use super::record::{self, Opened, Stage, StudyRecord};
use super::speech::{Saying, Speech};
use super::work::{Job, Outcome};
use crate::folder::SiteFolder;
use crate::journal::{Event, Journal};
use crate::pipe::message::{FromRelay, FromVault, Link};
use crate::relay::board::now_ms;
use crate::status::publish;
use crate::store::{Kind, Store};

/// Refusals of directives about studies that this site does not take part in, kept to be said.
const MOST_STRAYS: usize = 32;
/// Secret keys of an epoch live no longer than this, by the clock on the wall: neither a restart of the vault nor a
/// machine that sleeps makes them live longer.
const SETUP_KEYS: Duration = Duration::from_hours(24);

/// The vault.
pub(super) struct Core {
    pub(super) folder: SiteFolder,
    pub(super) store: Arc<dyn Store>,
    pub(super) identity: Identity,
    pub(super) key: Arc<SigningKey>,
    pub(super) policy: Policy,
    pub(super) journal: Journal,
    pub(super) gate: DisclosureGate,
    pub(super) book: RepeatBook,
    pub(super) keeping: Keeping,
    pub(super) models: Models,
    pub(super) cases: BTreeMap<Hash, Case>,
    pub(super) jobs: Sender<Job>,
    /// Messages for the relay.
    pub(super) out: Vec<FromVault>,
    pub(super) speech: Speech,
    /// When the coordinator was last told how a model comes in.
    pub(super) told_fetching: Option<Instant>,
    strays: Vec<(Hash, Saying)>,
    shown: VaultStatus,
}

/// What became of a directive.
pub(super) enum Taken {
    /// It was taken in, now or earlier.
    Done,
    /// Something else must come first.
    Park,
    /// This site will not do it.
    Refused { reason: Decline, attempt: Option<Attempt>, why: String },
}

impl Core {
    /// Reads everything that was written down.
    pub(super) fn open(
        folder: SiteFolder,
        store: Arc<dyn Store>,
        policy: Policy,
        identity: Identity,
        key: SigningKey,
        jobs: Sender<Job>,
    ) -> anyhow::Result<Self> {
        let journal = Journal::open(Arc::clone(&store), folder.journal())?;
        let gate = match store.read(Kind::Disclosure, &folder.disclosure())? {
            Some(bytes) => {
                let mut gate =
                    DisclosureGate::from_canonical(&bytes).context("the disclosure record was altered")?;
                gate.raise_floor(policy.count_floor());
                gate
            }
            None => DisclosureGate::new(policy.count_floor()),
        };
        let keeping = Keeping::new(Arc::clone(&store), folder.clone());
        let book = keeping.read_book().context("the repeat book was altered")?;
        let models = Models::new(Arc::clone(&store), folder.models());
        let records = record::read_all(&*store, &folder)?;
        let mut core = Self {
            folder,
            store,
            identity,
            key: Arc::new(key),
            policy,
            journal,
            gate,
            book,
            keeping,
            models,
            cases: BTreeMap::new(),
            jobs,
            out: vec![FromVault::Hello],
            speech: Speech::default(),
            told_fetching: None,
            strays: Vec::new(),
            shown: VaultStatus::default(),
        };
        for record in records {
            core.reopen(record)?;
        }
        core.forget_pictures()?;
        core.show();
        Ok(core)
    }

    /// Takes a study up again where it was when the vault stopped.
    fn reopen(&mut self, record: StudyRecord) -> anyhow::Result<()> {
        let study = record.hash();
        let over = record.is_over();
        self.cases.insert(study, Case::new(record));
        if over {
            return self.forget_study(study);
        }
        let Some(case) = self.cases.get(&study) else { return Ok(()) };
        match case.record.stage() {
            Stage::Waiting => self.judge(study),
            Stage::Decided { .. } => self.load(study),
            Stage::Refused { .. } => {
                self.repeat_decision(study);
                Ok(())
            }
            Stage::Accepted(_) => {
                self.repeat_decision(study);
                self.restore_machine(study)?;
                self.go_on(study)
            }
        }
    }

    fn restore_machine(&mut self, study: Hash) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        let pin = pin(&self.identity, &case.record)?;
        let floors = floors(&self.policy, &case.record);
        let mut machine = self.keeping.restore(&study, |record, chain| {
            let (me, key) = (self.identity.site.clone(), Arc::clone(&self.key));
            SiteMachine::restore(pin.clone(), me, key, floors.clone(), record, chain)
        })?;
        anyhow::ensure!(
            machine.goes_with(&self.book),
            "{} is older than what study {} was written with: it was deleted, or restored from a backup. This site no \
             longer knows which sums it opened, and a coordinator could open one again without a hospital and read its \
             update. Put back the file that was there last; if it is lost, enrol this site anew in an empty folder",
            self.folder.repeat_book().display(),
            study.short()
        );
        let _ = self.keeping.persist(&mut machine, &mut self.book)?;
        let epoch = machine.epoch();
        let lost = machine.lost_epoch();
        case.machine = Some(machine);
        if let Some(lost) = lost {
            self.note_once(study, Event::KeysLost { study, epoch: lost.get() })?;
        }
        let Some(epoch) = epoch else { return Ok(()) };
        self.note_opening(study, epoch)?;
        self.erase_old_setup_keys(study)
    }

    /// A machine for a study that is accepted now.
    pub(super) fn new_machine(&mut self, study: Hash) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        let pin = pin(&self.identity, &case.record)?;
        let floors = floors(&self.policy, &case.record);
        let (me, key) = (self.identity.site.clone(), Arc::clone(&self.key));
        let mut machine = SiteMachine::new(pin, me, key, floors)?;
        let _ = self.keeping.persist(&mut machine, &mut self.book)?;
        case.machine = Some(machine);
        Ok(())
    }

    /// Takes a frame of the relay.
    pub(super) fn frame(&mut self, frame: FromRelay) -> anyhow::Result<()> {
        match frame {
            FromRelay::Directive { bytes, parent } => self.directive(&bytes, &parent)?,
            FromRelay::Blob { hash, offset, bytes, last } => {
                match self.models.piece(&hash, offset, &bytes, last)? {
                    Piece::Complete => self.model_arrived()?,
                    Piece::Wrong => {
                        tracing::warn!(file = hash.short(), "a fetched file was wrong and is fetched again");
                    }
                    Piece::Waiting => self.model_grows(),
                }
            }
            FromRelay::ReadChunk { upload, index } => self.read_chunk(upload, index),
            FromRelay::Said { id, verdict } => {
                self.speech.said(&id, &verdict, Instant::now());
            }
            FromRelay::Uploaded { upload, verdict } => {
                self.speech.uploaded(&upload, &verdict, Instant::now());
            }
            FromRelay::Link(link) => {
                self.speech.link(link == Link::Up);
                self.models.forget_requests();
            }
        }
        Ok(())
    }

    fn directive(&mut self, bytes: &[u8], parent: &str) -> anyhow::Result<()> {
        let id = DirectiveId::of(bytes);
        let letter = match Letter::<Directive>::from_bytes(bytes) {
            Ok(letter) => letter,
            Err(error) => {
                tracing::warn!(%error, "a directive does not decode");
                // One reason for all: a relay gone mad must not fill the journal.
                let reason = "a directive that does not decode".to_owned();
                self.note(Event::DirectiveRefused { study: None, reason })?;
                self.out.push(FromVault::Acknowledge { directive: *id.hash() });
                return Ok(());
            }
        };
        let study = letter.study;
        match self.take(study, letter.message, parent)? {
            Taken::Done => {}
            Taken::Park => {
                // Not acknowledged: should there be no room, it comes again.
                if let Some(case) = self.cases.get_mut(&study) {
                    case.park(id, bytes, parent);
                }
                return Ok(());
            }
            Taken::Refused { reason, attempt, why } => self.decline(study, id, reason, attempt, why)?,
        }
        self.out.push(FromVault::Acknowledge { directive: *id.hash() });
        self.retry_parked(study)
    }

    /// Something came: what waited may be possible now.
    pub(super) fn retry_parked(&mut self, study: Hash) -> anyhow::Result<()> {
        loop {
            let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
            let mut moved = false;
            for (id, bytes, parent) in case.take_parked() {
                let Ok(letter) = Letter::<Directive>::from_bytes(&bytes) else { continue };
                match self.take(study, letter.message, &parent)? {
                    Taken::Done => moved = true,
                    Taken::Park => {
                        if let Some(case) = self.cases.get_mut(&study) {
                            case.park(id, &bytes, &parent);
                        }
                        continue;
                    }
                    Taken::Refused { reason, attempt, why } => {
                        self.decline(study, id, reason, attempt, why)?;
                    }
                }
                self.out.push(FromVault::Acknowledge { directive: *id.hash() });
            }
            if !moved {
                return Ok(());
            }
        }
    }

    fn take(&mut self, study: Hash, directive: Directive, parent: &str) -> anyhow::Result<Taken> {
        let refused = |reason, why: &str| Taken::Refused { reason, attempt: None, why: why.to_owned() };
        if let Directive::Proposal { study: signed, roster } = directive {
            return self.proposal(study, signed, &roster);
        }
        let Some(case) = self.cases.get_mut(&study) else {
            return Ok(refused(
                Decline::UnknownStudy,
                "a directive about a study that was never proposed here",
            ));
        };
        if !parent.is_empty() {
            parent.clone_into(&mut case.parent);
        }
        match (directive, case.record.participation().is_some()) {
            (Directive::StudyState(state), _) => self.study_state(study, state),
            (Directive::Settled(settled), _) => self.settled(study, settled),
            (_, false) => {
                Ok(refused(Decline::NotAccepted, "a directive about a study that was not accepted here"))
            }
            (_, true) if case.machine.is_none() => Ok(refused(Decline::Paused, "the study is over here")),
            (Directive::Guilt(proof), true) => self.guilt(study, &proof),
            (Directive::Opening(opening), true) => self.opening(study, &opening),
            (Directive::Adverts(adverts), true) => self.adverts(study, &adverts),
            (Directive::Encapsulations(list), true) => self.encapsulations(study, &list),
            (Directive::Confirmations(list), true) => self.confirmations(study, &list),
            (Directive::Draw(call), true) => self.draw(study, &call),
            (Directive::Reveals(reveals), true) => self.reveals(study, &reveals),
            (Directive::Begin { context }, true) => self.begin(study, &context),
            (Directive::Receipts { ctx, receipts }, true) => self.receipts(study, &ctx, &receipts),
            (Directive::Envelopes { ctx, envelopes }, true) => self.envelopes(study, &ctx, &envelopes),
            (Directive::Survivors { ctx, survivors }, true) => self.survivors(study, &ctx, &survivors),
            (Directive::Unmask(request), true) => self.unmask(study, &request),
            (Directive::Bound(binding), true) => Ok(self.bound(study, binding)),
            (Directive::Proposal { .. }, _) => Ok(Taken::Done),
        }
    }

    /// Says no, and writes down that it was asked.
    pub(super) fn decline(
        &mut self,
        study: Hash,
        directive: DirectiveId,
        reason: Decline,
        attempt: Option<Attempt>,
        why: String,
    ) -> anyhow::Result<()> {
        tracing::warn!(study = study.short(), why, "a directive was refused");
        let message = SiteMessage::Declined { directive, attempt, reason };
        let id = *directive.hash();
        // The same directive may come any number of times.
        if !self.cases.get(&study).is_some_and(|case| case.says(Topic::Declined(id))) {
            self.note(Event::DirectiveRefused { study: Some(study), reason: why })?;
        }
        match self.cases.get_mut(&study) {
            Some(case) => {
                case.say(Topic::Declined(id), message);
            }
            None if self.strays.iter().all(|(known, _)| *known != id) => {
                if self.strays.len() >= MOST_STRAYS {
                    self.strays.remove(0);
                }
                self.strays.push((id, saying(study, message, "")));
            }
            None => {}
        }
        Ok(())
    }

    /// Takes what the worker reports.
    pub(super) fn outcome(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        match outcome {
            Outcome::Loaded { study, found } => self.loaded(study, found),
            Outcome::Progress { study, attempt, stage, done, total } => {
                self.progress(study, attempt, stage, done, total);
                Ok(())
            }
            Outcome::Worked { study, attempt, result } => self.worked(study, attempt, result),
            Outcome::Spooled { study, attempt, masked } => self.spooled(study, attempt, *masked?),
            Outcome::Span(span) => {
                if !span.parent.is_empty() {
                    self.out.push(FromVault::Span(span));
                }
                Ok(())
            }
        }
    }

    /// Looks at what changes without a message: people's answers, and time.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let studies: Vec<Hash> = self.cases.keys().copied().collect();
        for study in studies {
            self.look_for_answer(study)?;
            let Some(case) = self.cases.get_mut(&study) else { continue };
            if case.load_again.is_some_and(|again| now >= again) {
                case.load_again = None;
                self.load(study)?;
                continue;
            }
            self.erase_old_setup_keys(study)?;
        }
        Ok(())
    }

    /// Writes down when an epoch was opened, unless that was done: then, or when the vault finds one that was opened
    /// right before a crash.
    pub(super) fn note_opening(&mut self, study: Hash, epoch: Epoch) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        if case.record.opened_ms(epoch).is_none() {
            case.record.set_opened(Opened { epoch, at_ms: now_ms() });
            case.record.write(&*self.store, &self.folder)?;
        }
        case.setup_keys_since = case.record.opened_ms(epoch);
        Ok(())
    }

    /// Erases the secret keys of an epoch that was opened too long ago.
    fn erase_old_setup_keys(&mut self, study: Hash) -> anyhow::Result<()> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(()) };
        if !case.setup_keys_since.is_some_and(|since| is_too_old(since, now_ms())) {
            return Ok(());
        }
        case.setup_keys_since = None;
        if let Some(machine) = &mut case.machine {
            machine.erase_setup_keys();
            let _ = self.keeping.persist(machine, &mut self.book)?;
        }
        Ok(())
    }

    /// What is to go to the relay now.
    pub(super) fn speak(&mut self) -> Vec<FromVault> {
        self.show();
        let mut sayings: Vec<Saying> = self.strays.iter().map(|(_, saying)| saying.clone()).collect();
        let mut uploads = Vec::new();
        for case in self.cases.values() {
            sayings.extend(case.sayings().cloned());
            if let Some((upload, announced)) = &case.upload
                && announced.iter().all(|id| self.speech.is_recorded(id))
            {
                uploads.push((*upload, case.parent.clone()));
            }
        }
        self.out.extend(self.models.requests());
        self.out.extend(self.speech.say(&sayings, &uploads, Instant::now()));
        std::mem::take(&mut self.out)
    }

    /// Writes an event into the journal.
    pub(super) fn note(&mut self, event: Event) -> anyhow::Result<()> {
        Ok(self.journal.record(event, Timestamp::now().as_second())?)
    }

    /// Where the masked vector of an attempt rests.
    pub(super) fn spool(&self, study: &Hash, attempt: Attempt) -> PathBuf {
        self.folder.study(study).spool(attempt.get())
    }

    /// Shows people how the studies stand.
    fn show(&mut self) {
        let mut studies: Vec<StudyStatus> = self
            .cases
            .iter()
            .map(|(study, case)| StudyStatus {
                study: *study,
                name: case.study.name.clone(),
                stage: case.record.stage().name().to_owned(),
                doing: case.in_words(),
                attempt: case
                    .machine
                    .as_ref()
                    .and_then(|machine| machine.current().map(|(context, ..)| context.attempt.get())),
                asked: case.asked.as_ref().map(Asked::from),
            })
            .collect();
        studies.sort_by(|a, b| (&a.name, &a.study).cmp(&(&b.name, &b.study)));
        let status = VaultStatus { studies };
        if status != self.shown || !self.folder.vault_status().exists() {
            publish(&self.folder.vault_status(), &status);
            self.shown = status;
        }
    }
}

/// Whether setup keys of that moment have to go. A moment as far in the future says that the clock was wrong, and
/// then nobody knows how old they are.
const fn is_too_old(since_ms: u64, now_ms: u64) -> bool {
    since_ms.abs_diff(now_ms) as u128 >= SETUP_KEYS.as_millis()
}

/// What a study pins, with the keys of the roster it goes with.
fn pin(identity: &Identity, record: &StudyRecord) -> anyhow::Result<consilium_secagg::pin::StudyPin> {
    let roster = roster::verify(&identity.anchor, record.roster())?;
    let key_of = |site: &consilium_study::name::SiteName| roster.site(site).map(|entry| entry.signing_key);
    Ok(study_pin(record.plan(), roster.hash(), roster.coordinator().signing_key, key_of)?)
}

/// What is asked of every attempt of a study: what the site accepted it with, or would now.
fn floors(policy: &Policy, record: &StudyRecord) -> Floors {
    let known_sites = policy.known_sites().iter().cloned().collect();
    let terms = record.accepted_terms().unwrap_or_else(|| policy.terms(record.plan()));
    Floors { known_sites, ..Floors::of(&terms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_keys_are_too_old_after_a_day_and_when_the_clock_is_wrong() {
        let day = 24 * 3_600_000;
        assert!(!is_too_old(day, 2 * day - 1) && is_too_old(day, 2 * day));
        assert!(!is_too_old(2 * day - 1, day) && is_too_old(2 * day, day));
    }
}
