//! Strategies: from an aggregate to the next model, over flat vectors.
//!
//! A strategy sees the weighted mean of the survivors' updates and nothing about any one of them; rules that
//! must see single updates (median, Krum) cannot be written here. Every sum is documented, so that an auditor's
//! program reaches the same bytes.

use consilium_study::document::Strategy;
use consilium_study::graph::ModelGraph;

/// A mean makes no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// Other lengths.
    #[error("the start or the aggregate has {got} entries, the model has {want}")]
    WrongLength {
        /// Entries of the start or of the aggregate.
        got: usize,
        /// Entries of the model.
        want: usize,
    },
    /// An entry of the next model would not be finite.
    #[error("entry {0} of the next model is not finite")]
    NotFinite(usize),
}

/// The model of `graph` after `start`, shape `[params]`, given the mean update, shape `[params]`, whose memory it
/// takes.
///
/// *FedAvg* (McMahan et al. 2017) with server learning rate η (Reddi et al. 2021):
/// `next[j] = f32(f64(start[j]) + η · f64(mean[j]))`, each operation rounded to nearest even. Running statistics
/// of normalisations are measured, not trained; for them η is 1, so that a variance stays between those of the sites.
pub fn next_model(
    strategy: Strategy,
    graph: &ModelGraph,
    start: &[f32],
    mean: Vec<f32>,
) -> Result<Vec<f32>, StrategyError> {
    if start.len() != graph.len() || mean.len() != graph.len() {
        let got = if mean.len() == graph.len() { start.len() } else { mean.len() };
        return Err(StrategyError::WrongLength { got, want: graph.len() });
    }
    let mut next = mean;
    match strategy {
        Strategy::FedAvg { server_learning_rate } => {
            for block in graph.parameters() {
                let rate = if block.is_trainable() { server_learning_rate.get() } else { 1.0 };
                for (next, start) in next[block.range()].iter_mut().zip(&start[block.range()]) {
                    *next = (f64::from(*start) + rate * f64::from(*next)) as f32;
                }
            }
        }
    }
    match next.iter().position(|entry| !entry.is_finite()) {
        Some(entry) => Err(StrategyError::NotFinite(entry)),
        None => Ok(next),
    }
}

#[cfg(test)]
mod tests {
    use consilium_study::graph::{ModelSpec, Preset, Role};
    use consilium_study::quantity::ServerLearningRate;

    use super::*;

    fn fedavg(rate: f64) -> Strategy {
        Strategy::FedAvg { server_learning_rate: ServerLearningRate::new(rate).unwrap() }
    }

    fn graph(preset: Preset) -> ModelGraph {
        ModelSpec::Preset { preset, norm: None }.graph([1, 4, 4], 2).unwrap()
    }

    #[test]
    fn fedavg_adds_the_mean_so_many_times() {
        let graph = graph(Preset::Logistic);
        let whole = |value| vec![value; graph.len()];
        for (rate, start, mean, next) in [
            (1.0, 1.0, 0.5, 1.5),
            (1.0, -2.0, 0.25, -1.75),
            (1.5, 1.0, 0.5, 1.75),
            // In f32 the product alone would lose bits.
            (1.5, 1.0, 0.1, (1.0 + 1.5 * f64::from(0.1_f32)) as f32),
        ] {
            assert_eq!(next_model(fedavg(rate), &graph, &whole(start), whole(mean)), Ok(whole(next)));
        }
    }

    #[test]
    fn running_statistics_never_leave_the_range_of_the_sites() {
        let graph = graph(Preset::CnnBn);
        // Every site measured a variance close to zero where the model had one.
        let start = vec![1.0; graph.len()];
        let next = next_model(fedavg(1.5), &graph, &start, vec![-0.9; graph.len()]).unwrap();
        let statistics = |role| matches!(role, Role::RunningMean | Role::RunningVariance);
        assert!(graph.parameters().iter().any(|block| statistics(block.role())));
        for block in graph.parameters() {
            let expected = if statistics(block.role()) { 0.1 } else { -0.35 };
            assert!(
                next[block.range()].iter().all(|value| (value - expected).abs() < 1e-6),
                "{}",
                block.name()
            );
        }
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let graph = graph(Preset::Logistic);
        let mut start = vec![0.0; graph.len()];
        start[1] = f32::MAX;
        assert_eq!(next_model(fedavg(1.0), &graph, &start, start.clone()), Err(StrategyError::NotFinite(1)));
        let (short, want) = (graph.len() - 1, graph.len());
        let wrong = Err(StrategyError::WrongLength { got: short, want });
        assert_eq!(next_model(fedavg(1.0), &graph, &start, vec![0.0; short]), wrong);
        assert_eq!(next_model(fedavg(1.0), &graph, &start[1..], vec![0.0; want]), wrong);
    }
}
