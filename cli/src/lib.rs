//! `consilium`: the command line of a consortium.

pub mod audit;
pub mod consortium;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "remote")]
pub mod model;
pub mod output;
#[cfg(any(feature = "demo", feature = "simulate"))]
pub mod partition;
#[cfg(feature = "remote")]
pub mod remote;
#[cfg(feature = "simulate")]
pub mod simulate;
#[cfg(feature = "remote")]
pub mod site;
#[cfg(feature = "remote")]
pub mod study;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::Output;

/// Hospitals train one imaging model together. No image leaves a hospital, nobody ever sees a single hospital's
/// update, and every round can be proved afterwards.
#[derive(Debug, Parser)]
#[command(name = "consilium", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    #[cfg(feature = "simulate")]
    Simulate(simulate::SimulateArgs),
    Init(consortium::init::InitArgs),
    #[cfg(feature = "remote")]
    Site(site::SiteArgs),
    #[cfg(feature = "remote")]
    Study(study::StudyArgs),
    #[cfg(feature = "remote")]
    Model(model::ModelArgs),
    Audit(audit::AuditArgs),
    /// A part of the running demo.
    #[cfg(feature = "demo")]
    #[command(hide = true, name = demo::process::PART)]
    Part {
        /// Process id of the demo.
        parent: String,
        #[command(subcommand)]
        part: demo::process::Role,
    },
}

/// Runs the command line and says how it went.
pub fn main() -> ExitCode {
    leave_when_nobody_reads();
    let Cli { output, command } = Cli::parse();
    let outcome = match command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args, output),
        #[cfg(feature = "demo")]
        Command::Part { parent, part } => return part.play(&parent),
        #[cfg(feature = "simulate")]
        Command::Simulate(args) => simulate::run(&args, output),
        Command::Init(args) => consortium::init::run(&args, output),
        #[cfg(feature = "remote")]
        Command::Site(args) => site::run(args, output),
        #[cfg(feature = "remote")]
        Command::Study(args) => study::run(args, output),
        #[cfg(feature = "remote")]
        Command::Model(args) => model::run(args, output),
        Command::Audit(args) => audit::run(&args, output),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if nobody_reads(&error) => ExitCode::from(NOBODY_READS),
        Err(error) => {
            output.fail(&error);
            ExitCode::FAILURE
        }
    }
}

/// What a shell shows for a program that was ended because its reader had gone.
const NOBODY_READS: u8 = 141;

fn nobody_reads(error: &anyhow::Error) -> bool {
    let output = error.downcast_ref::<std::io::Error>();
    output.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// `consilium … | head`: whoever has read enough gets no complaint, and no success either.
fn leave_when_nobody_reads() {
    let complain = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(NOBODY_READS.into());
        }
        complain(panic);
    }));
}
