//! The study document: what a consortium proposes, an operator signs and every site judges.
//!
//! A study is written as `study.toml`, becomes a [`Draft`] when every rule in [`crate::check`] holds, and a
//! [`Study`] when the hash of its initial model is known. Both can only be made by passing the rules, from
//! a file as from signed bytes, so a value that exists is valid.
//!
//! Two files with the same meaning give the same study and so the same hash: durations and sizes are
//! numbers, defaults are filled in, a preset becomes its graph, and lists of names that mean sets are sorted.

use std::ops::Deref;

use minicbor::{Decode, Decoder, Encode, decode};
use serde::{Deserialize, Serialize};

use crate::canonical::is_default;
use crate::check::{self, Problem};
pub use crate::data::{Data, Input};
use crate::disclosure::Floor;
use crate::graph::{GraphError, ModelGraph};
use crate::grouping::{GroupPlan, Groups, NoGroups, STRETCH};
use crate::hash::Hash;
use crate::malformed::MalformedLayer;
use crate::metric::Metric;
use crate::name::{SiteName, StudyName};
use crate::quantity::{ClipNorm, HumanDuration, HumanSize, Share};
use crate::recipe::Training;
use crate::sign::Statement;
use crate::strategy::Strategy;
use crate::weight::WeightRule;

/// The only format there is.
pub const FORMAT: u32 = 1;
/// Uploads travel, are hashed and are resumed in chunks of this size.
pub const CHUNK: HumanSize = HumanSize::from_bytes(1 << 20);
/// Masked sums are taken modulo two to this power where a study says nothing else.
pub const RING_BITS: u32 = 32;
/// Or, for the rotated updates of a study for slow links, modulo two to this.
pub const PACKED_RING_BITS: u32 = 16;
/// Most bytes of a `study.toml`, and of the canonical bytes of a study.
pub const MAX_BYTES: usize = 256 * 1024;

/// What a study says, as plain data. On its own it is unchecked; inside a [`Draft`] or a [`Study`] every
/// rule holds, and it can only be read.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Plan {
    /// Version of this format: [`FORMAT`].
    #[n(0)]
    pub format: u32,
    /// The study's name, unique within the consortium.
    #[n(1)]
    pub name: StudyName,
    /// One line for people.
    #[n(2)]
    pub title: String,
    /// The sites of the study in the order of their names. Its length is the `N` of the thresholds.
    #[n(3)]
    pub sites: Vec<SiteName>,
    /// Where every pseudo-random choice starts: initial weights, batch order, augmentation, rounding.
    #[n(4)]
    pub seed: u64,
    /// What a case is.
    #[n(5)]
    pub data: Data,
    /// The model.
    #[n(6)]
    pub model: ModelGraph,
    /// How a site trains.
    #[n(7)]
    pub training: Training,
    /// How many rounds, with whom, and for how long each wait lasts.
    #[n(8)]
    pub rounds: Rounds,
    /// How updates become integers and integers a sum.
    #[n(9)]
    pub aggregation: Aggregation,
    /// What is measured, and what a model must not lose.
    #[n(10)]
    pub evaluation: Evaluation,
}

impl Plan {
    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.data.labels.len()
    }

    /// What `groups` promise when all sites are drawn.
    pub fn group_plan(&self, groups: Groups) -> Result<GroupPlan, NoGroups> {
        let sites = self.sites.len();
        let narrow = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        let honest = least_honest(sites).max(self.aggregation.min_honest);
        GroupPlan::new(sites, narrow(groups.count), narrow(colluders(sites)), narrow(honest))
    }
}

/// How many rounds, with whom, and how long each wait lasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Rounds {
    /// Number of `Train` rounds.
    #[n(0)]
    pub count: u32,
    /// Least number of Survivors. The threshold of the protocol may ask for more.
    #[n(1)]
    pub quorum: u32,
    /// Sites without which no round starts, in the order of their names.
    #[n(2)]
    #[serde(default)]
    pub required: Vec<SiteName>,
    /// How long sites may take to return a masked update.
    #[n(3)]
    #[serde(default = "default_collect_timeout")]
    pub collect_timeout: HumanDuration,
    /// How long sites may take to return masked evaluation counts.
    #[n(4)]
    #[serde(default = "default_evaluate_timeout")]
    pub evaluate_timeout: HumanDuration,
    /// How long a site may take to settle its pair keys before it waits for the next epoch.
    #[n(5)]
    #[serde(default = "default_setup_timeout")]
    pub setup_timeout: HumanDuration,
    /// Attempts served by one key setup.
    #[n(6)]
    #[serde(default = "default_attempts_per_epoch")]
    pub attempts_per_epoch: u32,
    /// How an aggregate becomes the next model.
    #[n(7)]
    #[serde(default)]
    pub strategy: Strategy,
    /// The study ends early when so many rounds in a row have not made the recommended figure better.
    #[n(8)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
}

fn default_collect_timeout() -> HumanDuration {
    HumanDuration::from_secs(2 * 60 * 60)
}

fn default_evaluate_timeout() -> HumanDuration {
    HumanDuration::from_secs(30 * 60)
}

fn default_setup_timeout() -> HumanDuration {
    HumanDuration::from_secs(10 * 60)
}

fn default_attempts_per_epoch() -> u32 {
    100
}

/// How updates become integers and integers a sum.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Aggregation {
    /// Bound on the L2 norm of one site's update, running statistics not included.
    #[n(0)]
    pub clip_norm: ClipNorm,
    /// What a site's update counts.
    #[n(1)]
    pub weight: WeightRule,
    /// Largest weight; a power of two.
    #[n(2)]
    pub weight_cap: u32,
    /// Least number of honest sites behind any opened sum.
    #[n(3)]
    pub min_honest: u32,
    /// Size of an upload's pieces: [`CHUNK`].
    #[n(4)]
    pub chunk: HumanSize,
    /// Sums of updates are taken modulo two to this power: [`RING_BITS`] or [`PACKED_RING_BITS`].
    #[n(5)]
    pub ring_bits: u32,
    /// Groups that are summed apart; none where everybody is summed together.
    #[n(7)]
    pub groups: Option<Groups>,
}

impl Aggregation {
    /// Whether updates are rotated and take two bytes an entry.
    pub const fn is_packed(&self) -> bool {
        self.ring_bits == PACKED_RING_BITS
    }

    /// The longest that a mean of clipped updates may be, in L2 norm: what each may be, as much more as a combination of
    /// groups can be longer than each, and what rounding adds to it. That is less than a thousandth, and less than a
    /// hundredth where updates are packed.
    pub fn longest_mean(&self) -> f64 {
        let rounding = if self.is_packed() { 1.01 } else { 1.001 };
        self.clip_norm.get() * rounding * if self.groups.is_some() { STRETCH } else { 1.0 }
    }

    /// The weight of an update trained on so many cases of each class: at least 1, at most the cap. `floor` is the
    /// least count that the site tells.
    pub fn weight_of(&self, cases: &[u32], floor: Floor) -> u32 {
        self.weight.of(cases, floor).clamp(1, self.weight_cap)
    }
}

/// What is measured on held-out cases, and what a new model must not lose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields, default)]
#[cbor(map)]
pub struct Evaluation {
    /// Bins of the score histograms.
    #[n(0)]
    pub bins: u32,
    /// Probability from which a case counts as positive.
    #[n(1)]
    pub operating_point: Share,
    /// The metric that picks the recommended model among the adopted ones.
    #[n(2)]
    pub recommend: Metric,
    /// The acceptance gate; none means that no candidate is refused for its loss.
    #[n(3)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<AcceptanceGate>,
    /// Whether losses at several temperatures are counted, so that the temperature of calibrated probabilities comes out.
    #[n(4)]
    #[cbor(skip_if = "is_default")]
    pub calibrate: bool,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            bins: 256,
            operating_point: Share::constant(0.5),
            recommend: Metric::Auroc,
            gate: None,
            calibrate: false,
        }
    }
}

/// When a candidate is refused and the model before it stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct AcceptanceGate {
    /// Largest increase of the mean clipped loss that is still adopted: against the starting model, and against the
    /// best model so far that the same sites measured.
    #[n(0)]
    pub max_loss_increase: f64,
    /// How many times as long as the longest of the last three adopted aggregates an aggregate may be, in L2 norm.
    #[n(1)]
    #[serde(default = "default_max_norm_growth")]
    pub max_norm_growth: f64,
}

fn default_max_norm_growth() -> f64 {
    1.5
}

/// The floor of `h`, the least number of honest sites behind an opened sum: 2, and 3 from five sites on.
pub const fn least_honest(sites: usize) -> u32 {
    if sites >= 5 { 3 } else { 2 }
}

/// How many of `sites` may help the coordinator: `ceil(N/3) − 1`.
pub const fn colluders(sites: usize) -> u32 {
    (sites.div_ceil(3) as u32).saturating_sub(1)
}

/// A study whose initial model has not been made yet. Every rule holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    plan: Plan,
}

impl Draft {
    /// Reads a `study.toml`. Every rule that does not hold is reported at once.
    pub fn from_toml(text: &str) -> Result<Self, InvalidStudy> {
        Self::new(crate::file::read(text)?)
    }

    /// Checks a plan.
    pub fn new(plan: Plan) -> Result<Self, InvalidStudy> {
        let problems = check::problems(&plan);
        if problems.is_empty() { Ok(Self { plan }) } else { Err(InvalidStudy::Rules(problems)) }
    }

    /// The study, once its initial model is known.
    pub fn with_initial_model(self, initial_model: Hash) -> Study {
        Study { plan: self.plan, initial_model }
    }
}

impl Deref for Draft {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}

/// A complete study: a plan and the hash of the model it starts from. Signed by an operator. Every rule
/// holds, also for one that was decoded.
#[derive(Clone, Debug, PartialEq, Encode)]
#[cbor(map)]
pub struct Study {
    #[n(0)]
    plan: Plan,
    #[n(1)]
    initial_model: Hash,
}

impl Study {
    /// Hash of the file with the initial weights.
    pub const fn initial_model(&self) -> Hash {
        self.initial_model
    }

    /// What sites accept, and what names the study everywhere else.
    pub fn hash(&self) -> Hash {
        Hash::of_value(Self::LABEL, self)
    }

    /// The plan alone, for example to propose it again from another initial model.
    pub fn into_draft(self) -> Draft {
        Draft { plan: self.plan }
    }
}

impl Statement for Study {
    const LABEL: &'static str = "study";
}

impl Deref for Study {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}

/// The same fields as [`Study`], before the rules were checked.
#[derive(Decode)]
#[cbor(map)]
struct Unchecked {
    #[n(0)]
    plan: Plan,
    #[n(1)]
    initial_model: Hash,
}

impl<'b, C> Decode<'b, C> for Study {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        // A few bytes can stand for a value much larger in memory, so length comes before content. What follows is not
        // this study's: the state of a whole federation may.
        let start = d.position();
        let mut ahead = d.probe();
        ahead.skip()?;
        if ahead.position() - start > MAX_BYTES {
            return Err(decode::Error::message("a study is at most 256 KiB long"));
        }
        let Unchecked { plan, initial_model } = Unchecked::decode(d, ctx)?;
        let draft = Draft::new(plan).map_err(|error| decode::Error::message(error.to_string()))?;
        Ok(draft.with_initial_model(initial_model))
    }
}

/// Why a file or signed bytes are no study.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidStudy {
    /// More text than a study has.
    #[error("the file has {bytes} bytes; a study has at most {MAX_BYTES}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong kind; the text shows the line.
    #[error("{what}")]
    Syntax {
        /// What is wrong.
        what: String,
        /// The key with its sections, where the file is TOML.
        key: Option<String>,
    },
    /// A key that means nothing here; said with the sections around it.
    #[error("{0}: there is no such key; remove it, or correct its spelling")]
    UnknownKey(String),
    /// A layer of `[model]` cannot be read.
    #[error("model: {0}")]
    Layer(MalformedLayer),
    /// `[model]` describes no model for these images.
    #[error("model: {0}")]
    Model(#[from] GraphError),
    /// One or more rules do not hold.
    #[error("{}", check::listing(.0))]
    Rules(Vec<Problem>),
}

impl InvalidStudy {
    /// The rules that do not hold; empty when the file could not be read that far.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Rules(problems) => problems,
            Self::TooLong { .. }
            | Self::Syntax { .. }
            | Self::UnknownKey(_)
            | Self::Layer(_)
            | Self::Model(_) => &[],
        }
    }

    /// The key in `study.toml` of what is wrong where it is one thing, with its section and, in a model, its layer.
    pub fn key(&self) -> Option<String> {
        match self {
            Self::TooLong { .. } | Self::Rules(_) => None,
            Self::Syntax { key, .. } => key.clone(),
            Self::UnknownKey(path) => Some(path.clone()),
            Self::Layer(layer) => Some(layer.path()),
            Self::Model(error) => Some(match error.layer() {
                Some(layer) => format!("model.{layer}"),
                None => "model".to_owned(),
            }),
        }
    }
}
