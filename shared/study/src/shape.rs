//! Shapes of a graph, derived from the graph alone, and the caps it must keep.
//!
//! All arithmetic saturates in `u64` and is compared with a cap before anything is narrowed, so a
//! hostile study gets an error that names the layer, not an overflow or an allocation.

mod branches;
mod convolution;

use std::fmt;

use self::branches::join;
use crate::fault::{GraphError, GraphFault, Last};
use crate::graph::{Join, Joining, Layer, ParameterSpec, Pool, Role, SqueezeExcitation, Treatment};

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
    /// A volume: channels, depth, height, width.
    Volume([u32; 4]),
}

impl From<[u32; 3]> for Shape {
    fn from(image: [u32; 3]) -> Self {
        Self::Image(image)
    }
}

impl From<[u32; 4]> for Shape {
    fn from(volume: [u32; 4]) -> Self {
        Self::Volume(volume)
    }
}

impl Shape {
    /// Number of values of one case.
    pub fn values(self) -> u64 {
        match self {
            Self::Image(sides) => product(sides.map(u64::from)),
            Self::Row(length) => u64::from(length),
            Self::Volume(sides) => product(sides.map(u64::from)),
        }
    }

    /// Channels, and then the sides of its places; a row has its length alone.
    pub const fn sides(&self) -> &[u32] {
        match self {
            Self::Image(sides) => sides,
            Self::Volume(sides) => sides,
            Self::Row(length) => std::slice::from_ref(length),
        }
    }

    /// Slices, of which an image is one.
    const fn depth(self) -> u32 {
        match self {
            Self::Volume([_, depth, ..]) => depth,
            Self::Image(_) | Self::Row(_) => 1,
        }
    }

    /// What works on each slice on its own gives, of something like this, so many channels and such sides.
    const fn with_slices(self, channels: u32, [height, width]: [u32; 2]) -> Self {
        match self {
            Self::Volume([_, depth, ..]) => Self::Volume([channels, depth, height, width]),
            Self::Image(_) | Self::Row(_) => Self::Image([channels, height, width]),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image([channels, height, width]) => write!(f, "image {channels}x{height}x{width}"),
            Self::Row(length) => write!(f, "row of {length}"),
            Self::Volume([channels, depth, height, width]) => {
                write!(f, "volume {channels}x{depth}x{height}x{width}")
            }
        }
    }
}

/// What a model reads of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseShape {
    /// The shape of its picture or volume; a row that is the case itself is a picture of one place.
    pub places: Shape,
    /// Numbers beside it.
    pub columns: u32,
}

impl CaseShape {
    /// A picture or a volume with so many numbers beside it.
    pub fn new(places: impl Into<Shape>, columns: u32) -> Self {
        Self { places: places.into(), columns }
    }
}

impl From<Shape> for CaseShape {
    fn from(places: Shape) -> Self {
        Self::new(places, 0)
    }
}

impl From<[u32; 3]> for CaseShape {
    fn from(image: [u32; 3]) -> Self {
        Self::new(image, 0)
    }
}

impl From<[u32; 4]> for CaseShape {
    fn from(volume: [u32; 4]) -> Self {
        Self::new(volume, 0)
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
pub(crate) fn check(case: CaseShape, layers: &[Layer]) -> Result<Summary, GraphError> {
    let CaseShape { places: input, columns } = case;
    let mut trace = Trace { columns, ..Trace::default() };
    let too_long = |side: &u32| !(1..=MAX_SIDE).contains(side);
    if input.sides().iter().any(too_long) || input.values() > MAX_ACTIVATIONS_PER_CASE {
        return Err(GraphError::Input(input));
    }
    let count = layers.iter().map(count_of).sum();
    if count > MAX_LAYERS {
        return Err(GraphError::TooManyLayers { count });
    }
    let mut shape = input;
    for (index, layer) in layers.iter().enumerate() {
        shape = trace.pass(&LayerName::top(index), layer, shape)?;
    }
    trace.check_kept()?;
    match (shape, input) {
        (Shape::Row(_), _) => {}
        (Shape::Image([_, rows, columns]), Shape::Image([_, height, width]))
            if [rows, columns] == [height, width] => {}
        (_, Shape::Image([_, height, width])) => {
            return Err(GraphError::NoScores { last: Last::of(layers, shape), height, width });
        }
        _ => return Err(GraphError::NoScoresOfVolume { last: Last::of(layers, shape) }),
    }
    if columns > 0 && !trace.reads_columns {
        return Err(GraphError::ColumnsUnread(columns));
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
    /// Numbers beside the picture of a case.
    columns: u32,
    /// Whether a layer has given them.
    reads_columns: bool,
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

    fn pass_plain(&mut self, name: &LayerName, layer: &Layer, shape: Shape) -> Result<Shape, GraphFault> {
        match layer {
            Layer::Conv2d(conv) => self.convolve(name, conv, shape),
            Layer::Conv3d(conv) => self.convolve_volume(name, conv, volume(shape)?),
            Layer::GroupNorm(norm) => {
                let (channels, _) = slices(shape)?;
                within("groups", norm.groups)?;
                divides(norm.groups, channels)?;
                self.scale_and_shift(name, channels)?;
                Ok(shape)
            }
            Layer::BatchNorm => {
                let (channels, _) = slices(shape)?;
                self.scale_and_shift(name, channels)?;
                self.block(name, Role::RunningMean, &[channels], 1)?;
                self.block(name, Role::RunningVariance, &[channels], 1)?;
                Ok(shape)
            }
            Layer::LayerNorm => {
                let (Shape::Image([features, ..]) | Shape::Volume([features, ..]) | Shape::Row(features)) =
                    shape;
                self.scale_and_shift(name, features)?;
                Ok(shape)
            }
            Layer::SqueezeExcitation(squeeze) => self.squeeze(name, squeeze, shape),
            Layer::TransposedConv2d(conv) => self.convolve_transposed(name, conv, shape),
            Layer::TransposedConv3d(conv) => self.convolve_volume_transposed(name, conv, volume(shape)?),
            Layer::MaxPool(pool) | Layer::AveragePool(pool) => {
                let (channels, sides) = slices(shape)?;
                Ok(shape.with_slices(channels, slide(pool, sides, shape)?))
            }
            Layer::MaxPool3d(pool) | Layer::AveragePool3d(pool) => {
                let [channels, depth, height, width] = volume(shape)?;
                let [depth, height, width] = slide(pool, [depth, height, width], shape)?;
                // Each slice is pooled by itself; then those under a window are laid out beside each other.
                self.lay_out([channels, pool.size, depth, height, width])?;
                Ok(Shape::Volume([channels, depth, height, width]))
            }
            Layer::GlobalAveragePool => slices(shape).map(|(channels, _)| Shape::Row(channels)),
            Layer::Flatten => {
                slices(shape)?;
                let length = u32::try_from(shape.values()).ok().filter(|&length| length <= MAX_SIDE);
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
            // The first of a branch does not come here.
            Layer::Columns => Err(GraphFault::PictureLost),
            Layer::Residual(_) | Layer::Concat(_) => Err(GraphFault::NestedBranches),
        }
    }

    fn squeeze(
        &mut self,
        name: &LayerName,
        squeeze: &SqueezeExcitation,
        input: Shape,
    ) -> Result<Shape, GraphFault> {
        let ((channels, _), reduction) = (slices(input)?, squeeze.reduction);
        within("reduction", reduction)?;
        if !channels.is_multiple_of(reduction) {
            return Err(GraphFault::UnevenReduction { reduction, channels });
        }
        self.connect(&name.part("squeeze"), channels, channels / reduction, true)?;
        self.connect(&name.part("excite"), channels / reduction, channels, true)?;
        Ok(input)
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

/// Channels, and height and width, of an image or of each slice of a volume.
fn slices(shape: Shape) -> Result<(u32, [u32; 2]), GraphFault> {
    match shape {
        Shape::Image([channels, height, width]) | Shape::Volume([channels, _, height, width]) => {
            Ok((channels, [height, width]))
        }
        Shape::Row(_) => Err(GraphFault::NeedsImage(shape)),
    }
}

fn volume(shape: Shape) -> Result<[u32; 4], GraphFault> {
    match shape {
        Shape::Volume(sides) => Ok(sides),
        Shape::Image(_) | Shape::Row(_) => Err(GraphFault::NeedsVolume(shape)),
    }
}

fn within(what: &'static str, value: u32) -> Result<(), GraphFault> {
    if (1..=MAX_SIDE).contains(&value) { Ok(()) } else { Err(GraphFault::OutOfRange(what)) }
}

fn divides(groups: u32, channels: u32) -> Result<(), GraphFault> {
    if channels.is_multiple_of(groups) { Ok(()) } else { Err(GraphFault::UnevenGroups { groups, channels }) }
}

/// Sides after a window slid over `sides` of a `shape`.
fn slide<const N: usize>(pool: &Pool, sides: [u32; N], shape: Shape) -> Result<[u32; N], GraphFault> {
    within("size", pool.size)?;
    within("stride", pool.stride())?;
    if pool.padding > pool.size / 2 {
        return Err(GraphFault::PoolPaddingTooLarge { padding: pool.padding, window: pool.size });
    }
    let mut after = [0; N];
    for (after, side) in after.iter_mut().zip(sides) {
        // At most twice MAX_SIDE.
        let slack = (side + 2 * pool.padding).checked_sub(pool.size);
        let slack = slack.ok_or(GraphFault::WindowTooLarge { window: pool.size.into(), shape })?;
        *after = slack / pool.stride() + 1;
    }
    Ok(after)
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests;
