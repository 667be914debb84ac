//! What happened, ready for the ledger: the shell turns each record into signed statements and blobs.
//!
//! A record holds everything its statement needs, so the ledger never has to ask the machine.

use std::collections::BTreeSet;
use std::fmt;

use consilium_secagg::alarm::Alarm;
use consilium_secagg::context::{Context, CtxHash, Purpose};
use consilium_secagg::grouping::DrawProof;
use consilium_secagg::guilt::DealerGuilt;
use consilium_secagg::message::{EpochOpening, Receipt, SurvivorsSignature};
use consilium_secagg::numbering::{Attempt, RoundNumber};
use consilium_study::document::Study;
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::Signed;
use consilium_study::statement::{Acceptance, Readiness, Refusal};
use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::metrics::{Figures, TrainFigures};
use crate::reason::{Abandonment, CandidateRefusal, Decline, Dropout, Unevaluated, Withdrawal};

/// One consequential act.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Record {
    /// A study was proposed.
    #[n(0)]
    Proposal {
        /// Signed by the operator.
        #[n(0)]
        study: Signed<Study>,
        /// Hash of the roster it is pinned to.
        #[n(1)]
        roster: Hash,
    },
    /// A site takes part.
    #[n(1)]
    Acceptance(#[n(0)] Signed<Acceptance>),
    /// A site does not, or no longer.
    #[n(2)]
    Refusal(#[n(0)] Signed<Refusal>),
    /// A site's gated counts.
    #[n(3)]
    Readiness(#[n(0)] Signed<Readiness>),
    /// Somebody changed the course of the study, or it changed by its own rules.
    #[n(4)]
    Course {
        /// What the study does now.
        #[n(0)]
        course: Course,
        /// Who said so; the coordinator where a rule did.
        #[n(1)]
        by: Principal,
    },
    /// A generation of pair keys began.
    #[n(5)]
    Epoch(#[n(0)] Signed<EpochOpening>),
    /// An attempt began.
    #[n(6)]
    Context(#[n(0)] Signed<Context>),
    /// Survivors were proposed: from here on the attempt counts as opened.
    #[n(7)]
    Proposed(#[n(0)] Proposed),
    /// `t` survivors signed.
    #[n(8)]
    Agreement {
        /// The attempt.
        #[n(0)]
        attempt: Attempt,
        /// Its hash.
        #[n(1)]
        ctx: CtxHash,
        /// Signatures over the proposed survivors.
        #[n(2)]
        signatures: Vec<Signed<SurvivorsSignature>>,
    },
    /// A sum was opened.
    #[n(9)]
    Opened(#[n(0)] OpenedSum),
    /// An attempt ended without a sum.
    #[n(10)]
    Abandoned {
        /// The attempt.
        #[n(0)]
        attempt: Attempt,
        /// Its hash.
        #[n(1)]
        ctx: CtxHash,
        /// Why.
        #[n(2)]
        cause: Abandonment,
        /// Members that are no survivors.
        #[n(3)]
        missing: Vec<Missing>,
        /// The operator who declared it lost, paused or stopped.
        #[n(4)]
        by: Option<Principal>,
    },
    /// A round ended: its candidate was adopted or refused.
    #[n(11)]
    Adoption(#[n(0)] Box<Adoption>),
    /// The study is over, and recommends this model.
    #[n(12)]
    Release(#[n(0)] Release),
    /// A site noticed what no honest party does.
    #[n(13)]
    Alarm {
        /// Who noticed.
        #[n(0)]
        site: SiteName,
        /// What.
        #[n(1)]
        alarm: Alarm,
    },
    /// A dealer's shares do not lead to the seed it committed to, with the proof. It is left out from now on.
    #[n(14)]
    Guilty {
        /// The dealer.
        #[n(0)]
        dealer: SiteName,
        /// Anyone can check it.
        #[n(1)]
        proof: Box<DealerGuilt>,
    },
    /// A person at a site allowed a model to be opened once more with other survivors.
    #[n(15)]
    Consent {
        /// The site.
        #[n(0)]
        site: SiteName,
        /// The model.
        #[n(1)]
        model: Hash,
    },
    /// Groups were drawn for an epoch, with everything that proves the draw.
    #[n(16)]
    Draw(#[n(0)] Box<DrawProof>),
}

/// What a study does from now on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Course {
    /// Enough sites have accepted.
    #[n(0)]
    Open,
    /// It may begin its rounds as soon as enough sites are ready.
    #[n(1)]
    Start,
    /// No attempt begins.
    #[n(2)]
    Pause,
    /// It goes on at the same round.
    #[n(3)]
    Resume,
    /// It ends without a release.
    #[n(4)]
    Stop {
        /// In the operator's words.
        #[n(0)]
        reason: String,
    },
    /// All rounds are done.
    #[n(5)]
    Close,
    /// The coordinator was restored from a backup and goes on above this attempt.
    #[n(6)]
    Restored {
        /// The highest attempt that a site has reported.
        #[n(0)]
        above: u32,
    },
}

/// Survivors by name, with all receipts.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Proposed {
    /// The attempt.
    #[n(0)]
    pub attempt: Attempt,
    /// Its hash.
    #[n(1)]
    pub ctx: CtxHash,
    /// Sites and the hashes of their receipts, in the order of names.
    #[n(2)]
    pub survivors: Vec<(SiteName, Hash)>,
    /// The receipts of complete uploads.
    #[n(3)]
    pub receipts: Vec<Signed<Receipt>>,
    /// Members that are no survivors, and why.
    #[n(4)]
    pub missing: Vec<Missing>,
}

/// A member of a Selection that is not among the survivors.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Missing {
    /// Who.
    #[n(0)]
    pub site: SiteName,
    /// Why.
    #[n(1)]
    pub dropout: Dropout,
    /// The site's own words, where it withdrew.
    #[n(2)]
    pub withdrawal: Option<Withdrawal>,
    /// The site's own words, where it declined.
    #[n(3)]
    pub decline: Option<Decline>,
}

impl Missing {
    /// A site that fell out without a word of its own.
    pub const fn new(site: SiteName, dropout: Dropout) -> Self {
        Self { site, dropout, withdrawal: None, decline: None }
    }

    /// A site that went, and says why.
    pub fn withdrew(site: SiteName, cause: Withdrawal) -> Self {
        Self { withdrawal: Some(cause), ..Self::new(site, Dropout::Withdrew) }
    }

    /// A site that said no, and why.
    pub fn declined(site: SiteName, reason: Decline) -> Self {
        Self { decline: Some(reason), ..Self::new(site, Dropout::Declined) }
    }

    /// Whether the site would probably say the same if it were asked again.
    pub fn lasts(&self) -> bool {
        self.withdrawal.is_some_and(Withdrawal::lasts) || self.decline.is_some_and(Decline::lasts)
    }
}

impl fmt::Display for Missing {
    /// The reason, with the site's own words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.withdrawal, self.decline) {
            (Some(withdrawal), _) => write!(f, "{}: {withdrawal}", self.dropout),
            (None, Some(decline)) => write!(f, "{}: {decline}", self.dropout),
            (None, None) => self.dropout.fmt(f),
        }
    }
}

/// An opened sum.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct OpenedSum {
    /// The attempt.
    #[n(0)]
    pub attempt: Attempt,
    /// Its hash.
    #[n(1)]
    pub ctx: CtxHash,
    /// The round.
    #[n(2)]
    pub round: RoundNumber,
    /// What was summed.
    #[n(3)]
    pub purpose: Purpose,
    /// Plain hash of the sum: its words, little-endian, one after the other.
    #[n(4)]
    pub aggregate: Hash,
    /// After training: the model that the strategy made of it.
    #[n(5)]
    pub candidate: Option<Hash>,
    /// And the moments beside it, of a strategy that keeps them; plain hashes of their files.
    #[n(6)]
    pub moments: Option<[Hash; 2]>,
    /// Or the mean of control variates beside it, of a strategy that keeps one; plain hash of its file.
    #[n(7)]
    pub control: Option<Hash>,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Adoption {
    /// The round.
    #[n(0)]
    pub round: RoundNumber,
    /// The model that the round started from.
    #[n(1)]
    pub start: Hash,
    /// The model that the round made.
    #[n(2)]
    pub candidate: Hash,
    /// What became of it.
    #[n(3)]
    pub verdict: Verdict,
    /// What training said about itself.
    #[n(4)]
    pub trained: TrainFigures,
    /// What the federation measured, and the attempt that measured it.
    #[n(5)]
    pub evaluated: Option<Evaluated>,
}

/// Figures of an evaluation.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Evaluated {
    /// The attempt.
    #[n(0)]
    pub ctx: CtxHash,
    /// Whose held-out cases they are: figures of different sets are never compared.
    #[n(1)]
    pub survivors: BTreeSet<SiteName>,
    /// The figures.
    #[n(2)]
    pub figures: Figures,
}

impl Evaluated {
    /// How many sites would train from the candidate, as far as is known: those that trained it or evaluated it,
    /// without those that decline it. Who trained it and did not evaluate it counts as willing: a site without
    /// held-out cases never declines.
    pub fn willing(&self, trained: &BTreeSet<SiteName>) -> usize {
        let known = trained.union(&self.survivors).count();
        known.saturating_sub(self.figures.declines as usize)
    }
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The study goes on with it.
    #[n(0)]
    Adopted,
    /// The study goes on with it; nobody could say how good it is.
    #[n(1)]
    Unevaluated(#[n(0)] Unevaluated),
    /// It was refused; the study goes on with the model before.
    #[n(2)]
    Refused(#[n(0)] CandidateRefusal),
}

/// A recommended model, and why it is this one. There is no release without a model.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Release {
    /// The study.
    #[n(0)]
    pub study: Hash,
    /// The model.
    #[n(1)]
    pub model: Hash,
    /// Why it is recommended.
    #[n(2)]
    pub reason: ReleaseReason,
    /// Training rounds that were run.
    #[n(3)]
    pub rounds: u32,
    /// Sites that were counted in at least one adopted round.
    #[n(4)]
    pub participants: BTreeSet<SiteName>,
    /// Sites of the study that were not.
    #[n(5)]
    pub absent: BTreeSet<SiteName>,
}

impl Release {
    /// The round whose model it is; 0 for the initial model.
    pub fn round(&self) -> u32 {
        match &self.reason {
            ReleaseReason::BestEvaluated { round, .. } | ReleaseReason::LastAdopted { round } => round.get(),
            ReleaseReason::NothingAdopted => 0,
        }
    }

    /// Its figures, where the federation measured them.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.reason {
            ReleaseReason::BestEvaluated { evaluated, .. } => Some(&evaluated.figures),
            ReleaseReason::LastAdopted { .. } | ReleaseReason::NothingAdopted => None,
        }
    }
}

/// Why a model is recommended.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ReleaseReason {
    /// The best by the study's metric among the adopted models that the same sites evaluated.
    #[n(0)]
    BestEvaluated {
        /// The round.
        #[n(0)]
        round: RoundNumber,
        /// The metric that decided.
        #[n(1)]
        metric: Metric,
        /// Its figures.
        #[n(2)]
        evaluated: Box<Evaluated>,
        /// How many models were compared.
        #[n(3)]
        among: u32,
    },
    /// No adopted model was evaluated; this is the last.
    #[n(1)]
    LastAdopted {
        /// The round.
        #[n(0)]
        round: RoundNumber,
    },
    /// Every candidate was refused: the initial model stays.
    #[n(2)]
    NothingAdopted,
}
