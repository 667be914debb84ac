//! A graph run on tensors.
//!
//! Training and scoring are two types, not a switch: the layers that differ (batch normalisation
//! and dropout) ask the [`Pass`] they run in, and neither pass can turn into the other.

use burn::tensor::{Device, Tensor, TensorData, activation};
use consilium_study::graph::{Activation, Function, Join, Joining, Layer, ModelGraph, ParameterSpec, Role};

use crate::operation::convolution::conv2d;
use crate::operation::layer_norm::layer_norm;
use crate::operation::linear::linear;
use crate::operation::normalisation::{Measured, Moments, Sets, Then, normalise, normalise_by};
use crate::operation::pooling::{average_pool, max_pool};
use crate::operation::rectifier::{rectify, rectify_sum};
use crate::operation::transposed::transposed_conv2d;
use crate::operation::volume::{Volumes, average_pool3d, conv3d, max_pool3d, transposed_conv3d};
use crate::random::{Draws, LocalSeed, Purpose};
use crate::tensors::{Blocks, Cursor, Leaves};

/// Slope of a leaky rectifier below zero, PyTorch's.
const LEAK: f64 = 0.01;
/// Share of the last batch in the running statistics.
const MOMENTUM: f32 = 0.1;

const CHECKED: &str = "a checked graph gives each layer the kind of input it needs";

/// What a model reads of some cases.
pub(crate) struct Cases {
    /// Shape `[cases, planes, height, width]`, the planes being those of [`ModelGraph::input`].
    pub(crate) images: Tensor<4>,
    /// Shape `[cases, columns]`, where numbers lie beside pictures.
    pub(crate) beside: Option<Tensor<2>>,
}

impl Cases {
    /// Of images and the numbers beside them, of each case after those of the one before.
    pub(crate) fn of(graph: &ModelGraph, images: Vec<f32>, beside: Vec<f32>, device: &Device) -> Self {
        let [planes, height, width] = graph.input().map(|side| side as usize);
        let cases = images.len() / (planes * height * width);
        let images = TensorData::new(images, [cases, planes, height, width]);
        let columns = graph.columns();
        let beside = (columns > 0).then(|| TensorData::new(beside, [cases, columns]));
        Self {
            images: Tensor::from_data(images, device),
            beside: beside.map(|beside| Tensor::from_data(beside, device)),
        }
    }
}

impl From<Tensor<4>> for Cases {
    fn from(images: Tensor<4>) -> Self {
        Self { images, beside: None }
    }
}

/// Scores `[cases, classes]`, before softmax, of `cases`. Where pixels are scored, those of a case follow each other, row after row:
/// `[cases * height * width, classes]`.
pub(crate) fn logits(
    graph: &ModelGraph,
    leaves: &Leaves,
    cases: impl Into<Cases>,
    pass: &mut impl Pass,
) -> Tensor<2> {
    let Cases { images, beside } = cases.into();
    let [cases, planes, height, width] = images.dims();
    let depth = graph.depth().map_or(1, |depth| depth as usize);
    let images = Volumes::from_tall(images.reshape([cases, planes / depth, depth * height, width]), depth);
    let mut run = Run { beside: beside.as_ref(), blocks: &mut leaves.cursor(), pass };
    match run.layers(graph.layers(), Signal::Places(images)) {
        Signal::Row(scores) => scores,
        Signal::Places(Volumes { slices: scores, .. }) => {
            let [slices, classes, height, width] = scores.dims();
            scores.permute([0, 2, 3, 1]).reshape([slices * height * width, classes])
        }
    }
}

/// What differs between training and scoring.
pub(crate) trait Pass {
    /// Normalises `input` `[cases, channels, height, width]`.
    fn batch_norm(&mut self, input: Tensor<4>, blocks: BatchNorm, then: Then) -> Tensor<4>;

    /// The factors of a dropout layer for that many values; none when nothing is dropped.
    fn dropout(&mut self, rate: f64, values: usize) -> Option<Vec<f32>>;
}

/// The blocks of a batch normalisation, each `[channels]`.
pub(crate) struct BatchNorm {
    scale: Tensor<1>,
    shift: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
    /// Whether the statistics stay as they are.
    frozen: bool,
}

impl BatchNorm {
    /// Normalises by the running statistics.
    fn by_statistics(self, input: Tensor<4>, then: Then) -> Tensor<4> {
        let Self { scale, shift, mean, variance, .. } = self;
        normalise_by(input, scale, shift, [mean, variance], then)
    }
}

/// Statistics of the batch, values dropped. Where the statistics are frozen, a batch is normalised by them as in scoring.
pub(crate) struct TrainingPass<'a> {
    seed: &'a LocalSeed,
    step: u64,
    dropouts: u32,
    /// Of the batch normalisations whose statistics move.
    moments: Vec<Measured>,
    values_per_channel: Vec<usize>,
}

impl<'a> TrainingPass<'a> {
    /// The pass of step `step` of a round.
    pub(crate) fn new(seed: &'a LocalSeed, step: u64) -> Self {
        Self { seed, step, dropouts: 0, moments: Vec::new(), values_per_channel: Vec::new() }
    }

    /// Moves the running statistics in `model` towards this batch's.
    ///
    /// The running variance is unbiased, as PyTorch keeps it, so that models travel between the two.
    pub(crate) fn update_statistics(self, graph: &ModelGraph, model: &mut Blocks) {
        let moving = |block: &&ParameterSpec| !block.is_frozen();
        let of = |role| graph.parameters().iter().filter(moving).filter(move |block| block.role() == role);
        let blocks = of(Role::RunningMean).zip(of(Role::RunningVariance));
        for ((mean, variance), (moments, count)) in
            blocks.zip(self.moments.into_iter().zip(self.values_per_channel))
        {
            let Moments { means, variances } = moments.read();
            let unbiased = if count > 1 { count as f32 / (count - 1) as f32 } else { 1.0 };
            for (kept, new) in model[mean.range()].iter_mut().zip(&means) {
                *kept += MOMENTUM * (new - *kept);
            }
            for (kept, new) in model[variance.range()].iter_mut().zip(&variances) {
                *kept += MOMENTUM * (new * unbiased - *kept);
            }
        }
    }
}

impl Pass for TrainingPass<'_> {
    fn batch_norm(&mut self, input: Tensor<4>, blocks: BatchNorm, then: Then) -> Tensor<4> {
        if blocks.frozen {
            return blocks.by_statistics(input, then);
        }
        let [cases, _, height, width] = input.dims();
        let (output, moments) = normalise(input, blocks.scale, blocks.shift, Sets::Channels, then);
        self.moments.push(moments);
        self.values_per_channel.push(cases * height * width);
        output
    }

    fn dropout(&mut self, rate: f64, values: usize) -> Option<Vec<f32>> {
        let mut draws = Draws::local(self.seed, Purpose::Dropout, self.dropouts, self.step);
        self.dropouts += 1;
        let (rate, kept) = (rate as f32, 1.0 / (1.0 - rate) as f32);
        Some((0..values).map(|_| if draws.unit() < rate { 0.0 } else { kept }).collect())
    }
}

/// Running statistics, nothing dropped.
pub(crate) struct ScoringPass;

impl Pass for ScoringPass {
    fn batch_norm(&mut self, input: Tensor<4>, blocks: BatchNorm, then: Then) -> Tensor<4> {
        blocks.by_statistics(input, then)
    }

    fn dropout(&mut self, _rate: f64, _values: usize) -> Option<Vec<f32>> {
        None
    }
}

/// What flows between two layers: images or volumes, or rows `[cases, values]`.
#[derive(Clone)]
enum Signal {
    Places(Volumes),
    Row(Tensor<2>),
}

impl Signal {
    fn into_places(self) -> Volumes {
        match self {
            Self::Places(volumes) => volumes,
            Self::Row(_) => unreachable!("{CHECKED}"),
        }
    }

    fn into_row(self) -> Tensor<2> {
        match self {
            Self::Row(row) => row,
            Self::Places(_) => unreachable!("{CHECKED}"),
        }
    }

    /// After a layer of images, which sees each slice of a volume on its own.
    fn by_slice(self, layer: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Self {
        Self::Places(self.into_places().map(layer))
    }

    fn add(self, other: Self, then: Then) -> Self {
        match (self, other, then) {
            (Self::Places(one), Self::Places(other), Then::Keep) => {
                Self::Places(one.map(|one| one + other.slices))
            }
            (Self::Places(one), Self::Places(other), Then::Rectify) => {
                Self::Places(one.map(|one| rectify_sum(one, other.slices)))
            }
            (Self::Row(one), Self::Row(other), Then::Keep) => Self::Row(one + other),
            (Self::Row(one), Self::Row(other), Then::Rectify) => Self::Row(activation::relu(one + other)),
            _ => unreachable!("{CHECKED}"),
        }
    }

    /// Joins signals of one kind along their channels.
    fn concat(parts: Vec<Self>) -> Self {
        if let Some(&Self::Places(Volumes { depth, .. })) = parts.first() {
            let slices = parts.into_iter().map(|part| part.into_places().slices).collect();
            Self::Places(Volumes { slices: Tensor::cat(slices, 1), depth })
        } else {
            Self::Row(Tensor::cat(parts.into_iter().map(Self::into_row).collect(), 1))
        }
    }
}

/// A graph on its way through some cases.
struct Run<'a, 'l, P> {
    /// The numbers beside their pictures, shape `[cases, columns]`.
    beside: Option<&'a Tensor<2>>,
    blocks: &'a mut Cursor<'l>,
    pass: &'a mut P,
}

impl<P: Pass> Run<'_, '_, P> {
    /// Runs `layers` in order. A rectifier behind a normalisation or a residual block runs in the same pass over memory.
    fn layers(&mut self, layers: &[Layer], input: Signal) -> Signal {
        const RECTIFIER: Layer = Layer::Activation(Activation { function: Function::Relu });
        let (mut signal, mut left) = (input, layers);
        let mut kept = Vec::new();
        while let Some((layer, after)) = left.split_first() {
            let joins = matches!(
                layer,
                Layer::BatchNorm
                    | Layer::GroupNorm(_)
                    | Layer::Residual(_)
                    | Layer::Join(Join { by: Joining::Add })
            );
            let then = if joins && after.first() == Some(&RECTIFIER) { Then::Rectify } else { Then::Keep };
            signal = match layer {
                Layer::Keep => {
                    kept.push(signal.clone());
                    signal
                }
                Layer::Join(Join { by }) => match (kept.pop().expect(CHECKED), by) {
                    (one, Joining::Concat) => Signal::concat(vec![one, signal]),
                    (one, Joining::Add) => one.add(signal, then),
                },
                layer => self.apply(layer, then, signal),
            };
            left = if then == Then::Rectify { &after[1..] } else { after };
        }
        signal
    }

    /// Recursion ends after one level: a checked graph has no layer with branches in a branch.
    fn apply(&mut self, layer: &Layer, then: Then, input: Signal) -> Signal {
        let (beside, blocks, pass) = (self.beside, &mut *self.blocks, &mut *self.pass);
        match layer {
            Layer::Conv2d(conv) => {
                let weight = blocks.kernel();
                let bias = conv.bias.then(|| blocks.row());
                input.by_slice(|slices| conv2d(slices, weight, bias, conv))
            }
            Layer::Conv3d(conv) => {
                let weight = blocks.kernel();
                let bias = conv.bias.then(|| blocks.row());
                Signal::Places(conv3d(input.into_places(), weight, bias, conv))
            }
            Layer::GroupNorm(norm) => {
                let (scale, shift) = (blocks.row(), blocks.row());
                let sets = Sets::Groups(norm.groups as usize);
                let volumes = input.into_places();
                let depth = volumes.depth;
                let normal = normalise(volumes.tall(), scale, shift, sets, then).0;
                Signal::Places(Volumes::from_tall(normal, depth))
            }
            Layer::BatchNorm => {
                let (scale, shift, frozen) = (blocks.row(), blocks.row(), blocks.is_at_frozen());
                let blocks = BatchNorm { scale, shift, mean: blocks.row(), variance: blocks.row(), frozen };
                input.by_slice(|slices| pass.batch_norm(slices, blocks, then))
            }
            Layer::Activation(activation) => match input {
                Signal::Row(row) => Signal::Row(activate(activation.function, row)),
                places @ Signal::Places(_) if activation.function == Function::Relu => {
                    places.by_slice(rectify)
                }
                places @ Signal::Places(_) => places.by_slice(|slices| activate(activation.function, slices)),
            },
            Layer::MaxPool(pool) => input.by_slice(|slices| max_pool(slices, pool)),
            Layer::AveragePool(pool) => input.by_slice(|slices| average_pool(slices, pool)),
            Layer::MaxPool3d(pool) => Signal::Places(max_pool3d(input.into_places(), pool)),
            Layer::AveragePool3d(pool) => Signal::Places(average_pool3d(input.into_places(), pool)),
            Layer::GlobalAveragePool => Signal::Row(input.into_places().means()),
            Layer::Flatten => Signal::Row(input.into_places().tall().flatten(1, 3)),
            Layer::Linear(layer) => Signal::Row(connect(input.into_row(), layer.bias, blocks)),
            Layer::Dropout(dropout) => match input {
                Signal::Row(row) => Signal::Row(drop_values(row, dropout.rate, pass)),
                places @ Signal::Places(_) => {
                    places.by_slice(|slices| drop_values(slices, dropout.rate, pass))
                }
            },
            Layer::Residual(residual) => {
                let main = self.layers(&residual.main, input.clone());
                let shortcut = self.layers(&residual.shortcut, input);
                main.add(shortcut, then)
            }
            Layer::LayerNorm => {
                let (scale, shift) = (blocks.row(), blocks.row());
                match input {
                    places @ Signal::Places(_) => places.by_slice(|slices| layer_norm(slices, scale, shift)),
                    Signal::Row(row) => {
                        let [cases, features] = row.dims();
                        let normal = layer_norm(row.reshape([cases, features, 1, 1]), scale, shift);
                        Signal::Row(normal.reshape([cases, features]))
                    }
                }
            }
            Layer::Concat(concat) => {
                let branch = |branch: &Vec<Layer>| self.layers(branch, input.clone());
                Signal::concat(concat.branches.iter().map(branch).collect())
            }
            Layer::SqueezeExcitation(_) => {
                let volumes = input.into_places();
                let hidden = activation::relu(connect(volumes.means(), true, blocks));
                let gates = activation::sigmoid(connect(hidden, true, blocks));
                Signal::Places(volumes.scaled(gates))
            }
            Layer::TransposedConv2d(conv) => {
                let weight = blocks.kernel();
                let bias = conv.bias.then(|| blocks.row());
                input.by_slice(|slices| transposed_conv2d(slices, weight, bias, conv))
            }
            Layer::TransposedConv3d(conv) => {
                let weight = blocks.kernel();
                let bias = conv.bias.then(|| blocks.row());
                Signal::Places(transposed_conv3d(input.into_places(), weight, bias, conv))
            }
            Layer::Columns => Signal::Row(beside.expect(CHECKED).clone()),
            Layer::Keep | Layer::Join(_) => unreachable!("the walk over the layers has what they lay aside"),
        }
    }
}

/// `row` `[cases, inputs]` times the next matrix, and the next row added where there is a `bias`.
fn connect(row: Tensor<2>, bias: bool, blocks: &mut Cursor) -> Tensor<2> {
    let matrix = blocks.matrix();
    linear(row, matrix, bias.then(|| blocks.row()))
}

fn activate<const D: usize>(function: Function, input: Tensor<D>) -> Tensor<D> {
    match function {
        Function::Relu => activation::relu(input),
        Function::Gelu => activation::gelu(input),
        Function::Silu => activation::silu(input),
        Function::Tanh => activation::tanh(input),
        Function::Sigmoid => activation::sigmoid(input),
        Function::LeakyRelu => activation::leaky_relu(input, LEAK),
    }
}

fn drop_values<const D: usize>(input: Tensor<D>, rate: f64, pass: &mut impl Pass) -> Tensor<D> {
    let shape = input.dims();
    match pass.dropout(rate, shape.iter().product()) {
        Some(factors) => {
            let factors = Tensor::from_data(TensorData::new(factors, shape), &input.device());
            input * factors
        }
        None => input,
    }
}

#[cfg(test)]
mod tests;
