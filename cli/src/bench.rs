//! `consilium bench`: what the expensive parts cost on this machine, beside the floors that no program gets below.

mod secagg;

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
}

/// Measures.
pub fn run(args: &BenchArgs, output: Output) -> anyhow::Result<()> {
    match &args.what {
        What::Secagg(args) => secagg::run(args, output),
    }
}
