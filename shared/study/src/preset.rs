//! Models by name: what a study writes when it does not list its layers.

mod networks;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use self::networks::{
    basic_block, bottleneck, cnn_bn, densenet121, linear, over_depth, relu, resnet, small_cnn, unet2d,
    with_columns,
};
use crate::fault::GraphError;
use crate::graph::{CaseShape, Layer, ModelGraph, Shape};

/// The `[model]` of a study: what the layers are, and which of them do not take part in sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct ModelSection {
    /// The layers.
    pub architecture: ModelSpec,
    /// Layers that stay as they are in the initial model, as [`ModelGraph::treat`] takes them.
    pub frozen: Option<Vec<String>>,
    /// Layers that each site trains for itself and keeps.
    pub local: Option<Vec<String>>,
}

impl ModelSection {
    /// The graph for such cases, images or volumes, and that many classes.
    pub fn graph(&self, case: impl Into<CaseShape>, classes: u32) -> Result<ModelGraph, GraphError> {
        let list = |names: &Option<Vec<String>>| names.clone().unwrap_or_default();
        let graph = self.architecture.graph(case, classes)?;
        Ok(graph.treat(&list(&self.frozen), &list(&self.local))?)
    }
}

/// The layers of a model: a preset by name, or explicit.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
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
        /// How the preset begins, where it has a choice.
        #[n(2)]
        stem: Option<Stem>,
    },
    /// Explicit layers, the last of which scores the study's labels.
    #[n(1)]
    Layers(#[n(0)] Vec<Layer>),
}

impl ModelSpec {
    /// The graph for such cases, images or volumes, and that many classes. Of volumes, a preset's convolutions and
    /// pools are over depth, too; numbers beside pictures go into its last layer.
    pub fn graph(&self, case: impl Into<CaseShape>, classes: u32) -> Result<ModelGraph, GraphError> {
        let case = case.into();
        let layers = match self {
            Self::Preset { preset, norm, stem } => {
                let layers = preset.layers(*norm, *stem, case, classes)?;
                if matches!(case.places, Shape::Volume(_)) { over_depth(layers) } else { layers }
            }
            Self::Layers(layers) => layers.clone(),
        };
        let graph = ModelGraph::new(case, layers)?;
        if graph.classes() == classes as usize {
            Ok(graph)
        } else {
            let scored = graph.classes() as u32;
            Err(GraphError::Classes { last: graph.last(), graph: scored, study: classes })
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
    /// ResNet-18 (He et al. 2016): eight blocks of two convolutions. Batch normalisation unless said.
    #[n(3)]
    #[serde(rename = "resnet18")]
    Resnet18,
    /// Two hidden layers of 128 units with ReLU, on the pixels.
    #[n(4)]
    Mlp,
    /// ResNet-34 (He et al. 2016): sixteen blocks of two convolutions. Batch normalisation unless said.
    #[n(5)]
    #[serde(rename = "resnet34")]
    Resnet34,
    /// ResNet-50 (He et al. 2016): sixteen bottlenecks, with the stride at their 3x3 convolution as in torchvision. Batch
    /// normalisation unless said.
    #[n(6)]
    #[serde(rename = "resnet50")]
    Resnet50,
    /// DenseNet-121 (Huang et al. 2017): growth 32, bottlenecks of 128, halved between blocks. Batch normalisation unless
    /// said.
    #[n(7)]
    #[serde(rename = "densenet121")]
    Densenet121,
    /// U-Net (Ronneberger, Fischer and Brox 2015), of 32 channels at the picture's size and twice as many at each half of it,
    /// 512 at most; convolutions are padded and normalised as in nnU-Net (Isensee et al. 2021). Sides are halved four times, or
    /// as often as they are even. Scores each pixel. Batch normalisation unless said.
    #[n(8)]
    #[serde(rename = "unet2d")]
    Unet2d,
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

/// How a residual or dense network begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Stem {
    /// A 3x3 convolution, for images of 28 to 64 pixels a side; the default.
    #[n(0)]
    Small,
    /// A 7x7 convolution of stride 2 and a 3x3 max pool of stride 2, for images of about 224 pixels a side.
    #[n(1)]
    Imagenet,
}

impl Preset {
    /// The name as written in a study.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logistic => "logistic",
            Self::SmallCnn => "small-cnn",
            Self::CnnBn => "cnn-bn",
            Self::Resnet18 => "resnet18",
            Self::Mlp => "mlp",
            Self::Resnet34 => "resnet34",
            Self::Resnet50 => "resnet50",
            Self::Densenet121 => "densenet121",
            Self::Unet2d => "unet2d",
        }
    }

    /// The options that a study may set beside it.
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Logistic | Self::CnnBn | Self::Mlp => &[],
            Self::SmallCnn | Self::Unet2d => &["norm"],
            Self::Resnet18 | Self::Resnet34 | Self::Resnet50 | Self::Densenet121 => &["norm", "stem"],
        }
    }

    fn layers(
        self,
        norm: Option<Norm>,
        stem: Option<Stem>,
        case: CaseShape,
        classes: u32,
    ) -> Result<Vec<Layer>, GraphError> {
        for (option, is_set) in [("norm", norm.is_some()), ("stem", stem.is_some())] {
            if is_set && !self.options().contains(&option) {
                return Err(GraphError::OptionNotTaken { preset: self.name(), option });
            }
        }
        let (usual, stem) = (norm.unwrap_or(Norm::Batch), stem.unwrap_or(Stem::Small));
        let layers = match self {
            Self::Logistic => vec![Layer::Flatten, linear(classes)],
            Self::SmallCnn => small_cnn(norm, classes),
            Self::CnnBn => cnn_bn(classes),
            Self::Mlp => {
                vec![Layer::Flatten, linear(128), relu(), linear(128), relu(), linear(classes)]
            }
            Self::Resnet18 => resnet([2, 2, 2, 2], basic_block, usual, stem, classes),
            Self::Resnet34 => resnet([3, 4, 6, 3], basic_block, usual, stem, classes),
            Self::Resnet50 => resnet([3, 4, 6, 3], bottleneck, usual, stem, classes),
            Self::Densenet121 => densenet121(usual, stem, classes),
            Self::Unet2d => {
                let Shape::Image([_, sides @ ..]) = case.places else {
                    return Err(GraphError::NotOfVolumes(self.name()));
                };
                let halvings = sides.map(u32::trailing_zeros).into_iter().fold(4, u32::min);
                if halvings == 0 {
                    let [height, width] = sides;
                    return Err(GraphError::OddSides { preset: self.name(), height, width });
                }
                if case.columns > 0 {
                    return Err(GraphError::NoColumnsIn(self.name()));
                }
                unet2d(halvings, usual, classes)
            }
        };
        Ok(if case.columns > 0 { with_columns(layers) } else { layers })
    }
}

/// [`ModelSection`] as it stands in a file, where a preset and layers exclude each other.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<Preset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norm: Option<Norm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stem: Option<Stem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Layer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<Vec<String>>,
}

/// Why a `[model]` is neither a preset nor a list of layers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModel {
    /// Both or neither.
    #[error("[model] has either a `preset` or `layers`")]
    PresetOrLayers,
    /// An option of presets beside layers.
    #[error("`norm` and `stem` belong to a preset; explicit layers say both themselves")]
    OptionBesideLayers,
}

impl TryFrom<Written> for ModelSection {
    type Error = InvalidModel;

    fn try_from(written: Written) -> Result<Self, InvalidModel> {
        let Written { preset, norm, stem, layers, frozen, local } = written;
        let architecture = match (preset, layers) {
            (Some(preset), None) => ModelSpec::Preset { preset, norm, stem },
            (None, Some(layers)) if norm.is_none() && stem.is_none() => ModelSpec::Layers(layers),
            (None, Some(_)) => return Err(InvalidModel::OptionBesideLayers),
            (Some(_), Some(_)) | (None, None) => return Err(InvalidModel::PresetOrLayers),
        };
        Ok(Self { architecture, frozen, local })
    }
}

impl From<ModelSection> for Written {
    fn from(section: ModelSection) -> Self {
        let ModelSection { architecture, frozen, local } = section;
        match architecture {
            ModelSpec::Preset { preset, norm, stem } => {
                Self { preset: Some(preset), norm, stem, layers: None, frozen, local }
            }
            ModelSpec::Layers(layers) => {
                Self { preset: None, norm: None, stem: None, layers: Some(layers), frozen, local }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Options = (Option<Norm>, Option<Stem>);

    const NONE: Options = (None, None);
    const GROUPS: Options = (Some(Norm::Group), None);
    const IMAGENET: Options = (None, Some(Stem::Imagenet));

    fn numbers(preset: Preset, (norm, stem): Options, input: [u32; 3], classes: u32) -> (usize, usize) {
        let graph = ModelSpec::Preset { preset, norm, stem }.graph(input, classes).unwrap();
        let trainable = graph.parameters().iter().filter(|block| block.is_trainable());
        (graph.len(), trainable.map(crate::graph::ParameterSpec::len).sum())
    }

    #[test]
    fn presets_have_the_published_numbers_of_parameters() {
        assert_eq!(numbers(Preset::Logistic, NONE, [1, 28, 28], 2), (1570, 1570));
        assert_eq!(numbers(Preset::SmallCnn, NONE, [1, 28, 28], 2), (420_610, 420_610));
        assert_eq!(numbers(Preset::CnnBn, NONE, [3, 28, 28], 10), (898_378, 897_930));
        // ResNet-18 with a 3x3 stem and ten classes: 11,173,962 in PyTorch, 9,600 statistics.
        assert_eq!(numbers(Preset::Resnet18, NONE, [3, 28, 28], 10), (11_183_562, 11_173_962));
        assert_eq!(numbers(Preset::Resnet18, GROUPS, [3, 28, 28], 10), (11_173_962, 11_173_962));
        // 13 · 128, 128 · 128 and 128 · 2 weights, and their biases.
        assert_eq!(numbers(Preset::Mlp, NONE, [13, 1, 1], 2), (18_562, 18_562));
        // U-Nets of 1, 2 and 4 halvings, counted by PyTorch.
        assert_eq!(numbers(Preset::Unet2d, NONE, [1, 6, 34], 2), (101_762, 101_250));
        assert_eq!(numbers(Preset::Unet2d, NONE, [1, 28, 28], 2), (467_906, 466_626));
        assert_eq!(numbers(Preset::Unet2d, NONE, [3, 256, 480], 5), (7_769_061, 7_763_173));
        assert_eq!(numbers(Preset::Unet2d, GROUPS, [3, 256, 480], 5), (7_763_173, 7_763_173));
        let odd = ModelSpec::Preset { preset: Preset::Unet2d, norm: None, stem: None }.graph([1, 28, 27], 2);
        assert_eq!(odd, Err(GraphError::OddSides { preset: "unet2d", height: 28, width: 27 }));
    }

    /// What torchvision states for its models of the thousand classes of ImageNet; statistics are twice the channels of all
    /// normalisations.
    #[test]
    fn presets_have_the_numbers_of_torchvision() {
        for (preset, trainable, statistics) in [
            (Preset::Resnet18, 11_689_512, 9_600),
            (Preset::Resnet34, 21_797_672, 17_024),
            (Preset::Resnet50, 25_557_032, 53_120),
            (Preset::Densenet121, 7_978_856, 83_648),
        ] {
            let got = numbers(preset, IMAGENET, [3, 224, 224], 1000);
            assert_eq!(got, (trainable + statistics, trainable), "{}", preset.name());
            let small = numbers(preset, (None, Some(Stem::Small)), [3, 32, 32], 1000);
            // A 3x3 kernel in place of one of 7x7, of 3 channels and 64 filters.
            assert_eq!(small.1, trainable - 40 * 3 * 64, "{}", preset.name());
            assert_eq!(small, numbers(preset, NONE, [3, 32, 32], 1000));
            let groups = numbers(preset, GROUPS, [3, 32, 32], 1000);
            assert_eq!(groups, (small.1, small.1), "{}", preset.name());
        }
    }

    /// Numbers beside a picture go into the last layer, beside what it sees of the picture, and change nothing else.
    #[test]
    fn presets_take_numbers_beside_pictures_into_their_last_layer() {
        for preset in [
            Preset::Logistic,
            Preset::Mlp,
            Preset::SmallCnn,
            Preset::CnnBn,
            Preset::Resnet18,
            Preset::Resnet34,
            Preset::Resnet50,
            Preset::Densenet121,
        ] {
            for places in [Shape::Image([1, 16, 16]), Shape::Volume([1, 16, 16, 16])] {
                let spec = ModelSpec::Preset { preset, norm: None, stem: None };
                let alone = spec.graph(places, 3).unwrap();
                let both = spec.graph(CaseShape::new(places, 5), 3).unwrap();
                assert_eq!((alone.columns(), both.columns()), (0, 5));
                let weights = |graph: &ModelGraph| -> Vec<Vec<usize>> {
                    graph.parameters().iter().map(|block| block.shape().to_vec()).collect()
                };
                let (mut want, got) = (weights(&alone), weights(&both));
                let last = want.len() - 2;
                want[last][1] += 5;
                assert_eq!(got, want, "{}", preset.name());
                assert_ne!(alone.hash(), both.hash());
            }
        }
        let pixels = ModelSpec::Preset { preset: Preset::Unet2d, norm: None, stem: None };
        let refused = pixels.graph(CaseShape::new([1, 16, 16], 5), 3);
        assert_eq!(refused, Err(GraphError::NoColumnsIn("unet2d")));
    }

    /// torchvision states 1.81, 3.66, 4.09 and 2.83 G operations an image; to the last one they were counted by
    /// `torch.utils.flop_counter`, which counts two to a multiply-add.
    #[test]
    fn multiply_adds_are_those_of_torchvision() {
        for (preset, multiply_adds) in [
            (Preset::Resnet18, 1_814_073_344),
            (Preset::Resnet34, 3_663_761_408),
            (Preset::Resnet50, 4_089_184_256),
            (Preset::Densenet121, 2_834_161_664),
        ] {
            let spec = ModelSpec::Preset { preset, norm: None, stem: Some(Stem::Imagenet) };
            let graph = spec.graph([3, 224, 224], 1000).unwrap();
            assert_eq!(graph.multiply_adds_per_case(), multiply_adds, "{}", preset.name());
        }
    }

    #[test]
    fn an_option_is_refused_where_it_has_no_place() {
        let refused = |preset: Preset, norm, stem, option| {
            let error = ModelSpec::Preset { preset, norm, stem }.graph([1, 28, 28], 2);
            assert_eq!(error, Err(GraphError::OptionNotTaken { preset: preset.name(), option }));
        };
        for preset in [Preset::Logistic, Preset::CnnBn, Preset::Mlp] {
            refused(preset, Some(Norm::Group), None, "norm");
            refused(preset, None, Some(Stem::Small), "stem");
        }
        refused(Preset::SmallCnn, None, Some(Stem::Imagenet), "stem");
    }
}
