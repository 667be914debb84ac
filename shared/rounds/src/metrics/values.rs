//! Values: how far a model is off, and how much of what tells cases apart it explains.

use consilium_study::task::{Measure, held};

use super::Wide;
use super::interval::{self, Interval};

/// The sums below, in their order (wide).
pub(super) type Words = [[u32; 2]; 9];
/// Ring words of these.
pub(super) const VALUE_WORDS: usize = 18;
/// Fixed-point steps of the whole range of values, and of its powers.
const UNIT: f64 = 16_777_216.0;

/// Sums over cases of absolute errors `e` and true values `y`, both as shares of the study's range, and of their powers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ValueCounts {
    errors: [Wide; 3],
    errors_by_values: [Wide; 2],
    values: [Wide; 4],
}

/// What sums say, in shares of the range and of its square. Intervals are of 95 %, from the variance between cases; there is none
/// with fewer than two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Errors {
    /// Mean absolute error.
    pub(super) mean: f64,
    pub(super) of_mean: Option<Interval>,
    /// Root of the mean squared error.
    pub(super) root_mean_square: f64,
    pub(super) of_root_mean_square: Option<Interval>,
    /// One less the squared errors over the squared distances from the mean; none where all cases have one value.
    pub(super) explained: Option<f64>,
    pub(super) of_explained: Option<Interval>,
}

impl ValueCounts {
    /// Adds a case. An output outside the range counts as the end that it is beyond.
    pub(super) fn add(&mut self, output: f32, value: Measure) {
        let y = value.share();
        let e = (held(output.into()) - y).abs();
        let add = |sums: &mut [Wide], terms: &[f64]| {
            for (sum, term) in sums.iter_mut().zip(terms) {
                sum.add((term * UNIT).round() as u64);
            }
        };
        let (square, y_square) = (e * e, y * y);
        add(&mut self.errors, &[e, square, square * square]);
        add(&mut self.errors_by_values, &[square * y, square * y_square]);
        add(&mut self.values, &[y, y_square, y_square * y, y_square * y_square]);
    }

    pub(super) fn words(self) -> Words {
        let ([e, ee, eeee], [eey, eeyy]) = (self.errors, self.errors_by_values);
        let [y, yy, yyy, yyyy] = self.values;
        [e, ee, eeee, eey, eeyy, y, yy, yyy, yyyy].map(Wide::words)
    }

    pub(super) fn from_words(words: Words) -> Self {
        let [e, ee, eeee, eey, eeyy, y, yy, yyy, yyyy] = words.map(Wide::from_words);
        Self { errors: [e, ee, eeee], errors_by_values: [eey, eeyy], values: [y, yy, yyy, yyyy] }
    }

    /// Whether so many cases can have such sums: nothing is above the whole range, and no power above a lower one, each rounded.
    pub(super) fn is_possible(self, cases: u32) -> bool {
        let ([e, ee, eeee], [eey, eeyy]) = (self.errors, self.errors_by_values);
        let [y, yy, yyy, yyyy] = self.values;
        let most = u64::from(cases) * UNIT as u64;
        let falls = |sums: &[Wide]| {
            sums.windows(2).all(|pair| pair[1].get() <= pair[0].get().saturating_add(cases.into()))
        };
        e.get() <= most
            && y.get() <= most
            && falls(&[e, ee, eeee])
            && falls(&[ee, eey, eeyy])
            && falls(&[y, yy, yyy, yyyy])
    }

    /// What they say of so many cases, at least one.
    pub(super) fn errors(self, cases: u32) -> Errors {
        let n = f64::from(cases);
        let mean_of = |sum: Wide| sum.get() as f64 / UNIT / n;
        let ([e, ee, eeee], [eey, eeyy]) = (self.errors.map(mean_of), self.errors_by_values.map(mean_of));
        let [y, yy, yyy, yyyy] = self.values.map(mean_of);
        let limits = |figure: f64, mean_square: f64, range: Interval| {
            let variance = mean_square.max(0.0) / (n - 1.0);
            (cases > 1).then(|| interval::of_figure(figure, variance, range)).flatten()
        };
        let distances = yy - y * y;
        // A step of rounding for each case is no difference between cases.
        let left = (distances > 1.0 / UNIT).then(|| ee / distances);
        // How much a case moves what is left unexplained, to first order: (e² − left · d²) / distances, where d = y − mean.
        let of_explained = left.and_then(|left| {
            let by_distances = eeyy - 2.0 * y * eey + y * y * ee;
            let fourth = yyyy - 4.0 * y * yyy + 6.0 * y * y * yy - 3.0 * y * y * y * y;
            let moves = eeee - 2.0 * left * by_distances + left * left * fourth;
            limits(1.0 - left, moves / (distances * distances), [f64::MIN, 1.0])
        });
        Errors {
            mean: e,
            of_mean: limits(e, ee - e * e, [0.0, 1.0]),
            root_mean_square: ee.sqrt(),
            of_root_mean_square: limits(ee, eeee - ee * ee, [0.0, 1.0]).map(|ends| ends.map(f64::sqrt)),
            explained: left.map(|left| 1.0 - left),
            of_explained,
        }
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
            let is_near = |got: Interval, want: Interval| got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-2);
            let about = |figure: f64, of_cases: Vec<f64>| {
                let mean = of_cases.iter().sum::<f64>() / n;
                let squares = of_cases.iter().map(|one| (one - mean).powi(2)).sum::<f64>();
                let half = 1.96 * (squares / (n - 1.0) / n).sqrt();
                [figure - half, figure + half]
            };
            let squared_errors: Vec<f64> = errors.iter().map(|error| error * error).collect();
            let held = |ends: Interval| ends.map(|end| end.clamp(0.0, 1.0));
            if let Some(limits) = got.of_mean {
                prop_assert!(is_near(limits, held(about(mean, errors.clone()))));
            }
            if let Some(limits) = got.of_root_mean_square {
                let want = held(about(squared / n, squared_errors.clone()));
                prop_assert!(is_near(limits.map(|end| end * end), want), "{:?} {:?}", limits, want);
            }
            if let Some(limits) = got.of_explained.filter(|_| distances > 0.1 * n) {
                let left = squared / distances;
                let moves = cases.iter().zip(&squared_errors).map(|((_, y), square)| {
                    (square - left * (y - middle).powi(2)) / (distances / n)
                });
                let [low, high] = about(1.0 - left, moves.collect());
                prop_assert!(is_near(limits, [low, high.min(1.0)]), "{:?} {} {}", limits, low, high);
            }
        }
    }

    /// What leaving each case out in turn says of the variance (Quenouille 1956, Tukey 1958) is what the sums say.
    #[test]
    fn what_is_explained_is_as_sure_as_the_jackknife_says() {
        let cases: Vec<(f64, f64)> = (0..400_u32)
            .map(|case| {
                let [y, noise] = [7919, 104_729].map(|prime| f64::from(case * prime % 1009) / 1009.0);
                (0.7 * y + 0.3 * noise, y)
            })
            .collect();
        let explained = |left_out: usize| {
            let mut counts = ValueCounts::default();
            for (_, (output, y)) in cases.iter().enumerate().filter(|(case, _)| *case != left_out) {
                counts.add(*output as f32, WHOLE.measure(*y).unwrap());
            }
            counts.errors(400 - u32::from(left_out < 400))
        };
        let without: Vec<f64> = (0..400).map(|case| explained(case).explained.unwrap()).collect();
        let middle = without.iter().sum::<f64>() / 400.0;
        let variance = 399.0 / 400.0 * without.iter().map(|one| (one - middle).powi(2)).sum::<f64>();
        let [low, high] = explained(400).of_explained.unwrap();
        let half = (high - low) / 2.0;
        assert!((half / (1.96 * variance.sqrt()) - 1.0).abs() < 0.02, "{half} {variance}");
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
        let errors = counts.errors(1);
        assert_eq!((errors.of_mean, errors.of_root_mean_square, errors.of_explained), (None, None, None));
        assert_eq!(errors.explained, None);
    }
}
