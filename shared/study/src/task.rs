//! What a study asks a model about a case, and what a case is labelled with.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

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
}

impl Task {
    /// The name used in files and listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Ordinal => "ordinal",
            Self::MultiLabel => "multi-label",
            Self::Segmentation => "segmentation",
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
        !matches!(self, Self::MultiLabel)
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
        }
    }

    /// Its class, where it has one.
    pub const fn class(self) -> Option<u16> {
        match self {
            Self::Class(class) => Some(class),
            Self::Findings(_) | Self::Mask => None,
        }
    }

    /// Whether it is a label of a case of this task, among so many.
    pub const fn fits(self, task: Task, labels: usize) -> bool {
        match self {
            Self::Class(class) => task.is_exclusive() && (class as usize) < labels,
            Self::Findings(set) => matches!(task, Task::MultiLabel) && (labels >= 64 || set >> labels == 0),
            Self::Mask => task.is_dense(),
        }
    }

    /// Whether the label in place `place` is true of the case; none is where it is known of pixels only.
    pub fn holds(self, place: usize) -> bool {
        match self {
            Self::Class(class) => usize::from(class) == place,
            Self::Findings(set) => place < 64 && set >> place & 1 == 1,
            Self::Mask => false,
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
        use Task::{Classification, MultiLabel, Ordinal, Segmentation};
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
        ] {
            assert_eq!(label.fits(task, labels), fits, "{label:?} {task:?} {labels}");
        }
        for task in [Classification, Ordinal, MultiLabel, Segmentation] {
            assert!(Label::unknown(task).fits(task, 2));
        }
    }
}
