//! MedMNIST archives (Yang et al. 2023): a zip file of NumPy arrays. Runs in the decode child.
//!
//! `train_images` and `val_images` are bytes `[n, height, width]` or `[n, height, width, 3]`, or `[n, depth, height, width]`
//! where cases are volumes (an array with a last side of 3 is one of pictures), with labels
//! `[n]` or `[n, 1]`, or `[n, labels]` with a 0 or 1 for each; or `train_masks` and `val_masks` are bytes `[n, height, width]`, the class of
//! each pixel. The `test` arrays are not even opened: no site ever sees them. Members may be stored
//! or deflated. Shapes are checked against limits and then only *read*, never allocated for.

use std::io::{Read, Seek, Write};

use npyz::npz::NpzArchive;
use npyz::{DType, NpyFile, Order, TypeChar};

use super::protocol::{ArchiveDefect, ArchivePiece, BrokenPipe, Part, write_frame};

/// Most cases, and most numbers in all their labels.
const MOST_CASES: u64 = 16_000_000;
const LONGEST_SIDE: u64 = 4096;
/// Most values of a volume: as many as the largest picture in colour has.
const MOST_VOLUME: u64 = 3 * LONGEST_SIDE * LONGEST_SIDE;
/// Most pixels of all masks of a part; they are held while the images are read.
const MOST_MASK_PIXELS: u64 = 128 << 20;
/// Most numbers in a label: as many as a study has labels.
const MOST_NUMBERS: u64 = 64;
/// Longest header of an array, as NumPy itself has it: the library that reads one allocates what it declares.
const LONGEST_HEADER: u32 = 10_000;
/// Bodies of [`ArchivePiece::Cases`] are at most about this long.
const BATCH_BYTES: usize = 1 << 20;

enum Stop {
    Defect(ArchiveDefect),
    Pipe(BrokenPipe),
}

impl From<ArchiveDefect> for Stop {
    fn from(defect: ArchiveDefect) -> Self {
        Self::Defect(defect)
    }
}

impl From<BrokenPipe> for Stop {
    fn from(broken: BrokenPipe) -> Self {
        Self::Pipe(broken)
    }
}

/// Sends the train and val parts of the archive, then `End`, or `Refused`.
pub fn serve(input: impl Read + Seek, output: &mut impl Write) -> Result<(), BrokenPipe> {
    match send_parts(input, output) {
        Ok(()) => write_frame(output, &ArchivePiece::End, &[]),
        Err(Stop::Defect(defect)) => write_frame(output, &ArchivePiece::Refused(defect), &[]),
        Err(Stop::Pipe(broken)) => Err(broken),
    }
}

fn send_parts(input: impl Read + Seek, output: &mut impl Write) -> Result<(), Stop> {
    let mut archive = NpzArchive::new(input).map_err(|_| ArchiveDefect::NotAnArchive)?;
    let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let has = |name: &str| names.iter().any(|known| known == name);
    for (part, prefix) in [(Part::Train, "train"), (Part::Val, "val")] {
        let [images, labels, masks] =
            ["images", "labels", "masks"].map(|what| has(&format!("{prefix}_{what}")));
        if images != (labels || masks) || part == Part::Train && !images {
            return Err(ArchiveDefect::MissingArray.into());
        }
        if images {
            send(&mut archive, part, prefix, (labels, masks), output)?;
        }
    }
    Ok(())
}

fn send<R: Read + Seek>(
    archive: &mut NpzArchive<R>,
    part: Part,
    prefix: &str,
    (has_labels, has_masks): (bool, bool),
    output: &mut impl Write,
) -> Result<(), Stop> {
    let labels = has_labels.then(|| read_labels(open(archive, &format!("{prefix}_labels"))?)).transpose()?;
    let masks = has_masks.then(|| read_masks(open(archive, &format!("{prefix}_masks"))?)).transpose()?;
    let images = open(archive, &format!("{prefix}_images"))?;
    let (depth, height, width, channels) = match *images.shape() {
        [_, height, width] => (None, height, width, 1),
        [_, height, width, 3] => (None, height, width, 3),
        [_, depth, height, width] => (Some(depth), height, width, 1),
        _ => return Err(ArchiveDefect::ImageShape.into()),
    };
    if !is_plain(&images, TypeChar::Uint, 1)
        || images.order() != Order::C
        || height == 0
        || width == 0
        || depth == Some(0)
    {
        return Err(ArchiveDefect::ImageShape.into());
    }
    let slices = depth.unwrap_or(1);
    let values = [slices, height, width].into_iter().fold(channels, u64::saturating_mul);
    if [slices, height, width].into_iter().any(|side| side > LONGEST_SIDE) || values > MOST_VOLUME {
        return Err(ArchiveDefect::TooLarge.into());
    }
    let cases = images.shape()[0];
    let (labels, numbers) = labels.unwrap_or_default();
    if numbers > 0 && cases != labels.len() as u64 / numbers {
        return Err(ArchiveDefect::LabelShape.into());
    }
    let (masks, sides) = masks.unwrap_or_default();
    if has_masks && (depth.is_some() || sides != [cases, height, width]) {
        return Err(ArchiveDefect::MaskShape.into());
    }
    let [height32, width32, channels32, numbers32] =
        [height, width, channels, numbers].map(|side| side as u32);
    let begin = ArchivePiece::Begin {
        part,
        height: height32,
        width: width32,
        channels: channels32,
        numbers: numbers32,
        masks: has_masks,
        depth: depth.map(|depth| depth as u32),
    };
    write_frame(output, &begin, &[])?;
    let size = values as usize;
    let mut bytes = images.data::<u8>().map_err(|_| ArchiveDefect::ImageShape)?;
    let mut batch = Vec::new();
    let (numbers, places) = (numbers as usize, if has_masks { (height * width) as usize } else { 0 });
    // Both lists say how many cases there are; one of them is there.
    let cases = if has_labels { labels.len() / numbers } else { masks.len() / places };
    for case in 0..cases {
        let label = &labels[case * numbers..][..numbers];
        batch.extend(label.iter().flat_map(|number| number.to_le_bytes()));
        let start = batch.len();
        for byte in bytes.by_ref().take(size) {
            batch.push(byte.map_err(|_| ArchiveDefect::DamagedArray)?);
        }
        if batch.len() - start != size {
            return Err(ArchiveDefect::DamagedArray.into());
        }
        batch.extend_from_slice(&masks[case * places..][..places]);
        if batch.len() >= BATCH_BYTES {
            write_frame(output, &ArchivePiece::Cases, &batch)?;
            batch.clear();
        }
    }
    if !batch.is_empty() {
        write_frame(output, &ArchivePiece::Cases, &batch)?;
    }
    Ok(())
}

/// Opens an array whose compression is one of the two that are read.
fn open<'a, R: Read + Seek>(
    archive: &'a mut NpzArchive<R>,
    name: &str,
) -> Result<NpyFile<impl Read + 'a>, Stop> {
    let file = npyz::npz::file_name_from_array_name(name);
    // The index is read without opening the member, because opening one of an unknown method panics.
    let mut known = false;
    for index in 0..archive.zip_archive().len() {
        let member = archive.zip_archive().by_index_raw(index).map_err(|_| ArchiveDefect::NotAnArchive)?;
        if member.name() == file {
            known = matches!(member.compression().to_string().as_str(), "Stored" | "Deflated");
            if !known {
                return Err(ArchiveDefect::Compression.into());
            }
            drop(member);
            let member = archive.zip_archive().by_index(index).map_err(|_| ArchiveDefect::DamagedArray)?;
            check_header(member)?;
        }
    }
    if !known {
        return Err(ArchiveDefect::MissingArray.into());
    }
    let array = archive.by_name(name).map_err(|_| ArchiveDefect::DamagedArray)?;
    Ok(array.ok_or(ArchiveDefect::MissingArray)?)
}

/// Refuses an array whose header declares to be longer than headers are (NEP 1: two bytes of length in version 1,
/// four in later ones).
fn check_header(mut member: impl Read) -> Result<(), ArchiveDefect> {
    let mut start = [0; 12];
    member.read_exact(&mut start).map_err(|_| ArchiveDefect::DamagedArray)?;
    let [.., version, _, a, b, c, d] = start;
    let length =
        if version == 1 { u32::from_le_bytes([a, b, 0, 0]) } else { u32::from_le_bytes([a, b, c, d]) };
    if length <= LONGEST_HEADER { Ok(()) } else { Err(ArchiveDefect::DamagedArray) }
}

fn is_plain<R: Read>(array: &NpyFile<R>, kind: TypeChar, bytes: u64) -> bool {
    match array.dtype() {
        DType::Plain(plain) => plain.type_char() == kind && plain.size_field() == bytes,
        _ => false,
    }
}

/// The numbers of all labels, and how many each label has.
fn read_labels<R: Read>(array: NpyFile<R>) -> Result<(Vec<u16>, u64), Stop> {
    let (cases, numbers) = match *array.shape() {
        [cases] => (cases, 1),
        [cases, numbers @ 1..=MOST_NUMBERS] if array.order() == Order::C => (cases, numbers),
        _ => return Err(ArchiveDefect::LabelShape.into()),
    };
    if cases.saturating_mul(numbers) > MOST_CASES {
        return Err(ArchiveDefect::TooLarge.into());
    }
    let labels = read_numbers(array, cases * numbers)?;
    Ok((labels, numbers))
}

/// The classes of all pixels, and the array's shape. Grows as bytes come.
fn read_masks<R: Read>(array: NpyFile<R>) -> Result<(Vec<u8>, [u64; 3]), Stop> {
    let &[cases, height, width] = array.shape() else { return Err(ArchiveDefect::MaskShape.into()) };
    if !is_plain(&array, TypeChar::Uint, 1) || array.order() != Order::C || height == 0 || width == 0 {
        return Err(ArchiveDefect::MaskShape.into());
    }
    let count = cases.saturating_mul(height).saturating_mul(width);
    if count > MOST_MASK_PIXELS {
        return Err(ArchiveDefect::TooLarge.into());
    }
    let mut masks = Vec::new();
    for class in array.data::<u8>().map_err(|_| ArchiveDefect::MaskShape)? {
        masks.push(class.map_err(|_| ArchiveDefect::DamagedArray)?);
    }
    if masks.len() as u64 == count {
        Ok((masks, [cases, height, width]))
    } else {
        Err(ArchiveDefect::DamagedArray.into())
    }
}

fn read_numbers<R: Read>(array: NpyFile<R>, count: u64) -> Result<Vec<u16>, Stop> {
    let DType::Plain(plain) = array.dtype() else { return Err(ArchiveDefect::LabelShape.into()) };
    match (plain.type_char(), plain.size_field()) {
        (TypeChar::Uint, 1) => narrow::<u8, R>(array, count),
        (TypeChar::Uint, 2) => narrow::<u16, R>(array, count),
        (TypeChar::Uint, 4) => narrow::<u32, R>(array, count),
        (TypeChar::Uint, 8) => narrow::<u64, R>(array, count),
        (TypeChar::Int, 1) => narrow::<i8, R>(array, count),
        (TypeChar::Int, 2) => narrow::<i16, R>(array, count),
        (TypeChar::Int, 4) => narrow::<i32, R>(array, count),
        (TypeChar::Int, 8) => narrow::<i64, R>(array, count),
        _ => Err(ArchiveDefect::LabelShape.into()),
    }
}

fn narrow<T: npyz::Deserialize, R: Read>(array: NpyFile<R>, count: u64) -> Result<Vec<u16>, Stop>
where
    u16: TryFrom<T>,
{
    let mut labels = Vec::new();
    for label in array.data::<T>().map_err(|_| ArchiveDefect::LabelShape)? {
        let label = label.map_err(|_| ArchiveDefect::DamagedArray)?;
        labels.push(u16::try_from(label).map_err(|_| ArchiveDefect::LabelShape)?);
    }
    if labels.len() as u64 == count { Ok(labels) } else { Err(ArchiveDefect::DamagedArray.into()) }
}
