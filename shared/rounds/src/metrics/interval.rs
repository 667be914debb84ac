//! How sure the figures are: 95 % intervals from the same sums.
//!
//! They are about other patients from where these came from, and take cases for independent: where patients have several cases
//! each, the truth is wider. A mean over classes or findings has the means of their limits, which is never too narrow: a
//! standard deviation of a mean is at most the mean of the standard deviations.
//!
//! Only roots and the four operations are used, so that every machine reaches the same bytes.

use std::collections::BTreeMap;

use consilium_study::metric::Metric;

/// Lower and upper limit.
pub type Interval = [f64; 2];

/// Intervals of those metrics that have one.
pub type Intervals = BTreeMap<Metric, Interval>;

/// The normal distribution has 95 % within so many standard deviations.
const DEVIATIONS: f64 = 1.959_963_984_540_054;

/// Of a share (Wilson 1927).
pub(super) fn of_share(part: u64, whole: u64) -> Option<Interval> {
    if whole == 0 {
        return None;
    }
    let (n, p) = (whole as f64, part as f64 / whole as f64);
    let square = DEVIATIONS * DEVIATIONS;
    let centre = (p + square / (2.0 * n)) / (1.0 + square / n);
    let half = DEVIATIONS / (1.0 + square / n) * (p * (1.0 - p) / n + square / (4.0 * n * n)).sqrt();
    Some([(centre - half).max(0.0), (centre + half).min(1.0)])
}

/// Of a figure with a standard deviation, inside the range of the figure. None where there is no deviation: all cases agreed, and
/// nothing says how many would.
pub(super) fn of_figure(figure: f64, variance: f64, range: Interval) -> Option<Interval> {
    let half = DEVIATIONS * variance.sqrt();
    (half > 0.0).then(|| [(figure - half).max(range[0]), (figure + half).min(range[1])])
}

/// Variance of the area under a ROC curve (DeLong, DeLong and Clarke-Pearson 1988) from histograms of scores, pairs in one bin
/// counted half. None with fewer than two cases of a kind.
pub(super) fn auroc_variance(positives: &[u32], negatives: &[u32]) -> Option<f64> {
    let upwards = |bin: usize| (positives[bin], negatives[bin]);
    let one = placement_variance((0..positives.len()).map(upwards))?;
    let downwards = (0..positives.len()).rev().map(|bin| (negatives[bin], positives[bin]));
    Some(one + placement_variance(downwards)?)
}

/// Variance of the mean, over cases of one kind, of the share of the other kind that comes before it in a row of bins.
fn placement_variance(bins: impl Iterator<Item = (u32, u32)> + Clone) -> Option<f64> {
    let (own, other) =
        bins.clone().fold((0.0, 0.0), |(own, other), bin| (own + f64::from(bin.0), other + f64::from(bin.1)));
    if own < 2.0 || other < 2.0 {
        return None;
    }
    let (mut before, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for (of_kind, of_other) in bins {
        let placement = (before + f64::from(of_other) / 2.0) / other;
        sum += f64::from(of_kind) * placement;
        squares += f64::from(of_kind) * placement * placement;
        before += f64::from(of_other);
    }
    let spread = (squares - sum * sum / own).max(0.0) / (own - 1.0);
    Some(spread / own)
}

/// Means of lower and of upper limits. None where one has no limits, or there is none.
pub(super) fn of_mean(intervals: impl Iterator<Item = Option<Interval>>) -> Option<Interval> {
    let (mut sums, mut count) = ([0.0, 0.0], 0.0);
    for interval in intervals {
        let [low, high] = interval?;
        sums = [sums[0] + low, sums[1] + high];
        count += 1.0;
    }
    (count > 0.0).then(|| sums.map(|sum| sum / count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(got: Option<Interval>, want: Interval) {
        let got = got.unwrap();
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 5e-5), "{got:?} {want:?}");
    }

    /// Newcombe 1998, table I, method 3.
    #[test]
    fn shares_have_the_published_limits() {
        close(of_share(81, 263), [0.2553, 0.3662]);
        close(of_share(15, 148), [0.0624, 0.1605]);
        close(of_share(0, 20), [0.0, 0.1611]);
        close(of_share(1, 29), [0.0061, 0.1718]);
        assert_eq!(of_share(0, 0), None);
    }

    #[test]
    fn what_all_agree_on_has_no_limits() {
        assert_eq!(auroc_variance(&[0, 0, 3], &[2, 2, 0]), Some(0.0));
        assert_eq!(of_figure(1.0, 0.0, [0.0, 1.0]), None);
        assert_eq!(auroc_variance(&[0, 0, 1], &[2, 2, 0]), None);
        assert_eq!(of_mean([Some([0.0, 1.0]), None].into_iter()), None);
        assert_eq!(of_mean([Some([0.0, 1.0]), Some([0.5, 1.0])].into_iter()), Some([0.25, 1.0]));
    }

    proptest! {
        /// The variance is that of DeLong's structural components, written out case by case.
        #[test]
        fn variances_are_those_of_single_cases(
            positives in prop::collection::vec(0_usize..6, 2..12),
            negatives in prop::collection::vec(0_usize..6, 2..12),
        ) {
            let histogram = |scores: &[usize]| {
                let mut bins = vec![0; 6];
                for score in scores {
                    bins[*score] += 1;
                }
                bins
            };
            let pair = |positive: usize, negative: usize| match positive.cmp(&negative) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
            let variance = |values: Vec<f64>| {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
                squares / (values.len() - 1) as f64 / values.len() as f64
            };
            let of_positive = |positive: &usize| {
                negatives.iter().map(|negative| pair(*positive, *negative)).sum::<f64>() / negatives.len() as f64
            };
            let of_negative = |negative: &usize| {
                positives.iter().map(|positive| pair(*positive, *negative)).sum::<f64>() / positives.len() as f64
            };
            let want = variance(positives.iter().map(of_positive).collect())
                + variance(negatives.iter().map(of_negative).collect());
            let got = auroc_variance(&histogram(&positives), &histogram(&negatives)).unwrap();
            prop_assert!((got - want).abs() < 1e-12, "{} {}", got, want);
        }
    }
}
