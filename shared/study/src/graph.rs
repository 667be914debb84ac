//! The model as data: layers, and the order of the numbers they hold.
//!
//! A study names its model by a graph that anyone can read, hash and check without a tensor library;
//! `learning` interprets it. A model in memory or on a disk is a flat `Vec<f32>` in the order of
//! [`ModelGraph::parameters`], which is the order of the layers and, within a layer, weight before
//! bias, scale, shift, running mean, running variance.
//!
//! What a study makes of each block, whether it is averaged, frozen or local, is part of the graph too, and not of the
//! architecture that [`ModelGraph::hash`] names: see [`crate::treatment`].
//!
//! A graph comes from an operator whom a site need not trust. [`ModelGraph::new`] therefore derives
//! every shape with checked arithmetic and refuses graphs above the [caps](crate::shape) before
//! anybody allocates for them. No canonical bytes make the decoder recurse:
//! see [`crate::layer`].

use std::ops::Range;

use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::canonical::is_default;
pub use crate::fault::{GraphError, GraphFault, Last};
use crate::hash::Hash;
pub use crate::layer::*;
pub use crate::preset::{ModelSection, ModelSpec, Norm, Preset, Stem};
pub use crate::shape::{CaseShape, LayerName, Shape};
pub use crate::treatment::{InvalidTreatment, Treatment};

/// A model: the shape of one case, an image `[channels, height, width]` or a volume `[channels, depth, height, width]`, the
/// length of the row of numbers beside it, and the layers that it passes through.
///
/// A value that exists has been checked: every layer's shape fits and the caps hold.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelGraph {
    input: Shape,
    columns: u32,
    layers: Vec<Layer>,
    parameters: Vec<ParameterSpec>,
    output: Shape,
    activations: u64,
    multiply_adds: u64,
}

/// A graph as it is written. Its input is a list of three or four sides. Treatments stand there for all blocks, or for none
/// where all are averaged; columns where there are any.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Written {
    #[n(0)]
    #[cbor(with = "sides")]
    input: Shape,
    #[n(1)]
    layers: Vec<Layer>,
    #[n(2)]
    treatments: Option<Vec<Treatment>>,
    #[n(3)]
    #[cbor(skip_if = "is_default")]
    columns: u32,
}

impl ModelGraph {
    /// Checks shapes and caps. The last layer must end in one number per class, or in one per class and pixel of the input.
    pub fn new(case: impl Into<CaseShape>, layers: Vec<Layer>) -> Result<Self, GraphError> {
        let case = case.into();
        let summary = crate::shape::check(case, &layers)?;
        Ok(Self {
            input: case.places,
            columns: case.columns,
            layers,
            parameters: summary.parameters,
            output: summary.output,
            activations: summary.activations,
            multiply_adds: summary.multiply_adds,
        })
    }

    /// The shape of one case.
    pub const fn case(&self) -> Shape {
        self.input
    }

    /// Numbers beside the picture or volume of a case.
    pub const fn columns(&self) -> usize {
        self.columns as usize
    }

    /// The shape of one case in memory: planes, height, width. The planes of an image are its channels, and those of a volume
    /// the slices of its first channel, then those of the next.
    pub const fn input(&self) -> [u32; 3] {
        match self.input {
            Shape::Image(sides) => sides,
            Shape::Volume([channels, depth, height, width]) => [channels * depth, height, width],
            Shape::Row(length) => [length, 1, 1],
        }
    }

    /// Slices of a case that is a volume.
    pub const fn depth(&self) -> Option<u32> {
        match self.input {
            Shape::Volume([_, depth, ..]) => Some(depth),
            Shape::Image(_) | Shape::Row(_) => None,
        }
    }

    /// Number of values in one case.
    pub fn input_len(&self) -> usize {
        self.input().iter().map(|&side| side as usize).product()
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The last layer, and what it gives.
    pub fn last(&self) -> Last {
        Last::of(&self.layers, self.output)
    }

    /// Number of classes the last layer scores.
    pub const fn classes(&self) -> usize {
        let (Shape::Row(classes) | Shape::Image([classes, ..]) | Shape::Volume([classes, ..])) = self.output;
        classes as usize
    }

    /// Whether each pixel is scored, and not the case as a whole.
    pub const fn is_dense(&self) -> bool {
        !matches!(self.output, Shape::Row(_))
    }

    /// What is scored of a case: its pixels, or the case itself.
    pub const fn places(&self) -> usize {
        match self.output {
            Shape::Row(_) => 1,
            Shape::Image([_, height, width]) => height as usize * width as usize,
            Shape::Volume([_, depth, height, width]) => depth as usize * height as usize * width as usize,
        }
    }

    /// Every block of numbers in the model, in the order of the flat vector.
    pub fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut [ParameterSpec] {
        &mut self.parameters
    }

    /// Length of the flat vector, running statistics included.
    pub fn len(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.range().end)
    }

    /// Whether the model holds no number at all. Never true of a checked graph.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values that one image leaves behind in the layers while training, for memory estimates.
    pub const fn activations_per_case(&self) -> u64 {
        self.activations
    }

    /// Multiplications with a following addition that scoring one image takes: of convolutions and of linear layers, as
    /// is usual; all else is not counted.
    pub const fn multiply_adds_per_case(&self) -> u64 {
        self.multiply_adds
    }

    /// Hash of the architecture, whatever a study makes of its blocks: what a model file must name to be loaded into it.
    pub fn hash(&self) -> Hash {
        Hash::of_value("model-graph", &self.written(None))
    }

    fn written(&self, treatments: Option<Vec<Treatment>>) -> Written {
        Written { input: self.input, layers: self.layers.clone(), treatments, columns: self.columns }
    }
}

impl<C> Encode<C> for ModelGraph {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        let treatments: Vec<Treatment> = self.parameters.iter().map(ParameterSpec::treatment).collect();
        let chosen = treatments.iter().any(|treatment| *treatment != Treatment::Averaged);
        self.written(chosen.then_some(treatments)).encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for ModelGraph {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let Written { input, layers, treatments, columns } = Written::decode(d, ctx)?;
        let case = CaseShape::new(input, columns);
        let graph = Self::new(case, layers).and_then(|graph| match treatments {
            Some(treatments) => Ok(graph.with_treatments(&treatments)?),
            None => Ok(graph),
        });
        graph.map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// The codec of a case's shape: its sides, of which an image has three and a volume four.
mod sides {
    use minicbor::encode::{Error, Write};
    use minicbor::{Decoder, Encoder, decode::Error as Malformed};

    use super::Shape;

    pub(super) fn encode<C, W: Write>(
        shape: &Shape,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), Error<W::Error>> {
        match shape {
            Shape::Image(sides) => e.encode(sides)?.ok(),
            Shape::Volume(sides) => e.encode(sides)?.ok(),
            Shape::Row(_) => Err(Error::message("a case is an image or a volume")),
        }
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Shape, Malformed> {
        match d.probe().array()? {
            Some(3) => d.decode::<[u32; 3]>().map(Shape::Image),
            Some(4) => d.decode::<[u32; 4]>().map(Shape::Volume),
            _ => Err(Malformed::message("a case has three sides, or four")),
        }
    }
}

/// What the numbers of a block are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Kernel of a convolution or matrix of a linear layer.
    Weight,
    /// Number added per output.
    Bias,
    /// Factor of a normalisation.
    Scale,
    /// Summand of a normalisation.
    Shift,
    /// Running mean of a batch normalisation.
    RunningMean,
    /// Running variance of a batch normalisation.
    RunningVariance,
}

impl Role {
    /// The word that ends a block's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
            Self::Scale => "scale",
            Self::Shift => "shift",
            Self::RunningMean => "running_mean",
            Self::RunningVariance => "running_variance",
        }
    }

    /// Whether gradients change it. Running statistics are measured, not trained.
    pub const fn is_trainable(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVariance)
    }
}

/// One block of the flat vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) role: Role,
    pub(crate) kind: &'static str,
    pub(crate) treatment: Treatment,
    pub(crate) offset: usize,
    pub(crate) fan_in: usize,
}

impl ParameterSpec {
    /// Name of the block, for example `layers.4.main.0.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of the block, slowest axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// What the block is for.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The kind of the layer that the block is of.
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// What the study makes of it.
    pub const fn treatment(&self) -> Treatment {
        self.treatment
    }

    /// Whether training leaves the block as it is.
    pub const fn is_frozen(&self) -> bool {
        matches!(self.treatment, Treatment::Frozen)
    }

    /// Whether gradients change the block.
    pub const fn is_trainable(&self) -> bool {
        self.role.is_trainable() && !self.is_frozen()
    }

    /// Number of values in the block.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the block is empty. Never true in a checked graph.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the block lies in the flat vector.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// Number of inputs behind each output of a weight; 1 for everything else.
    pub const fn fan_in(&self) -> usize {
        self.fan_in
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;

    fn explicit(text: &str) -> Result<ModelGraph, GraphError> {
        let section: ModelSection = toml::from_str(text).unwrap();
        section.graph([1, 8, 8], 2)
    }

    #[test]
    fn blocks_follow_each_other_without_gap_in_the_order_of_layers() {
        let graph = explicit(
            r#"layers = [
                { kind = "conv2d", filters = 4, kernel = 3, padding = 1 },
                { kind = "residual", main = [
                    { kind = "conv2d", filters = 4, kernel = 3, padding = 1, bias = false, groups = 2 },
                    { kind = "batch-norm" },
                  ], shortcut = [ { kind = "group-norm", groups = 2 } ] },
                { kind = "concat", branches = [ [], [
                    { kind = "transposed-conv2d", filters = 2, kernel = 3, padding = 1 },
                    { kind = "layer-norm" },
                ] ] },
                { kind = "squeeze-excitation", reduction = 3 },
                { kind = "global-average-pool" },
                { kind = "layer-norm" },
                { kind = "linear", outputs = 2 },
            ]"#,
        )
        .unwrap();
        let got: Vec<_> = graph.parameters().iter().map(|b| (b.name(), b.shape(), b.range().start)).collect();
        let want: [(&str, &[usize], usize); 21] = [
            ("layers.0.weight", &[4, 1, 3, 3], 0),
            ("layers.0.bias", &[4], 36),
            ("layers.1.main.0.weight", &[4, 2, 3, 3], 40),
            ("layers.1.main.1.scale", &[4], 112),
            ("layers.1.main.1.shift", &[4], 116),
            ("layers.1.main.1.running_mean", &[4], 120),
            ("layers.1.main.1.running_variance", &[4], 124),
            ("layers.1.shortcut.0.scale", &[4], 128),
            ("layers.1.shortcut.0.shift", &[4], 132),
            ("layers.2.branches.1.0.weight", &[4, 2, 3, 3], 136),
            ("layers.2.branches.1.0.bias", &[2], 208),
            ("layers.2.branches.1.1.scale", &[2], 210),
            ("layers.2.branches.1.1.shift", &[2], 212),
            ("layers.3.squeeze.weight", &[2, 6], 214),
            ("layers.3.squeeze.bias", &[2], 226),
            ("layers.3.excite.weight", &[6, 2], 228),
            ("layers.3.excite.bias", &[6], 240),
            ("layers.5.scale", &[6], 246),
            ("layers.5.shift", &[6], 252),
            ("layers.6.weight", &[2, 6], 258),
            ("layers.6.bias", &[2], 270),
        ];
        assert_eq!(got, want);
        assert_eq!((graph.len(), graph.classes(), graph.input_len()), (272, 2, 64));
        // The first convolution 64 places of 4 · 9, the grouped one 64 of 4 · 18, the transposed one 64 of 4 · 18; 12 up
        // and down; 12 to the classes.
        assert_eq!(graph.multiply_adds_per_case(), 64 * (36 + 72 + 72) + 24 + 12);
        let frozen = graph.parameters().iter().filter(|block| !block.is_trainable());
        assert_eq!(
            frozen.map(|block| block.role().name()).collect::<Vec<_>>(),
            ["running_mean", "running_variance"]
        );
    }

    #[test]
    fn a_graph_comes_back_from_its_canonical_bytes() {
        let graph = ModelSpec::Preset { preset: Preset::Resnet18, norm: None, stem: None }
            .graph([3, 28, 28], 4)
            .unwrap();
        assert_eq!(ModelGraph::from_canonical(&graph.to_canonical()), Ok(graph.clone()));
        let other = ModelSpec::Preset { preset: Preset::Resnet18, norm: None, stem: None }
            .graph([3, 28, 28], 5)
            .unwrap();
        assert_ne!(graph.hash(), other.hash());
    }

    /// Written down before graphs could say dilation, padding of pools, or the layers with numbers above 10.
    #[test]
    fn graphs_of_earlier_builds_keep_their_hash() {
        for (preset, norm, hash) in [
            (
                Preset::SmallCnn,
                Some(Norm::Group),
                "a9c8c6a614fc90fc4c93c3cd3871efab018b8df2c402288960c9bf74c75c1c8a",
            ),
            (Preset::CnnBn, None, "020ad06780b9bbaa64b860dedacc4e4be0f3218c20399bf0e37b012afcea6a95"),
            (Preset::Resnet18, None, "b970beffa3b1f5ea5cd625c5115854bd394d5227d25fcf7880d7620eb592e75f"),
        ] {
            let graph = ModelSpec::Preset { preset, norm, stem: None }.graph([3, 28, 28], 4).unwrap();
            assert_eq!(graph.hash().to_string(), hash, "{}", preset.name());
        }
    }

    #[test]
    fn canonical_bytes_of_layers_that_do_not_fit_are_refused() {
        #[derive(Encode)]
        #[cbor(map)]
        struct Unchecked {
            #[n(0)]
            input: [u32; 3],
            #[n(1)]
            layers: Vec<Layer>,
        }
        let layers = vec![Layer::Linear(Linear { outputs: 2, bias: true })];
        let bytes = minicbor::to_vec(Unchecked { input: [1, 8, 8], layers }).unwrap();
        let error = ModelGraph::from_canonical(&bytes).unwrap_err().to_string();
        assert!(error.contains("layers.0 (linear)"), "{error}");
    }

    #[test]
    fn unknown_keys_and_mixtures_are_refused() {
        for text in [
            "",
            "preset = \"small-cnn\"\nlayers = []",
            "norm = \"group\"\nlayers = []",
            "stem = \"small\"\nlayers = []",
            "preset = \"resnet18\"\nstem = \"large\"",
            "preset = \"small-cnn\"\ndepth = 3",
            "preset = \"vgg\"",
            r#"layers = [{ kind = "linear", outputs = 2, colour = "red" }]"#,
            r#"layers = [{ kind = "linear" }]"#,
            r#"layers = [{ kind = "lambda" }]"#,
        ] {
            assert!(toml::from_str::<ModelSection>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_model_section_comes_back_from_a_file() {
        for text in [
            "preset = \"small-cnn\"\nnorm = \"group\"\n",
            "preset = \"resnet18\"\n",
            "preset = \"resnet18\"\nfrozen = [\"layers.0\"]\nlocal = [\"batch-norm\"]\n",
            "preset = \"densenet121\"\nnorm = \"group\"\nstem = \"imagenet\"\n",
            "[[layers]]\nkind = \"flatten\"\n\n[[layers]]\nkind = \"linear\"\noutputs = 2\nbias = false\n",
        ] {
            let section: ModelSection = toml::from_str(text).unwrap();
            assert_eq!(toml::to_string(&section).unwrap(), text);
            let spec = section.architecture;
            assert_eq!(ModelSpec::from_canonical(&spec.to_canonical()), Ok(spec));
        }
    }
}
