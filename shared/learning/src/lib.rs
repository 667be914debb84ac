//! Local training: what a site does with a graph, a recipe and its own cases.
//!
//! The graph and the recipe are data (`consilium-study`); this crate interprets them on a CPU, or trains on a GPU where
//! it is built with the feature `wgpu`. A model is a flat `Vec<f32>` in the graph's parameter order everywhere outside this crate, and
//! inside it too, save for the moment of a forward and backward pass: burn's tensors never own it.
//!
//! What must hold: the same study seed, site, round, cases and thread count give the same bytes on
//! one kind of processor; a GPU promises no such thing, and so only training can be asked of one ([`device`]). So every draw comes from [`random`], keyed by what it is for, and no
//! generator of a library is ever asked; sums over threads are taken in a fixed order.

pub mod dataset;
pub mod device;
pub mod initial;
pub mod random;
pub mod score;
pub mod threads;
pub mod train;

mod augment;
mod batch;
mod interpret;
mod loss;
#[cfg(all(test, feature = "wgpu"))]
mod on_a_gpu;
mod operation;
mod optimise;
mod tensors;
#[cfg(test)]
mod testing;

pub use batch::read_epoch;
pub use dataset::{Dataset, InvalidDataset, Pixels};
pub use device::{Device, DeviceChoice, DeviceError};
pub use initial::initial;
pub use random::LocalSeed;
pub use score::{Link, Scores, score, score_each};
pub use threads::{fix_threads, release, threads};
pub use train::{LocalTraining, Progress, TrainError, Trained, train, train_on};

pub use consilium_study::model_file::{ModelFile, ModelFileError, ModelIdentity, Origin};
pub use consilium_study::preprocessing::Preprocessing;
