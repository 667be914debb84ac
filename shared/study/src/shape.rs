//! Shapes of a graph, derived from the graph alone, and the caps it must keep.
//!
//! All arithmetic saturates in `u64` and is compared with a cap before anything is narrowed, so a
//! hostile study gets an error that names the layer, not an overflow or an allocation.

use std::fmt;

use crate::fault::{GraphError, GraphFault};
use crate::graph::{
    Concat, Conv2d, Join, Joining, Layer, ParameterSpec, Pool, Residual, Role, SqueezeExcitation,
    TransposedConv2d, Treatment,
};

/// Most layers of a graph, those in branches included; an empty branch of a concat layer counts as one.
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

    /// A layer inside a branch of this layer.
    pub(crate) fn inside(&self, branch: &str, index: usize) -> Self {
        Self(format!("{}.{branch}.{index}", self.0))
    }

    /// A part of this layer that has blocks of its own.
    pub(crate) fn part(&self, part: &str) -> Self {
        Self(format!("{}.{part}", self.0))
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
    pub(crate) output: Shape,
    pub(crate) activations: u64,
    pub(crate) multiply_adds: u64,
}

/// Derives all shapes and blocks of a graph, or names the layer that does not fit.
pub(crate) fn check(input: [u32; 3], layers: &[Layer]) -> Result<Summary, GraphError> {
    let [channels, height, width] = input;
    let mut trace = Trace::default();
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
    trace.check_kept()?;
    if matches!(shape, Shape::Image([_, rows, columns]) if [rows, columns] != [height, width]) {
        return Err(GraphError::NoScores { shape, height, width });
    }
    if trace.parameters.is_empty() {
        return Err(GraphError::NothingToTrain);
    }
    let Trace { parameters, activations, multiply_adds, .. } = trace;
    Ok(Summary { parameters, output: shape, activations, multiply_adds })
}

/// What has been seen on the way through the layers.
#[derive(Default)]
struct Trace {
    parameters: Vec<ParameterSpec>,
    /// What lies aside, of the branch that is passed: the layers that keep it, and its shapes.
    kept: Vec<(LayerName, Shape)>,
    /// Kind of the layer that is passed.
    kind: &'static str,
    length: u64,
    activations: u64,
    multiply_adds: u64,
}

impl Trace {
    fn pass(&mut self, name: &LayerName, layer: &Layer, shape: Shape) -> Result<Shape, GraphError> {
        let named = |fault| GraphError::Layer { name: name.clone(), kind: layer.kind(), fault };
        let after = match layer {
            Layer::Residual(residual) => self.pass_residual(name, residual, shape)?,
            Layer::Concat(concat) => self.pass_concat(name, concat, shape)?,
            plain => {
                self.kind = plain.kind();
                self.pass_plain(name, plain, shape).map_err(named)?
            }
        };
        // What is kept is there already.
        let new = if *layer == Layer::Keep { 0 } else { after.values() };
        self.activations = self.activations.saturating_add(new);
        if self.activations > MAX_ACTIVATIONS_PER_CASE {
            return Err(named(GraphFault::TooManyActivations(self.activations)));
        }
        Ok(after)
    }

    fn pass_residual(
        &mut self,
        name: &LayerName,
        residual: &Residual,
        shape: Shape,
    ) -> Result<Shape, GraphError> {
        let main = self.pass_branch(name, "main", &residual.main, shape)?;
        let shortcut = self.pass_branch(name, "shortcut", &residual.shortcut, shape)?;
        if main == shortcut {
            Ok(main)
        } else {
            let fault = GraphFault::BranchesDiffer { main, shortcut };
            Err(GraphError::Layer { name: name.clone(), kind: "residual", fault })
        }
    }

    fn pass_concat(&mut self, name: &LayerName, concat: &Concat, shape: Shape) -> Result<Shape, GraphError> {
        let count = concat.branches.len();
        let mut outputs = Vec::with_capacity(count);
        for (index, branch) in concat.branches.iter().enumerate() {
            outputs.push(self.pass_branch(name, &format!("branches.{index}"), branch, shape)?);
        }
        let joined = if count < 2 { Err(GraphFault::TooFewBranches(count)) } else { join(&outputs) };
        joined.map_err(|fault| GraphError::Layer { name: name.clone(), kind: "concat", fault })
    }

    fn pass_branch(
        &mut self,
        name: &LayerName,
        label: &str,
        layers: &[Layer],
        shape: Shape,
    ) -> Result<Shape, GraphError> {
        let outside = std::mem::take(&mut self.kept);
        let after = layers.iter().enumerate().try_fold(shape, |shape, (index, layer)| {
            let name = name.inside(label, index);
            if layer.has_branches() {
                Err(GraphError::Layer { name, kind: layer.kind(), fault: GraphFault::NestedBranches })
            } else {
                self.pass(&name, layer, shape)
            }
        })?;
        self.check_kept()?;
        self.kept = outside;
        Ok(after)
    }

    /// Everything that was laid aside has been taken up.
    fn check_kept(&self) -> Result<(), GraphError> {
        match self.kept.last() {
            None => Ok(()),
            Some((name, _)) => Err(GraphError::Layer {
                name: name.clone(),
                kind: Layer::Keep.kind(),
                fault: GraphFault::NeverJoined,
            }),
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
            Layer::LayerNorm => {
                let (Shape::Image([features, ..]) | Shape::Row(features)) = shape;
                self.scale_and_shift(name, features)?;
                Ok(shape)
            }
            Layer::SqueezeExcitation(squeeze) => self.squeeze(name, squeeze, image(shape)?),
            Layer::TransposedConv2d(conv) => self.convolve_transposed(name, conv, image(shape)?),
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
                self.connect(name, inputs, linear.outputs, linear.bias)?;
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
            Layer::Keep => {
                self.kept.push((name.clone(), shape));
                Ok(shape)
            }
            Layer::Join(Join { by }) => {
                let (_, kept) = self.kept.pop().ok_or(GraphFault::NothingKept)?;
                match by {
                    Joining::Concat => {
                        let differ = |_| GraphFault::DoesNotJoin { kept, now: shape };
                        join(&[kept, shape]).map_err(differ)
                    }
                    Joining::Add if kept == shape => Ok(shape),
                    Joining::Add => Err(GraphFault::DoesNotJoin { kept, now: shape }),
                }
            }
            Layer::Residual(_) | Layer::Concat(_) => Err(GraphFault::NestedBranches),
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
        within("dilation", conv.dilation)?;
        if u64::from(conv.padding) >= conv.extent() {
            return Err(GraphFault::PaddingTooLarge { padding: conv.padding, kernel: conv.extent() });
        }
        let side = |side: u32| {
            let slack = (u64::from(side) + 2 * u64::from(conv.padding)).checked_sub(conv.extent());
            slack.map(|slack| slack / u64::from(conv.stride) + 1)
        };
        let (Some(rows), Some(columns)) = (side(height), side(width)) else {
            return Err(GraphFault::WindowTooLarge { window: conv.extent(), shape: Shape::Image(input) });
        };
        let (kernel, per_group) = (u64::from(conv.kernel), channels / conv.groups);
        let unfolded = product([u64::from(channels), kernel, kernel, rows, columns]);
        if unfolded > MAX_SCRATCH {
            return Err(GraphFault::TooMuchScratch(unfolded));
        }
        let fan_in = product([u64::from(per_group), kernel, kernel]);
        self.block(name, Role::Weight, &[conv.filters, per_group, conv.kernel, conv.kernel], fan_in)?;
        if conv.bias {
            self.block(name, Role::Bias, &[conv.filters], 1)?;
        }
        self.count(product([fan_in, u64::from(conv.filters), rows, columns]));
        let [rows, columns] =
            [rows, columns].map(|side| u32::try_from(side).expect("MAX_SCRATCH fits a u32"));
        Ok(Shape::Image([conv.filters, rows, columns]))
    }

    fn convolve_transposed(
        &mut self,
        name: &LayerName,
        conv: &TransposedConv2d,
        input: [u32; 3],
    ) -> Result<Shape, GraphFault> {
        let [channels, height, width] = input;
        within("filters", conv.filters)?;
        within("kernel", conv.kernel)?;
        within("stride", conv.stride)?;
        let (kernel, stride) = (u64::from(conv.kernel), u64::from(conv.stride));
        if conv.padding >= conv.kernel {
            return Err(GraphFault::PaddingTooLarge { padding: conv.padding, kernel });
        }
        let side = |side: u32| {
            let spread = (u64::from(side) - 1).saturating_mul(stride).saturating_add(kernel);
            let side =
                spread.checked_sub(2 * u64::from(conv.padding)).and_then(|side| u32::try_from(side).ok());
            side.filter(|side| (1..=MAX_SIDE).contains(side)).ok_or(GraphFault::OutputSide)
        };
        let (rows, columns) = (side(height)?, side(width)?);
        let places = product([u64::from(conv.filters), kernel, kernel, u64::from(height), u64::from(width)]);
        if places > MAX_SCRATCH {
            return Err(GraphFault::TooMuchScratch(places));
        }
        // Of an output's neighbours under the kernel one in `stride * stride` is an input.
        let fan_in = product([u64::from(channels), kernel, kernel]).div_ceil(stride.saturating_mul(stride));
        self.block(name, Role::Weight, &[channels, conv.filters, conv.kernel, conv.kernel], fan_in)?;
        if conv.bias {
            self.block(name, Role::Bias, &[conv.filters], 1)?;
        }
        self.count(places.saturating_mul(channels.into()));
        Ok(Shape::Image([conv.filters, rows, columns]))
    }

    fn squeeze(
        &mut self,
        name: &LayerName,
        squeeze: &SqueezeExcitation,
        input: [u32; 3],
    ) -> Result<Shape, GraphFault> {
        let ([channels, ..], reduction) = (input, squeeze.reduction);
        within("reduction", reduction)?;
        if !channels.is_multiple_of(reduction) {
            return Err(GraphFault::UnevenReduction { reduction, channels });
        }
        self.connect(&name.part("squeeze"), channels, channels / reduction, true)?;
        self.connect(&name.part("excite"), channels / reduction, channels, true)?;
        Ok(Shape::Image(input))
    }

    /// The blocks of a matrix and its biases.
    fn connect(&mut self, name: &LayerName, inputs: u32, outputs: u32, bias: bool) -> Result<(), GraphFault> {
        self.block(name, Role::Weight, &[outputs, inputs], u64::from(inputs))?;
        if bias {
            self.block(name, Role::Bias, &[outputs], 1)?;
        }
        self.count(product([inputs, outputs].map(u64::from)));
        Ok(())
    }

    /// Adds to the multiply-adds of a case.
    fn count(&mut self, multiply_adds: u64) {
        self.multiply_adds = self.multiply_adds.saturating_add(multiply_adds);
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
            kind: self.kind,
            treatment: Treatment::Averaged,
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
        Layer::Concat(concat) => 1 + concat.branches.iter().map(|branch| branch.len().max(1)).sum::<usize>(),
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
    if pool.padding > pool.size / 2 {
        return Err(GraphFault::PoolPaddingTooLarge { padding: pool.padding, window: pool.size });
    }
    let side = |side: u32| {
        // At most twice MAX_SIDE.
        let slack = (side + 2 * pool.padding).checked_sub(pool.size);
        slack.map(|slack| slack / pool.stride() + 1)
    };
    match (side(height), side(width)) {
        (Some(rows), Some(columns)) => Ok(Shape::Image([channels, rows, columns])),
        _ => Err(GraphFault::WindowTooLarge { window: pool.size.into(), shape: Shape::Image(input) }),
    }
}

/// Signals that agree in all but their channels, one behind the other.
fn join(outputs: &[Shape]) -> Result<Shape, GraphFault> {
    let first = outputs[0];
    let mut features = 0_u32;
    for (branch, &other) in outputs.iter().enumerate() {
        let more = match (first, other) {
            (Shape::Image([_, height, width]), Shape::Image([channels, rows, columns]))
                if (height, width) == (rows, columns) =>
            {
                channels
            }
            (Shape::Row(_), Shape::Row(length)) => length,
            _ => return Err(GraphFault::BranchesDoNotJoin { branch, first, other }),
        };
        // At most MAX_LAYERS branches of at most MAX_SIDE each.
        features += more;
    }
    match first {
        Shape::Image([_, height, width]) => {
            within("channels", features).map(|()| Shape::Image([features, height, width]))
        }
        Shape::Row(_) => within("length", features).map(|()| Shape::Row(features)),
    }
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests;
