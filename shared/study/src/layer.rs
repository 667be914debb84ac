//! The layers of a model, as data.
//!
//! A layer with branches (residual, concat) holds plain layers only: the decoder looks at each before it descends and
//! refuses another one with branches, so a hostile study cannot make it recurse.

use minicbor::{Decode, Decoder, Encode, decode};
use serde::{Deserialize, Serialize};

/// One step of a model. In TOML a table with its `kind`.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Layer {
    /// Convolution over height and width with a square kernel; of a volume, over each slice on its own.
    #[n(0)]
    Conv2d(#[n(0)] Convolution),
    /// Normalisation over groups of channels of one case (Wu and He 2018). Keeps no statistics.
    #[n(1)]
    GroupNorm(#[n(0)] GroupNorm),
    /// Normalisation over a batch (Ioffe and Szegedy 2015). Running statistics are part of the model.
    #[n(2)]
    BatchNorm,
    /// An element-wise function.
    #[n(3)]
    Activation(#[n(0)] Activation),
    /// Largest value of each window; of a volume, of each slice on its own.
    #[n(4)]
    MaxPool(#[n(0)] Pool),
    /// Mean of each window; of a volume, of each slice on its own.
    #[n(5)]
    AveragePool(#[n(0)] Pool),
    /// Mean of each channel: an image or a volume becomes one number per channel.
    #[n(6)]
    GlobalAveragePool,
    /// An image or a volume becomes a row of numbers, channel by channel and slice by slice.
    #[n(7)]
    Flatten,
    /// A fully connected layer.
    #[n(8)]
    Linear(#[n(0)] Linear),
    /// Drops single values while training and scales the others up (Srivastava et al. 2014).
    #[n(9)]
    Dropout(#[n(0)] Dropout),
    /// The sum of two branches over the same input (He et al. 2016).
    #[n(10)]
    Residual(#[n(0)] Residual),
    /// Normalisation over the features of a row (Ba et al. 2016), or over the channels of an image at each place, as in
    /// ConvNeXt (Liu et al. 2022). A [`GroupNorm`] of one group is over channels, height and width. Keeps no statistics.
    #[n(11)]
    LayerNorm,
    /// The outputs of several branches over the same input, one behind the other (Huang et al. 2017).
    #[n(12)]
    Concat(#[n(0)] Concat),
    /// Each channel times a number between 0 and 1 that follows from the means of all (Hu et al. 2018).
    #[n(13)]
    SqueezeExcitation(#[n(0)] SqueezeExcitation),
    /// The transpose of a convolution: each value becomes a window of the output (Zeiler et al. 2010); of a volume, over each
    /// slice on its own.
    #[n(14)]
    TransposedConv2d(#[n(0)] TransposedConvolution),
    /// Hands its input on, and lays it aside for a later [`Layer::Join`].
    #[n(15)]
    Keep,
    /// Joins what was laid aside last with its input: the way across of a U-Net (Ronneberger, Fischer and Brox 2015). What
    /// lies aside in a branch is of that branch alone.
    #[n(16)]
    Join(#[n(0)] Join),
    /// Convolution over depth, height and width with a kernel of three equal sides (Ji et al. 2013).
    #[n(17)]
    Conv3d(#[n(0)] Convolution),
    /// The transpose of a convolution over depth, height and width.
    #[n(18)]
    TransposedConv3d(#[n(0)] TransposedConvolution),
    /// Largest value of each window over depth, height and width.
    #[n(19)]
    MaxPool3d(#[n(0)] Pool),
    /// Mean of each window over depth, height and width.
    #[n(20)]
    AveragePool3d(#[n(0)] Pool),
    /// The row of numbers beside the picture, whatever comes in. The first of a branch, beside one that goes on with the
    /// picture.
    #[n(21)]
    Columns,
}

impl Layer {
    /// The kind as written in a study.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Conv2d(_) => "conv2d",
            Self::GroupNorm(_) => "group-norm",
            Self::BatchNorm => "batch-norm",
            Self::Activation(_) => "activation",
            Self::MaxPool(_) => "max-pool",
            Self::AveragePool(_) => "average-pool",
            Self::GlobalAveragePool => "global-average-pool",
            Self::Flatten => "flatten",
            Self::Linear(_) => "linear",
            Self::Dropout(_) => "dropout",
            Self::Residual(_) => "residual",
            Self::LayerNorm => "layer-norm",
            Self::Concat(_) => "concat",
            Self::SqueezeExcitation(_) => "squeeze-excitation",
            Self::TransposedConv2d(_) => "transposed-conv2d",
            Self::Keep => "keep",
            Self::Join(_) => "join",
            Self::Conv3d(_) => "conv3d",
            Self::TransposedConv3d(_) => "transposed-conv3d",
            Self::MaxPool3d(_) => "max-pool3d",
            Self::AveragePool3d(_) => "average-pool3d",
            Self::Columns => "columns",
        }
    }

    /// Whether it holds other layers.
    pub const fn has_branches(&self) -> bool {
        matches!(self, Self::Residual(_) | Self::Concat(_))
    }
}

/// Convolution: weight `[filters, channels / groups, kernel, kernel]`, with a third `kernel` over depth.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Convolution {
    /// Channels of the output.
    #[n(0)]
    pub filters: u32,
    /// Length of each side of the kernel.
    #[n(1)]
    pub kernel: u32,
    /// Distance of neighbouring windows.
    #[n(2)]
    #[serde(default = "one")]
    pub stride: u32,
    /// Zeros added on each side.
    #[n(3)]
    #[serde(default)]
    pub padding: u32,
    /// Groups of channels that do not see each other.
    #[n(4)]
    #[serde(default = "one")]
    pub groups: u32,
    /// Whether a number per filter is added.
    #[n(5)]
    #[serde(default = "yes")]
    pub bias: bool,
    /// Distance of neighbouring places in the kernel (Yu and Koltun 2016). Absent in canonical bytes where it is 1.
    #[n(6)]
    #[cbor(with = "absent_where_one", has_nil)]
    #[serde(default = "one")]
    pub dilation: u32,
}

impl Convolution {
    /// Places from the first to the last that the kernel covers, along a side.
    pub fn extent(&self) -> u64 {
        u64::from(self.dilation) * u64::from(self.kernel).saturating_sub(1) + 1
    }
}

/// Group normalisation: scale and shift `[channels]`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct GroupNorm {
    /// Number of groups; divides the number of channels.
    #[n(0)]
    pub groups: u32,
}

/// Which element-wise function.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Activation {
    /// The function.
    #[n(0)]
    pub function: Function,
}

/// Element-wise functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Function {
    /// `max(x, 0)`.
    #[n(0)]
    Relu,
    /// `x Φ(x)` (Hendrycks and Gimpel 2016).
    #[n(1)]
    Gelu,
    /// `x / (1 + exp(-x))`.
    #[n(2)]
    Silu,
    /// Hyperbolic tangent.
    #[n(3)]
    Tanh,
    /// `1 / (1 + exp(-x))`.
    #[n(4)]
    Sigmoid,
    /// `x` above zero, `0.01 x` below (Maas et al. 2013).
    #[n(5)]
    LeakyRelu,
}

/// A window that slides over height and width, or over depth, height and width.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Pool {
    /// Length of each side of the window.
    #[n(0)]
    pub size: u32,
    /// Distance of neighbouring windows; absent, windows do not overlap.
    #[n(1)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
    /// Places added on each side, at most half a window: they are never the largest value, and zeros that count in a mean.
    #[n(2)]
    #[cbor(skip_if = "is_zero")]
    #[serde(default)]
    pub padding: u32,
}

impl Pool {
    /// Distance of neighbouring windows.
    pub fn stride(&self) -> u32 {
        self.stride.unwrap_or(self.size)
    }
}

/// A fully connected layer: weight `[outputs, inputs]`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Linear {
    /// Length of the output.
    #[n(0)]
    pub outputs: u32,
    /// Whether a number per output is added.
    #[n(1)]
    #[serde(default = "yes")]
    pub bias: bool,
}

/// Dropout of single values.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Dropout {
    /// Probability of dropping a value: at least 0, below 1.
    #[n(0)]
    pub rate: f64,
}

/// Two branches whose outputs, of one shape, are added. An empty branch hands its input on.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Residual {
    /// The branch that computes.
    #[n(0)]
    #[cbor(decode_with = "plain_layers")]
    pub main: Vec<Layer>,
    /// The short way round, usually empty.
    #[n(1)]
    #[cbor(decode_with = "plain_layers")]
    #[serde(default)]
    pub shortcut: Vec<Layer>,
}

/// Branches whose outputs, alike but for their channels, follow each other along the channels; rows follow each other.
/// An empty branch hands its input on.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Concat {
    /// At least two.
    #[n(0)]
    #[cbor(decode_with = "plain_branches")]
    pub branches: Vec<Vec<Layer>>,
}

/// Squeeze and excitation: means of the channels, a linear layer to `channels / reduction` numbers, ReLU, a linear layer
/// back to `channels`, sigmoid. Both linear layers have biases.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct SqueezeExcitation {
    /// Divides the number of channels.
    #[n(0)]
    pub reduction: u32,
}

/// Transposed convolution: weight `[channels, filters, kernel, kernel]`, with a third `kernel` over depth. A side of `n` becomes
/// `(n - 1) * stride + kernel - 2 * padding`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct TransposedConvolution {
    /// Channels of the output.
    #[n(0)]
    pub filters: u32,
    /// Length of each side of the kernel.
    #[n(1)]
    pub kernel: u32,
    /// Distance of neighbouring windows in the output.
    #[n(2)]
    #[serde(default = "one")]
    pub stride: u32,
    /// Places cut off on each side of the output.
    #[n(3)]
    #[serde(default)]
    pub padding: u32,
    /// Whether a number per filter is added.
    #[n(4)]
    #[serde(default = "yes")]
    pub bias: bool,
}

/// How a layer that lies aside and the one at hand become one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Join {
    /// The rule.
    #[n(0)]
    #[serde(default)]
    pub by: Joining,
}

/// A rule that makes one signal of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Joining {
    /// What lay aside, then what is at hand, along the channels; rows follow each other. Images have equal sides.
    #[default]
    #[n(0)]
    Concat,
    /// The sum of both, which have one shape.
    #[n(1)]
    Add,
}

/// The numbers of [`Layer::Residual`] and [`Layer::Concat`] in canonical bytes.
const WITH_BRANCHES: [u32; 2] = [10, 12];

/// Decodes layers none of which has branches, looking at each before descending into it.
fn plain_layers<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<Layer>, decode::Error> {
    let count = d.array()?.ok_or_else(|| decode::Error::message("layers have a definite length"))?;
    let mut layers = Vec::new();
    for _ in 0..count {
        let mut probe = d.probe();
        probe.array()?;
        if WITH_BRANCHES.contains(&probe.u32()?) {
            return Err(decode::Error::message("a branch holds no layer with branches"));
        }
        layers.push(Layer::decode(d, ctx)?);
    }
    Ok(layers)
}

/// Decodes branches of such layers.
fn plain_branches<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<Vec<Layer>>, decode::Error> {
    let count = d.array()?.ok_or_else(|| decode::Error::message("branches have a definite length"))?;
    (0..count).map(|_| plain_layers(d, ctx)).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "minicbor hands fields by reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// The codec of a number that is usually 1, and then not written.
mod absent_where_one {
    #![expect(
        clippy::trivially_copy_pass_by_ref,
        clippy::unnecessary_wraps,
        reason = "minicbor gives these signatures"
    )]

    use minicbor::encode::{Error, Write};
    use minicbor::{Decoder, Encoder, decode::Error as Malformed};

    pub(super) fn encode<C, W: Write>(
        value: &u32,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), Error<W::Error>> {
        e.u32(*value)?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<u32, Malformed> {
        d.u32()
    }

    pub(super) fn nil() -> Option<u32> {
        Some(1)
    }

    pub(super) fn is_nil(value: &u32) -> bool {
        *value == 1
    }
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
