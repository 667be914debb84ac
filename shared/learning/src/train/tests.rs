//! Training: that it repeats itself, learns, and leaves alone what it must.

use super::*;
use crate::dataset::Pixels;
use crate::initial::initial;
use crate::score::score;
use crate::testing::{SHORT, cases, graph, recipe, task};
use consilium_study::graph::{Norm, Preset};
use consilium_study::task::{Label, Task};

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn same_seed_same_bytes_and_any_other_part_of_it_others() {
    let (graph, recipe) = (graph(Preset::SmallCnn, Some(Norm::Batch)), recipe(SHORT));
    let (start, data) = (initial(&graph, 1), cases(20, 0));
    let run = |site, round| train(&task(&graph, &recipe, site, round), &start, &data, &mut go_on).unwrap();
    let first = run("a", 1);
    assert_eq!(first, run("a", 1));
    assert_ne!(first.model, run("b", 1).model);
    assert_ne!(first.model, run("a", 2).model);
    assert_eq!((first.steps, first.examples), (6, 40));
}

#[test]
fn every_preset_learns_what_can_be_learned() {
    for (preset, norm, rate) in [
        (Preset::Logistic, None, 0.05),
        (Preset::SmallCnn, None, 0.003),
        (Preset::SmallCnn, Some(Norm::Group), 0.003),
        (Preset::CnnBn, None, 0.003),
    ] {
        let graph = graph(preset, norm);
        let recipe = recipe(&format!(
            "optimiser = \"adamw\"\nlearning_rate = {rate}\nweight_decay = 0.01\nschedule = \"cosine\"\nbatch = 16\nepochs = 4"
        ));
        let task = task(&graph, &recipe, "a", 0);
        let start = initial(&graph, 1);
        let trained = train(&task, &start, &cases(160, 0), &mut go_on).unwrap();
        let unseen = cases(100, 1);
        let right = |model: &[f32]| {
            let scores = score(&graph, task.preprocessing, Task::Classification, model, &unseen).unwrap();
            let sure = scores.of_class(1).zip(unseen.labels());
            sure.filter(|(p, label)| (*p > 0.5) == label.holds(1)).count()
        };
        let (before, after) = (right(&start), right(&trained.model));
        assert!(before < 80 && after > 90, "{}: {before} to {after} of 100", preset.name());
    }
}

/// Neither steps nor decay nor a batch's statistics touch what is frozen; and what is trained goes the same way as in a
/// study that freezes nothing, as long as nothing else has moved.
#[test]
fn frozen_blocks_stay_bit_for_bit() {
    let plain = graph(Preset::CnnBn, None);
    let frozen = plain.clone().treat(&["layers.0".into(), "batch-norm".into()], &[]).unwrap();
    let start = initial(&plain, 1);
    for optimiser in ["sgd\"\nmomentum = 0.9", "adam\"", "adamw\""] {
        let recipe = recipe(&format!(
            "optimiser = \"{optimiser}\nlearning_rate = 0.01\nweight_decay = 0.1\nbatch = 8\nsteps = 4"
        ));
        let run = |graph: &ModelGraph| {
            train(&task(graph, &recipe, "a", 0), &start, &cases(20, 0), &mut go_on).unwrap().model
        };
        let trained = run(&frozen);
        assert_eq!(frozen.altered(&start, &trained), None);
        assert!(frozen.averaged().all(|block| trained[block.range()] != start[block.range()]));
        assert!(frozen.altered(&start, &run(&plain)).is_some());
    }
}

/// The last layer alone, over features that nothing changes: logistic regression on them is the same training.
#[test]
fn a_last_layer_trains_as_it_would_alone() {
    let text = |kept: &str| {
        format!("layers = [{kept} {{ kind = \"flatten\" }}, {{ kind = \"linear\", outputs = 2 }}]")
    };
    let read = |text: &str, side| {
        toml::from_str::<consilium_study::graph::ModelSection>(text)
            .unwrap()
            .graph([1, side, side], 2)
            .unwrap()
    };
    let whole = read(
        &text("{ kind = \"average-pool\", size = 2 }, { kind = \"conv2d\", filters = 1, kernel = 1 },"),
        8,
    );
    let whole = whole.treat(&["conv2d".into()], &[]).unwrap();
    let (head, data) = (read(&text(""), 4), cases(20, 0));
    // The convolution hands on what it gets.
    let mut start = initial(&whole, 1);
    start[..2].copy_from_slice(&[1.0, 0.0]);
    let pooled: Vec<f32> = (0..20)
        .flat_map(|case| {
            let pixels = data.pixels();
            (0..16)
                .map(move |place| {
                    let at = |row: usize, column: usize| match pixels {
                        Pixels::Floats(values) => values[case * 64 + row * 8 + column],
                        Pixels::Bytes(values) => f32::from(values[case * 64 + row * 8 + column]) / 255.0,
                    };
                    let (row, column) = (2 * (place / 4), 2 * (place % 4));
                    (at(row, column) + at(row, column + 1) + at(row + 1, column) + at(row + 1, column + 1))
                        / 4.0
                })
                .collect::<Vec<_>>()
        })
        .collect();
    let small = Dataset::new([1, 4, 4], Pixels::Floats(pooled), data.labels().to_vec()).unwrap();
    let recipe = recipe("optimiser = \"adam\"\nlearning_rate = 0.01\nbatch = 8\nsteps = 9");
    let one = train(&task(&whole, &recipe, "a", 0), &start, &data, &mut go_on).unwrap().model;
    let other = train(&task(&head, &recipe, "a", 0), &start[2..], &small, &mut go_on).unwrap().model;
    assert_eq!(one[..2], start[..2]);
    for (one, other) in one[2..].iter().zip(&other) {
        assert!((one - other).abs() < 1e-5, "{one} {other}");
    }
}

#[test]
fn the_caller_may_stop_and_learns_how_far_it_went() {
    let (graph, recipe) = (graph(Preset::Logistic, None), recipe(SHORT));
    let mut seen = Vec::new();
    let stopped =
        train(&task(&graph, &recipe, "a", 0), &initial(&graph, 1), &cases(20, 0), &mut |progress| {
            seen.push((progress.step, progress.steps));
            if progress.step == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    assert_eq!(stopped, Err(TrainError::Stopped { steps: 4 }));
    assert_eq!(seen, [(1, 6), (2, 6), (3, 6), (4, 6)]);
}

/// One training that stands for all rounds of a study passes through its schedule; one that stands for the first does not.
#[test]
fn a_training_of_many_rounds_goes_through_their_schedule() {
    let graph = graph(Preset::Logistic, None);
    let last = |schedule: &str, covers| {
        let recipe = recipe(&format!(
            "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 20\nsteps = 4\nschedule = {schedule}"
        ));
        let task = LocalTraining { covers, ..task(&graph, &recipe, "a", 0) };
        let (mut before, mut moved) = (initial(&graph, 1), Vec::new());
        let start = before.clone();
        train(&task, &start, &cases(20, 0), &mut |at| {
            let now = at.model();
            moved.push(now.iter().zip(&before).map(|(now, then)| (now - then).abs()).sum::<f32>());
            before = now;
            ControlFlow::Continue(())
        })
        .unwrap();
        moved[3] / moved[0]
    };
    for schedule in
        ["{ step = { every = 2, factor = 0.001 } }", "{ milestones = { at = [0.5], factor = 0.001 } }"]
    {
        assert!(last(schedule, 4) < 0.01, "{schedule}");
        assert!(last(schedule, 1) > 0.1, "{schedule}");
    }
}

/// Pictures of nothing have no gradient in the weights: a correction alone moves them, as far as the learning rates of the
/// round add up to, whatever the schedule. What is frozen stays.
#[test]
fn a_correction_moves_a_model_as_far_as_the_rates_reach() {
    let plain = graph(Preset::Logistic, None);
    let data = Dataset::new([1, 8, 8], Pixels::Floats(vec![0.0; 64 * 4]), vec![0_u16, 1, 0, 1]).unwrap();
    for (schedule, round) in [
        ("\"constant\"", 0),
        ("\"cosine\"", 1),
        ("{ step = { every = 1, factor = 0.5 } }", 2),
        ("{ milestones = { at = [0.1], factor = 0.5 } }", 0),
    ] {
        let recipe = recipe(&format!(
            "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 4\nsteps = 7\nschedule = {schedule}"
        ));
        let correction: Vec<f32> = (0..plain.len()).map(|entry| entry as f32 / 16.0).collect();
        let mut task = task(&plain, &recipe, "a", round);
        task.preprocessing = Preprocessing::new(0.0, 1.0).unwrap();
        task.correction = Some(&correction);
        let start = initial(&plain, 1);
        let trained = train(&task, &start, &data, &mut go_on).unwrap().model;
        let reach = recipe.reach(round, task.rounds).unwrap();
        for entry in 0..128 {
            let moved = f64::from(start[entry]) - f64::from(trained[entry]);
            let expected = reach * f64::from(correction[entry]);
            assert!((moved - expected).abs() < 1e-5, "{schedule}: {moved} {expected}");
        }
        let frozen = plain.clone().treat(&["layers.1.weight".into()], &[]).unwrap();
        let task = LocalTraining { graph: &frozen, ..task };
        let trained = train(&task, &start, &data, &mut go_on).unwrap().model;
        assert_eq!(frozen.altered(&start, &trained), None);
        let task = LocalTraining { correction: Some(&correction[1..]), ..task };
        let refused = train(&task, &start, &data, &mut go_on);
        assert_eq!(refused, Err(TrainError::Correction { got: 129, want: 130 }));
    }
}

#[test]
fn steps_run_over_epochs() {
    let (graph, recipe) = (graph(Preset::Logistic, None), recipe(SHORT));
    let mut task = task(&graph, &recipe, "a", 0);
    task.budget = Extent::Steps(7);
    let trained = train(&task, &initial(&graph, 1), &cases(20, 0), &mut go_on).unwrap();
    // Two epochs of 8 + 8 + 4 and one batch of the third.
    assert_eq!((trained.steps, trained.examples), (7, 48));
    // Six of those steps are the two epochs of the recipe.
    task.budget = Extent::Steps(6);
    let six = train(&task, &initial(&graph, 1), &cases(20, 0), &mut go_on).unwrap();
    task.budget = recipe.extent();
    assert_eq!(six, train(&task, &initial(&graph, 1), &cases(20, 0), &mut go_on).unwrap());
}

/// Every variation, both samplings and both losses, on pictures that can be told apart.
#[test]
fn a_recipe_with_everything_learns_and_repeats_itself() {
    let graph = graph(Preset::SmallCnn, Some(Norm::Group));
    let (start, data, unseen) = (initial(&graph, 1), cases(160, 0), cases(100, 1));
    for loss in ["loss = { kind = \"focal\", gamma = 2.0 }", "label_smoothing = 0.1"] {
        let recipe = recipe(&format!(
            "optimiser = \"adamw\"\nlearning_rate = 0.003\nbatch = 16\nepochs = 6\nsampling = \"balanced\"\n{loss}\n\
             augment = {{ flip = true, crop = 1, rotate = 20.0, zoom = 0.1, brightness = 0.1, contrast = 0.2, \
             noise = 0.02, erase = 2, mixup = 0.2 }}"
        ));
        let task = task(&graph, &recipe, "a", 0);
        let trained = train(&task, &start, &data, &mut go_on).unwrap();
        assert_eq!(trained, train(&task, &start, &data, &mut go_on).unwrap());
        let scores =
            score(&graph, task.preprocessing, Task::Classification, &trained.model, &unseen).unwrap();
        let sure = scores.of_class(1).zip(unseen.labels());
        let right = sure.filter(|(p, label)| (*p > 0.5) == label.holds(1)).count();
        assert!(right > 85, "{loss}: {right} of 100");
    }
}

/// Pictures of which the upper half is bright where the first finding is there, and the left half where the second is.
fn findings(count: u64, seed: u64) -> Dataset {
    let data = cases(u32::try_from(count).unwrap(), usize::try_from(seed).unwrap());
    let Pixels::Floats(mut pixels) = data.pixels().clone() else { panic!("these cases are floats") };
    let labels: Vec<Label> = (0..count).map(|case| Label::Findings((case * 7 + seed) % 4)).collect();
    for (picture, label) in pixels.chunks_exact_mut(64).zip(&labels) {
        for (place, value) in picture.iter_mut().enumerate() {
            let bright = label.holds(0) && place / 8 < 4 || label.holds(1) && place % 8 < 4;
            *value = 0.5 * *value + if bright { 0.4 } else { 0.0 };
        }
    }
    Dataset::new([1, 8, 8], Pixels::Floats(pixels), labels).unwrap()
}

#[test]
fn findings_are_learned_each_by_itself() {
    let graph = graph(Preset::SmallCnn, Some(Norm::Group));
    let (start, data, unseen) = (initial(&graph, 1), findings(160, 0), findings(100, 1));
    for extra in
        ["", "loss = { kind = \"focal\", gamma = 2.0 }", "augment = { mixup = 0.2 }\nlabel_smoothing = 0.1"]
    {
        let recipe =
            recipe(&format!("optimiser = \"adamw\"\nlearning_rate = 0.003\nbatch = 16\nepochs = 8\n{extra}"));
        let task = task(&graph, &recipe, "a", 0);
        let trained = train(&task, &start, &data, &mut go_on).unwrap();
        let scores = score(&graph, task.preprocessing, Task::MultiLabel, &trained.model, &unseen).unwrap();
        for finding in 0..2 {
            let told = scores.of_class(finding).zip(unseen.labels());
            let right = told.filter(|(p, label)| (*p > 0.5) == label.holds(finding)).count();
            assert!(right > 85, "{extra}: {right} of 100 of finding {finding}");
        }
    }
}

/// A batch of one has no variance where a layer sees one pixel of it: its values become the shift of the layer, and
/// training goes on. So does that of a site with one case, or with one class.
#[test]
fn one_image_trains_to_finite_numbers() {
    for (preset, norm) in
        [(Preset::CnnBn, None), (Preset::SmallCnn, Some(Norm::Batch)), (Preset::Resnet18, Some(Norm::Batch))]
    {
        let graph = graph(preset, norm);
        for extra in ["", "sampling = \"balanced\"\naugment = { mixup = 0.2, contrast = 0.5 }"] {
            let recipe = recipe(&format!(
                "optimiser = \"adam\"\nlearning_rate = 0.01\nbatch = 1\nsteps = 12\n{extra}"
            ));
            let task = task(&graph, &recipe, "a", 0);
            let one = cases(1, 0);
            let trained = train(&task, &initial(&graph, 1), &one, &mut go_on).unwrap();
            assert_eq!((trained.steps, trained.examples), (12, 12));
            let scores =
                score(&graph, task.preprocessing, Task::Classification, &trained.model, &one).unwrap();
            let finite = scores.iter().all(|case| case.iter().all(|value| value.is_finite()));
            assert!(finite && trained.mean_loss.is_finite(), "{}", preset.name());
        }
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let (graph, recipe) = (graph(Preset::Logistic, None), recipe(SHORT));
    let task = task(&graph, &recipe, "a", 0);
    let start = initial(&graph, 1);
    let run = |start: &[f32], data: &Dataset| train(&task, start, data, &mut go_on).unwrap_err();
    assert_eq!(run(&start[1..], &cases(4, 0)), TrainError::WrongLength { got: 129, want: 130 });
    assert_eq!(run(&start, &cases(0, 0)), TrainError::NoCases);
    let wrong = Dataset::new([1, 4, 16], Pixels::Bytes(vec![0; 64]), vec![0_u16]).unwrap();
    assert!(matches!(run(&start, &wrong), TrainError::Dataset(InvalidDataset::Shape { .. })));
    let wrong = Dataset::new([1, 8, 8], Pixels::Bytes(vec![0; 64]), vec![2_u16]).unwrap();
    assert!(matches!(
        run(&start, &wrong),
        TrainError::Dataset(InvalidDataset::Label { label: Label::Class(2), .. })
    ));
    let mut infinite = start.clone();
    infinite[0] = f32::INFINITY;
    assert_eq!(run(&infinite, &cases(4, 0)), TrainError::Diverged { step: 1 });
}
