//! What training makes small, as a study says it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

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
}

impl Loss {
    /// Whether it compares areas.
    pub const fn has_dice(self) -> bool {
        matches!(self, Self::Dice | Self::DiceCrossEntropy)
    }
}

/// `loss` as written: a word, or a table with what belongs to it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "write loss = \"cross-entropy\", \"earth-mover\", \"dice\", \"dice-cross-entropy\" or { kind = \"focal\", gamma = 2.0 }"
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
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: Kind,
    gamma: f64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Focal,
}

impl From<Spelling> for Loss {
    fn from(spelling: Spelling) -> Self {
        match spelling {
            Spelling::Word(Word::CrossEntropy) => Self::CrossEntropy,
            Spelling::Word(Word::EarthMover) => Self::EarthMover,
            Spelling::Word(Word::Dice) => Self::Dice,
            Spelling::Word(Word::DiceCrossEntropy) => Self::DiceCrossEntropy,
            Spelling::Table(Table { kind: Kind::Focal, gamma }) => Self::Focal { gamma },
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
            Loss::Focal { gamma } => Self::Table(Table { kind: Kind::Focal, gamma }),
        }
    }
}
