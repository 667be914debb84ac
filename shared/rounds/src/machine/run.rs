//! The course of a study, as types.
//!
//! ```text
//! Proposed → Open → Running ⇄ Paused → Closed → Released        any but the last → Stopped
//!
//! Running: Train round r ──sum──► Evaluate round r ──figures──► adopt or refuse ──► Train round r + 1 … Closed
//! each:    Gathering ──Selection──► CollectMasked → ConsistencyCheck → Unmask ──seeds──► Summing
//!              ▲─────────── abandoned ──────┘   (then only by an operator) ┘                  │
//!              └───────────────────────────── failed sum ─────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use consilium_secagg::context::{Context, CtxHash, Purpose};
use consilium_secagg::coordinator::{CollectMasked, ConsistencyCheck, Unmask};
use consilium_secagg::message::Upload;
use consilium_secagg::numbering::{Attempt, RoundNumber};
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use minicbor::{Decode, Encode};

use crate::control::Controlled;
use crate::message::Progress;
use crate::metrics::TrainFigures;
use crate::reason::Dropout;
use crate::record::{Missing, Release};
use crate::sum::SumJob;
use crate::time::Timestamp;

/// Where a study stands, with what it knows there.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum Life {
    /// Waiting for acceptances.
    #[n(0)]
    Proposed,
    /// Enough sites have accepted.
    #[n(1)]
    Open,
    /// Rounds are run.
    #[n(2)]
    Running(#[n(0)] Run),
    /// No attempt begins.
    #[n(3)]
    Paused {
        #[n(0)]
        run: Run,
        #[n(1)]
        since: Timestamp,
    },
    /// All rounds are done; the release is being written.
    #[n(4)]
    Closed {
        #[n(0)]
        release: Box<Release>,
        #[n(1)]
        since: Timestamp,
        /// Somebody was told that it takes long.
        #[n(2)]
        late: bool,
    },
    /// Over.
    #[n(5)]
    Released(#[n(0)] Box<Release>),
    /// Over, without a release.
    #[n(6)]
    Stopped {
        #[n(0)]
        reason: String,
        #[n(1)]
        since: Timestamp,
    },
}

/// Whether an operator wants rounds to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Wanted {
    /// Nobody has started the study.
    #[n(0)]
    NotYet,
    /// Started.
    #[n(1)]
    Yes,
    /// Started, then paused before the first round.
    #[n(2)]
    Held,
}

/// A running study: which step, and how far.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Run {
    #[n(0)]
    pub(crate) step: Step,
    #[n(1)]
    pub(crate) stage: Stage,
}

/// What has to be summed next.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum Step {
    /// Updates.
    #[n(0)]
    Train(#[n(0)] RoundNumber),
    /// Counts of the candidate.
    #[n(1)]
    Evaluate {
        #[n(0)]
        round: RoundNumber,
        #[n(1)]
        trained: Box<Trained>,
    },
}

impl Step {
    pub(crate) fn round(&self) -> RoundNumber {
        match self {
            Self::Train(round) | Self::Evaluate { round, .. } => *round,
        }
    }

    pub(crate) fn purpose(&self) -> Purpose {
        match self {
            Self::Train(_) => Purpose::Train,
            Self::Evaluate { .. } => Purpose::Evaluate,
        }
    }
}

/// A candidate, and what is known of it before its evaluation.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Trained {
    #[n(0)]
    pub(crate) candidate: Hash,
    #[n(1)]
    pub(crate) figures: TrainFigures,
    /// Largest magnitude of the mean update in each block; of a packed block its largest root mean square.
    #[n(2)]
    pub(crate) largest: Vec<f64>,
    /// Whose updates are in it.
    #[n(3)]
    pub(crate) survivors: BTreeSet<SiteName>,
    /// The moments beside it, of a strategy that keeps them.
    #[n(4)]
    pub(crate) moments: Option<[Hash; 2]>,
    /// The mean of control variates beside it, of a strategy that keeps one.
    #[n(5)]
    pub(crate) control: Option<Controlled>,
}

/// How far a step has come.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum Stage {
    /// Waiting for enough ready sites.
    #[n(0)]
    Gathering(#[n(0)] Gathering),
    /// An attempt is running.
    #[n(1)]
    Attempt(#[n(0)] Box<Live>),
    /// The shell is adding up.
    #[n(2)]
    Summing(#[n(0)] Box<Summing>),
}

/// Waiting for a Selection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Gathering {
    /// Since when.
    #[n(0)]
    pub(crate) since: Timestamp,
    /// No attempt begins before.
    #[n(1)]
    pub(crate) not_before: Timestamp,
    /// Attempts of this step that were given up.
    #[n(2)]
    pub(crate) given_up: GivenUp,
}

impl Gathering {
    pub(crate) fn begin(now: Timestamp) -> Self {
        Self { since: now, not_before: now, given_up: GivenUp::default() }
    }
}

/// Attempts of one step that were given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct GivenUp {
    #[n(0)]
    pub(crate) attempts: u32,
    /// Who left the last one that selected it, for a reason that lasts: the next attempt goes without it, where that
    /// costs no one else. Nobody after an attempt that failed for other reasons.
    #[n(1)]
    pub(crate) unwilling: BTreeSet<SiteName>,
}

impl GivenUp {
    /// One more, with `context`, from which `missing` were missing.
    pub(crate) fn and(&self, context: &Context, missing: &[Missing]) -> Self {
        let left = missing.iter().filter(|missing| missing.lasts()).map(|missing| missing.site.clone());
        let mut unwilling: BTreeSet<SiteName> = left.collect();
        if !unwilling.is_empty() {
            let unasked = self.unwilling.iter().filter(|site| context.selection.index_of(site).is_none());
            unwilling.extend(unasked.cloned());
        }
        Self { attempts: self.attempts + 1, unwilling }
    }
}

/// An attempt, from its context until its seeds are recovered.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Live {
    #[n(0)]
    pub(crate) signed: Signed<Context>,
    #[n(1)]
    pub(crate) context: Context,
    #[n(2)]
    pub(crate) ctx: CtxHash,
    #[n(3)]
    pub(crate) begun: Timestamp,
    /// Least number of survivors.
    #[n(4)]
    pub(crate) needed: u32,
    /// Attempts of this step that were given up before.
    #[n(5)]
    pub(crate) given_up: GivenUp,
    #[n(6)]
    pub(crate) members: BTreeMap<SiteName, Member>,
    #[n(7)]
    pub(crate) phase: Phase,
    #[n(8)]
    pub(crate) bytes_up: u64,
    #[n(9)]
    pub(crate) bytes_down: u64,
}

/// The phases of an attempt.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum Phase {
    #[n(0)]
    Collect(#[n(0)] CollectMasked),
    #[n(1)]
    Check {
        #[n(0)]
        check: ConsistencyCheck,
        #[n(1)]
        since: Timestamp,
    },
    #[n(2)]
    Unmask {
        #[n(0)]
        unmask: Unmask,
        #[n(1)]
        since: Timestamp,
    },
}

/// A member of the Selection, as far as the protocol does not know it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Member {
    /// When it last made progress.
    #[n(0)]
    pub(crate) progressed: Timestamp,
    /// What it said last.
    #[n(1)]
    pub(crate) progress: Option<Progress>,
    #[n(2)]
    pub(crate) upload: UploadState,
    /// Milliseconds it worked.
    #[n(3)]
    pub(crate) busy_ms: u64,
    /// What it counts, as it accepted.
    #[n(4)]
    pub(crate) weight: Option<u32>,
}

/// How far a member's masked vector has come.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) enum UploadState {
    /// Nothing was announced.
    #[n(0)]
    Awaited,
    /// Receipt and the first envelopes are here, others are still to come.
    #[n(1)]
    Announced(#[n(0)] Box<Upload>),
    /// Receipt and envelopes are here, the vector is not.
    #[n(2)]
    Receiving,
    /// All there.
    #[n(3)]
    Complete,
    /// It will not come.
    #[n(4)]
    Gone(#[n(0)] Missing),
}

impl Live {
    pub(crate) fn attempt(&self) -> Attempt {
        self.context.attempt
    }

    /// Members whose vector may still come.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (&SiteName, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| !matches!(member.upload, UploadState::Complete | UploadState::Gone(_)))
    }

    pub(crate) fn complete(&self) -> usize {
        self.members.values().filter(|member| member.upload == UploadState::Complete).count()
    }

    /// Members outside `survivors`, each with the reason: `unfinished` of those whose vector is not there, `otherwise`
    /// of those whose vector is.
    pub(crate) fn missing(
        &self,
        survivors: &BTreeSet<SiteName>,
        unfinished: Dropout,
        otherwise: Dropout,
    ) -> Vec<Missing> {
        self.members
            .iter()
            .filter(|(site, _)| !survivors.contains(*site))
            .map(|(site, member)| match &member.upload {
                UploadState::Gone(missing) => missing.clone(),
                UploadState::Complete => Missing::new(site.clone(), otherwise),
                UploadState::Awaited | UploadState::Announced(_) | UploadState::Receiving => {
                    Missing::new(site.clone(), unfinished)
                }
            })
            .collect()
    }
}

/// An attempt whose seeds are recovered.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Summing {
    #[n(0)]
    pub(crate) job: SumJob,
    #[n(1)]
    pub(crate) ctx: CtxHash,
    #[n(2)]
    pub(crate) begun: Timestamp,
    #[n(3)]
    pub(crate) missing: Vec<Missing>,
    #[n(4)]
    pub(crate) selected: u32,
    #[n(5)]
    pub(crate) bytes_up: u64,
    #[n(6)]
    pub(crate) bytes_down: u64,
    /// The slowest member's work.
    #[n(7)]
    pub(crate) busy_ms: u64,
    #[n(8)]
    pub(crate) given_up: GivenUp,
}

/// Survivors that were proposed: from then on they count as signed.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct OpenedSet {
    #[n(0)]
    pub(crate) model: Hash,
    #[n(1)]
    pub(crate) purpose: Purpose,
    #[n(2)]
    pub(crate) epoch: u32,
    #[n(3)]
    pub(crate) survivors: BTreeSet<SiteName>,
    /// In an evaluation, the model that the candidate was compared with: its loss is in the sum too.
    #[n(4)]
    pub(crate) baseline: Option<Hash>,
    /// Everyone who may have written these survivors down.
    #[n(5)]
    pub(crate) selected: BTreeSet<SiteName>,
    /// Sites whose person allowed another set since, or that never wrote these survivors down.
    #[n(6)]
    pub(crate) freed: BTreeSet<SiteName>,
}

impl OpenedSet {
    /// Whether a sum for `purpose` over `model`, compared with `baseline`, would open a part of this one again.
    pub(crate) fn is_opened_by(&self, purpose: Purpose, model: Hash, baseline: Option<Hash>) -> bool {
        (self.model, self.purpose) == (model, purpose) || (baseline.is_some() && self.baseline == baseline)
    }
}
