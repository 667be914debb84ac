//! What is counted over held-out cases, and in how many words.

use consilium_study::task::{Range, Task};
use minicbor::{Decode, Encode};

use super::areas::AREA_WORDS;
use super::sampled::SAMPLED_WORDS;
use super::temperature::TEMPERATURES;
use super::values::VALUE_WORDS;

/// Bins of the confidence diagram behind the calibration error.
pub(crate) const CONFIDENCE_BINS: usize = 16;
/// Words of one confidence bin: cases, correct ones, and the sum of confidences (wide).
const CONFIDENCE_WORDS: usize = 4;
/// Words of every evaluation: cases, sites that decline, losses, and those of the start (wide).
const COMMON_WORDS: usize = 2 + SAMPLED_WORDS + 2;

/// What is counted; decides the number of words and travels in the study.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct EvaluationShape {
    #[n(0)]
    classes: u16,
    #[n(1)]
    bins: u16,
    #[n(2)]
    operating_point: f64,
    #[n(3)]
    #[cbor(skip_if = "is_default")]
    task: Task,
    #[n(4)]
    #[cbor(skip_if = "is_default")]
    is_calibrated: bool,
    #[n(5)]
    range: Option<Range>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why a shape cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum InvalidShape {
    /// No class.
    #[error("an evaluation needs a class, not {0}")]
    Classes(u16),
    /// No bins, or more than the federation publishes.
    #[error("a score histogram has 2 to 256 bins, not {0}")]
    Bins(u16),
    /// Not a probability.
    #[error("the operating point {0} is not between 0 and 1")]
    OperatingPoint(f64),
}

impl EvaluationShape {
    /// Checks and makes a shape of a classification whose temperature is not fitted.
    pub fn new(classes: u16, bins: u16, operating_point: f64) -> Result<Self, InvalidShape> {
        if classes == 0 {
            return Err(InvalidShape::Classes(classes));
        }
        if !(2..=256).contains(&bins) {
            return Err(InvalidShape::Bins(bins));
        }
        if !(0.0..=1.0).contains(&operating_point) {
            return Err(InvalidShape::OperatingPoint(operating_point));
        }
        let (task, is_calibrated) = Default::default();
        Ok(Self { classes, bins, operating_point, task, is_calibrated, range: None })
    }

    /// The shape for another task.
    #[must_use]
    pub const fn of_task(self, task: Task) -> Self {
        Self { task, ..self }
    }

    /// The shape for values in a range.
    #[must_use]
    pub const fn in_range(self, range: Option<Range>) -> Self {
        Self { range, ..self }
    }

    /// What errors of values are told in: the range's own unit, or shares of it.
    pub(crate) fn span(&self) -> f64 {
        self.range.map_or(1.0, Range::span)
    }

    /// The shape with losses at several temperatures, or without.
    #[must_use]
    pub const fn calibrated(self, is_calibrated: bool) -> Self {
        Self { is_calibrated, ..self }
    }

    /// What the model is asked.
    pub const fn task(&self) -> Task {
        self.task
    }

    /// Number of classes, or of findings.
    pub fn classes(&self) -> usize {
        usize::from(self.classes)
    }

    /// Bins of each score histogram.
    pub fn bins(&self) -> usize {
        usize::from(self.bins)
    }

    /// Score from which a case is called positive.
    pub fn operating_point(&self) -> f64 {
        self.operating_point
    }

    /// Classes whose score is counted against all others: the second of two, or each of several; or each finding.
    pub fn scored(&self) -> std::ops::Range<usize> {
        if self.classes == 2 && self.task.is_exclusive() { 1..2 } else { 0..self.classes() }
    }

    /// Classes of pixels whose areas are compared: all but the background.
    pub(crate) fn areas(&self) -> usize {
        self.classes().saturating_sub(1)
    }

    /// Entries of the confusion matrix; findings have none, because they do not exclude each other.
    pub(crate) fn confusion_len(&self) -> usize {
        if self.task.is_exclusive() { self.classes().pow(2) } else { 0 }
    }

    /// Answers that a case has: its class, or whether each finding is there.
    pub(crate) fn answers(&self) -> u64 {
        if self.task.is_exclusive() { 1 } else { u64::from(self.classes) }
    }

    pub(crate) fn temperatures(&self) -> usize {
        if self.is_calibrated { TEMPERATURES } else { 0 }
    }

    /// Ring words that the counts take.
    pub fn words(&self) -> usize {
        match self.task {
            Task::Segmentation => return COMMON_WORDS + self.areas() * AREA_WORDS,
            Task::Regression => return COMMON_WORDS + VALUE_WORDS,
            Task::Classification | Task::Ordinal | Task::MultiLabel => {}
        }
        let per_score = 2 + 2 * self.bins();
        let (brier, diagram) = (SAMPLED_WORDS, CONFIDENCE_BINS * CONFIDENCE_WORDS);
        let scores = self.confusion_len() + self.scored().len() * per_score;
        COMMON_WORDS + brier + scores + diagram + 2 * self.temperatures()
    }

    pub(crate) fn bin(&self, score: f64) -> usize {
        bin(score, self.bins())
    }
}

/// Bin of a probability; what is no number falls into the lowest.
pub(crate) fn bin(score: f64, bins: usize) -> usize {
    ((score * bins as f64) as usize).min(bins - 1)
}
