//! One training step of a study's model on made-up images: what a hospital's machine would refuse after an
//! hour of preparation shows here in a second.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use consilium_learning::{Dataset, LocalSeed, LocalTraining, Pixels, initial, score, train};
use consilium_study::document::Draft;
use consilium_study::recipe::Extent;
use consilium_study::task::{Label, Task};
use serde::Serialize;

/// Cases of the step: normalisation over a batch needs more than one.
const CASES: usize = 4;

/// What the step showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// Made-up cases in the step.
    pub cases: usize,
    /// Loss before the step. Near the logarithm of the number of classes, or of 2 where each finding is asked.
    pub loss: f64,
    /// Time of the step on this machine.
    pub seconds: f64,
}

/// Scores and trains the initial model once.
pub(super) fn probe(draft: &Draft) -> anyhow::Result<Probe> {
    let graph = &draft.model;
    let start = initial(graph, draft.seed);
    let cases = CASES.min(draft.training.batch().max(2));
    let values = draft.model.input_len() * cases;
    // Any image does; one without a pattern would hide a layer that passes nothing on.
    let pixels = (0..values).map(|place| (place.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let pixels = Pixels::Bytes(pixels);
    let place = |number: usize| number % draft.classes();
    let data = match draft.data.task {
        Task::Classification | Task::Ordinal => {
            let labels = (0..cases).map(|case| Label::Class(place(case) as u16)).collect();
            Dataset::new(graph.input(), pixels, labels)?
        }
        Task::MultiLabel => {
            let labels = (0..cases).map(|case| Label::Findings(1 << place(case))).collect();
            Dataset::new(graph.input(), pixels, labels)?
        }
        Task::Regression => {
            let range = draft.data.range.context("a regression has a range")?;
            let value = |case: usize| range.value((case as f64 + 0.5) / cases as f64);
            let labels = (0..cases).filter_map(|case| range.measure(value(case))).map(Label::Value).collect();
            Dataset::new(graph.input(), pixels, labels)?
        }
        Task::Segmentation => {
            let masks = (0..cases * graph.places()).map(|pixel| place(pixel) as u8).collect();
            Dataset::with_masks(graph.input(), pixels, masks)?
        }
    };
    // As numbers brought to a common scale are: none is far from 0.
    let number = |place: usize| f32::from((place.wrapping_mul(2_654_435_761) >> 7) as u8) / 128.0 - 1.0;
    let data = data.beside(graph.columns(), (0..cases * graph.columns()).map(number).collect())?;
    let preprocessing = draft.model_identity().preprocessing;

    let task = draft.data.task;
    let scores =
        score(graph, preprocessing, task, &start, &data).context("the initial model cannot be scored")?;
    let finite = scores.iter().all(|case| case.iter().all(|value| value.is_finite()));
    ensure!(finite, "the initial model gives scores that are not finite; check data.mean and data.std");

    let site = draft.sites.first().context("a study names sites")?.clone();
    let task = LocalTraining {
        graph,
        recipe: &draft.training,
        preprocessing,
        budget: Extent::Steps(1),
        seed: LocalSeed { study_seed: draft.seed, site, round: 0 },
        rounds: draft.rounds.count,
        covers: 1,
        proximal_weight: draft.rounds.strategy.proximal_weight(),
        correction: None,
    };
    let began = Instant::now();
    let trained = train(&task, &start, &data, &mut |_| ControlFlow::Continue(()))
        .context("one step of training on made-up images failed")?;
    Ok(Probe { cases, loss: trained.mean_loss, seconds: began.elapsed().as_secs_f64() })
}
