//! `consilium compare`: what a federation brings for a study of one's own, held against what it is worth joining it for.

use std::path::PathBuf;

use super::experiment::{Arm, Experiment, Way, shown};
use super::{Course, Dealing, conduct};
use crate::output::Output;
use crate::study::check;

/// How many seeds, unless the command says otherwise.
pub(super) const SEEDS: u64 = 3;
/// 1: patience ends all arms and not the federation alone, and every figure of the task is kept.
const REVISION: u32 = 1;

/// Compare a study's federation with pooled training and with each site alone, over several seeds
///
/// Same data, same recipe, and the same number of passes or steps for all, which end early by the same rule; models are chosen
/// on held-out cases, figures are of cases that nobody trained on, with a 95 % interval over the seeds: first that of
/// evaluation.recommend, then those that are usual for the task. Each seed deals the data out anew. The arm
/// `finetuned` adapts the federation's model at each site as `model finetune` does by default. Stop it when you like: it
/// goes on where it was.
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// The study: a study.toml
    study: PathBuf,
    /// A MedMNIST archive, a folder of images, DICOM or NIfTI files, or a table, as `simulate` takes them
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    #[command(flatten)]
    dealing: Dealing,
    #[command(flatten)]
    course: Course,
}

/// Runs what is missing, and shows the table.
pub fn run(args: &CompareArgs, output: Output) -> anyhow::Result<()> {
    let study = check::text(&args.study)?;
    let draft = check::parse(&args.study, &study)?;
    let dealt = args.dealing.dealt();
    let ways = [
        ("pooled", Way::Pooled(dealt.clone())),
        ("federated", Way::Federated(dealt.clone())),
        ("alone", Way::Alone(dealt.clone())),
        ("finetuned", Way::Finetuned(dealt)),
    ];
    let arms = ways.map(|(name, way)| Arm {
        metrics: shown(draft.data.task, draft.evaluation.recommend),
        revision: REVISION,
        ..Arm::new(name.to_owned(), way, study.clone(), SEEDS)
    });
    let experiment = Experiment {
        name: draft.name.to_string(),
        about: format!("{}: {} rounds, strategy {}", draft.title, draft.rounds.count, draft.rounds.strategy),
        arms: arms.into(),
        aims: Vec::new(),
    };
    let command = format!(
        "consilium compare {} --data {}{}",
        args.study.display(),
        args.data.display(),
        args.dealing.command()
    );
    conduct(&experiment, &args.data, &args.course, &command, output)
}
