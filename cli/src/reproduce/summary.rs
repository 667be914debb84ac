//! The table at the end: what every arm reached, what it is held against, and what was not run.

use serde::Serialize;

use super::experiment::{Cell, Experiment, Least, Measure};
use super::perform::Finished;
use crate::interval::Mean;
use crate::output::table;

/// The last line of `--json`.
#[derive(Serialize)]
pub(super) struct Summary {
    #[serde(rename = "final")]
    is_final: bool,
    experiment: String,
    about: String,
    arms: Vec<Row>,
    aims: Vec<Verdict>,
    not_run: Vec<NotRun>,
}

#[derive(Serialize)]
struct Row {
    arm: String,
    way: String,
    auroc: Option<Mean>,
    accuracy: Option<Mean>,
    /// Seeds that were run, of so many.
    done: usize,
    seeds: usize,
    /// Mean time of a cell.
    seconds: Option<f64>,
}

/// An aim, and whether it was reached.
#[derive(Serialize)]
struct Verdict {
    arm: String,
    measure: Measure,
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
            let value = |cell: &&Cell<'_>| Some((cell.seed, figure(result(cell)?, measure)?));
            of_arm(arm).iter().filter_map(value).collect()
        };
        let mean = |arm: &str, measure| {
            Mean::of(&values(arm, measure).iter().map(|(_, value)| *value).collect::<Vec<_>>())
        };
        let arms = experiment.arms.iter().map(|arm| {
            let cells = of_arm(&arm.name);
            let seconds: Vec<f64> = cells.iter().filter_map(|cell| Some(result(cell)?.seconds)).collect();
            Row {
                arm: arm.name.clone(),
                way: arm.way.to_string(),
                auroc: mean(&arm.name, Measure::Auroc),
                accuracy: mean(&arm.name, Measure::Accuracy),
                done: seconds.len(),
                seeds: cells.len(),
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
            arms: arms.collect(),
            aims: aims.collect(),
            not_run: not_run.collect(),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .arms
            .iter()
            .map(|row| {
                let Row { arm, way, auroc, accuracy, done, seeds, seconds } = row;
                let figure =
                    |of: Option<Mean>| if *done == 0 { "not run".to_owned() } else { Mean::text(of) };
                let seconds = seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.0} s"));
                vec![
                    arm.clone(),
                    way.clone(),
                    figure(*auroc),
                    figure(*accuracy),
                    format!("{done}/{seeds}"),
                    seconds,
                ]
            })
            .collect();
        let mut text = format!(
            "\n{}\n\n{}\n",
            self.about,
            table(&["arm", "trained", "AUROC", "accuracy", "seeds", "a cell"], &rows)
        );
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
            text += &format!("\n{arm}: {measure} of at least {least} ({because}): {reached}{pairs}");
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

fn figure(result: &Finished, measure: Measure) -> Option<f64> {
    match measure {
        Measure::Auroc => result.auroc,
        Measure::Accuracy => result.accuracy,
    }
}
