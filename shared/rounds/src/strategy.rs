//! Strategies: from an aggregate to the next model, over flat vectors.
//!
//! A strategy sees the weighted mean of the survivors' updates and nothing about any one of them; rules that
//! must see single updates (median, Krum) cannot be written here. Every sum is documented, so that an auditor's
//! program reaches the same bytes.

use consilium_study::graph::{ParameterSpec, Treatment};
use consilium_study::strategy::{FIRST_KEPT, SECOND_KEPT, SecondMoment, Strategy};

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

/// What a strategy remembers of earlier rounds about one block; every part has the block's length.
#[derive(Debug, Default)]
pub struct Memory<'a> {
    /// Of the model that was adopted before the round's starting model, where there is one and the strategy has a momentum.
    pub before: Option<&'a [f32]>,
    /// Where the strategy keeps moments: as they were; they become those after this round.
    pub moments: Option<[&'a mut [f32]; 2]>,
}

/// One block of the moments that an adaptive strategy begins with.
pub fn first_moments(strategy: Strategy, block: &ParameterSpec) -> Option<[Vec<f32>; 2]> {
    let Strategy::Adaptive { tau, .. } = strategy else { return None };
    let moves = block.treatment() == Treatment::Averaged && block.is_trainable();
    let second = if moves { (tau.get() * tau.get()) as f32 } else { 0.0 };
    Some([vec![0.0; block.len()], vec![second; block.len()]])
}

/// One block of the model after `start`, in place of the mean update that `next` holds.
///
/// *FedAvg* (McMahan et al. 2017) with server learning rate η (Reddi et al. 2021):
/// `next[j] = f32(f64(start[j]) + η · f64(mean[j]))`, each operation rounded to nearest even. Running statistics
/// of normalisations are measured, not trained; for them η is 1, so that a variance stays between those of the sites.
/// *FedProx* (Li et al. 2020) is the same here; its pull is part of what sites train. *FedAvgM* (Hsu, Qi and Brown 2019)
/// then adds `β · (f64(start[j]) - f64(before[j]))` to trained entries, before it rounds to `f32`. *FedAdagrad*, *FedAdam* and
/// *FedYogi* (Reddi et al. 2021, algorithm 2) bring the moments of trained entries forward, round them to `f32`, and add
/// `η · m / (√v + τ)` of the rounded ones in place of `η · mean`. A block that is not averaged stays as it is in `start`, and
/// so do its moments. *SCAFFOLD* (Karimireddy et al. 2020) is FedAvg here; see [`crate::control`].
pub fn next_block(
    strategy: Strategy,
    block: &ParameterSpec,
    start: &[f32],
    memory: Memory<'_>,
    next: &mut [f32],
) -> Result<(), StrategyError> {
    let Memory { before, moments } = memory;
    let of_moments = moments.iter().flatten().map(|moments| &**moments);
    let lengths = [Some(start), before, Some(&*next)].into_iter().flatten().chain(of_moments);
    if let Some(wrong) = lengths.map(<[f32]>::len).find(|length| *length != block.len()) {
        return Err(StrategyError::WrongLength { got: wrong, want: block.len() });
    }
    if block.treatment() != Treatment::Averaged {
        next.copy_from_slice(start);
        return Ok(());
    }
    let rate = if block.is_trainable() { strategy.server_learning_rate().get() } else { 1.0 };
    let momentum = if block.is_trainable() { strategy.server_momentum() } else { 0.0 };
    match (strategy, moments, before.filter(|_| momentum > 0.0)) {
        (Strategy::Adaptive { rule, tau, .. }, Some([first, second]), _) if block.is_trainable() => {
            for (((next, start), first), second) in next.iter_mut().zip(start).zip(first).zip(second) {
                let mean = f64::from(*next);
                *first = (FIRST_KEPT * f64::from(*first) + (1.0 - FIRST_KEPT) * mean) as f32;
                *second = second_moment(rule, f64::from(*second), mean * mean) as f32;
                let step = f64::from(*first) / (f64::from(*second).sqrt() + tau.get());
                *next = (f64::from(*start) + rate * step) as f32;
            }
        }
        (_, _, Some(before)) => {
            for ((next, start), before) in next.iter_mut().zip(start).zip(before) {
                let (start, before) = (f64::from(*start), f64::from(*before));
                *next = (start + rate * f64::from(*next) + momentum * (start - before)) as f32;
            }
        }
        (_, _, None) => {
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

/// The second moment after an update with this `square`.
fn second_moment(rule: SecondMoment, second: f64, square: f64) -> f64 {
    match rule {
        SecondMoment::Adagrad => second + square,
        SecondMoment::Adam => SECOND_KEPT * second + (1.0 - SECOND_KEPT) * square,
        SecondMoment::Yogi if second > square => second - (1.0 - SECOND_KEPT) * square,
        SecondMoment::Yogi if second < square => second + (1.0 - SECOND_KEPT) * square,
        SecondMoment::Yogi => second,
    }
}

#[cfg(test)]
mod tests {
    use consilium_study::graph::{ModelGraph, ModelSpec, Preset, Role};
    use consilium_study::quantity::{Adaptivity, ServerLearningRate, ServerMomentum};
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    /// All blocks of a model.
    fn next_model(
        strategy: Strategy,
        graph: &ModelGraph,
        start: &[f32],
        mut mean: Vec<f32>,
    ) -> Result<Vec<f32>, StrategyError> {
        for block in graph.parameters() {
            next_block(strategy, block, &start[block.range()], Memory::default(), &mut mean[block.range()])?;
        }
        Ok(mean)
    }

    fn fedavg(rate: f64) -> Strategy {
        Strategy::FedAvg { server_learning_rate: ServerLearningRate::new(rate).unwrap() }
    }

    fn graph(preset: Preset) -> ModelGraph {
        ModelSpec::Preset { preset, norm: None, stem: None }.graph([1, 4, 4], 2).unwrap()
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
                let memory = Memory { before, moments: None };
                next_block(strategy, block, &whole(3.0), memory, &mut next).unwrap();
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
        let none = Memory::default;
        assert_eq!(next_block(fedavg(1.0), block, &zeros(), none(), &mut zeros()[1..]), wrong);
        assert_eq!(next_block(fedavg(1.0), block, &zeros()[1..], none(), &mut zeros()), wrong);
        let before = zeros();
        let memory = Memory { before: Some(&before[1..]), moments: None };
        assert_eq!(next_block(fedavg(1.0), block, &zeros(), memory, &mut zeros()), wrong);
        let (mut first, mut second) = (zeros(), zeros());
        let memory = Memory { before: None, moments: Some([&mut first, &mut second[1..]]) };
        assert_eq!(next_block(fedavg(1.0), block, &zeros(), memory, &mut zeros()), wrong);
    }

    const RULES: [SecondMoment; 3] = [SecondMoment::Adagrad, SecondMoment::Adam, SecondMoment::Yogi];

    fn adaptive(rule: SecondMoment, tau: f64) -> Strategy {
        let server_learning_rate = ServerLearningRate::new(0.5).unwrap();
        Strategy::Adaptive { rule, server_learning_rate, tau: Adaptivity::new(tau).unwrap() }
    }

    /// By hand: `m` 0.2 of a mean 2, `v` by each rule from τ² = 0.25, and half of `m / (√v + 0.5)`.
    #[test]
    fn moments_follow_the_paper_and_leave_statistics_alone() {
        let graph = graph(Preset::CnnBn);
        for (rule, second) in RULES.into_iter().zip([4.25_f64, 0.287_5, 0.29]) {
            for block in graph.parameters() {
                let mut next = vec![2.0; block.len()];
                let mut moments = first_moments(adaptive(rule, 0.5), block).unwrap();
                let [m, v] = &mut moments;
                let memory = Memory { before: None, moments: Some([m, v]) };
                next_block(adaptive(rule, 0.5), block, &vec![1.0; block.len()], memory, &mut next).unwrap();
                let close = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-6;
                if block.is_trainable() {
                    assert!(close(m[0], 0.2) && close(v[0], second), "{rule:?}: {} {}", m[0], v[0]);
                    assert!(close(next[0], 1.0 + 0.5 * 0.2 / (second.sqrt() + 0.5)), "{rule:?}: {}", next[0]);
                } else {
                    assert!(close(m[0], 0.0) && close(v[0], 0.0) && close(next[0], 3.0), "{}", block.name());
                }
            }
        }
    }

    proptest! {
        /// Whatever the updates, no step is longer than what a site takes for possible.
        #[test]
        fn no_adaptive_step_is_longer_than_its_bound(
            updates in proptest::collection::vec((-3.0_f32..3.0, -6_i32..3), 1..40),
            rule in 0..3_usize,
            tau in 1e-6_f64..1.0,
        ) {
            let graph = graph(Preset::Logistic);
            let (block, strategy) = (&graph.parameters()[0], adaptive(RULES[rule], tau));
            let [mut first, mut second] = first_moments(strategy, block).unwrap();
            let longest = updates.iter().map(|(part, power)| f64::from(part.abs()) * 10_f64.powi(*power)).fold(0.0, f64::max);
            let longest = longest * (block.len() as f64).sqrt();
            for (part, power) in updates {
                let mut next = vec![part * 10_f32.powi(power); block.len()];
                let memory = Memory { before: None, moments: Some([&mut first, &mut second]) };
                next_block(strategy, block, &vec![0.0; block.len()], memory, &mut next).unwrap();
                let step = next.iter().map(|entry| f64::from(*entry).powi(2)).sum::<f64>().sqrt();
                prop_assert!(step <= strategy.longest_step(longest, block.len()) + 1e-12);
            }
        }
    }
}
