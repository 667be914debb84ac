//! `consilium compare`: what a federation brings for a study of one's own, held against what it is worth joining it for.

use std::path::PathBuf;

use anyhow::Context as _;
use consilium_study::document::Draft;

use super::experiment::{Arm, Dealt, Experiment, Way};
use super::{Course, conduct};
use crate::output::Output;
use crate::partition::Partition;

/// How many seeds, unless the command says otherwise.
const SEEDS: u64 = 3;

/// Compare a study's federation with pooled training and with each site alone, over several seeds
///
/// Same data, same recipe, and the same number of passes or steps for all; models are chosen on held-out cases, figures are
/// of cases that nobody trained on, with a 95 % interval over the seeds. Each seed deals the data out anew. Stop it when you
/// like: it goes on where it was.
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// The study: a study.toml
    study: PathBuf,
    /// A MedMNIST archive, a folder of images or DICOM files, or a table, as `simulate` takes them
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// How the data are dealt out: iid, dirichlet:A or by:COLUMN
    #[arg(long, default_value = "dirichlet:0.5")]
    partition: Partition,
    /// Number of sites; by default as many as the study names, or as the column has values
    #[arg(long, value_parser = clap::value_parser!(u16).range(3..=200))]
    sites: Option<u16>,
    #[command(flatten)]
    course: Course,
}

/// Runs what is missing, and shows the table.
pub fn run(args: &CompareArgs, output: Output) -> anyhow::Result<()> {
    let about = || format!("reading {}", args.study.display());
    let study = std::fs::read_to_string(&args.study).with_context(about)?;
    let draft = Draft::from_toml(&study).with_context(about)?;
    let dealt = Dealt { sites: args.sites, keeps_test: true, ..Dealt::by(args.partition.clone()) };
    let ways = [
        ("pooled", Way::Pooled(dealt.clone())),
        ("federated", Way::Federated(dealt.clone())),
        ("alone", Way::Alone(dealt)),
    ];
    let arms = ways.map(|(name, way)| Arm { name: name.to_owned(), way, study: study.clone(), seeds: SEEDS });
    let experiment = Experiment {
        name: draft.name.to_string(),
        about: format!("{}: {} rounds, strategy {}", draft.title, draft.rounds.count, draft.rounds.strategy),
        arms: arms.into(),
        aims: Vec::new(),
    };
    let mut command = format!(
        "consilium compare {} --data {} --partition {}",
        args.study.display(),
        args.data.display(),
        args.partition
    );
    if let Some(sites) = args.sites {
        command += &format!(" --sites {sites}");
    }
    conduct(&experiment, &args.data, &args.course, &command, output)
}
