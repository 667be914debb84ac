//! Training on a GPU, in a child that lives for one training.
//!
//! A driver is millions of lines of foreign code that may open what it likes, hang, or take its process with it. So it is
//! loaded by [`child`], which holds no keys and hears of nothing but one training: the study, a model, the site's training
//! cases. The vault waits for it with a limit, and whatever becomes of the child is a [`DeviceError`] here. Each training
//! starts another one, which looks for the GPU anew: a GPU that comes back, or whose driver was replaced, is used from the
//! next attempt on, and between trainings its memory belongs to others.
//!
//! Models are scored on the processor, always: an evaluation counts cases, and done again it has to count the same.

pub(crate) mod child;

mod protocol;

#[cfg(test)]
mod hostile_bytes;
#[cfg(test)]
mod tests;

use std::io::{BufReader, Write};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use consilium_learning::{Dataset, DeviceChoice, DeviceError, Pixels, TrainError, Trained};
use consilium_secagg::numbering::RoundNumber;
use consilium_study::canonical::Canonical as _;
use consilium_study::document::Study;
use consilium_study::name::SiteName;
use consilium_study::task::Label;

use self::protocol::{Assignment, Labels, Order, Report, bytes_of, values_of, write_pieces};
use crate::data::protocol::{BrokenPipe, read_frame, write_frame};
use crate::program::Program;

/// How long a driver may take until its GPU has computed something.
const TO_BEGIN: Duration = Duration::from_mins(2);
/// How long a child may say nothing while it trains. A step takes seconds at most, the first a minute or two: kernels are
/// compiled and compared.
const SILENCE: Duration = Duration::from_mins(10);
/// How often the caller is asked, between two words of the child, whether to go on.
const ASK_AFTER: Duration = Duration::from_millis(500);

/// What is trained.
#[derive(Clone, Copy)]
pub(crate) struct Training<'a> {
    pub(crate) study: &'a Study,
    pub(crate) site: &'a SiteName,
    pub(crate) round: RoundNumber,
    pub(crate) start: &'a [f32],
    pub(crate) cases: &'a Dataset,
    /// Added to each gradient, shape `[params]`, in a study with control variates.
    pub(crate) correction: Option<&'a [f32]>,
}

/// Told how many steps of how many are done, now and then; says whether to go on.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Something that trains in the vault's place.
pub(crate) trait Accelerator: Send {
    /// One training, on a device that is looked for first.
    fn train(&mut self, training: Training<'_>, watch: Watch<'_>) -> Result<Trained, TrainError>;
}

/// The GPU that `site.toml` names, behind a child.
pub(crate) struct Gpu {
    command: Command,
    choice: DeviceChoice,
    to_begin: Duration,
    silence: Duration,
}

impl Gpu {
    /// `program` is the agent's; the child has `threads` for what stays on the processor.
    pub(crate) fn new(program: &Program, choice: DeviceChoice, threads: NonZeroUsize) -> Self {
        let (parent, threads) = (std::process::id().to_string(), threads.to_string());
        Self::behind(program.command(["compute", "--parent", &parent, "--threads", &threads]), choice)
    }

    /// Behind the child that `command` starts.
    fn behind(mut command: Command, choice: DeviceChoice) -> Self {
        // What a driver prints may be anything.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self { command, choice, to_begin: TO_BEGIN, silence: SILENCE }
    }

    /// Looks for the GPU and has it compute something. Returns its name.
    pub(crate) fn probe(&mut self) -> Result<String, DeviceError> {
        let mut running = Running::start(&mut self.command)?;
        write_frame(running.input(), &Order::Probe(self.choice), &[])?;
        running.name(self.to_begin)
    }
}

impl Accelerator for Gpu {
    fn train(&mut self, training: Training<'_>, watch: Watch<'_>) -> Result<Trained, TrainError> {
        let mut running = Running::start(&mut self.command)?;
        training.announce(self.choice, running.input()).map_err(DeviceError::from)?;
        let (study, gpu) = (training.study.hash(), running.name(self.to_begin)?);
        tracing::info!(study = study.short(), gpu, "trains on a GPU");
        // The child does nothing but read now, so this cannot hang.
        training.send(running.input()).map_err(DeviceError::from)?;
        running.follow(training.start.len(), self.silence, watch)
    }
}

impl Training<'_> {
    /// What a child needs to know before it looks for its device.
    fn announce(&self, choice: DeviceChoice, to: &mut impl Write) -> Result<(), BrokenPipe> {
        let Self { study, site, round, cases, .. } = *self;
        let assignment = Assignment {
            choice,
            site: site.clone(),
            round,
            shape: cases.shape(),
            cases: cases.len() as u64,
            of_bytes: matches!(cases.pixels(), Pixels::Bytes(_)),
            // A study has far fewer than fit into an `u32`.
            columns: cases.columns() as u32,
            labels: match cases.labels().first() {
                Some(Label::Findings(_)) => Labels::Findings,
                Some(Label::Value(_)) => Labels::Values,
                Some(Label::Mask) => Labels::Masks,
                Some(Label::Class(_)) | None => Labels::Classes,
            },
        };
        write_frame(to, &Order::Train(assignment), &study.to_canonical())
    }

    /// Model, cases and correction.
    fn send(&self, to: &mut impl Write) -> Result<(), BrokenPipe> {
        write_pieces(to, &Order::Model, &bytes_of(self.start))?;
        match self.cases.pixels() {
            Pixels::Bytes(pixels) => write_pieces(to, &Order::Pixels, pixels)?,
            Pixels::Floats(pixels) => write_pieces(to, &Order::Pixels, &bytes_of(pixels))?,
        }
        let mut labels = Vec::new();
        for (case, label) in self.cases.labels().iter().enumerate() {
            match *label {
                Label::Class(class) => labels.extend(u64::from(class).to_le_bytes()),
                Label::Findings(findings) => labels.extend(findings.to_le_bytes()),
                Label::Value(measure) => labels.extend(measure.share().to_bits().to_le_bytes()),
                Label::Mask => labels.extend(self.cases.mask(case)),
            }
        }
        write_pieces(to, &Order::Labels, &labels)?;
        let beside = (0..self.cases.len()).flat_map(|case| bytes_of(self.cases.numbers(case)));
        write_pieces(to, &Order::Beside, &beside.collect::<Vec<u8>>())?;
        write_pieces(to, &Order::Correction, &bytes_of(self.correction.unwrap_or_default()))?;
        write_frame(to, &Order::Go, &[])
    }
}

/// A child that is killed and waited for when it goes out of scope, and the thread that hears it.
struct Running {
    child: Child,
    reports: Receiver<(Report, Vec<u8>)>,
}

/// A child that is gone, mute or not to be believed has lost its GPU, as far as anybody can tell.
impl From<BrokenPipe> for DeviceError {
    fn from(_: BrokenPipe) -> Self {
        Self::Lost
    }
}

impl Running {
    fn start(command: &mut Command) -> Result<Self, DeviceError> {
        let mut child = command.spawn().map_err(|_| DeviceError::Lost)?;
        let output = child.stdout.take().expect("the output was asked to be a pipe");
        let (sender, reports) = sync_channel(1);
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            while let Ok(Some(report)) = read_frame::<Report>(&mut output) {
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, reports })
    }

    fn input(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("the input was asked to be a pipe")
    }

    /// The name of the device, once it has computed something.
    fn name(&mut self, to_begin: Duration) -> Result<String, DeviceError> {
        match self.reports.recv_timeout(to_begin) {
            // It goes to people's screens.
            Ok((Report::Ready { name }, _)) if name.len() <= 256 && !name.contains(char::is_control) => {
                Ok(name)
            }
            Ok((Report::Failed(error), _)) => Err(error),
            _ => Err(DeviceError::Lost),
        }
    }

    /// Listens until the training is over. The child ran foreign code: its model is taken if it could be one.
    fn follow(&mut self, length: usize, silence: Duration, watch: Watch<'_>) -> Result<Trained, TrainError> {
        let mut model = Vec::new();
        let (mut done, mut heard) = ((0, 1), Instant::now());
        loop {
            if watch(done.0, done.1).is_break() {
                return Err(TrainError::Stopped { steps: done.0 });
            }
            let report = match self.reports.recv_timeout(ASK_AFTER.min(silence)) {
                Ok(report) => report,
                Err(RecvTimeoutError::Timeout) if heard.elapsed() < silence => continue,
                Err(_) => return Err(DeviceError::Lost.into()),
            };
            heard = Instant::now();
            match report {
                (Report::Step { step, steps }, _) => done = (step, steps),
                (Report::Model, piece) if model.len() + piece.len() <= 4 * length => model.extend(piece),
                (Report::Done { steps, examples, mean_loss }, _) => {
                    let model = values_of(&model);
                    let is_model = model.len() == length && model.iter().all(|value| value.is_finite());
                    if !is_model || !mean_loss.is_finite() {
                        return Err(DeviceError::Lost.into());
                    }
                    return Ok(Trained { model, steps, examples, mean_loss });
                }
                (Report::Failed(error), _) => return Err(error.into()),
                (Report::Diverged { step }, _) => return Err(TrainError::Diverged { step }),
                (Report::Ready { .. } | Report::Model | Report::Unfit, _) => {
                    return Err(DeviceError::Lost.into());
                }
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
