//! Shapes of a graph, derived from the graph alone, and the caps it must keep.
//!
//! All arithmetic saturates in `u64` and is compared with a cap before anything is narrowed, so a
//! hostile study gets an error that names the layer, not an overflow or an allocation.

use std::fmt;

use crate::fault::{GraphError, GraphFault};
use crate::graph::{Conv2d, Layer, ParameterSpec, Pool, Residual, Role};

/// Most layers of a graph, those inside residual layers included.
pub const MAX_LAYERS: usize = 512;
/// Most values of a model: 400 MB in f32.
pub const MAX_PARAMETERS: u64 = 100_000_000;
/// Most values that one case may leave behind in all layers together: 1 GiB in f32.
pub const MAX_ACTIVATIONS_PER_CASE: u64 = 1 << 28;
/// Most values in the scratch space of one convolution of one case: 1 GiB in f32.
pub const MAX_SCRATCH: u64 = 1 << 28;
/// Longest side, most channels, largest kernel, widest linear layer.
pub const MAX_SIDE: u32 = 1 << 20;

/// What flows between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An image: channels, height, width.
    Image([u32; 3]),
    /// A row of numbers.
    Row(u32),
}

impl Shape {
    /// Number of values of one case.
    pub fn values(self) -> u64 {
        match self {
            Self::Image(sides) => product(sides.map(u64::from)),
            Self::Row(length) => u64::from(length),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image([channels, height, width]) => write!(f, "image {channels}x{height}x{width}"),
            Self::Row(length) => write!(f, "row of {length}"),
        }
    }
}

/// Where a layer stands, for example `layers.4.main.0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerName(String);

impl LayerName {
    /// A layer of the graph itself.
    pub(crate) fn top(index: usize) -> Self {
        Self(format!("layers.{index}"))
    }

    /// A layer inside a branch of this residual layer.
    pub(crate) fn inside(&self, branch: &str, index: usize) -> Self {
        Self(format!("{}.{branch}.{index}", self.0))
    }

    /// The name of a block of numbers of this layer.
    pub(crate) fn block(&self, role: Role) -> String {
        format!("{}.{}", self.0, role.name())
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a checked graph is known to be.
pub(crate) struct Summary {
    pub(crate) parameters: Vec<ParameterSpec>,
    pub(crate) classes: u32,
    pub(crate) activations: u64,
}

/// Derives all shapes and blocks of a graph, or names the layer that does not fit.
pub(crate) fn check(input: [u32; 3], layers: &[Layer]) -> Result<Summary, GraphError> {
    let [channels, height, width] = input;
    let mut trace = Trace { parameters: Vec::new(), length: 0, activations: 0 };
    if input.iter().any(|&side| !(1..=MAX_SIDE).contains(&side))
        || Shape::Image(input).values() > MAX_ACTIVATIONS_PER_CASE
    {
        return Err(GraphError::Input { channels, height, width });
    }
    let count = layers.iter().map(count_of).sum();
    if count > MAX_LAYERS {
        return Err(GraphError::TooManyLayers { count });
    }
    let mut shape = Shape::Image(input);
    for (index, layer) in layers.iter().enumerate() {
        shape = trace.pass(&LayerName::top(index), layer, shape)?;
    }
    let Shape::Row(classes) = shape else { return Err(GraphError::NoScores { shape }) };
    if classes < 2 {
        return Err(GraphError::TooFewClasses(classes));
    }
    if trace.parameters.is_empty() {
        return Err(GraphError::NothingToTrain);
    }
    Ok(Summary { parameters: trace.parameters, classes, activations: trace.activations })
}

/// What has been seen on the way through the layers.
struct Trace {
    parameters: Vec<ParameterSpec>,
    length: u64,
    activations: u64,
}

impl Trace {
    fn pass(&mut self, name: &LayerName, layer: &Layer, shape: Shape) -> Result<Shape, GraphError> {
        let named = |fault| GraphError::Layer { name: name.clone(), kind: layer.kind(), fault };
        let after = match layer {
            Layer::Residual(residual) => self.pass_branches(name, residual, shape)?,
            plain => self.pass_plain(name, plain, shape).map_err(named)?,
        };
        self.activations = self.activations.saturating_add(after.values());
        if self.activations > MAX_ACTIVATIONS_PER_CASE {
            return Err(named(GraphFault::TooManyActivations(self.activations)));
        }
        Ok(after)
    }

    fn pass_branches(
        &mut self,
        name: &LayerName,
        residual: &Residual,
        shape: Shape,
    ) -> Result<Shape, GraphError> {
        let mut branch = |label: &str, layers: &[Layer]| {
            layers.iter().enumerate().try_fold(shape, |shape, (index, layer)| {
                let name = name.inside(label, index);
                match layer {
                    Layer::Residual(_) => {
                        Err(GraphError::Layer { name, kind: layer.kind(), fault: GraphFault::NestedResidual })
                    }
                    plain => self.pass(&name, plain, shape),
                }
            })
        };
        let (main, shortcut) = (branch("main", &residual.main)?, branch("shortcut", &residual.shortcut)?);
        if main == shortcut {
            Ok(main)
        } else {
            let fault = GraphFault::BranchesDiffer { main, shortcut };
            Err(GraphError::Layer { name: name.clone(), kind: "residual", fault })
        }
    }

    fn pass_plain(&mut self, name: &LayerName, layer: &Layer, shape: Shape) -> Result<Shape, GraphFault> {
        match layer {
            Layer::Conv2d(conv) => self.convolve(name, conv, image(shape)?),
            Layer::GroupNorm(norm) => {
                let [channels, ..] = image(shape)?;
                within("groups", norm.groups)?;
                divides(norm.groups, channels)?;
                self.scale_and_shift(name, channels)?;
                Ok(shape)
            }
            Layer::BatchNorm => {
                let [channels, ..] = image(shape)?;
                self.scale_and_shift(name, channels)?;
                self.block(name, Role::RunningMean, &[channels], 1)?;
                self.block(name, Role::RunningVariance, &[channels], 1)?;
                Ok(shape)
            }
            Layer::MaxPool(pool) | Layer::AveragePool(pool) => slide(pool, image(shape)?),
            Layer::GlobalAveragePool => image(shape).map(|[channels, ..]| Shape::Row(channels)),
            Layer::Flatten => {
                let values = product(image(shape)?.map(u64::from));
                let length = u32::try_from(values).ok().filter(|&length| length <= MAX_SIDE);
                length.map(Shape::Row).ok_or(GraphFault::OutOfRange("length"))
            }
            Layer::Linear(linear) => {
                let Shape::Row(inputs) = shape else { return Err(GraphFault::NeedsRow(shape)) };
                within("outputs", linear.outputs)?;
                self.block(name, Role::Weight, &[linear.outputs, inputs], u64::from(inputs))?;
                if linear.bias {
                    self.block(name, Role::Bias, &[linear.outputs], 1)?;
                }
                Ok(Shape::Row(linear.outputs))
            }
            Layer::Dropout(dropout) => {
                // NaN lies in no range.
                if (0.0..1.0).contains(&dropout.rate) {
                    Ok(shape)
                } else {
                    Err(GraphFault::DropoutRate(dropout.rate))
                }
            }
            Layer::Activation(_) => Ok(shape),
            Layer::Residual(_) => Err(GraphFault::NestedResidual),
        }
    }

    fn convolve(&mut self, name: &LayerName, conv: &Conv2d, input: [u32; 3]) -> Result<Shape, GraphFault> {
        let [channels, height, width] = input;
        within("filters", conv.filters)?;
        within("kernel", conv.kernel)?;
        within("stride", conv.stride)?;
        within("groups", conv.groups)?;
        divides(conv.groups, channels)?;
        divides(conv.groups, conv.filters)?;
        if conv.padding >= conv.kernel {
            return Err(GraphFault::PaddingTooLarge { padding: conv.padding, kernel: conv.kernel });
        }
        let side = |side: u32| {
            // Below 3 * MAX_SIDE, so u32 holds it.
            let slack = (side + 2 * conv.padding).checked_sub(conv.kernel);
            slack.map(|slack| slack / conv.stride + 1)
        };
        let (Some(rows), Some(columns)) = (side(height), side(width)) else {
            return Err(GraphFault::WindowTooLarge { window: conv.kernel, shape: Shape::Image(input) });
        };
        let (kernel, per_group) = (u64::from(conv.kernel), channels / conv.groups);
        let unfolded = product([u64::from(channels), kernel, kernel, u64::from(rows), u64::from(columns)]);
        if unfolded > MAX_SCRATCH {
            return Err(GraphFault::TooMuchScratch(unfolded));
        }
        let fan_in = product([u64::from(per_group), kernel, kernel]);
        self.block(name, Role::Weight, &[conv.filters, per_group, conv.kernel, conv.kernel], fan_in)?;
        if conv.bias {
            self.block(name, Role::Bias, &[conv.filters], 1)?;
        }
        Ok(Shape::Image([conv.filters, rows, columns]))
    }

    fn scale_and_shift(&mut self, name: &LayerName, channels: u32) -> Result<(), GraphFault> {
        self.block(name, Role::Scale, &[channels], 1)?;
        self.block(name, Role::Shift, &[channels], 1)
    }

    fn block(&mut self, name: &LayerName, role: Role, shape: &[u32], fan_in: u64) -> Result<(), GraphFault> {
        let values = shape.iter().fold(1, |all: u64, &side| all.saturating_mul(u64::from(side)));
        let offset = self.length;
        self.length = self.length.saturating_add(values);
        if self.length > MAX_PARAMETERS {
            return Err(GraphFault::TooManyParameters(self.length));
        }
        self.parameters.push(ParameterSpec {
            name: name.block(role),
            shape: shape.iter().map(|&side| side as usize).collect(),
            role,
            offset: usize::try_from(offset).expect("MAX_PARAMETERS fits a usize"),
            fan_in: usize::try_from(fan_in).expect("fan-in is at most the block's length"),
        });
        Ok(())
    }
}

fn count_of(layer: &Layer) -> usize {
    match layer {
        // Depth is refused later; here it only has to be counted without recursion.
        Layer::Residual(residual) => 1 + residual.main.len() + residual.shortcut.len(),
        _ => 1,
    }
}

fn image(shape: Shape) -> Result<[u32; 3], GraphFault> {
    match shape {
        Shape::Image(sides) => Ok(sides),
        Shape::Row(_) => Err(GraphFault::NeedsImage(shape)),
    }
}

fn within(what: &'static str, value: u32) -> Result<(), GraphFault> {
    if (1..=MAX_SIDE).contains(&value) { Ok(()) } else { Err(GraphFault::OutOfRange(what)) }
}

fn divides(groups: u32, channels: u32) -> Result<(), GraphFault> {
    if channels.is_multiple_of(groups) { Ok(()) } else { Err(GraphFault::UnevenGroups { groups, channels }) }
}

fn slide(pool: &Pool, input: [u32; 3]) -> Result<Shape, GraphFault> {
    let [channels, height, width] = input;
    within("size", pool.size)?;
    within("stride", pool.stride())?;
    let side = |side: u32| side.checked_sub(pool.size).map(|slack| slack / pool.stride() + 1);
    match (side(height), side(width)) {
        (Some(rows), Some(columns)) => Ok(Shape::Image([channels, rows, columns])),
        _ => Err(GraphFault::WindowTooLarge { window: pool.size, shape: Shape::Image(input) }),
    }
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{ModelGraph, ModelSpec};
    use proptest::prelude::*;

    fn error_of(layers: &str) -> String {
        let spec: ModelSpec = toml::from_str(&format!("layers = [{layers}]")).unwrap();
        spec.graph([3, 9, 7], 2).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_layer() {
        let conv = r#"{ kind = "conv2d", filters = 8, kernel = 3 }"#;
        let end = r#"{ kind = "flatten" }, { kind = "linear", outputs = 2 }"#;
        let cases = [
            (
                format!("{conv}, {{ kind = \"linear\", outputs = 2 }}"),
                "layers.1 (linear): needs a row of numbers (put a flatten before it), gets an image 8x7x5",
            ),
            (format!("{end}, {conv}"), "layers.2 (conv2d): needs an image, gets a row of 2"),
            (
                r#"{ kind = "conv2d", filters = 8, kernel = 8 }"#.into(),
                "layers.0 (conv2d): a window of 8 does not fit into image 3x9x7",
            ),
            (
                r#"{ kind = "conv2d", filters = 8, kernel = 3, padding = 3 }"#.into(),
                "layers.0 (conv2d): padding of 3 is not below the kernel of 3",
            ),
            (
                r#"{ kind = "conv2d", filters = 8, kernel = 3, stride = 0 }"#.into(),
                "layers.0 (conv2d): `stride` must be between 1 and 1048576",
            ),
            (
                r#"{ kind = "conv2d", filters = 8, kernel = 3, groups = 2 }"#.into(),
                "layers.0 (conv2d): 2 groups do not divide 3 channels",
            ),
            (
                format!("{conv}, {{ kind = \"group-norm\", groups = 3 }}"),
                "layers.1 (group-norm): 3 groups do not divide 8 channels",
            ),
            (
                format!("{conv}, {{ kind = \"max-pool\", size = 6 }}"),
                "layers.1 (max-pool): a window of 6 does not fit into image 8x7x5",
            ),
            (
                r#"{ kind = "dropout", rate = 1.0 }"#.into(),
                "layers.0 (dropout): a dropout rate of 1 is not at least 0 and below 1",
            ),
            (
                r#"{ kind = "dropout", rate = nan }"#.into(),
                "layers.0 (dropout): a dropout rate of NaN is not at least 0 and below 1",
            ),
            (
                format!("{{ kind = \"residual\", main = [{conv}] }}"),
                "layers.0 (residual): the main branch gives image 8x7x5, the shortcut image 3x9x7",
            ),
            (
                format!("{{ kind = \"residual\", main = [{{ kind = \"flatten\" }}, {conv}] }}"),
                "layers.0.main.1 (conv2d): needs an image, gets a row of 189",
            ),
            (
                "{ kind = \"residual\", main = [{ kind = \"residual\", main = [] }] }".into(),
                "layers.0.main.0 (residual): a residual layer holds no other residual layer",
            ),
            (
                r#"{ kind = "flatten" }, { kind = "linear", outputs = 1000000 }"#.into(),
                "layers.1 (linear): the model grows to 189000000 numbers, at most 100000000 are allowed",
            ),
            (
                conv.into(),
                "the graph ends in image 8x7x5, a classifier ends in a row of one number per class",
            ),
            (
                r#"{ kind = "flatten" }, { kind = "linear", outputs = 3 }"#.into(),
                "the graph scores 3 classes, the study has 2 labels",
            ),
            (r#"{ kind = "flatten" }"#.into(), "the graph has nothing to train"),
            (
                String::new(),
                "the graph ends in image 3x9x7, a classifier ends in a row of one number per class",
            ),
        ];
        for (layers, want) in cases {
            assert_eq!(error_of(&layers), want, "{layers}");
        }
    }

    #[test]
    fn what_would_exhaust_memory_is_refused() {
        let conv = |filters, kernel, padding| {
            Layer::Conv2d(Conv2d { filters, kernel, stride: 1, padding, groups: 1, bias: true })
        };
        let fault = |input, layers| match ModelGraph::new(input, layers) {
            Err(GraphError::Layer { fault, .. }) => fault,
            other => panic!("{other:?}"),
        };
        assert!(matches!(fault([1, 4000, 4000], vec![conv(64, 1, 0)]), GraphFault::TooManyActivations(_)));
        assert!(matches!(fault([64, 500, 500], vec![conv(1, 31, 15)]), GraphFault::TooMuchScratch(_)));
        assert!(matches!(
            fault([1, 1, 1], vec![conv(MAX_SIDE, MAX_SIDE, MAX_SIDE - 1)]),
            GraphFault::TooMuchScratch(_)
        ));
        assert!(matches!(fault([1, 4, 4], vec![conv(u32::MAX, 1, 0)]), GraphFault::OutOfRange("filters")));
        assert!(matches!(ModelGraph::new([u32::MAX; 3], vec![]), Err(GraphError::Input { .. })));
        assert!(matches!(ModelGraph::new([1, 0, 1], vec![]), Err(GraphError::Input { .. })));
        let many =
            vec![Layer::Activation(crate::graph::Activation { function: crate::graph::Function::Relu }); 513];
        assert_eq!(ModelGraph::new([1, 8, 8], many), Err(GraphError::TooManyLayers { count: 513 }));
    }

    fn side() -> impl Strategy<Value = u32> {
        prop_oneof![Just(0), 1..9_u32, Just(MAX_SIDE), Just(MAX_SIDE + 1), any::<u32>()]
    }

    proptest! {
        /// Whatever numbers stand in a study, checking ends in a graph within the caps or an error.
        #[test]
        fn no_numbers_overflow(
            input in [side(), side(), side()],
            (filters, kernel, stride, padding, groups) in (side(), side(), side(), side(), side()),
            (size, step, outputs) in (side(), proptest::option::of(side()), side()),
        ) {
            let layers = vec![
                Layer::Conv2d(Conv2d { filters, kernel, stride, padding, groups, bias: true }),
                Layer::MaxPool(Pool { size, stride: step }),
                Layer::GroupNorm(crate::graph::GroupNorm { groups }),
                Layer::Flatten,
                Layer::Linear(crate::graph::Linear { outputs, bias: true }),
            ];
            if let Ok(graph) = ModelGraph::new(input, layers) {
                prop_assert!(graph.len() as u64 <= MAX_PARAMETERS);
                prop_assert!(graph.activations_per_case() <= MAX_ACTIVATIONS_PER_CASE);
            }
        }
    }
}
