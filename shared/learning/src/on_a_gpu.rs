//! A GPU against the processor: every operation with its gradients, a graph of every layer, and training.
//!
//! Runs on the first GPU, else on Vulkan's software device, and is skipped where there is neither.

use burn::tensor::{Device as Place, Tensor};
use consilium_study::graph::{
    CaseShape, Convolution, ModelGraph, ModelSection, Norm, Pool, Preset, TransposedConvolution,
};
use consilium_study::name::SiteName;
use consilium_study::recipe::Training;
use consilium_study::task::Label;

use crate::device::{Device, DeviceChoice, DeviceError, gpus};
use crate::initial::initial;
use crate::interpret::{TrainingPass, logits};
use crate::loss::{Targets, loss};
use crate::operation::convolution::conv2d;
use crate::operation::layer_norm::layer_norm;
use crate::operation::normalisation::{Sets, Then, normalise, normalise_by};
use crate::operation::pooling::{average_pool, max_pool};
use crate::operation::rectifier::{rectify, rectify_sum};
use crate::operation::testing::{assert_close, numbers, values_of, with_gradients_on};
use crate::operation::transposed::transposed_conv2d;
use crate::random::LocalSeed;
use crate::tensors::{Blocks, Leaves};
use crate::testing::{BESIDE, EVERY_LAYER, EVERY_LAYER_OF_VOLUMES, cases, graph, reads, recipe, task};
use crate::train::{Progress, TrainError, train, train_on};

fn device() -> Option<Device> {
    let choices = [DeviceChoice::Gpu(0), DeviceChoice::Software];
    let found = choices.into_iter().find_map(|choice| Device::probe(choice).ok());
    match &found {
        Some(device) => println!("on {}", device.name()),
        None => println!("SKIPPED: no Vulkan device"),
    }
    found
}

/// Result and gradients there are those here.
#[track_caller]
fn same<const D: usize>(
    device: &Device,
    shapes: ([usize; 4], [usize; D], usize),
    apply: impl Fn(Tensor<4>, Tensor<D>, Tensor<1>) -> Tensor<4>,
) {
    let there = with_gradients_on(&device.tracked(), shapes, &apply);
    let here = with_gradients_on(&Place::flex().autodiff(), shapes, &apply);
    for (there, here) in there.iter().zip(&here) {
        assert_close(there, here, 2e-5);
    }
}

#[test]
fn operations_give_what_they_give_on_the_processor() {
    let Some(device) = device() else { return };
    for (groups, filters, kernel, stride, padding, dilation) in
        [(1, 6, 3, 1, 1, 1), (1, 3, 3, 2, 1, 1), (2, 4, 3, 1, 1, 1), (4, 8, 3, 1, 1, 1), (1, 5, 2, 1, 2, 2)]
    {
        let layer = Convolution { filters, kernel, stride, padding, groups, bias: true, dilation };
        let (filters, kernel) = (filters as usize, kernel as usize);
        let shapes = ([3, 4, 9, 8], [filters, 4 / groups as usize, kernel, kernel], filters);
        same(&device, shapes, |x, w, b| conv2d(x, w, Some(b), &layer));
    }
    // As many channels as Winograd's transforms take on the processor.
    let wide =
        Convolution { filters: 32, kernel: 3, stride: 1, padding: 1, groups: 1, bias: true, dilation: 1 };
    same(&device, ([2, 32, 8, 8], [32, 32, 3, 3], 32), |x, w, b| conv2d(x, w, Some(b), &wide));
    let layer = TransposedConvolution { filters: 3, kernel: 3, stride: 2, padding: 1, bias: true };
    same(&device, ([2, 4, 5, 6], [4, 3, 3, 3], 3), |x, w, b| transposed_conv2d(x, w, Some(b), &layer));
    for then in [Then::Keep, Then::Rectify] {
        for sets in [Sets::Channels, Sets::Groups(2)] {
            same(&device, ([3, 4, 5, 6], [4], 4), |x, s, b| normalise(x, s, b, sets, then).0);
        }
        same(&device, ([3, 4, 5, 6], [4], 4), |x, s, b| {
            let of = |seed| Tensor::<1>::from_data(numbers(&[4], seed), &x.device());
            let statistics = [of(5), of(6).square() + 0.1];
            normalise_by(x, s, b, statistics, then)
        });
    }
    same(&device, ([3, 4, 5, 6], [4], 4), layer_norm);
    // The other leaves take part, so that each has a gradient.
    let scaled =
        |x: Tensor<4>, s: Tensor<1>, b: Tensor<1>| x * s.reshape([1, 4, 1, 1]) + b.reshape([1, 4, 1, 1]);
    for pool in [Pool { size: 2, stride: None, padding: 0 }, Pool { size: 3, stride: Some(2), padding: 1 }] {
        same(&device, ([2, 4, 7, 8], [4], 4), |x, s, b| max_pool(scaled(x, s, b), &pool));
        same(&device, ([2, 4, 7, 8], [4], 4), |x, s, b| average_pool(scaled(x, s, b), &pool));
    }
    same(&device, ([2, 4, 7, 8], [4], 4), |x, s, b| rectify(scaled(x, s, b)));
    same(&device, ([2, 4, 7, 8], [4], 4), |x, s, b| rectify_sum(x.clone(), scaled(x, s, b)));
}

/// Scores and gradient of one step, and the running statistics behind it.
#[test]
fn a_graph_of_every_layer_gives_what_it_gives_on_the_processor() {
    let Some(device) = device() else { return };
    let graph =
        |text: &str, case: CaseShape| toml::from_str::<ModelSection>(text).unwrap().graph(case, 3).unwrap();
    a_graph_there(&device, &graph(EVERY_LAYER, [2, 6, 6].into()));
    a_graph_there(&device, &graph(EVERY_LAYER_OF_VOLUMES, [1, 5, 6, 6].into()));
    a_graph_there(&device, &graph(BESIDE, CaseShape::new([2, 6, 6], 3)));
    let pooled = r#"layers = [
        { kind = "max-pool3d", size = 3, stride = 2, padding = 1 },
        { kind = "flatten" },
        { kind = "linear", outputs = 3 },
    ]"#;
    a_graph_there(&device, &graph(pooled, [1, 5, 6, 6].into()));
}

fn a_graph_there(device: &Device, graph: &ModelGraph) {
    let model = initial(graph, 3);
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").expect("a lawful name"), round: 0 };
    let targets = Targets { labels: [0, 2, 1, 1].map(Label::Class).to_vec(), cases: 4, mixed: None };
    for text in [
        "label_smoothing = 0.1",
        "loss = { kind = \"focal\", gamma = 2.0 }",
        "class_weights = [1.0, 2.0, 0.5]",
    ] {
        let recipe: Training =
            recipe(&format!("optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 4\nepochs = 1\n{text}"));
        let step = |place: &Place| {
            let mut model = Blocks::of(graph, &model);
            let leaves = Leaves::tracked(graph, model.lend(false), place);
            let mut pass = TrainingPass::new(&seed, 7);
            let scores = logits(graph, &leaves, reads(graph, 4, place), &mut pass);
            let gradient = loss(scores.clone(), &targets, &recipe).backward();
            let gradient = leaves.gradient(graph, gradient).flat(graph);
            pass.update_statistics(graph, &mut model);
            [values_of(scores), gradient, model.flat()]
        };
        for (there, here) in step(&device.tracked()).iter().zip(&step(&Place::flex().autodiff())) {
            assert_close(there, here, 2e-5);
        }
    }
}

#[test]
fn training_there_follows_training_here() {
    let Some(device) = device() else { return };
    for (preset, norm) in [(Preset::SmallCnn, Some(Norm::Group)), (Preset::CnnBn, None)] {
        let graph = graph(preset, norm);
        let recipe =
            recipe("optimiser = \"sgd\"\nlearning_rate = 0.01\nmomentum = 0.9\nbatch = 8\nsteps = 6");
        let (start, data, task) = (initial(&graph, 1), cases(20, 0), task(&graph, &recipe, "a", 0));
        let go_on = |_: Progress<'_>| std::ops::ControlFlow::Continue(());
        let here = train(&task, &start, &data, &mut go_on.clone()).unwrap();
        let there = train_on(&device, &task, &start, &data, &mut go_on.clone()).unwrap();
        let moved = |model: &[f32]| model.iter().zip(&start).map(|(a, b)| a - b).collect::<Vec<f32>>();
        let (there_moved, here_moved) = (moved(&there.model), moved(&here.model));
        let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let apart: Vec<f32> = there_moved.iter().zip(&here_moved).map(|(a, b)| a - b).collect();
        let share = norm(&apart) / norm(&here_moved);
        println!("{}: update differs by {share:.1e} of its norm", preset.name());
        assert!(share < 1e-3, "{}: {share}", preset.name());
        assert_eq!((there.steps, there.examples), (here.steps, here.examples));
        assert!((there.mean_loss - here.mean_loss).abs() < 1e-4);
    }
}

/// What does not fit, and what is not there, are causes and no panics; and a number beyond the last GPU names how many there
/// are.
#[test]
fn failures_have_causes() {
    let Some(device) = device() else { return };
    let graph = graph(Preset::Logistic, None);
    let recipe = recipe("optimiser = \"sgd\"\nlearning_rate = 0.01\nbatch = 8\nsteps = 2");
    let task = task(&graph, &recipe, "a", 0);
    let failed = train_on(&device, &task, &initial(&graph, 1), &cases(20, 0), &mut |_| panic!("device lost"));
    assert_eq!(failed, Err(TrainError::Device(DeviceError::Lost)));
    let found = u16::try_from(gpus().unwrap().len()).unwrap();
    let choice = DeviceChoice::Gpu(found);
    assert_eq!(Device::probe(choice).unwrap_err(), DeviceError::Absent { choice, found });
}
