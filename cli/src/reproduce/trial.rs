//! Trying studies out that differ in a few values: each is run as a federation, and judged on its held-out cases alone.
//!
//! Cases for testing are dealt out as in `compare` and never scored, so what they say later of the study that is chosen is
//! not flattered by the choice.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use consilium_learning::ModelFile;
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use serde::{Deserialize, Serialize};

use super::compare::SEEDS;
use super::experiment::{Arm, Cell, Way};
use super::perform::setting;
use super::ranking::Ranking;
use super::results::Outcome;
use super::{Course, Dealing, work_through};
use crate::demo::arms::{figures, join};
use crate::demo::progress::Story;
use crate::output::Output;
use crate::simulate::bench::Crew;
use crate::simulate::engine::simulate;
use crate::simulate::setting::Setting;

/// How studies are tried out.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TrialArgs {
    #[command(flatten)]
    dealing: Dealing,
    #[command(flatten)]
    pub(crate) course: Course,
}

/// A study to try.
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// Its file, for what to type next.
    pub(crate) file: PathBuf,
    /// What tells it from the others, for people.
    pub(crate) values: String,
    /// What stands in its file.
    pub(crate) study: String,
}

/// What came of a candidate with one seed, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) cell: String,
    /// [`Cell::recipe`].
    recipe: Hash,
    metric: Metric,
    /// Of the released model on the held-out cases of all sites together, exact; none where they do not define it.
    pub(super) figure: Option<f64>,
    held_out_cases: usize,
    train_cases: usize,
    /// The round whose model was released, of so many.
    chosen: u32,
    rounds: u32,
    pub(super) seconds: f64,
    /// The program that made it.
    version: String,
}

impl Outcome for Trial {
    fn perform(cell: &Cell<'_>, data: &Path, recipe: Hash, story: &Story) -> anyhow::Result<Self> {
        let started = Instant::now();
        let Setting { draft, hospitals, .. } = setting(cell, data, story)?;
        let simulation = simulate(draft.clone(), None, &hospitals, &Crew::new()?, None, false, story)?;
        let model = ModelFile::from_bytes(&simulation.released)?.expect(&draft.model_identity())?;
        let held_out = join(hospitals.values().flatten().map(|hospital| &hospital.held_out))?;
        let metric = draft.evaluation.recommend;
        let figure = if simulation.own.is_empty() {
            let figures = figures(&draft, &model, &held_out);
            figures.context("children are compared on held-out cases")?.get(metric)
        } else {
            // Sites have layers of their own, so the figure is what each measured with its own, summed.
            simulation.release.figures().and_then(|figures| figures.get(metric))
        };
        Ok(Self {
            cell: cell.name(),
            recipe,
            metric,
            figure,
            held_out_cases: held_out.len(),
            train_cases: hospitals.values().flatten().map(|hospital| hospital.train.len()).sum(),
            chosen: simulation.release.round(),
            rounds: draft.rounds.count,
            seconds: started.elapsed().as_secs_f64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn recipe(&self) -> Hash {
        self.recipe
    }

    fn line(&self, _: &Cell<'_>, state: &str) -> String {
        let Self { cell, metric, figure, held_out_cases, chosen, rounds, seconds, .. } = self;
        let figure = figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.4}"));
        format!(
            "{cell} {state}: {metric} {figure} on {held_out_cases} held-out cases; round {chosen} of {rounds}, {seconds:.0} s"
        )
    }
}

/// Tries what is missing, and shows which does best. `command` begins what is typed to go on.
pub(crate) fn run(
    candidates: &[Candidate],
    metric: Metric,
    data: &Path,
    args: &TrialArgs,
    folder: &Path,
    command: &str,
    output: Output,
) -> anyhow::Result<()> {
    let TrialArgs { dealing, course } = args;
    let arms: Vec<Arm> = candidates
        .iter()
        .map(|Candidate { name, study, .. }| {
            let way = Way::Federated(dealing.dealt());
            Arm::new(name.clone(), way, study.clone(), SEEDS)
        })
        .collect();
    // All candidates with a seed before the next seed: who stops early has compared.
    let seeds = 1..=course.seeds.unwrap_or(SEEDS);
    let cells: Vec<Cell<'_>> =
        seeds.flat_map(|seed| arms.iter().map(move |arm| Cell { arm, seed })).collect();
    let about =
        format!("{} studies are tried, {} trainings in all; stop it when you like", arms.len(), cells.len());
    let done = work_through::<Trial>(&cells, data, folder.join("results"), course, &about, output)?;
    let rest = format!(" --data {}{}", data.display(), dealing.command());
    let next = |only: &str| course.command(&format!("{command}{rest}"), only);
    let compare = |study: &Path| format!("consilium compare {}{rest}", study.display());
    let ranking = Ranking::new(metric, candidates, &cells, &done.results, next, compare);
    output.show(&ranking, Ranking::text)?;
    done.verdict()
}
