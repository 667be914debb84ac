//! Draws that belong to a place, not to a moment.
//!
//! Batch order, augmentation, dropout and initial weights are drawn from ChaCha12 streams whose key
//! is a hash of what the draw is for: study seed, site, round, epoch and index. A round that is run
//! again after a crash, or by another attempt, draws the same numbers, whatever was drawn in between.

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// What the draws of one site's round hang on. Never an attempt: a repeated attempt trains alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSeed {
    /// The study's seed.
    pub study_seed: u64,
    /// The site that trains.
    pub site: SiteName,
    /// The round, from 0.
    pub round: u32,
}

/// What draws are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The order of cases in an epoch.
    Order,
    /// How one case is varied in one epoch.
    Augmentation,
    /// What one layer drops in one step.
    Dropout,
}

impl Purpose {
    const fn label(self) -> &'static str {
        match self {
            Self::Order => "learning-order",
            Self::Augmentation => "learning-augmentation",
            Self::Dropout => "learning-dropout",
        }
    }
}

/// A stream of draws for one purpose at one place.
pub(crate) struct Draws(ChaCha12Rng);

impl Draws {
    /// Draws of a site in a round. `epoch` and `index` say where in the round.
    pub(crate) fn local(seed: &LocalSeed, purpose: Purpose, epoch: u32, index: u64) -> Self {
        let mut key = Vec::with_capacity(96);
        key.extend(seed.study_seed.to_be_bytes());
        key.extend(seed.round.to_be_bytes());
        key.extend(epoch.to_be_bytes());
        key.extend(index.to_be_bytes());
        // Last, because it alone has no fixed length.
        key.extend(seed.site.as_str().as_bytes());
        Self::keyed(purpose.label(), &key)
    }

    /// Draws for the initial values of one block of a model.
    pub(crate) fn initial(study_seed: u64, block: usize) -> Self {
        let mut key = study_seed.to_be_bytes().to_vec();
        key.extend((block as u64).to_be_bytes());
        Self::keyed("learning-initial", &key)
    }

    fn keyed(label: &str, key: &[u8]) -> Self {
        Self(ChaCha12Rng::from_seed(*Hash::labelled(label, key).as_bytes()))
    }

    /// 32 random bits.
    pub(crate) fn word(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A number below `bound`, each equally likely (Lemire 2019). `bound` is above zero.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let reject_below = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.word()) * u64::from(bound);
            if product as u32 >= reject_below {
                return (product >> 32) as u32;
            }
        }
    }

    /// A number in `[0, 1)` on a grid of 2^-24: every value is exact in f32.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.word() >> 8) as f32 / 16_777_216.0
    }

    /// Fisher and Yates' shuffle.
    pub(crate) fn shuffle(&mut self, items: &mut [u32]) {
        for last in (1..items.len()).rev() {
            let bound = u32::try_from(last + 1).expect("items are numbered by u32");
            items.swap(last, self.below(bound) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(site: &str, round: u32) -> LocalSeed {
        LocalSeed { study_seed: 1, site: SiteName::new(site).unwrap(), round }
    }

    #[test]
    fn every_part_of_the_key_changes_the_draws() {
        let first = |seed: &LocalSeed, purpose, epoch, index| {
            let mut draws = Draws::local(seed, purpose, epoch, index);
            (draws.word(), draws.word())
        };
        let base = first(&seed("a", 1), Purpose::Order, 2, 3);
        assert_eq!(base, first(&seed("a", 1), Purpose::Order, 2, 3));
        for other in [
            first(&LocalSeed { study_seed: 2, ..seed("a", 1) }, Purpose::Order, 2, 3),
            first(&seed("b", 1), Purpose::Order, 2, 3),
            first(&seed("a", 2), Purpose::Order, 2, 3),
            first(&seed("a", 1), Purpose::Dropout, 2, 3),
            first(&seed("a", 1), Purpose::Order, 3, 3),
            first(&seed("a", 1), Purpose::Order, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_even() {
        let mut first_places = [0_u32; 5];
        for index in 0..5000 {
            let mut items = [0, 1, 2, 3, 4];
            Draws::local(&seed("a", 0), Purpose::Order, 0, index).shuffle(&mut items);
            first_places[items[0] as usize] += 1;
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 3, 4]);
        }
        // Binomial(5000, 0.2): standard deviation 28, so 150 is beyond five of them.
        assert!(first_places.iter().all(|&count| count.abs_diff(1000) < 150), "{first_places:?}");
    }

    #[test]
    fn units_fill_the_half_open_interval() {
        let mut draws = Draws::initial(1, 0);
        let values: Vec<f32> = (0..10_000).map(|_| draws.unit()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        let mean = values.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
