//! `consilium audit`: what a ledger proves, checked offline with the consortium's public key and nothing else.
//!
//! A folder is what `demo --keep` leaves or what a coordinator's operator hands over:
//!
//! | file | what |
//! | --- | --- |
//! | `consortium/consortium.pub` (or `consortium.pub`) | name and public key of the consortium |
//! | `ledger/` | the log, a C2SP tlog-tiles folder |
//! | `coordinator/data/blobs/` (or `coordinator/blobs/`, `blobs/`) | long statements and models by their hashes, cards beside released models |
//! | `models/` | released models, if any |
//!
//! The key in such a folder proves that the folder agrees with itself. Whoever needs more brings the key along
//! (`--key`) or compares its fingerprint.

mod folder;
mod listing;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::output::Output;

/// Check what was trained, by whom and on whose consent, offline and with public keys only
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the whole ledger and tell what it proves
    Verify {
        /// Folder that `demo --keep` left, or a bundle handed over
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The consortium.pub that you were given by other means, instead of the one in the folder
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// List the entries of the ledger
    Log {
        /// Folder that `demo --keep` left, or a bundle handed over
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Show one entry of the ledger, with the proof that it is there
    Show {
        /// Folder that `demo --keep` left, or a bundle handed over
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Number of the entry, counted from 0
        #[arg(value_name = "N")]
        entry: u64,
    },
}

/// Runs the command.
pub fn run(args: &AuditArgs, output: Output) -> anyhow::Result<()> {
    match &args.command {
        Command::Verify { folder, key } => verify::run(folder, key.as_deref(), output),
        Command::Log { folder } => listing::log(folder, output),
        Command::Show { folder, entry } => listing::show(folder, *entry, output),
    }
}

#[cfg(test)]
mod tests;
