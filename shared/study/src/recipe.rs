//! The training recipe: how a site turns the global model into its own update.
//!
//! One round trains for `epochs` passes over the site's cases or for `steps` batches. The learning
//! rate follows a schedule over the rounds of the study, not over one round's batches alone, so that
//! every site is at the same place of it whatever its size.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Serialize};

use crate::graph::ModelGraph;

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

    /// Checks the recipe against the model it is to train.
    pub fn check(&self, graph: &ModelGraph) -> Result<(), RecipeError> {
        if let Some(weights) = self.class_weights()
            && weights.len() != graph.classes()
        {
            return Err(RecipeError::ClassWeights { weights: weights.len(), classes: graph.classes() });
        }
        let [_, height, width] = graph.input();
        if self.0.augment.crop >= height.min(width) {
            return Err(RecipeError::Crop { crop: self.0.augment.crop, height, width });
        }
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

/// How training images are varied. All draws come from the study's seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Augment {
    /// Mirror left and right in half of the draws.
    #[n(0)]
    #[serde(default)]
    pub flip: bool,
    /// Shift by up to so many pixels each way; the rim repeats. 0 for none.
    #[n(1)]
    #[serde(default)]
    pub crop: u32,
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
        let finite = |key, value: f64, fits: bool| {
            if value.is_finite() && fits { Ok(()) } else { Err(RecipeError::OutOfRange { key, value }) }
        };
        let counted = |key, value: u32, most: u32| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err(RecipeError::CountOutOfRange { key, value, most })
            }
        };
        finite("learning_rate", written.learning_rate, written.learning_rate > 0.0)?;
        finite("weight_decay", written.weight_decay, written.weight_decay >= 0.0)?;
        if let Some(momentum) = written.momentum {
            if written.optimiser != OptimiserKind::Sgd {
                return Err(RecipeError::MomentumWithoutSgd);
            }
            finite("momentum", momentum, (0.0..1.0).contains(&momentum))?;
        }
        let shrinks = |factor: f64| factor > 0.0 && factor <= 1.0;
        match &written.schedule {
            Schedule::Constant | Schedule::Cosine => {}
            Schedule::Step { every, factor } => {
                counted("schedule.step.every", *every, MAX_STEPS)?;
                finite("schedule.step.factor", *factor, shrinks(*factor))?;
            }
            Schedule::Milestones { at, factor } => {
                let mut before = 0.0;
                for &share in at {
                    finite("schedule.milestones.at", share, share > before && share < 1.0)?;
                    before = share;
                }
                let count = u32::try_from(at.len()).unwrap_or(u32::MAX);
                counted("schedule.milestones.at", count, MAX_MILESTONES)?;
                finite("schedule.milestones.factor", *factor, shrinks(*factor))?;
            }
        }
        counted("batch", written.batch, MAX_BATCH)?;
        match (written.epochs, written.steps) {
            (Some(epochs), None) => counted("epochs", epochs, MAX_EPOCHS)?,
            (None, Some(steps)) => counted("steps", steps, MAX_STEPS)?,
            (Some(_), Some(_)) | (None, None) => return Err(RecipeError::EpochsOrSteps),
        }
        for &weight in written.class_weights.iter().flatten() {
            finite("class_weights", weight, weight > 0.0)?;
        }
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
    #[error("`{key}` = {value} is out of range")]
    OutOfRange {
        /// The key in `[training]`.
        key: &'static str,
        /// What it was set to.
        value: f64,
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
    /// A shift as wide as the image.
    #[error("`augment.crop` = {crop} does not fit images of {height}x{width}")]
    Crop {
        /// Pixels each way.
        crop: u32,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;
    use crate::graph::{ModelSpec, Preset};

    const BASE: &str = "learning_rate = 0.1\nbatch = 32\n";

    fn read(text: &str) -> Result<Training, toml::de::Error> {
        toml::from_str(&format!("{BASE}{text}"))
    }

    #[test]
    fn a_recipe_reads_and_comes_back() {
        let text = "optimiser = \"sgd\"\nmomentum = 0.9\nweight_decay = 0.01\nepochs = 2\nclass_weights = [1.0, 2.0]\n\
                    schedule = { step = { every = 3, factor = 0.5 } }\naugment = { flip = true, crop = 2 }";
        let recipe = read(text).unwrap();
        assert_eq!(recipe.optimiser(), Optimiser::Sgd { momentum: 0.9 });
        assert_eq!(recipe.extent(), Extent::Epochs(2));
        assert_eq!(recipe.augment(), Augment { flip: true, crop: 2 });
        assert_eq!(Training::from_canonical(&recipe.to_canonical()), Ok(recipe.clone()));
        assert_eq!(toml::from_str::<Training>(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
        let short = read("optimiser = \"adamw\"\nsteps = 7").unwrap();
        assert_eq!((short.optimiser(), short.extent()), (Optimiser::AdamW, Extent::Steps(7)));
    }

    #[test]
    fn errors_name_the_key() {
        for (text, key) in [
            ("optimiser = \"adam\"", "epochs"),
            ("optimiser = \"adam\"\nepochs = 1\nsteps = 1", "epochs"),
            ("optimiser = \"adam\"\nepochs = 0", "epochs"),
            ("optimiser = \"adam\"\nsteps = 1000001", "steps"),
            ("optimiser = \"adam\"\nepochs = 1\nmomentum = 0.9", "momentum"),
            ("optimiser = \"sgd\"\nepochs = 1\nmomentum = 1.0", "momentum"),
            ("optimiser = \"sgd\"\nepochs = 1\nweight_decay = nan", "weight_decay"),
            ("optimiser = \"sgd\"\nepochs = 1\nclass_weights = [0.0, 1.0]", "class_weights"),
            ("optimiser = \"sgd\"\nepochs = 1\nschedule = { step = { every = 0, factor = 0.5 } }", "every"),
            ("optimiser = \"sgd\"\nepochs = 1\nschedule = { step = { every = 1, factor = 1.5 } }", "factor"),
            (
                "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [0.5, 0.5], factor = 0.1 } }",
                "milestones.at` = 0.5",
            ),
            (
                "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [1.0], factor = 0.1 } }",
                "milestones.at` = 1",
            ),
            (
                "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [], factor = 0.1 } }",
                "milestones.at` = 0",
            ),
            (
                "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [0.5], factor = 0.0 } }",
                "milestones.factor",
            ),
            ("optimiser = \"sgd\"\nepochs = 1\nwarmup = 3", "warmup"),
            ("optimiser = \"lbfgs\"\nepochs = 1", "lbfgs"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn canonical_bytes_are_checked_too() {
        let mut written = read("optimiser = \"sgd\"\nepochs = 1").unwrap().0;
        written.learning_rate = f64::INFINITY;
        assert!(Training::from_canonical(&written.to_canonical()).is_err());
    }

    #[test]
    fn schedules_by_hand() {
        let rate = |schedule: &str, round, progress| {
            read(&format!("optimiser = \"sgd\"\nepochs = 1\nschedule = {schedule}"))
                .unwrap()
                .rate(round, progress)
        };
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
        close(rate("\"constant\"", 9, 0.9), 0.1);
        let steps = "{ step = { every = 3, factor = 0.5 } }";
        for (round, want) in [(0, 0.1), (2, 0.1), (3, 0.05), (5, 0.05), (6, 0.025)] {
            close(rate(steps, round, 0.0), want);
        }
        for (progress, want) in [(0.0, 0.1), (0.5, 0.05), (1.0, 0.0), (1.0 / 3.0, 0.075)] {
            close(rate("\"cosine\"", 0, progress), want);
        }
        let milestones = "{ milestones = { at = [0.5, 0.75], factor = 0.1 } }";
        for (progress, want) in
            [(0.0, 0.1), (0.49, 0.1), (0.5, 0.01), (0.74, 0.01), (0.75, 0.001), (1.0, 0.001)]
        {
            close(rate(milestones, 0, progress), want);
        }
    }

    #[test]
    fn a_recipe_is_held_against_its_model() {
        let graph = ModelSpec::Preset { preset: Preset::SmallCnn, norm: None }.graph([1, 8, 8], 2).unwrap();
        let check = |text: &str| read(text).unwrap().check(&graph);
        assert_eq!(check("optimiser = \"adam\"\nepochs = 1"), Ok(()));
        let weights = check("optimiser = \"adam\"\nepochs = 1\nclass_weights = [1.0]");
        assert_eq!(weights, Err(RecipeError::ClassWeights { weights: 1, classes: 2 }));
        let crop = check("optimiser = \"adam\"\nepochs = 1\naugment = { crop = 8 }");
        assert_eq!(crop, Err(RecipeError::Crop { crop: 8, height: 8, width: 8 }));
        let large =
            ModelSpec::Preset { preset: Preset::Resnet18, norm: None }.graph([1, 224, 224], 2).unwrap();
        let recipe = read("optimiser = \"adam\"\nepochs = 1").unwrap();
        assert!(matches!(recipe.check(&large), Err(RecipeError::BatchTooLarge { batch: 32, .. })));
    }
}
