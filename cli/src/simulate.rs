//! `consilium simulate`: a whole study in one process.
//!
//! The coordinator's engine, the sites' protocol machines and the secure aggregation are the real ones; only
//! the wire, the disk and the time between events are left out. So a study can be tried on a partition of one
//! collection before any hospital is asked, and its masked sums can be compared with plain averaging.
//!
//! The engine reads a clock that moves with its events and not with this machine's speed: the same study, data
//! and seed give the same model, byte for byte, and no site is ever late because the machine is slow.

pub(crate) mod bench;
pub(crate) mod engine;
pub(crate) mod hospitals;
mod hostile;
mod plain;
mod scratch;
pub(crate) mod setting;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use consilium_memory::{Freed, settle};
use consilium_rounds::metrics::{Interval, Intervals};
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::name::SiteName;
use serde::Serialize;

use self::bench::Crew;
use self::engine::{Simulation, simulate};
use self::hostile::Hostile;
use self::setting::{Dealing, Setting};
use crate::demo::progress::Story;
use crate::model::{keep, part_of};
use crate::output::{Output, bytes};
use crate::partition::Partition;
use crate::study::check;
use crate::study::propose::{DRAWS_SCORES, read_model};

/// Run a study in one process: the same engine and the same secure aggregation, without network and hospitals
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// The study: a study.toml. Its `sites` are replaced where the partition gives others
    pub study: PathBuf,
    /// A MedMNIST archive (.npz), or a folder of images, DICOM or NIfTI files with labels.csv (path,label and, if wanted,
    /// patient,split) or metadata.csv (filename,finding,patientid); for a study with inputs a table (.csv: label, the
    /// inputs and, if wanted, patient,split); where a study's inputs lie beside pictures, labels.csv has their columns, too
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Number of sites; by default as many as the study names, or as the column has values
    #[arg(long, value_parser = clap::value_parser!(u16).range(3..=200))]
    pub sites: Option<u16>,
    /// How the data are dealt out: iid, dirichlet:A or by:COLUMN. With by:COLUMN the rarer values share the site
    /// `others` when --sites is smaller than their number
    #[arg(long, default_value = "dirichlet:0.5")]
    pub partition: Partition,
    /// Rounds of training, in place of the study's
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Seed of partition and study, in place of the study's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Start from this model, or these weights of torchvision, instead of weights drawn from the study's seed
    #[arg(long, value_name = "FILE.safetensors")]
    pub initial: Option<PathBuf>,
    /// Also average the plain updates, and print how far each round's sum is from that
    #[arg(long)]
    pub plaintext: bool,
    /// Write the released model here, as `consilium model export` would; a file that is there is never touched
    #[arg(short, long, value_name = "FILE.safetensors")]
    pub output: Option<PathBuf>,
    /// From the third round on this site sends FACTOR times its update, for example site-3:-10: what the study's
    /// acceptance gate makes of a bad hospital
    #[arg(long, value_name = "SITE:FACTOR")]
    pub hostile: Option<Hostile>,
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Final {
    #[serde(rename = "final")]
    is_final: bool,
    /// Of the released model on cases that no site had, exact; none without such cases. In a study with local layers the
    /// median over the hospitals, each with its own.
    auroc: Option<f64>,
    /// The same model's share of right answers.
    accuracy: Option<f64>,
    /// Of grades: its kappa with quadratic weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    kappa: Option<f64>,
    /// Of masks: the mean Dice coefficient.
    #[serde(skip_serializing_if = "Option::is_none")]
    dice: Option<f64>,
    /// Of values: mean absolute error, in the unit of the labels, and the share of their variance that is explained.
    #[serde(skip_serializing_if = "Option::is_none")]
    mae: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r2: Option<f64>,
    /// These and all others that the task has, by their names.
    figures: BTreeMap<Metric, f64>,
    /// 95 % intervals of those that have one, by their names.
    intervals: Intervals,
    /// Of scores that are to be divided by it before they are probabilities; none unless the study asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    /// Rounds that were run, and the study's. There are fewer where `patience` ended it.
    rounds: usize,
    rounds_planned: u32,
    /// The round whose model is released; 0 where none was adopted, and it is the model that the study started from.
    released_round: u32,
    sites: usize,
    /// Sites counted in at least one round.
    participants: usize,
    bytes_up: u64,
    bytes_down: u64,
    seconds: f64,
    seed: u64,
    /// Hash of the released model file.
    model: Hash,
    /// The largest of all rounds, with `--plaintext`.
    #[serde(skip_serializing_if = "Option::is_none")]
    relative_error: Option<f64>,
}

/// Runs the simulation.
pub fn run(args: &SimulateArgs, output: Output) -> anyhow::Result<()> {
    let started = Instant::now();
    settle(Freed::Stays);
    let story = Story::new(output, started);
    if let Some(file) = args.output.as_ref().filter(|file| file.exists()) {
        bail!("{} is there already; choose another name", file.display());
    }
    let mut plan = (*check::read(&args.study)?).clone();
    plan.rounds.count = args.rounds.unwrap_or(plan.rounds.count);
    plan.seed = args.seed.unwrap_or(plan.seed);

    story.tell(&format!("{} is dealt out ({}).", args.data.display(), args.partition));
    let SimulateArgs { data, partition, sites, .. } = args;
    let setting = Setting::new(plan, &Dealing { data, partition, sites: *sites, keeps_test: false }, &story)?;
    let draft = &setting.draft;

    if let Some(hostile) = &args.hostile {
        anyhow::ensure!(
            draft.sites.contains(hostile.site()),
            "{} is no site of this simulation; they are called {}",
            hostile.site(),
            listed(&draft.sites)
        );
    }

    let start = args.initial.as_ref().map(|path| read_model(path, draft)).transpose()?;
    if start.as_ref().is_some_and(|start| start.draws_scores) {
        story.tell(DRAWS_SCORES);
    }
    let start = start.map(|start| start.file.model);

    let crew = Crew::new()?;
    let Setting { hospitals, .. } = &setting;
    let simulation =
        simulate(draft.clone(), start, hospitals, &crew, args.hostile.as_ref(), args.plaintext, &story)?;
    let scored = crew.alone(|| setting.score(&simulation))?;

    let Simulation { study, rounds, release, .. } = &simulation;
    let sum = |of: fn(&crate::demo::progress::Round) -> u64| rounds.iter().map(of).sum();
    let errors = rounds.iter().filter_map(|round| Some(round.plaintext?.relative_error));
    let last = Final {
        is_final: true,
        auroc: scored.figure(|figures| figures.auroc),
        accuracy: scored.figure(|figures| figures.accuracy),
        kappa: scored.figure(|figures| figures.kappa),
        dice: scored.figure(|figures| figures.dice),
        mae: scored.figure(|figures| figures.mae),
        r2: scored.figure(|figures| figures.r2),
        figures: (Metric::ALL.into_iter())
            .filter_map(|metric| Some((metric, scored.figure(|figures| figures.get(metric))?)))
            .collect(),
        temperature: scored.figure(|figures| figures.temperature),
        intervals: scored.of_all.map(|figures| figures.intervals).unwrap_or_default(),
        rounds: rounds.len(),
        rounds_planned: study.rounds.count,
        released_round: release.round(),
        sites: study.sites.len(),
        participants: release.participants.len(),
        bytes_up: sum(|round| round.bytes_up),
        bytes_down: sum(|round| round.bytes_down),
        seconds: started.elapsed().as_secs_f64(),
        seed: study.seed,
        model: release.model,
        relative_error: errors.reduce(f64::max),
    };
    if let Some(file) = &args.output {
        let mut part = part_of(file)?;
        part.write_all(&simulation.released).with_context(|| format!("writing {}", file.display()))?;
        keep(part, file)?;
    }
    output.show(&last, |last| last.people(!simulation.own.is_empty()))?;
    Ok(())
}

impl Final {
    fn people(&self, has_own: bool) -> String {
        let origin = match self.released_round {
            0 => "No round was adopted: this is the model that the study started from, and no result of training. \
                  [evaluation] says what refuses a round.\n"
                .to_owned(),
            round => format!("It is the model of round {round}. "),
        };
        let end = if self.rounds < self.rounds_planned as usize { " (patience ended it)" } else { "" };
        format!(
            "\nReleased model {}: {}{}.\n{origin}{} of {} rounds{end}, {} of {} sites counted, {} up, {} down, {:.0} s.",
            self.model.short(),
            self.figures_in_words(),
            if has_own { ", the median over hospitals with their own layers" } else { "" },
            self.rounds,
            self.rounds_planned,
            self.participants,
            self.sites,
            bytes(self.bytes_up),
            bytes(self.bytes_down),
            self.seconds,
        )
    }

    fn figures_in_words(&self) -> String {
        let sure = |figure, metric| with_interval(figure, self.intervals.get(&metric));
        let other = [(self.dice, "Dice", Metric::Dice), (self.mae, "mean absolute error", Metric::Mae)];
        let other = other.into_iter().find_map(|(figure, name, metric)| Some((figure?, name, metric)));
        match (self.auroc, self.accuracy) {
            (_, None) if let Some((figure, name, metric)) = other => {
                let r2 = self.r2.map_or_else(String::new, |r2| format!(", R2 {}", sure(r2, Metric::R2)));
                format!("{name} {}{r2} on cases that no site had", sure(figure, metric))
            }
            (Some(auroc), Some(accuracy)) => {
                let kappa = self
                    .kappa
                    .map_or_else(String::new, |kappa| format!(", kappa {}", sure(kappa, Metric::Kappa)));
                format!(
                    "AUROC {}, accuracy {}{kappa} on cases that no site had",
                    sure(auroc, Metric::Auroc),
                    sure(accuracy, Metric::Accuracy),
                )
            }
            (None, Some(accuracy)) => format!(
                "accuracy {accuracy:.4} on cases that no site had; they are of one class, so there is no AUROC"
            ),
            (_, None) => {
                "no cases were kept from the sites, so there is no figure of its own for the released model"
                    .to_owned()
            }
        }
    }
}

/// A figure, and how sure it is.
fn with_interval(figure: f64, interval: Option<&Interval>) -> String {
    let interval = interval.map_or_else(String::new, |[low, high]| format!(" (95 %: {low:.3} to {high:.3})"));
    format!("{figure:.4}{interval}")
}

fn listed(sites: &[SiteName]) -> String {
    sites.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ")
}
