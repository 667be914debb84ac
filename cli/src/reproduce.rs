//! `consilium reproduce`: published experiments, and ours beside them, run again by anyone.
//!
//! An experiment is a list of cells: a study, who trains it, and a seed. Each cell that is done is kept in a file, so a run
//! may be stopped at any time and goes on where it was; what was not run is shown as such, with its command. Training is
//! that of `simulate`: the engine, the secure aggregation and the loader of real sites, in one process.

pub mod compare;
mod covid;
mod experiment;
mod finished;
mod heart;
mod perform;
mod pneumonia;
mod ranking;
mod results;
mod single;
mod summary;
pub(crate) mod trial;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use consilium_learning::TrainError;
use consilium_memory::{Freed, settle};
use serde::Serialize;

use self::experiment::{Cell, Dealt, Experiment};
use self::finished::Finished;
use self::results::{Outcome, Results, name_of};
use self::summary::Summary;
use crate::demo::progress::Story;
use crate::output::Output;
use crate::partition::Partition;
use crate::simulate::engine::CannotGoOn;

/// Run a published experiment again, and ours beside it; finished parts are kept and not run twice
///
/// Every line of the table is a way to train (all cases pooled, sites together under secure aggregation, each site alone)
/// over several seeds, with the mean and its 95 % interval. Stop it when you like: it goes on where it was.
#[derive(Debug, Clone, clap::Args)]
pub struct ReproduceArgs {
    /// The experiment
    pub name: Name,
    /// Its data: the file pneumoniamnist.npz; the folder of UCI's four processed.*.data; the folder with metadata.csv
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Passes over the cases, or rounds, in place of the experiment's. Results of another number are replaced
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub epochs: Option<u32>,
    #[command(flatten)]
    course: Course,
}

/// What is run, and where its results are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Course {
    /// Where everything is kept; by default a folder named after the experiment or the study
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Number of seeds, in place of the usual
    #[arg(long, requires = "data", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: Option<u64>,
    /// Run only cells whose name begins like this, for example resnet18/pooled or resnet18/pooled/1; may be given again
    #[arg(long, requires = "data", value_name = "CELL")]
    only: Vec<String>,
    /// Run nothing; show what is there
    #[arg(long, requires = "data")]
    show: bool,
}

/// How data are dealt out to the sites of a study.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Dealing {
    /// How the data are dealt out: iid, dirichlet:A or by:COLUMN
    #[arg(long, requires = "data", default_value = "dirichlet:0.5")]
    partition: Partition,
    /// Number of sites; by default as many as the study names, or as the column has values
    #[arg(long, requires = "data", value_parser = clap::value_parser!(u16).range(3..=200))]
    sites: Option<u16>,
}

impl Dealing {
    /// With patients that no site gets, to test on.
    fn dealt(&self) -> Dealt {
        Dealt { sites: self.sites, keeps_test: true, ..Dealt::by(self.partition.clone()) }
    }

    /// What to type for it.
    fn command(&self) -> String {
        let sites = self.sites.map_or_else(String::new, |sites| format!(" --sites {sites}"));
        format!(" --partition {}{sites}", self.partition)
    }
}

/// What can be reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// PneumoniaMNIST with the recipe of MedMNIST v2
    #[value(name = "pneumoniamnist")]
    Pneumonia,
    /// Heart disease in four hospitals, FLamby's task
    HeartDisease,
    /// COVID-19 in chest X-rays, a site for each country
    #[value(name = "covid-cxr-sites")]
    Covid,
}

impl Name {
    fn experiment(self, epochs: Option<u32>) -> Experiment {
        match self {
            Self::Pneumonia => pneumonia::experiment(epochs),
            Self::HeartDisease => heart::experiment(epochs),
            Self::Covid => covid::experiment(epochs),
        }
    }

    /// The data as `simulate` takes them; what has to be written for that is written into a folder.
    fn prepare(self, data: &Path, into: &Path) -> anyhow::Result<PathBuf> {
        match self {
            Self::Pneumonia | Self::Covid => Ok(data.to_owned()),
            Self::HeartDisease => heart::prepare(data, into),
        }
    }
}

/// A line of `--json`: a cell that was just run, or was there.
#[derive(Serialize)]
struct Line<'a, R> {
    state: &'static str,
    #[serde(flatten)]
    result: &'a R,
}

/// Runs what is missing, and shows the table.
pub fn run(args: &ReproduceArgs, output: Output) -> anyhow::Result<()> {
    let experiment = args.name.experiment(args.epochs);
    // Beside the results, so that a run that is stopped leaves nothing elsewhere.
    let prepared = args.course.folder(&experiment).join("data");
    let data = args.name.prepare(&args.data, &prepared)?;
    conduct(&experiment, &data, &args.course, &args.command(), output)
}

/// Runs what is missing of an experiment, and shows its table. `command` begins what is typed to run a part of it.
fn conduct(
    experiment: &Experiment,
    data: &Path,
    course: &Course,
    command: &str,
    output: Output,
) -> anyhow::Result<()> {
    let cells: Vec<Cell<'_>> = experiment
        .arms
        .iter()
        .flat_map(|arm| (1..=course.seeds.unwrap_or(arm.seeds)).map(move |seed| Cell { arm, seed }))
        .collect();
    let done =
        work_through::<Finished>(&cells, data, course.folder(experiment), course, &experiment.about, output)?;
    let summary = Summary::new(experiment, &cells, &done.results, |arm| course.command(command, arm));
    output.show(&summary, Summary::text)?;
    done.verdict()
}

/// What came of cells that were worked through.
struct Worked<R> {
    results: Vec<R>,
    /// Cells without one although they were run, and why.
    failed: Vec<String>,
}

impl<R> Worked<R> {
    /// An error if some cells failed.
    fn verdict(&self) -> anyhow::Result<()> {
        if let [first, rest @ ..] = self.failed.as_slice() {
            let others = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            bail!("no result of {first}{others}");
        }
        Ok(())
    }
}

/// Runs the cells that are wanted and not kept yet, and tells of each. What is done is kept in `folder` at once. A cell whose
/// training comes to nothing costs none of the others.
fn work_through<R: Outcome>(
    cells: &[Cell<'_>],
    data: &Path,
    folder: PathBuf,
    course: &Course,
    about: &str,
    output: Output,
) -> anyhow::Result<Worked<R>> {
    settle(Freed::Stays);
    let story = Story::new(output, Instant::now());
    let results = Results::new(folder, name_of(data)?);
    let Course { only, show, .. } = course;
    let wanted = |cell: &Cell<'_>| only.is_empty() || only.iter().any(|only| begins(&cell.name(), only));
    if !cells.iter().any(wanted) {
        let mut names: Vec<&str> = cells.iter().map(|cell| cell.arm.name.as_str()).collect();
        names.dedup();
        bail!("no cell is called like that; the arms are {}, each with /SEED", names.join(", "));
    }
    story.tell(about);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for cell in cells {
        let (state, result) = match results.get(cell)? {
            Some(kept) => ("kept", kept),
            None if *show || !wanted(cell) => continue,
            None => {
                let anew = if results.has_any(cell) {
                    "; what is kept of it is of another study, of other data or of an earlier build"
                } else {
                    ""
                };
                story.tell(&format!("{} begins{anew}", cell.name()));
                let result = R::perform(cell, data, cell.recipe(results.data), &story.clone().hushed());
                let result = match result {
                    // The others may well go through.
                    Err(error) if is_of_the_study(&error) => {
                        let why = format!("{}: {error:#}", cell.name());
                        story.tell(&why);
                        failed.push(why);
                        continue;
                    }
                    result => result?,
                };
                results.put(cell, &result)?;
                ("done", result)
            }
        };
        if output.json {
            output.show(&Line { state, result: &result }, |_| String::new())?;
        } else {
            story.tell(&result.line(cell, state));
        }
        done.push(result);
    }
    story.clear();
    Ok(Worked { results: done, failed })
}

/// Whether a study does not go through when it is trained in this way, while all that it needs is there.
fn is_of_the_study(error: &anyhow::Error) -> bool {
    error.is::<CannotGoOn>() || matches!(error.downcast_ref(), Some(TrainError::Diverged { .. }))
}

/// Whether a cell's name is `only`, or below it.
fn begins(name: &str, only: &str) -> bool {
    name.strip_prefix(only.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl ReproduceArgs {
    /// What was typed, without what is in [`Course`].
    fn command(&self) -> String {
        use clap::ValueEnum as _;
        let name = self.name.to_possible_value();
        let name = name.map_or_else(String::new, |value| value.get_name().to_owned());
        let epochs = self.epochs.map_or_else(String::new, |epochs| format!(" --epochs {epochs}"));
        format!("consilium reproduce {name} --data {}{epochs}", self.data.display())
    }
}

impl Course {
    /// Where results are.
    fn folder(&self, experiment: &Experiment) -> PathBuf {
        let usual = || PathBuf::from("consilium-reproduce").join(&experiment.name);
        self.folder.clone().unwrap_or_else(usual)
    }

    /// What to type to run cells whose name begins like this.
    fn command(&self, command: &str, only: &str) -> String {
        let folder = self.folder.as_ref();
        let folder = folder.map_or_else(String::new, |folder| format!(" --folder {}", folder.display()));
        let seeds = self.seeds.map_or_else(String::new, |seeds| format!(" --seeds {seeds}"));
        format!("{command}{folder}{seeds} --only {only}")
    }
}

#[cfg(test)]
mod tests {
    use consilium_study::document::Draft;

    use super::*;

    #[test]
    fn every_study_of_every_experiment_is_one() {
        for name in [Name::Pneumonia, Name::HeartDisease, Name::Covid] {
            let experiment = name.experiment(None);
            for arm in &experiment.arms {
                Draft::from_toml(&arm.study).unwrap_or_else(|error| panic!("{}: {error}", arm.name));
            }
            let named = |name: &str| experiment.arms.iter().any(|arm| arm.name == name);
            for aim in &experiment.aims {
                assert!(named(&aim.arm), "{}", aim.arm);
                if let experiment::Least::Below(_, other) = &aim.least {
                    assert!(named(other), "{other}");
                }
            }
        }
    }

    #[test]
    fn a_cell_is_chosen_by_whole_parts_of_its_name() {
        for (only, chosen) in [
            ("resnet18", true),
            ("resnet18/", true),
            ("resnet18/pooled", true),
            ("resnet18/pooled/1", true),
            ("resnet18/pool", false),
            ("pooled", false),
        ] {
            assert_eq!(begins("resnet18/pooled/1", only), chosen, "{only}");
        }
        assert!(!begins("resnet18/pooled/10", "resnet18/pooled/1"));
    }
}
