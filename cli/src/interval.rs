//! Means over seeds or cases, with intervals.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// A mean and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mean {
    pub(crate) mean: f64,
    /// Half of the 95 % interval by Student's t (Student 1908); none of one value.
    pub(crate) half: Option<f64>,
    pub(crate) count: usize,
}

impl Mean {
    /// Of some values; none of no value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let half = (count > 1).then(|| {
            let freedom = count as f64 - 1.0;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom;
            let student = StudentsT::new(0.0, 1.0, freedom).expect("there is a degree of freedom");
            student.inverse_cdf(0.975) * (variance / count as f64).sqrt()
        });
        Some(Self { mean, half, count })
    }

    /// `0.944 ± 0.006 (3)`, or what is there of it.
    pub(crate) fn text(of: Option<Self>) -> String {
        match of {
            None => "–".to_owned(),
            Some(Self { mean, half: None, .. }) => format!("{mean:.3} (1)"),
            Some(Self { mean, half: Some(half), count }) => format!("{mean:.3} ± {half:.3} ({count})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The quantile of t with two degrees of freedom is 4.3027 (Student's table); the deviation here is 1.
    #[test]
    fn an_interval_from_three_values() {
        let mean = Mean::of(&[1.0, 2.0, 3.0]).unwrap();
        assert!((mean.mean - 2.0).abs() < 1e-12);
        assert!((mean.half.unwrap() - 4.302_653 / 3.0_f64.sqrt()).abs() < 1e-4);
        assert_eq!(Mean::of(&[]), None);
        assert_eq!(Mean::text(Mean::of(&[0.5])), "0.500 (1)");
        assert_eq!(Mean::text(Mean::of(&[0.5, 0.5])), "0.500 ± 0.000 (2)");
    }
}
