//! The layers of models by name.

use super::{Norm, Stem};
use crate::graph::{
    Activation, Concat, Convolution, Function, GroupNorm, Join, Layer, Linear, Pool, Residual,
    TransposedConvolution,
};

pub(super) fn small_cnn(norm: Option<Norm>, classes: u32) -> Vec<Layer> {
    let mut layers = Vec::new();
    for filters in [32, 64] {
        layers.push(conv(filters, 3, 1, norm.is_none()));
        layers.extend(norm.map(normalise));
        layers.extend([relu(), halve()]);
    }
    layers.extend([Layer::Flatten, linear(128), relu(), linear(classes)]);
    layers
}

pub(super) fn cnn_bn(classes: u32) -> Vec<Layer> {
    let block = |filters| [conv(filters, 3, 1, true), Layer::BatchNorm, relu()];
    let mut layers = Vec::new();
    layers.extend(block(32));
    layers.extend(block(64));
    layers.push(halve());
    layers.extend(block(128));
    layers.extend([halve(), Layer::Flatten, linear(128), relu(), linear(classes)]);
    layers
}

/// The first layers of a residual or dense network: 64 channels.
fn stem_layers(stem: Stem, norm: Norm) -> Vec<Layer> {
    match stem {
        Stem::Small => vec![conv(64, 3, 1, false), normalise(norm), relu()],
        Stem::Imagenet => {
            let pool = Pool { size: 3, stride: Some(2), padding: 1 };
            vec![conv(64, 7, 2, false), normalise(norm), relu(), Layer::MaxPool(pool)]
        }
    }
}

/// Four stages of so many blocks; each stage but the first halves the sides and doubles the width.
pub(super) fn resnet(
    blocks: [u32; 4],
    block: fn(u32, u32, Norm) -> (Vec<Layer>, u32),
    norm: Norm,
    stem: Stem,
    classes: u32,
) -> Vec<Layer> {
    let (mut layers, mut channels) = (stem_layers(stem, norm), 64);
    for (stage, count) in (0..).zip(blocks) {
        for number in 0..count {
            let stride = if stage > 0 && number == 0 { 2 } else { 1 };
            let (main, filters) = block(64 << stage, stride, norm);
            let changes = stride != 1 || channels != filters;
            let shortcut =
                if changes { vec![conv(filters, 1, stride, false), normalise(norm)] } else { vec![] };
            layers.extend([Layer::Residual(Residual { main, shortcut }), relu()]);
            channels = filters;
        }
    }
    layers.extend([Layer::GlobalAveragePool, linear(classes)]);
    layers
}

/// Two 3x3 convolutions. Returns the number of channels, too.
pub(super) fn basic_block(width: u32, stride: u32, norm: Norm) -> (Vec<Layer>, u32) {
    let layers = vec![
        conv(width, 3, stride, false),
        normalise(norm),
        relu(),
        conv(width, 3, 1, false),
        normalise(norm),
    ];
    (layers, width)
}

/// A 3x3 convolution between two of 1x1, the last of which has four times the filters. Returns the number of channels, too.
pub(super) fn bottleneck(width: u32, stride: u32, norm: Norm) -> (Vec<Layer>, u32) {
    let layers = vec![
        conv(width, 1, 1, false),
        normalise(norm),
        relu(),
        conv(width, 3, stride, false),
        normalise(norm),
        relu(),
        conv(4 * width, 1, 1, false),
        normalise(norm),
    ];
    (layers, 4 * width)
}

pub(super) fn densenet121(norm: Norm, stem: Stem, classes: u32) -> Vec<Layer> {
    const GROWTH: u32 = 32;
    let (mut layers, mut channels) = (stem_layers(stem, norm), 64);
    for (block, count) in [6, 12, 24, 16].into_iter().enumerate() {
        if block > 0 {
            channels /= 2;
            let pool = Pool { size: 2, stride: None, padding: 0 };
            layers.extend([normalise(norm), relu(), conv(channels, 1, 1, false), Layer::AveragePool(pool)]);
        }
        for _ in 0..count {
            let grown = vec![
                normalise(norm),
                relu(),
                conv(4 * GROWTH, 1, 1, false),
                normalise(norm),
                relu(),
                conv(GROWTH, 3, 1, false),
            ];
            layers.push(Layer::Concat(Concat { branches: vec![vec![], grown] }));
            channels += GROWTH;
        }
    }
    layers.extend([normalise(norm), relu(), Layer::GlobalAveragePool, linear(classes)]);
    layers
}

/// Down by so many halvings, and up again with what was kept at each size.
pub(super) fn unet2d(halvings: u32, norm: Norm, classes: u32) -> Vec<Layer> {
    let width = |halvings: u32| (32 << halvings).min(512);
    let twice = |filters: u32| {
        let once = || [conv(filters, 3, 1, false), normalise(norm), relu()];
        [once(), once()].concat()
    };
    let mut layers = Vec::new();
    for level in 0..halvings {
        layers.extend(twice(width(level)));
        layers.extend([Layer::Keep, halve()]);
    }
    layers.extend(twice(width(halvings)));
    for level in (0..halvings).rev() {
        let up =
            TransposedConvolution { filters: width(level), kernel: 2, stride: 2, padding: 0, bias: true };
        layers.extend([Layer::TransposedConv2d(up), Layer::Join(Join::default())]);
        layers.extend(twice(width(level)));
    }
    layers.push(conv(classes, 1, 1, true));
    layers
}

/// The same layers over depth as over height and width (Hara, Kataoka and Satoh 2018).
pub(super) fn over_depth(layers: Vec<Layer>) -> Vec<Layer> {
    let deep = |layer| match layer {
        Layer::Conv2d(conv) => Layer::Conv3d(conv),
        Layer::TransposedConv2d(conv) => Layer::TransposedConv3d(conv),
        Layer::MaxPool(pool) => Layer::MaxPool3d(pool),
        Layer::AveragePool(pool) => Layer::AveragePool3d(pool),
        Layer::Residual(Residual { main, shortcut }) => {
            Layer::Residual(Residual { main: over_depth(main), shortcut: over_depth(shortcut) })
        }
        Layer::Concat(Concat { branches }) => {
            Layer::Concat(Concat { branches: branches.into_iter().map(over_depth).collect() })
        }
        other => other,
    };
    layers.into_iter().map(deep).collect()
}

/// The same layers with the numbers beside the picture joined to what the last of them sees.
pub(super) fn with_columns(mut layers: Vec<Layer>) -> Vec<Layer> {
    let join = Layer::Concat(Concat { branches: vec![vec![], vec![Layer::Columns]] });
    layers.insert(layers.len().saturating_sub(1), join);
    layers
}

/// A convolution that keeps the sides at stride 1.
fn conv(filters: u32, kernel: u32, stride: u32, bias: bool) -> Layer {
    Layer::Conv2d(Convolution { filters, kernel, stride, padding: kernel / 2, groups: 1, bias, dilation: 1 })
}

fn normalise(norm: Norm) -> Layer {
    match norm {
        Norm::Group => Layer::GroupNorm(GroupNorm { groups: 8 }),
        Norm::Batch => Layer::BatchNorm,
    }
}

pub(super) fn relu() -> Layer {
    Layer::Activation(Activation { function: Function::Relu })
}

fn halve() -> Layer {
    Layer::MaxPool(Pool { size: 2, stride: None, padding: 0 })
}

pub(super) fn linear(outputs: u32) -> Layer {
    Layer::Linear(Linear { outputs, bias: true })
}
