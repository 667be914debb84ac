//! The ledger: an append-only Merkle log of signed statements, and what an auditor checks in it.
//!
//! Every consequential act in a consortium is a statement signed by who does it, and an entry of one log
//! (RFC 9162). On disk the log is a C2SP tlog-tiles folder, so that tools of others can read it. Whoever
//! holds the consortium's public key can check, offline and without trusting the coordinator, what was
//! trained, by whom and on whose consent: see [`mod@verify`].
//!
//! The coordinator writes the log and could keep a second one. Against that stand the checkpoints that
//! others have seen: two of them that no consistency proof connects are the proof of two logs.
//!
//! The crate opens no files: [`log::Log`] says what to write, and [`reader::LogReader`] reads through
//! [`files::Files`].

mod bundle;
pub mod card;
pub mod checkpoint;
mod describe;
pub mod entry;
pub mod files;
pub mod log;
#[cfg(test)]
mod memory;
pub mod parts;
pub mod path;
pub mod reader;
pub mod record;
pub mod report;
pub mod statement;
pub mod tree;
pub mod verify;

pub use checkpoint::Checkpoint;
pub use entry::{Entry, Kind};
pub use files::{Blobs, Files};
pub use log::{Appended, Log, Step};
pub use reader::LogReader;
pub use record::{Record, Sealed};
pub use report::Report;
pub use verify::verify;
