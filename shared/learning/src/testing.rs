//! What tests of training train.

use burn::tensor::{Device, Tensor};
use consilium_study::graph::{ModelGraph, ModelSpec, Norm, Preset};
use consilium_study::name::SiteName;
use consilium_study::preprocessing::Preprocessing;
use consilium_study::recipe::Training;

use crate::dataset::{Dataset, Pixels};
use crate::interpret::Cases;
use crate::operation::testing::numbers;
use crate::random::{Draws, LocalSeed};
use crate::train::LocalTraining;

/// Pictures of 8x8: class 1 is brighter in its middle, under noise.
pub(crate) fn cases(count: u32, seed: usize) -> Dataset {
    let mut draws = Draws::initial(99, seed);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for case in 0..count {
        let label = (case % 2) as u16;
        for place in 0..64_usize {
            let middle = (2..6).contains(&(place / 8)) && (2..6).contains(&(place % 8));
            let signal = if middle && label == 1 { 0.4 } else { 0.0 };
            pixels.push(signal + 0.5 * draws.unit());
        }
        labels.push(label);
    }
    Dataset::new([1, 8, 8], Pixels::Floats(pixels), labels).unwrap()
}

pub(crate) fn graph(preset: Preset, norm: Option<Norm>) -> ModelGraph {
    ModelSpec::Preset { preset, norm, stem: None }.graph([1, 8, 8], 2).unwrap()
}

pub(crate) fn recipe(text: &str) -> Training {
    toml::from_str(text).unwrap()
}

/// Every kind of layer with a gradient of its own, smooth but for the ReLU of squeeze and excitation: max pooling and
/// ReLU have kinks where differences lie.
pub(crate) const EVERY_LAYER: &str = r#"
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

/// Every kind of layer over depth, and those over slices that depth changes.
pub(crate) const EVERY_LAYER_OF_VOLUMES: &str = r#"
    layers = [
        { kind = "conv3d", filters = 4, kernel = 3, padding = 1, bias = false },
        { kind = "batch-norm" },
        { kind = "activation", function = "tanh" },
        { kind = "residual", main = [
            { kind = "conv3d", filters = 6, kernel = 3, stride = 2, padding = 1, groups = 2 },
            { kind = "group-norm", groups = 3 },
            { kind = "activation", function = "silu" },
          ], shortcut = [ { kind = "conv3d", filters = 6, kernel = 1, stride = 2 } ] },
        { kind = "average-pool3d", size = 2, stride = 1 },
        { kind = "dropout", rate = 0.25 },
        { kind = "concat", branches = [ [], [
            { kind = "layer-norm" },
            { kind = "conv2d", filters = 4, kernel = 2, padding = 1, dilation = 2 },
          ], [ { kind = "conv3d", filters = 2, kernel = 2, padding = 1, dilation = 2 } ] ] },
        { kind = "squeeze-excitation", reduction = 2 },
        { kind = "transposed-conv3d", filters = 3, kernel = 3, stride = 2, padding = 1 },
        { kind = "transposed-conv2d", filters = 3, kernel = 2 },
        { kind = "average-pool", size = 2, padding = 1 },
        { kind = "concat", branches = [
            [ { kind = "global-average-pool" } ],
            [ { kind = "average-pool3d", size = 2, padding = 1 }, { kind = "flatten" }, { kind = "linear", outputs = 5 } ],
          ] },
        { kind = "activation", function = "tanh" },
        { kind = "linear", outputs = 3, bias = false },
    ]"#;

/// Numbers beside a picture in branches of both kinds, as they are and behind layers.
pub(crate) const BESIDE: &str = r#"
    layers = [
        { kind = "conv2d", filters = 4, kernel = 3 },
        { kind = "activation", function = "tanh" },
        { kind = "flatten" },
        { kind = "linear", outputs = 5 },
        { kind = "concat", branches = [ [], [
            { kind = "columns" },
            { kind = "layer-norm" },
            { kind = "linear", outputs = 4 },
            { kind = "activation", function = "tanh" },
          ] ] },
        { kind = "residual", main = [ { kind = "columns" }, { kind = "linear", outputs = 9 } ] },
        { kind = "concat", branches = [ [ { kind = "columns" } ], [] ] },
        { kind = "linear", outputs = 3, bias = false },
    ]"#;

/// Numbers for a graph to read: of so many cases.
pub(crate) fn reads(graph: &ModelGraph, cases: usize, device: &Device) -> Cases {
    let [planes, height, width] = graph.input().map(|side| side as usize);
    let images = Tensor::from_data(numbers(&[cases, planes, height, width], 5), device);
    let beside = || Tensor::from_data(numbers(&[cases, graph.columns()], 6), device);
    Cases { images, beside: (graph.columns() > 0).then(beside) }
}

pub(crate) const SHORT: &str =
    "optimiser = \"adam\"\nlearning_rate = 0.003\nbatch = 8\nepochs = 2\naugment = { flip = true, crop = 1 }";

pub(crate) fn task<'a>(
    graph: &'a ModelGraph,
    recipe: &'a Training,
    site: &str,
    round: u32,
) -> LocalTraining<'a> {
    let preprocessing = Preprocessing::new(0.3, 0.2).unwrap();
    let seed = LocalSeed { study_seed: 5, site: SiteName::new(site).unwrap(), round };
    LocalTraining {
        graph,
        recipe,
        preprocessing,
        budget: recipe.extent(),
        seed,
        rounds: 4,
        covers: 1,
        proximal_weight: 0.0,
        correction: None,
    }
}
