//! `consilium bench train`: what a site's machine trains and scores in a second, beside PyTorch on the same.
//!
//! Each measurement is a process of its own, ours and PyTorch's in turn: threads and peak memory belong to a process.
//! Of two turns the better counts for each, because a busy machine only ever makes things slower.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use consilium_learning::{
    Dataset, Device, DeviceChoice, LocalSeed, LocalTraining, Pixels, Preprocessing, fix_threads, initial,
    read_epoch, score, train_on,
};
use consilium_memory::{Freed, settle};
use consilium_study::graph::{ModelSpec, Preset, Shape};
use consilium_study::recipe::Extent;
use consilium_study::task::Task;
use serde::{Deserialize, Serialize};

use super::memory::peak;
use crate::output::{Output, bytes, table};

/// What PyTorch is measured with.
const SCRIPT: &str = include_str!("pytorch.py");
/// Channels of pictures; volumes have one.
const CHANNELS: u32 = 3;
/// Classes of every model.
const CLASSES: u32 = 10;
/// Cases that training and scoring go through.
const CASES: u32 = 256;
/// Turns of each side.
const TURNS: usize = 2;

/// Measure training and scoring of the models that studies name, beside PyTorch
///
/// Images of three channels, or with --depth grey volumes, ten classes, Adam. PyTorch is measured where the Python that --python names can import it;
/// otherwise the columns are empty. A ratio above 1 is faster than PyTorch, of memory below 1 smaller. The last column is
/// what reading, mirroring and shifting images would take of an epoch; PyTorch is measured without.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TrainArgs {
    /// Models
    #[arg(long, value_delimiter = ',', default_value = "small-cnn,cnn-bn,resnet18")]
    models: Vec<Name>,
    /// Sides of the images, in pixels
    #[arg(long, value_delimiter = ',', default_value = "28,64", value_parser = clap::value_parser!(u32).range(8..=512))]
    sides: Vec<u32>,
    /// Slices of volumes; pictures without it
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=512))]
    depth: Option<u32>,
    /// Cases in a batch
    #[arg(long, value_delimiter = ',', default_value = "32,64", value_parser = clap::value_parser!(u32).range(1..=256))]
    batches: Vec<u32>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<NonZeroUsize>,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "train,infer")]
    modes: Vec<Mode>,
    /// What trains: cpu, or in a build with GPU support gpu, gpu:1 or gpu:software. Scoring is always the processor's
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Seconds of a measurement, at least three steps
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// A Python that can import torch
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// A preset, by its name in a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Name {
    SmallCnn,
    CnnBn,
    #[serde(rename = "resnet18")]
    #[value(name = "resnet18")]
    Resnet18,
}

impl Name {
    const fn preset(self) -> Preset {
        match self {
            Self::SmallCnn => Preset::SmallCnn,
            Self::CnnBn => Preset::CnnBn,
            Self::Resnet18 => Preset::Resnet18,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Forward, backward and a step of Adam.
    Train,
    /// Forward alone.
    Infer,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Infer => "infer",
        }
    }
}

/// One measurement, in a process of its own.
#[derive(Debug, Clone, Copy, Serialize, clap::Args)]
pub(super) struct Case {
    model: Name,
    side: u32,
    batch: u32,
    mode: Mode,
    threads: NonZeroUsize,
    #[serde(skip)]
    seconds: f64,
    device: DeviceChoice,
    /// Slices of a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<u32>,
}

impl Case {
    /// The words that a process is started with, ours and PyTorch's alike.
    fn words(&self) -> Vec<String> {
        let Self { model, side, batch, mode, threads, seconds, device, depth } = self;
        let model = model.preset().name().to_owned();
        let words = [
            model,
            side.to_string(),
            batch.to_string(),
            mode.name().to_owned(),
            threads.to_string(),
            seconds.to_string(),
            device.to_string(),
        ];
        words.into_iter().chain(depth.map(|depth| depth.to_string())).collect()
    }

    /// The shape of what is measured.
    fn shape(&self) -> Shape {
        match self.depth {
            None => [CHANNELS, self.side, self.side].into(),
            Some(depth) => [1, depth, self.side, self.side].into(),
        }
    }

    /// The case of the last line's ratios: batches of several sizes share one.
    fn key(&self) -> String {
        let Self { model, side, mode, threads, device, .. } = self;
        let side = self.depth.map_or_else(|| side.to_string(), |depth| format!("{depth}x{side}"));
        let key = format!("{}/{side}/{}/{threads}t", model.preset().name(), mode.name());
        if device.is_cpu() { key } else { format!("{key}/{device}") }
    }
}

/// What a measurement gave.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Measured {
    images_per_second: f64,
    /// Most memory of the process.
    peak_bytes: u64,
    /// What reading, mirroring and shifting images takes of an epoch's time.
    reading_share: Option<f64>,
}

impl Measured {
    fn better(self, other: Option<Self>) -> Self {
        other.filter(|other| other.images_per_second > self.images_per_second).unwrap_or(self)
    }
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    case: Case,
    ours: Measured,
    torch: Option<Measured>,
    /// Our images a second by PyTorch's.
    ratio: Option<f64>,
    /// Our memory by PyTorch's.
    memory_ratio: Option<f64>,
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Final {
    #[serde(rename = "final")]
    is_final: bool,
    /// Our speed by PyTorch's, of all batch sizes the worst.
    ratios: BTreeMap<String, f64>,
    /// Our memory by PyTorch's, of all batch sizes the worst.
    memory_ratios: BTreeMap<String, f64>,
}

/// Measures and prints.
pub(super) fn run(args: &TrainArgs, output: Output) -> anyhow::Result<()> {
    let has_torch = has_torch(args);
    if !has_torch {
        eprintln!(
            "PyTorch is not measured: `{}` cannot import torch{}. Name a Python that can with --python",
            args.python.display(),
            if args.device.is_cpu() { "" } else { " with CUDA" }
        );
    }
    let cases = cases(args);
    let mut rows = Vec::new();
    for (done, case) in cases.iter().enumerate() {
        if output.is_live() {
            eprint!("\r\x1b[K{}/{}: {}, batch {}", done + 1, cases.len(), case.key(), case.batch);
        }
        let row = compare(case, has_torch.then_some(args))?;
        if output.json {
            output.show(&row, |_| String::new())?;
        }
        rows.push(row);
    }
    if output.is_live() {
        eprint!("\r\x1b[K");
    }
    if !output.json {
        println!("{}\n", rows_table(&rows));
    }
    let mut last = Final { is_final: true, ratios: BTreeMap::new(), memory_ratios: BTreeMap::new() };
    for row in &rows {
        let keep = |ratios: &mut BTreeMap<String, f64>, ratio: Option<f64>, worse: fn(f64, f64) -> f64| {
            if let Some(ratio) = ratio {
                let kept = ratios.entry(row.case.key()).or_insert(ratio);
                *kept = worse(*kept, ratio);
            }
        };
        keep(&mut last.ratios, row.ratio, f64::min);
        keep(&mut last.memory_ratios, row.memory_ratio, f64::max);
    }
    output.show(&last, |last| match last.ratios.iter().min_by(|one, other| one.1.total_cmp(other.1)) {
        Some((key, ratio)) => format!("at worst {ratio:.2} times as fast as PyTorch ({key})"),
        None => "without PyTorch there are no ratios".to_owned(),
    })?;
    Ok(())
}

fn cases(args: &TrainArgs) -> Vec<Case> {
    let mut cases = Vec::new();
    for &model in &args.models {
        for &side in &args.sides {
            for &mode in args.modes.iter().filter(|mode| args.device.is_cpu() || **mode == Mode::Train) {
                for &threads in &args.threads {
                    for &batch in &args.batches {
                        let &TrainArgs { seconds, device, depth, .. } = args;
                        cases.push(Case { model, side, batch, mode, threads, seconds, device, depth });
                    }
                }
            }
        }
    }
    cases
}

fn has_torch(args: &TrainArgs) -> bool {
    let needed = if args.device.is_cpu() { "" } else { "; assert torch.cuda.is_available()" };
    let tried = Command::new(&args.python).args(["-c", &format!("import torch{needed}")]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// Both sides in turn.
fn compare(case: &Case, torch: Option<&TrainArgs>) -> anyhow::Result<Row> {
    let (mut ours, mut theirs) = (None, None);
    for _ in 0..TURNS {
        let mut child = Command::new(std::env::current_exe()?);
        // As a site agent starts the part that trains.
        Freed::Stays.tune(&mut child).args(["bench", "train-case"]).args(case.words());
        ours = Some(measured(&mut child)?.better(ours));
        if let Some(args) = torch {
            let mut child = Command::new(&args.python);
            child.args(["-c", SCRIPT]).args(case.words());
            theirs = Some(measured(&mut child)?.better(theirs));
        }
    }
    let ours = ours.context("there is a turn")?;
    Ok(Row {
        case: *case,
        ours,
        torch: theirs,
        ratio: theirs.map(|theirs| ours.images_per_second / theirs.images_per_second),
        memory_ratio: theirs.map(|theirs| ours.peak_bytes as f64 / theirs.peak_bytes as f64),
    })
}

fn measured(child: &mut Command) -> anyhow::Result<Measured> {
    let output = child.output().with_context(|| format!("cannot start {}", child.get_program().display()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "a measurement failed: {}", error.trim_end());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Measures one case in this process and prints what [`compare`] reads.
pub(super) fn run_case(case: &Case) -> anyhow::Result<()> {
    settle(Freed::Stays);
    fix_threads(case.threads)?;
    let spec = ModelSpec::Preset { preset: case.model.preset(), norm: None, stem: None };
    let graph = spec.graph(case.shape(), CLASSES)?;
    let [planes, height, width] = graph.input();
    let pixels = planes * height * width;
    let pixels = (0..CASES * pixels).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let labels = (0..CASES).map(|case| (case % CLASSES) as u16).collect();
    let data = Dataset::new(graph.input(), Pixels::Bytes(pixels), labels)?;
    let preprocessing = Preprocessing::new(0.5, 0.25)?;
    let model = initial(&graph, 1);
    let mut times = Vec::new();
    let mut reading = None;
    let device = Device::probe(case.device)?;
    match case.mode {
        Mode::Train => {
            let recipe =
                format!("optimiser = \"adam\"\nlearning_rate = 0.001\nbatch = {}\nsteps = 1", case.batch);
            let varied = toml::from_str(&format!("{recipe}\naugment = {{ flip = true, crop = 2 }}"))?;
            let task = LocalTraining {
                graph: &graph,
                recipe: &toml::from_str(&recipe)?,
                preprocessing,
                budget: Extent::Steps(u32::MAX),
                seed: LocalSeed { study_seed: 1, site: "bench".parse()?, round: 0 },
                rounds: 1,
                covers: 1,
                proximal_weight: 0.0,
                correction: None,
            };
            let varied = LocalTraining { recipe: &varied, ..task.clone() };
            let (mut began, mut last) = (Instant::now(), Instant::now());
            let stopped = train_on(&device, &task, &model, &data, &mut |progress| {
                // The first two steps make buffers.
                if progress.step > 2 {
                    times.push(last.elapsed().as_secs_f64());
                } else {
                    began = Instant::now();
                }
                last = Instant::now();
                let is_enough = times.len() >= 3 && began.elapsed().as_secs_f64() >= case.seconds;
                if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            anyhow::ensure!(!times.is_empty(), "training ended: {stopped:?}");
            reading = (0..=TURNS)
                .map(|_| {
                    let start = Instant::now();
                    let cases = read_epoch(&varied, &data);
                    start.elapsed().as_secs_f64() / cases as f64
                })
                .min_by(f64::total_cmp);
        }
        Mode::Infer => {
            score(&graph, preprocessing, Task::Classification, &model, &data)?;
            let began = Instant::now();
            while times.len() < 3 || began.elapsed().as_secs_f64() < case.seconds {
                let start = Instant::now();
                score(&graph, preprocessing, Task::Classification, &model, &data)?;
                times.push(start.elapsed().as_secs_f64() * f64::from(case.batch) / f64::from(CASES));
            }
        }
    }
    times.sort_by(f64::total_cmp);
    let images_per_second = f64::from(case.batch) / times[times.len() / 2];
    let peak_bytes = peak().unwrap_or_default();
    let reading_share = reading.map(|reading| reading / (reading + 1.0 / images_per_second));
    println!("{}", serde_json::to_string(&Measured { images_per_second, peak_bytes, reading_share })?);
    Ok(())
}

fn rows_table(rows: &[Row]) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            vec![
                row.case.key(),
                row.case.batch.to_string(),
                format!("{:.0}", row.ours.images_per_second),
                or_dash(row.torch.map(|torch| format!("{:.0}", torch.images_per_second))),
                or_dash(row.ratio.map(|ratio| format!("{ratio:.2}"))),
                bytes(row.ours.peak_bytes),
                or_dash(row.torch.map(|torch| bytes(torch.peak_bytes))),
                or_dash(row.memory_ratio.map(|ratio| format!("{ratio:.2}"))),
                or_dash(row.ours.reading_share.map(|share| format!("{:.1} %", share * 100.0))),
            ]
        })
        .collect();
    let head = ["case", "batch", "images/s", "PyTorch", "ratio", "memory", "PyTorch", "ratio", "reading"];
    table(&head, &rows)
}
