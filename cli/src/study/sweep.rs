//! `consilium study sweep`: the same study with other values, as files of their own, and which of them does best.

mod child;
mod grid;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use consilium_study::hash::Hash;
use consilium_study::name::StudyName;
use serde::Serialize;

use self::child::{Child, Parent};
use self::grid::{Axis, Values, combinations};
use super::check::{self, check};
use super::new;
use crate::output::Output;
use crate::reproduce::trial::{self, Candidate, TrialArgs};

/// Keys that make cases or figures others, so that children could not be compared.
const FIXED: [&str; 7] = [
    "seed",
    "sites",
    "evaluation.recommend",
    "data.labels",
    "data.task",
    "data.holdout",
    "data.minimum_cases",
];

/// Write a study with other values, one file for each combination, and try them out on data
///
/// Each child differs from the study in the keys that are set and in its name, and passes every rule, or nothing is
/// written. With --data every child is run as `simulate` does, over seeds, and the table shows which does best on the
/// federation's held-out cases. Stop it when you like: it goes on where it was. `study propose` takes a child as it is.
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// The study: a study.toml
    study: PathBuf,
    /// A key and its values, for example training.learning_rate=0.1,0.03; may be given again for another key
    #[arg(long = "set", value_name = "KEY=VALUE,VALUE", required = true)]
    axes: Vec<Axis>,
    /// A MedMNIST archive, a folder of images, DICOM or NIfTI files, or a table, as `simulate` takes them. Without it nothing is
    /// run
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    #[command(flatten)]
    trial: TrialArgs,
}

/// A child that was written.
#[derive(Serialize)]
struct Line<'c> {
    child: &'c StudyName,
    file: PathBuf,
    values: &'c Values,
}

/// What was written.
#[derive(Serialize)]
struct Written<'c> {
    study: &'c StudyName,
    /// Plain hash of the study's file.
    parent: Hash,
    folder: &'c Path,
    children: Vec<Line<'c>>,
}

impl Written<'_> {
    fn people(&self) -> String {
        let Self { study, folder, children, .. } = self;
        let lines =
            children.iter().map(|Line { file, values, .. }| format!("\n  {}  {values}", file.display()));
        format!(
            "Wrote {} children of {study} to {}:{}",
            children.len(),
            folder.display(),
            lines.collect::<String>()
        )
    }
}

/// Writes the children and, where there are data, tries them out.
pub(super) fn run(args: &SweepArgs, output: Output) -> anyhow::Result<()> {
    let SweepArgs { study, axes, data, trial } = args;
    let named = |key: &str| axes.iter().any(|axis| axis.path == key);
    ensure!(!named("name"), "name: children are named after their parent, so it cannot be set");
    if let Some(key) = FIXED.iter().find(|key| data.is_some() && named(key)) {
        anyhow::bail!(
            "{key}: children that differ in it cannot be compared on the same cases; leave it or --data out"
        );
    }
    let draft = check::read(study)?;
    let parent = Parent::read(study, draft.name.clone())?;
    let combinations = combinations(axes)?;
    let count = combinations.len();
    let numbered = combinations.iter().enumerate();
    let children: Vec<Child> =
        numbered.map(|(at, values)| parent.child(at + 1, count, values)).collect::<Result<_, _>>()?;
    for Child { name, values, draft, .. } in &children {
        check(draft, None).with_context(|| format!("child {name} ({values})"))?;
    }
    let folder =
        trial.course.folder.clone().unwrap_or_else(|| PathBuf::from(format!("{}-sweep", draft.name)));
    let file = |name: &StudyName| folder.join(format!("{name}.toml"));
    // Either all are new or as they were: a folder holds one sweep.
    for Child { name, text, .. } in &children {
        new::is_there(&file(name), text)?;
    }
    for Child { name, text, .. } in &children {
        new::write(&file(name), text)?;
    }
    let lines =
        children.iter().map(|Child { name, values, .. }| Line { child: name, file: file(name), values });
    let written =
        Written { study: &draft.name, parent: parent.hash, folder: &folder, children: lines.collect() };
    output.show(&written, Written::people)?;
    let Some(data) = data else {
        let first = &written.children[0].file;
        output.tell(format!("\nPropose one with: consilium study propose {}", first.display()));
        return Ok(());
    };
    let candidates = children.iter().map(|Child { name, values, text, .. }| Candidate {
        name: name.to_string(),
        file: file(name),
        values: values.to_string(),
        study: text.clone(),
    });
    let sets: Vec<String> = axes.iter().map(|axis| format!("--set '{axis}'")).collect();
    let command = format!("consilium study sweep {} {}", study.display(), sets.join(" "));
    trial::run(
        &candidates.collect::<Vec<_>>(),
        draft.evaluation.recommend,
        data,
        trial,
        &folder,
        &command,
        output,
    )
}
