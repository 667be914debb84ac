//! Summable metrics: what a site counts over its cases, and what the federation reads from the sum.
//!
//! A site never sends a figure. It adds integers (a score histogram per class, a confusion matrix, losses in
//! fixed point) to the tail of its masked vector; only the sum over the survivors is opened, and every figure
//! is derived from that. So the AUROC of the federation is the AUROC of all its held-out cases together, with
//! scores in bins and ties counted half (Hanley and McNeil 1982), and nobody's own figure exists outside its
//! hospital.
//!
//! [`exact`] has the same figures from the scores themselves, for the tables that `demo` and `simulate` print.

mod areas;
mod counts;
pub mod exact;
mod figures;
mod interval;
mod labelled;
mod sampled;
mod shape;
mod temperature;
mod train;
mod values;
mod wide;

pub use counts::{EvaluationCounts, MalformedCounts, Truth, loss};
pub use figures::Figures;
pub use interval::{Interval, Intervals};
pub use shape::{EvaluationShape, InvalidShape};
pub use train::{TrainCounts, TrainFigures};
pub use wide::Wide;

/// Losses are clipped here (nats), so that one absurd case cannot outweigh a hospital.
pub const LOSS_CLIP: f64 = 16.0;

/// Fixed-point steps per unit.
pub(crate) const UNIT: f64 = 65_536.0;

/// A loss between 0 and [`LOSS_CLIP`]. What is not a number costs the most.
pub(crate) fn clipped(loss: f64) -> f64 {
    if loss.is_nan() { LOSS_CLIP } else { loss.clamp(0.0, LOSS_CLIP) }
}

/// A loss, clipped, in fixed point.
pub(crate) fn fixed(loss: f64) -> u64 {
    (clipped(loss) * UNIT).round() as u64
}

#[cfg(test)]
mod tests;
