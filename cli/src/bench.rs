//! `consilium bench`: what the expensive parts cost on this machine, beside the floors that no program gets below.

mod memory;
mod secagg;
mod train;

use crate::output::Output;

/// Measure this machine: what the expensive parts cost here, beside what they cannot cost less than
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    Secagg(secagg::SecaggArgs),
    Train(train::TrainArgs),
    /// One measurement of `train`, in a process of its own
    #[command(hide = true)]
    TrainCase(train::Case),
    /// An end of the transport of `secagg`, in a process of its own
    #[command(hide = true)]
    TransportEnd {
        /// Which end
        end: secagg::transport::End,
    },
}

/// Measures.
pub fn run(args: &BenchArgs, output: Output) -> anyhow::Result<()> {
    match &args.what {
        What::Secagg(args) => secagg::run(args, output),
        What::Train(args) => train::run(args, output),
        What::TrainCase(case) => train::run_case(case),
        What::TransportEnd { end } => secagg::transport::run_end(*end),
    }
}
