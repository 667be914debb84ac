//! Optimisers over the flat vector.
//!
//! State lives for one round: a site keeps nothing between rounds, so a site that missed some is not
//! different from one that did not, and there is no state to protect.

use std::ops::Range;

use consilium_study::graph::{ModelGraph, ParameterSpec, Role};
use consilium_study::recipe::{Optimiser, Training};
use rayon::prelude::*;

use crate::operation::wide;
use crate::tensors::{Blocks, Slopes};

const BETA: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;
/// Parameters that a thread takes at once.
const SHARE: usize = 1 << 14;

/// An optimiser with its state.
pub(crate) struct Stepper {
    rule: Optimiser,
    decay: f32,
    /// Trainable blocks: where they lie in the state, and whether they decay.
    blocks: Vec<(Range<usize>, bool)>,
    /// Momentum, or Adam's first moment.
    first: Vec<f32>,
    /// Adam's second moment.
    second: Vec<f32>,
    steps: i32,
}

impl Stepper {
    pub(crate) fn new(graph: &ModelGraph, recipe: &Training) -> Self {
        let rule = recipe.optimiser();
        let mut length = 0;
        let place = |block: &ParameterSpec| {
            let from = length;
            length += block.len();
            (from..length, block.role() == Role::Weight)
        };
        let trainable = graph.parameters().iter().filter(|block| block.is_trainable());
        let blocks = trainable.map(place).collect();
        let sized = |needed: bool| if needed { vec![0.0; length] } else { Vec::new() };
        let has_moments = matches!(rule, Optimiser::Adam | Optimiser::AdamW);
        let has_momentum = matches!(rule, Optimiser::Sgd { momentum } if momentum > 0.0);
        Self {
            rule,
            decay: recipe.weight_decay() as f32,
            blocks,
            first: sized(has_moments || has_momentum),
            second: sized(has_moments),
            steps: 0,
        }
    }

    /// Changes `model` along `gradient`.
    pub(crate) fn step(&mut self, model: &mut Blocks, gradient: &Slopes, rate: f64) {
        // A round has at most MAX_EPOCHS passes over u32 cases; the corrections are 1 long before.
        self.steps = self.steps.saturating_add(1);
        let rate = rate as f32;
        for ((state, decays), (range, gradient)) in self.blocks.iter().zip(gradient.blocks()) {
            let decay = if *decays { self.decay } else { 0.0 };
            let model = &mut model[range];
            match self.rule {
                Optimiser::Sgd { momentum } if momentum > 0.0 => {
                    heavy_ball(model, gradient, &mut self.first[state.clone()], momentum as f32, rate, decay);
                }
                Optimiser::Sgd { .. } => {
                    for (value, slope) in model.iter_mut().zip(gradient) {
                        *value -= rate * (slope + decay * *value);
                    }
                }
                Optimiser::Adam => {
                    let moments = (&mut self.first[state.clone()], &mut self.second[state.clone()]);
                    adam(model, gradient, moments, self.steps, rate, decay);
                }
                Optimiser::AdamW => {
                    let moments = (&mut self.first[state.clone()], &mut self.second[state.clone()]);
                    for value in model.iter_mut() {
                        *value -= rate * decay * *value;
                    }
                    adam(model, gradient, moments, self.steps, rate, 0.0);
                }
            }
        }
    }
}

fn heavy_ball(model: &mut [f32], gradient: &[f32], last: &mut [f32], momentum: f32, rate: f32, decay: f32) {
    let values = model.par_chunks_mut(SHARE).zip(gradient.par_chunks(SHARE));
    values.zip(last.par_chunks_mut(SHARE)).for_each(|((model, gradient), last)| {
        wide(|| {
            for ((value, slope), last) in model.iter_mut().zip(gradient).zip(last) {
                *last = momentum * *last + slope + decay * *value;
                *value -= rate * *last;
            }
        });
    });
}

/// Kingma and Ba 2015, algorithm 1, with `decay * value` added to the gradient.
fn adam(
    model: &mut [f32],
    gradient: &[f32],
    (first, second): (&mut [f32], &mut [f32]),
    steps: i32,
    rate: f32,
    decay: f32,
) {
    let correction = (1.0 - BETA.0.powi(steps), 1.0 - BETA.1.powi(steps));
    let rate = rate / correction.0;
    let root = correction.1.sqrt();
    let moments = first.par_chunks_mut(SHARE).zip(second.par_chunks_mut(SHARE));
    let values = model.par_chunks_mut(SHARE).zip(gradient.par_chunks(SHARE));
    values.zip(moments).for_each(|((model, gradient), (first, second))| {
        wide(|| {
            for (((value, slope), first), second) in model.iter_mut().zip(gradient).zip(first).zip(second) {
                let slope = slope + decay * *value;
                *first = BETA.0 * *first + (1.0 - BETA.0) * slope;
                *second = BETA.1 * *second + (1.0 - BETA.1) * slope * slope;
                *value -= rate * *first / (second.sqrt() / root + EPSILON);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::graph::{ModelSpec, Preset};

    fn steps_of(text: &str, count: usize) -> Vec<f32> {
        let spec = ModelSpec::Preset { preset: Preset::Logistic, norm: None, stem: None };
        let graph = spec.graph([1, 1, 1], 2).unwrap();
        let recipe: Training = toml::from_str(&format!("batch = 1\nepochs = 1\n{text}")).unwrap();
        // Weights 1 and 2, biases 3 and 4.
        let mut model = Blocks::of(&graph, &[1.0, 2.0, 3.0, 4.0]);
        let mut stepper = Stepper::new(&graph, &recipe);
        for _ in 0..count {
            let gradient = Slopes(vec![(0..2, vec![0.5, -0.25]), (2..4, vec![0.125, 0.0])]);
            stepper.step(&mut model, &gradient, recipe.rate(0, 0.0));
        }
        model.flat()
    }

    fn close(got: &[f32], want: [f32; 4]) {
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?} {want:?}");
    }

    #[test]
    fn sgd_by_hand() {
        close(&steps_of("optimiser = \"sgd\"\nlearning_rate = 0.1", 1), [0.95, 2.025, 2.9875, 4.0]);
        // Decay touches weights only: 1 - 0.1 (0.5 + 0.2), 2 - 0.1 (-0.25 + 0.4).
        let text = "optimiser = \"sgd\"\nlearning_rate = 0.1\nweight_decay = 0.2";
        close(&steps_of(text, 1), [0.93, 1.985, 2.9875, 4.0]);
        // Momentum: second step is 1.9 times the first.
        let text = "optimiser = \"sgd\"\nlearning_rate = 0.1\nmomentum = 0.9";
        close(&steps_of(text, 2), [1.0 - 0.05 * 2.9, 2.0 + 0.025 * 2.9, 3.0 - 0.0125 * 2.9, 4.0]);
    }

    #[test]
    fn adam_by_hand() {
        // With a constant gradient both moments are exact, so every step is `rate` long.
        close(&steps_of("optimiser = \"adam\"\nlearning_rate = 0.01", 3), [0.97, 2.03, 2.97, 4.0]);
        let text = "optimiser = \"adamw\"\nlearning_rate = 0.01\nweight_decay = 0.5";
        close(&steps_of(text, 1), [1.0 - 0.005 - 0.01, 2.0 - 0.01 + 0.01, 2.99, 4.0]);
        // Adam's own decay is normalised away with the gradient: a step stays `rate` long.
        let text = "optimiser = \"adam\"\nlearning_rate = 0.01\nweight_decay = 0.5";
        close(&steps_of(text, 1), [0.99, 1.99, 2.99, 4.0]);
    }
}
