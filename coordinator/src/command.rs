//! The command line of the coordinator.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use consilium_identity::address::Address;
use consilium_memory::{Freed, settle};
use consilium_study::failure::{leave_when_nobody_reads, report};
use serde_json::json;

use crate::config::Config;
use crate::hub::{Checked, Hub};
use crate::init;
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
    /// Make this coordinator's keys, which never leave this machine, and a request for the operator
    Init {
        /// Folder to make
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Where sites will reach this coordinator, for example coordinator.example.org:443
        #[arg(long, value_name = "HOST:PORT")]
        address: Address,
    },
    /// Take up the operator's answer to the request
    Install {
        /// The answer: `consortium/coordinator.commission` in the folder that `consilium init` made
        #[arg(value_name = "FILE")]
        commission: PathBuf,
        /// Configuration that `coordinator init` made
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Fingerprint of the consortium that `consilium init` has shown the operator; without it the terminal is asked
        #[arg(long, value_name = "TEXT")]
        fingerprint: Option<String>,
    },
    /// Serve sites and operators until told to stop; prints one line of JSON when ready
    Serve {
        /// Configuration that `coordinator init` or `consilium init` made
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration, the identity folder and the ledger; changes nothing
    CheckConfig {
        /// Configuration that `coordinator init` or `consilium init` made
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Runs the command line and says how it went.
pub fn main() -> ExitCode {
    leave_when_nobody_reads();
    run(Cli::parse())
}

/// Runs a parsed command line.
pub fn run(cli: Cli) -> ExitCode {
    let Cli { json, command } = cli;
    settle(Freed::GoesBack);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            match command {
                Command::Serve { config } => Box::pin(serve(&config)).await,
                Command::CheckConfig { config } => check(&config, json),
                Command::Init { folder, address } => make(&folder, &address, json),
                Command::Install { commission, config, fingerprint } => {
                    install(&commission, &config, fingerprint.as_deref(), json)
                }
            }
        });
        // A job that sums when the coordinator is told to stop is done again at the next start.
        runtime.shutdown_background();
        outcome
    });
    outcome.map_or_else(|error| report(error.as_ref(), json), |()| ExitCode::SUCCESS)
}

fn make(folder: &Path, address: &Address, json: bool) -> anyhow::Result<()> {
    let made = init::init(folder, address)?;
    if json {
        println!("{}", serde_json::to_string(&made)?);
        return Ok(());
    }
    println!(
        "{done} in {folder}; they stay here.\n\
         \n  fingerprint  {fingerprint}   (the operator compares this)\n\
         \nSend {request} to the operator, who types:\n\
         \n  consilium init DIR --name NAME --request {file}\n\
         \nand sends the answer back. Then, here:\n\
         \n  coordinator install coordinator.commission --config {config}\n  coordinator serve --config {config}",
        done = if made.new {
            "Made this coordinator's keys"
        } else {
            "This coordinator's keys were made before"
        },
        folder = folder.display(),
        fingerprint = made.fingerprint,
        request = made.request.display(),
        file = made.request.file_name().unwrap_or_default().display(),
        config = made.config.display(),
    );
    Ok(())
}

fn install(commission: &Path, config: &Path, fingerprint: Option<&str>, json: bool) -> anyhow::Result<()> {
    let installed = init::install(commission, config, fingerprint)?;
    if json {
        println!("{}", serde_json::to_string(&installed)?);
    } else {
        println!(
            "This coordinator serves the consortium {}.\n\
             \n  fingerprint  {}   (every hospital compares this)\n\
             \nStart it: coordinator serve --config {}",
            installed.consortium,
            installed.fingerprint,
            config.display()
        );
    }
    Ok(())
}

fn check(path: &Path, json: bool) -> anyhow::Result<()> {
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
