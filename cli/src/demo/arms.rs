//! The comparison: the released model, pooled training and each hospital alone, all on the same test cases.
//!
//! Every arm runs in a fresh process with one thread, through the same loader, recipe and trainer as an agent.
//! The federation's arm is scored through the released file and nothing else.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use consilium_learning::{
    Dataset, LocalSeed, LocalTraining, ModelIdentity, Pixels, TrainError, fix_threads, score, train,
};
use consilium_memory::{Freed, settle};
use consilium_rounds::metrics::{EvaluationCounts, Figures, exact, loss};
use consilium_rounds::vector::evaluation_shape;
use consilium_site_agent::contribution::{criteria, evaluation_counts};
use consilium_site_agent::data::{Decoder, Source, SplitKey, load};
use consilium_study::canonical::Canonical;
use consilium_study::document::{Plan, Study};
use consilium_study::metric::Metric;
use consilium_study::name::SiteName;
use consilium_study::recipe::Extent;
use serde::{Deserialize, Serialize};

use super::process::{PART, part};
use crate::model;

/// What a worker has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// File with the canonical bytes of the study.
    pub study: PathBuf,
    /// Cases nobody trained on.
    pub test: Source,
    /// What to score.
    pub arm: Arm,
}

/// One line of the comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// A model file as it was released.
    File(PathBuf),
    /// Training on the cases of these sites together, without any federation.
    Train {
        /// Where each site's cases are.
        sites: BTreeMap<SiteName, Source>,
        /// File of the initial model.
        initial: PathBuf,
        /// Sites counted in each round, as the federation had it.
        counted: Vec<Vec<SiteName>>,
    },
}

/// What came out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Area under the ROC curve on the test cases, exact.
    pub auroc: f64,
    /// Share of test cases whose likeliest class is right.
    pub accuracy: f64,
    /// Optimiser steps.
    pub steps: u64,
    /// Cases passed through, repeats counted.
    pub passes: u64,
    /// Rounds that gave nothing, because training diverged.
    pub diverged: u32,
}

/// An arm before it is scored.
struct Trained {
    model: Vec<f32>,
    steps: u64,
    passes: u64,
    diverged: u32,
}

/// The command that performs a job kept in a file.
pub fn command(job: &Path) -> anyhow::Result<std::process::Command> {
    let mut command = part(&["arm", job.to_str().context("the path of the job is text")?])?;
    Freed::Stays.tune(&mut command);
    Ok(command)
}

/// The worker: reads its job and prints its outcome as one line of JSON.
pub fn main(job: &Path) -> ExitCode {
    let perform = || -> anyhow::Result<Outcome> {
        settle(Freed::Stays);
        fix_threads(std::num::NonZeroUsize::MIN)?;
        let job: Job = serde_json::from_slice(&std::fs::read(job)?)?;
        let study = Study::from_canonical(&std::fs::read(&job.study)?)?;
        perform(&study, &job)
    };
    match perform() {
        Ok(outcome) => {
            println!("{}", serde_json::json!(outcome));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_model(path: &Path, identity: &ModelIdentity) -> anyhow::Result<Vec<f32>> {
    model::open(path)?.expect(identity).with_context(|| format!("reading {}", path.display()))
}

/// Trains if the arm says so, and scores.
pub fn perform(study: &Study, job: &Job) -> anyhow::Result<Outcome> {
    let identity = study.model_identity();
    let Trained { model, steps, passes, diverged } = match &job.arm {
        Arm::File(path) => {
            let model = read_model(path, &identity)?;
            Trained { model, steps: 0, passes: 0, diverged: 0 }
        }
        Arm::Train { sites, initial, counted } => {
            let start = read_model(initial, &identity)?;
            let cases = |(site, source): (&SiteName, &Source)| Ok((site.clone(), cases(study, source)?.0));
            let cohorts = sites.iter().map(cases).collect::<anyhow::Result<_>>()?;
            train_together(study, &cohorts, start, counted)?
        }
    };
    let test = all_cases(study, std::slice::from_ref(&job.test))?;
    let figures = figures(study, &model, &test)?;
    let auroc = figures.auroc.context("the test cases are all of one class")?;
    let accuracy = figures.accuracy.context("the demo's cases are of classes")?;
    Ok(Outcome { auroc, accuracy, steps, passes, diverged })
}

/// What a model makes of cases: exact figures, with those beside them that counts alone have.
pub(crate) fn figures(plan: &Plan, model: &[f32], cases: &Dataset) -> anyhow::Result<Figures> {
    let (preprocessing, task) = (plan.model_identity().preprocessing, plan.data.task);
    if !task.is_labelled() {
        return evaluation_counts(plan, model, None, cases)?.figures().context("there is no case to score");
    }
    let scores = score(&plan.model, preprocessing, task, model, cases)?;
    let rows: Vec<&[f32]> = scores.iter().collect();
    let exact = exact::figures(&rows, cases.labels(), task, plan.evaluation.operating_point.get());
    let mut counts = EvaluationCounts::new(evaluation_shape(plan));
    for (row, label) in rows.iter().zip(cases.labels()) {
        counts.add(row, loss(row, *label), *label);
    }
    let (exact, counted) = exact.zip(counts.figures()).context("there is no case to score")?;
    let Figures { kappa, temperature, calibrated_loss, mut intervals, .. } = counted;
    // The histograms' own area is another figure, and has other limits.
    intervals.remove(&Metric::Auroc);
    intervals.extend(&exact.intervals);
    Ok(Figures { kappa, temperature, calibrated_loss, intervals, ..exact })
}

/// The study's recipe on the union of some sites' cases, round by round as the federation made them: in each
/// round the optimiser begins anew and passes through as many cases as those sites did together that were counted.
fn train_together(
    study: &Study,
    cohorts: &BTreeMap<SiteName, Dataset>,
    model: Vec<f32>,
    counted: &[Vec<SiteName>],
) -> anyhow::Result<Trained> {
    let union = join(cohorts.values())?;
    let seed_site = cohorts.keys().next().context("an arm trains on at least one site")?.clone();
    let batch = study.training.batch();
    let mut done = Trained { model, steps: 0, passes: 0, diverged: 0 };
    for (round, counted) in counted.iter().enumerate() {
        let present = || counted.iter().filter_map(|site| cohorts.get(site));
        let budget = match study.training.extent() {
            Extent::Epochs(epochs) => {
                let cases: usize = present().map(Dataset::len).sum();
                u64::from(epochs) * cases.div_ceil(batch) as u64
            }
            Extent::Steps(steps) => u64::from(steps) * present().count() as u64,
        };
        if budget == 0 {
            continue;
        }
        let round = u32::try_from(round).context("a study has fewer rounds than that")?;
        let task = LocalTraining {
            graph: &study.model,
            recipe: &study.training,
            preprocessing: study.model_identity().preprocessing,
            budget: Extent::Steps(u32::try_from(budget).context("a round has fewer steps than that")?),
            seed: LocalSeed { study_seed: study.seed, site: seed_site.clone(), round },
            rounds: study.rounds.count,
            covers: 1,
            proximal_weight: 0.0,
            correction: None,
        };
        match train(&task, &done.model, &union, &mut |_| ControlFlow::Continue(())) {
            Ok(round) => {
                done.model = round.model;
                done.steps += round.steps;
                done.passes += round.examples;
            }
            // As a site in the federation: the round gives nothing, and the next one starts from the same model.
            Err(TrainError::Diverged { .. }) => done.diverged += 1,
            Err(error) => return Err(error.into()),
        }
        eprintln!("round {} of {}", round + 1, study.rounds.count);
    }
    Ok(done)
}

/// Cases of one source: those to train on and those held out.
fn cases(plan: &Plan, source: &Source) -> anyhow::Result<(Dataset, Dataset)> {
    let mut decoder = decoder()?;
    let criteria = criteria(plan)?;
    let cohort = load(source, &criteria, &SplitKey::new([0; 32]), &mut decoder, None, &mut |_| {})?;
    Ok((cohort.train, cohort.held_out))
}

/// Decodes in children of this program.
pub(crate) fn decoder() -> anyhow::Result<Decoder> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg(PART).arg(std::process::id().to_string()).args(["site-agent", "decode"]);
    Ok(Decoder::new(command))
}

/// All cases of some sources.
pub(crate) fn all_cases(plan: &Plan, sources: &[Source]) -> anyhow::Result<Dataset> {
    let mut parts = Vec::new();
    for source in sources {
        let (train, held_out) = cases(plan, source)?;
        parts.extend([train, held_out]);
    }
    join(parts.iter())
}

/// All cases of some data sets, one after the other.
pub(crate) fn join<'a>(parts: impl Iterator<Item = &'a Dataset>) -> anyhow::Result<Dataset> {
    let (mut shape, mut columns) = (None, 0);
    let (mut pixels, mut labels, mut masks) = (Vec::new(), Vec::new(), Vec::new());
    let mut beside = Vec::new();
    for part in parts {
        (shape, columns) = (Some(part.shape()), part.columns());
        beside.extend((0..part.len()).flat_map(|case| part.numbers(case)));
        masks.extend((0..part.len()).flat_map(|case| part.mask(case)));
        labels.extend_from_slice(part.labels());
        match part.pixels() {
            Pixels::Floats(values) => pixels.extend_from_slice(values),
            Pixels::Bytes(values) => pixels.extend(values.iter().map(|value| f32::from(*value) / 255.0)),
        }
    }
    let Some(shape) = shape else { bail!("there are no cases") };
    let pixels = Pixels::Floats(pixels);
    let cases = if masks.is_empty() {
        Dataset::new(shape, pixels, labels)?
    } else {
        Dataset::with_masks(shape, pixels, masks)?
    };
    Ok(cases.beside(columns, beside)?)
}

#[cfg(test)]
mod tests {
    use consilium_learning::initial;
    use consilium_study::document::Draft;
    use consilium_study::hash::Hash;

    use super::*;

    const STUDY: &str = "format = 1\nname = \"s\"\ntitle = \"t\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
        [data]\nlabels = [\"no\", \"yes\"]\nchannels = 1\nheight = 4\nwidth = 4\nmean = 0.5\nstd = 0.5\n\
        [model]\npreset = \"logistic\"\n\
        [training]\noptimiser = \"sgd\"\nlearning_rate = RATE\nbatch = 2\nepochs = 2\n\
        [rounds]\ncount = 3\nquorum = 3\n";

    /// As in the federation, a round that diverges gives nothing, and the comparison goes on.
    #[test]
    fn a_round_that_diverges_gives_nothing_and_is_counted() {
        let pixels = (0..12 * 16).map(|pixel| (pixel % 7) as f32 / 7.0).collect();
        let labels = (0..12).map(|case| case % 2).collect();
        let cases = Dataset::new([1, 4, 4], Pixels::Floats(pixels), labels).unwrap();
        let site: SiteName = "a".parse().unwrap();
        let counted = [vec![site.clone()], Vec::new(), vec![site.clone()]];
        let cohorts = BTreeMap::from([(site, cases)]);
        for (rate, diverged) in [("0.01", 0), ("1e6\nweight_decay = 1e6", 2)] {
            let draft = Draft::from_toml(&STUDY.replace("RATE", rate)).unwrap();
            let start = initial(&draft.model, 1);
            let study = draft.with_initial_model(Hash::of_bytes(b"initial"));
            let done = train_together(&study, &cohorts, start.clone(), &counted).unwrap();
            assert_eq!((done.diverged, done.model == start), (diverged, diverged > 0), "rate {rate}");
            // The round without sites trains on nothing.
            assert_eq!((done.steps, done.passes), if diverged > 0 { (0, 0) } else { (24, 48) });
        }
    }
}
