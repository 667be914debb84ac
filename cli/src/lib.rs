//! `consilium`: the command line of a consortium.

pub mod audit;
#[cfg(feature = "bench")]
pub mod bench;
pub mod consortium;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "predict")]
mod finetune;
#[cfg(feature = "predict")]
mod interval;
#[cfg(feature = "remote")]
pub mod model;
pub mod output;
#[cfg(any(feature = "demo", feature = "simulate"))]
pub mod partition;
#[cfg(feature = "remote")]
pub mod remote;
#[cfg(feature = "simulate")]
pub mod reproduce;
#[cfg(feature = "simulate")]
pub mod simulate;
#[cfg(feature = "remote")]
pub mod site;
#[cfg(feature = "remote")]
pub mod study;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use consilium_study::failure::{leave_when_nobody_reads, report};

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
    #[cfg(feature = "simulate")]
    Compare(reproduce::compare::CompareArgs),
    #[cfg(feature = "simulate")]
    Reproduce(reproduce::ReproduceArgs),
    #[cfg(feature = "bench")]
    Bench(bench::BenchArgs),
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
        #[cfg(feature = "simulate")]
        Command::Compare(args) => reproduce::compare::run(&args, output),
        #[cfg(feature = "simulate")]
        Command::Reproduce(args) => reproduce::run(&args, output),
        #[cfg(feature = "bench")]
        Command::Bench(args) => bench::run(&args, output),
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
        Err(error) => report(error.as_ref(), output.json),
    }
}
