//! `consilium model`: what studies have released, and what to do with it.

mod convert;
#[cfg(feature = "predict")]
mod finetune;
#[cfg(feature = "predict")]
mod predict;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use consilium_study::data::Input;
use consilium_study::graph::Treatment;
use consilium_study::hash::Hash;
use consilium_study::model_file::ModelFile;
use consilium_study::name::StudyName;
use consilium_study::preprocessing::Window;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::consortium::{Consortium, Location};
use crate::output::{Output, by, bytes, table};
use crate::remote::{self, Meter, Remote};
use crate::study::{self, Known, NOTHING_ADOPTED, StudyLine};

/// List, show and fetch released models; use a model file: score cases with it, adapt it to one's own, write it for
/// other programs
#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(flatten)]
    location: Location,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the models that studies have released
    List,
    /// Show the model that a study has released
    Show {
        /// Name of the study
        study: StudyName,
    },
    /// Fetch the model that a study has released; its hash is checked
    Export {
        /// Name of the study
        study: StudyName,
        /// Where to write it; STUDY.safetensors without it
        #[arg(short, long, value_name = "FILE.safetensors")]
        output: Option<PathBuf>,
    },
    #[cfg(feature = "predict")]
    Predict(predict::PredictArgs),
    #[cfg(feature = "predict")]
    Finetune(finetune::FinetuneArgs),
    Convert(convert::ConvertArgs),
}

/// Runs the command.
pub fn run(args: ModelArgs, output: Output) -> anyhow::Result<()> {
    let consortium = || Consortium::open(&args.location);
    match args.command {
        #[cfg(feature = "predict")]
        Command::Predict(args) => predict::run(&args, output),
        #[cfg(feature = "predict")]
        Command::Finetune(args) => finetune::run(&args, output),
        Command::Convert(args) => convert::run(&args, output),
        Command::List => {
            let studies = remote::run(async { study::list(&consortium()?).await })?;
            print(&studies, output)
        }
        Command::Show { study } => {
            let meter = Meter::new(output, "reading the model");
            let shown = remote::run(async { show(&consortium()?, &study, meter).await })?;
            Ok(output.show(&shown, Shown::people)?)
        }
        Command::Export { study, output: file } => {
            let file = file.unwrap_or_else(|| PathBuf::from(format!("{study}.safetensors")));
            let meter = Meter::new(output, "fetching the model");
            let exported = remote::run(async { export(&consortium()?, &study, &file, meter).await })?;
            Ok(output.show(&exported, Exported::people)?)
        }
    }
}

/// A released model in a list.
#[derive(Serialize)]
struct Line<'s> {
    study: &'s str,
    model: Hash,
    rounds: u32,
}

fn print(studies: &[StudyLine], output: Output) -> anyhow::Result<()> {
    let released: Vec<Line> = studies
        .iter()
        .filter_map(|study| Some(Line { study: &study.name, model: study.released?, rounds: study.round }))
        .collect();
    if output.json {
        return Ok(released.iter().try_for_each(|line| output.show(line, |_| String::new()))?);
    }
    if released.is_empty() {
        output.tell("No study has released a model yet; see consilium study list");
        return Ok(());
    }
    let rows: Vec<_> = released
        .iter()
        .map(|line| vec![line.study.to_owned(), line.model.to_string(), line.rounds.to_string()])
        .collect();
    output.tell(table(&["study", "model", "rounds"], &rows));
    Ok(())
}

/// What a released model is.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The study.
    pub study: StudyName,
    /// Plain hash of the file.
    pub model: Hash,
    /// Length of the file.
    pub bytes: u64,
    /// The round after which it was the global model; 0 for the initial model.
    pub round: u32,
    /// Whether training came to anything; if not, this is the model that the study started from.
    pub adopted: bool,
    /// Loss on the held-out cases of the federation, where it was measured.
    pub loss: Option<f64>,
    /// AUROC on the same cases.
    pub auroc: Option<f64>,
    /// The metric that picked the model, where it is neither of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// That on the same cases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figure: Option<f64>,
    /// Numbers in the model.
    pub parameters: usize,
    /// Blocks that are as in the initial model, because the study froze them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// Blocks that each site trained for itself; the file has the initial model's numbers there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<String>,
    /// Hash of its graph.
    pub graph: Hash,
    /// Shape of its input: channels, slices where cases are volumes, rows, columns. Where cases are rows of a table, the numbers
    /// of a row, 1, 1.
    pub input: Vec<u32>,
    /// Whether a case is a row of a table.
    #[serde(skip)]
    pub of_rows: bool,
    /// Columns of the table whose rows are cases, or lie beside each picture or volume.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Subtracted from every value between 0 and 1.
    pub mean: f64,
    /// Then divided by this.
    pub std: f64,
    /// Which values of a volume are black and white before that, where the study says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Name of each class or finding in the order of the scores.
    pub labels: Vec<String>,
    /// What the model was asked about a case.
    pub task: &'static str,
}

impl Shown {
    /// What a person reads.
    pub fn people(&self) -> String {
        let figure = |value: Option<f64>| {
            value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.4}"))
        };
        format!(
            "{study}: model {model}, {size}, after round {round}{warning}\n\
             figures      loss {loss}, {metric} {telling}, over the federation's held-out cases\n\
             input        {input}\n\
             scores       {labels} ({task})\n\
             parameters   {parameters}, graph {graph}\n\
             {fixed}Fetch it with: consilium model export {study}",
            study = self.study,
            input = self.reads(),
            warning = if self.adopted { String::new() } else { format!("\n{NOTHING_ADOPTED}") },
            model = self.model,
            size = bytes(self.bytes),
            round = self.round,
            loss = figure(self.loss),
            metric = self.metric.as_deref().unwrap_or("AUROC"),
            telling = figure(if self.metric.is_some() { self.figure } else { self.auroc }),
            labels = self.labels.join(", "),
            task = self.task,
            parameters = self.parameters,
            graph = self.graph,
            fixed = self.fixed(),
        )
    }
}

impl Shown {
    /// What it reads of a case.
    fn reads(&self) -> String {
        let columns = self.columns.join(", ");
        if self.of_rows {
            return format!("{} numbers of a row, from the columns {columns}", self.input[0]);
        }
        let window =
            self.window.map_or_else(String::new, |Window { low, high }| format!(" ({low} to {high})"));
        let beside = if self.columns.is_empty() {
            String::new()
        } else {
            format!("; beside it numbers from the columns {columns}")
        };
        let (sides, mean, std) = (by(&self.input), self.mean, self.std);
        format!("{sides}, values from 0 to 1{window}, then (x - {mean}) / {std}{beside}")
    }

    /// Which blocks are no result of sums.
    fn fixed(&self) -> String {
        let mut lines = String::new();
        if !self.frozen.is_empty() {
            lines += &format!("frozen       {}, as in the initial model\n", self.frozen.join(", "));
        }
        if !self.local.is_empty() {
            lines += &format!(
                "local        {}: each site keeps its own; this file has the initial\n             \
                 model's numbers there, the figures are of the model with each site's own\n",
                self.local.join(", ")
            );
        }
        lines
    }
}

/// Reads a released model and says what it is.
pub async fn show(consortium: &Consortium, name: &StudyName, meter: Meter) -> anyhow::Result<Shown> {
    let mut remote = Remote::open(consortium).await?;
    let known = study::fetch_from(&mut remote, name).await?;
    let (model, limit) = released(&known)?;
    let mut whole = Vec::new();
    let length = remote.download(model, limit, &mut whole, meter).await?;
    let file = read(&whole, &known)?;
    let round = file.origin.map_or(0, |origin| origin.round);
    let line = known.status.lines.iter().rfind(|line| line.kind == "evaluate" && line.round == round);
    Ok(Shown {
        study: name.clone(),
        model,
        bytes: length,
        round,
        adopted: !known.released_its_start(),
        loss: line.and_then(|line| line.loss),
        auroc: line.and_then(|line| line.auroc),
        metric: line.and_then(|line| line.metric.clone()),
        figure: line.and_then(|line| line.figure),
        parameters: file.model.len(),
        frozen: file.identity.graph.names(Treatment::Frozen),
        local: file.identity.graph.names(Treatment::Local),
        graph: file.identity.graph.hash(),
        input: file.identity.graph.case().sides().to_vec(),
        of_rows: file.identity.inputs.is_some(),
        columns: Input::columns(file.identity.columns()).into_iter().map(str::to_owned).collect(),
        mean: file.identity.preprocessing.mean(),
        std: file.identity.preprocessing.std(),
        window: file.identity.preprocessing.window(),
        task: file.identity.task.name(),
        labels: file.identity.labels,
    })
}

/// A model that was fetched.
#[derive(Debug, Serialize)]
pub struct Exported {
    /// The study.
    pub study: StudyName,
    /// Plain hash of the file.
    pub model: Hash,
    /// Where it lies.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Whether training came to anything; if not, this is the model that the study started from.
    pub adopted: bool,
}

impl Exported {
    fn people(&self) -> String {
        let Self { study, model, file, bytes: length, adopted } = self;
        let story =
            if *adopted { "`consilium audit verify` proves how it came about." } else { NOTHING_ADOPTED };
        format!(
            "Wrote the model of {study} to {} ({}), SHA-256 {model}.\n{story}",
            file.display(),
            bytes(*length)
        )
    }
}

/// Fetches a released model. The file appears when it is whole and its hash is right; another file of the same
/// name is never touched.
pub async fn export(
    consortium: &Consortium,
    name: &StudyName,
    file: &Path,
    meter: Meter,
) -> anyhow::Result<Exported> {
    let mut remote = Remote::open(consortium).await?;
    let known = study::fetch_from(&mut remote, name).await?;
    let (model, limit) = released(&known)?;
    let adopted = !known.released_its_start();
    let exported =
        |length| Exported { study: name.clone(), model, file: file.to_owned(), bytes: length, adopted };
    if let Some(length) = already_there(file, model)? {
        return Ok(exported(length));
    }
    let mut part = part_of(file)?;
    let length = remote.download(model, limit, &mut part, meter).await?;
    read(&std::fs::read(part.path()).with_context(|| format!("writing {}", file.display()))?, &known)?;
    keep(part, file)?;
    Ok(exported(length))
}

/// The released model, and how long its file can be.
fn released(known: &Known) -> anyhow::Result<(Hash, u64)> {
    let name = &known.study.name;
    let Some(model) = known.released else {
        bail!(
            "{name} has released no model; it is {}. Follow it with: consilium study watch {name}",
            known.status.state
        );
    };
    Ok((model, known.study.model_identity().longest_file()))
}

/// A hash says that the bytes are those the coordinator named; this, that they are a model of the study.
fn read(whole: &[u8], known: &Known) -> anyhow::Result<ModelFile> {
    let study = &known.study;
    let file = ModelFile::from_bytes(whole).context("the released model cannot be read")?;
    // A study may start from another study's model, and release that when it adopts nothing.
    let of = file.origin.map(|origin| origin.study);
    let foreign = of.is_some_and(|of| of != study.hash()) && Hash::of_bytes(whole) != study.initial_model();
    if foreign || file.identity != study.model_identity() {
        bail!("the coordinator released a model that is none of the study {}", study.name);
    }
    Ok(file)
}

/// Length of a file that is there already, if it is the one of this hash; another file is an error.
fn already_there(file: &Path, wanted: Hash) -> anyhow::Result<Option<u64>> {
    match std::fs::read(file) {
        Ok(bytes) if Hash::of_bytes(&bytes) == wanted => Ok(Some(bytes.len() as u64)),
        Ok(_) => bail!("{} is there already and is another file; choose another name", file.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// A file that nobody sees until it is whole, beside the one that it becomes.
pub(crate) fn part_of(file: &Path) -> anyhow::Result<NamedTempFile> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    NamedTempFile::new_in(folder).with_context(|| format!("writing {}", file.display()))
}

/// Lets the file appear under its name.
pub(crate) fn keep(mut part: NamedTempFile, file: &Path) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        part.flush()?;
        part.as_file().sync_all()?;
        part.persist_noclobber(file)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", file.display()))
}

/// A temperature of probabilities, from the command line.
fn temperature(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if (0.01..=100.0).contains(&number) {
        Ok(number)
    } else {
        Err("it is not between 0.01 and 100".to_owned())
    }
}

/// Reads a model file.
pub(crate) fn open(path: &Path) -> anyhow::Result<ModelFile> {
    let about = || format!("reading {}", path.display());
    ModelFile::read(File::open(path).with_context(about)?).with_context(about)
}
