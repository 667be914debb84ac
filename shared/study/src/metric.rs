//! The metrics a study can name: a closed list.
//!
//! A misspelt metric must fail the check of the study, not pick the wrong model weeks later (in a system
//! that took any text, the last round won because the best one could not be found).

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::task::Task;

/// A figure of a model over held-out cases.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "snake_case")]
#[cbor(index_only)]
pub enum Metric {
    /// Mean clipped cross-entropy.
    #[n(0)]
    Loss,
    /// Area under the ROC curve; with more than two classes the mean of one-against-rest, of findings the mean over them.
    #[n(1)]
    Auroc,
    /// Share of cases whose most probable class is the label.
    #[n(2)]
    Accuracy,
    /// Mean over classes of the share found.
    #[n(3)]
    BalancedAccuracy,
    /// Share of positive cases found at the operating point.
    #[n(4)]
    Sensitivity,
    /// Share of negative cases passed at the operating point.
    #[n(5)]
    Specificity,
    /// Mean squared error of the probabilities (Brier 1950).
    #[n(6)]
    Brier,
    /// Expected calibration error over the histogram's bins (Naeini et al. 2015).
    #[n(7)]
    Ece,
    /// Cohen's kappa with quadratic weights (Cohen 1968): how well grades agree beyond chance. Of ordinal studies.
    #[n(8)]
    Kappa,
    /// Dice coefficient (Dice 1945): twice the pixels that mask and prediction share, of the pixels of both. The mean over
    /// pictures that have the class in one of the two, and over the classes but the background. Of segmentations.
    #[n(9)]
    Dice,
    /// Mean absolute error, in the unit of the labels. Of regressions.
    #[n(10)]
    Mae,
    /// Root of the mean squared error, in the unit of the labels. Of regressions.
    #[n(11)]
    Rmse,
    /// Share of the variance between cases that is explained: one less the squared errors over the squared distances from the
    /// mean. Of regressions.
    #[n(12)]
    R2,
}

impl Metric {
    /// Every metric, in the order of the list.
    pub const ALL: [Self; 13] = [
        Self::Loss,
        Self::Auroc,
        Self::Accuracy,
        Self::BalancedAccuracy,
        Self::Sensitivity,
        Self::Specificity,
        Self::Brier,
        Self::Ece,
        Self::Kappa,
        Self::Dice,
        Self::Mae,
        Self::Rmse,
        Self::R2,
    ];

    /// The name used in files and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Auroc => "auroc",
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced_accuracy",
            Self::Sensitivity => "sensitivity",
            Self::Specificity => "specificity",
            Self::Brier => "brier",
            Self::Ece => "ece",
            Self::Kappa => "kappa",
            Self::Dice => "dice",
            Self::Mae => "mae",
            Self::Rmse => "rmse",
            Self::R2 => "r2",
        }
    }

    /// Whether a larger value is the better one.
    pub const fn larger_is_better(self) -> bool {
        match self {
            Self::Auroc
            | Self::Accuracy
            | Self::BalancedAccuracy
            | Self::Sensitivity
            | Self::Specificity
            | Self::Kappa
            | Self::Dice
            | Self::R2 => true,
            Self::Loss | Self::Brier | Self::Ece | Self::Mae | Self::Rmse => false,
        }
    }

    /// Whether it says anything about a model that is asked this.
    pub const fn is_of(self, task: Task) -> bool {
        match self {
            Self::Loss => true,
            Self::Kappa => matches!(task, Task::Ordinal),
            Self::Dice => task.is_dense(),
            Self::Mae | Self::Rmse | Self::R2 => matches!(task, Task::Regression),
            _ => task.is_labelled(),
        }
    }

    /// The one that picks a model where a study names none.
    pub const fn usual(task: Task) -> Self {
        match task {
            Task::Segmentation => Self::Dice,
            Task::Regression => Self::Mae,
            Task::Classification | Task::Ordinal | Task::MultiLabel => Self::Auroc,
        }
    }

    /// Whether `candidate` is strictly better than `best`. Not-a-number is never better.
    pub fn improves(self, candidate: f64, best: f64) -> bool {
        if self.larger_is_better() { candidate > best } else { candidate < best }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no metric of this name; use loss, auroc, accuracy, balanced_accuracy, sensitivity, specificity, brier, ece or kappa"
)]
pub struct UnknownMetric;

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        Self::ALL.into_iter().find(|metric| metric.name() == text).ok_or(UnknownMetric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Line {
        metric: Metric,
    }

    fn in_a_file(text: &str) -> Option<Metric> {
        toml::from_str::<Line>(&format!("metric = \"{text}\"")).ok().map(|line| line.metric)
    }

    #[test]
    fn files_and_listings_use_the_same_names() {
        for metric in Metric::ALL {
            assert_eq!(in_a_file(metric.name()), Some(metric));
            assert_eq!(metric.name().parse(), Ok(metric));
        }
    }

    #[test]
    fn better_has_a_direction() {
        assert!(Metric::Auroc.improves(0.9, 0.8) && !Metric::Auroc.improves(0.8, 0.9));
        assert!(Metric::Loss.improves(0.8, 0.9) && !Metric::Loss.improves(0.9, 0.8));
        for metric in Metric::ALL {
            assert!(!metric.improves(f64::NAN, 0.5) && !metric.improves(0.5, 0.5), "{metric}");
        }
    }

    #[test]
    fn one_letter_off_is_no_metric() {
        for metric in Metric::ALL {
            for at in 0..metric.name().len() {
                let mut letters = metric.name().as_bytes().to_vec();
                letters[at] = if letters[at] == b'x' { b'y' } else { b'x' };
                let wrong = String::from_utf8(letters).unwrap();
                assert_eq!(wrong.parse::<Metric>(), Err(UnknownMetric), "{wrong}");
                assert_eq!(in_a_file(&wrong), None, "{wrong}");
            }
        }
    }
}
