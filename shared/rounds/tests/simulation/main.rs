//! Whole studies over the real machines: a bad network, dying processes, and the rules of a study.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

mod candidates;
mod groups;
mod hostile_bytes;
mod lost;
mod network;
mod packed;
mod parts;
mod rules;
mod scenario;
mod sim;
mod treatments;
mod variates;
