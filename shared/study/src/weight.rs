//! What a site's update counts in the mean.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::disclosure::Floor;

/// What a site's update counts in the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum WeightRule {
    /// The power of two nearest to the number of training cases: hides small changes of a cohort.
    #[default]
    #[n(0)]
    Coarse,
    /// The number of training cases, where every site's policy allows exact weights.
    #[n(1)]
    Examples,
    /// Every site counts the same.
    #[n(2)]
    Equal,
    /// The power of two nearest to the [`effective_cases`]: a hospital with next to no case of one class has little
    /// to say about telling the classes apart. A class counts as at least the floor of what the site tells, so
    /// that few and none look alike.
    #[n(3)]
    Effective,
}

impl WeightRule {
    /// The name used in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coarse => "coarse",
            Self::Examples => "examples",
            Self::Equal => "equal",
            Self::Effective => "effective",
        }
    }

    /// The weight of so many training cases of each class, before any cap. `floor` is the site's.
    pub(crate) fn of(self, cases: &[u32], floor: Floor) -> u32 {
        let all = cases.iter().fold(0, |sum: u32, &count| sum.saturating_add(count));
        match self {
            Self::Equal => 1,
            Self::Examples => all,
            Self::Coarse => nearest_power_of_two(all),
            Self::Effective => {
                let raised: Vec<u32> = cases.iter().map(|&count| count.max(floor.get())).collect();
                nearest_power_of_two(effective_cases(&raised).min(all))
            }
        }
    }

    /// Whether a site can have said `weight` under a cap of `cap`, its terms allowing exact weights or not.
    pub fn allows(self, weight: u32, cap: u32, exact_weights: bool) -> bool {
        (1..=cap).contains(&weight)
            && match self {
                Self::Equal => weight == 1,
                Self::Examples => exact_weights,
                Self::Coarse | Self::Effective => weight.is_power_of_two(),
            }
    }
}

/// As many cases as would tell the classes apart as well if each class had the same number, rounded down.
///
/// With two classes `4 / (1/a + 1/b)`, the effective sample size of a case-control study (Willer, Li and
/// Abecasis 2010, METAL). With `C` classes of shares `p` it is `n (1 - sum p²) C / (C - 1)`: the cases times
/// the index of Gini and Simpson (1949), scaled to be `n` for classes of one size. Below two classes, zero.
pub fn effective_cases(cases: &[u32]) -> u32 {
    let classes = cases.len() as u128;
    let all: u128 = cases.iter().map(|&count| u128::from(count)).sum();
    let squares: u128 = cases.iter().map(|&count| u128::from(count).pow(2)).sum();
    let Some(effective) = ((all.pow(2) - squares) * classes).checked_div(all * classes.saturating_sub(1))
    else {
        return 0;
    };
    u32::try_from(effective).unwrap_or(u32::MAX)
}

/// The power of two nearest to `count` on the logarithmic scale; 1 for zero.
fn nearest_power_of_two(count: u32) -> u32 {
    let Some(lower) = count.checked_ilog2() else { return 1 };
    // Nearer to 2^(l+1) means above 2^(l+1/2), the square root of 2^(2l+1), which no integer meets.
    let square = u64::from(count) * u64::from(count);
    let up = u32::from(square > 1_u64 << (2 * lower + 1));
    1 << (lower + up).min(31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(rule: WeightRule, cases: &[u32]) -> u32 {
        rule.of(cases, Floor::LOWEST)
    }

    #[test]
    fn weights_are_the_nearest_power_of_two() {
        for (cases, weight) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (5, 4), (6, 8), (11, 8), (12, 16), (5792, 4096)]
        {
            assert_eq!(of(WeightRule::Coarse, &[cases / 2, cases - cases / 2]), weight, "{cases}");
        }
        assert_eq!(of(WeightRule::Coarse, &[u32::MAX, u32::MAX]), 1 << 31);
    }

    #[test]
    fn the_other_rules_count_as_they_say() {
        assert_eq!(of(WeightRule::Examples, &[700, 77]), 777);
        assert_eq!(of(WeightRule::Equal, &[700, 77]), 1);
    }

    #[test]
    fn a_hospital_with_one_class_counts_little() {
        for (cases, effective, weight) in [
            (&[500, 500][..], 1000, 1024),
            (&[101, 2987], 390, 512),
            (&[460, 6], 23, 32),
            (&[460, 0], 0, 32),
            (&[0, 0], 0, 1),
            (&[0, 1_000_000], 0, 32),
            (&[9, 1_000_000], 35, 32),
            (&[12, 1_000_000], 47, 64),
            (&[3, 2], 4, 4),
            (&[300, 300, 300], 900, 1024),
            (&[300, 300, 0], 450, 512),
            (&[u32::MAX, u32::MAX], u32::MAX, 1 << 31),
            (&[300], 0, 1),
            (&[], 0, 1),
        ] {
            assert_eq!(effective_cases(cases), effective, "{cases:?}");
            assert_eq!(of(WeightRule::Effective, cases), weight, "{cases:?}");
        }
    }

    #[test]
    fn below_the_sites_floor_few_and_none_look_alike() {
        let floor = Floor::new(50).unwrap();
        for few in 0..=50 {
            assert_eq!(WeightRule::Effective.of(&[few, 1_000_000], floor), 256, "{few}");
        }
        assert_eq!(WeightRule::Effective.of(&[100, 1_000_000], floor), 512);
    }

    proptest! {
        /// The class is the nearest power of two on the logarithmic scale.
        #[test]
        fn coarse_weights_agree_with_logarithms(cases in 1_u32..1_000_000) {
            let slow = f64::from(cases).log2().round().exp2();
            prop_assert_eq!(of(WeightRule::Coarse, &[cases]), slow as u32);
        }

        /// Two classes: the harmonic mean of METAL. In every order, and never more than the cases.
        #[test]
        fn effective_cases_of_two_classes_are_those_of_metal(few in 1_u32..1_000_000, many in 1_u32..1_000_000) {
            let effective = effective_cases(&[few, many]);
            let slow = 4.0 / (1.0 / f64::from(few) + 1.0 / f64::from(many));
            prop_assert!((f64::from(effective) - slow).abs() <= 1.0, "{} is not {}", effective, slow);
            prop_assert_eq!(effective, effective_cases(&[many, few]));
            prop_assert!(effective <= few + many);
        }

        /// What a site says by a rule is what others allow by it.
        #[test]
        fn a_weight_that_follows_the_rule_is_allowed(
            rule in prop::sample::select(vec![WeightRule::Coarse, WeightRule::Examples, WeightRule::Effective]),
            cases in prop::collection::vec(0_u32..100_000, 2..5),
            cap in 1_u32..=20,
        ) {
            let cap = 1 << cap;
            prop_assert!(rule.allows(of(rule, &cases).clamp(1, cap), cap, true));
        }
    }

    #[test]
    fn a_weight_that_breaks_the_rule_is_not_allowed() {
        for (rule, weight, exact) in [
            (WeightRule::Coarse, 0, true),
            (WeightRule::Coarse, 3, true),
            (WeightRule::Coarse, 8192, true),
            (WeightRule::Examples, 777, false),
            (WeightRule::Equal, 2, true),
            (WeightRule::Effective, 33, true),
            (WeightRule::Effective, 8192, true),
        ] {
            assert!(!rule.allows(weight, 4096, exact), "{rule:?} {weight}");
        }
    }
}
