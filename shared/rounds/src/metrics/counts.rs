//! Counts over held-out cases, as integers that add.

use consilium_study::task::{Label, Task};
use minicbor::{Decode, Encode};

use super::temperature::{TEMPERATURES, tempered_losses};
use super::{UNIT, Wide, clipped, fixed};

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
    #[n(3)]
    #[cbor(skip_if = "is_default")]
    task: Task,
    #[n(4)]
    #[cbor(skip_if = "is_default")]
    is_calibrated: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
    /// Checks and makes a shape of a classification whose temperature is not fitted.
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
        let (task, is_calibrated) = Default::default();
        Ok(Self { classes, bins, operating_point, task, is_calibrated })
    }

    /// The shape for another task.
    #[must_use]
    pub const fn of_task(self, task: Task) -> Self {
        Self { task, ..self }
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

    /// Entries of the confusion matrix; findings have none, because they do not exclude each other.
    fn confusion_len(&self) -> usize {
        if self.task.is_exclusive() { self.classes().pow(2) } else { 0 }
    }

    /// Answers that a case has: its class, or whether each finding is there.
    fn answers(&self) -> u64 {
        if self.task.is_exclusive() { 1 } else { u64::from(self.classes) }
    }

    fn temperatures(&self) -> usize {
        if self.is_calibrated { TEMPERATURES } else { 0 }
    }

    /// Ring words that the counts take.
    pub fn words(&self) -> usize {
        let per_score = 2 + 2 * self.bins();
        let diagram = CONFIDENCE_BINS * CONFIDENCE_WORDS;
        2 + 6 + self.confusion_len() + self.scored().len() * per_score + diagram + 2 * self.temperatures()
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
    /// `[label][prediction]`, row by row; nothing of findings.
    pub(crate) confusion: Vec<u32>,
    pub(crate) scores: Vec<ScoreCounts>,
    pub(crate) confidence: Vec<ConfidenceBin>,
    /// Losses at each temperature of the grid, where the shape has them.
    pub(crate) tempered: Vec<Wide>,
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
            confusion: vec![0; shape.confusion_len()],
            scores: vec![score; shape.scored().len()],
            confidence: vec![ConfidenceBin::default(); CONFIDENCE_BINS],
            tempered: vec![Wide::default(); shape.temperatures()],
        }
    }

    /// Adds one case: the candidate's probabilities, the starting model's, and the truth.
    ///
    /// # Panics
    /// When the probabilities are not one per class or `label` is not of the shape's task: both are this program's own.
    pub fn add(&mut self, candidate: &[f32], start: &[f32], label: Label) {
        let shape = self.shape;
        let classes = shape.classes();
        assert!(candidate.len() == classes && start.len() == classes, "one probability per class");
        assert!(label.fits(shape.task, classes), "a label of the task");
        self.cases += 1;
        self.loss.add(fixed(loss(candidate, label)));
        self.start_loss.add(fixed(loss(start, label)));
        self.brier.add((squared_error(candidate, label) * UNIT).round() as u64);
        for (sum, loss) in self.tempered.iter_mut().zip(tempered_losses(candidate, label)) {
            sum.add(fixed(loss));
        }
        for (class, counts) in shape.scored().zip(&mut self.scores) {
            let score = f64::from(candidate[class]);
            let called = score >= shape.operating_point;
            if label.holds(class) {
                counts.true_positive += u32::from(called);
                counts.positives[self.shape.bin(score)] += 1;
            } else {
                counts.false_positive += u32::from(called);
                counts.negatives[self.shape.bin(score)] += 1;
            }
        }
        match label {
            Label::Class(class) => {
                let prediction = argmax(candidate);
                self.confusion[usize::from(class) * classes + prediction] += 1;
                self.answer(candidate[prediction].into(), label.holds(prediction));
            }
            Label::Findings(_) => {
                for (finding, &probability) in candidate.iter().enumerate() {
                    let (confidence, is_there) = likelier(probability);
                    self.answer(confidence, is_there == label.holds(finding));
                }
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
        words.extend(self.tempered.iter().flat_map(|loss| loss.words()));
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
        let confusion = take(&mut rest, shape.confusion_len()).to_vec();
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
        let tempered = (0..shape.temperatures()).map(|_| take_wide(&mut rest)).collect();
        let counts =
            Self { shape, cases, declines, loss, start_loss, brier, confusion, scores, confidence, tempered };
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
        if self.shape.task.is_exclusive() {
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
        let most_loss = cases * fixed(f64::INFINITY);
        let mut losses = [self.loss, self.start_loss].into_iter().chain(self.tempered.iter().copied());
        if losses.any(|loss| loss.get() > most_loss) {
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

/// What is likelier of a finding, that it is there or that it is not, and how likely that is.
pub(crate) fn likelier(probability: f32) -> (f64, bool) {
    let probability = f64::from(probability);
    if probability < 0.5 { (1.0 - probability, false) } else { (probability, true) }
}

/// Clipped cross-entropy of the truth, in nats; of findings the mean over them, each clipped.
///
/// # Panics
/// When there is no probability for a class.
pub fn loss(probabilities: &[f32], label: Label) -> f64 {
    let of = |place: usize| clipped(-f64::from(probabilities[place]).ln());
    match label {
        Label::Class(class) => of(class.into()),
        Label::Findings(_) => {
            let each = (0..probabilities.len()).map(|place| {
                if label.holds(place) {
                    of(place)
                } else {
                    clipped(-(1.0 - f64::from(probabilities[place])).ln())
                }
            });
            each.sum::<f64>() / probabilities.len() as f64
        }
    }
}

/// Sum over classes of the squared difference to the truth (Brier 1950): 0 to 2. Of findings twice the mean over them, so that
/// one finding has the error of two classes. The worst where a probability is no number.
pub(crate) fn squared_error(probabilities: &[f32], label: Label) -> f64 {
    let sum: f64 = probabilities
        .iter()
        .enumerate()
        .map(|(place, probability)| {
            (f64::from(*probability) - f64::from(u8::from(label.holds(place)))).powi(2)
        })
        .sum();
    let sum = if label.class().is_some() { sum } else { 2.0 * sum / probabilities.len() as f64 };
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
