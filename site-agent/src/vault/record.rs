//! What the vault writes down about one study, besides the state of the aggregation protocol.

use std::collections::BTreeSet;

use consilium_identity::roster::{self, RosterError};
use consilium_identity::{Anchor, Roster};
use consilium_rounds::message::{Binding, Settled, StudyState};
use consilium_rounds::reason::Withdrawal;
use consilium_secagg::context::Context;
use consilium_secagg::numbering::{Attempt, Epoch, RoundNumber};
use consilium_study::canonical::{Canonical as _, NotCanonical};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::Signed;
use consilium_study::statement::{Acceptance, Readiness, Refusal, Rule, SiteTerms};
use minicbor::{Decode, Encode};

use crate::folder::SiteFolder;
use crate::store::{Kind, Store, StoreError};

/// One study at this site.
#[derive(Clone, Debug)]
pub struct StudyRecord {
    study: Study,
    saved: Saved,
}

#[derive(Clone, Debug, Encode, Decode)]
#[cbor(map)]
struct Saved {
    #[n(0)]
    study: Signed<Study>,
    #[n(1)]
    roster: Signed<Roster>,
    #[n(2)]
    heard_ms: u64,
    #[n(3)]
    stage: Stage,
    #[n(4)]
    state: StudyState,
    #[n(5)]
    settled: Option<Settled>,
    #[n(6)]
    opened: Option<Opened>,
}

/// When an epoch was opened at this site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Opened {
    /// Which.
    #[n(0)]
    pub epoch: Epoch,
    /// When, in milliseconds since 1970.
    #[n(1)]
    pub at_ms: u64,
}

/// How far the site's decision is.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Stage {
    /// A person has to decide. No data file has been opened.
    #[n(0)]
    Waiting,
    /// Yes, by this rule; the data has still to be read.
    #[n(1)]
    Decided {
        /// The rule or person.
        #[n(0)]
        rule: Rule,
    },
    /// No.
    #[n(2)]
    Refused {
        /// As it was signed.
        #[n(0)]
        refusal: Signed<Refusal>,
        /// The rule or person.
        #[n(1)]
        rule: Rule,
    },
    /// Yes, and the site takes part.
    #[n(3)]
    Accepted(#[n(0)] Box<Participation>),
}

/// A study in which the site takes part.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Participation {
    /// As it was signed.
    #[n(0)]
    pub acceptance: Signed<Acceptance>,
    /// The rule or person it rests on.
    #[n(1)]
    pub rule: Rule,
    /// As it was signed.
    #[n(2)]
    pub readiness: Signed<Readiness>,
    /// The site's weight, fixed at acceptance.
    #[n(3)]
    pub weight_class: u32,
    /// The attempt that was accepted last, for going on with it after a restart.
    #[n(4)]
    pub begun: Option<Signed<Context>>,
    /// The attempt that the site sits out, and why.
    #[n(5)]
    pub withdrawn: Option<Withdrawn>,
    /// The starting model that was accepted last, and its loss here.
    #[n(6)]
    pub reference: Option<Reference>,
    /// Milliseconds of work in the attempt that was masked last.
    #[n(7)]
    pub busy_ms: u64,
    /// The last leave that a person gave to open a model with other survivors.
    #[n(8)]
    pub consent: Option<Binding>,
}

/// An attempt that the site sits out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Withdrawn {
    /// Which.
    #[n(0)]
    pub attempt: Attempt,
    /// Why.
    #[n(1)]
    pub cause: Withdrawal,
}

/// What the next starting model is held against (Fowl et al. 2022; Boenisch et al. 2023: trap models).
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Reference {
    /// The model.
    #[n(0)]
    pub model: Hash,
    /// Its mean loss on this site's held-out cases; none without such cases.
    #[n(1)]
    pub loss: Option<f64>,
    /// The round that started from it.
    #[n(2)]
    pub round: RoundNumber,
}

/// A person's answer, as `approve`, `decline` and `consent` leave it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PersonalAnswer {
    /// The study that was looked at.
    #[n(0)]
    pub study: Hash,
    /// What was answered.
    #[n(1)]
    pub act: PersonalAct,
    /// Who.
    #[n(2)]
    pub person: String,
    /// When, in milliseconds since 1970.
    #[n(3)]
    pub at_ms: u64,
    /// [`Question::hash`] of what was consented to.
    #[n(4)]
    pub about: Option<Hash>,
}

/// What a person is asked about the repeat rule.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Question {
    /// What the coordinator would open again.
    #[n(0)]
    pub binding: Binding,
    /// The survivors that this site wrote down for it.
    #[n(1)]
    pub sets: Vec<Vec<SiteName>>,
}

impl Question {
    /// What names it in an answer.
    pub fn hash(&self) -> Hash {
        Hash::labelled("question", &self.to_canonical())
    }
}

/// What a person at the site can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum PersonalAct {
    /// Take part in the study.
    #[n(0)]
    Approve,
    /// Do not.
    #[n(1)]
    Decline,
    /// Let the starting model be opened once more, with other survivors than before.
    #[n(2)]
    Consent,
}

impl Stage {
    /// The stage as a word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Decided { .. } => "decided",
            Self::Refused { .. } => "refused",
            Self::Accepted(_) => "accepted",
        }
    }
}

impl StudyRecord {
    /// A study that was just proposed, its signatures checked.
    pub fn new(study: Study, signed: Signed<Study>, roster: Signed<Roster>, heard_ms: u64) -> Self {
        let (stage, state, settled) = (Stage::Waiting, StudyState::Proposed, None);
        let saved = Saved { study: signed, roster, heard_ms, stage, state, settled, opened: None };
        Self { study, saved }
    }

    /// The study.
    pub const fn plan(&self) -> &Study {
        &self.study
    }

    /// Its hash.
    pub fn hash(&self) -> Hash {
        self.study.hash()
    }

    /// Who signed it.
    pub fn operator(&self) -> &Principal {
        self.saved.study.signer()
    }

    /// The roster it is pinned to, as it came.
    pub const fn roster(&self) -> &Signed<Roster> {
        &self.saved.roster
    }

    /// All sites of that roster.
    pub fn roster_sites(&self, anchor: &Anchor) -> Result<BTreeSet<SiteName>, RosterError> {
        let roster = roster::verify(anchor, &self.saved.roster)?;
        Ok(roster.sites().iter().map(|entry| entry.name.clone()).collect())
    }

    /// When this site first heard of it, in milliseconds since 1970.
    pub const fn heard_ms(&self) -> u64 {
        self.saved.heard_ms
    }

    /// How far the site's decision is.
    pub const fn stage(&self) -> &Stage {
        &self.saved.stage
    }

    /// The rule or person that decided.
    pub fn rule(&self) -> Option<&Rule> {
        match &self.saved.stage {
            Stage::Waiting => None,
            Stage::Decided { rule } | Stage::Refused { rule, .. } => Some(rule),
            Stage::Accepted(participation) => Some(&participation.rule),
        }
    }

    /// Where the study stands, as the coordinator said last.
    pub const fn state(&self) -> StudyState {
        self.saved.state
    }

    /// How the latest attempt ended.
    pub const fn settled(&self) -> Option<&Settled> {
        self.saved.settled.as_ref()
    }

    /// What the site holds as a participant.
    pub const fn participation(&self) -> Option<&Participation> {
        match &self.saved.stage {
            Stage::Accepted(participation) => Some(participation),
            Stage::Waiting | Stage::Decided { .. } | Stage::Refused { .. } => None,
        }
    }

    /// The same, to change it; to be written down afterwards.
    pub const fn participation_mut(&mut self) -> Option<&mut Participation> {
        match &mut self.saved.stage {
            Stage::Accepted(participation) => Some(participation),
            Stage::Waiting | Stage::Decided { .. } | Stage::Refused { .. } => None,
        }
    }

    /// On which terms this site takes part, if it does.
    pub fn accepted_terms(&self) -> Option<SiteTerms> {
        Some(self.participation()?.acceptance.claim().ok()?.terms)
    }

    /// Whether the study is over for everybody.
    pub const fn is_over(&self) -> bool {
        matches!(self.saved.state, StudyState::Released { .. } | StudyState::Stopped)
    }

    /// Whether local work may go on.
    pub const fn may_work(&self) -> bool {
        !matches!(self.saved.state, StudyState::Paused | StudyState::Stopped | StudyState::Released { .. })
    }

    /// When an epoch was opened here, in milliseconds since 1970, if that was written down.
    pub fn opened_ms(&self, epoch: Epoch) -> Option<u64> {
        self.saved.opened.filter(|opened| opened.epoch == epoch).map(|opened| opened.at_ms)
    }

    /// Takes note of when an epoch was opened; to be written down afterwards.
    pub const fn set_opened(&mut self, opened: Opened) {
        self.saved.opened = Some(opened);
    }

    /// Goes to another stage; to be written down afterwards.
    pub fn set_stage(&mut self, stage: Stage) {
        self.saved.stage = stage;
    }

    /// Takes note of the study's state; to be written down afterwards. Says whether that was new.
    pub fn set_state(&mut self, state: StudyState) -> bool {
        std::mem::replace(&mut self.saved.state, state) != state
    }

    /// Takes note of how the latest attempt ended. Says whether that was new.
    pub fn set_settled(&mut self, settled: Settled) -> bool {
        self.saved.settled.replace(settled.clone()) != Some(settled)
    }

    /// Writes the record down.
    pub fn write(&self, store: &dyn Store, folder: &SiteFolder) -> Result<(), StoreError> {
        store.replace(Kind::Study, &folder.study(&self.hash()).record(), &self.saved.to_canonical())
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let saved = Saved::from_canonical(bytes)?;
        Ok(Self { study: saved.study.claim()?, saved })
    }
}

/// Why the studies of this site cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder cannot be listed.
    #[error("cannot list {}: {source}", path.display())]
    List {
        /// The folder.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("the record of study {study} was altered: {source}")]
    Altered {
        /// The study.
        study: Hash,
        /// The decoder's reason.
        source: NotCanonical,
    },
}

/// All studies this site has heard of, by hash.
pub fn read_all(store: &dyn Store, folder: &SiteFolder) -> Result<Vec<StudyRecord>, RecordError> {
    let path = folder.studies();
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(RecordError::List { path, source }),
    };
    let mut studies: Vec<Hash> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    studies.sort();
    let mut records = Vec::new();
    for study in studies {
        // A folder without a record is one whose first write never finished.
        if let Some(bytes) = store.read(Kind::Study, &folder.study(&study).record())? {
            let record =
                StudyRecord::from_bytes(&bytes).map_err(|source| RecordError::Altered { study, source })?;
            records.push(record);
        }
    }
    Ok(records)
}
