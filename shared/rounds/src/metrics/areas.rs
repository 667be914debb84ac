//! Areas of masks: what of a class a site saw in a picture, and what the model did.

use super::interval::Interval;
use super::sampled::{SAMPLED_WORDS, Sampled};

/// Words of a class: pictures, and their coefficients.
pub(super) const AREA_WORDS: usize = 1 + SAMPLED_WORDS;

/// Dice coefficients (Dice 1945) of one class, summed over the pictures that have it in mask or prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AreaCounts {
    pictures: u32,
    coefficients: Sampled,
}

impl AreaCounts {
    /// Adds a picture: pixels that mask and prediction share, and pixels of both, each counted by itself. One with none of
    /// the class says nothing about it.
    pub(super) fn add(&mut self, shared: u64, both: u64) {
        if both == 0 {
            return;
        }
        self.pictures += 1;
        self.coefficients.add(2.0 * shared as f64 / both as f64);
    }

    pub(super) fn words(self) -> [u32; AREA_WORDS] {
        let [low, high, square_low, square_high] = self.coefficients.words();
        [self.pictures, low, high, square_low, square_high]
    }

    pub(super) fn from_words([pictures, coefficients @ ..]: [u32; AREA_WORDS]) -> Self {
        Self { pictures, coefficients: Sampled::from_words(coefficients) }
    }

    /// Whether so many cases can have such a sum.
    pub(super) fn is_possible(self, cases: u32) -> bool {
        self.pictures <= cases && self.coefficients.is_possible(self.pictures, 1)
    }

    /// The mean over the pictures.
    pub(super) fn mean(self) -> Option<f64> {
        (self.pictures > 0).then(|| self.coefficients.mean(self.pictures))
    }

    /// Its 95 % interval, from the variance between pictures. None with fewer than two.
    pub(super) fn interval(self) -> Option<Interval> {
        self.coefficients.interval(self.pictures, [0.0, 1.0])
    }
}

/// Pixels of each class that a mask and a prediction share, and pixels of both, each counted by itself.
/// `classes` is the number of them.
pub(super) fn overlaps(
    mask: &[u8],
    prediction: impl Iterator<Item = usize>,
    classes: usize,
) -> Vec<(u64, u64)> {
    let mut overlaps = vec![(0, 0); classes];
    for (truth, predicted) in mask.iter().map(|class| usize::from(*class)).zip(prediction) {
        overlaps[truth].1 += 1;
        overlaps[predicted].1 += 1;
        if truth == predicted {
            overlaps[truth].0 += 1;
        }
    }
    overlaps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Counts, shares and limits against the definition, picture by picture.
        #[test]
        fn coefficients_are_those_of_sets(
            // Of one class up to all, so that some are nowhere in a picture.
            pictures in prop::collection::vec((1_u8..4).prop_flat_map(|some| {
                let pixels = || prop::collection::vec(0..some, 20);
                (pixels(), pixels())
            }), 0..8),
        ) {
            let mut counts = [AreaCounts::default(); 3];
            let mut exact: Vec<Vec<f64>> = vec![Vec::new(); 3];
            for (mask, predicted) in &pictures {
                let prediction = predicted.iter().map(|class| usize::from(*class));
                for (class, (shared, both)) in overlaps(mask, prediction, 3).into_iter().enumerate() {
                    counts[class].add(shared, both);
                    let is = |value: &u8| usize::from(*value) == class;
                    let inside = mask.iter().zip(predicted).filter(|(one, other)| is(one) && is(other)).count();
                    let all = mask.iter().filter(|one| is(one)).count() + predicted.iter().filter(|one| is(one)).count();
                    if all > 0 {
                        exact[class].push(2.0 * inside as f64 / all as f64);
                    }
                }
            }
            for (counts, exact) in counts.into_iter().zip(exact) {
                let counts = AreaCounts::from_words(counts.words());
                prop_assert!(counts.is_possible(pictures.len() as u32));
                let n = exact.len() as f64;
                let mean = exact.iter().sum::<f64>() / n;
                prop_assert_eq!(counts.mean().is_some(), n > 0.0);
                if let Some(got) = counts.mean() {
                    prop_assert!((got - mean).abs() < 1e-4);
                }
                if let Some([low, high]) = counts.interval() {
                    let variance = exact.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (n - 1.0) / n;
                    let half = 1.96 * variance.sqrt();
                    prop_assert!((low - (mean - half).max(0.0)).abs() < 1e-2 && (high - (mean + half).min(1.0)).abs() < 1e-2);
                }
            }
        }
    }

    #[test]
    fn sums_that_no_pictures_have_are_noticed() {
        let mut counts = AreaCounts::default();
        counts.add(3, 8);
        counts.add(0, 0);
        assert!(counts.is_possible(1) && !counts.is_possible(0));
        let words = counts.words();
        for word in 0..AREA_WORDS {
            let mut changed = words;
            changed[word] = changed[word].wrapping_add(1 << 31);
            assert!(!AreaCounts::from_words(changed).is_possible(2), "word {word}");
        }
    }
}
