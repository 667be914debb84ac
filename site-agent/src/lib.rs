//! The agent of one site: the only part of Consilium that runs inside a hospital.
//!
//! Three processes with the kernel between them, and a fourth while a GPU trains. [`supervise`] starts them and carries frames; the
//! [`vault`] sees patients, holds the keys, decides and has no socket; the [`relay`] has the network
//! and nothing else. Whatever they say to each other is in [`pipe::message`].

pub mod cli;
pub mod command;
pub mod config;
pub mod contribution;
pub mod data;
pub mod enrol;
pub mod folder;
mod gpu;
pub mod journal;
pub mod logging;
pub mod pipe;
pub mod program;
pub mod relay;
pub mod status;
pub mod store;
pub mod supervise;
pub mod vault;

pub use cli::{Cli, main, run};
