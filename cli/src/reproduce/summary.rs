//! The table at the end: what every arm reached, what it is held against, and what was not run.

use std::collections::BTreeMap;

use consilium_study::metric::Metric;
use consilium_study::name::SiteName;
use serde::Serialize;

use super::experiment::{Cell, Experiment, Least, word};
use super::finished::{Finished, Reason};
use crate::interval::Mean;
use crate::output::table;

/// The last line of `--json`.
#[derive(Serialize)]
pub(super) struct Summary {
    #[serde(rename = "final")]
    is_final: bool,
    experiment: String,
    about: String,
    /// The columns of the table.
    metrics: Vec<Metric>,
    arms: Vec<Row>,
    aims: Vec<Verdict>,
    not_run: Vec<NotRun>,
}

#[derive(Serialize)]
struct Row {
    arm: String,
    way: String,
    /// By the names of metrics: those of the columns, and these two always.
    #[serde(flatten)]
    figures: BTreeMap<Metric, Option<Mean>>,
    /// Seeds that were run, of so many.
    done: usize,
    seeds: usize,
    /// Rounds that the study has, and those that were made of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds_made: Option<Spread>,
    /// Seeds with which no round was adopted, so that the federation's model is the initial one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nothing_adopted: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<Without>,
    /// Mean time of a cell.
    seconds: Option<f64>,
}

/// The fewest and the most, over seeds and sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Spread {
    fewest: u32,
    most: u32,
}

/// A site whose cases an arm does without, and with which seeds.
#[derive(Serialize)]
struct Without {
    site: SiteName,
    reason: Reason,
    seeds: Vec<u64>,
}

/// An aim, and whether it was reached.
#[derive(Serialize)]
struct Verdict {
    arm: String,
    measure: Metric,
    /// The least mean; none while the arm it follows from was not run.
    least: Option<f64>,
    because: String,
    mean: Option<f64>,
    /// None while there is nothing to compare.
    met: Option<bool>,
    /// Mean difference to the arm it is compared with, over the seeds that both were run with.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Mean>,
}

/// An arm with cells that were not run, and what to type to run them.
#[derive(Serialize)]
struct NotRun {
    arm: String,
    cells: Vec<String>,
    command: String,
}

impl Summary {
    pub(super) fn new(
        experiment: &Experiment,
        cells: &[Cell<'_>],
        done: &[Finished],
        command: impl Fn(&str) -> String,
    ) -> Self {
        let result = |cell: &Cell<'_>| done.iter().find(|result| result.cell == cell.name());
        let of_arm = |arm: &str| cells.iter().filter(|cell| cell.arm.name == arm).collect::<Vec<_>>();
        let values = |arm: &str, measure| -> Vec<(u64, f64)> {
            let value = |cell: &&Cell<'_>| Some((cell.seed, result(cell)?.figure(measure)?));
            of_arm(arm).iter().filter_map(value).collect()
        };
        let mean = |arm: &str, measure| {
            Mean::of(&values(arm, measure).iter().map(|(_, value)| *value).collect::<Vec<_>>())
        };
        let arms = experiment.arms.iter().map(|arm| {
            let cells = of_arm(&arm.name);
            let results: Vec<(u64, &Finished)> =
                cells.iter().filter_map(|cell| Some((cell.seed, result(cell)?))).collect();
            let seconds: Vec<f64> = results.iter().map(|(_, result)| result.seconds).collect();
            let metrics = arm.metrics.iter().copied().chain([Metric::Auroc, Metric::Accuracy]);
            let untrained = results.iter().filter(|(_, result)| result.is_untrained());
            Row {
                arm: arm.name.clone(),
                way: arm.way.to_string(),
                figures: metrics.map(|metric| (metric, mean(&arm.name, metric))).collect(),
                done: seconds.len(),
                seeds: cells.len(),
                rounds: results.iter().map(|(_, result)| result.rounds).max(),
                rounds_made: Spread::of(results.iter().flat_map(|(_, result)| result.made())),
                nothing_adopted: untrained.map(|(seed, _)| *seed).collect(),
                left_out: Without::of(&results),
                seconds: Mean::of(&seconds).map(|mean| mean.mean),
            }
        });
        let aims = experiment.aims.iter().map(|aim| {
            let reached = mean(&aim.arm, aim.measure).map(|mean| mean.mean);
            let (least, because, difference) = match &aim.least {
                Least::Published(least, whose) => (Some(*least), (*whose).to_owned(), None),
                Least::Below(below, other) => {
                    let theirs = values(other, aim.measure);
                    let pairs = values(&aim.arm, aim.measure).into_iter().filter_map(|(seed, value)| {
                        let (_, other) = theirs.iter().find(|(theirs, _)| *theirs == seed)?;
                        Some(value - other)
                    });
                    let because = format!("{other} less {below}");
                    let least = mean(other, aim.measure).map(|mean| mean.mean - below);
                    (least, because, Mean::of(&pairs.collect::<Vec<_>>()))
                }
            };
            let met = reached.zip(least).map(|(reached, least)| reached >= least);
            let (arm, measure) = (aim.arm.clone(), aim.measure);
            Verdict { arm, measure, least, because, mean: reached, met, difference }
        });
        let not_run = experiment.arms.iter().filter_map(|arm| {
            let cells = of_arm(&arm.name);
            let missing = cells.iter().filter(|cell| result(cell).is_none());
            let cells: Vec<String> = missing.map(|cell| cell.name()).collect();
            let command = command(&arm.name);
            (!cells.is_empty()).then(|| NotRun { arm: arm.name.clone(), cells, command })
        });
        Self {
            is_final: true,
            experiment: experiment.name.clone(),
            about: experiment.about.clone(),
            metrics: experiment.arms.first().map_or_else(Vec::new, |arm| arm.metrics.clone()),
            arms: arms.collect(),
            aims: aims.collect(),
            not_run: not_run.collect(),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let ends_early = self.arms.iter().any(Row::ends_early);
        let rows: Vec<Vec<String>> = self
            .arms
            .iter()
            .map(|row| {
                let figure = |metric: &Metric| match row.figures.get(metric).copied().flatten() {
                    _ if row.done == 0 => "not run".to_owned(),
                    mean => Mean::text(mean),
                };
                let mark = if row.nothing_adopted.is_empty() { "" } else { " *" };
                let mut cells = vec![format!("{}{mark}", row.arm), row.way.clone()];
                cells.extend(self.metrics.iter().map(figure));
                cells.push(format!("{}/{}", row.done, row.seeds));
                if ends_early {
                    cells.push(row.rounds());
                }
                cells.push(row.seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.0} s")));
                cells
            })
            .collect();
        let mut header = vec!["arm", "trained"];
        header.extend(self.metrics.iter().map(|metric| word(*metric)));
        header.push("seeds");
        if ends_early {
            header.push("rounds");
        }
        header.push("a cell");
        let mut text = format!("\n{}\n\n{}\n", self.about, table(&header, &rows));
        for note in self.arms.iter().flat_map(Row::notes) {
            text += &format!("\n{note}");
        }
        for Verdict { arm, measure, least, because, mean, met, difference } in &self.aims {
            let least = least.map_or_else(|| "?".to_owned(), |least| format!("{least:.3}"));
            let reached = match (mean, met) {
                (Some(mean), Some(true)) => format!("{mean:.3}: reached"),
                (Some(mean), Some(false)) => format!("{mean:.3}: MISSED"),
                (Some(mean), None) => format!("{mean:.3}: nothing to compare with yet"),
                (None, _) => "not run".to_owned(),
            };
            let pairs = difference.map_or_else(String::new, |difference| {
                format!("; difference seed by seed {}", Mean::text(Some(difference)))
            });
            text += &format!("\n{arm}: {} of at least {least} ({because}): {reached}{pairs}", word(*measure));
        }
        if !self.not_run.is_empty() {
            text += "\n\nNot run:";
            for NotRun { cells, command, .. } in &self.not_run {
                text += &format!("\n  {command}   ({} of its cells)", cells.len());
            }
        }
        text
    }
}

impl Row {
    /// Whether fewer rounds were made than the study has.
    fn ends_early(&self) -> bool {
        self.rounds_made.is_some_and(|made| Some(made.fewest) != self.rounds)
    }

    /// Rounds that were made, for people.
    fn rounds(&self) -> String {
        match (self.rounds_made, self.rounds) {
            (Some(Spread { fewest, most }), Some(rounds)) if fewest == most => format!("{most} of {rounds}"),
            (Some(Spread { fewest, most }), Some(rounds)) => format!("{fewest}–{most} of {rounds}"),
            _ => "–".to_owned(),
        }
    }

    /// What has to be known beside the figures.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.nothing_adopted.is_empty() {
            notes.push(format!(
                "* {}: no round was adopted with {}, so the federation's model there is the initial one",
                self.arm,
                named(&self.nothing_adopted)
            ));
        }
        let mut by_reason: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
        for Without { site, reason, seeds } in &self.left_out {
            let always = seeds.len() == self.done;
            let site = if always { site.to_string() } else { format!("{site} ({})", named(seeds)) };
            by_reason.entry(*reason).or_default().push(site);
        }
        notes.extend(
            by_reason
                .into_iter()
                .map(|(reason, sites)| format!("{} is without {}: {reason}", self.arm, sites.join(", "))),
        );
        notes
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = u32> + Clone) -> Option<Self> {
        Some(Self { fewest: values.clone().min()?, most: values.max()? })
    }
}

impl Without {
    fn of(results: &[(u64, &Finished)]) -> Vec<Self> {
        let mut seeds: BTreeMap<(&SiteName, Reason), Vec<u64>> = BTreeMap::new();
        for (seed, result) in results {
            for left in &result.left_out {
                seeds.entry((&left.site, left.reason)).or_default().push(*seed);
            }
        }
        let without = seeds.into_iter();
        without.map(|((site, reason), seeds)| Self { site: site.clone(), reason, seeds }).collect()
    }
}

/// Seeds for people: `seed 2`, `seeds 1, 3`.
fn named(seeds: &[u64]) -> String {
    let word = if seeds.len() == 1 { "seed" } else { "seeds" };
    format!("{word} {}", seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::partition::Partition;
    use crate::reproduce::experiment::{Arm, Dealt, Way};
    use crate::reproduce::finished::LeftOut;
    use crate::reproduce::finished::tests::finished;

    fn experiment(metrics: &[Metric]) -> Experiment {
        let arm = |name: &str, way: Way| Arm {
            metrics: metrics.to_vec(),
            ..Arm::new(name.to_owned(), way, String::new(), 2)
        };
        let dealt = || Dealt::by(Partition::Iid);
        Experiment {
            name: "mine".to_owned(),
            about: "Mine".to_owned(),
            arms: vec![arm("federated", Way::Federated(dealt())), arm("alone", Way::Alone(dealt()))],
            aims: Vec::new(),
        }
    }

    fn summary(experiment: &Experiment, done: &[Finished]) -> Summary {
        let cells = experiment.arms.iter().flat_map(|arm| [1, 2].map(|seed| Cell { arm, seed }));
        Summary::new(experiment, &cells.collect::<Vec<_>>(), done, |arm| format!("run {arm}"))
    }

    #[test]
    fn a_table_has_the_columns_of_its_metrics_and_json_their_names() {
        let experiment = experiment(&[Metric::R2, Metric::Rmse]);
        let of = |cell: &str, r2, rmse| finished(cell, &[(Metric::R2, r2), (Metric::Rmse, rmse)]);
        let summary = summary(&experiment, &[of("federated/1", 0.5, 10.0), of("federated/2", 0.7, 12.0)]);
        let text = summary.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].starts_with("arm        trained         R2"), "{text}");
        assert!(lines[3].contains("RMSE") && !lines[3].contains("AUROC") && !lines[3].contains("rounds"));
        assert!(lines[4].contains("0.600 ± 1.271 (2)") && lines[4].contains("11.000 ± "), "{text}");
        assert_eq!(lines[5].matches("not run").count(), 2, "{text}");
        let value = serde_json::to_value(&summary).unwrap();
        assert_eq!(value["metrics"], json!(["r2", "rmse"]));
        let (federated, alone) = (&value["arms"][0], &value["arms"][1]);
        assert_eq!((&federated["r2"]["count"], &federated["rmse"]["mean"]), (&json!(2), &json!(11.0)));
        assert_eq!((&federated["auroc"], &alone["r2"]), (&json!(null), &json!(null)));
        assert_eq!(federated["rounds_made"], json!({ "fewest": 60, "most": 60 }));
    }

    #[test]
    fn what_has_to_be_known_beside_the_figures_stands_below_them() {
        let experiment = experiment(&[Metric::Auroc]);
        let mut done = ["federated/1", "federated/2", "alone/1", "alone/2"]
            .map(|cell| finished(cell, &[(Metric::Auroc, 0.5)]));
        let left = |site: &str, reason| LeftOut { site: site.parse().unwrap(), reason };
        (done[0].chosen, done[0].rounds_made) = (0, Some(7));
        done[0].left_out = vec![left("x", Reason::InNoRound)];
        done[2].left_out = vec![left("x", Reason::NothingToTrainOn), left("y", Reason::NothingToTrainOn)];
        done[3].left_out = vec![left("y", Reason::NothingToTrainOn)];
        let summary = summary(&experiment, &done);
        let text = summary.text();
        for line in [
            "* federated: no round was adopted with seed 1, so the federation's model there is the initial one",
            "federated is without x (seed 1): counted in no round",
            "alone is without x (seed 1), y: no cases to train on: all are held out",
        ] {
            assert!(text.lines().any(|there| there == line), "{text}");
        }
        assert!(text.contains("\nfederated *  "), "{text}");
        assert!(
            text.contains("rounds") && text.contains("7–60 of 60") && text.contains("60 of 60"),
            "{text}"
        );
        let value = serde_json::to_value(&summary).unwrap();
        let (federated, alone) = (&value["arms"][0], &value["arms"][1]);
        assert_eq!(federated["nothing_adopted"], json!([1]));
        assert_eq!(
            (&alone["nothing_adopted"], &alone["left_out"][1]["seeds"]),
            (&json!(null), &json!([1, 2]))
        );
        assert_eq!(
            alone["left_out"][0],
            json!({ "site": "x", "reason": "nothing_to_train_on", "seeds": [1] })
        );
    }
}
