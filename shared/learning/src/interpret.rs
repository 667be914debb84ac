//! A graph run on tensors.
//!
//! Training and scoring are two types, not a switch: the layers that differ (batch normalisation
//! and dropout) ask the [`Pass`] they run in, and neither pass can turn into the other.

use burn::tensor::{Tensor, TensorData, activation};
use consilium_study::graph::{Activation, Function, Join, Joining, Layer, ModelGraph, ParameterSpec, Role};

use crate::operation::convolution::conv2d;
use crate::operation::layer_norm::layer_norm;
use crate::operation::normalisation::{Measured, Moments, Sets, Then, normalise, normalise_by};
use crate::operation::pooling::{average_pool, max_pool};
use crate::operation::rectifier::{rectify, rectify_sum};
use crate::operation::transposed::transposed_conv2d;
use crate::random::{Draws, LocalSeed, Purpose};
use crate::tensors::{Cursor, Leaves};

/// Slope of a leaky rectifier below zero, PyTorch's.
const LEAK: f64 = 0.01;
/// Share of the last batch in the running statistics.
const MOMENTUM: f32 = 0.1;

const CHECKED: &str = "a checked graph gives each layer the kind of input it needs";

/// Scores `[cases, classes]`, before softmax, of `images` `[cases, channels, height, width]`. Where pixels are scored, those
/// of a case follow each other, row after row: `[cases * height * width, classes]`.
pub(crate) fn logits(
    graph: &ModelGraph,
    leaves: &Leaves,
    images: Tensor<4>,
    pass: &mut impl Pass,
) -> Tensor<2> {
    match run(graph.layers(), Signal::Image(images), &mut leaves.cursor(), pass) {
        Signal::Row(scores) => scores,
        Signal::Image(scores) => {
            let [cases, classes, height, width] = scores.dims();
            scores.permute([0, 2, 3, 1]).reshape([cases * height * width, classes])
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
    pub(crate) fn update_statistics(self, graph: &ModelGraph, model: &mut [f32]) {
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

/// What flows between two layers: `[cases, channels, height, width]` or `[cases, values]`.
#[derive(Clone)]
enum Signal {
    Image(Tensor<4>),
    Row(Tensor<2>),
}

impl Signal {
    fn into_image(self) -> Tensor<4> {
        match self {
            Self::Image(image) => image,
            Self::Row(_) => unreachable!("{CHECKED}"),
        }
    }

    fn into_row(self) -> Tensor<2> {
        match self {
            Self::Row(row) => row,
            Self::Image(_) => unreachable!("{CHECKED}"),
        }
    }

    fn add(self, other: Self, then: Then) -> Self {
        match (self, other, then) {
            (Self::Image(one), Self::Image(other), Then::Keep) => Self::Image(one + other),
            (Self::Image(one), Self::Image(other), Then::Rectify) => Self::Image(rectify_sum(one, other)),
            (Self::Row(one), Self::Row(other), Then::Keep) => Self::Row(one + other),
            (Self::Row(one), Self::Row(other), Then::Rectify) => Self::Row(activation::relu(one + other)),
            _ => unreachable!("{CHECKED}"),
        }
    }

    /// Joins signals of one kind along their channels.
    fn concat(parts: Vec<Self>) -> Self {
        if matches!(parts.first(), Some(Self::Image(_))) {
            Self::Image(Tensor::cat(parts.into_iter().map(Self::into_image).collect(), 1))
        } else {
            Self::Row(Tensor::cat(parts.into_iter().map(Self::into_row).collect(), 1))
        }
    }
}

/// Runs `layers` in order. A rectifier behind a normalisation or a residual block runs in the same pass over memory.
fn run(layers: &[Layer], input: Signal, blocks: &mut Cursor, pass: &mut impl Pass) -> Signal {
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
            layer => apply(layer, then, signal, blocks, pass),
        };
        left = if then == Then::Rectify { &after[1..] } else { after };
    }
    signal
}

/// Recursion ends after one level: a checked graph has no layer with branches in a branch.
fn apply(layer: &Layer, then: Then, input: Signal, blocks: &mut Cursor, pass: &mut impl Pass) -> Signal {
    match layer {
        Layer::Conv2d(conv) => {
            let weight = blocks.kernel();
            let bias = conv.bias.then(|| blocks.row());
            Signal::Image(conv2d(input.into_image(), weight, bias, conv))
        }
        Layer::GroupNorm(norm) => {
            let (scale, shift) = (blocks.row(), blocks.row());
            let sets = Sets::Groups(norm.groups as usize);
            Signal::Image(normalise(input.into_image(), scale, shift, sets, then).0)
        }
        Layer::BatchNorm => {
            let (scale, shift, frozen) = (blocks.row(), blocks.row(), blocks.is_at_frozen());
            let blocks = BatchNorm { scale, shift, mean: blocks.row(), variance: blocks.row(), frozen };
            Signal::Image(pass.batch_norm(input.into_image(), blocks, then))
        }
        Layer::Activation(activation) => match input {
            Signal::Image(image) if activation.function == Function::Relu => Signal::Image(rectify(image)),
            Signal::Image(image) => Signal::Image(activate(activation.function, image)),
            Signal::Row(row) => Signal::Row(activate(activation.function, row)),
        },
        Layer::MaxPool(pool) => Signal::Image(max_pool(input.into_image(), pool)),
        Layer::AveragePool(pool) => Signal::Image(average_pool(input.into_image(), pool)),
        Layer::GlobalAveragePool => Signal::Row(means(input.into_image())),
        Layer::Flatten => Signal::Row(input.into_image().flatten(1, 3)),
        Layer::Linear(linear) => Signal::Row(connect(input.into_row(), linear.bias, blocks)),
        Layer::Dropout(dropout) => match input {
            Signal::Image(image) => Signal::Image(drop_values(image, dropout.rate, pass)),
            Signal::Row(row) => Signal::Row(drop_values(row, dropout.rate, pass)),
        },
        Layer::Residual(residual) => {
            let main = run(&residual.main, input.clone(), blocks, pass);
            let shortcut = run(&residual.shortcut, input, blocks, pass);
            main.add(shortcut, then)
        }
        Layer::LayerNorm => {
            let (scale, shift) = (blocks.row(), blocks.row());
            match input {
                Signal::Image(image) => Signal::Image(layer_norm(image, scale, shift)),
                Signal::Row(row) => {
                    let [cases, features] = row.dims();
                    let normal = layer_norm(row.reshape([cases, features, 1, 1]), scale, shift);
                    Signal::Row(normal.reshape([cases, features]))
                }
            }
        }
        Layer::Concat(concat) => {
            let branch = |branch: &Vec<Layer>| run(branch, input.clone(), blocks, pass);
            Signal::concat(concat.branches.iter().map(branch).collect())
        }
        Layer::SqueezeExcitation(_) => {
            let image = input.into_image();
            let [cases, channels, ..] = image.dims();
            let hidden = activation::relu(connect(means(image.clone()), true, blocks));
            let gates = activation::sigmoid(connect(hidden, true, blocks));
            Signal::Image(image * gates.reshape([cases, channels, 1, 1]))
        }
        Layer::TransposedConv2d(conv) => {
            let weight = blocks.kernel();
            let bias = conv.bias.then(|| blocks.row());
            Signal::Image(transposed_conv2d(input.into_image(), weight, bias, conv))
        }
        Layer::Keep | Layer::Join(_) => unreachable!("the walk over the layers has what they lay aside"),
    }
}

/// Mean of each channel of `image` `[cases, channels, height, width]`, shape `[cases, channels]`.
fn means(image: Tensor<4>) -> Tensor<2> {
    let [cases, channels, height, width] = image.dims();
    image.reshape([cases, channels, height * width]).mean_dim(2).reshape([cases, channels])
}

/// `row` `[cases, inputs]` times the next matrix, and the next row added where there is a `bias`.
fn connect(row: Tensor<2>, bias: bool, blocks: &mut Cursor) -> Tensor<2> {
    let sums = row.matmul(blocks.matrix().transpose());
    if bias { sums + blocks.row().unsqueeze() } else { sums }
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
