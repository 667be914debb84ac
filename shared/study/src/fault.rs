//! Why layers do not form a model.

use std::fmt;

use crate::layer::Layer;
use crate::shape::{
    LayerName, MAX_ACTIVATIONS_PER_CASE, MAX_LAYERS, MAX_PARAMETERS, MAX_SCRATCH, MAX_SIDE, Shape,
};
use crate::treatment::InvalidTreatment;

/// Why layers do not form a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// One layer does not fit.
    #[error("{name} ({kind}): {fault}")]
    Layer {
        /// Where the layer stands.
        name: LayerName,
        /// Its kind.
        kind: &'static str,
        /// What is wrong with it.
        fault: GraphFault,
    },
    /// A case has a side of zero or above [`MAX_SIDE`], or more than [`MAX_ACTIVATIONS_PER_CASE`] values.
    #[error(
        "a case cannot be this {0}: each side is from 1 to {MAX_SIDE}, and all values are at most {MAX_ACTIVATIONS_PER_CASE}"
    )]
    Input(Shape),
    /// More than [`MAX_LAYERS`].
    #[error("{count} layers, at most {MAX_LAYERS} are allowed")]
    TooManyLayers {
        /// Number of layers.
        count: usize,
    },
    /// The last layer leaves an image that is no mask.
    #[error(
        "{last}; a classifier ends in a row of one number per class, and a segmentation in an image of {height}x{width} with one \
         channel per class"
    )]
    NoScores {
        /// The last layer, and what it gives.
        last: Last,
        /// Height of the input.
        height: u32,
        /// Width of the input.
        width: u32,
    },
    /// The last layer leaves something of a volume that is no row.
    #[error("{last}; a model of volumes ends in a row of one number per class")]
    NoScoresOfVolume {
        /// The last layer, and what it gives.
        last: Last,
    },
    /// The last layer scores another number of classes than the study has labels.
    #[error("{last}, which scores {graph} classes{}; the study has {study} labels", last.of_what())]
    Classes {
        /// The last layer, and what it gives.
        last: Last,
        /// Classes of the graph.
        graph: u32,
        /// Labels of the study.
        study: u32,
    },
    /// No layer has a number that training could change.
    #[error("the graph has nothing to train")]
    NothingToTrain,
    /// Layers cannot be frozen or local as the study says.
    #[error(transparent)]
    Treatment(#[from] InvalidTreatment),
    /// The preset halves sides, and they are odd.
    #[error(
        "preset {preset} halves the sides up to four times, and {height}x{width} has an odd one; a size that 16 divides suits it"
    )]
    OddSides {
        /// Name of the preset.
        preset: &'static str,
        /// Height of the input.
        height: u32,
        /// Width of the input.
        width: u32,
    },
    /// The preset is of pictures.
    #[error(
        "preset {0} scores the pixels of pictures; a study of volumes writes its layers, or another preset"
    )]
    NotOfVolumes(&'static str),
    /// The preset scores pixels, and no row of numbers goes into one.
    #[error(
        "preset {0} scores pixels, and has no row that the numbers of `data.inputs` could be joined to; leave `inputs` out, or \
         name a preset that scores cases"
    )]
    NoColumnsIn(&'static str),
    /// No layer reads the numbers beside the pictures.
    #[error(
        "{0} numbers lie beside each picture (`data.inputs`), and no layer reads them; put {{ kind = \"columns\" }} first in a \
         branch of a concat layer, or leave `inputs` out"
    )]
    ColumnsUnread(u32),
    /// The preset has no place for an option.
    #[error("preset {preset} takes no `{option}`")]
    OptionNotTaken {
        /// Name of the preset.
        preset: &'static str,
        /// Name of the option.
        option: &'static str,
    },
}

impl GraphError {
    /// The layer that it is about, if it is about one.
    pub const fn layer(&self) -> Option<&LayerName> {
        match self {
            Self::Layer { name, .. } => Some(name),
            Self::NoScores { last, .. } | Self::NoScoresOfVolume { last } | Self::Classes { last, .. } => {
                last.name()
            }
            _ => None,
        }
    }
}

/// The last layer of a graph, and what comes out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    layer: Option<(LayerName, &'static str)>,
    output: Shape,
}

impl Last {
    pub(crate) fn of(layers: &[Layer], output: Shape) -> Self {
        let layer = layers.iter().enumerate().next_back();
        Self { layer: layer.map(|(index, layer)| (LayerName::top(index), layer.kind())), output }
    }

    /// What is scored, where it is not the case as a whole.
    const fn of_what(&self) -> &'static str {
        if matches!(self.output, Shape::Row(_)) { "" } else { " of each pixel" }
    }

    const fn name(&self) -> Option<&LayerName> {
        match &self.layer {
            Some((name, _)) => Some(name),
            None => None,
        }
    }
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.layer {
            Some((name, kind)) => write!(f, "{name} ({kind}): the graph ends here in {}", self.output),
            None => write!(f, "the graph has no layers and ends in {}", self.output),
        }
    }
}

/// What is wrong with one layer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphFault {
    /// The layer works on images.
    #[error("needs an image, gets a {0}")]
    NeedsImage(Shape),
    /// The layer works on volumes.
    #[error("needs a volume (data.depth), gets {0}")]
    NeedsVolume(Shape),
    /// The layer works on rows.
    #[error("needs a row of numbers (put a flatten before it), gets {0}")]
    NeedsRow(Shape),
    /// A number that must lie between 1 and [`MAX_SIDE`].
    #[error("`{0}` must be between 1 and {MAX_SIDE}")]
    OutOfRange(&'static str),
    /// The window is larger than what it slides over.
    #[error("a window of {window} does not fit into {shape}")]
    WindowTooLarge {
        /// Places that the window spans along a side.
        window: u64,
        /// What it slides over.
        shape: Shape,
    },
    /// Padding at least as wide as the kernel.
    #[error("padding of {padding} is not below the {kernel} places that the kernel spans")]
    PaddingTooLarge {
        /// Zeros on each side.
        padding: u32,
        /// Places that the kernel spans along a side.
        kernel: u64,
    },
    /// Padding wider than half the window of a pool.
    #[error("padding of {padding} is more than half the window of {window}")]
    PoolPaddingTooLarge {
        /// Places on each side.
        padding: u32,
        /// Side of the window.
        window: u32,
    },
    /// A transposed convolution that leaves nothing, or too long a side.
    #[error("the output would have a side of zero or one that is too long")]
    OutputSide,
    /// A reduction does not divide channels.
    #[error("a reduction by {reduction} does not divide {channels} channels")]
    UnevenReduction {
        /// The factor.
        reduction: u32,
        /// Number of channels.
        channels: u32,
    },
    /// Groups do not divide channels.
    #[error("{groups} groups do not divide {channels} channels")]
    UnevenGroups {
        /// Number of groups.
        groups: u32,
        /// Number of channels.
        channels: u32,
    },
    /// A dropout rate outside `[0, 1)`.
    #[error("a dropout rate of {0} is not at least 0 and below 1")]
    DropoutRate(f64),
    /// The branches of a residual layer differ.
    #[error("the main branch gives {main}, the shortcut {shortcut}")]
    BranchesDiffer {
        /// Output of the main branch.
        main: Shape,
        /// Output of the shortcut.
        shortcut: Shape,
    },
    /// Branches that cannot be joined: they differ in more than their channels.
    #[error("branch {branch} gives {other}, the first branch {first}")]
    BranchesDoNotJoin {
        /// Number of the branch, the first is 0.
        branch: usize,
        /// Output of the first branch.
        first: Shape,
        /// Output of that branch.
        other: Shape,
    },
    /// A concat layer without anything to join.
    #[error("{0} branches, at least two are needed")]
    TooFewBranches(usize),
    /// A join without anything to join with.
    #[error("there is nothing kept that it could join; put a keep before it")]
    NothingKept,
    /// A layer that keeps what nobody takes up.
    #[error("no join takes up what it keeps")]
    NeverJoined,
    /// Two signals that cannot become one.
    #[error("{kept} was kept, and {now} cannot be joined with it")]
    DoesNotJoin {
        /// What was laid aside.
        kept: Shape,
        /// What is at hand.
        now: Shape,
    },
    /// A layer of the numbers beside pictures, where there are none.
    #[error(
        "no numbers lie beside the pictures; name their columns in `data.inputs`, or leave the layer out"
    )]
    NoColumns,
    /// What lies before a layer of the numbers beside pictures would be lost.
    #[error(
        "a columns layer does not see what comes in; put it first in a branch of a concat layer, beside a branch that goes on \
         with the picture"
    )]
    PictureLost,
    /// A layer with branches inside a branch.
    #[error("a branch holds no layer with branches")]
    NestedBranches,
    /// Too many numbers in the model up to this layer.
    #[error("the model grows to {0} numbers, at most {MAX_PARAMETERS} are allowed")]
    TooManyParameters(u64),
    /// Too many values stay behind for the backward pass.
    #[error("one case leaves {0} values in the layers, at most {MAX_ACTIVATIONS_PER_CASE} are allowed")]
    TooManyActivations(u64),
    /// The unfolded image of a convolution is too large.
    #[error("the convolution unfolds one case into {0} values, at most {MAX_SCRATCH} are allowed")]
    TooMuchScratch(u64),
}
