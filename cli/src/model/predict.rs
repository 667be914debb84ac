//! `consilium model predict`: what a model says about pictures, about rows of tables, or about pictures with such rows.
//!
//! The model file alone says how a case becomes an input. Pictures go the way of a site's: its decoder, in a
//! process of its own, brings them to the model's size, and its scoring computes the probabilities.

mod areas;
mod beside;
mod rows;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use consilium_learning::{Dataset, Link, ModelFile, ModelIdentity, Pixels, Scores, score};
use consilium_site_agent::data::alone::{Unreadable, decode_file, files_below};
use consilium_site_agent::data::reason::Reason;
use consilium_site_agent::data::{Decoder, Target};
use consilium_study::graph::Treatment;
use consilium_study::task::Label;
use serde::{Serialize, Serializer};

use self::areas::{Areas, Masks};
use super::{open, temperature};
use crate::demo::arms::decoder;
use crate::output::Output;

/// Files that are scored together.
const TOGETHER: usize = 64;
/// Values of pictures above which fewer are: 64 MiB in f32.
const VALUES_TOGETHER: usize = 1 << 24;
/// Said of a file that nobody in its study used as it is.
const LOCAL_LAYERS: &str = "Note: in this model's study each site had local layers of its own, which it keeps. This file has \
     the initial model's numbers there, so what it says of pictures is not what a site's model says. `site-agent model` puts a site's \
     layers into it.";

/// How long nobody wonders what the program does.
const SILENCE: Duration = Duration::from_secs(1);

/// Score pictures, or rows of tables, with a model file; needs no coordinator and no network
///
/// Prints for each picture the probability of every label, or of a model of pixels the share of pixels of each class, or the value that a regression estimates. Pictures are read as the sites of the study read theirs:
/// DICOM, PNG and JPEG; a model of volumes reads NIfTI. In a folder, other files are passed over. A picture that cannot be read is
/// named with the reason, the others go on, and the command fails at the end. A model of rows takes tables (.csv) with the
/// columns of its study's inputs, and answers for each row. A model that reads such numbers beside pictures takes tables, too, with a
/// column `path` of the file of each row, below the table's own folder; a folder stands for the labels.csv in it.
#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// The model file, as `consilium model export` wrote it
    #[arg(value_name = "MODEL.safetensors")]
    model: PathBuf,
    /// Pictures, or folders of pictures; for a model of rows, or of pictures with rows beside them, tables
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Divide outputs by this before they become probabilities: the temperature that the study's card gives
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = temperature)]
    temperature: f64,
    /// Of a model of pixels: write the mask of each picture to this folder, as a PNG of the picture's size; with two labels
    /// the second is white, else values are places of labels
    #[arg(long, value_name = "FOLDER")]
    masks: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &PredictArgs, output: Output) -> anyhow::Result<()> {
    let file = open(&args.model)?;
    let is_adapted = file.origin.is_some_and(|origin| origin.tuned_from.is_some());
    if !is_adapted && file.identity.graph.treated(Treatment::Local).next().is_some() {
        eprintln!("{LOCAL_LAYERS}");
    }
    if args.masks.is_some() && !file.identity.task.is_dense() {
        bail!("--masks is for models of pixels, and this one's task is {}", file.identity.task.name());
    }
    if file.identity.range.is_some() && args.temperature.to_bits() != 1.0_f64.to_bits() {
        bail!("--temperature is for probabilities, and this model's task is regression");
    }
    if let Some(inputs) = file.identity.inputs.clone() {
        return rows::run(&file, &inputs, args.temperature, &args.paths, output);
    }
    let mut left = match &file.identity.beside {
        Some(inputs) => beside::find(&args.model, inputs, &args.paths)?,
        None => find(&args.paths),
    };
    let of_tables = file.identity.beside.is_some();
    let mut predictor = Predictor::new(file, args)?;
    let mut meter = Meter::new(output);
    let mut counts = Counts::default();
    let found = left.len();
    while !left.is_empty() {
        let lines = predictor.some(&mut left, &mut counts, &mut |left| meter.show(found - left, found))?;
        meter.clear();
        for line in lines {
            output.show(&line, Line::people)?;
        }
    }
    output.show(&counts, Counts::people)?;
    let Counts { scored, failed, .. } = counts;
    if failed > 0 {
        bail!("{failed} of {} pictures could not be read", scored + failed);
    }
    if scored == 0 {
        bail!(if of_tables { "there is no row" } else { "there is no DICOM, PNG or JPEG file" });
    }
    Ok(())
}

/// A file to score, or why it is not: it is not known which files a path means, or a number beside it lacks.
struct Found {
    path: PathBuf,
    /// Its path in the folder that was named, or its own name.
    name: PathBuf,
    /// Whether it was named itself, and not a folder above it.
    is_named: bool,
    /// The numbers beside it.
    beside: Vec<f32>,
    refused: Option<Finding>,
}

impl Found {
    fn new(path: PathBuf, name: PathBuf, is_named: bool) -> Self {
        Self { path, name, is_named, beside: Vec::new(), refused: None }
    }
}

/// The files that paths mean, folders searched.
fn find(paths: &[PathBuf]) -> VecDeque<Found> {
    let mut found = VecDeque::new();
    for path in paths {
        let own = || path.file_name().map_or_else(|| path.clone(), PathBuf::from);
        if !path.is_dir() {
            found.push_back(Found::new(path.clone(), own(), true));
            continue;
        }
        match files_below(path) {
            Ok(files) => {
                found.extend(files.into_iter().map(|file| {
                    let name = file.strip_prefix(path).unwrap_or(&file).to_owned();
                    Found::new(file, name, false)
                }));
            }
            Err(why) => {
                let refused = Some(Finding::unreadable(&why));
                found.push_back(Found { refused, ..Found::new(path.clone(), own(), true) });
            }
        }
    }
    found
}

/// A model that scores files.
struct Predictor {
    file: ModelFile,
    link: Link,
    target: Target,
    decoder: Decoder,
    masks: Option<Masks>,
}

impl Predictor {
    fn new(file: ModelFile, args: &PredictArgs) -> anyhow::Result<Self> {
        let window = file.identity.preprocessing.window();
        let target = Target::of(file.identity.graph.case(), window)
            .context("no picture becomes this model's input")?;
        let link = Link { task: file.identity.task, temperature: args.temperature };
        let masks = args.masks.as_deref().map(Masks::new);
        Ok(Self { file, link, target, decoder: decoder()?, masks })
    }

    /// Takes the first of the files that are left, scores them, counts, and says what came of each. `progress` is told
    /// how many are left.
    fn some(
        &mut self,
        left: &mut VecDeque<Found>,
        counts: &mut Counts,
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Line>> {
        let (mut pixels, mut numbers, mut scored) = (Vec::new(), Vec::new(), 0);
        let mut pictures = Vec::new();
        let graph = &self.file.identity.graph;
        let values = self.target.values().max(graph.places() * graph.classes());
        let most = (VALUES_TOGETHER / values).clamp(1, TOGETHER);
        while scored < most {
            progress(left.len());
            let Some(Found { path, name, is_named, beside, refused }) = left.pop_front() else { break };
            let picture = match refused {
                Some(finding) => Err(finding),
                None => match decode_file(&path, self.target, &mut self.decoder) {
                    Err(Unreadable::File(Reason::NotAnImage)) if !is_named => {
                        counts.passed_over += 1;
                        continue;
                    }
                    decoded => decoded.map_err(|why| Finding::unreadable(&why)),
                },
            };
            match &picture {
                Ok(picture) => {
                    pixels.extend_from_slice(&picture.values);
                    numbers.extend(beside);
                    scored += 1;
                }
                Err(_) => counts.failed += 1,
            }
            pictures.push((path, name, picture.map(|picture| picture.facts)));
        }
        counts.scored += scored;
        let scores = scores_of(&self.file, self.link, pixels, numbers, scored)?;
        let mut scores = scores.iter();
        let mut lines = Vec::new();
        for (path, name, picture) in pictures {
            let finding = match picture {
                Ok(facts) => {
                    let scores = scores.next().expect("one for each picture");
                    if self.link.task.is_dense() {
                        let areas = Areas::of(&self.file.identity.labels, scores);
                        let masks = self.masks.as_mut();
                        let mask = masks.map(|masks| masks.write(&areas, self.target, &name, &facts));
                        areas.finding(mask.transpose()?)
                    } else {
                        Finding::scored(&self.file.identity, scores)
                    }
                }
                Err(finding) => finding,
            };
            lines.push(Line { file: path.display().to_string(), row: None, finding });
        }
        Ok(lines)
    }
}

/// Scores of so many cases whose values follow each other, and so do the numbers beside them.
fn scores_of(
    file: &ModelFile,
    link: Link,
    values: Vec<f32>,
    beside: Vec<f32>,
    cases: usize,
) -> anyhow::Result<Scores> {
    let identity = &file.identity;
    // Scoring wants cases with labels, and looks at none of them.
    let (shape, pixels) = (identity.graph.input(), Pixels::Floats(values));
    let cases = if identity.task.is_dense() {
        Dataset::with_masks(shape, pixels, vec![0; cases * identity.graph.places()])?
    } else {
        Dataset::new(shape, pixels, vec![Label::unknown(identity.task); cases])?
    };
    let cases = cases.beside(identity.graph.columns(), beside)?;
    let scores = score(&identity.graph, identity.preprocessing, link, &file.model, &cases)?;
    if scores.iter().flatten().any(|score| !score.is_finite()) {
        bail!(
            "the model's numbers overflow, so its scores are none: the file is damaged, or its training diverged"
        );
    }
    Ok(scores)
}

/// What came of a file, or of a row.
#[derive(Debug, Serialize)]
struct Line {
    file: String,
    /// The number of a row, from 1; the names of the columns are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<u64>,
    #[serde(flatten)]
    finding: Finding,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Finding {
    /// One of the classes.
    Class {
        likeliest: String,
        probabilities: Probabilities,
    },
    /// Each finding by itself; none stands out.
    Findings {
        probabilities: Probabilities,
    },
    /// How much there is.
    Value {
        label: String,
        value: f64,
    },
    /// What of a picture each class is.
    Areas {
        areas: Probabilities,
        #[serde(skip_serializing_if = "Option::is_none")]
        mask: Option<String>,
    },
    Unreadable {
        reason: &'static str,
        explanation: String,
    },
}

impl Finding {
    fn unreadable(why: &Unreadable) -> Self {
        Self::Unreadable { reason: why.code(), explanation: why.to_string() }
    }

    fn scored(identity: &ModelIdentity, scores: &[f32]) -> Self {
        if let Some(range) = identity.range {
            let label = identity.labels.first().cloned().unwrap_or_default();
            return Self::Value { label, value: range.value(scores[0].into()) };
        }
        let pairs: Vec<_> = identity.labels.iter().cloned().zip(scores.iter().copied()).collect();
        if !identity.task.is_exclusive() {
            return Self::Findings { probabilities: Probabilities(pairs) };
        }
        let likeliest = pairs.iter().rev().max_by(|one, other| one.1.total_cmp(&other.1));
        let (likeliest, _) = likeliest.expect("a model scores two classes at least");
        Self::Class { likeliest: likeliest.clone(), probabilities: Probabilities(pairs) }
    }
}

/// Of each label, in the model's order.
#[derive(Debug)]
struct Probabilities(Vec<(String, f32)>);

impl Probabilities {
    fn people(&self) -> String {
        let all = self.0.iter().map(|(label, value)| format!("{label} {value:.4}"));
        all.collect::<Vec<_>>().join(", ")
    }
}

impl Serialize for Probabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(label, value)| (label, value)))
    }
}

impl Line {
    fn people(&self) -> String {
        let row = self.row.map_or_else(String::new, |row| format!(", row {row}"));
        let place = format!("{}{row}", self.file);
        match &self.finding {
            Finding::Class { likeliest, probabilities } => {
                format!("{place}: {likeliest} ({})", probabilities.people())
            }
            Finding::Findings { probabilities } => format!("{place}: {}", probabilities.people()),
            Finding::Value { label, value } => format!("{place}: {label} {value:.4}"),
            Finding::Areas { areas, mask } => {
                let mask = mask.as_ref().map_or_else(String::new, |mask| format!("; mask in {mask}"));
                format!("{place}: {}{mask}", areas.people())
            }
            Finding::Unreadable { explanation, .. } => format!("{place}: not read: {explanation}"),
        }
    }
}

/// What came of all files, or rows.
#[derive(Debug, Default, Serialize)]
struct Counts {
    /// Pictures or rows that were scored.
    scored: usize,
    /// Those that could not be read.
    failed: usize,
    /// Files in folders that are no pictures.
    passed_over: usize,
}

impl Counts {
    fn people(&self) -> String {
        let Self { scored, failed, passed_over } = self;
        format!("{scored} scored, {failed} not read, {passed_over} passed over because they are no pictures")
    }
}

/// Shows on a terminal how many files are done, once that takes a while.
struct Meter {
    output: Output,
    started: Instant,
    is_shown: bool,
}

impl Meter {
    fn new(output: Output) -> Self {
        Self { output, started: Instant::now(), is_shown: false }
    }

    fn show(&mut self, done: usize, whole: usize) {
        if self.output.is_live() && self.started.elapsed() > SILENCE {
            eprint!("\r\x1b[K{done} of {whole} files");
            self.is_shown = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            eprint!("\r\x1b[K");
        }
    }
}
