//! From a hospital's files to the pictures a model sees.
//!
//! One loader brings MedMNIST archives, image folders, DICOM folders and NIfTI volumes to the same thing: a tensor
//! `[channels, height, width]`, or `[depth, height, width]`, of `f32` between 0 and 1, in one orientation, at the study's size.
//! What it does to a picture is written in [`picture`] (cropping, resampling, colour), [`display`]
//! (DICOM values to shades of grey) and [`orientation`], what it does to a volume in [`nifti`].
//!
//! Files are hostile until decoded: `dicom-parser` allocates what a file *declares*, so a file of
//! 674 bytes can ask for gigabytes. No decoder of foreign formats therefore runs in the process that holds
//! keys. [`decoder::Decoder`] hands bytes (or, for an archive, an open descriptor) to a child
//! ([`child::decode_child_main`]) that limits its own memory, has no keys, opens nothing, and is
//! killed after two seconds with one file. What cannot be used is set aside with a [`reason::Reason`]
//! and counted per stage; nothing is lost without a trace and nothing unusable stops the rest.
//!
//! Patients, paths and labels of single files are for the hospital's own screen. The types that hold
//! them cannot be formatted; only [`report`] turns them into text.

pub mod access;
pub mod alone;
mod archive;
pub mod cache;
pub mod child;
pub mod codestream;
pub mod cohort;
pub mod counts;
pub mod decoder;
pub mod dicom;
pub mod display;
mod files;
pub mod folder;
#[cfg(test)]
mod hostile_bytes;
pub mod local;
pub mod mask;
pub mod nifti;
pub mod npz;
pub mod orientation;
pub mod picture;
pub mod protocol;
pub mod raster;
pub mod reason;
pub mod report;
mod rows;
pub mod source;
pub mod split;
pub mod syntax;
pub mod table;
pub mod walk;

pub use cache::{Cache, Room};
pub use child::decode_child_main;
pub use cohort::{Cohort, LoadError, Progress, load};
pub use counts::Counts;
pub use decoder::Decoder;
pub use source::{Case, Criteria, Source, Target};
pub use split::SplitKey;
