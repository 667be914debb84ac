//! The compute child: the only process that loads a driver.

use std::io::{self, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic;
use std::process::ExitCode;

use consilium_learning::{Dataset, Device, Pixels, TrainError, Trained, fix_threads, train_on};
use consilium_study::canonical::Canonical as _;
use consilium_study::document::Study;
use consilium_study::task::{Label, Range};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::protocol::{Assignment, Labels, Order, Report, bytes_of, values_of, write_pieces};
use crate::contribution::local_training;
use crate::data::protocol::{BrokenPipe, read_frame, write_frame};
use crate::program::die_with_parent;

/// Values come as shares of their range.
const SHARES: Range = Range { low: 0.0, high: 1.0 };

/// The whole life of a compute child, whose parent has the id `parent`, with so many threads for what stays on the processor.
pub(crate) fn compute_child_main(parent: u32, threads: NonZeroUsize) -> ExitCode {
    // A backend's panic is an answer, and its text is anybody's.
    panic::set_hook(Box::new(|_| {}));
    // No core dump: it would hold pictures.
    let no_dump = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if die_with_parent(parent).is_err() || no_dump.is_err() || fix_threads(threads).is_err() {
        return ExitCode::FAILURE;
    }
    let mut output = io::stdout().lock();
    match serve(&mut BufReader::new(io::stdin().lock()), &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Carries out one order.
pub(super) fn serve(input: &mut impl Read, output: &mut impl Write) -> Result<(), BrokenPipe> {
    let report = match read_frame(input)? {
        Some((Order::Probe(choice), _)) => match Device::probe(choice) {
            Ok(device) => Report::Ready { name: device.name().to_owned() },
            Err(error) => Report::Failed(error),
        },
        Some((Order::Train(assignment), study)) => match Device::probe(assignment.choice) {
            Ok(device) => {
                write_frame(output, &Report::Ready { name: device.name().to_owned() }, &[])?;
                match perform(&device, &assignment, &study, input, output)? {
                    Ok(Trained { model, steps, examples, mean_loss }) => {
                        write_pieces(output, &Report::Model, &bytes_of(&model))?;
                        Report::Done { steps, examples, mean_loss }
                    }
                    Err(TrainError::Device(error)) => Report::Failed(error),
                    Err(TrainError::Diverged { step }) => Report::Diverged { step },
                    Err(_) => Report::Unfit,
                }
            }
            Err(error) => Report::Failed(error),
        },
        _ => return Err(BrokenPipe::Nonsense),
    };
    write_frame(output, &report, &[])
}

fn perform(
    device: &Device,
    assignment: &Assignment,
    study: &[u8],
    input: &mut impl Read,
    output: &mut impl Write,
) -> Result<Result<Trained, TrainError>, BrokenPipe> {
    let study = Study::from_canonical(study).map_err(|_| BrokenPipe::Nonsense)?;
    let Rest { start, cases, correction } = read_rest(assignment, input)?;
    let correction = Some(&correction[..]).filter(|correction| !correction.is_empty());
    let task = local_training(&study, &assignment.site, assignment.round, correction);
    Ok(train_on(device, &task, &start, &cases, &mut |at| {
        let told = write_frame(output, &Report::Step { step: at.step, steps: at.steps }, &[]);
        if told.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }))
}

/// The starting model and the cases, and what is added to each gradient; empty for nothing.
struct Rest {
    start: Vec<f32>,
    cases: Dataset,
    correction: Vec<f32>,
}

fn read_rest(assignment: &Assignment, input: &mut impl Read) -> Result<Rest, BrokenPipe> {
    let (mut model, mut pixels, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    let (mut beside, mut correction) = (Vec::new(), Vec::new());
    loop {
        match read_frame(input)?.ok_or(BrokenPipe::Nonsense)? {
            (Order::Model, piece) => model.extend(piece),
            (Order::Pixels, piece) => pixels.extend(piece),
            (Order::Labels, piece) => labels.extend(piece),
            (Order::Beside, piece) => beside.extend(piece),
            (Order::Correction, piece) => correction.extend(piece),
            (Order::Go, _) => break,
            (Order::Probe(_) | Order::Train(_), _) => return Err(BrokenPipe::Nonsense),
        }
    }
    let pixels = if assignment.of_bytes { Pixels::Bytes(pixels) } else { Pixels::Floats(values_of(&pixels)) };
    let of_numbers = |pixels, label: fn(u64) -> Option<Label>| {
        let numbers = labels.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        Dataset::new(assignment.shape, pixels, numbers.map(label).collect::<Option<Vec<Label>>>()?).ok()
    };
    let cases = match assignment.labels {
        Labels::Classes => of_numbers(pixels, |number| u16::try_from(number).ok().map(Label::Class)),
        Labels::Findings => of_numbers(pixels, |number| Some(Label::Findings(number))),
        Labels::Values => {
            of_numbers(pixels, |number| SHARES.measure(f64::from_bits(number)).map(Label::Value))
        }
        Labels::Masks => Dataset::with_masks(assignment.shape, pixels, labels).ok(),
    };
    let cases = cases.filter(|cases| cases.len() as u64 == assignment.cases);
    let columns = assignment.columns as usize;
    let cases = cases.and_then(|cases| cases.beside(columns, values_of(&beside)).ok());
    let cases = cases.ok_or(BrokenPipe::Nonsense)?;
    Ok(Rest { start: values_of(&model), cases, correction: values_of(&correction) })
}
