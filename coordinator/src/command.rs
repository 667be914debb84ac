//! The command line of the coordinator.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use consilium_study::failure::in_words;
use serde_json::json;

use crate::config::Config;
use crate::hub::{Checked, Hub};
use crate::serve::serve;

/// Runs rounds: selects sites, collects masked updates, opens their sum, and never sees a single update.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version)]
pub struct Cli {
    /// Print JSON, with stable keys; an error is `{"error": …}` on standard error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve sites and operators until told to stop; prints one line of JSON when ready
    Serve {
        /// Configuration that `consilium init` made
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration, the identity folder and the ledger; changes nothing
    CheckConfig {
        /// Configuration that `consilium init` made
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Runs the command line and says how it went.
pub fn main() -> ExitCode {
    run(Cli::parse())
}

/// Runs a parsed command line.
pub fn run(cli: Cli) -> ExitCode {
    let Cli { json, command } = cli;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            match command {
                Command::Serve { config } => Box::pin(serve(&config)).await,
                Command::CheckConfig { config } => check(&config, json),
            }
        });
        // A job that sums when the coordinator is told to stop is done again at the next start.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if json => {
            eprintln!("{}", json!({ "error": in_words(error.as_ref()) }));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {}", in_words(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn check(path: &std::path::Path, json: bool) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let Checked { consortium, entries } = Hub::check(&config)?;
    if json {
        println!("{}", json!({ "ok": true, "consortium": consortium, "ledger_entries": entries }));
    } else {
        println!(
            "{} is valid: consortium {consortium}, {entries} {} in the ledger",
            path.display(),
            if entries == 1 { "entry" } else { "entries" }
        );
    }
    Ok(())
}
