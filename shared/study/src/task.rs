//! What a study asks a model about a case, and what a case is labelled with.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Between findings of a case, in a table.
pub const BETWEEN_FINDINGS: char = '|';
/// What is written of a case without any finding, in upper or lower case.
pub const NO_FINDINGS: [&str; 2] = ["none", "no finding"];

/// Whether a text of a table says that a case has no finding.
pub fn is_no_finding(text: &str) -> bool {
    NO_FINDINGS.iter().any(|none| text.eq_ignore_ascii_case(none))
}

/// What a model is asked about a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Task {
    /// Which one of the classes it is. Scores are probabilities that sum to 1: the softmax of the outputs.
    #[default]
    #[n(0)]
    Classification,
    /// As a classification, into classes that stand in ascending order: grades of a disease.
    #[n(1)]
    Ordinal,
    /// Which of the findings are there: none, some, or all. Scores are a probability for each, the logistic function of
    /// its output.
    #[n(2)]
    MultiLabel,
    /// Which class each pixel of a picture is of, the first class being the background. Scores are probabilities of each
    /// pixel that sum to 1: the softmax over the channels of the outputs.
    #[n(3)]
    Segmentation,
    /// How much of something there is: an age, a volume. The model has one output, which is 0 at the lower end of the study's
    /// range and 1 at the upper.
    #[n(4)]
    Regression,
}

impl Task {
    /// The name used in files and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Ordinal => "ordinal",
            Self::MultiLabel => "multi-label",
            Self::Segmentation => "segmentation",
            Self::Regression => "regression",
        }
    }

    /// Whether a case is of one class and of no other.
    pub const fn is_exclusive(self) -> bool {
        matches!(self, Self::Classification | Self::Ordinal)
    }

    /// Whether each pixel is scored, and not the case as a whole.
    pub const fn is_dense(self) -> bool {
        matches!(self, Self::Segmentation)
    }

    /// Whether what is scored, a case or a pixel, is of exactly one class: then scores are a softmax.
    pub const fn has_classes(self) -> bool {
        matches!(self, Self::Classification | Self::Ordinal | Self::Segmentation)
    }

    /// Whether a case as a whole has a class, or findings.
    pub const fn is_labelled(self) -> bool {
        matches!(self, Self::Classification | Self::Ordinal | Self::MultiLabel)
    }
}

/// What is known of a case. Of a study's task, all cases have the same kind of label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// Place of its class among the labels.
    Class(u16),
    /// The findings that it has: bit `k` for the label in place `k`.
    Findings(u64),
    /// A class for each of its pixels, which stand beside the picture's own values.
    Mask,
    /// How much there is.
    Value(Measure),
}

/// The lowest and the highest value that a case of a regression may have.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(from = "[f64; 2]", into = "[f64; 2]")]
#[cbor(array)]
pub struct Range {
    /// What is 0 to the model.
    #[n(0)]
    pub low: f64,
    /// What is 1.
    #[n(1)]
    pub high: f64,
}

impl From<[f64; 2]> for Range {
    fn from([low, high]: [f64; 2]) -> Self {
        Self { low, high }
    }
}

impl From<Range> for [f64; 2] {
    fn from(Range { low, high }: Range) -> Self {
        [low, high]
    }
}

impl Range {
    /// From the lowest to the highest value.
    pub fn span(self) -> f64 {
        self.high - self.low
    }

    /// Whether values can lie in it: two finite numbers, the first below the second.
    pub fn is_lawful(self) -> bool {
        let is_plain = |value: f64| value.abs() <= 1e12 && (value != 0.0 || value.is_sign_positive());
        is_plain(self.low) && is_plain(self.high) && self.span() > 0.0
    }

    /// Where a value lies; none of what is outside.
    pub fn measure(self, value: f64) -> Option<Measure> {
        let share = (value - self.low) / self.span();
        (0.0..=1.0).contains(&share).then(|| Measure((share * Measure::WHOLE).round() as u32))
    }

    /// The value that an output of the model stands for, held within the range. The middle where it is no number.
    pub fn value(self, output: f64) -> f64 {
        self.low + self.span() * held(output)
    }
}

/// An output of a regression, held within 0 and 1; the middle where it is no number.
pub fn held(output: f64) -> f64 {
    if output.is_nan() { 0.5 } else { output.clamp(0.0, 1.0) }
}

/// A value by its place in the range of its study, in steps of 2⁻²⁴, all of which f32 holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Measure(u32);

impl Measure {
    const WHOLE: f64 = 16_777_216.0;

    /// From 0 at the lower end to 1 at the upper.
    pub fn share(self) -> f64 {
        f64::from(self.0) / Self::WHOLE
    }
}

impl From<u16> for Label {
    fn from(class: u16) -> Self {
        Self::Class(class)
    }
}

impl Label {
    /// What stands where nothing is known of a case that is only to be scored.
    pub const fn unknown(task: Task) -> Self {
        match task {
            Task::Classification | Task::Ordinal => Self::Class(0),
            Task::MultiLabel => Self::Findings(0),
            Task::Segmentation => Self::Mask,
            Task::Regression => Self::Value(Measure(0)),
        }
    }

    /// Its class, where it has one.
    pub const fn class(self) -> Option<u16> {
        match self {
            Self::Class(class) => Some(class),
            Self::Findings(_) | Self::Mask | Self::Value(_) => None,
        }
    }

    /// Whether it is a label of a case of this task, among so many.
    pub const fn fits(self, task: Task, labels: usize) -> bool {
        match self {
            Self::Class(class) => task.is_exclusive() && (class as usize) < labels,
            Self::Findings(set) => matches!(task, Task::MultiLabel) && (labels >= 64 || set >> labels == 0),
            Self::Mask => task.is_dense(),
            Self::Value(_) => matches!(task, Task::Regression) && labels == 1,
        }
    }

    /// Whether the label in place `place` is true of the case; none is where it is known of pixels only, and what is measured
    /// always is.
    pub fn holds(self, place: usize) -> bool {
        match self {
            Self::Class(class) => usize::from(class) == place,
            Self::Findings(set) => place < 64 && set >> place & 1 == 1,
            Self::Mask => false,
            Self::Value(_) => place == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_holds_where_it_says() {
        let of = |label: Label| -> Vec<usize> { (0..70).filter(|place| label.holds(*place)).collect() };
        assert_eq!(of(Label::Class(3)), [3]);
        assert_eq!(of(Label::Class(69)), [69]);
        assert_eq!(of(Label::Findings(0)), [0; 0]);
        assert_eq!(of(Label::Findings(1 | 1 << 5 | 1 << 63)), [0, 5, 63]);
    }

    #[test]
    fn a_label_fits_its_task_and_the_number_of_names() {
        use Task::{Classification, MultiLabel, Ordinal, Regression, Segmentation};
        for (label, task, labels, fits) in [
            (Label::Class(2), Classification, 3, true),
            (Label::Class(2), Ordinal, 3, true),
            (Label::Class(3), Classification, 3, false),
            (Label::Class(0), MultiLabel, 3, false),
            (Label::Findings(0), MultiLabel, 3, true),
            (Label::Findings(7), MultiLabel, 3, true),
            (Label::Findings(8), MultiLabel, 3, false),
            (Label::Findings(u64::MAX), MultiLabel, 64, true),
            (Label::Findings(1), Classification, 3, false),
            (Label::Findings(1), Segmentation, 3, false),
            (Label::Class(0), Segmentation, 3, false),
            (Label::Mask, Segmentation, 3, true),
            (Label::Mask, MultiLabel, 3, false),
            (Label::Mask, Ordinal, 3, false),
            (Label::Value(Measure(7)), Regression, 1, true),
            (Label::Value(Measure(7)), Regression, 2, false),
            (Label::Value(Measure(7)), Ordinal, 1, false),
        ] {
            assert_eq!(label.fits(task, labels), fits, "{label:?} {task:?} {labels}");
        }
        for task in [Classification, Ordinal, MultiLabel, Segmentation] {
            assert!(Label::unknown(task).fits(task, 2));
        }
        assert!(Label::unknown(Regression).fits(Regression, 1));
    }

    #[test]
    fn values_lie_in_their_range() {
        let range = Range { low: -10.0, high: 30.0 };
        for (value, share) in [(-10.0, 0.0), (0.0, 0.25), (30.0, 1.0)] {
            assert_eq!(range.measure(value).map(Measure::share), Some(share));
            assert!((range.value(share) - value).abs() < 1e-12);
        }
        for outside in [-10.1, 30.1, f64::NAN, f64::INFINITY] {
            assert_eq!(range.measure(outside), None);
        }
        let ends = [2.0, -1.0, f64::NAN].map(|output| range.value(output));
        assert!(
            ends.iter().zip([30.0, -10.0, 10.0]).all(|(got, want)| (got - want).abs() < 1e-12),
            "{ends:?}"
        );
        let third = range.measure(10.0 / 3.0).unwrap().share();
        assert!((third - 1.0 / 3.0).abs() < 1e-7 && f64::from(third as f32).to_bits() == third.to_bits());
        for (low, high, lawful) in [
            (0.0, 1.0, true),
            (1.0, 1.0, false),
            (1.0, 0.0, false),
            (f64::NAN, 1.0, false),
            (0.0, f64::INFINITY, false),
            (-0.0, 1.0, false),
        ] {
            assert_eq!(Range { low, high }.is_lawful(), lawful, "{low} {high}");
        }
    }
}
