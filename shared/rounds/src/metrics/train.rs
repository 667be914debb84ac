//! What a training round counts beside the update.

use minicbor::{Decode, Encode};
use serde::Serialize;

use super::{MalformedCounts, UNIT, Wide, fixed};

/// One site's counts of a training round, or the sum of all survivors'. (Clipped sites and saturated entries
/// are counted by the quantiser, in places of their own.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainCounts {
    /// Training loss times weight, in fixed point.
    loss: Wide,
}

impl TrainCounts {
    /// Ring words taken by the counts.
    pub const WORDS: usize = 2;

    /// A site's counts. `weight` is the integer that stands at the head of the vector.
    pub fn new(mean_loss: f64, weight: u32) -> Self {
        Self { loss: Wide::new(fixed(mean_loss) * u64::from(weight)) }
    }

    /// The words of the counts, as they stand at the end of the vector.
    pub fn to_words(self) -> Vec<u32> {
        self.loss.words().to_vec()
    }

    /// Reads summed words.
    pub fn from_words(words: &[u32]) -> Result<Self, MalformedCounts> {
        let &[low, high] = words else {
            return Err(MalformedCounts::Length { got: words.len(), want: Self::WORDS });
        };
        Ok(Self { loss: Wide::from_words([low, high]) })
    }

    /// Mean training loss of a sum with total weight `weight`.
    pub fn loss(self, weight: u32) -> f64 {
        self.loss.get() as f64 / UNIT / f64::from(weight.max(1))
    }
}

/// What a training round says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct TrainFigures {
    /// Mean training loss, weighted as the update is.
    #[n(0)]
    pub loss: f64,
    /// Sum of the survivors' weights.
    #[n(1)]
    pub weight: u32,
    /// Survivors whose update was clipped.
    #[n(2)]
    pub clipped: u32,
    /// Entries that met the limit of the quantiser, over all survivors.
    #[n(3)]
    pub saturated: u64,
    /// L2 norm of the mean update, running statistics not included.
    #[n(4)]
    pub update_norm: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_of_a_sum_is_the_weighted_mean() {
        let mut sum = [0u32; TrainCounts::WORDS];
        for site in [TrainCounts::new(0.5, 4), TrainCounts::new(1.0, 12)] {
            for (total, word) in sum.iter_mut().zip(site.to_words()) {
                *total += word;
            }
        }
        assert!((TrainCounts::from_words(&sum).unwrap().loss(16) - 0.875).abs() < 1e-12);
        assert!(TrainCounts::from_words(&sum[..1]).is_err());
    }
}
