//! Values: how far a model is off, and how much of what tells cases apart it explains.

use consilium_study::task::{Measure, held};

use super::Wide;
use super::interval::{self, Interval};

/// Absolute and squared errors, true values and their squares (wide).
pub(super) type Words = [[u32; 2]; 4];
/// Ring words of these.
pub(super) const VALUE_WORDS: usize = 8;
/// Fixed-point steps of the whole range of values, and of its square.
const UNIT: f64 = 16_777_216.0;

/// Sums over cases whose values are places in the study's range, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ValueCounts {
    errors: Wide,
    squared_errors: Wide,
    values: Wide,
    squares: Wide,
}

/// What sums say, in shares of the range and of its square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Errors {
    /// Mean absolute error.
    pub(super) mean: f64,
    /// Its 95 % interval, from the variance between cases; none with fewer than two.
    pub(super) interval: Option<Interval>,
    /// Root of the mean squared error.
    pub(super) root_mean_square: f64,
    /// One less the squared errors over the squared distances from the mean; none where all cases have one value.
    pub(super) explained: Option<f64>,
}

impl ValueCounts {
    /// Adds a case. An output outside the range counts as the end that it is beyond.
    pub(super) fn add(&mut self, output: f32, value: Measure) {
        let value = value.share();
        let error = (held(output.into()) - value).abs();
        for (sum, term) in [
            (&mut self.errors, error),
            (&mut self.squared_errors, error * error),
            (&mut self.values, value),
            (&mut self.squares, value * value),
        ] {
            sum.add((term * UNIT).round() as u64);
        }
    }

    pub(super) fn words(self) -> Words {
        let Self { errors, squared_errors, values, squares } = self;
        [errors, squared_errors, values, squares].map(Wide::words)
    }

    pub(super) fn from_words(words: Words) -> Self {
        let [errors, squared_errors, values, squares] = words.map(Wide::from_words);
        Self { errors, squared_errors, values, squares }
    }

    /// Whether so many cases can have such sums: nothing is above the whole range, and no square above what is squared, each
    /// rounded.
    pub(super) fn is_possible(self, cases: u32) -> bool {
        let most = u64::from(cases) * UNIT as u64;
        let pairs = [(self.errors, self.squared_errors), (self.values, self.squares)];
        pairs.iter().all(|(plain, squares)| {
            plain.get() <= most && squares.get() <= plain.get().saturating_add(cases.into())
        })
    }

    /// What they say of so many cases, at least one.
    pub(super) fn errors(self, cases: u32) -> Errors {
        let n = f64::from(cases);
        let [errors, squared_errors, values, squares] =
            [self.errors, self.squared_errors, self.values, self.squares].map(|sum| sum.get() as f64 / UNIT);
        let mean = errors / n;
        let spread = (squared_errors - errors * mean).max(0.0) / (n - 1.0);
        let interval = (cases > 1).then(|| interval::of_figure(mean, spread / n, [0.0, 1.0])).flatten();
        let distances = squares - values * values / n;
        // A step of rounding for each case is no difference between cases.
        let explained = (distances > n / UNIT).then(|| 1.0 - squared_errors / distances);
        Errors { mean, interval, root_mean_square: (squared_errors / n).sqrt(), explained }
    }
}

#[cfg(test)]
mod tests {
    use consilium_study::task::Range;
    use proptest::prelude::*;

    use super::*;

    const WHOLE: Range = Range { low: 0.0, high: 1.0 };

    /// `mean_absolute_error`, `root_mean_squared_error` and `r2_score` of scikit-learn's documentation, whose values are
    /// brought from between -10 and 10 to between 0 and 1.
    #[test]
    fn agrees_with_published_examples() {
        let mut counts = ValueCounts::default();
        let place = |value: f64| (value + 10.0) / 20.0;
        for (truth, predicted) in [(3.0, 2.5), (-0.5, 0.0), (2.0, 2.0), (7.0, 8.0)] {
            counts.add(place(predicted) as f32, WHOLE.measure(place(truth)).unwrap());
        }
        let errors = counts.errors(4);
        assert!((errors.mean * 20.0 - 0.5).abs() < 1e-5);
        assert!((errors.root_mean_square * 20.0 - 0.375_f64.sqrt()).abs() < 1e-5);
        assert!((errors.explained.unwrap() - 0.948_608_137).abs() < 1e-5);
    }

    proptest! {
        /// Sums over sites are those over all cases together, whoever has which; figures and limits follow from the definitions.
        #[test]
        fn federation_equals_pooled(
            sites in prop::collection::vec(prop::collection::vec((-0.5_f32..1.5, 0.0..=1.0), 0..12), 1..5),
        ) {
            let mut words = Words::default();
            for site in &sites {
                let mut counts = ValueCounts::default();
                for (output, value) in site {
                    counts.add(*output, WHOLE.measure(*value).unwrap());
                }
                let sums = words.as_flattened_mut().iter_mut();
                sums.zip(counts.words().as_flattened()).for_each(|(sum, word)| *sum += word);
            }
            let cases: Vec<_> = sites.concat();
            let counts = ValueCounts::from_words(words);
            prop_assert!(counts.is_possible(cases.len() as u32));
            prop_assume!(!cases.is_empty());
            let got = counts.errors(cases.len() as u32);
            let n = cases.len() as f64;
            let errors: Vec<f64> = cases.iter().map(|(o, y)| (f64::from(o.clamp(0.0, 1.0)) - y).abs()).collect();
            let mean = errors.iter().sum::<f64>() / n;
            let squared = errors.iter().map(|error| error * error).sum::<f64>();
            prop_assert!((got.mean - mean).abs() < 1e-6);
            prop_assert!((got.root_mean_square - (squared / n).sqrt()).abs() < 1e-4);
            let middle = cases.iter().map(|(_, y)| y).sum::<f64>() / n;
            let distances = cases.iter().map(|(_, y)| (y - middle).powi(2)).sum::<f64>();
            if distances > 0.01 {
                prop_assert!((got.explained.unwrap() - (1.0 - squared / distances)).abs() < 1e-2);
            }
            if let Some([low, high]) = got.interval {
                let deviation = (errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
                let half = 1.96 * deviation / n.sqrt();
                prop_assert!((low - (mean - half).max(0.0)).abs() < 1e-3 && (high - (mean + half).min(1.0)).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn sums_that_no_cases_have_are_noticed() {
        let mut counts = ValueCounts::default();
        counts.add(0.25, WHOLE.measure(0.75).unwrap());
        assert!(counts.is_possible(1) && !counts.is_possible(0));
        for word in 0..VALUE_WORDS {
            let mut changed = counts.words();
            let changing = &mut changed.as_flattened_mut()[word];
            *changing = changing.wrapping_add(1 << 31);
            assert!(!ValueCounts::from_words(changed).is_possible(2), "word {word}");
        }
    }

    #[test]
    fn an_output_that_is_no_number_is_the_middle() {
        let mut counts = ValueCounts::default();
        counts.add(f32::NAN, WHOLE.measure(1.0).unwrap());
        assert!((counts.errors(1).mean - 0.5).abs() < 1e-6);
        assert_eq!((counts.errors(1).interval, counts.errors(1).explained), (None, None));
    }
}
