//! The coordinator: schedules rounds, collects masked updates and opens their sum.
//!
//! Trusted for liveness, never with an individual update. The round engine is pure and lives in
//! `consilium-rounds`; here are the shells around it: the [`listener`], the [`service`]s, one task for each
//! [`study`], and the stores. Everything is written before it is said.

mod attend;
pub mod blobs;
pub mod certificate;
pub mod command;
pub mod config;
pub mod durable;
pub mod hub;
pub mod identity;
pub mod init;
pub mod ledger;
pub mod listener;
pub mod parts;
pub mod presence;
pub mod release;
pub mod serve;
pub mod service;
pub mod store;
pub mod study;
mod sum;
pub mod telemetry;
pub mod uploads;
