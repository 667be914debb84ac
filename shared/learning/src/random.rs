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
    /// How the cases of one batch are mixed.
    Mixup,
    /// What one layer drops in one step.
    Dropout,
}

impl Purpose {
    const fn label(self) -> &'static str {
        match self {
            Self::Order => "learning-order",
            Self::Augmentation => "learning-augmentation",
            Self::Mixup => "learning-mixup",
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

    /// A number in `[-1, 1)` on a grid of 2^-23.
    pub(crate) fn signed_unit(&mut self) -> f32 {
        2.0 * self.unit() - 1.0
    }

    /// A number in `(0, 1)`: the middle of one of 2^32 equal intervals.
    fn inner_unit(&mut self) -> f64 {
        middle_of(self.word())
    }

    /// A number of the standard normal distribution, from one word; at most 6.34 from zero.
    pub(crate) fn normal(&mut self) -> f32 {
        quantile(self.inner_unit()) as f32
    }

    /// A number in `(0, 1)` of the distribution `Beta(alpha, alpha)` (Jöhnk 1964). `alpha` is between 0.05 and 4: below, its
    /// powers could vanish, above, nearly all are rejected.
    pub(crate) fn beta(&mut self, alpha: f64) -> f64 {
        loop {
            let (one, other) = (self.inner_unit().powf(1.0 / alpha), self.inner_unit().powf(1.0 / alpha));
            if one + other <= 1.0 {
                return one / (one + other);
            }
        }
    }

    /// Fisher and Yates' shuffle.
    pub(crate) fn shuffle(&mut self, items: &mut [u32]) {
        for last in (1..items.len()).rev() {
            let bound = u32::try_from(last + 1).expect("items are numbered by u32");
            items.swap(last, self.below(bound) as usize);
        }
    }
}

/// The middle of interval `word` of 2^32 that divide 0 to 1.
fn middle_of(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

/// The standard normal quantile at `place` in `(0, 1)`, with a relative error of 1e-7 (Wichura 1988, algorithm AS 241, PPND7).
/// Most places need no logarithm. None of [`Draws::inner_unit`] reaches the branch for tails below `exp(-25)`.
fn quantile(place: f64) -> f64 {
    let middle = place - 0.5;
    if middle.abs() <= 0.425 {
        let r = 0.180_625 - middle * middle;
        let above = ((59.109_374_72 * r + 159.291_132_02) * r + 50.434_271_938) * r + 3.387_132_717_9;
        let below = ((67.187_563_6 * r + 78.757_757_664) * r + 17.895_169_469) * r + 1.0;
        return middle * above / below;
    }
    let r = (-place.min(1.0 - place).ln()).sqrt() - 1.6;
    let above = ((0.170_238_211_03 * r + 1.306_728_481_6) * r + 2.756_815_39) * r + 1.423_437_277_7;
    let below = (0.120_211_329_75 * r + 0.737_001_642_5) * r + 1.0;
    (above / below).copysign(middle)
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
        assert!((0..10_000).all(|_| (-1.0..1.0).contains(&draws.signed_unit())));
    }

    /// Word and quantile, the latter by PyTorch's `ndtri` in f64.
    const QUANTILES: [(u32, f64); 8] = [
        (0, -6.337_957_754_553_79),
        (1, -6.166_429_517_819_75),
        (1 << 20, -3.487_103_976_591_69),
        (1 << 28, -1.534_120_543_405_956_6),
        (1 << 30, -0.674_489_749_829_738_4),
        (3 << 30, 0.674_489_750_562_425_1),
        (0xf000_0000, 1.534_120_545_299_136),
        (u32::MAX, 6.337_957_754_553_79),
    ];

    #[test]
    fn normal_draws_are_quantiles() {
        for (word, quantile) in QUANTILES {
            let got = super::quantile(middle_of(word));
            assert!((got / quantile - 1.0).abs() < 3e-7, "{word:#x}: {got}, not {quantile}");
        }
    }

    #[test]
    fn normal_draws_have_mean_zero_and_variance_one() {
        let mut draws = Draws::initial(1, 1);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(draws.normal())).collect();
        let moment = |power| values.iter().map(|value| value.powi(power)).sum::<f64>() / 100_000.0;
        // Five standard errors: of the mean 0.0032, of the square 0.0045, of the fourth power 0.031.
        assert!(moment(1).abs() < 0.016, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.023, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.16, "{}", moment(4));
    }

    /// Mean a half, variance `1 / (4 (2 alpha + 1))`, at both ends of what a study may ask for and between.
    #[test]
    fn beta_draws_have_the_moments_of_their_distribution() {
        for alpha in [0.05, 0.2, 1.0, 4.0] {
            let mut draws = Draws::initial(1, 2);
            let values: Vec<f64> = (0..20_000).map(|_| draws.beta(alpha)).collect();
            assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
            let mean = values.iter().sum::<f64>() / 20_000.0;
            let variance = values.iter().map(|value| (value - 0.5).powi(2)).sum::<f64>() / 20_000.0;
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 0.018, "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "{alpha}: {variance}, not {expected}");
        }
    }
}
