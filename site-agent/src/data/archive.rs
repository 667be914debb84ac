//! Cohorts from a MedMNIST archive.
//!
//! An archive names no patients, so each picture is its own (see [`super::counts::Counts`]). Its `val` part is
//! held out; without one, pictures are split by their content. It is one file of plain pixels and
//! is not kept in the cache.

use std::path::Path;

use consilium_study::hash::Hash;
use consilium_study::task::Label;

use super::access::open_file;
use super::cohort::{Assembly, Cohort, LoadError, Quarantined};
use super::counts::Stage;
use super::decoder::Decoder;
use super::local::{LocalPath, LocalText};
use super::mask::{self, Mask};
use super::picture::{Picture, over_depth};
use super::protocol::{ArchiveDefect, ArchivePiece, LONGEST_BODY, Part};
use super::reason::Reason;
use super::source::{Criteria, Target};
use super::split::{Side, SplitKey, Subject};

/// A part that has begun, and how many pictures of it have come.
struct Begun {
    part: Part,
    height: usize,
    width: usize,
    channels: usize,
    /// Slices of a volume.
    depth: Option<usize>,
    /// Numbers in a label.
    numbers: usize,
    /// Whether pictures have masks.
    masks: bool,
    pictures: u64,
}

struct Case {
    part: Part,
    label: Label,
    content: Hash,
    values: Vec<f32>,
    mask: Vec<u8>,
}

pub(super) fn load(
    file: &Path,
    target: Target,
    criteria: &Criteria,
    key: &SplitKey,
    decoder: &mut Decoder,
) -> Result<Cohort, LoadError> {
    let archive = open_file(file).map_err(LoadError::ArchiveFile)?;
    let mut assembly = Assembly::new(target.shape(), 0);
    let (mut cases, mut quarantine) = (Vec::new(), Vec::new());
    let mut begun: Option<Begun> = None;
    decoder.read_archive(archive, &mut |piece, body| match piece {
        ArchivePiece::Begin { part, height, width, channels, numbers, masks, depth: slices } => {
            let (height, width, channels) = (height as usize, width as usize, channels as usize);
            let (numbers, slices) = (numbers as usize, slices.map(|slices| slices as usize));
            begun = Some(Begun { part, height, width, channels, depth: slices, numbers, masks, pictures: 0 });
            // What a child says is believed as little as a file.
            let sides = [slices.unwrap_or(1), height, width, channels];
            let size = sides.into_iter().try_fold(1_usize, usize::checked_mul);
            if size.is_none_or(|size| !(1..=LONGEST_BODY as usize).contains(&size)) {
                return Err(ArchiveDefect::DecoderFailed);
            }
            if slices.is_some() != target.depth().is_some() {
                return Err(ArchiveDefect::OtherCases);
            }
            if target.window().is_some() {
                return Err(ArchiveDefect::NoUnit);
            }
            let is_of_task = criteria.numbers_in_label().map_or(masks, |wanted| wanted == numbers);
            if is_of_task { Ok(()) } else { Err(ArchiveDefect::OtherTask) }
        }
        ArchivePiece::Cases => {
            let begun = begun.as_mut().ok_or(ArchiveDefect::DecoderFailed)?;
            let size = begun.depth.unwrap_or(1) * begun.height * begun.width * begun.channels;
            let places = if begun.masks { begun.height * begun.width } else { 0 };
            let mut records = body.chunks_exact(2 * begun.numbers + size + places);
            for record in records.by_ref() {
                let (label, pixels) = record.split_at(2 * begun.numbers);
                let (pixels, mask) = pixels.split_at(size);
                let numbers: Vec<u16> =
                    label.as_chunks::<2>().0.iter().copied().map(u16::from_le_bytes).collect();
                let mask = if criteria.task.is_dense() {
                    let mask = Mask::new(begun.height, begun.width, mask.to_vec());
                    let mask = mask.ok_or(ArchiveDefect::DecoderFailed)?;
                    mask::classes(mask.fitted(target), criteria.labels.len()).ok_or(Reason::MaskClass)
                } else {
                    Ok(Vec::new())
                };
                let label = criteria.label_of_numbers(&numbers).ok_or(criteria.unlabelled());
                match label.and_then(|label| Ok((label, mask?))) {
                    Ok((label, mask)) => {
                        let values = match begun.depth {
                            None => picture(begun, pixels)?.fitted(target),
                            Some(depth) => volume(begun, depth, pixels, target)?,
                        };
                        let content = Hash::of_bytes(pixels);
                        cases.push(Case { part: begun.part, label, content, values, mask });
                    }
                    Err(reason) => {
                        assembly.counts.note(Stage::Decoded);
                        quarantine.push(unlabelled(begun, reason, &numbers));
                    }
                }
                begun.pictures += 1;
            }
            if records.remainder().is_empty() { Ok(()) } else { Err(ArchiveDefect::DecoderFailed) }
        }
        ArchivePiece::End | ArchivePiece::Refused(_) => Err(ArchiveDefect::DecoderFailed),
    })?;
    let has_val = cases.iter().any(|case| case.part == Part::Val);
    for case in &cases {
        let side = match case.part {
            Part::Val => Side::HeldOut,
            Part::Train if has_val => Side::Train,
            Part::Train => key.side(Subject::Unnamed(&case.content), criteria.holdout),
        };
        assembly.add(side, case.label, None, (&case.values, &[]), &case.mask);
    }
    Ok(assembly.finish(None, Vec::new(), quarantine))
}

/// Bytes of shape `[height, width, channels]` as a picture.
fn picture(begun: &Begun, bytes: &[u8]) -> Result<Picture, ArchiveDefect> {
    let mut values = Vec::with_capacity(bytes.len());
    for channel in 0..begun.channels {
        let samples = bytes.iter().skip(channel).step_by(begun.channels);
        values.extend(samples.map(|&sample| f32::from(sample) / 255.0));
    }
    Picture::new(begun.channels, begun.height, begun.width, values).ok_or(ArchiveDefect::DecoderFailed)
}

/// Bytes of shape `[depth, height, width]` as a volume of a study's size.
fn volume(begun: &Begun, depth: usize, bytes: &[u8], target: Target) -> Result<Vec<f32>, ArchiveDefect> {
    let size = begun.height * begun.width;
    let slice = |index: usize| {
        let values = bytes[index * size..][..size].iter().map(|&sample| f32::from(sample) / 255.0).collect();
        Picture::new(1, begun.height, begun.width, values).ok_or(ArchiveDefect::DecoderFailed)
    };
    over_depth(depth, target, |index| slice(index).map(|slice| slice.fitted(target)))
}

fn unlabelled(begun: &Begun, reason: Reason, numbers: &[u16]) -> Quarantined {
    let part = match begun.part {
        Part::Train => "train",
        Part::Val => "val",
    };
    Quarantined {
        path: LocalPath::new(format!("{part}_images[{}]", begun.pictures)),
        line: None,
        column: None,
        reached: Stage::Decoded,
        written: (reason != Reason::MaskClass)
            .then(|| LocalText::new(numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(" "))),
        reason,
    }
}
