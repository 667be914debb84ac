//! What the decode child and its parent say to each other: frames of a short header and a long body.
//!
//! A frame is the header's length and the body's length as little-endian `u32`, the header in canonical
//! CBOR, and the body. Neither side allocates by a length it was told: lengths above the limits end the
//! conversation, and a body grows as its bytes arrive.

use std::io::{self, Read, Write};

use consilium_study::canonical::Canonical;
use minicbor::{Decode, Encode};

use super::display::Shading;
use super::local::Patient;
use super::nifti;
use super::raster;
use super::reason::Reason;
use super::source::Target;

/// Longest header.
pub const LONGEST_HEADER: u32 = 4096;
/// Longest body: a file to decode, the values of a picture, or a batch from an archive.
pub const LONGEST_BODY: u32 = 64 << 20;

/// What a file is expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Format {
    /// DICOM.
    #[n(0)]
    Dicom,
    /// PNG or JPEG.
    #[n(1)]
    Raster,
    /// The mask of a picture, in PNG: its values come divided by 255, one plane whatever the channels of the target.
    #[n(2)]
    Mask,
    /// NIfTI, plain or gzipped, for a target with a depth.
    #[n(3)]
    Nifti,
}

impl Format {
    /// Whether these are the first bytes, at least 132 of them, of a file of this format.
    pub fn begins(self, start: &[u8]) -> bool {
        match self {
            Self::Dicom => start.get(128..132) == Some(b"DICM"),
            Self::Raster => raster::looks_like_one(start),
            Self::Mask => start.starts_with(raster::PNG),
            Self::Nifti => nifti::looks_like_one(start),
        }
    }

    /// Number of values that a file of this format becomes.
    pub fn values(self, target: Target) -> usize {
        match self {
            Self::Dicom | Self::Raster | Self::Nifti => target.values(),
            Self::Mask => target.height() * target.width(),
        }
    }
}

/// Asks for one file; the body is the file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Request {
    /// What it should be.
    #[n(0)]
    pub format: Format,
    /// The size wanted.
    #[n(1)]
    pub target: Target,
}

/// What was seen of a file, for the hospital's own screen.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Facts {
    /// `PNG`, `JPEG`, `NIfTI-1` or the name of the transfer syntax.
    #[n(0)]
    pub format: String,
    /// Rows as stored.
    #[n(1)]
    pub rows: u32,
    /// Columns as stored.
    #[n(2)]
    pub columns: u32,
    /// Bits per sample that mean something.
    #[n(3)]
    pub bits: u16,
    /// Where black and white came from.
    #[n(4)]
    pub shading: Shading,
    /// Whether the header changed the orientation.
    #[n(5)]
    pub turned: bool,
    /// The patient, if the file names one.
    #[n(6)]
    pub patient: Option<Patient>,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// Decoded; the body holds `f32`, little endian, shape of the target, or of its one plane for a mask.
    #[n(0)]
    Picture(#[n(0)] Facts),
    /// Not decoded, and why; no body.
    #[n(1)]
    Refused(#[n(0)] Reason),
}

/// Which part of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Part {
    /// `train_images`, and `train_labels` or `train_masks`.
    #[n(0)]
    Train,
    /// `val_images`, and `val_labels` or `val_masks`.
    #[n(1)]
    Val,
}

/// Why an archive is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[cbor(index_only)]
pub enum ArchiveDefect {
    /// Not a zip file, or a damaged one.
    #[n(0)]
    #[error("it is not a readable zip file")]
    NotAnArchive,
    /// There is no `train_images`, or no labels or masks beside some images, or these without images.
    #[n(1)]
    #[error(
        "it lacks train_images, or train_labels (or train_masks), or one of val_images and val_labels (or val_masks)"
    )]
    MissingArray,
    /// An array is compressed with something else than deflate.
    #[n(2)]
    #[error("an array in it is neither stored nor deflated")]
    Compression,
    /// An array is no `.npy` file, or ends too early.
    #[n(3)]
    #[error("an array in it is damaged or ends too early")]
    DamagedArray,
    /// Images are not bytes of shape `[n, height, width]`, `[n, height, width, 3]` or `[n, depth, height, width]`.
    #[n(4)]
    #[error(
        "its images are not bytes of shape [n, height, width], [n, height, width, 3] or, for volumes, [n, depth, height, width]"
    )]
    ImageShape,
    /// Labels are not whole numbers of shape `[n]`, `[n, 1]` or `[n, labels]`, each below 65536, for at most 64 labels.
    #[n(5)]
    #[error("its labels are not whole numbers of shape [n], [n, 1] or [n, labels], as many as images")]
    LabelShape,
    /// More pictures, or larger ones, than are read.
    #[n(6)]
    #[error(
        "it has more than 16 million pictures or numbers in labels, or larger pictures than 4096 x 4096, or volumes of more than 50 million values"
    )]
    TooLarge,
    /// The decoder died or fell silent.
    #[n(7)]
    #[error("the decoder failed on it")]
    DecoderFailed,
    /// One number per image for a study of findings, several for one of classes, or no masks for one of pixels.
    #[n(8)]
    #[error(
        "it has another kind of labels than the study: one number per image is a class, and a 0 or 1 for each label is a \
         set of findings (task = \"multi-label\"); masks are of task = \"segmentation\""
    )]
    OtherTask,
    /// Masks are not bytes of shape `[n, height, width]`, as many and as large as the images.
    #[n(9)]
    #[error("its masks are not bytes of shape [n, height, width], as many and as large as its images")]
    MaskShape,
    /// Pictures for a study of volumes, or the other way round.
    #[n(10)]
    #[error(
        "its images have the shape [n, height, width] and the study is about volumes, or [n, depth, height, width] and the \
         study is about pictures"
    )]
    OtherCases,
    /// An archive for a study with a window.
    #[n(11)]
    #[error("the study's window is in the unit of a scanner's values, and an archive has bytes")]
    NoUnit,
}

/// A piece of an archive on its way to the parent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ArchivePiece {
    /// A part begins; no body.
    #[n(0)]
    Begin {
        /// Which part.
        #[n(0)]
        part: Part,
        /// Rows of each picture.
        #[n(1)]
        height: u32,
        /// Columns of each picture.
        #[n(2)]
        width: u32,
        /// Channels of each picture: 1 or 3.
        #[n(3)]
        channels: u32,
        /// Numbers in the label of each picture.
        #[n(4)]
        numbers: u32,
        /// Whether each picture has a mask.
        #[n(5)]
        masks: bool,
        /// Slices of each, where it is a volume.
        #[n(6)]
        depth: Option<u32>,
    },
    /// Pictures of the part: the body is for each of them the numbers of its label (`u16`, little endian), its
    /// bytes, shape `[height, width, channels]` or `[depth, height, width]`, and those of its mask, shape `[height, width]`, if there are masks.
    #[n(1)]
    Cases,
    /// The archive has been read; no body.
    #[n(2)]
    End,
    /// It cannot be read; no body.
    #[n(3)]
    Refused(#[n(0)] ArchiveDefect),
}

/// A conversation that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BrokenPipe {
    /// The other side is gone.
    #[error("the other side closed the pipe")]
    Closed(#[from] io::Error),
    /// The other side sent something that is no frame.
    #[error("the other side sent something that is no frame")]
    Nonsense,
}

/// Writes one frame.
pub fn write_frame<H: Canonical>(to: &mut impl Write, header: &H, body: &[u8]) -> Result<(), BrokenPipe> {
    let header = header.to_canonical();
    let lengths = (u32::try_from(header.len()), u32::try_from(body.len()));
    let (Ok(header_length @ ..=LONGEST_HEADER), Ok(body_length @ ..=LONGEST_BODY)) = lengths else {
        return Err(BrokenPipe::Nonsense);
    };
    to.write_all(&header_length.to_le_bytes())?;
    to.write_all(&body_length.to_le_bytes())?;
    to.write_all(&header)?;
    to.write_all(body)?;
    Ok(to.flush()?)
}

/// Reads one frame. `None` if the other side closed the pipe between frames.
pub fn read_frame<H: Canonical>(from: &mut impl Read) -> Result<Option<(H, Vec<u8>)>, BrokenPipe> {
    let mut header_length = [0; 4];
    if from.read(&mut header_length[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header_length[1..])?;
    let mut body_length = [0; 4];
    from.read_exact(&mut body_length)?;
    let (header_length, body_length) = (u32::from_le_bytes(header_length), u32::from_le_bytes(body_length));
    if header_length > LONGEST_HEADER || body_length > LONGEST_BODY {
        return Err(BrokenPipe::Nonsense);
    }
    let header = read_up_to(from, header_length)?;
    let header = H::from_canonical(&header).map_err(|_| BrokenPipe::Nonsense)?;
    Ok(Some((header, read_up_to(from, body_length)?)))
}

fn read_up_to(from: &mut impl Read, length: u32) -> Result<Vec<u8>, BrokenPipe> {
    let mut bytes = Vec::new();
    from.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() == length as usize {
        Ok(bytes)
    } else {
        Err(BrokenPipe::Closed(io::ErrorKind::UnexpectedEof.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_survives_the_pipe() {
        let request = Request { format: Format::Dicom, target: Target::new(1, 28, 28).unwrap() };
        let mut pipe = Vec::new();
        write_frame(&mut pipe, &request, b"file").unwrap();
        let mut from = &pipe[..];
        assert_eq!(read_frame::<Request>(&mut from).unwrap(), Some((request, b"file".to_vec())));
        assert!(read_frame::<Request>(&mut from).unwrap().is_none());
        assert!(read_frame::<Request>(&mut &pipe[..pipe.len() - 1]).is_err());
    }

    #[test]
    fn a_frame_that_declares_too_much_is_refused() {
        let mut pipe = 4_u32.to_le_bytes().to_vec();
        pipe.extend(u32::MAX.to_le_bytes());
        assert!(matches!(read_frame::<Request>(&mut &pipe[..]), Err(BrokenPipe::Nonsense)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_frame::<Answer>(&mut &bytes[..]);
        }
    }
}
