//! What the vault and its compute child say to each other, in the frames of [`crate::data::protocol`].

use std::io::Write;

use consilium_learning::{DeviceChoice, DeviceError};
use consilium_secagg::numbering::RoundNumber;
use consilium_study::canonical::Canonical;
use consilium_study::name::SiteName;
use minicbor::{Decode, Encode};

use crate::data::protocol::{BrokenPipe, LONGEST_BODY, write_frame};

/// From the vault. Models, pixels and labels come in pieces, all of one kind before the next.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Order {
    /// Look for a device and say its name; no body.
    #[n(0)]
    Probe(#[n(0)] DeviceChoice),
    /// Prepare for a training; the body is the study.
    #[n(1)]
    Train(#[n(0)] Assignment),
    /// Of the starting model: `f32`, little endian.
    #[n(2)]
    Model,
    /// Of the pictures: bytes, or `f32`, little endian.
    #[n(3)]
    Pixels,
    /// Of the labels: `u64`, little endian; or bytes of masks.
    #[n(4)]
    Labels,
    /// That was all: train; no body.
    #[n(5)]
    Go,
    /// Of what is added to each gradient: `f32`, little endian. None where nothing is.
    #[n(6)]
    Correction,
    /// Of the numbers beside pictures: `f32`, little endian. None where there are none.
    #[n(7)]
    Beside,
}

/// What a training follows from, beside the study, the model and the cases themselves.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Assignment {
    #[n(0)]
    pub(super) choice: DeviceChoice,
    #[n(1)]
    pub(super) site: SiteName,
    #[n(2)]
    pub(super) round: RoundNumber,
    /// Of each case: channels or slices, height, width.
    #[n(3)]
    pub(super) shape: [u32; 3],
    #[n(4)]
    pub(super) cases: u64,
    /// Whether pixels are bytes.
    #[n(5)]
    pub(super) of_bytes: bool,
    /// What labels are.
    #[n(6)]
    pub(super) labels: Labels,
    /// Numbers beside each case.
    #[n(7)]
    pub(super) columns: u32,
}

/// What the numbers of labels mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Labels {
    /// The place of a class.
    #[n(0)]
    Classes,
    /// A set of findings.
    #[n(1)]
    Findings,
    /// A share of the range, the bits of an `f64`.
    #[n(2)]
    Values,
    /// None for the case, but a byte for each pixel: its class.
    #[n(3)]
    Masks,
}

/// From the child.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) enum Report {
    /// The device computes.
    #[n(0)]
    Ready {
        /// What it calls itself.
        #[n(0)]
        name: String,
    },
    /// Training goes on.
    #[n(1)]
    Step {
        /// Steps done.
        #[n(0)]
        step: u64,
        /// Steps in all.
        #[n(1)]
        steps: u64,
    },
    /// A piece of the trained model: `f32`, little endian.
    #[n(2)]
    Model,
    /// The model is complete.
    #[n(3)]
    Done {
        /// Steps made.
        #[n(0)]
        steps: u64,
        /// Cases passed through.
        #[n(1)]
        examples: u64,
        /// Mean training loss.
        #[n(2)]
        mean_loss: f64,
    },
    /// The device cannot be used, or not any more.
    #[n(4)]
    Failed(#[n(0)] DeviceError),
    /// The numbers stopped being finite.
    #[n(5)]
    Diverged {
        /// The step, from 1.
        #[n(0)]
        step: u64,
    },
    /// What was sent is no training.
    #[n(6)]
    Unfit,
}

/// Writes `bytes` in as many frames as they need, none if there are none.
pub(super) fn write_pieces<H: Canonical>(
    to: &mut impl Write,
    header: &H,
    bytes: &[u8],
) -> Result<(), BrokenPipe> {
    bytes.chunks(LONGEST_BODY as usize).try_for_each(|piece| write_frame(to, header, piece))
}

/// `f32`, little endian.
pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The inverse of [`bytes_of`]; bytes left over are no value.
pub(super) fn values_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
