//! What people see of a study: where it stands, who waits for whom since when and until when, and one line per
//! round.

use consilium_secagg::context::Purpose;
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::name::{SiteName, StudyName};
use minicbor::{Decode, Encode};
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::machine::Shortage;
use crate::message::{Stage, StudyState};
use crate::reason::{Abandonment, CandidateRefusal, Unevaluated};
use crate::record::Missing;
use crate::time::Timestamp;

/// A study as a dashboard shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyStatus {
    /// [`consilium_study::document::Study::hash`].
    pub study: Hash,
    /// Its name.
    pub name: StudyName,
    /// Where it stands.
    pub state: StudyState,
    /// The model that it recommends, once it is over.
    pub released: Option<Hash>,
    /// The current training round; 0 before the first.
    pub round: u32,
    /// Training rounds in all.
    pub rounds: u32,
    /// What is being summed.
    pub kind: Option<Kind>,
    /// The attempt that is running.
    pub attempt: Option<u32>,
    /// Its phase.
    pub phase: Phase,
    /// The adopted model.
    pub model: Hash,
    /// Every site of the study.
    pub sites: Vec<SiteStatus>,
    /// Every wait.
    pub waits: Vec<Wait>,
    /// Lines of the rounds until now.
    pub lines: Vec<RoundLine>,
}

/// Kinds of round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Kind {
    /// Updates are summed.
    #[n(0)]
    Train,
    /// A candidate is scored.
    #[n(1)]
    Evaluate,
    /// Data are counted.
    #[n(2)]
    Statistics,
}

impl From<Purpose> for Kind {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Train => Self::Train,
            Purpose::Evaluate => Self::Evaluate,
            Purpose::Statistics => Self::Statistics,
        }
    }
}

/// What a study is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No round is running.
    Idle,
    /// Waiting for enough ready sites.
    Gathering,
    /// Masked vectors come in.
    CollectMasked,
    /// The survivors sign.
    ConsistencyCheck,
    /// Shares and seeds come in.
    Unmask,
    /// The sum is taken.
    Summing,
}

/// One site of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteStatus {
    /// Its name.
    pub site: SiteName,
    /// How far it has come.
    pub rung: Rung,
    /// Whether its connection is up.
    pub connected: bool,
    /// What it is doing in the attempt.
    pub stage: Option<Stage>,
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// Why it is no part of the attempt, where it could be.
    pub missing: Option<Missing>,
    /// The rule or person that refused the study, or took the acceptance back.
    pub refused_by: Option<String>,
}

/// The rungs that a site climbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Revoked, or proved guilty.
    Expelled,
    /// It said no.
    Refused,
    /// Named in the study, and never connected.
    Enrolled,
    /// Connected once; it has not decided yet.
    Connected,
    /// A person there has to decide.
    Deciding,
    /// It takes part, and is not connected.
    Away,
    /// It takes part, and is settling keys or resting.
    Preparing,
    /// It could be selected.
    Ready,
    /// It is in the Selection and works.
    Training,
    /// Its masked vector is complete.
    Uploaded,
    /// It is among the survivors.
    Counted,
}

/// Somebody waits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wait {
    /// For what.
    pub reason: WaitReason,
    /// For whom.
    pub sites: Vec<SiteName>,
    /// Since when.
    pub since: Timestamp,
    /// Until when; none where only people or sites can end it.
    pub until: Option<Timestamp>,
}

/// What a study waits for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// Sites to accept the study.
    Acceptances,
    /// An operator to stop a study that cannot begin: too many sites, or one that it needs, have refused.
    Stop,
    /// An operator to start it.
    Start,
    /// An operator to resume it.
    Resume,
    /// A Selection that everyone in it can sign.
    Sites(Shortage),
    /// A person at each of these to allow other survivors, where some of an earlier sum are missing.
    Consent,
    /// Sites that are expected to be ready soon.
    Latecomers,
    /// Nonces, from which the groups of the epoch are drawn.
    Draw,
    /// A pause after an attempt that failed.
    Retry,
    /// Masked vectors.
    Uploads,
    /// Verdicts on envelopes.
    Envelopes,
    /// Signatures over the survivors.
    Signatures,
    /// Shares and seeds.
    Answers,
    /// The coordinator's own arithmetic.
    Sum,
    /// The release to be written.
    Release,
}

/// One line per round of each kind, with stable keys.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct RoundLine {
    /// The round.
    #[n(0)]
    pub round: u32,
    /// Its kind.
    #[n(1)]
    pub kind: Kind,
    /// How it ended; printed as `state`, one word, and `cause`, where something went wrong.
    #[n(2)]
    #[serde(flatten)]
    pub state: LineState,
    /// Training loss of a training round; loss of the candidate of an evaluation.
    #[n(3)]
    pub loss: Option<f64>,
    /// AUROC of the candidate.
    #[n(4)]
    pub auroc: Option<f64>,
    /// Sites in the Selection.
    #[n(5)]
    pub selected: u32,
    /// Survivors.
    #[n(6)]
    pub counted: u32,
    /// Members of the Selection that are no survivors; their names in the printed line.
    #[n(7)]
    #[serde(serialize_with = "names")]
    pub missing: Vec<Missing>,
    /// Bytes from sites.
    #[n(8)]
    pub bytes_up: u64,
    /// Bytes to sites.
    #[n(9)]
    pub bytes_down: u64,
    /// From the context to the opened sum.
    #[n(10)]
    pub seconds: f64,
    /// Of that, what the slowest site's own work does not explain. Training rounds only.
    #[n(11)]
    pub overhead_seconds: Option<f64>,
    /// Sites of the study that were not in the Selection.
    #[n(12)]
    pub absent: Vec<SiteName>,
    /// The metric that picks the study's model, where it is neither loss nor AUROC.
    #[n(13)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// That of the candidate.
    #[n(14)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figure: Option<f64>,
}

fn names<S: Serializer>(missing: &[Missing], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(missing.iter().map(|missing| &missing.site))
}

/// How a round of one kind ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LineState {
    /// A training gave a candidate.
    #[n(0)]
    Trained,
    /// The candidate was adopted.
    #[n(1)]
    Adopted,
    /// The candidate was adopted without figures.
    #[n(2)]
    Unevaluated(#[n(0)] Unevaluated),
    /// The candidate was refused.
    #[n(3)]
    Refused(#[n(0)] CandidateRefusal),
    /// An attempt was given up; the round goes on with another.
    #[n(4)]
    Abandoned(#[n(0)] Abandonment),
}

impl LineState {
    /// The word in the printed line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Adopted => "adopted",
            Self::Unevaluated(_) => "unevaluated",
            Self::Refused(_) => "refused",
            Self::Abandoned(_) => "abandoned",
        }
    }

    /// Why, in words, where it did not go as it should.
    pub const fn cause(self) -> Option<&'static str> {
        match self {
            Self::Trained | Self::Adopted => None,
            Self::Unevaluated(cause) => Some(cause.text()),
            Self::Refused(cause) => Some(cause.text()),
            Self::Abandoned(cause) => Some(cause.text()),
        }
    }
}

impl Serialize for LineState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_struct("LineState", 2)?;
        line.serialize_field("state", self.name())?;
        match self.cause() {
            Some(cause) => line.serialize_field("cause", cause)?,
            None => line.skip_field("cause")?,
        }
        line.end()
    }
}
