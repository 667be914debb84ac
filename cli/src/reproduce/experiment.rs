//! What can be reproduced: cells, each a study with a way to train it and a seed, and what they are held against.

use std::fmt;

use consilium_study::hash::Hash;
use serde::Serialize;

use crate::partition::Partition;

/// A published experiment, and ours beside it.
pub(super) struct Experiment {
    pub(super) name: String,
    /// What it shows and what it follows, for people.
    pub(super) about: String,
    /// The rows of its table; each has a cell for every seed.
    pub(super) arms: Vec<Arm>,
    pub(super) aims: Vec<Aim>,
}

/// One row: a study, and who trains it.
pub(super) struct Arm {
    /// Its name in the table and in `--only`, for example `resnet18/pooled`.
    pub(super) name: String,
    pub(super) way: Way,
    /// The study, as a `study.toml`; its seed is replaced by the cell's.
    pub(super) study: String,
    /// How many seeds it is run with, unless the command says otherwise.
    pub(super) seeds: u64,
}

/// Who trains.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Way {
    /// The sites together, under secure aggregation.
    Federated(Dealt),
    /// One trainer with all sites' cases, which no federation may do.
    Pooled(Dealt),
    /// Each site by itself; the figure is the median over sites.
    Alone(Dealt),
    /// The sites together, and then each by itself from the model that came of it; the figure is the median over sites.
    Finetuned(Dealt),
}

/// How the cases come to the sites.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dealt {
    pub(super) partition: Partition,
    /// Number of sites, where it is not the study's own or that of a column's values.
    pub(super) sites: Option<u16>,
    /// Whether patients are kept from all sites for testing although the partition is by a column.
    pub(super) keeps_test: bool,
}

impl Dealt {
    /// To the study's own sites, or one for each value of a column.
    pub(super) const fn by(partition: Partition) -> Self {
        Self { partition, sites: None, keeps_test: false }
    }
}

impl Way {
    pub(super) const fn dealt(&self) -> &Dealt {
        match self {
            Self::Federated(dealt) | Self::Pooled(dealt) | Self::Alone(dealt) | Self::Finetuned(dealt) => {
                dealt
            }
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Federated(_) => "federated",
            Self::Pooled(_) => "pooled",
            Self::Alone(_) => "alone",
            Self::Finetuned(_) => "federated, then fine-tuned at each site",
        };
        let Dealt { partition, sites, keeps_test } = self.dealt();
        write!(f, "{word}, {partition}")?;
        if let Some(sites) = sites {
            write!(f, ", {sites} sites")?;
        }
        if *keeps_test { f.write_str(", test kept") } else { Ok(()) }
    }
}

/// A figure of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Measure {
    Auroc,
    Accuracy,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auroc => "AUROC",
            Self::Accuracy => "accuracy",
        })
    }
}

/// What an arm has to reach in the mean over its seeds.
pub(super) struct Aim {
    pub(super) arm: String,
    pub(super) measure: Measure,
    pub(super) least: Least,
}

/// The least mean.
pub(super) enum Least {
    /// A published figure, and whose it is.
    Published(f64, &'static str),
    /// At most so far below the mean of another arm.
    Below(f64, String),
}

/// One training: an arm with one seed.
pub(super) struct Cell<'a> {
    pub(super) arm: &'a Arm,
    pub(super) seed: u64,
}

impl Cell<'_> {
    /// Its name in `--only` and on disk.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.arm.name, self.seed)
    }

    /// A name for exactly this training on exactly these data: a figure of another one is not taken for it.
    pub(super) fn recipe(&self, data: Hash) -> Hash {
        let text = format!("{data}\n{}\n{}\n{}", self.arm.way, self.seed, self.arm.study);
        Hash::labelled("reproduce-cell", text.as_bytes())
    }
}
