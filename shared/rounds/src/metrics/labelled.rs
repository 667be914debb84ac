//! Counts over cases that are labelled as wholes, by a class or by findings.

use consilium_study::task::Label;

use super::counts::{MalformedCounts, argmax, likelier, squared_error, take, take_sampled, take_wide, total};
use super::sampled::Sampled;
use super::shape::{CONFIDENCE_BINS, EvaluationShape, bin};
use super::temperature::tempered_losses;
use super::{LOSS_CLIP, UNIT, Wide, fixed};

/// Score counts of one class against the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScoreCounts {
    /// Cases of the class called positive at the operating point.
    pub(super) true_positive: u32,
    /// Other cases called positive.
    pub(super) false_positive: u32,
    /// Histogram of the class's cases by score.
    pub(super) positives: Vec<u32>,
    /// Histogram of the others.
    pub(super) negatives: Vec<u32>,
}

/// One bin of the confidence diagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConfidenceBin {
    pub(super) cases: u32,
    pub(super) correct: u32,
    pub(super) confidence: Wide,
}

/// What is counted of labelled cases, beside their losses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LabelledCounts {
    pub(super) shape: EvaluationShape,
    pub(super) brier: Sampled,
    /// `[label][prediction]`, row by row; nothing of findings.
    pub(super) confusion: Vec<u32>,
    pub(super) scores: Vec<ScoreCounts>,
    pub(super) confidence: Vec<ConfidenceBin>,
    /// Losses at each temperature of the grid, where the shape has them.
    pub(super) tempered: Vec<Wide>,
}

impl LabelledCounts {
    /// Counts of no case.
    pub(super) fn new(shape: EvaluationShape) -> Self {
        let score = ScoreCounts {
            true_positive: 0,
            false_positive: 0,
            positives: vec![0; shape.bins()],
            negatives: vec![0; shape.bins()],
        };
        Self {
            shape,
            brier: Sampled::default(),
            confusion: vec![0; shape.confusion_len()],
            scores: vec![score; shape.scored().len()],
            confidence: vec![ConfidenceBin::default(); CONFIDENCE_BINS],
            tempered: vec![Wide::default(); shape.temperatures()],
        }
    }

    /// Adds a case: its probabilities, one per class or finding, and its label, which is of the shape's task.
    pub(super) fn add(&mut self, probabilities: &[f32], label: Label) {
        let shape = self.shape;
        self.brier.add(squared_error(probabilities, label));
        for (sum, loss) in self.tempered.iter_mut().zip(tempered_losses(probabilities, label)) {
            sum.add(fixed(loss));
        }
        for (class, counts) in shape.scored().zip(&mut self.scores) {
            let score = f64::from(probabilities[class]);
            let called = score >= shape.operating_point();
            if label.holds(class) {
                counts.true_positive += u32::from(called);
                counts.positives[shape.bin(score)] += 1;
            } else {
                counts.false_positive += u32::from(called);
                counts.negatives[shape.bin(score)] += 1;
            }
        }
        if let Some(class) = label.class() {
            let prediction = argmax(probabilities);
            self.confusion[usize::from(class) * shape.classes() + prediction] += 1;
            self.answer(probabilities[prediction].into(), label.holds(prediction));
        } else {
            for (finding, &probability) in probabilities.iter().enumerate() {
                let (confidence, is_there) = likelier(probability);
                self.answer(confidence, is_there == label.holds(finding));
            }
        }
    }

    /// Counts an answer in the confidence diagram.
    fn answer(&mut self, confidence: f64, is_correct: bool) {
        let bin = &mut self.confidence[bin(confidence, CONFIDENCE_BINS)];
        bin.cases += 1;
        bin.correct += u32::from(is_correct);
        bin.confidence.add((confidence.clamp(0.0, 1.0) * UNIT).round() as u64);
    }

    pub(super) fn write(&self, words: &mut Vec<u32>) {
        words.extend(self.brier.words());
        words.extend(&self.confusion);
        for score in &self.scores {
            words.extend([score.true_positive, score.false_positive]);
            words.extend(score.positives.iter().chain(&score.negatives));
        }
        for bin in &self.confidence {
            words.extend([bin.cases, bin.correct]);
            words.extend(bin.confidence.words());
        }
        words.extend(self.tempered.iter().flat_map(|loss| loss.words()));
    }

    /// Reads what [`Self::write`] wrote; there are as many words as the shape has.
    pub(super) fn read(shape: EvaluationShape, rest: &mut &[u32]) -> Self {
        let brier = take_sampled(rest);
        let confusion = take(rest, shape.confusion_len()).to_vec();
        let scores = shape
            .scored()
            .map(|_| {
                let called = take(rest, 2);
                ScoreCounts {
                    true_positive: called[0],
                    false_positive: called[1],
                    positives: take(rest, shape.bins()).to_vec(),
                    negatives: take(rest, shape.bins()).to_vec(),
                }
            })
            .collect();
        let confidence = (0..CONFIDENCE_BINS)
            .map(|_| {
                let counts = take(rest, 2);
                ConfidenceBin { cases: counts[0], correct: counts[1], confidence: take_wide(rest) }
            })
            .collect();
        let tempered = (0..shape.temperatures()).map(|_| take_wide(rest)).collect();
        Self { shape, brier, confusion, scores, confidence, tempered }
    }

    /// Whether every way of counting the cases gives this number.
    pub(super) fn check(&self, cases: u32) -> Result<(), MalformedCounts> {
        if !self.brier.is_possible(cases, 2) {
            return Err(MalformedCounts::Inconsistent("the Brier score"));
        }
        let cases = u64::from(cases);
        let agree = |what, sum: u64| {
            if sum == cases { Ok(()) } else { Err(MalformedCounts::Inconsistent(what)) }
        };
        if self.shape.task().is_exclusive() {
            agree("the confusion matrix", total(&self.confusion))?;
        }
        for score in &self.scores {
            let (positives, negatives) = (total(&score.positives), total(&score.negatives));
            agree("a score histogram", positives + negatives)?;
            if u64::from(score.true_positive) > positives || u64::from(score.false_positive) > negatives {
                return Err(MalformedCounts::Inconsistent("a count at the operating point"));
            }
        }
        let answers: u64 = self.confidence.iter().map(|bin| u64::from(bin.cases)).sum();
        if answers != cases * self.shape.answers() {
            return Err(MalformedCounts::Inconsistent("the confidence diagram"));
        }
        let steps = UNIT as u64;
        for bin in &self.confidence {
            // Half a step of rounding per case.
            let most = u64::from(bin.cases) * steps;
            if bin.correct > bin.cases || bin.confidence.get() > most {
                return Err(MalformedCounts::Inconsistent("a bin of the confidence diagram"));
            }
        }
        if self.tempered.iter().any(|loss| loss.get() > cases * fixed(LOSS_CLIP)) {
            return Err(MalformedCounts::Inconsistent("a clipped loss"));
        }
        Ok(())
    }
}
