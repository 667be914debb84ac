//! Strategies: from an aggregate to the next model, over flat vectors.
//!
//! A strategy sees the weighted mean of the survivors' updates and nothing about any one of them; rules that
//! must see single updates (median, Krum) cannot be written here. Every sum is documented, so that an auditor's
//! program reaches the same bytes.

use consilium_study::graph::ParameterSpec;
use consilium_study::strategy::Strategy;

/// A mean makes no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// Other lengths.
    #[error("a block of the start or of the aggregate has {got} entries, the model's has {want}")]
    WrongLength {
        /// Entries of the start's or of the aggregate's.
        got: usize,
        /// Entries of the model's.
        want: usize,
    },
    /// An entry of the next model would not be finite.
    #[error("entry {0} of the next model is not finite")]
    NotFinite(usize),
}

/// One block of the model after `start`, in place of the mean update that `next` holds; both of the block's length, and so
/// is `before`: of the model that was adopted before `start`, where there is one and the strategy has a momentum.
///
/// *FedAvg* (McMahan et al. 2017) with server learning rate η (Reddi et al. 2021):
/// `next[j] = f32(f64(start[j]) + η · f64(mean[j]))`, each operation rounded to nearest even. Running statistics
/// of normalisations are measured, not trained; for them η is 1, so that a variance stays between those of the sites.
/// *FedProx* (Li et al. 2020) is the same here; its pull is part of what sites train. *FedAvgM* (Hsu, Qi and Brown 2019)
/// then adds `β · (f64(start[j]) - f64(before[j]))` to trained entries, before it rounds to `f32`.
pub fn next_block(
    strategy: Strategy,
    block: &ParameterSpec,
    start: &[f32],
    before: Option<&[f32]>,
    next: &mut [f32],
) -> Result<(), StrategyError> {
    let lengths = [Some(start), before, Some(&*next)];
    if let Some(wrong) = lengths.into_iter().flatten().find(|part| part.len() != block.len()) {
        return Err(StrategyError::WrongLength { got: wrong.len(), want: block.len() });
    }
    let rate = if block.is_trainable() { strategy.server_learning_rate().get() } else { 1.0 };
    let momentum = if block.is_trainable() { strategy.server_momentum() } else { 0.0 };
    match before.filter(|_| momentum > 0.0) {
        Some(before) => {
            for ((next, start), before) in next.iter_mut().zip(start).zip(before) {
                let (start, before) = (f64::from(*start), f64::from(*before));
                *next = (start + rate * f64::from(*next) + momentum * (start - before)) as f32;
            }
        }
        None => {
            for (next, start) in next.iter_mut().zip(start) {
                *next = (f64::from(*start) + rate * f64::from(*next)) as f32;
            }
        }
    }
    match next.iter().position(|entry| !entry.is_finite()) {
        Some(entry) => Err(StrategyError::NotFinite(block.range().start + entry)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use consilium_study::graph::{ModelGraph, ModelSpec, Preset, Role};
    use consilium_study::quantity::{ServerLearningRate, ServerMomentum};

    use super::*;

    /// All blocks of a model.
    fn next_model(
        strategy: Strategy,
        graph: &ModelGraph,
        start: &[f32],
        mut mean: Vec<f32>,
    ) -> Result<Vec<f32>, StrategyError> {
        for block in graph.parameters() {
            next_block(strategy, block, &start[block.range()], None, &mut mean[block.range()])?;
        }
        Ok(mean)
    }

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
    fn momentum_goes_on_where_the_last_step_went_and_leaves_statistics_alone() {
        let graph = graph(Preset::CnnBn);
        let strategy = Strategy::FedAvgM {
            server_learning_rate: ServerLearningRate::new(0.5).unwrap(),
            server_momentum: ServerMomentum::new(0.75).unwrap(),
        };
        for block in graph.parameters() {
            let whole = |value| vec![value; block.len()];
            let next = |before: Option<&[f32]>| {
                let mut next = whole(2.0);
                next_block(strategy, block, &whole(3.0), before, &mut next).unwrap();
                next
            };
            let (first, later) = if block.is_trainable() { (4.0, 5.5) } else { (5.0, 5.0) };
            assert_eq!(next(None), whole(first), "{}", block.name());
            assert_eq!(next(Some(&whole(1.0))), whole(later), "{}", block.name());
        }
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let graph = graph(Preset::Logistic);
        let mut start = vec![0.0; graph.len()];
        start[1] = f32::MAX;
        assert_eq!(next_model(fedavg(1.0), &graph, &start, start.clone()), Err(StrategyError::NotFinite(1)));
        let block = &graph.parameters()[0];
        let (short, want) = (block.len() - 1, block.len());
        let wrong = Err(StrategyError::WrongLength { got: short, want });
        let zeros = || vec![0.0; want];
        assert_eq!(next_block(fedavg(1.0), block, &zeros(), None, &mut zeros()[1..]), wrong);
        assert_eq!(next_block(fedavg(1.0), block, &zeros()[1..], None, &mut zeros()), wrong);
        assert_eq!(next_block(fedavg(1.0), block, &zeros(), Some(&zeros()[1..]), &mut zeros()), wrong);
    }
}
