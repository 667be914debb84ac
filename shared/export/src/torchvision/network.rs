//! The networks of torchvision: what layers they have, and what it calls them.

use consilium_study::graph::{
    Activation, Concat, Convolution, Function, Layer, Linear, ModelGraph, ParameterSpec, Pool, Residual, Role,
};

use super::NotInTorchvision;

pub(super) const RECTIFIER: Layer = Layer::Activation(Activation { function: Function::Relu });

/// A network of torchvision.
pub(super) struct Network {
    pub(super) name: &'static str,
    body: Body,
}

/// What follows the first layers.
enum Body {
    /// Four stages of so many blocks. A block has two convolutions, or with bottlenecks three, of which the middle one is a
    /// quarter as wide as its end.
    Residual { has_bottlenecks: bool, stages: [usize; 4] },
    /// Four blocks of so many layers, each of which adds 32 channels.
    Dense([usize; 4]),
}

pub(super) const NETWORKS: [Network; 8] = [
    Network { name: "resnet18", body: Body::Residual { has_bottlenecks: false, stages: [2, 2, 2, 2] } },
    Network { name: "resnet34", body: Body::Residual { has_bottlenecks: false, stages: [3, 4, 6, 3] } },
    Network { name: "resnet50", body: Body::Residual { has_bottlenecks: true, stages: [3, 4, 6, 3] } },
    Network { name: "resnet101", body: Body::Residual { has_bottlenecks: true, stages: [3, 4, 23, 3] } },
    Network { name: "resnet152", body: Body::Residual { has_bottlenecks: true, stages: [3, 8, 36, 3] } },
    Network { name: "densenet121", body: Body::Dense([6, 12, 24, 16]) },
    Network { name: "densenet169", body: Body::Dense([6, 12, 32, 32]) },
    Network { name: "densenet201", body: Body::Dense([6, 12, 48, 32]) },
];

/// Channels that a layer of a DenseNet adds.
const GROWTH: u32 = 32;

/// A block of a stage of a ResNet.
struct Block {
    /// Number of the stage, from 1.
    stage: usize,
    /// Number of the block in it, from 0.
    number: usize,
    stride: u32,
    width: u32,
    /// Whether the way round has a convolution of its own, because the block changes the shape.
    has_shortcut: bool,
}

impl Network {
    /// The network that a graph is, whatever the size of its first convolution and whether a pooling follows it.
    pub(super) fn of(graph: &ModelGraph) -> Result<&'static Self, NotInTorchvision> {
        let (network, end) = Self::below(graph)?;
        let layers = graph.layers();
        let head = Layer::Linear(Linear { outputs: graph.classes() as u32, bias: true });
        match layers.get(end) {
            Some(layer) if *layer == head && end + 1 == layers.len() => Ok(network),
            Some(layer) if *layer == head => Err(unnamed(layers, end + 1)),
            _ => Err(unnamed(layers, end)),
        }
    }

    /// The network that a graph begins with, up to its global average pool, and the number of layers until there. What the
    /// graph does with the features then is its own affair.
    pub(super) fn below(graph: &ModelGraph) -> Result<(&'static Self, usize), NotInTorchvision> {
        let layers = graph.layers();
        let is_first = |layer: &Layer| {
            matches!(
                layer,
                Layer::Conv2d(Convolution { filters: 64, groups: 1, bias: false, dilation: 1, .. })
            )
        };
        let is_norm = |layer: &Layer| matches!(layer, Layer::BatchNorm | Layer::GroupNorm(_));
        let is_rectifier = |layer: &Layer| *layer == RECTIFIER;
        let stem: [&dyn Fn(&Layer) -> bool; 3] = [&is_first, &is_norm, &is_rectifier];
        for (index, fits) in stem.iter().enumerate() {
            if !layers.get(index).is_some_and(fits) {
                return Err(unnamed(layers, index));
            }
        }
        let stem = 3 + usize::from(matches!(layers.get(3), Some(Layer::MaxPool(_))));
        let mut furthest = 0;
        for network in &NETWORKS {
            let wanted = network.features(&layers[1]);
            let alike = wanted.iter().zip(&layers[stem..]).take_while(|(wanted, got)| wanted == got).count();
            if alike == wanted.len() {
                return Ok((network, stem + alike));
            }
            furthest = furthest.max(alike);
        }
        Err(unnamed(layers, stem + furthest))
    }

    /// The layers between the stem and the scores. DenseNets of torchvision have batch normalisation, whatever the stem has.
    pub(super) fn features(&self, norm: &Layer) -> Vec<Layer> {
        let mut layers = match self.body {
            Body::Residual { has_bottlenecks, stages } => {
                let blocks = blocks(has_bottlenecks, stages);
                blocks.iter().flat_map(|block| [block.layer(has_bottlenecks, norm), RECTIFIER]).collect()
            }
            Body::Dense(blocks) => dense_layers(blocks),
        };
        layers.push(Layer::GlobalAveragePool);
        layers
    }

    /// The name of each block of a graph that begins with this network, in its order: up to the global average pool, and of
    /// the scores where they are the network's, too.
    pub(super) fn names(&self, graph: &ModelGraph) -> Vec<String> {
        let head = Self::of(graph).is_ok().then(|| self.head().to_owned());
        let mut modules = self.modules().into_iter().chain(head);
        let mut module = String::new();
        let name = |block: &ParameterSpec| {
            let tensor = match block.role() {
                Role::Weight | Role::Scale => {
                    module = modules.next()?;
                    "weight"
                }
                Role::Bias | Role::Shift => "bias",
                Role::RunningMean => "running_mean",
                Role::RunningVariance => "running_var",
            };
            Some(format!("{module}.{tensor}"))
        };
        graph.parameters().iter().map_while(name).collect()
    }

    /// The module that scores the classes.
    pub(super) const fn head(&self) -> &'static str {
        match self.body {
            Body::Residual { .. } => "fc",
            Body::Dense(_) => "classifier",
        }
    }

    /// The modules that hold numbers before that, in the order of the graph.
    fn modules(&self) -> Vec<String> {
        match self.body {
            Body::Residual { has_bottlenecks, stages } => residual_modules(has_bottlenecks, stages),
            Body::Dense(blocks) => dense_modules(blocks),
        }
    }
}

/// Where a graph stops being a network.
fn unnamed(layers: &[Layer], index: usize) -> NotInTorchvision {
    match layers.get(index) {
        Some(layer) => NotInTorchvision::Layer { index, kind: layer.kind() },
        None => NotInTorchvision::Ends { layers: layers.len() },
    }
}

fn blocks(has_bottlenecks: bool, stages: [usize; 4]) -> Vec<Block> {
    let expansion = if has_bottlenecks { 4 } else { 1 };
    let mut channels = 64;
    let mut blocks = Vec::new();
    for ((stage, count), width) in (1..).zip(stages).zip([64, 128, 256, 512]) {
        for number in 0..count {
            let stride = if number == 0 && stage > 1 { 2 } else { 1 };
            let has_shortcut = stride != 1 || channels != width * expansion;
            blocks.push(Block { stage, number, stride, width, has_shortcut });
            channels = width * expansion;
        }
    }
    blocks
}

impl Block {
    fn layer(&self, has_bottlenecks: bool, norm: &Layer) -> Layer {
        let &Self { stride, width, has_shortcut, .. } = self;
        let convolutions = if has_bottlenecks {
            vec![conv(width, 1, 1), conv(width, 3, stride), conv(4 * width, 1, 1)]
        } else {
            vec![conv(width, 3, stride), conv(width, 3, 1)]
        };
        let steps = convolutions.into_iter().map(|conv| vec![conv, norm.clone()]).collect::<Vec<_>>();
        let main = steps.join(&RECTIFIER);
        let end = if has_bottlenecks { 4 * width } else { width };
        let shortcut = if has_shortcut { vec![conv(end, 1, stride), norm.clone()] } else { vec![] };
        Layer::Residual(Residual { main, shortcut })
    }
}

fn residual_modules(has_bottlenecks: bool, stages: [usize; 4]) -> Vec<String> {
    let mut modules = vec!["conv1".to_owned(), "bn1".to_owned()];
    for Block { stage, number, has_shortcut, .. } in blocks(has_bottlenecks, stages) {
        let block = format!("layer{stage}.{number}");
        for step in 1..=if has_bottlenecks { 3 } else { 2 } {
            modules.extend([format!("{block}.conv{step}"), format!("{block}.bn{step}")]);
        }
        if has_shortcut {
            modules.extend([format!("{block}.downsample.0"), format!("{block}.downsample.1")]);
        }
    }
    modules
}

fn dense_layers(blocks: [usize; 4]) -> Vec<Layer> {
    let (mut layers, mut channels) = (Vec::new(), 64);
    for (block, count) in blocks.into_iter().enumerate() {
        if block > 0 {
            channels /= 2;
            let pool = Pool { size: 2, stride: None, padding: 0 };
            layers.extend([Layer::BatchNorm, RECTIFIER, conv(channels, 1, 1), Layer::AveragePool(pool)]);
        }
        for _ in 0..count {
            let narrow = [Layer::BatchNorm, RECTIFIER, conv(4 * GROWTH, 1, 1)];
            let grown = [Layer::BatchNorm, RECTIFIER, conv(GROWTH, 3, 1)];
            let grown = narrow.into_iter().chain(grown).collect();
            layers.push(Layer::Concat(Concat { branches: vec![vec![], grown] }));
            channels += GROWTH;
        }
    }
    layers.extend([Layer::BatchNorm, RECTIFIER]);
    layers
}

fn dense_modules(blocks: [usize; 4]) -> Vec<String> {
    let mut modules = vec!["features.conv0".to_owned(), "features.norm0".to_owned()];
    for (block, count) in (1..).zip(blocks) {
        if block > 1 {
            let transition = format!("features.transition{}", block - 1);
            modules.extend([format!("{transition}.norm"), format!("{transition}.conv")]);
        }
        for layer in 1..=count {
            let layer = format!("features.denseblock{block}.denselayer{layer}");
            modules.extend(["norm1", "conv1", "norm2", "conv2"].map(|step| format!("{layer}.{step}")));
        }
    }
    modules.push("features.norm5".to_owned());
    modules
}

/// A convolution that keeps the sides at stride 1.
fn conv(filters: u32, kernel: u32, stride: u32) -> Layer {
    Layer::Conv2d(Convolution {
        filters,
        kernel,
        stride,
        padding: kernel / 2,
        groups: 1,
        bias: false,
        dilation: 1,
    })
}
