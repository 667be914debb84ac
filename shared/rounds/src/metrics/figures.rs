//! Figures derived from counts.

use consilium_study::metric::Metric;
use consilium_study::task::Task;
use minicbor::{Decode, Encode};
use serde::Serialize;

use super::areas::AreaCounts;
use super::counts::{Detail, EvaluationCounts, total};
use super::interval::{self, Interval, Intervals};
use super::labelled::{LabelledCounts, ScoreCounts};
use super::{LOSS_CLIP, UNIT, temperature};

/// What an evaluation says. With more than two classes, score figures are means over the classes that occur,
/// each against all others; of findings all figures are means over the findings. `None` where the cases do not define a figure (an AUROC needs both kinds).
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Figures {
    /// Held-out cases behind the figures.
    #[n(0)]
    pub cases: u64,
    /// Mean clipped cross-entropy; of values the mean absolute error as a share of their range.
    #[n(1)]
    pub loss: f64,
    /// The same for the starting model, over the same cases.
    #[n(2)]
    pub start_loss: Option<f64>,
    /// Area under the ROC curve.
    #[n(3)]
    pub auroc: Option<f64>,
    /// Share of cases whose most probable class is the true one; of findings the share told rightly at the operating point.
    #[n(4)]
    pub accuracy: Option<f64>,
    /// Mean over classes of the share recognised; of a finding these are those with and without it.
    #[n(5)]
    pub balanced_accuracy: Option<f64>,
    /// Share of positives called positive at the operating point.
    #[n(6)]
    pub sensitivity: Option<f64>,
    /// Share of negatives called negative at the operating point.
    #[n(7)]
    pub specificity: Option<f64>,
    /// Mean over cases of the squared error summed over classes (Brier 1950), of findings over there and not there.
    #[n(8)]
    pub brier: Option<f64>,
    /// Expected calibration error of the most probable class, 16 equal bins (Naeini et al. 2015).
    #[n(9)]
    pub calibration_error: Option<f64>,
    /// Sites among those that evaluated whose policy declines the candidate as a starting model.
    #[n(10)]
    pub declines: u32,
    /// Of grades: kappa with quadratic weights (Cohen 1968).
    #[n(11)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kappa: Option<f64>,
    /// What the outputs are to be divided by for probabilities that say what they mean (Guo et al. 2017), where the study
    /// has that fitted.
    #[n(12)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Mean clipped cross-entropy at that temperature.
    #[n(13)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibrated_loss: Option<f64>,
    /// Of masks: the Dice coefficient (Dice 1945), as a mean over pictures and over the classes but the background.
    #[n(15)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dice: Option<f64>,
    /// Of values: the mean absolute error, in the unit of the labels.
    #[n(16)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    /// Of values: the root of the mean squared error, in the unit of the labels.
    #[n(17)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rmse: Option<f64>,
    /// Of values: the share of the variance between cases that is explained. None where all have one value.
    #[n(18)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// 95 % intervals.
    #[n(14)]
    #[cbor(skip_if = "Intervals::is_empty")]
    pub intervals: Intervals,
}

impl Figures {
    /// One figure by name.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Loss => Some(self.loss),
            Metric::Auroc => self.auroc,
            Metric::Accuracy => self.accuracy,
            Metric::BalancedAccuracy => self.balanced_accuracy,
            Metric::Sensitivity => self.sensitivity,
            Metric::Specificity => self.specificity,
            Metric::Brier => self.brier,
            Metric::Ece => self.calibration_error,
            Metric::Kappa => self.kappa,
            Metric::Dice => self.dice,
            Metric::Mae => self.mae,
            Metric::Rmse => self.rmse,
            Metric::R2 => self.r2,
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
        let mut figures = Figures {
            cases: u64::from(self.cases),
            loss: self.loss.mean(self.cases),
            start_loss: Some(self.start_loss.get() as f64 / UNIT / cases),
            declines: self.declines,
            ..Figures::default()
        };
        let of_loss = self.loss.interval(self.cases, [0.0, LOSS_CLIP]);
        figures.intervals.extend(of_loss.map(|interval| (Metric::Loss, interval)));
        match &self.detail {
            Detail::Labelled(counts) => counts.fill_in(&mut figures, self.cases),
            Detail::Areas(areas) => {
                let seen = || areas.iter().copied().filter(|area| area.mean().is_some());
                figures.dice = mean(seen().filter_map(AreaCounts::mean));
                let interval = interval::of_mean(seen().map(AreaCounts::interval));
                figures.intervals.extend(interval.map(|interval| (Metric::Dice, interval)));
            }
            Detail::Values(values) => {
                let (errors, span) = (values.errors(self.cases), self.shape.span());
                (figures.mae, figures.rmse) =
                    (Some(span * errors.mean), Some(span * errors.root_mean_square));
                figures.r2 = errors.explained;
                let of_range = |interval: Interval| interval.map(|limit| span * limit);
                for (metric, interval) in [
                    (Metric::Mae, errors.of_mean.map(of_range)),
                    (Metric::Rmse, errors.of_root_mean_square.map(of_range)),
                    (Metric::R2, errors.of_explained),
                ] {
                    figures.intervals.extend(interval.map(|interval| (metric, interval)));
                }
            }
        }
        Some(figures)
    }
}

impl LabelledCounts {
    /// Fills in what labelled cases say; there is one at least.
    fn fill_in(&self, figures: &mut Figures, cases: u32) {
        let answers: u64 = self.confidence.iter().map(|bin| u64::from(bin.cases)).sum();
        let calibration_error = self
            .confidence
            .iter()
            .map(|bin| (f64::from(bin.correct) - bin.confidence.get() as f64 / UNIT).abs() / answers as f64)
            .sum();
        let fitted = temperature::fit(&self.tempered, cases, UNIT);
        let (recalled, correct) = (self.recalled(), self.correct(cases));
        let kappa = self.kappa(cases);
        let mut note = |metric, interval: Option<Interval>| {
            figures.intervals.extend(interval.map(|interval| (metric, interval)));
        };
        let scores = || self.scores.iter().filter(|score| score.auroc().is_some());
        let of_shares = |shares: &[(u64, u64)]| {
            interval::of_mean(shares.iter().map(|(part, whole)| interval::of_share(*part, *whole)))
        };
        let sensitivities: Vec<_> =
            self.scores.iter().map(ScoreCounts::sensitivity).filter(is_defined).collect();
        let specificities: Vec<_> =
            self.scores.iter().map(ScoreCounts::specificity).filter(is_defined).collect();
        note(Metric::Auroc, interval::of_mean(scores().map(ScoreCounts::auroc_interval)));
        note(Metric::Accuracy, of_shares(&correct));
        note(Metric::BalancedAccuracy, of_shares(&recalled));
        note(Metric::Sensitivity, of_shares(&sensitivities));
        note(Metric::Specificity, of_shares(&specificities));
        note(Metric::Brier, self.brier.interval(cases, [0.0, 2.0]));
        note(
            Metric::Kappa,
            kappa.and_then(|(kappa, variance)| interval::of_figure(kappa, variance, [-1.0, 1.0])),
        );
        figures.auroc = mean(self.scores.iter().filter_map(ScoreCounts::auroc));
        figures.accuracy = mean_share(&correct);
        figures.balanced_accuracy = mean_share(&recalled);
        figures.sensitivity = mean_share(&sensitivities);
        figures.specificity = mean_share(&specificities);
        figures.brier = Some(self.brier.mean(cases));
        figures.calibration_error = Some(calibration_error);
        figures.kappa = kappa.map(|(kappa, _)| kappa);
        figures.temperature = fitted.map(|fitted| fitted.temperature);
        figures.calibrated_loss = fitted.map(|fitted| fitted.loss / f64::from(cases));
    }

    /// Right ones of all: of the cases, or of each finding's.
    fn correct(&self, cases: u32) -> Vec<(u64, u64)> {
        let all = u64::from(cases);
        if self.shape.task().is_exclusive() {
            let classes = self.shape.classes();
            let diagonal = self.confusion.iter().step_by(classes + 1).copied().map(u64::from).sum();
            return vec![(diagonal, all)];
        }
        let right = |score: &ScoreCounts| score.sensitivity().0 + score.specificity().0;
        self.scores.iter().map(|score| (right(score), all)).collect()
    }

    /// Recognised ones of each class that occurs, or of the cases with and of those without each finding.
    fn recalled(&self) -> Vec<(u64, u64)> {
        let of_each: Vec<_> = if self.shape.task().is_exclusive() {
            let rows = self.confusion.chunks_exact(self.shape.classes()).enumerate();
            rows.map(|(label, row)| (u64::from(row[label]), total(row))).collect()
        } else {
            self.scores.iter().flat_map(|score| [score.sensitivity(), score.specificity()]).collect()
        };
        of_each.into_iter().filter(is_defined).collect()
    }

    /// Kappa of grades with quadratic weights (Cohen 1968), and its variance in large samples (Fleiss, Cohen and Everitt
    /// 1969). None where chance alone agrees always.
    fn kappa(&self, cases: u32) -> Option<(f64, f64)> {
        if self.shape.task() != Task::Ordinal {
            return None;
        }
        let grades = self.shape.classes();
        let all = f64::from(cases);
        let share = |label: usize, grade: usize| f64::from(self.confusion[label * grades + grade]) / all;
        let of_labels: Vec<f64> = (0..grades).map(|i| (0..grades).map(|j| share(i, j)).sum()).collect();
        let of_grades: Vec<f64> = (0..grades).map(|j| (0..grades).map(|i| share(i, j)).sum()).collect();
        let weight = |i: usize, j: usize| {
            let apart = i.abs_diff(j) as f64 / (grades - 1) as f64;
            1.0 - apart * apart
        };
        let cells = || (0..grades).flat_map(|i| (0..grades).map(move |j| (i, j)));
        let observed: f64 = cells().map(|(i, j)| weight(i, j) * share(i, j)).sum();
        let expected: f64 = cells().map(|(i, j)| weight(i, j) * of_labels[i] * of_grades[j]).sum();
        let room = 1.0 - expected;
        if room <= 0.0 {
            return None;
        }
        let kappa = (observed - expected) / room;
        let label_means: Vec<f64> =
            (0..grades).map(|i| (0..grades).map(|j| weight(i, j) * of_grades[j]).sum()).collect();
        let grade_means: Vec<f64> =
            (0..grades).map(|j| (0..grades).map(|i| weight(i, j) * of_labels[i]).sum()).collect();
        let squares: f64 = cells()
            .map(|(i, j)| {
                let gap = weight(i, j) - (label_means[i] + grade_means[j]) * (1.0 - kappa);
                share(i, j) * gap * gap
            })
            .sum();
        let centre = kappa - expected * (1.0 - kappa);
        Some((kappa, (squares - centre * centre).max(0.0) / (all * room * room)))
    }
}

impl ScoreCounts {
    fn auroc(&self) -> Option<f64> {
        area(&self.positives, &self.negatives)
    }

    fn auroc_interval(&self) -> Option<Interval> {
        area_interval(&self.positives, &self.negatives)
    }

    /// Positives that are called positive, of all positives.
    fn sensitivity(&self) -> (u64, u64) {
        (self.true_positive.into(), total(&self.positives))
    }

    /// Negatives that are not called positive, of all negatives.
    fn specificity(&self) -> (u64, u64) {
        let negatives = total(&self.negatives);
        (negatives - u64::from(self.false_positive), negatives)
    }
}

/// Area under the ROC curve of histograms of scores: the share of (positive, negative) pairs in the right order; pairs in one bin
/// count half. None unless both kinds occur.
pub(super) fn area(positives: &[u32], negatives: &[u32]) -> Option<f64> {
    let (all_positives, all_negatives) = (total(positives), total(negatives));
    if all_positives == 0 || all_negatives == 0 {
        return None;
    }
    // Twice the number of pairs, so that it stays an integer.
    let mut doubled = 0u128;
    let mut below = 0u128;
    for (&positive, &negative) in positives.iter().zip(negatives) {
        doubled += u128::from(positive) * (2 * below + u128::from(negative));
        below += u128::from(negative);
    }
    Some(doubled as f64 / (2.0 * all_positives as f64 * all_negatives as f64))
}

pub(super) fn area_interval(positives: &[u32], negatives: &[u32]) -> Option<Interval> {
    let variance = interval::auroc_variance(positives, negatives)?;
    interval::of_figure(area(positives, negatives)?, variance, [0.0, 1.0])
}

fn is_defined((_, whole): &(u64, u64)) -> bool {
    *whole > 0
}

fn mean_share(shares: &[(u64, u64)]) -> Option<f64> {
    mean(shares.iter().filter_map(|(part, whole)| share(*part, *whole)))
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
