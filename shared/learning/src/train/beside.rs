//! Training on pictures with numbers beside them, and on several heads.

use std::ops::ControlFlow;

use consilium_study::graph::{CaseShape, ModelGraph, ModelSection, ModelSpec, Norm, Preset};
use consilium_study::task::{Label, Task};
use proptest::prelude::*;

use super::{Progress, train};
use crate::batch::Batches;
use crate::dataset::{Dataset, Pixels};
use crate::device::Device;
use crate::initial::initial;
use crate::score::score;
use crate::tensors::values;
use crate::testing::{cases, recipe, task};

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The pictures of [`cases`] with two numbers beside each: the first says the label under noise, the second nothing.
fn both(count: u32, seed: usize) -> Dataset {
    let pictures = cases(count, seed);
    let number = |case: usize, label: &Label| {
        let noise = ((case * 37 + seed * 11) % 29) as f32 / 29.0 - 0.5;
        [if label.holds(1) { 0.4 } else { -0.4 } + noise, ((case * 13) % 7) as f32 / 7.0 - 0.5]
    };
    let numbers =
        pictures.labels().iter().enumerate().flat_map(|(case, label)| number(case, label)).collect();
    pictures.beside(2, numbers).unwrap()
}

/// The same with the picture or the numbers of every case those of the first.
fn blind(data: &Dataset, of_pictures: bool) -> Dataset {
    let first = vec![0; data.len()];
    let (pixels, numbers) = if of_pictures {
        (
            data.select(&first).pixels().clone(),
            (0..data.len()).flat_map(|case| data.numbers(case)).copied().collect(),
        )
    } else {
        (data.pixels().clone(), data.numbers(0).repeat(data.len()))
    };
    Dataset::new(data.shape(), pixels, data.labels().to_vec())
        .unwrap()
        .beside(data.columns(), numbers)
        .unwrap()
}

fn right(graph: &ModelGraph, model: &[f32], unseen: &Dataset) -> usize {
    let recipe = recipe("optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 1\nepochs = 1");
    let preprocessing = task(graph, &recipe, "a", 0).preprocessing;
    let scores = score(graph, preprocessing, Task::Classification, model, unseen).unwrap();
    scores.of_class(1).zip(unseen.labels()).filter(|(p, label)| (*p > 0.5) == label.holds(1)).count()
}

/// Either alone is learned from, where the other says nothing; and together they say more than each.
#[test]
fn a_model_learns_from_pictures_and_from_the_numbers_beside_them() {
    let recipe = recipe("optimiser = \"adamw\"\nlearning_rate = 0.01\nbatch = 16\nepochs = 8");
    for preset in [Preset::Logistic, Preset::SmallCnn] {
        let norm = (preset == Preset::SmallCnn).then_some(Norm::Group);
        let spec = ModelSpec::Preset { preset, norm, stem: None };
        let graph = spec.graph(CaseShape::new([1, 8, 8], 2), 2).unwrap();
        let (start, task) = (initial(&graph, 1), task(&graph, &recipe, "a", 0));
        let (data, unseen) = (both(160, 0), both(100, 1));
        for (data, unseen) in [
            (blind(&data, true), blind(&unseen, true)),
            (blind(&data, false), blind(&unseen, false)),
            (data, unseen),
        ] {
            let trained = train(&task, &start, &data, &mut go_on).unwrap();
            assert_eq!(trained, train(&task, &start, &data, &mut go_on).unwrap());
            let right = right(&graph, &trained.model, &unseen);
            assert!(right > 85, "{}: {right} of 100", preset.name());
        }
    }
}

proptest! {
    /// Whatever the order of an epoch, each picture comes with its own numbers, and no variation of pictures changes them.
    #[test]
    fn numbers_come_with_their_pictures_in_every_batch(
        count in 1_usize..40, balanced in any::<bool>(), round in 0_u32..100,
    ) {
        let spec = ModelSpec::Preset { preset: Preset::Logistic, norm: None, stem: None };
        let graph = spec.graph(CaseShape::new([1, 2, 2], 3), 2).unwrap();
        let recipe = recipe(&format!(
            "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 7\nepochs = 1\nsampling = \"{}\"\n\
             augment = {{ flip = true, crop = 1, rotate = 20.0, zoom = 0.1 }}",
            if balanced { "balanced" } else { "shuffled" }
        ));
        let task = task(&graph, &recipe, "a", round);
        let pixels = (0..count * 4).map(|place| (place / 4) as f32).collect();
        let labels: Vec<u16> = (0..count).map(|case| u16::from(case % 3 == 0)).collect();
        let numbers = (0..count * 3).map(|place| (place / 3) as f32).collect();
        let data = Dataset::new([1, 2, 2], Pixels::Floats(pixels), labels).unwrap().beside(3, numbers).unwrap();
        let mut batches = Batches::new(&task, &data, Device::cpu().tracked());
        for _ in 0..2 * count.div_ceil(7) {
            let batch = batches.next_batch().cases;
            let images = values(&batch.images.into_data());
            let beside = values(&batch.beside.expect("the graph reads numbers").into_data());
            prop_assert_eq!(images.len() / 4, beside.len() / 3);
            for (image, numbers) in images.chunks(4).zip(beside.chunks(3)) {
                let (mean, std) = (task.preprocessing.mean() as f32, task.preprocessing.std() as f32);
                prop_assert!(numbers.iter().all(|number| number.to_bits() == numbers[0].to_bits()));
                prop_assert!(image.iter().all(|value| (value * std + mean - numbers[0]).abs() < 1e-3));
            }
        }
    }
}

/// A head for each finding on shared features: its scores stand in the order of the heads, and each head and the layers
/// below all of them are trained.
#[test]
fn several_heads_are_trained_on_shared_features() {
    let section: ModelSection = toml::from_str(
        r#"layers = [
            { kind = "conv2d", filters = 4, kernel = 3 },
            { kind = "activation", function = "relu" },
            { kind = "flatten" },
            { kind = "concat", branches = [
                [ { kind = "linear", outputs = 1 } ],
                [ { kind = "linear", outputs = 6 }, { kind = "activation", function = "relu" }, { kind = "linear", outputs = 1 } ],
                [ { kind = "linear", outputs = 2 } ],
            ] },
        ]"#,
    )
    .unwrap();
    let graph = section.graph([1, 8, 8], 4).unwrap();
    let recipe = recipe("optimiser = \"adam\"\nlearning_rate = 0.01\nbatch = 16\nepochs = 8");
    let (start, task) = (initial(&graph, 1), task(&graph, &recipe, "a", 0));
    // The first and the last finding are there where the middle is bright, the others where it is not.
    let findings = |data: &Dataset| {
        let labels =
            data.labels().iter().map(|label| Label::Findings(if label.holds(1) { 0b1001 } else { 0b0110 }));
        Dataset::new(data.shape(), data.pixels().clone(), labels.collect::<Vec<_>>()).unwrap()
    };
    let (data, unseen) = (findings(&cases(160, 0)), findings(&cases(100, 1)));
    let trained = train(&task, &start, &data, &mut go_on).unwrap().model;
    for block in graph.parameters() {
        assert_ne!(trained[block.range()], start[block.range()], "{}", block.name());
    }
    let scores = score(&graph, task.preprocessing, Task::MultiLabel, &trained, &unseen).unwrap();
    for finding in 0..4 {
        let told = scores.of_class(finding).zip(unseen.labels());
        let right = told.filter(|(p, label)| (*p > 0.5) == label.holds(finding)).count();
        assert!(right > 85, "{right} of 100 of finding {finding}");
    }
}
