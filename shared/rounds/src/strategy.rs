//! Strategies: from an aggregate to the next model, over flat vectors.
//!
//! A strategy sees the weighted mean of the survivors' updates and nothing about any one of them; rules that
//! must see single updates (median, Krum) cannot be written here. Every sum is documented, so that an auditor's
//! program reaches the same bytes.

use consilium_study::document::Strategy;

/// The mean does not fit the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// Other lengths.
    #[error("the aggregate has {got} entries, the model has {want}")]
    WrongLength {
        /// Entries of the aggregate.
        got: usize,
        /// Entries of the model.
        want: usize,
    },
    /// An entry of the next model would not be finite.
    #[error("entry {0} of the next model is not finite")]
    NotFinite(usize),
}

/// The model after `start`, shape `[params]`, given the mean update, shape `[params]`, whose memory it takes.
///
/// *FedAvg* (McMahan et al. 2017): `next[j] = f32(f64(start[j]) + f64(mean[j]))`, rounded once, to nearest even.
pub fn next_model(strategy: Strategy, start: &[f32], mean: Vec<f32>) -> Result<Vec<f32>, StrategyError> {
    if mean.len() != start.len() {
        return Err(StrategyError::WrongLength { got: mean.len(), want: start.len() });
    }
    let mut next = mean;
    match strategy {
        Strategy::FedAvg => {
            for (entry, (next, start)) in next.iter_mut().zip(start).enumerate() {
                *next = (f64::from(*start) + f64::from(*next)) as f32;
                if !next.is_finite() {
                    return Err(StrategyError::NotFinite(entry));
                }
            }
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fedavg_adds_the_mean() {
        let next = next_model(Strategy::FedAvg, &[1.0, -2.0], vec![0.5, 0.25]);
        assert_eq!(next, Ok(vec![1.5, -1.75]));
    }

    #[test]
    fn a_model_that_is_not_finite_is_refused() {
        assert_eq!(
            next_model(Strategy::FedAvg, &[0.0, f32::MAX], vec![0.0, f32::MAX]),
            Err(StrategyError::NotFinite(1))
        );
        assert_eq!(
            next_model(Strategy::FedAvg, &[0.0], vec![]),
            Err(StrategyError::WrongLength { got: 0, want: 1 })
        );
    }
}
