//! One round's training at one site.

use std::ops::ControlFlow;

use consilium_study::graph::ModelGraph;
use consilium_study::preprocessing::Preprocessing;
use consilium_study::recipe::{Extent, RecipeError, Training};

use crate::batch::Batches;
use crate::dataset::{Dataset, InvalidDataset};
use crate::device::{Device, DeviceError};
use crate::interpret::{TrainingPass, logits};
use crate::loss::loss;
use crate::optimise::Stepper;
use crate::random::LocalSeed;
use crate::tensors::{Blocks, Leaves, Slopes};

/// What a site trains in one round.
#[derive(Clone, Debug)]
pub struct LocalTraining<'a> {
    /// The model.
    pub graph: &'a ModelGraph,
    /// The recipe.
    pub recipe: &'a Training,
    /// How pictures become inputs.
    pub preprocessing: Preprocessing,
    /// How long to train: in a study [`Training::extent`]; baselines set their own.
    pub budget: Extent,
    /// What all draws hang on. Its round also places the round in the schedule.
    pub seed: LocalSeed,
    /// Rounds of the whole study, for the schedule.
    pub rounds: u32,
    /// Rounds of the study that this training stands for, in the schedule: 1 for a site, more for a trainer that goes through
    /// the whole study at once.
    pub covers: u32,
    /// Weight μ of the pull towards the starting model, `μ/2 · ‖w - start‖²` in the loss (Li et al. 2020, FedProx); 0 for
    /// none. Trained parameters only; the losses that are reported are without it.
    pub proximal_weight: f64,
    /// Added to the gradient of every step, shape `[params]`: what a site is corrected by (Karimireddy et al. 2020, SCAFFOLD).
    /// Nothing is added to what is not trained.
    pub correction: Option<&'a [f32]>,
}

/// How far a round's training is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Loss of the last batch.
    pub loss: f32,
    model: &'a Blocks,
}

impl Progress<'_> {
    /// The model after this step, in the graph's order.
    pub fn model(&self) -> Vec<f32> {
        self.model.flat()
    }
}

/// What a round's training gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The model after training, in the graph's order.
    pub model: Vec<f32>,
    /// Steps made.
    pub steps: u64,
    /// Cases passed through, repeats counted.
    pub examples: u64,
    /// Mean over these of the recipe's loss at the moment of passing.
    pub mean_loss: f64,
}

/// Why a round's training gave no model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The starting model is not one of the graph.
    #[error("the starting model has {got} numbers, the graph has {want}")]
    WrongLength {
        /// Numbers of the starting model.
        got: usize,
        /// Numbers of the graph.
        want: usize,
    },
    /// The correction is not one of the graph.
    #[error("the correction of steps has {got} numbers, the graph has {want}")]
    Correction {
        /// Numbers of the correction.
        got: usize,
        /// Numbers of the graph.
        want: usize,
    },
    /// There is nothing to train on.
    #[error("there are no cases to train on")]
    NoCases,
    /// The cases do not fit the graph.
    #[error(transparent)]
    Dataset(#[from] InvalidDataset),
    /// The recipe does not fit the graph.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The loss or the model stopped being finite: the learning rate is too high for these cases.
    #[error("training diverged in step {step}")]
    Diverged {
        /// The step, from 1.
        step: u64,
    },
    /// The caller asked to stop.
    #[error("training was stopped after {steps} steps")]
    Stopped {
        /// Steps done.
        steps: u64,
    },
}

/// Trains from `start` on `data`, on the processor. `progress` is called after every step and may stop the training.
///
/// Nothing is kept between calls: optimiser state begins anew, and all draws follow from the seed.
pub fn train(
    task: &LocalTraining,
    start: &[f32],
    data: &Dataset,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    train_on(&Device::cpu(), task, start, data, progress)
}

/// [`train`] on a device. The draws are the same everywhere; the sums, and with them the last bits of the model, are not.
///
/// The model and the optimiser's state stay in memory: a step sends the one to the device and reads its gradient back.
pub fn train_on(
    device: &Device,
    task: &LocalTraining,
    start: &[f32],
    data: &Dataset,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    device.guard(|| steps_on(device, task, start, data, progress))?
}

fn steps_on(
    device: &Device,
    task: &LocalTraining,
    start: &[f32],
    data: &Dataset,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    let LocalTraining { graph, recipe, .. } = *task;
    if start.len() != graph.len() {
        return Err(TrainError::WrongLength { got: start.len(), want: graph.len() });
    }
    if let Some(correction) = task.correction.filter(|correction| correction.len() != graph.len()) {
        return Err(TrainError::Correction { got: correction.len(), want: graph.len() });
    }
    if data.is_empty() {
        return Err(TrainError::NoCases);
    }
    data.check(graph)?;
    recipe.check(graph)?;

    let steps = match task.budget {
        Extent::Epochs(epochs) => u64::from(epochs) * data.len().div_ceil(recipe.batch()) as u64,
        Extent::Steps(steps) => u64::from(steps),
    };
    let mut model = Blocks::of(graph, start);
    let mut stepper = Stepper::new(graph, recipe);
    let place = device.tracked();
    let mut batches = Batches::new(task, data, place.clone());
    let (mut examples, mut loss_sum) = (0, 0.0);
    for step in 0..steps {
        let batch = batches.next_batch();
        let cases = batch.targets.cases;
        let leaves = Leaves::tracked(graph, model.lend(device.is_cpu()), &place);
        let mut pass = TrainingPass::new(&task.seed, step);
        let scores = logits(graph, &leaves, batch.cases, &mut pass);
        let loss = loss(scores, &batch.targets, recipe);
        let loss_value: f32 = loss.clone().into_scalar();
        if !loss_value.is_finite() {
            return Err(TrainError::Diverged { step: step + 1 });
        }
        let mut gradient = leaves.gradient(graph, loss.backward());
        leaves.give_back(&mut model);
        if task.proximal_weight > 0.0 {
            pull(start, &model, &mut gradient, task.proximal_weight as f32);
        }
        if let Some(correction) = task.correction {
            for (range, slopes) in gradient.blocks_mut() {
                slopes.iter_mut().zip(&correction[range]).for_each(|(slope, corrected)| *slope += corrected);
            }
        }
        let past = u64::from(task.covers) * step;
        let place = (f64::from(task.seed.round) + past as f64 / steps as f64) / f64::from(task.rounds.max(1));
        // Below `covers`, which is a u32.
        let round = task.seed.round + (past / steps) as u32;
        stepper.step(&mut model, &gradient, recipe.rate(round, place));
        pass.update_statistics(graph, &mut model);
        examples += cases as u64;
        loss_sum += f64::from(loss_value) * cases as f64;
        if progress(Progress { step: step + 1, steps, loss: loss_value, model: &model }).is_break() {
            return Err(TrainError::Stopped { steps: step + 1 });
        }
    }
    let model = model.flat();
    if model.iter().any(|value| !value.is_finite()) {
        return Err(TrainError::Diverged { step: steps });
    }
    // At least one case and one step: both caps of the recipe start at 1.
    Ok(Trained { model, steps, examples, mean_loss: loss_sum / examples.max(1) as f64 })
}

/// Adds the gradient of the proximal term.
fn pull(start: &[f32], model: &Blocks, gradient: &mut Slopes, weight: f32) {
    for (range, slopes) in gradient.blocks_mut() {
        let values = model[range.clone()].iter().zip(&start[range]);
        for (slope, (value, start)) in slopes.iter_mut().zip(values) {
            *slope += weight * (value - start);
        }
    }
}

#[cfg(test)]
mod beside;
#[cfg(test)]
mod tests;
