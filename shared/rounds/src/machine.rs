//! The machine of one study: a function of (event, time) that returns effects.
//!
//! One value holds everything that the coordinator knows of a study, big bytes aside; encoded, it is what a
//! shell stores. There is nothing else to lose: a coordinator that was killed between any two events decodes
//! the last state, calls [`StudyMachine::resume`] and goes on. See the crate's documentation for the flow of
//! calls and [`run`] for the states.

mod advance;
mod attempt;
mod directives;
mod draw;
mod epoch;
mod gather;
mod intake;
mod outcome;
mod run;
mod select;
mod sites;
mod timing;
mod variates;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use consilium_secagg::guilt::DealerGuilt;
use consilium_secagg::pin::StudyPin;
use consilium_secagg::quantiser::count_limit;
use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{SignatureError, Signed, SigningKey, VerifyingKey};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

pub use self::attempt::ExpectedUpload;
pub use self::select::{Shortage, fewest_sites};
pub use self::timing::Timing;

use self::epoch::EpochState;
use self::run::{Life, OpenedSet, Run, Stage, Wanted};
use self::sites::SiteRecord;
use crate::control::Controlled;
use crate::event::{Act, ActRefused, Effect, Event, Notice};
use crate::message::{Settled, StudyState};
use crate::record::{Adoption, Course, Record};
use crate::status::RoundLine;
use crate::time::Timestamp;
use crate::vector::{Ranges, Unpinnable, study_pin};

/// A proposed study, with the roster that it is pinned to.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The study, signed by an operator.
    pub study: Signed<Study>,
    /// The operator's key.
    pub operator: (Principal, VerifyingKey),
    /// The signed roster as it goes to the sites.
    pub roster: Vec<u8>,
    /// Its hash, as acceptances name it.
    pub roster_hash: Hash,
    /// Signing keys of the roster's sites; those of the study must be among them.
    pub keys: BTreeMap<SiteName, VerifyingKey>,
    /// The coordinator's own signing key.
    pub coordinator: VerifyingKey,
    /// How patient the coordinator is.
    pub timing: Timing,
}

/// Why a study cannot be proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalRefused {
    /// Not signed by this operator.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A site or a model that does not fit.
    #[error(transparent)]
    Pin(#[from] Unpinnable),
    /// Weights of all sites could wrap around.
    #[error("aggregation.weight_cap is {cap}; {sites} sites can sum weights of at most {limit}")]
    WeightCap {
        /// The study's largest weight.
        cap: u32,
        /// Sites of the study.
        sites: usize,
        /// Largest possible.
        limit: u32,
    },
}

/// One study at the coordinator.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct StudyMachine {
    #[n(0)]
    signed: Signed<Study>,
    #[n(1)]
    study: Study,
    #[n(2)]
    roster: ByteVec,
    #[n(3)]
    roster_hash: Hash,
    #[n(4)]
    coordinator: VerifyingKey,
    #[n(5)]
    timing: Timing,
    /// The latest moment that was told.
    #[n(6)]
    clock: Timestamp,
    #[n(7)]
    proposed_at: Timestamp,
    #[n(8)]
    wanted: Wanted,
    #[n(9)]
    life: Life,
    #[n(10)]
    sites: BTreeMap<SiteName, SiteRecord>,
    #[n(11)]
    epoch: Option<EpochState>,
    /// The next attempt's number. Only grows.
    #[n(12)]
    next_attempt: u32,
    /// The adopted model.
    #[n(13)]
    model: Hash,
    #[n(14)]
    ranges: Ranges,
    /// Survivors that count as signed and can still bind.
    #[n(15)]
    opened: Vec<OpenedSet>,
    /// How the latest attempt ended.
    #[n(16)]
    settled: Option<Settled>,
    #[n(17)]
    adoptions: Vec<Adoption>,
    /// Sites counted in an adopted round.
    #[n(18)]
    participants: BTreeSet<SiteName>,
    #[n(19)]
    lines: Vec<RoundLine>,
    /// Proofs against dealers.
    #[n(20)]
    guilt: Vec<DealerGuilt>,
    /// How often the ranges of a packed study were doubled for entries that saturated; none is never.
    #[n(21)]
    spread: Option<u8>,
    /// First and second moment beside the adopted model, of a strategy that keeps them.
    #[n(22)]
    moments: Option<[Hash; 2]>,
    /// Mean of control variates beside the adopted model, of a strategy that keeps one; none before there is anything.
    #[n(23)]
    control: Option<Controlled>,
    /// The next training begins without them.
    #[n(24)]
    #[cbor(skip_if = "std::ops::Not::not")]
    variates_lost: bool,
}

impl StudyMachine {
    /// Takes a proposal up.
    pub fn propose(proposal: Proposal, now: Timestamp) -> Result<(Self, Vec<Effect>), ProposalRefused> {
        let Proposal { study: signed, operator, roster, roster_hash, keys, coordinator, timing } = proposal;
        let study = signed.verify(&operator.0, &operator.1)?.into_inner();
        let pin = study_pin(&study, roster_hash, coordinator, |site| keys.get(site).copied())?;
        let (cap, limit) = (study.aggregation.weight_cap, count_limit(study.sites.len()));
        if cap > limit {
            return Err(ProposalRefused::WeightCap { cap, sites: study.sites.len(), limit });
        }
        let record = Record::Proposal { study: signed.clone(), roster: roster_hash };
        let machine = Self {
            signed,
            roster: roster.into(),
            roster_hash,
            coordinator,
            timing,
            clock: now,
            proposed_at: now,
            wanted: Wanted::NotYet,
            life: Life::Proposed,
            sites: pin.sites.into_iter().map(|(site, key)| (site, SiteRecord::new(key))).collect(),
            epoch: None,
            next_attempt: 1,
            model: study.initial_model(),
            ranges: Ranges::first(&study),
            opened: Vec::new(),
            settled: None,
            adoptions: Vec::new(),
            participants: BTreeSet::new(),
            lines: Vec::new(),
            guilt: Vec::new(),
            spread: None,
            moments: None,
            control: None,
            variates_lost: false,
            study,
        };
        let mut effects = Effects::default();
        effects.record(record);
        effects.notify(Notice::State(StudyState::Proposed));
        Ok((machine, effects.list))
    }

    /// What a shell stores.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_canonical()
    }

    /// Reads what a shell stored.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotCanonical> {
        Self::from_canonical(bytes)
    }

    /// After a restart: nobody is connected, and jobs whose answers were lost are given out again.
    #[must_use]
    pub fn resume(mut self, now: Timestamp) -> (Self, Vec<Effect>) {
        self.clock = self.clock.max(now);
        for site in self.sites.values_mut() {
            site.disconnect(now);
        }
        let effects = match &self.life {
            Life::Running(Run { stage: Stage::Summing(summing), .. })
            | Life::Paused { run: Run { stage: Stage::Summing(summing), .. }, .. } => {
                vec![Effect::Sum(Box::new(summing.job.clone()))]
            }
            Life::Closed { release, .. } => vec![Effect::Publish(release.clone())],
            _ => Vec::new(),
        };
        (self, effects)
    }

    /// Consumes one event. `key` is the coordinator's signing key, for contexts and epoch openings.
    ///
    /// The shell commits the new state together with its [`Effect::Record`]s, then performs the other effects
    /// and sends what [`StudyMachine::directives_for`] says.
    ///
    /// # Panics
    /// When `key` is not the one that the proposal named: what it signs would be refused by every site.
    #[must_use]
    pub fn handle(mut self, event: Event, now: Timestamp, key: &SigningKey) -> (Self, Vec<Effect>) {
        // A clock that was set back must not make a deadline come twice.
        let now = self.clock.max(now);
        self.clock = now;
        let mut effects = Effects::default();
        match event {
            Event::Tick => {}
            Event::Connected(site) => {
                if let Some(record) = self.sites.get_mut(&site) {
                    record.connect(now);
                }
            }
            Event::Disconnected(site) => {
                if let Some(record) = self.sites.get_mut(&site) {
                    record.disconnect(now);
                }
            }
            Event::Message { from, message } => {
                if let Err(refusal) = self.take(&from, message, now, &mut effects) {
                    effects.push(Effect::Refuse { site: from, refusal });
                }
            }
            Event::Receiving { from, attempt, bytes, of } => {
                if let Err(refusal) = self.receiving(&from, attempt, (bytes, of), now) {
                    effects.push(Effect::Refuse { site: from, refusal });
                }
            }
            Event::Uploaded { from, attempt } => {
                if let Err(refusal) = self.uploaded(&from, attempt, now) {
                    effects.push(Effect::Refuse { site: from, refusal });
                }
            }
            Event::Traffic { attempt, up, down } => self.count_traffic(attempt, up, down),
            Event::Summed { attempt, outcome } => self.summed(attempt, outcome, now, &mut effects),
            Event::Published => self.published(&mut effects),
            Event::Operator { by, act } => {
                if let Err(refusal) = self.act(&by, act, now, &mut effects) {
                    effects.push(Effect::RefuseAct(refusal));
                }
            }
            Event::Revoked(site) => self.expel(&site, now),
        }
        self.advance(now, key, &mut effects);
        (self, effects.list)
    }

    fn act(
        &mut self,
        by: &Principal,
        act: Act,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), ActRefused> {
        match act {
            Act::Start => self.start(by, effects),
            Act::Pause => self.pause(by, now, effects),
            Act::Resume => self.unpause(by, now, effects),
            Act::Stop { reason } => self.stop(by, reason, now, effects),
            Act::DeclareLost { attempt } => self.declare_lost(by, attempt, now, effects),
            Act::Restored { above } => self.restored(by, above, now, effects),
        }
    }

    /// The study.
    pub fn study(&self) -> &Study {
        &self.study
    }

    /// The study as its operator signed it.
    pub fn signed_study(&self) -> &Signed<Study> {
        &self.signed
    }

    /// Hash of the roster that the study is pinned to.
    pub fn roster_hash(&self) -> Hash {
        self.roster_hash
    }

    /// The adopted model: what the next training round starts from.
    pub fn model(&self) -> Hash {
        self.model
    }

    /// The file with the mean of control variates that sites correct their steps by, beside [`StudyMachine::model`].
    pub fn control(&self) -> Option<Hash> {
        self.control.as_ref().map(|control| control.mean)
    }

    /// What became of each round's candidate.
    pub fn adoptions(&self) -> &[Adoption] {
        &self.adoptions
    }

    /// What every party pins.
    pub fn pin(&self) -> StudyPin {
        study_pin(&self.study, self.roster_hash, self.coordinator, |site| {
            self.sites.get(site).map(|record| record.key)
        })
        .expect("a proposal was pinned when it was taken up")
    }

    fn run(&self) -> Option<&Run> {
        match &self.life {
            Life::Running(run) | Life::Paused { run, .. } => Some(run),
            Life::Proposed | Life::Open | Life::Closed { .. } | Life::Released(_) | Life::Stopped { .. } => {
                None
            }
        }
    }

    fn run_mut(&mut self) -> Option<&mut Run> {
        match &mut self.life {
            Life::Running(run) | Life::Paused { run, .. } => Some(run),
            Life::Proposed | Life::Open | Life::Closed { .. } | Life::Released(_) | Life::Stopped { .. } => {
                None
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.life, Life::Released(_) | Life::Stopped { .. })
    }
}

/// Effects in the making.
#[derive(Default)]
struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    fn record(&mut self, record: Record) {
        self.push(Effect::Record(Box::new(record)));
    }

    fn course(&mut self, course: Course, by: &Principal) {
        self.record(Record::Course { course, by: by.clone() });
    }

    fn notify(&mut self, notice: Notice) {
        self.push(Effect::Notify(notice));
    }
}
