//! The table of studies that were tried: the best first, with what that is worth.

use std::cmp::Ordering;
use std::path::Path;

use consilium_study::metric::Metric;
use serde::Serialize;

use super::experiment::Cell;
use super::trial::{Candidate, Trial};
use crate::interval::Mean;
use crate::output::table;

/// The last line of `--json`.
#[derive(Serialize)]
pub(super) struct Ranking {
    #[serde(rename = "final")]
    is_final: bool,
    /// What candidates are compared by, on held-out cases.
    metric: Metric,
    /// The best first; those with fewer seeds after those with more.
    children: Vec<Row>,
    /// How many candidates with figures the first was chosen among, on the cases that its figure is of.
    chosen_among: usize,
    /// What tells what the first is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    not_run: Vec<NotRun>,
}

#[derive(Serialize)]
struct Row {
    child: String,
    values: String,
    figure: Option<Mean>,
    /// Mean difference to the first row, over the seeds that both were run with.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Mean>,
    /// Seeds that were run, of so many.
    done: usize,
    seeds: usize,
    /// Mean time of a training.
    seconds: Option<f64>,
}

/// A candidate with seeds that were not run, and what to type to run them.
#[derive(Serialize)]
struct NotRun {
    child: String,
    cells: Vec<String>,
    command: String,
}

impl Ranking {
    pub(super) fn new(
        metric: Metric,
        candidates: &[Candidate],
        cells: &[Cell<'_>],
        done: &[Trial],
        command: impl Fn(&str) -> String,
        compare: impl Fn(&Path) -> String,
    ) -> Self {
        let of = |name: &str| cells.iter().filter(|cell| cell.arm.name == name).collect::<Vec<_>>();
        let result = |cell: &Cell<'_>| done.iter().find(|trial| trial.cell == cell.name());
        let figures = |name: &str| -> Vec<(u64, f64)> {
            let cells = of(name);
            cells.iter().filter_map(|cell| Some((cell.seed, result(cell)?.figure?))).collect()
        };
        let mut children: Vec<Row> = candidates
            .iter()
            .map(|Candidate { name, values, .. }| {
                let cells = of(name);
                let seconds: Vec<f64> = cells.iter().filter_map(|cell| Some(result(cell)?.seconds)).collect();
                let values_of: Vec<f64> = figures(name).into_iter().map(|(_, figure)| figure).collect();
                Row {
                    child: name.clone(),
                    values: values.clone(),
                    figure: Mean::of(&values_of),
                    difference: None,
                    done: seconds.len(),
                    seeds: cells.len(),
                    seconds: Mean::of(&seconds).map(|mean| mean.mean),
                }
            })
            .collect();
        // Who has been run with fewer seeds may have had the lucky ones. Equal ones stay in the order of the sweep.
        children.sort_by(|one, other| {
            other.done.cmp(&one.done).then_with(|| better(metric, one.figure, other.figure))
        });
        let first = children.first().filter(|first| first.figure.is_some()).map(|first| first.child.clone());
        if let Some(first) = &first {
            let theirs = figures(first);
            for row in &mut children[1..] {
                let pairs = figures(&row.child).into_iter().filter_map(|(seed, figure)| {
                    let (_, best) = theirs.iter().find(|(theirs, _)| *theirs == seed)?;
                    Some(figure - best)
                });
                row.difference = Mean::of(&pairs.collect::<Vec<_>>());
            }
        }
        let not_run = candidates.iter().filter_map(|Candidate { name, .. }| {
            let cells = of(name);
            let missing = cells.iter().filter(|cell| result(cell).is_none());
            let cells: Vec<String> = missing.map(|cell| cell.name()).collect();
            (!cells.is_empty()).then(|| NotRun { child: name.clone(), cells, command: command(name) })
        });
        let not_run = not_run.collect();
        let chosen_among = children.iter().filter(|row| row.figure.is_some()).count();
        let file = candidates.iter().find(|candidate| Some(&candidate.name) == first.as_ref());
        let next = file.map(|candidate| compare(&candidate.file));
        Self { is_final: true, metric, children, chosen_among, next, not_run }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let Self { metric, children, chosen_among, next, not_run, .. } = self;
        let rows: Vec<Vec<String>> = children
            .iter()
            .map(|row| {
                let Row { child, values, figure, difference, done, seeds, seconds } = row;
                let seconds = seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.0} s"));
                let figure = if *done == 0 { "not run".to_owned() } else { Mean::text(*figure) };
                vec![
                    child.clone(),
                    values.clone(),
                    figure,
                    Mean::text(*difference),
                    format!("{done}/{seeds}"),
                    seconds,
                ]
            })
            .collect();
        let header = ["child", "values", metric.name(), "against the first", "seeds", "a training"];
        let mut text = format!("\n{}\n", table(&header, &rows));
        if let Some(next) = next {
            text += &format!(
                "\nFigures are of the federation's held-out cases, means over seeds with a 95 % interval. The first was chosen \
                 among {chosen_among}\non these same cases, and so was the round of every model: its figure flatters it, the more \
                 the closer the others are.\nNo test case was looked at. What it is worth is found on those:\n\n  {next}"
            );
        }
        if !not_run.is_empty() {
            text += "\n\nNot run:";
            for NotRun { cells, command, .. } in not_run {
                text += &format!("\n  {command}   ({} of its trainings)", cells.len());
            }
        }
        text
    }
}

/// The better mean first; without one last.
fn better(metric: Metric, one: Option<Mean>, other: Option<Mean>) -> Ordering {
    match (one, other) {
        (Some(one), Some(other)) if metric.larger_is_better() => other.mean.total_cmp(&one.mean),
        (Some(one), Some(other)) => one.mean.total_cmp(&other.mean),
        (one, other) => other.is_some().cmp(&one.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_first_whichever_way_a_metric_goes_and_what_was_not_run_is_last() {
        let order = |metric| {
            let mut means =
                [Some(0.7), None, Some(0.9), Some(0.8)].map(|mean| mean.and_then(|mean| Mean::of(&[mean])));
            means.sort_by(|one, other| better(metric, *one, *other));
            means.map(|mean| mean.map(|mean| (mean.mean * 10.0).round() as u32))
        };
        assert_eq!(order(Metric::Auroc), [Some(9), Some(8), Some(7), None]);
        assert_eq!(order(Metric::Loss), [Some(7), Some(8), Some(9), None]);
    }
}
