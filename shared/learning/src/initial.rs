//! Weights before any training.

use consilium_study::graph::{ModelGraph, Role};

use crate::random::Draws;

/// The initial model of a study: He et al. 2015 for weights, uniform with variance `2 / fan_in`; the
/// layer that scores the classes gets half the variance of `1 / fan_in`, so that first scores are mild.
///
/// Needs no tensors. Uniform draws need no logarithm, so the bytes are the same on every platform.
pub fn initial(graph: &ModelGraph, study_seed: u64) -> Vec<f32> {
    let mut model = vec![0.0; graph.len()];
    let last_weight = graph.parameters().iter().rposition(|block| block.role() == Role::Weight);
    for (index, block) in graph.parameters().iter().enumerate() {
        let values = &mut model[block.range()];
        match block.role() {
            Role::Weight => {
                // A uniform draw from ±b has variance b²/3.
                let gain = if Some(index) == last_weight { 1.5 } else { 6.0 };
                let bound = (gain / block.fan_in() as f32).sqrt();
                let mut draws = Draws::initial(study_seed, index);
                values.fill_with(|| (2.0 * draws.unit() - 1.0) * bound);
            }
            Role::Bias | Role::Shift | Role::RunningMean => {}
            Role::Scale | Role::RunningVariance => values.fill(1.0),
        }
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::graph::{ModelSpec, Preset};

    #[test]
    fn blocks_have_the_variance_of_he_and_depend_on_the_seed() {
        let spec = ModelSpec::Preset { preset: Preset::CnnBn, norm: None, stem: None };
        let graph = spec.graph([1, 28, 28], 2).unwrap();
        let model = initial(&graph, 1);
        assert_eq!(model, initial(&graph, 1));
        assert_ne!(model, initial(&graph, 2));
        for block in graph.parameters() {
            let values = &model[block.range()];
            match block.role() {
                Role::Weight if block.len() > 10_000 => {
                    let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
                    let expected = 2.0 / block.fan_in() as f32;
                    assert!((variance / expected - 1.0).abs() < 0.05, "{} {variance}", block.name());
                }
                Role::Weight => {}
                Role::Scale | Role::RunningVariance => {
                    assert!(values.iter().all(|v| v.to_bits() == 1.0_f32.to_bits()));
                }
                Role::Bias | Role::Shift | Role::RunningMean => assert!(values.iter().all(|&v| v == 0.0)),
            }
        }
    }
}
