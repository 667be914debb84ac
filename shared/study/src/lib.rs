//! A study is data, not code: what a consortium signs and what a site agrees to.
//!
//! This crate is the floor of the house. It owns the names of things, canonical bytes, hashes and
//! signatures, the study document with its model graph, and the policy a site holds against it.
//! It opens no file and no socket and reads no clock.

pub mod augment;
pub mod canonical;
pub mod check;
pub mod data;
pub mod disclosure;
pub mod document;
pub mod failure;
pub mod fault;
mod file;
pub mod fingerprint;
pub mod forecast;
pub mod graph;
pub mod grouping;
pub mod hash;
pub mod keys;
pub mod layer;
pub mod loss;
pub mod malformed;
pub mod metric;
pub mod model_file;
pub mod name;
pub mod policy;
pub mod preprocessing;
pub mod preset;
pub mod quantity;
pub mod recipe;
pub mod shape;
pub mod sign;
pub mod statement;
pub mod strategy;
pub mod task;
pub mod template;
pub mod treatment;
pub mod weight;
