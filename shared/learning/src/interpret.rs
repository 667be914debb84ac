//! A graph run on tensors.
//!
//! Training and scoring are two types, not a switch: the layers that differ (batch normalisation
//! and dropout) ask the [`Pass`] they run in, and neither pass can turn into the other.

use burn::tensor::{Tensor, TensorData, activation};
use consilium_study::graph::{Activation, Function, Layer, ModelGraph, ParameterSpec, Role};

use crate::operation::convolution::conv2d;
use crate::operation::layer_norm::layer_norm;
use crate::operation::normalisation::{Moments, Sets, Then, normalise, normalise_by};
use crate::operation::pooling::{average_pool, max_pool};
use crate::operation::rectifier::{rectify, rectify_sum};
use crate::operation::transposed::transposed_conv2d;
use crate::random::{Draws, LocalSeed, Purpose};
use crate::tensors::{Cursor, Leaves, values};

/// Slope of a leaky rectifier below zero, PyTorch's.
const LEAK: f64 = 0.01;
/// Share of the last batch in the running statistics.
const MOMENTUM: f32 = 0.1;

const CHECKED: &str = "a checked graph gives each layer the kind of input it needs";

/// Scores `[cases, classes]`, before softmax, of `images` `[cases, channels, height, width]`.
pub(crate) fn logits(
    graph: &ModelGraph,
    leaves: &Leaves,
    images: Tensor<4>,
    pass: &mut impl Pass,
) -> Tensor<2> {
    let signal = run(graph.layers(), Signal::Image(images), &mut leaves.cursor(), pass);
    signal.into_row()
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
        let moments = Moments { means: values(&mean.into_data()), variances: values(&variance.into_data()) };
        normalise_by(input, scale, shift, &moments, then)
    }
}

/// Statistics of the batch, values dropped. Where the statistics are frozen, a batch is normalised by them as in scoring.
pub(crate) struct TrainingPass<'a> {
    seed: &'a LocalSeed,
    step: u64,
    dropouts: u32,
    /// Of the batch normalisations whose statistics move.
    moments: Vec<Moments>,
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
    pub(crate) fn update_statistics(&self, graph: &ModelGraph, model: &mut [f32]) {
        let moving = |block: &&ParameterSpec| !block.is_frozen();
        let of = |role| graph.parameters().iter().filter(moving).filter(move |block| block.role() == role);
        let blocks = of(Role::RunningMean).zip(of(Role::RunningVariance));
        for ((mean, variance), (moments, &count)) in
            blocks.zip(self.moments.iter().zip(&self.values_per_channel))
        {
            let unbiased = if count > 1 { count as f32 / (count - 1) as f32 } else { 1.0 };
            for (kept, new) in model[mean.range()].iter_mut().zip(&moments.means) {
                *kept += MOMENTUM * (new - *kept);
            }
            for (kept, new) in model[variance.range()].iter_mut().zip(&moments.variances) {
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
    while let Some((layer, after)) = left.split_first() {
        let joins = matches!(layer, Layer::BatchNorm | Layer::GroupNorm(_) | Layer::Residual(_));
        let then = if joins && after.first() == Some(&RECTIFIER) { Then::Rectify } else { Then::Keep };
        signal = apply(layer, then, signal, blocks, pass);
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
mod tests {
    use super::*;
    use crate::initial::initial;
    use crate::loss::{Targets, loss};
    use crate::operation::testing::numbers;
    use burn::tensor::Device;
    use consilium_study::graph::{ModelSection, Treatment};
    use consilium_study::name::SiteName;
    use consilium_study::recipe::Training;
    use consilium_study::task::Label;

    /// Every kind of layer with a gradient of its own, smooth but for the ReLU of squeeze and excitation: max pooling and
    /// ReLU have kinks where differences lie.
    const EVERY_LAYER: &str = r#"
        layers = [
            { kind = "conv2d", filters = 4, kernel = 3, padding = 1, bias = false },
            { kind = "batch-norm" },
            { kind = "activation", function = "tanh" },
            { kind = "residual", main = [
                { kind = "conv2d", filters = 6, kernel = 3, stride = 2, padding = 1, groups = 2 },
                { kind = "group-norm", groups = 3 },
                { kind = "activation", function = "silu" },
              ], shortcut = [ { kind = "conv2d", filters = 6, kernel = 1, stride = 2 } ] },
            { kind = "average-pool", size = 2, stride = 1 },
            { kind = "dropout", rate = 0.25 },
            { kind = "residual", main = [ { kind = "activation", function = "gelu" } ] },
            { kind = "concat", branches = [ [], [
                { kind = "layer-norm" },
                { kind = "conv2d", filters = 6, kernel = 2, padding = 1, dilation = 2, groups = 6 },
                { kind = "activation", function = "sigmoid" },
              ], [ { kind = "conv2d", filters = 2, kernel = 2, padding = 1, dilation = 2 } ] ] },
            { kind = "squeeze-excitation", reduction = 2 },
            { kind = "transposed-conv2d", filters = 3, kernel = 3, stride = 2, padding = 1 },
            { kind = "average-pool", size = 2, padding = 1 },
            { kind = "flatten" },
            { kind = "linear", outputs = 5 },
            { kind = "layer-norm" },
            { kind = "activation", function = "tanh" },
            { kind = "linear", outputs = 3, bias = false },
        ]"#;

    /// What PyTorch gives in [`layers_agree_with_pytorch`].
    const SCORES: [f32; 6] = [0.044_454, 0.876_137, -0.020_292, 0.104_679, 0.895_995, -0.041_103];
    /// Norms there of the gradient of each block.
    const NORMS: [f32; 18] = [
        0.267_753_8,
        0.081_587_95,
        0.136_500_2,
        0.072_181_02,
        0.053_907_89,
        0.022_559_02,
        0.021_405_9,
        0.009_697_571,
        0.030_290_15,
        0.040_480_8,
        0.474_530_2,
        0.371_305_9,
        0.730_037_3,
        0.271_733_8,
        0.385_092_6,
        0.540_645_1,
        0.604_307_4,
        0.664_333_1,
    ];

    #[test]
    fn gradients_are_slopes() {
        let section: ModelSection = toml::from_str(EVERY_LAYER).unwrap();
        slopes(&section.graph([2, 6, 6], 3).unwrap());
    }

    /// Frozen statistics are constants, whether scale and shift are trained or not; what lies below them is trained, or is
    /// frozen itself.
    #[test]
    fn gradients_are_slopes_around_frozen_layers() {
        for frozen in [
            &["layers.1"][..],
            &["layers.1.running_mean", "layers.1.running_variance"],
            &["conv2d", "batch-norm", "layers.3", "layers.8.squeeze"],
        ] {
            let names = frozen.iter().map(|&name| name.to_owned()).collect();
            let section: ModelSection = toml::from_str(EVERY_LAYER).unwrap();
            let graph = ModelSection { frozen: Some(names), ..section }.graph([2, 6, 6], 3).unwrap();
            assert!(graph.treated(Treatment::Frozen).count() >= frozen.len());
            slopes(&graph);
        }
    }

    fn slopes(graph: &ModelGraph) {
        let mut model = initial(graph, 3);
        let statistics = graph.parameters().iter().filter(|block| block.kind() == "batch-norm");
        for (value, place) in statistics.flat_map(ParameterSpec::range).enumerate() {
            model[place] = 0.5 + 0.01 * (value % 7) as f32;
        }
        let model = model;
        let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
        let targets = Targets { labels: [0, 2, 1, 1].map(Label::Class).to_vec(), mixed: None };
        let recipe: Training = toml::from_str(
            "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 4\nepochs = 1\nclass_weights = [1.0, 2.0, 0.5]",
        )
        .unwrap();
        let loss_of = |leaves: &Leaves, device: &Device| {
            let images = Tensor::from_data(numbers(&[4, 2, 6, 6], 5), device);
            let mut pass = TrainingPass::new(&seed, 7);
            loss(logits(graph, leaves, images, &mut pass), &targets, &recipe)
        };
        let leaves = Leaves::tracked(graph, &model);
        let mut gradient = vec![9.0; graph.len()];
        let tracked = loss_of(&leaves, &Device::flex().autodiff());
        leaves.gradient(graph, tracked.backward(), &mut gradient);

        let at = |model: &[f32]| {
            let value: f32 = loss_of(&Leaves::constant(graph, model), &Device::flex()).into_scalar();
            f64::from(value)
        };
        for block in graph.parameters() {
            for index in block.range().step_by(1 + block.len() / 4) {
                let slope = f64::from(gradient[index]);
                if !block.is_trainable() {
                    assert!(slope == 0.0, "{}", block.name());
                    continue;
                }
                let moved = |by: f32| {
                    let mut moved = model.clone();
                    moved[index] += by;
                    at(&moved)
                };
                let difference = (moved(0.01) - moved(-0.01)) / 0.02;
                assert!(
                    (difference - slope).abs() < 2e-3 + 0.02 * slope.abs(),
                    "{}: {difference} {slope}",
                    block.name()
                );
            }
        }
    }

    /// Scores and gradients of PyTorch 2.15 in f64 for the same numbers.
    #[test]
    fn layers_agree_with_pytorch() {
        let section: ModelSection = toml::from_str(
            r#"layers = [
                { kind = "conv2d", filters = 8, kernel = 3, padding = 2, dilation = 2, groups = 4 },
                { kind = "layer-norm" },
                { kind = "activation", function = "leaky-relu" },
                { kind = "max-pool", size = 3, stride = 2, padding = 1 },
                { kind = "concat", branches = [ [], [
                    { kind = "conv2d", filters = 4, kernel = 1 },
                    { kind = "activation", function = "sigmoid" },
                  ] ] },
                { kind = "squeeze-excitation", reduction = 4 },
                { kind = "transposed-conv2d", filters = 6, kernel = 3, stride = 2, padding = 1 },
                { kind = "average-pool", size = 3, stride = 2, padding = 1 },
                { kind = "flatten" },
                { kind = "linear", outputs = 10 },
                { kind = "layer-norm" },
                { kind = "activation", function = "relu" },
                { kind = "linear", outputs = 3 },
            ]"#,
        )
        .unwrap();
        let graph = section.graph([4, 9, 7], 3).unwrap();
        let pattern = |count: usize, factor: usize, modulus: usize, start: usize| -> Vec<f32> {
            let value = |at| ((at * factor + start) % modulus) as f64 / modulus as f64 - 0.5;
            (0..count).map(|at| value(at) as f32).collect()
        };
        let model = pattern(graph.len(), 7919, 2003, 13);
        let images: Vec<f32> = pattern(2 * 4 * 9 * 7, 104_729, 4001, 7).iter().map(|x| 4.0 * x).collect();
        let images = TensorData::new(images, [2, 4, 9, 7]);
        let leaves = Leaves::tracked(&graph, &model);
        let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
        let input = Tensor::from_data(images, &Device::flex().autodiff());
        let scores = logits(&graph, &leaves, input, &mut TrainingPass::new(&seed, 0));
        for (score, want) in values(&scores.clone().into_data()).iter().zip(SCORES) {
            assert!((score - want).abs() < 2e-5, "{score} {want}");
        }
        let mut gradient = vec![0.0; graph.len()];
        let targets = Targets { labels: [0, 2].map(Label::Class).to_vec(), mixed: None };
        let recipe = "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 2\nepochs = 1";
        let loss = loss(scores, &targets, &toml::from_str(recipe).unwrap());
        leaves.gradient(&graph, loss.backward(), &mut gradient);
        assert_eq!(graph.parameters().len(), NORMS.len());
        for (block, want) in graph.parameters().iter().zip(NORMS) {
            let norm = gradient[block.range()].iter().map(|slope| slope * slope).sum::<f32>().sqrt();
            assert!((norm / want - 1.0).abs() < 1e-4, "{}: {norm} {want}", block.name());
        }
    }

    #[test]
    fn scoring_drops_nothing_and_uses_running_statistics() {
        let section: ModelSection = toml::from_str(
            r#"layers = [{ kind = "batch-norm" }, { kind = "dropout", rate = 0.9 }, { kind = "flatten" },
                { kind = "linear", outputs = 2, bias = false }]"#,
        )
        .unwrap();
        let graph = section.graph([1, 1, 2], 2).unwrap();
        // Scale 2, shift 1, running mean 3, running variance 4; the linear layer is the identity.
        let mut model = vec![2.0, 1.0, 3.0, 4.0, 1.0, 0.0, 0.0, 1.0];
        let images = || TensorData::new(vec![3.0_f32, 5.0], [1, 1, 1, 2]);
        let leaves = Leaves::constant(&graph, &model);
        let scores = logits(&graph, &leaves, Tensor::from_data(images(), &Device::flex()), &mut ScoringPass);
        let scores: Vec<f32> = values(&scores.into_data());
        assert!((scores[0] - 1.0).abs() < 1e-4 && (scores[1] - 3.0).abs() < 1e-4, "{scores:?}");

        // Training: batch mean 4 and unbiased variance 2 move the statistics by a tenth.
        let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
        let mut pass = TrainingPass::new(&seed, 0);
        let _ = logits(&graph, &leaves, Tensor::from_data(images(), &Device::flex()), &mut pass);
        pass.update_statistics(&graph, &mut model);
        assert!((model[2] - 3.1).abs() < 1e-6 && (model[3] - 3.8).abs() < 1e-6, "{model:?}");
    }

    #[test]
    fn frozen_statistics_are_used_as_in_scoring_and_stay() {
        let section: ModelSection = toml::from_str(
            r#"layers = [{ kind = "batch-norm" }, { kind = "batch-norm" }, { kind = "flatten" },
                { kind = "linear", outputs = 2, bias = false }]
            frozen = ["layers.0"]"#,
        )
        .unwrap();
        let graph = section.graph([1, 1, 2], 2).unwrap();
        let model = vec![2.0, 1.0, 3.0, 4.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
        let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
        let mut pass = TrainingPass::new(&seed, 0);
        let images = Tensor::from_data(TensorData::new(vec![3.0_f32, 5.0], [1, 1, 1, 2]), &Device::flex());
        let _ = logits(&graph, &Leaves::constant(&graph, &model), images, &mut pass);
        let mut after = model.clone();
        pass.update_statistics(&graph, &mut after);
        assert_eq!(after[..4], model[..4]);
        // 3 and 5 become 1 and 3 by the frozen ones: mean 2 and unbiased variance 2 for the second.
        assert!((after[6] - 0.2).abs() < 1e-5 && (after[7] - 1.1).abs() < 1e-5, "{after:?}");
    }

    #[test]
    fn dropout_keeps_the_mean_and_depends_on_its_step() {
        let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
        let factors = |step| TrainingPass::new(&seed, step).dropout(0.25, 10_000).unwrap();
        assert_eq!(factors(1), factors(1));
        assert_ne!(factors(1), factors(2));
        let mean = factors(1).iter().sum::<f32>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        let mut pass = TrainingPass::new(&seed, 1);
        assert_ne!(pass.dropout(0.25, 100), pass.dropout(0.25, 100), "two layers drop differently");
    }
}
