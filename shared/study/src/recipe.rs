//! The training recipe: how a site turns the global model into its own update.
//!
//! One round trains for `epochs` passes over the site's cases or for `steps` batches. The learning
//! rate follows a schedule over the rounds of the study, not over one round's batches alone, so that
//! every site is at the same place of it whatever its size.

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Serialize};

use crate::augment::Augment;
use crate::canonical::is_default;
use crate::graph::ModelGraph;
use crate::loss::Loss;

/// Largest batch.
pub const MAX_BATCH: u32 = 4096;
/// Most passes of one round.
pub const MAX_EPOCHS: u32 = 1000;
/// Most steps of one round.
pub const MAX_STEPS: u32 = 1_000_000;
/// Most places where a schedule changes the learning rate.
pub const MAX_MILESTONES: u32 = 16;
/// Most values that one batch may leave behind in the layers: 4 GiB in f32.
pub const MAX_BATCH_ACTIVATIONS: u64 = 1 << 30;
/// Learning rates and decays of weights that can be meant: with others numbers in f32 stay as they are, or leave it.
const RATES: RangeInclusive<f64> = 1e-12..=1e6;
/// Largest factor of a class in the loss, and one over the smallest.
const MAX_CLASS_WEIGHT: f64 = 1e6;
/// What a factor of a schedule may be.
const SHRINKING: &str = "a number above 0 and at most 1";
/// Largest γ of the focal loss.
const MAX_GAMMA: f64 = 10.0;

/// A checked recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Training(Written);

impl Training {
    /// How gradients change the model.
    pub const fn optimiser(&self) -> Optimiser {
        match self.0.optimiser {
            OptimiserKind::Sgd => Optimiser::Sgd {
                momentum: match self.0.momentum {
                    Some(momentum) => momentum,
                    None => 0.0,
                },
            },
            OptimiserKind::Adam => Optimiser::Adam,
            OptimiserKind::Adamw => Optimiser::AdamW,
        }
    }

    /// Learning rate at the start of the study.
    pub const fn learning_rate(&self) -> f64 {
        self.0.learning_rate
    }

    /// Weight decay: added to the gradient by `sgd` and `adam`, decoupled in `adamw`. Weights only;
    /// biases and normalisations do not decay.
    pub const fn weight_decay(&self) -> f64 {
        self.0.weight_decay
    }

    /// How the learning rate changes over the study.
    pub const fn schedule(&self) -> &Schedule {
        &self.0.schedule
    }

    /// Cases in a batch.
    pub const fn batch(&self) -> usize {
        self.0.batch as usize
    }

    /// How long one round trains.
    pub const fn extent(&self) -> Extent {
        match (self.0.epochs, self.0.steps) {
            (Some(epochs), _) => Extent::Epochs(epochs),
            (None, Some(steps)) => Extent::Steps(steps),
            // The constructor has seen to it that one of the two is there.
            (None, None) => Extent::Epochs(1),
        }
    }

    /// Which cases make an epoch.
    pub const fn sampling(&self) -> Sampling {
        self.0.sampling
    }

    /// What training makes small.
    pub const fn loss(&self) -> Loss {
        self.0.loss
    }

    /// The same recipe with another loss.
    pub(crate) fn with_loss(self, loss: Loss) -> Result<Self, RecipeError> {
        Self::try_from(Written { loss, ..self.0 })
    }

    /// Share of every label that is spread evenly over all classes (Szegedy et al. 2016); 0 for none.
    pub const fn label_smoothing(&self) -> f64 {
        self.0.label_smoothing
    }

    /// Factor of each class in the loss; absent, all count alike.
    pub fn class_weights(&self) -> Option<&[f64]> {
        self.0.class_weights.as_deref()
    }

    /// How training images are varied.
    pub const fn augment(&self) -> Augment {
        self.0.augment
    }

    /// Learning rate when `progress` of the whole study, between 0 and 1, has been trained and
    /// `round` rounds are complete.
    pub fn rate(&self, round: u32, progress: f64) -> f64 {
        let factor = match &self.0.schedule {
            Schedule::Constant => 1.0,
            Schedule::Step { every, factor } => factor.powi((round / every).cast_signed()),
            Schedule::Milestones { at, factor } => {
                at.iter().filter(|share| **share <= progress).fold(1.0, |rate, _| rate * factor)
            }
            Schedule::Cosine => f64::midpoint(1.0, (std::f64::consts::PI * progress.clamp(0.0, 1.0)).cos()),
        };
        self.0.learning_rate * factor
    }

    /// Sum of the learning rates of the steps that one round makes where all sites make as many: that is how far a gradient
    /// of 1 goes. `round` rounds of `rounds` are complete. None for a recipe with `epochs`.
    pub fn reach(&self, round: u32, rounds: u32) -> Option<f64> {
        let Extent::Steps(steps) = self.extent() else { return None };
        let place = |step| (f64::from(round) + f64::from(step) / f64::from(steps)) / f64::from(rounds.max(1));
        Some((0..steps).map(|step| self.rate(round, place(step))).sum())
    }

    /// Checks the recipe against the model it is to train.
    pub fn check(&self, graph: &ModelGraph) -> Result<(), RecipeError> {
        if let Some(weights) = self.class_weights()
            && weights.len() != graph.classes()
        {
            return Err(RecipeError::ClassWeights { weights: weights.len(), classes: graph.classes() });
        }
        let [_, height, width] = graph.input();
        self.0.augment.check_sides(height, width)?;
        let activations = graph.activations_per_case().saturating_mul(u64::from(self.0.batch));
        if activations > MAX_BATCH_ACTIVATIONS {
            return Err(RecipeError::BatchTooLarge { batch: self.0.batch, activations });
        }
        Ok(())
    }
}

/// How gradients change the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// Stochastic gradient descent with heavy-ball momentum.
    Sgd {
        /// Share of the last step that is kept; 0 for none.
        momentum: f64,
    },
    /// Kingma and Ba 2015, with decay in the gradient. β = (0.9, 0.999), ε = 1e-8.
    Adam,
    /// Loshchilov and Hutter 2019: decay beside the gradient. β = (0.9, 0.999), ε = 1e-8.
    AdamW,
}

/// How the learning rate changes over the study.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// It does not.
    #[default]
    #[n(0)]
    Constant,
    /// Multiplied by `factor` after every so many rounds.
    #[n(1)]
    Step {
        /// Rounds between two changes.
        #[n(0)]
        every: u32,
        /// What the rate is multiplied by.
        #[n(1)]
        factor: f64,
    },
    /// Half a cosine down to zero over all rounds (Loshchilov and Hutter 2017).
    #[n(2)]
    Cosine,
    /// Multiplied by `factor` once such a share of the whole study is trained, at each of `at`.
    #[n(3)]
    Milestones {
        /// Shares above 0 and below 1, ascending.
        #[n(0)]
        at: Vec<f64>,
        /// What the rate is multiplied by.
        #[n(1)]
        factor: f64,
    },
}

/// How long one round trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Passes over the site's cases.
    Epochs(u32),
    /// Batches, whatever the site's size.
    Steps(u32),
}

/// Which cases make an epoch. It is as long as there are cases, whatever the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Sampling {
    /// Every case once.
    #[default]
    #[n(0)]
    Shuffled,
    /// Each class that the site has is equally likely at every place. Cases of a class come in turn, in shuffled order, so
    /// those of a rare class come several times, and of a frequent one some do not.
    #[n(1)]
    Balanced,
}

/// [`Training`] as it stands in a file and in canonical bytes.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
struct Written {
    #[n(0)]
    optimiser: OptimiserKind,
    #[n(1)]
    learning_rate: f64,
    #[n(2)]
    #[serde(skip_serializing_if = "Option::is_none")]
    momentum: Option<f64>,
    #[n(3)]
    #[serde(default)]
    weight_decay: f64,
    #[n(4)]
    #[serde(default)]
    schedule: Schedule,
    #[n(5)]
    batch: u32,
    #[n(6)]
    #[serde(skip_serializing_if = "Option::is_none")]
    epochs: Option<u32>,
    #[n(7)]
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u32>,
    #[n(8)]
    #[serde(skip_serializing_if = "Option::is_none")]
    class_weights: Option<Vec<f64>>,
    #[n(9)]
    #[serde(default)]
    augment: Augment,
    #[n(10)]
    #[serde(default)]
    #[cbor(skip_if = "is_default")]
    sampling: Sampling,
    #[n(11)]
    #[serde(default)]
    #[cbor(skip_if = "is_default")]
    loss: Loss,
    #[n(12)]
    #[serde(default)]
    #[cbor(skip_if = "is_default")]
    label_smoothing: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
enum OptimiserKind {
    #[n(0)]
    Sgd,
    #[n(1)]
    Adam,
    #[n(2)]
    Adamw,
}

impl TryFrom<Written> for Training {
    type Error = RecipeError;

    fn try_from(written: Written) -> Result<Self, RecipeError> {
        let finite = |key, value: f64, fits: bool, allowed| {
            if value.is_finite() && fits {
                Ok(())
            } else {
                Err(RecipeError::OutOfRange { key, value, allowed })
            }
        };
        let counted = |key, value: u32, most: u32| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err(RecipeError::CountOutOfRange { key, value, most })
            }
        };
        let (rate, decay) = (written.learning_rate, written.weight_decay);
        finite(
            "learning_rate",
            rate,
            RATES.contains(&rate),
            "a number from 1e-12 to 1000000, for example 0.001",
        )?;
        let decays = decay == 0.0 || RATES.contains(&decay);
        finite("weight_decay", decay, decays, "0, or a number from 1e-12 to 1000000, for example 0.0001")?;
        if let Some(momentum) = written.momentum {
            if written.optimiser != OptimiserKind::Sgd {
                return Err(RecipeError::MomentumWithoutSgd);
            }
            finite("momentum", momentum, (0.0..1.0).contains(&momentum), "a number from 0 to below 1")?;
        }
        let shrinks = |factor: f64| factor > 0.0 && factor <= 1.0;
        match &written.schedule {
            Schedule::Constant | Schedule::Cosine => {}
            Schedule::Step { every, factor } => {
                counted("schedule.step.every", *every, MAX_STEPS)?;
                finite("schedule.step.factor", *factor, shrinks(*factor), SHRINKING)?;
            }
            Schedule::Milestones { at, factor } => {
                let mut before = 0.0;
                for &share in at {
                    finite(
                        "schedule.milestones.at",
                        share,
                        share > before && share < 1.0,
                        "shares above 0 and below 1, ascending",
                    )?;
                    before = share;
                }
                let count = u32::try_from(at.len()).unwrap_or(u32::MAX);
                counted("schedule.milestones.at", count, MAX_MILESTONES)?;
                finite("schedule.milestones.factor", *factor, shrinks(*factor), SHRINKING)?;
            }
        }
        counted("batch", written.batch, MAX_BATCH)?;
        match (written.epochs, written.steps) {
            (Some(epochs), None) => counted("epochs", epochs, MAX_EPOCHS)?,
            (None, Some(steps)) => counted("steps", steps, MAX_STEPS)?,
            (Some(_), Some(_)) | (None, None) => return Err(RecipeError::EpochsOrSteps),
        }
        for &weight in written.class_weights.iter().flatten() {
            let fits = (MAX_CLASS_WEIGHT.recip()..=MAX_CLASS_WEIGHT).contains(&weight);
            finite("class_weights", weight, fits, "numbers from 0.000001 to 1000000")?;
        }
        if let Loss::Focal { gamma } = written.loss {
            let fits = gamma > 0.0 && gamma <= MAX_GAMMA;
            finite("loss.gamma", gamma, fits, "a number above 0 and at most 10, for example 2.0")?;
        }
        if let Loss::Huber { delta } = written.loss {
            let fits = delta > 0.0 && delta <= 1.0;
            finite("loss.delta", delta, fits, "a share of the range above 0 and at most 1, for example 0.1")?;
        }
        let has_labels = matches!(written.loss, Loss::CrossEntropy | Loss::DiceCrossEntropy);
        if !has_labels && written.label_smoothing != 0.0 {
            return Err(RecipeError::SmoothingOfOtherLoss);
        }
        let smoothing = written.label_smoothing;
        finite("label_smoothing", smoothing, (0.0..1.0).contains(&smoothing), "a number from 0 to below 1")?;
        written.augment.check()?;
        Ok(Self(written))
    }
}

impl From<Training> for Written {
    fn from(training: Training) -> Self {
        training.0
    }
}

impl<C> Encode<C> for Training {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Training {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let written = Written::decode(d, ctx)?;
        Self::try_from(written).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// Why a recipe cannot be followed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// A real number outside its range.
    #[error("`{key}` = {value} is out of range: write {allowed}")]
    OutOfRange {
        /// The key in `[training]`.
        key: &'static str,
        /// What it was set to.
        value: f64,
        /// What it may be set to, in words.
        allowed: &'static str,
    },
    /// A count outside its range.
    #[error("`{key}` = {value} is not between 1 and {most}")]
    CountOutOfRange {
        /// The key in `[training]`.
        key: &'static str,
        /// What it was set to.
        value: u32,
        /// The largest value allowed.
        most: u32,
    },
    /// Only `sgd` has momentum; Adam's moments are fixed.
    #[error("`momentum` belongs to optimiser \"sgd\"")]
    MomentumWithoutSgd,
    /// Of a smoothed label most of the focal loss would be about the classes that it is not, and the earth mover's distance
    /// knows already which are near.
    #[error(
        "`label_smoothing` belongs to loss = \"cross-entropy\" or \"dice-cross-entropy\": leave one of the two out"
    )]
    SmoothingOfOtherLoss,
    /// Both or neither.
    #[error("[training] has either `epochs` or `steps`")]
    EpochsOrSteps,
    /// One weight per class.
    #[error("{weights} class weights for {classes} classes")]
    ClassWeights {
        /// Number of weights.
        weights: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A shift or a square as wide as the image.
    #[error("`{key}` = {pixels} does not fit images of {height}x{width}")]
    Pixels {
        /// The key in `[training]`.
        key: &'static str,
        /// What it was set to.
        pixels: u32,
        /// Height of an image.
        height: u32,
        /// Width of an image.
        width: u32,
    },
    /// The batch needs more memory than a site should give.
    #[error(
        "a batch of {batch} leaves {activations} values in the layers, at most {MAX_BATCH_ACTIVATIONS} are allowed"
    )]
    BatchTooLarge {
        /// Cases in a batch.
        batch: u32,
        /// Values they leave behind.
        activations: u64,
    },
}
