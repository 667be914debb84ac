//! What can be reproduced: cells, each a study with a way to train it and a seed, and what they are held against.

use std::fmt;

use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::task::Task;

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
    /// What is shown of it; all arms of an experiment show the same.
    pub(super) metrics: Vec<Metric>,
    /// Greater than in earlier builds where these trained the same study otherwise, or kept less of what came of it: what they
    /// kept is made again.
    pub(super) revision: u32,
}

impl Arm {
    /// An arm of which AUROC and accuracy are shown.
    pub(super) fn new(name: String, way: Way, study: String, seeds: u64) -> Self {
        Self { name, way, study, seeds, metrics: USUAL.to_vec(), revision: 0 }
    }
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

/// What is shown of a published experiment.
const USUAL: [Metric; 2] = [Metric::Auroc, Metric::Accuracy];

/// What is shown of a study: first what picks its model, then what is usual for its task.
pub(super) fn shown(task: Task, recommend: Metric) -> Vec<Metric> {
    let usual: &[Metric] = match task {
        Task::Classification | Task::MultiLabel => &USUAL,
        Task::Ordinal => &[Metric::Kappa, Metric::Accuracy],
        Task::Regression => &[Metric::Rmse, Metric::Mae, Metric::R2],
        Task::Segmentation => &[Metric::Dice],
    };
    let others = usual.iter().copied().filter(|metric| *metric != recommend);
    std::iter::once(recommend).chain(others).collect()
}

/// A metric for people.
pub(super) const fn word(metric: Metric) -> &'static str {
    match metric {
        Metric::Auroc => "AUROC",
        Metric::BalancedAccuracy => "balanced accuracy",
        Metric::Brier => "Brier",
        Metric::Ece => "ECE",
        Metric::Dice => "Dice",
        Metric::Mae => "MAE",
        Metric::Rmse => "RMSE",
        Metric::R2 => "R2",
        Metric::Loss | Metric::Accuracy | Metric::Sensitivity | Metric::Specificity | Metric::Kappa => {
            metric.name()
        }
    }
}

/// What an arm has to reach in the mean over its seeds.
pub(super) struct Aim {
    pub(super) arm: String,
    pub(super) measure: Metric,
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
        let mut text = format!("{data}\n{}\n{}\n{}", self.arm.way, self.seed, self.arm.study);
        if self.arm.revision > 0 {
            text += &format!("\nrevision {}", self.arm.revision);
        }
        Hash::labelled("reproduce-cell", text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_picks_the_model_stands_first_and_once() {
        use Metric::{Accuracy, Auroc, Dice, Kappa, Loss, Mae, R2, Rmse};
        for (task, recommend, columns) in [
            (Task::Classification, Auroc, &[Auroc, Accuracy][..]),
            (Task::MultiLabel, Accuracy, &[Accuracy, Auroc]),
            (Task::Ordinal, Loss, &[Loss, Kappa, Accuracy]),
            (Task::Regression, Mae, &[Mae, Rmse, R2]),
            (Task::Segmentation, Dice, &[Dice]),
        ] {
            assert_eq!(shown(task, recommend), columns, "{}", task.name());
            assert!(columns.iter().all(|metric| metric.is_of(task)), "{}", task.name());
        }
    }

    /// What earlier builds kept of published experiments is taken; a revision makes it anew.
    #[test]
    fn a_revision_is_another_recipe_and_none_is_that_of_earlier_builds() {
        let way = Way::Pooled(Dealt::by(Partition::Iid));
        let mut arm = Arm::new("pooled".to_owned(), way, "a study".to_owned(), 1);
        let data = Hash::of_bytes(b"data");
        let recipe = |arm: &Arm| Cell { arm, seed: 7 }.recipe(data);
        let first = recipe(&arm);
        let text = format!("{data}\npooled, iid\n7\na study");
        assert_eq!(first, Hash::labelled("reproduce-cell", text.as_bytes()));
        arm.revision = 1;
        assert_ne!(recipe(&arm), first);
    }
}
