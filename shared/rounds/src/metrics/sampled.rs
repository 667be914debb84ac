//! A figure that every case has: its mean over the cases, and how sure that is.

use super::interval::{self, Interval};
use super::{UNIT, Wide};

/// Words of one: the sum and the sum of squares (wide).
pub(super) const SAMPLED_WORDS: usize = 4;

/// A figure of single cases, summed, and its squares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sampled {
    sum: Wide,
    squares: Wide,
}

impl Sampled {
    /// Adds a case's, which is not below zero.
    pub(super) fn add(&mut self, figure: f64) {
        self.sum.add((figure * UNIT).round() as u64);
        self.squares.add((figure * figure * UNIT).round() as u64);
    }

    pub(super) fn words(self) -> [u32; SAMPLED_WORDS] {
        let ([low, high], [square_low, square_high]) = (self.sum.words(), self.squares.words());
        [low, high, square_low, square_high]
    }

    pub(super) fn from_words([low, high, square_low, square_high]: [u32; SAMPLED_WORDS]) -> Self {
        Self { sum: Wide::from_words([low, high]), squares: Wide::from_words([square_low, square_high]) }
    }

    /// Whether so many cases can have such sums, of figures between 0 and `most`, which is at least 1.
    pub(super) fn is_possible(self, cases: u32, most: u32) -> bool {
        let (cases, most) = (u64::from(cases), u64::from(most));
        // A square is at most `most` times what is squared; both are rounded.
        let squares = self.sum.get().saturating_add(cases).saturating_mul(most);
        self.sum.get() <= cases * most * UNIT as u64 && self.squares.get() <= squares
    }

    /// The mean over so many cases.
    pub(super) fn mean(self, cases: u32) -> f64 {
        self.sum.get() as f64 / UNIT / f64::from(cases)
    }

    /// Its 95 % interval, from the variance between cases, inside `range`. None with fewer than two.
    pub(super) fn interval(self, cases: u32, range: Interval) -> Option<Interval> {
        if cases < 2 {
            return None;
        }
        let (mean, count) = (self.mean(cases), f64::from(cases));
        let spread = (self.squares.get() as f64 / UNIT - count * mean * mean).max(0.0) / (count - 1.0);
        interval::of_figure(mean, spread / count, range)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Mean and limits against their definitions, whichever site has which case.
        #[test]
        fn limits_are_those_of_a_mean(sites in prop::collection::vec(prop::collection::vec(0.0..16.0_f64, 0..9), 1..5)) {
            let mut words = [0; SAMPLED_WORDS];
            for site in &sites {
                let mut sums = Sampled::default();
                for figure in site {
                    sums.add(*figure);
                }
                words.iter_mut().zip(sums.words()).for_each(|(sum, word)| *sum += word);
            }
            let (sums, figures) = (Sampled::from_words(words), sites.concat());
            let cases = figures.len() as u32;
            prop_assert!(sums.is_possible(cases, 16));
            if cases > 0 {
                let n = f64::from(cases);
                let mean = figures.iter().sum::<f64>() / n;
                prop_assert!((sums.mean(cases) - mean).abs() < 1e-4);
                let squares = figures.iter().map(|figure| (figure - mean).powi(2)).sum::<f64>();
                let half = 1.96 * (squares / (n - 1.0) / n).sqrt();
                match sums.interval(cases, [0.0, 16.0]) {
                    Some([low, high]) => prop_assert!(
                        (low - (mean - half).max(0.0)).abs() < 2e-2 && (high - (mean + half).min(16.0)).abs() < 2e-2,
                    ),
                    None => prop_assert!(cases < 2 || half < 1e-1),
                }
            }
        }
    }

    #[test]
    fn sums_that_no_cases_have_are_noticed() {
        let mut sums = Sampled::default();
        sums.add(16.0);
        assert!(sums.is_possible(1, 16) && !sums.is_possible(0, 16) && !sums.is_possible(1, 15));
        for word in 0..SAMPLED_WORDS {
            let mut changed = sums.words();
            changed[word] = changed[word].wrapping_add(1 << 31);
            assert!(!Sampled::from_words(changed).is_possible(1, 16), "word {word}");
        }
    }
}
