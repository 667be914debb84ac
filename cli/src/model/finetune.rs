//! `consilium model finetune`: a released model adapted to one hospital's own cases, on its own machine.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use consilium_learning::{ModelFile, ModelIdentity, Origin};
use consilium_memory::{Freed, settle};
use consilium_site_agent::data::{Case, Cohort, Criteria, Source, SplitKey, load};
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use serde::Serialize;

use super::{keep, open, part_of};
use crate::demo::arms::decoder;
use crate::demo::progress::Story;
use crate::demo::table::Table;
use crate::finetune::{Comparison, Recipe, adapt};
use crate::output::Output;

/// Adapt a released model to a hospital's own cases; nothing leaves the machine
///
/// A share of the patients is held out, the model is trained further on the others, and both models are compared on the
/// held-out cases. A new file is written only if the loss there is not worse. Needs no coordinator and no network.
#[derive(Debug, Args)]
pub(super) struct FinetuneArgs {
    /// The released model, as `consilium model export` wrote it
    #[arg(value_name = "MODEL.safetensors")]
    model: PathBuf,
    /// A folder of DICOM or NIfTI files or pictures with labels.csv (path,label and, if wanted, patient,split), an archive (.npz), or for
    /// a model of rows a table (.csv: label, the inputs and, if wanted, patient,split). Where numbers lie beside pictures, labels.csv
    /// has the inputs' columns, too
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Where to write the adapted model; a file that is there is never touched
    #[arg(short, long, value_name = "FILE.safetensors")]
    output: PathBuf,
    #[command(flatten)]
    recipe: Recipe,
    /// Share of patients held out, where the data name no split
    #[arg(long, default_value_t = 0.2)]
    holdout: f64,
    /// The agent's key for splitting, vault/split.key in its folder: then the cases held out are those that the agent held
    /// out, and that the released model never trained on
    #[arg(long, value_name = "FILE")]
    split_key: Option<PathBuf>,
    /// Write the adapted model even where it is worse, or where no case is held out
    #[arg(long)]
    force: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Finetuned {
    /// Plain hash of the released file.
    tuned_from: Hash,
    /// Cases trained on.
    train_cases: usize,
    /// Cases of the data that could not be used.
    not_used: usize,
    /// None where no case is held out.
    held_out: Option<Comparison>,
    /// Where the adapted model lies; none where it was not written.
    file: Option<PathBuf>,
    /// Its plain hash.
    hash: Option<Hash>,
    /// Whether the model may have trained on cases that are held out here.
    may_know_held_out: bool,
}

impl Finetuned {
    fn people(&self) -> String {
        let Self { train_cases, not_used, held_out, file, may_know_held_out, .. } = self;
        let compared =
            held_out.as_ref().map_or_else(|| "No case is held out.".to_owned(), Comparison::people);
        let warning = if *may_know_held_out && held_out.is_some() {
            "\nWhere the data name no split, held-out cases were drawn anew: the released model may have trained on some of \
             them,\nwhich makes it look better before than it is. --split-key holds out what the agent held out."
        } else {
            ""
        };
        let written = file.as_ref().map_or_else(String::new, |file| {
            format!(
                "\nWrote {}. It was trained on your cases alone: treat it as you treat them.",
                file.display()
            )
        });
        format!("Trained on {train_cases} cases; {not_used} could not be used.\n{compared}{warning}{written}")
    }
}

/// Runs the command.
pub(super) fn run(args: &FinetuneArgs, output: Output) -> anyhow::Result<()> {
    settle(Freed::Stays);
    let tuned = finetune(args, &Story::new(output, Instant::now()))?;
    output.show(&tuned, Finetuned::people)?;
    if tuned.file.is_none() {
        bail!(
            "the adapted model is worse on the held-out cases, so it was not written; --force writes it all the same"
        );
    }
    Ok(())
}

fn finetune(args: &FinetuneArgs, story: &Story) -> anyhow::Result<Finetuned> {
    let FinetuneArgs { model, data, output, recipe, holdout, split_key, force } = args;
    ensure!(!output.exists(), "{} is there already; choose another name", output.display());
    ensure!((0.0..1.0).contains(holdout), "--holdout {holdout} is no share from 0 to below 1");
    let file = open(model)?;
    let recipe = recipe.training(file.identity.task)?;
    recipe.check(&file.identity.graph)?;
    let tuned_from =
        Hash::of_bytes(&fs::read(model).with_context(|| format!("reading {}", model.display()))?);
    let Some(origin) = file.origin else {
        bail!("{} comes from no study: only a model that a study has trained is adapted", model.display());
    };
    let source = source(data, &file.identity)?;
    let key = split_key.as_deref().map(read_key).transpose()?;
    let may_know_held_out = key.is_none() && !matches!(source, Source::Npz { .. });
    let cohort =
        cohort(&source, &file.identity, *holdout, &key.unwrap_or_else(|| SplitKey::new([0; 32])), story)?;
    let Cohort { train, held_out, .. } = &cohort;
    ensure!(!train.is_empty(), "{}: there are no cases to train on", data.display());
    ensure!(
        *force || !held_out.is_empty(),
        "{}: no case is held out, so nobody can say whether the adapted model is better; --force adapts it all the same",
        data.display()
    );
    let site = SiteName::new("here").context("this is a name")?;
    let tell = |at: consilium_learning::Progress<'_>| {
        story.progress(&format!("step {} of {}, loss {:.4}", at.step, at.steps, at.loss));
    };
    let adapted = adapt(&file.identity, &file.model, &recipe, &site, train, tell)?;
    let compared = Comparison::of(&file.identity, &file.model, &adapted, held_out)?;
    story.clear();
    let train_cases = train.len();
    let mut tuned = Finetuned {
        tuned_from,
        train_cases,
        not_used: cohort.quarantine.len(),
        held_out: compared,
        file: None,
        hash: None,
        may_know_held_out,
    };
    if *force || tuned.held_out.as_ref().is_some_and(Comparison::is_no_worse) {
        let origin = Some(Origin { tuned_from: Some(tuned_from), ..origin });
        let bytes = ModelFile { identity: file.identity, origin, model: adapted }.to_bytes();
        let mut part = part_of(output)?;
        part.write_all(&bytes).with_context(|| format!("writing {}", output.display()))?;
        keep(part, output)?;
        (tuned.file, tuned.hash) = (Some(output.clone()), Some(Hash::of_bytes(&bytes)));
    }
    Ok(tuned)
}

/// What the path means to the loader of an agent.
fn source(data: &Path, identity: &ModelIdentity) -> anyhow::Result<Source> {
    if data.is_dir() {
        ensure!(identity.inputs.is_none(), "this model reads rows of a table: name the table with --data");
        return Ok(Table::of_folder(data)?.files(data)?.source(data.to_owned()));
    }
    ensure!(
        identity.beside.is_none(),
        "this model reads numbers beside each picture, and {} is no folder: name one with --data that holds the pictures and \
         labels.csv, with the columns path, label and those of the study's inputs",
        data.display()
    );
    match identity.inputs {
        Some(_) => Ok(Source::Table { table: data.to_owned(), site: None }),
        None => Ok(Source::Npz { file: data.to_owned() }),
    }
}

fn read_key(path: &Path) -> anyhow::Result<SplitKey> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let key = <[u8; 32]>::try_from(bytes.as_slice());
    Ok(SplitKey::new(key.with_context(|| format!("{} is no key of 32 bytes", path.display()))?))
}

/// The cases as an agent loads them for a study of this model.
fn cohort(
    source: &Source,
    identity: &ModelIdentity,
    holdout: f64,
    key: &SplitKey,
    story: &Story,
) -> anyhow::Result<Cohort> {
    let window = identity.preprocessing.window();
    let picture = (identity.graph.case(), window);
    let case = Case::of(identity.inputs.as_ref(), picture, identity.beside.as_ref())
        .context("no picture becomes this model's input")?;
    let criteria = Criteria {
        labels: identity.labels.clone(),
        task: identity.task,
        range: identity.range,
        case,
        holdout,
    };
    let mut progress = |at: consilium_site_agent::data::Progress| {
        story.progress(&format!("reading cases: {} of {}", at.done, at.total));
    };
    Ok(load(source, &criteria, key, &mut decoder()?, None, &mut progress)?)
}
