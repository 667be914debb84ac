//! What came of a cell, as it is kept.

use std::collections::BTreeMap;
use std::fmt;

use consilium_rounds::metrics::Figures;
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::name::SiteName;
use consilium_study::task::Task;
use serde::{Deserialize, Serialize};

use super::experiment::{Cell, word};
use crate::finetune::Comparison;
use crate::simulate::setting::median;

/// What came of a cell, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) cell: String,
    /// [`Cell::recipe`].
    pub(super) recipe: Hash,
    /// On the cases that nobody trained on; none where there are none, or of one class.
    pub(super) auroc: Option<f64>,
    pub(super) accuracy: Option<f64>,
    /// These and all others that the task has, where the cases define them. Earlier builds kept these two alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) figures: BTreeMap<Metric, f64>,
    /// Cases that nobody trained on.
    pub(super) test_cases: usize,
    /// Cases trained on, of all sites.
    pub(super) train_cases: usize,
    /// The round (of a trainer without rounds: as many cases as a round has) whose model it is, of so many. 0 where no round
    /// was adopted and it is the initial model; of sites alone, which have a model each, the last that any made.
    pub(super) chosen: u32,
    pub(super) rounds: u32,
    /// Rounds that were made: fewer where the study's patience ended. Of sites alone the most. Earlier builds kept none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rounds_made: Option<u32>,
    /// Whose cases it does without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) left_out: Vec<LeftOut>,
    /// Each site's own figures, where sites train alone, adapt the model or have layers of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) sites: Vec<Site>,
    pub(super) seconds: f64,
    /// The program that made it.
    pub(super) version: String,
}

/// What a site reaches by itself, or with its own layers in the federation's model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Site {
    pub(super) site: SiteName,
    pub(super) train_cases: usize,
    pub(super) auroc: Option<f64>,
    pub(super) accuracy: Option<f64>,
    /// As those of a cell.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) figures: BTreeMap<Metric, f64>,
    /// Of a site alone: the round (see [`Finished::chosen`]) whose model it is, of how many that were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chosen: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rounds_made: Option<u32>,
    /// Where the federation's model was adapted: before and after on the site's own held-out cases. The adapted one is
    /// taken if it is not worse there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) own: Option<Comparison>,
}

/// A site whose cases an arm does without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeftOut {
    pub(super) site: SiteName,
    pub(super) reason: Reason,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// All its patients were drawn for testing, so it is no site of this cell.
    TestOnly,
    /// The study's own limits keep it out.
    TooFewCases,
    /// All its patients were drawn for holding out.
    NothingToTrainOn,
    /// It can train, but its update is in no round's sum.
    InNoRound,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TestOnly => "all their patients are kept for testing",
            Self::TooFewCases => "too few cases that the study can use",
            Self::NothingToTrainOn => "no cases to train on: all are held out",
            Self::InNoRound => "counted in no round",
        })
    }
}

impl Finished {
    /// A figure, where the cases define it.
    pub(super) fn figure(&self, metric: Metric) -> Option<f64> {
        self.figures.get(&metric).copied().or(match metric {
            Metric::Auroc => self.auroc,
            Metric::Accuracy => self.accuracy,
            _ => None,
        })
    }

    /// Whether no round was adopted, so that the federation's model is the initial one.
    pub(super) const fn is_untrained(&self) -> bool {
        self.chosen == 0
    }

    /// How many rounds each of its models was trained for.
    pub(super) fn made(&self) -> Vec<u32> {
        let of_sites: Vec<u32> = self.sites.iter().filter_map(|site| site.rounds_made).collect();
        if of_sites.is_empty() { self.rounds_made.into_iter().collect() } else { of_sites }
    }

    /// In one line, for people.
    pub(super) fn line(&self, cell: &Cell<'_>, state: &str) -> String {
        let figure = |metric: &Metric| match self.figure(*metric) {
            Some(value) => format!("{} {value:.4}", word(*metric)),
            None => format!("{} –", word(*metric)),
        };
        let figures: Vec<String> = cell.arm.metrics.iter().map(figure).collect();
        let planned = self.rounds;
        let round = match self.rounds_made.filter(|made| *made != planned) {
            _ if self.is_untrained() => "no round was adopted: the initial model".to_owned(),
            Some(made) => format!("round {} of {made} (of {planned})", self.chosen),
            None => format!("round {} of {planned}", self.chosen),
        };
        format!(
            "{} {state}: {} on {} cases; {round}, {:.0} s",
            self.cell,
            figures.join(", "),
            self.test_cases,
            self.seconds
        )
    }
}

impl Site {
    /// Of a task.
    pub(super) fn new(site: &SiteName, train_cases: usize, task: Task, figures: Option<&Figures>) -> Self {
        Self {
            site: site.clone(),
            train_cases,
            auroc: figures.and_then(|figures| figures.auroc),
            accuracy: figures.and_then(|figures| figures.accuracy),
            figures: of_task(task, |metric| figures?.get(metric)),
            chosen: None,
            rounds_made: None,
            own: None,
        }
    }
}

/// Medians over sites.
pub(super) fn medians(sites: &[Site], task: Task) -> BTreeMap<Metric, f64> {
    of_task(task, |metric| {
        median(sites.iter().filter_map(|site| site.figures.get(&metric).copied()).collect())
    })
}

/// The figures that a task has. A number without an end is none: it could not be kept.
pub(super) fn of_task(task: Task, figure: impl Fn(Metric) -> Option<f64>) -> BTreeMap<Metric, f64> {
    let metrics = Metric::ALL.into_iter().filter(|metric| metric.is_of(task));
    metrics.filter_map(|metric| Some((metric, figure(metric).filter(|value| value.is_finite())?))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::partition::Partition;
    use crate::reproduce::experiment::{Arm, Dealt, Way};

    /// As builds before this one kept it.
    const EARLIER: &str = r#"{"cell": "alone/1", "recipe": "ba5f04973391f00105a14f30d380dce82f0878bf200be62d82138245eb23bfb8",
        "auroc": 0.83, "accuracy": 0.74, "test_cases": 170, "train_cases": 199, "chosen": 60, "rounds": 60,
        "sites": [{"site": "va", "train_cases": 199, "auroc": 0.83, "accuracy": 0.74}],
        "seconds": 0.28, "version": "0.1.0"}"#;

    /// Something that was kept, with other figures.
    pub(in crate::reproduce) fn finished(cell: &str, figures: &[(Metric, f64)]) -> Finished {
        let kept: Finished = serde_json::from_str(EARLIER).unwrap();
        Finished {
            cell: cell.to_owned(),
            auroc: None,
            accuracy: None,
            figures: figures.iter().copied().collect(),
            sites: Vec::new(),
            rounds_made: Some(60),
            ..kept
        }
    }

    fn arm(metrics: &[Metric]) -> Arm {
        let way = Way::Alone(Dealt::by(Partition::Iid));
        Arm { metrics: metrics.to_vec(), ..Arm::new("alone".to_owned(), way, String::new(), 1) }
    }

    #[test]
    fn what_earlier_builds_kept_is_read_and_told_as_before() {
        let kept: Finished = serde_json::from_str(EARLIER).unwrap();
        assert_eq!((kept.figure(Metric::Auroc), kept.figure(Metric::Accuracy)), (Some(0.83), Some(0.74)));
        assert_eq!((kept.figure(Metric::Kappa), kept.made()), (None, vec![]));
        let arm = arm(&[Metric::Auroc, Metric::Accuracy]);
        assert_eq!(
            kept.line(&Cell { arm: &arm, seed: 1 }, "kept"),
            "alone/1 kept: AUROC 0.8300, accuracy 0.7400 on 170 cases; round 60 of 60, 0 s"
        );
        // And written again as it was.
        let (again, before): (serde_json::Value, serde_json::Value) =
            (serde_json::to_value(&kept).unwrap(), serde_json::from_str(EARLIER).unwrap());
        assert_eq!(again, before);
    }

    #[test]
    fn a_line_tells_the_studys_figures_and_the_rounds_that_were_made() {
        let arm = arm(&[Metric::R2, Metric::Mae, Metric::Rmse]);
        let cell = Cell { arm: &arm, seed: 1 };
        let mut kept = finished("alone/1", &[(Metric::R2, -0.25), (Metric::Mae, 12.0)]);
        (kept.chosen, kept.rounds_made) = (6, Some(8));
        let line = kept.line(&cell, "done");
        assert!(line.contains("R2 -0.2500, MAE 12.0000, RMSE – on"), "{line}");
        assert!(line.contains("round 6 of 8 (of 60)"), "{line}");
        kept.chosen = 0;
        assert!(kept.line(&cell, "done").contains("no round was adopted"));
        let read: Finished = serde_json::from_slice(&serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(read, kept);
    }

    #[test]
    fn a_figure_is_the_median_over_the_sites_that_have_it() {
        let figures =
            |mae: Option<f64>, rmse: f64| Figures { loss: 0.5, mae, rmse: Some(rmse), ..Figures::default() };
        let all = [figures(Some(3.0), f64::INFINITY), figures(None, 2.0), figures(Some(1.0), 4.0)];
        let name: SiteName = "a".parse().unwrap();
        let sites: Vec<Site> = all.iter().map(|of| Site::new(&name, 1, Task::Regression, Some(of))).collect();
        let expected = BTreeMap::from([(Metric::Loss, 0.5), (Metric::Mae, 2.0), (Metric::Rmse, 3.0)]);
        assert_eq!(medians(&sites, Task::Regression), expected);
        assert!(Site::new(&name, 1, Task::Regression, None).figures.is_empty());
    }
}
