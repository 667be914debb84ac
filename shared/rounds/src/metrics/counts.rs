//! Counts over held-out cases, as integers that add.

use minicbor::{Decode, Encode};

use super::{UNIT, Wide, fixed_loss};

/// Bins of the confidence diagram behind the calibration error.
pub(crate) const CONFIDENCE_BINS: usize = 16;
/// Words of one confidence bin: cases, correct ones, and the sum of confidences (wide).
const CONFIDENCE_WORDS: usize = 4;

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
}

/// Why a shape cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum InvalidShape {
    /// Fewer than two classes.
    #[error("an evaluation needs at least two classes, not {0}")]
    Classes(u16),
    /// No bins, or more than the federation publishes.
    #[error("a score histogram has 2 to 256 bins, not {0}")]
    Bins(u16),
    /// Not a probability.
    #[error("the operating point {0} is not between 0 and 1")]
    OperatingPoint(f64),
}

impl EvaluationShape {
    /// Checks and makes a shape.
    pub fn new(classes: u16, bins: u16, operating_point: f64) -> Result<Self, InvalidShape> {
        if classes < 2 {
            return Err(InvalidShape::Classes(classes));
        }
        if !(2..=256).contains(&bins) {
            return Err(InvalidShape::Bins(bins));
        }
        if !(0.0..=1.0).contains(&operating_point) {
            return Err(InvalidShape::OperatingPoint(operating_point));
        }
        Ok(Self { classes, bins, operating_point })
    }

    /// Number of classes.
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

    /// Classes whose score is counted against all others: the second of two, or each of several.
    pub fn scored(&self) -> std::ops::Range<usize> {
        if self.classes == 2 { 1..2 } else { 0..self.classes() }
    }

    /// Ring words that the counts take.
    pub fn words(&self) -> usize {
        let per_score = 2 + 2 * self.bins();
        2 + 6 + self.classes().pow(2) + self.scored().len() * per_score + CONFIDENCE_BINS * CONFIDENCE_WORDS
    }

    pub(crate) fn bin(&self, score: f64) -> usize {
        bin(score, self.bins())
    }
}

/// Bin of a probability; what is no number falls into the lowest.
pub(crate) fn bin(score: f64, bins: usize) -> usize {
    ((score * bins as f64) as usize).min(bins - 1)
}

/// Score counts of one class against the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScoreCounts {
    /// Cases of the class called positive at the operating point.
    pub(crate) true_positive: u32,
    /// Other cases called positive.
    pub(crate) false_positive: u32,
    /// Histogram of the class's cases by score.
    pub(crate) positives: Vec<u32>,
    /// Histogram of the others.
    pub(crate) negatives: Vec<u32>,
}

/// One bin of the confidence diagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfidenceBin {
    pub(crate) cases: u32,
    pub(crate) correct: u32,
    pub(crate) confidence: Wide,
}

/// Counts over held-out cases: one site's, or the sum of all survivors'.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationCounts {
    pub(crate) shape: EvaluationShape,
    pub(crate) cases: u32,
    /// Sites that would not train from the candidate.
    pub(crate) declines: u32,
    pub(crate) loss: Wide,
    pub(crate) start_loss: Wide,
    pub(crate) brier: Wide,
    /// `[label][prediction]`, row by row.
    pub(crate) confusion: Vec<u32>,
    pub(crate) scores: Vec<ScoreCounts>,
    pub(crate) confidence: Vec<ConfidenceBin>,
}

/// Why words are no counts. A site may have sent anything: masks hide it until the sum is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedCounts {
    /// Not the words of this shape.
    #[error("{got} words of counts, the shape has {want}")]
    Length {
        /// Words found.
        got: usize,
        /// Words of the shape.
        want: usize,
    },
    /// Two ways of counting the cases disagree, so at least one site counted wrongly.
    #[error("the counts contradict each other: {0} does not add up to the number of cases")]
    Inconsistent(&'static str),
}

impl EvaluationCounts {
    /// Counts of no case.
    pub fn new(shape: EvaluationShape) -> Self {
        let score = ScoreCounts {
            true_positive: 0,
            false_positive: 0,
            positives: vec![0; shape.bins()],
            negatives: vec![0; shape.bins()],
        };
        Self {
            shape,
            cases: 0,
            declines: 0,
            loss: Wide::default(),
            start_loss: Wide::default(),
            brier: Wide::default(),
            confusion: vec![0; shape.classes().pow(2)],
            scores: vec![score; shape.scored().len()],
            confidence: vec![ConfidenceBin::default(); CONFIDENCE_BINS],
        }
    }

    /// Adds one case: the candidate's probabilities, the starting model's, and the true class.
    ///
    /// # Panics
    /// When the probabilities are not one per class or `label` is no class: both are this program's own.
    pub fn add(&mut self, candidate: &[f32], start: &[f32], label: usize) {
        let classes = self.shape.classes();
        assert!(candidate.len() == classes && start.len() == classes, "one probability per class");
        self.cases += 1;
        self.loss.add(fixed_loss(candidate[label]));
        self.start_loss.add(fixed_loss(start[label]));
        let prediction = argmax(candidate);
        self.confusion[label * classes + prediction] += 1;
        self.brier.add((squared_error(candidate, label) * UNIT).round() as u64);
        for (class, counts) in self.shape.scored().zip(&mut self.scores) {
            let score = f64::from(candidate[class]);
            let called = score >= self.shape.operating_point;
            if label == class {
                counts.true_positive += u32::from(called);
                counts.positives[self.shape.bin(score)] += 1;
            } else {
                counts.false_positive += u32::from(called);
                counts.negatives[self.shape.bin(score)] += 1;
            }
        }
        let confidence = f64::from(candidate[prediction]);
        let bin = &mut self.confidence[bin(confidence, CONFIDENCE_BINS)];
        bin.cases += 1;
        bin.correct += u32::from(prediction == label);
        bin.confidence.add((confidence.clamp(0.0, 1.0) * UNIT).round() as u64);
    }

    /// The site will not train from the candidate: its policy declines such a starting model.
    pub fn decline(&mut self) {
        self.declines = 1;
    }

    /// Number of cases counted.
    pub fn cases(&self) -> u32 {
        self.cases
    }

    /// The words of the counts, as they stand at the end of the vector.
    pub fn to_words(&self) -> Vec<u32> {
        let mut words = Vec::with_capacity(self.shape.words());
        words.extend([self.cases, self.declines]);
        for wide in [self.loss, self.start_loss, self.brier] {
            words.extend(wide.words());
        }
        words.extend(&self.confusion);
        for score in &self.scores {
            words.extend([score.true_positive, score.false_positive]);
            words.extend(score.positives.iter().chain(&score.negatives));
        }
        for bin in &self.confidence {
            words.extend([bin.cases, bin.correct]);
            words.extend(bin.confidence.words());
        }
        words
    }

    /// Reads summed words, and checks that every way of counting the cases gives the same number.
    pub fn from_words(shape: EvaluationShape, words: &[u32]) -> Result<Self, MalformedCounts> {
        if words.len() != shape.words() {
            return Err(MalformedCounts::Length { got: words.len(), want: shape.words() });
        }
        let mut rest = words;
        let [cases, declines] = [(); 2].map(|()| take(&mut rest, 1)[0]);
        let [loss, start_loss, brier] = [(); 3].map(|()| take_wide(&mut rest));
        let confusion = take(&mut rest, shape.classes().pow(2)).to_vec();
        let scores = shape
            .scored()
            .map(|_| {
                let called = take(&mut rest, 2);
                ScoreCounts {
                    true_positive: called[0],
                    false_positive: called[1],
                    positives: take(&mut rest, shape.bins()).to_vec(),
                    negatives: take(&mut rest, shape.bins()).to_vec(),
                }
            })
            .collect();
        let confidence = (0..CONFIDENCE_BINS)
            .map(|_| {
                let counts = take(&mut rest, 2);
                ConfidenceBin { cases: counts[0], correct: counts[1], confidence: take_wide(&mut rest) }
            })
            .collect();
        let counts = Self { shape, cases, declines, loss, start_loss, brier, confusion, scores, confidence };
        counts.check()?;
        Ok(counts)
    }

    fn check(&self) -> Result<(), MalformedCounts> {
        let cases = u64::from(self.cases);
        let agree = |what, sum: u64| {
            if sum == cases { Ok(()) } else { Err(MalformedCounts::Inconsistent(what)) }
        };
        // A site judges by cases that it counts.
        if self.declines > self.cases {
            return Err(MalformedCounts::Inconsistent("the number of sites that decline"));
        }
        agree("the confusion matrix", total(&self.confusion))?;
        for score in &self.scores {
            let (positives, negatives) = (total(&score.positives), total(&score.negatives));
            agree("a score histogram", positives + negatives)?;
            if u64::from(score.true_positive) > positives || u64::from(score.false_positive) > negatives {
                return Err(MalformedCounts::Inconsistent("a count at the operating point"));
            }
        }
        agree("the confidence diagram", self.confidence.iter().map(|bin| u64::from(bin.cases)).sum())?;
        let steps = UNIT as u64;
        for bin in &self.confidence {
            // Half a step of rounding per case.
            let most = u64::from(bin.cases) * steps;
            if bin.correct > bin.cases || bin.confidence.get() > most {
                return Err(MalformedCounts::Inconsistent("a bin of the confidence diagram"));
            }
        }
        let most_loss = cases * fixed_loss(0.0);
        if self.loss.get() > most_loss || self.start_loss.get() > most_loss {
            return Err(MalformedCounts::Inconsistent("a clipped loss"));
        }
        if self.brier.get() > cases * 2 * steps {
            return Err(MalformedCounts::Inconsistent("the Brier score"));
        }
        Ok(())
    }
}

pub(crate) fn total(counts: &[u32]) -> u64 {
    counts.iter().copied().map(u64::from).sum()
}

/// The most probable class; the first of equals.
pub(crate) fn argmax(probabilities: &[f32]) -> usize {
    let mut best = 0;
    for (class, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[best] {
            best = class;
        }
    }
    best
}

/// Sum over classes of the squared difference to the truth (Brier 1950): 0 to 2. The worst where a
/// probability is no number.
pub(crate) fn squared_error(probabilities: &[f32], label: usize) -> f64 {
    let sum: f64 = probabilities
        .iter()
        .enumerate()
        .map(|(class, probability)| (f64::from(*probability) - f64::from(u8::from(class == label))).powi(2))
        .sum();
    if sum.is_nan() { 2.0 } else { sum.min(2.0) }
}

fn take<'w>(rest: &mut &'w [u32], count: usize) -> &'w [u32] {
    let (head, tail) = rest.split_at(count);
    *rest = tail;
    head
}

fn take_wide(rest: &mut &[u32]) -> Wide {
    let words = take(rest, 2);
    Wide::from_words([words[0], words[1]])
}
