//! Counts over held-out cases, as integers that add.

use consilium_study::task::{Label, Task, held};

use super::areas::{AREA_WORDS, AreaCounts, overlaps};
use super::labelled::LabelledCounts;
use super::sampled::{SAMPLED_WORDS, Sampled};
use super::shape::EvaluationShape;
use super::values::ValueCounts;
use super::{LOSS_CLIP, Wide, clipped, fixed};

/// What is known of a case that was scored.
#[derive(Clone, Copy, Debug)]
pub enum Truth<'a> {
    /// Its label.
    Label(Label),
    /// The class of each of its pixels.
    Mask(&'a [u8]),
}

impl From<Label> for Truth<'_> {
    fn from(label: Label) -> Self {
        Self::Label(label)
    }
}

impl<'a> From<&'a [u8]> for Truth<'a> {
    fn from(mask: &'a [u8]) -> Self {
        Self::Mask(mask)
    }
}

/// Counts over held-out cases: one site's, or the sum of all survivors'.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationCounts {
    pub(super) shape: EvaluationShape,
    pub(super) cases: u32,
    /// Sites that would not train from the candidate.
    pub(super) declines: u32,
    pub(super) loss: Sampled,
    pub(super) start_loss: Wide,
    pub(super) detail: Detail,
}

/// What is counted beside losses, by the kind of task.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Detail {
    /// Of cases that are labelled as wholes.
    Labelled(LabelledCounts),
    /// Of cases with masks: every class but the background.
    Areas(Vec<AreaCounts>),
    /// Of cases with a value.
    Values(ValueCounts),
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
        let detail = match shape.task() {
            Task::Segmentation => Detail::Areas(vec![AreaCounts::default(); shape.areas()]),
            Task::Regression => Detail::Values(ValueCounts::default()),
            Task::Classification | Task::Ordinal | Task::MultiLabel => {
                Detail::Labelled(LabelledCounts::new(shape))
            }
        };
        let (loss, start_loss) = Default::default();
        Self { shape, cases: 0, declines: 0, loss, start_loss, detail }
    }

    /// Adds one case: the candidate's probabilities, one per class, or of pixels `[pixels, classes]`, or its output of a value;
    /// the starting model's [`loss`]; and the truth.
    ///
    /// # Panics
    /// When the probabilities or the truth are not of the shape's task: both are this program's own.
    pub fn add<'a>(&mut self, candidate: &[f32], start_loss: f64, truth: impl Into<Truth<'a>>) {
        let truth = truth.into();
        let classes = self.shape.classes();
        self.cases += 1;
        self.loss.add(clipped(loss(candidate, truth)));
        self.start_loss.add(fixed(start_loss));
        match (&mut self.detail, truth) {
            (Detail::Labelled(counts), Truth::Label(label)) => {
                assert!(candidate.len() == classes, "one probability per class");
                assert!(label.fits(self.shape.task(), classes), "a label of the task");
                counts.add(candidate, label);
            }
            (Detail::Areas(areas), Truth::Mask(mask)) => {
                assert!(candidate.len() == mask.len() * classes, "one probability per pixel and class");
                let prediction = candidate.chunks_exact(classes).map(argmax);
                let overlaps = overlaps(mask, prediction, classes);
                for (area, (shared, both)) in areas.iter_mut().zip(&overlaps[1..]) {
                    area.add(*shared, *both);
                }
            }
            (Detail::Values(values), Truth::Label(Label::Value(value))) => {
                assert!(candidate.len() == 1, "one output");
                values.add(candidate[0], value);
            }
            (_, truth) => panic!("{truth:?} is not what a {} asks for", self.shape.task().name()),
        }
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
        words.extend(self.loss.words());
        words.extend(self.start_loss.words());
        match &self.detail {
            Detail::Labelled(counts) => counts.write(&mut words),
            Detail::Areas(areas) => words.extend(areas.iter().flat_map(|area| area.words())),
            Detail::Values(values) => words.extend(values.words().as_flattened()),
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
        let (loss, start_loss) = (take_sampled(&mut rest), take_wide(&mut rest));
        let detail = match shape.task() {
            Task::Segmentation => {
                let areas = rest.as_chunks::<AREA_WORDS>().0;
                Detail::Areas(areas.iter().copied().map(AreaCounts::from_words).collect())
            }
            Task::Regression => {
                let values = rest.as_chunks::<2>().0.first_chunk().copied();
                Detail::Values(values.map(ValueCounts::from_words).unwrap_or_default())
            }
            Task::Classification | Task::Ordinal | Task::MultiLabel => {
                Detail::Labelled(LabelledCounts::read(shape, &mut rest))
            }
        };
        let counts = Self { shape, cases, declines, loss, start_loss, detail };
        counts.check()?;
        Ok(counts)
    }

    fn check(&self) -> Result<(), MalformedCounts> {
        // A site judges by cases that it counts.
        if self.declines > self.cases {
            return Err(MalformedCounts::Inconsistent("the number of sites that decline"));
        }
        let most = u64::from(self.cases) * fixed(f64::INFINITY);
        if !self.loss.is_possible(self.cases, LOSS_CLIP as u32) || self.start_loss.get() > most {
            return Err(MalformedCounts::Inconsistent("a clipped loss"));
        }
        match &self.detail {
            Detail::Labelled(counts) => counts.check(self.cases),
            Detail::Areas(areas) if areas.iter().all(|area| area.is_possible(self.cases)) => Ok(()),
            Detail::Areas(_) => Err(MalformedCounts::Inconsistent("a Dice coefficient")),
            Detail::Values(values) if values.is_possible(self.cases) => Ok(()),
            Detail::Values(_) => Err(MalformedCounts::Inconsistent("an error of values")),
        }
    }
}

pub(super) fn total(counts: &[u32]) -> u64 {
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

/// Clipped cross-entropy of the truth, in nats; of findings the mean over them, of a mask over its pixels, each clipped. Of a
/// value the absolute error, as a share of the range.
///
/// # Panics
/// When there is no probability for a class.
pub fn loss<'a>(probabilities: &[f32], truth: impl Into<Truth<'a>>) -> f64 {
    let of = |place: usize| clipped(-f64::from(probabilities[place]).ln());
    match truth.into() {
        Truth::Label(Label::Class(class)) => of(class.into()),
        Truth::Label(Label::Value(value)) => (held(probabilities[0].into()) - value.share()).abs(),
        Truth::Label(label) => {
            let each = (0..probabilities.len()).map(|place| {
                if label.holds(place) {
                    of(place)
                } else {
                    clipped(-(1.0 - f64::from(probabilities[place])).ln())
                }
            });
            each.sum::<f64>() / probabilities.len() as f64
        }
        Truth::Mask(mask) => {
            let classes = probabilities.len() / mask.len().max(1);
            let each =
                mask.iter().enumerate().map(|(pixel, class)| of(pixel * classes + usize::from(*class)));
            each.sum::<f64>() / mask.len() as f64
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

pub(super) fn take<'w>(rest: &mut &'w [u32], count: usize) -> &'w [u32] {
    let (head, tail) = rest.split_at(count);
    *rest = tail;
    head
}

pub(super) fn take_wide(rest: &mut &[u32]) -> Wide {
    let words = take(rest, 2);
    Wide::from_words([words[0], words[1]])
}

pub(super) fn take_sampled(rest: &mut &[u32]) -> Sampled {
    let words = take(rest, SAMPLED_WORDS);
    Sampled::from_words([words[0], words[1], words[2], words[3]])
}
