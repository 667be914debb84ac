//! Models by name: what a study writes when it does not list its layers.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::fault::GraphError;
use crate::graph::{Activation, Conv2d, Function, GroupNorm, Layer, Linear, ModelGraph, Pool, Residual};

/// The `[model]` of a study: a preset by name, or explicit layers.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum ModelSpec {
    /// A preset and its options.
    #[n(0)]
    Preset {
        /// Which preset.
        #[n(0)]
        preset: Preset,
        /// The normalisation, where the preset leaves it open.
        #[n(1)]
        norm: Option<Norm>,
    },
    /// Explicit layers, the last of which scores the study's labels.
    #[n(1)]
    Layers(#[n(0)] Vec<Layer>),
}

impl ModelSpec {
    /// The graph for images of shape `input` (channels, height, width) and that many classes.
    pub fn graph(&self, input: [u32; 3], classes: u32) -> Result<ModelGraph, GraphError> {
        let layers = match self {
            Self::Preset { preset, norm } => preset.layers(*norm, classes)?,
            Self::Layers(layers) => layers.clone(),
        };
        let graph = ModelGraph::new(input, layers)?;
        if graph.classes() == classes as usize {
            Ok(graph)
        } else {
            let scored = graph.classes() as u32;
            Err(GraphError::Classes { graph: scored, study: classes })
        }
    }
}

/// Models by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Preset {
    /// One linear layer on the pixels.
    #[n(0)]
    Logistic,
    /// Two convolutions of 32 and 64 filters, each with ReLU and pooling, then 128 hidden units.
    #[n(1)]
    SmallCnn,
    /// Three convolutions of 32, 64 and 128 filters with batch normalisation, then 128 hidden units.
    #[n(2)]
    CnnBn,
    /// ResNet-18 (He et al. 2016) for small images: 3x3 stem, no max pool. Batch normalisation unless said.
    #[n(3)]
    #[serde(rename = "resnet18")]
    Resnet18,
}

/// Which normalisation a preset uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Norm {
    /// Eight groups of channels; no statistics travel.
    #[n(0)]
    Group,
    /// Over the batch; running statistics travel with the model.
    #[n(1)]
    Batch,
}

impl Preset {
    /// The name as written in a study.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logistic => "logistic",
            Self::SmallCnn => "small-cnn",
            Self::CnnBn => "cnn-bn",
            Self::Resnet18 => "resnet18",
        }
    }

    fn layers(self, norm: Option<Norm>, classes: u32) -> Result<Vec<Layer>, GraphError> {
        let refuse = |preset: Self| match norm {
            Some(_) => Err(GraphError::OptionNotTaken { preset: preset.name(), option: "norm" }),
            None => Ok(()),
        };
        match self {
            Self::Logistic => {
                refuse(self)?;
                Ok(vec![Layer::Flatten, linear(classes)])
            }
            Self::SmallCnn => Ok(small_cnn(norm, classes)),
            Self::CnnBn => {
                refuse(self)?;
                Ok(cnn_bn(classes))
            }
            Self::Resnet18 => Ok(resnet18(norm.unwrap_or(Norm::Batch), classes)),
        }
    }
}

fn small_cnn(norm: Option<Norm>, classes: u32) -> Vec<Layer> {
    let mut layers = Vec::new();
    for filters in [32, 64] {
        layers.push(conv(filters, 3, 1, norm.is_none()));
        layers.extend(norm.map(normalise));
        layers.extend([relu(), halve()]);
    }
    layers.extend([Layer::Flatten, linear(128), relu(), linear(classes)]);
    layers
}

fn cnn_bn(classes: u32) -> Vec<Layer> {
    let block = |filters| [conv(filters, 3, 1, true), Layer::BatchNorm, relu()];
    let mut layers = Vec::new();
    layers.extend(block(32));
    layers.extend(block(64));
    layers.push(halve());
    layers.extend(block(128));
    layers.extend([halve(), Layer::Flatten, linear(128), relu(), linear(classes)]);
    layers
}

fn resnet18(norm: Norm, classes: u32) -> Vec<Layer> {
    let mut layers = vec![conv(64, 3, 1, false), normalise(norm), relu()];
    let mut channels = 64;
    for (filters, stride) in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)] {
        let main = vec![
            conv(filters, 3, stride, false),
            normalise(norm),
            relu(),
            conv(filters, 3, 1, false),
            normalise(norm),
        ];
        let changes = stride != 1 || channels != filters;
        let shortcut = if changes { vec![conv(filters, 1, stride, false), normalise(norm)] } else { vec![] };
        layers.extend([Layer::Residual(Residual { main, shortcut }), relu()]);
        channels = filters;
    }
    layers.extend([Layer::GlobalAveragePool, linear(classes)]);
    layers
}

/// A convolution that keeps the sides at stride 1.
fn conv(filters: u32, kernel: u32, stride: u32, bias: bool) -> Layer {
    Layer::Conv2d(Conv2d { filters, kernel, stride, padding: kernel / 2, groups: 1, bias })
}

fn normalise(norm: Norm) -> Layer {
    match norm {
        Norm::Group => Layer::GroupNorm(GroupNorm { groups: 8 }),
        Norm::Batch => Layer::BatchNorm,
    }
}

fn relu() -> Layer {
    Layer::Activation(Activation { function: Function::Relu })
}

fn halve() -> Layer {
    Layer::MaxPool(Pool { size: 2, stride: None })
}

fn linear(outputs: u32) -> Layer {
    Layer::Linear(Linear { outputs, bias: true })
}

/// [`ModelSpec`] as it stands in a file, where a preset and layers exclude each other.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<Preset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm: Option<Norm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Layer>>,
}

/// Why a `[model]` is neither a preset nor a list of layers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModel {
    /// Both or neither.
    #[error("[model] has either a `preset` or `layers`")]
    PresetOrLayers,
    /// An option of presets beside layers.
    #[error("`norm` belongs to a preset; explicit layers name their own normalisation")]
    NormBesideLayers,
}

impl TryFrom<Written> for ModelSpec {
    type Error = InvalidModel;

    fn try_from(written: Written) -> Result<Self, InvalidModel> {
        match (written.preset, written.layers) {
            (Some(preset), None) => Ok(Self::Preset { preset, norm: written.norm }),
            (None, Some(layers)) if written.norm.is_none() => Ok(Self::Layers(layers)),
            (None, Some(_)) => Err(InvalidModel::NormBesideLayers),
            (Some(_), Some(_)) | (None, None) => Err(InvalidModel::PresetOrLayers),
        }
    }
}

impl From<ModelSpec> for Written {
    fn from(spec: ModelSpec) -> Self {
        match spec {
            ModelSpec::Preset { preset, norm } => Self { preset: Some(preset), norm, layers: None },
            ModelSpec::Layers(layers) => Self { preset: None, norm: None, layers: Some(layers) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(preset: Preset, norm: Option<Norm>, input: [u32; 3], classes: u32) -> (usize, usize) {
        let graph = ModelSpec::Preset { preset, norm }.graph(input, classes).unwrap();
        let trainable = graph.parameters().iter().filter(|block| block.is_trainable());
        (graph.len(), trainable.map(crate::graph::ParameterSpec::len).sum())
    }

    #[test]
    fn presets_have_the_published_numbers_of_parameters() {
        assert_eq!(numbers(Preset::Logistic, None, [1, 28, 28], 2), (1570, 1570));
        assert_eq!(numbers(Preset::SmallCnn, None, [1, 28, 28], 2), (420_610, 420_610));
        assert_eq!(numbers(Preset::CnnBn, None, [3, 28, 28], 10), (898_378, 897_930));
        // ResNet-18 with a 3x3 stem and ten classes: 11,173,962 in PyTorch, 9,600 statistics.
        assert_eq!(numbers(Preset::Resnet18, None, [3, 28, 28], 10), (11_183_562, 11_173_962));
        assert_eq!(numbers(Preset::Resnet18, Some(Norm::Group), [3, 28, 28], 10), (11_173_962, 11_173_962));
    }

    #[test]
    fn a_normalisation_is_refused_where_it_has_no_place() {
        for preset in [Preset::Logistic, Preset::CnnBn] {
            let error = ModelSpec::Preset { preset, norm: Some(Norm::Group) }.graph([1, 28, 28], 2);
            assert_eq!(error, Err(GraphError::OptionNotTaken { preset: preset.name(), option: "norm" }));
        }
    }
}
