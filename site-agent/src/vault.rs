//! The process that sees patients: it has no socket, holds the site's keys, and decides.
//!
//! It talks to the relay through its standard input and output and to nobody else. One thread reads
//! the pipe, one writes it, one does the heavy work, and the `core` between them changes durable state
//! before anything is said. It may be killed between any two lines: what it was told is told again,
//! what it said is the same bytes again, and training is the same numbers again.

pub(crate) mod board;
pub(crate) mod cases;
pub mod identity;
pub mod record;

mod attempt;
mod case;
mod chainfile;
pub(crate) mod consent;
mod core;
mod fetching;
mod keeping;
mod life;
mod limits;
mod models;
pub(crate) mod own_layers;
mod proposal;
mod reason;
mod setup;
mod speech;
mod trainer;
mod variates;
mod work;

#[cfg(test)]
mod federation;

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use consilium_learning::fix_threads;
use consilium_memory::{Freed, settle};

use self::cases::read_split_key;
use self::core::Core;
use self::identity::{Identity, read_signing_key};
use self::trainer::Trainer;
use self::work::{Bench, Outcome};
use crate::cli::PartError;
use crate::config::Config;
use crate::data::Decoder;
use crate::folder::SiteFolder;
use crate::gpu::{Accelerator, Gpu};
use crate::pipe::message::{FromRelay, FromVault};
use crate::pipe::{PipeError, receive, send};
use crate::program::{Program, die_with_parent};
use crate::store::{Disk, Store};

/// How often people's answers are looked for.
const TICK: Duration = Duration::from_millis(500);
/// Inputs that wait for the core. More are held back in the pipe.
const WAITING_INPUTS: usize = 32;
/// Chunks on their way to the relay. It asks for one at a time; one that asks for more is not served.
const WAITING_CHUNKS: usize = 4;

/// What the core waits for.
enum Input {
    Frame(FromRelay),
    PipeEnded,
    Outcome(Outcome),
}

impl From<Outcome> for Input {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(outcome)
    }
}

/// Runs the vault until its pipe ends.
pub(crate) fn run(folder: &SiteFolder, program: &Program, parent: u32) -> Result<(), PartError> {
    die_with_parent(parent)?;
    let config = Config::load(folder)?;
    let folder = config.folder(folder);
    Disk::make_folder(folder.vault())?;
    // The one before may still be dying; two vaults must never write side by side.
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.vault_lock())?;
    lock.lock()?;
    settle(Freed::Stays);
    fix_threads(config.threads)?;
    let store: Arc<dyn Store> = Arc::new(Disk);
    let needs_a_person = |error: anyhow::Error| PartError::NeedsAPerson(error);
    let identity = Identity::read(&*store, &folder).map_err(needs_a_person)?;
    let key = read_signing_key(&*store, &folder).map_err(needs_a_person)?;
    let split = read_split_key(&folder)?;
    let (inputs, waiting) = mpsc::sync_channel(WAITING_INPUTS);
    let (jobs, work) = mpsc::channel();
    let policy = config.policy.clone();
    let bench = Bench {
        site: identity.site.clone(),
        source: config.source.clone(),
        split,
        decoder: Decoder::new(program.command(["decode"])),
        cache: config.cache(&folder),
        store: Arc::clone(&store),
        minimum_cases: Box::new(move |study| policy.minimum_cases(study)),
        trap_factor: config.policy.trap_factor(),
        trainer: Trainer::new(accelerator(&config, program), config.on_gpu_loss),
    };
    let core = Core::open(folder, store, config.policy, identity, key, jobs)
        .context("what this site has written down cannot be used")
        .map_err(needs_a_person)?;
    let outcomes = inputs.clone();
    std::thread::Builder::new().name("work".into()).spawn(move || work::run(bench, &work, &outcomes))?;
    std::thread::Builder::new().name("from-relay".into()).spawn(move || read_pipe(&inputs))?;
    let queued = Arc::new(AtomicUsize::new(0));
    let (out, frames) = mpsc::channel();
    let counter = Arc::clone(&queued);
    std::thread::Builder::new().name("to-relay".into()).spawn(move || write_pipe(&frames, &counter))?;
    Ok(serve(core, &waiting, &out, &queued)?)
}

/// The GPU of `site.toml`, if it names one.
fn accelerator(config: &Config, program: &Program) -> Option<Box<dyn Accelerator>> {
    let gpu = || Gpu::new(program, config.device, config.threads);
    (!config.device.is_cpu()).then(|| Box::new(gpu()) as Box<dyn Accelerator>)
}

/// Takes one input after the other, and lets the core speak after each.
fn serve(
    mut core: Core,
    inputs: &Receiver<Input>,
    out: &Sender<FromVault>,
    queued: &AtomicUsize,
) -> anyhow::Result<()> {
    let mut tick = Instant::now() + TICK;
    loop {
        for message in core.speak() {
            if matches!(message, FromVault::Chunk { .. }) {
                queued.fetch_add(1, Ordering::Relaxed);
            }
            if out.send(message).is_err() {
                return Ok(());
            }
        }
        // However much the coordinator says, time passes and persons are heard.
        let left = tick.saturating_duration_since(Instant::now());
        if left.is_zero() {
            core.tick()?;
            tick = Instant::now() + TICK;
            continue;
        }
        match inputs.recv_timeout(left) {
            Ok(Input::Frame(FromRelay::ReadChunk { .. }))
                if queued.load(Ordering::Relaxed) >= WAITING_CHUNKS => {}
            Ok(Input::Frame(frame)) => core.frame(frame)?,
            Ok(Input::Outcome(outcome)) => core.outcome(outcome)?,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Input::PipeEnded) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn read_pipe(inputs: &SyncSender<Input>) {
    let mut stdin = io::stdin().lock();
    loop {
        let input = match receive(&mut stdin) {
            Ok(frame) => Input::Frame(frame),
            Err(error) => {
                if !matches!(error, PipeError::Closed) {
                    tracing::warn!(%error, "the relay's pipe failed");
                }
                Input::PipeEnded
            }
        };
        let ended = matches!(input, Input::PipeEnded);
        if inputs.send(input).is_err() || ended {
            return;
        }
    }
}

fn write_pipe(frames: &Receiver<FromVault>, queued: &AtomicUsize) {
    let mut stdout = io::stdout().lock();
    while let Ok(message) = frames.recv() {
        if send(&mut stdout, &message).is_err() {
            return;
        }
        if matches!(message, FromVault::Chunk { .. }) {
            queued.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
