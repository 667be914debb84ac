//! The layers of a model, as data.
//!
//! A residual layer holds plain layers only: its decoder looks at each before it descends and refuses
//! another residual, so a hostile study cannot make the decoder recurse.

use minicbor::{Decode, Decoder, Encode, decode};
use serde::{Deserialize, Serialize};

/// One step of a model. In TOML a table with its `kind`.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Layer {
    /// Convolution over height and width with a square kernel.
    #[n(0)]
    Conv2d(#[n(0)] Conv2d),
    /// Normalisation over groups of channels of one case (Wu and He 2018). Keeps no statistics.
    #[n(1)]
    GroupNorm(#[n(0)] GroupNorm),
    /// Normalisation over a batch (Ioffe and Szegedy 2015). Running statistics are part of the model.
    #[n(2)]
    BatchNorm,
    /// An element-wise function.
    #[n(3)]
    Activation(#[n(0)] Activation),
    /// Largest value of each window.
    #[n(4)]
    MaxPool(#[n(0)] Pool),
    /// Mean of each window.
    #[n(5)]
    AveragePool(#[n(0)] Pool),
    /// Mean of each channel: an image becomes one number per channel.
    #[n(6)]
    GlobalAveragePool,
    /// An image becomes a row of numbers, channel by channel.
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
        }
    }
}

/// Convolution: weight `[filters, channels / groups, kernel, kernel]`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Conv2d {
    /// Channels of the output.
    #[n(0)]
    pub filters: u32,
    /// Height and width of the kernel.
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
}

/// A window that slides over height and width.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Pool {
    /// Height and width of the window.
    #[n(0)]
    pub size: u32,
    /// Distance of neighbouring windows; absent, windows do not overlap.
    #[n(1)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
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

/// The number of [`Layer::Residual`] in canonical bytes.
const RESIDUAL: u32 = 10;

/// Decodes layers none of which is a residual, looking at each before descending into it.
fn plain_layers<C>(d: &mut Decoder<'_>, ctx: &mut C) -> Result<Vec<Layer>, decode::Error> {
    let count = d.array()?.ok_or_else(|| decode::Error::message("layers have a definite length"))?;
    let mut layers = Vec::new();
    for _ in 0..count {
        let mut probe = d.probe();
        probe.array()?;
        if probe.u32()? == RESIDUAL {
            return Err(decode::Error::message("a residual layer holds no other residual layer"));
        }
        layers.push(Layer::decode(d, ctx)?);
    }
    Ok(layers)
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;
    use crate::graph::ModelGraph;
    use minicbor::Encoder;

    #[test]
    fn the_probe_sees_a_residual_where_the_codec_writes_one() {
        let inner = Residual { main: vec![], shortcut: vec![] };
        let outer =
            Layer::Residual(Residual { main: vec![Layer::Residual(inner.clone())], shortcut: vec![] });
        let error = Layer::from_canonical(&outer.to_canonical()).unwrap_err().to_string();
        assert!(error.contains("no other residual"), "{error}");
        let plain = Layer::Residual(Residual { main: vec![Layer::Flatten, Layer::BatchNorm], ..inner });
        assert_eq!(Layer::from_canonical(&plain.to_canonical()), Ok(plain));
    }

    #[test]
    fn a_million_nested_residuals_do_not_make_the_decoder_recurse() {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        encoder.map(2).unwrap().u8(0).unwrap().encode([1, 8, 8]).unwrap().u8(1).unwrap();
        for _ in 0..1_000_000 {
            // One layer: variant 10 with one field, a map whose `main` is a list of one layer.
            encoder.array(1).unwrap().array(2).unwrap().u32(RESIDUAL).unwrap();
            encoder.array(1).unwrap().map(2).unwrap().u8(0).unwrap();
        }
        let error = ModelGraph::from_canonical(&bytes).unwrap_err().to_string();
        assert!(error.contains("residual"), "{error}");
    }
}
