//! Figures derived from counts.

use consilium_study::metric::Metric;
use minicbor::{Decode, Encode};
use serde::Serialize;

use super::UNIT;
use super::counts::{EvaluationCounts, ScoreCounts, total};

/// What an evaluation says. With more than two classes, score figures are means over the classes that occur,
/// each against all others. `None` where the cases do not define a figure (an AUROC needs both kinds).
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Figures {
    /// Held-out cases behind the figures.
    #[n(0)]
    pub cases: u64,
    /// Mean clipped cross-entropy.
    #[n(1)]
    pub loss: f64,
    /// The same for the starting model, over the same cases.
    #[n(2)]
    pub start_loss: Option<f64>,
    /// Area under the ROC curve.
    #[n(3)]
    pub auroc: Option<f64>,
    /// Share of cases whose most probable class is the true one.
    #[n(4)]
    pub accuracy: f64,
    /// Mean over classes of the share recognised.
    #[n(5)]
    pub balanced_accuracy: f64,
    /// Share of positives called positive at the operating point.
    #[n(6)]
    pub sensitivity: Option<f64>,
    /// Share of negatives called negative at the operating point.
    #[n(7)]
    pub specificity: Option<f64>,
    /// Mean over cases of the squared error summed over classes (Brier 1950).
    #[n(8)]
    pub brier: f64,
    /// Expected calibration error of the most probable class, 16 equal bins (Naeini et al. 2015).
    #[n(9)]
    pub calibration_error: f64,
    /// Sites among those that evaluated whose policy declines the candidate as a starting model.
    #[n(10)]
    pub declines: u32,
}

impl Figures {
    /// One figure by name.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Loss => Some(self.loss),
            Metric::Auroc => self.auroc,
            Metric::Accuracy => Some(self.accuracy),
            Metric::BalancedAccuracy => Some(self.balanced_accuracy),
            Metric::Sensitivity => self.sensitivity,
            Metric::Specificity => self.specificity,
            Metric::Brier => Some(self.brier),
            Metric::Ece => Some(self.calibration_error),
        }
    }

    /// How much worse than the starting model, in loss. Zero or less is an improvement.
    pub fn loss_increase(&self) -> Option<f64> {
        self.start_loss.map(|start| self.loss - start)
    }
}

impl EvaluationCounts {
    /// The figures, or `None` when no case was counted.
    pub fn figures(&self) -> Option<Figures> {
        if self.cases == 0 {
            return None;
        }
        let cases = f64::from(self.cases);
        let classes = self.shape.classes();
        let mut correct = 0u64;
        let mut recalls = Vec::new();
        for (label, row) in self.confusion.chunks_exact(classes).enumerate() {
            correct += u64::from(row[label]);
            let of_class = total(row);
            if of_class > 0 {
                recalls.push(f64::from(row[label]) / of_class as f64);
            }
        }
        let calibration_error = self
            .confidence
            .iter()
            .map(|bin| (f64::from(bin.correct) - bin.confidence.get() as f64 / UNIT).abs() / cases)
            .sum();
        Some(Figures {
            cases: u64::from(self.cases),
            loss: self.loss.get() as f64 / UNIT / cases,
            start_loss: Some(self.start_loss.get() as f64 / UNIT / cases),
            auroc: mean(self.scores.iter().filter_map(ScoreCounts::auroc)),
            accuracy: correct as f64 / cases,
            balanced_accuracy: mean(recalls.into_iter()).expect("a counted case has a class"),
            sensitivity: mean(self.scores.iter().filter_map(ScoreCounts::sensitivity)),
            specificity: mean(self.scores.iter().filter_map(ScoreCounts::specificity)),
            brier: self.brier.get() as f64 / UNIT / cases,
            calibration_error,
            declines: self.declines,
        })
    }
}

impl ScoreCounts {
    /// Share of (positive, negative) pairs in the right order; pairs in one bin count half.
    fn auroc(&self) -> Option<f64> {
        let (positives, negatives) = (total(&self.positives), total(&self.negatives));
        if positives == 0 || negatives == 0 {
            return None;
        }
        // Twice the number of pairs, so that it stays an integer.
        let mut doubled = 0u128;
        let mut below = 0u128;
        for (&positive, &negative) in self.positives.iter().zip(&self.negatives) {
            doubled += u128::from(positive) * (2 * below + u128::from(negative));
            below += u128::from(negative);
        }
        Some(doubled as f64 / (2.0 * positives as f64 * negatives as f64))
    }

    fn sensitivity(&self) -> Option<f64> {
        share(self.true_positive.into(), total(&self.positives))
    }

    fn specificity(&self) -> Option<f64> {
        let negatives = total(&self.negatives);
        share(negatives - u64::from(self.false_positive), negatives)
    }
}

pub(crate) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}
