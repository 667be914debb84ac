//! What training makes small, as a study says it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::task::Task;

/// What training makes small, of a case of class `y` that the model gives the probability `p_y`. Of findings it is the mean
/// over them, where `y` is whether a finding is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(from = "Spelling", into = "Spelling")]
pub enum Loss {
    /// `-ln p_y`.
    #[default]
    #[n(0)]
    CrossEntropy,
    /// `-(1 - p_y)^γ · ln p_y` (Lin et al. 2017): what is told apart already counts little.
    #[n(1)]
    Focal {
        /// The paper's γ.
        #[n(0)]
        gamma: f64,
    },
    /// `sum over k of (P_k - Y_k)²`, `P_k` being the probability of a grade of at most `k` and `Y_k` 1 from `y` on and 0 below:
    /// the squared earth mover's distance (Hou, Yu and Samaras 2016). Grades further away cost more. Of ordinal studies.
    #[n(2)]
    EarthMover,
    /// `1 - (2 Σ p·y + s) / (Σ p + Σ y + s)` with `s` = 1e-5, of all pixels of a picture, where `p` is the probability of a class and
    /// `y` whether a pixel is of it; the mean over pictures and over all classes but the background (Milletari, Navab and
    /// Ahmadi 2016, without their squares). Of segmentations.
    #[n(3)]
    Dice,
    /// That and the cross-entropy of pixels, added (Isensee et al. 2021). Of segmentations.
    #[n(4)]
    DiceCrossEntropy,
    /// `(o - y)²` of an output `o` and the place `y` of the true value in the study's range. Of regressions.
    #[n(5)]
    SquaredError,
    /// `|o - y|`. Of regressions.
    #[n(6)]
    AbsoluteError,
    /// `(o - y)² / 2` where that is at most `δ` apart, else `δ (|o - y| - δ/2)` (Huber 1964): what is far off counts less. Of
    /// regressions.
    #[n(7)]
    Huber {
        /// The paper's δ, as a share of the range.
        #[n(0)]
        delta: f64,
    },
}

impl Loss {
    /// The word or the kind that a study writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Focal { .. } => "focal",
            Self::EarthMover => "earth-mover",
            Self::Dice => "dice",
            Self::DiceCrossEntropy => "dice-cross-entropy",
            Self::SquaredError => "squared-error",
            Self::AbsoluteError => "absolute-error",
            Self::Huber { .. } => "huber",
        }
    }

    /// Whether it compares areas.
    pub const fn has_dice(self) -> bool {
        matches!(self, Self::Dice | Self::DiceCrossEntropy)
    }

    /// Whether it compares values.
    pub const fn has_values(self) -> bool {
        matches!(self, Self::SquaredError | Self::AbsoluteError | Self::Huber { .. })
    }

    /// What training makes small where a study says nothing.
    pub const fn usual(task: Task) -> Self {
        if matches!(task, Task::Regression) { Self::SquaredError } else { Self::CrossEntropy }
    }
}

/// `loss` as written: a word, or a table with what belongs to it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "write loss = \"cross-entropy\", \"earth-mover\", \"dice\", \"dice-cross-entropy\", \"squared-error\", \"absolute-error\", \
                 { kind = \"focal\", gamma = 2.0 } or { kind = \"huber\", delta = 0.1 }"
)]
enum Spelling {
    Word(Word),
    Table(Table),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    CrossEntropy,
    EarthMover,
    Dice,
    DiceCrossEntropy,
    SquaredError,
    AbsoluteError,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Table {
    Focal { gamma: f64 },
    Huber { delta: f64 },
}

impl From<Spelling> for Loss {
    fn from(spelling: Spelling) -> Self {
        match spelling {
            Spelling::Word(Word::CrossEntropy) => Self::CrossEntropy,
            Spelling::Word(Word::EarthMover) => Self::EarthMover,
            Spelling::Word(Word::Dice) => Self::Dice,
            Spelling::Word(Word::DiceCrossEntropy) => Self::DiceCrossEntropy,
            Spelling::Word(Word::SquaredError) => Self::SquaredError,
            Spelling::Word(Word::AbsoluteError) => Self::AbsoluteError,
            Spelling::Table(Table::Focal { gamma }) => Self::Focal { gamma },
            Spelling::Table(Table::Huber { delta }) => Self::Huber { delta },
        }
    }
}

impl From<Loss> for Spelling {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::CrossEntropy => Self::Word(Word::CrossEntropy),
            Loss::EarthMover => Self::Word(Word::EarthMover),
            Loss::Dice => Self::Word(Word::Dice),
            Loss::DiceCrossEntropy => Self::Word(Word::DiceCrossEntropy),
            Loss::SquaredError => Self::Word(Word::SquaredError),
            Loss::AbsoluteError => Self::Word(Word::AbsoluteError),
            Loss::Focal { gamma } => Self::Table(Table::Focal { gamma }),
            Loss::Huber { delta } => Self::Table(Table::Huber { delta }),
        }
    }
}
