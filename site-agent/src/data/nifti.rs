//! NIfTI-1 volumes (Cox et al. 2004) in one file, plain or gzipped. Runs in the decode child.
//!
//! - *Orientation.* The header's `sform`, or else its `qform`, says where the body's axes run. Slices go from the feet to the head,
//!   rows from front to back, columns from the patient's right to the left, as in [`super::orientation`]. A volume that lies obliquely
//!   takes for each axis of the body the nearest of its own; nothing is put between. Where a header says nothing, nobody
//!   knows left from right, and the file is refused.
//! - *Values.* Slope and intercept, then the study's window. Without one black and white are the volume's own, between the 0.5th and
//!   the 99.5th percentile: single bright voxels would make all others dark.
//! - *Size.* Slices are brought to the study's size with the proportions of the body, and then so many of them over the whole depth.

use std::io::Read;

use consilium_study::preprocessing::Window;
use flate2::read::MultiGzDecoder;
use nifti::{Endianness, NiftiHeader, NiftiType};

use super::display::Shading;
use super::picture::{Picture, over_depth};
use super::protocol::Facts;
use super::reason::{Defect, Reason};
use super::source::Target;

/// Most bytes of a file that is unpacked: 512 x 512 x 600 in 16 bits, and 1 MiB for headers.
const MOST_BYTES: u64 = 301 << 20;
/// Bytes that are unpacked at once.
const PIECE: usize = 4 << 20;
/// Most times that voxels may be further apart along one axis than along another.
const MOST_UNEQUAL: f64 = 1000.0;
/// Length of the header, which is also its first number.
const HEADER: usize = 348;
/// Length of a NIfTI-2 header.
const HEADER_2: u32 = 540;
/// Voxels of which percentiles are taken, evenly spread.
const SAMPLES: usize = 1 << 20;
/// Share of the voxels that are black, and share that are white, without a window.
const TAIL: f64 = 0.005;

/// Whether these are the first bytes of a NIfTI file, or of one that is gzipped.
pub fn looks_like_one(start: &[u8]) -> bool {
    if !start.starts_with(&[0x1F, 0x8B, 8]) {
        return begins_with_header(start);
    }
    let mut first = [0; 4];
    // What does not unpack that far may be one.
    MultiGzDecoder::new(start).read_exact(&mut first).map_or(true, |()| begins_with_header(&first))
}

/// Whether these bytes begin with the length of a header.
fn begins_with_header(bytes: &[u8]) -> bool {
    let begins =
        |number: u32| bytes.starts_with(&number.to_le_bytes()) || bytes.starts_with(&number.to_be_bytes());
    begins(HEADER as u32) || begins(HEADER_2)
}

/// Decodes a whole file and brings it to the wanted size.
pub fn read(file: Vec<u8>, target: Target) -> Result<(Facts, Vec<f32>), Reason> {
    let bytes = unpacked(file)?;
    let scan = Scan::new(&bytes)?;
    let (shade, shading) = scan.shading(target.window());
    let [slices, rows, columns] = &scan.axes;
    let spacing = [rows.spacing, columns.spacing];
    let slice = |slice: usize| {
        let start = slices.place(slice);
        let values = (0..rows.length).flat_map(|row| {
            let start = start + rows.place(row);
            (0..columns.length).map(move |column| start + columns.place(column))
        });
        let values = values.map(|place| shade.of(scan.value(place))).collect();
        let picture = Picture::new(1, rows.length, columns.length, values).ok_or(Reason::NoPixels)?;
        Ok(picture.fitted_of(target, spacing))
    };
    let values = over_depth(slices.length, target, slice)?;
    let facts = Facts {
        format: "NIfTI-1".to_owned(),
        rows: rows.length as u32,
        columns: columns.length as u32,
        bits: 8 * scan.size as u16,
        shading,
        turned: scan.is_turned(),
        patient: None,
    };
    Ok((facts, values))
}

/// The bytes of a file, out of its gzip.
fn unpacked(file: Vec<u8>) -> Result<Vec<u8>, Reason> {
    if !file.starts_with(&[0x1F, 0x8B]) {
        return Ok(file);
    }
    let mut bytes = Vec::new();
    let mut packed = MultiGzDecoder::new(file.as_slice());
    loop {
        // Not twice as much each time: memory is short here.
        bytes.try_reserve_exact(PIECE).map_err(|_| Reason::TooLarge)?;
        let piece = packed.by_ref().take(PIECE as u64).read_to_end(&mut bytes);
        if piece.map_err(|_| Reason::Malformed(Defect::BadDeflate))? == 0 {
            break;
        }
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Reason::TooLarge);
        }
    }
    // Other things are gzipped, too.
    if begins_with_header(&bytes) { Ok(bytes) } else { Err(Reason::NotAnImage) }
}

/// An axis of a volume in the order that is wanted.
struct Axis {
    length: usize,
    /// Distance of neighbours, in voxels.
    stride: usize,
    /// Distance of neighbours, in the unit of the header.
    spacing: f64,
    /// Whether it runs against the order of the file.
    reversed: bool,
}

impl Axis {
    fn place(&self, at: usize) -> usize {
        self.stride * if self.reversed { self.length - 1 - at } else { at }
    }
}

/// A volume whose header fits its bytes.
struct Scan<'a> {
    voxels: &'a [u8],
    /// Bytes of a voxel.
    size: usize,
    number: fn(&[u8]) -> f64,
    slope: f64,
    intercept: f64,
    /// Slices, rows, columns.
    axes: [Axis; 3],
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Reason> {
        let nonsense = Reason::Malformed(Defect::BadNumber);
        let Some(header) = bytes.get(..HEADER) else { return Err(Reason::NotAVolume) };
        let header = NiftiHeader::from_reader(header).map_err(|_| Reason::NotAVolume)?;
        if header.sizeof_hdr as usize != HEADER || header.magic != *b"n+1\0" {
            return Err(Reason::NotAVolume);
        }
        let sides = header.dim().map_err(|_| nonsense.clone())?;
        let &[width, height, depth, ref more @ ..] = sides else { return Err(Reason::NotAVolume) };
        if more.iter().any(|&side| side != 1) {
            return Err(Reason::SeveralVolumes);
        }
        let lengths = [width, height, depth].map(usize::from);
        let is_little = header.endianness == Endianness::Little;
        let kind = header.data_type().map_err(|_| nonsense.clone())?;
        let number = number(kind, is_little).ok_or(Reason::UnsupportedPixels)?;
        let size = kind.size_of();
        // Three sides of 16 bits.
        let count = lengths.iter().product::<usize>();
        // Files before NIfTI's extensions have zero there.
        let start = f64::from(header.vox_offset).max(HEADER as f64);
        if start.fract() != 0.0 || start > bytes.len() as f64 {
            return Err(nonsense);
        }
        let voxels =
            bytes[start as usize..].get(..count * size).ok_or(Reason::Malformed(Defect::Truncated))?;
        let scale = f64::from(header.scl_slope);
        // No slope is no scaling.
        let (slope, intercept) = if scale == 0.0 || !scale.is_finite() {
            (1.0, 0.0)
        } else {
            (scale, f64::from(header.scl_inter))
        };
        if !intercept.is_finite() {
            return Err(nonsense);
        }
        let axes = axes(&directions(&header)?, lengths).ok_or(nonsense)?;
        Ok(Self { voxels, size, number, slope, intercept, axes })
    }

    fn value(&self, place: usize) -> f64 {
        (self.number)(&self.voxels[place * self.size..][..self.size]) * self.slope + self.intercept
    }

    /// Whether the file has another order of axes, or another direction on one.
    fn is_turned(&self) -> bool {
        let [slices, rows, columns] = &self.axes;
        let in_order = columns.stride <= rows.stride && rows.stride <= slices.stride;
        !in_order || self.axes.iter().any(|axis| axis.reversed)
    }

    fn shading(&self, window: Option<Window>) -> (Shade, Shading) {
        if let Some(Window { low, high }) = window {
            return (Shade { low: low.into(), high: high.into() }, Shading::StudyWindow);
        }
        let count = self.voxels.len() / self.size;
        let mut values: Vec<f64> = (0..count)
            // An odd step meets all columns.
            .step_by(count.div_ceil(SAMPLES) | 1)
            .map(|place| self.value(place))
            .filter(|value| value.is_finite())
            .collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        let tail = (TAIL * last as f64).round() as usize;
        let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
        // A structure of fewer voxels than the tails is all there is to see.
        let (low, high) =
            if at(tail) < at(last - tail) { (at(tail), at(last - tail)) } else { (at(0), at(last)) };
        (Shade { low, high }, Shading::Percentiles)
    }
}

/// What is black and what is white.
struct Shade {
    low: f64,
    high: f64,
}

impl Shade {
    /// Between 0 and 1. What is no number is black, and so is everything where all is alike.
    fn of(&self, value: f64) -> f32 {
        let shade = ((value - self.low) / (self.high - self.low)) as f32;
        if shade.is_nan() { 0.0 } else { shade.clamp(0.0, 1.0) }
    }
}

/// How the bytes of a voxel are a number.
fn number(kind: NiftiType, is_little: bool) -> Option<fn(&[u8]) -> f64> {
    macro_rules! reader {
        ($number:ty, $convert:expr) => {
            if is_little {
                |bytes: &[u8]| $convert(<$number>::from_le_bytes(whole(bytes)))
            } else {
                |bytes: &[u8]| $convert(<$number>::from_be_bytes(whole(bytes)))
            }
        };
    }
    Some(match kind {
        NiftiType::Uint8 => reader!(u8, f64::from),
        NiftiType::Int8 => reader!(i8, f64::from),
        NiftiType::Uint16 => reader!(u16, f64::from),
        NiftiType::Int16 => reader!(i16, f64::from),
        NiftiType::Uint32 => reader!(u32, f64::from),
        NiftiType::Int32 => reader!(i32, f64::from),
        // Numbers beyond 2^53 are rounded; no scanner has any.
        NiftiType::Uint64 => reader!(u64, |number| number as f64),
        NiftiType::Int64 => reader!(i64, |number| number as f64),
        NiftiType::Float32 => reader!(f32, f64::from),
        NiftiType::Float64 => reader!(f64, std::convert::identity),
        _ => return None,
    })
}

fn whole<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a voxel has the bytes of its type")
}

/// Where one step along each axis of the file leads in the body: towards the patient's right, the front and the head.
fn directions(header: &NiftiHeader) -> Result<[[f64; 3]; 3], Reason> {
    if header.sform_code > 0 {
        let rows = [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from));
        Ok([0, 1, 2].map(|axis| rows.map(|row| row[axis])))
    } else if header.qform_code > 0 {
        Ok(by_quaternion(header))
    } else {
        Err(Reason::NoOrientation)
    }
}

/// The rotation that a unit quaternion stands for, with the distances of voxels and the hand of the third axis (`nifti1.h`,
/// method 2).
fn by_quaternion(header: &NiftiHeader) -> [[f64; 3]; 3] {
    let [b, c, d] = [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let a = (1.0 - (b * b + c * c + d * d)).max(0.0).sqrt();
    let hand = header.pixdim[0];
    // Distances are positive; a sign there turns nothing over, as in `nifti1_io` and nibabel.
    let [first, second, third] = [1, 2, 3].map(|index| f64::from(header.pixdim[index]).abs());
    let third = if hand < 0.0 { -third } else { third };
    [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c + a * d), 2.0 * (b * d - a * c)]
            .map(|side| side * first),
        [2.0 * (b * c - a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d + a * b)]
            .map(|side| side * second),
        [2.0 * (b * d + a * c), 2.0 * (c * d - a * b), a * a + d * d - b * b - c * c]
            .map(|side| side * third),
    ]
}

/// Slices, rows and columns among the axes of a file. `None` where the header's directions make no sense.
fn axes(directions: &[[f64; 3]; 3], lengths: [usize; 3]) -> Option<[Axis; 3]> {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let spacing = directions.map(|[x, y, z]| (x * x + y * y + z * z).sqrt());
    let least = spacing.into_iter().fold(f64::MAX, f64::min);
    // What is no number is not below anything.
    if !spacing.iter().all(|&spacing| spacing > 0.0 && spacing <= MOST_UNEQUAL * least) {
        return None;
    }
    let strides = [1, lengths[0], lengths[0] * lengths[1]];
    let cosine = |body: usize, axis: usize| directions[axis][body] / spacing[axis];
    let nearness = |order: &[usize; 3]| (0..3).map(|body| cosine(body, order[body]).abs()).sum::<f64>();
    let nearest = ORDERS.iter().max_by(|one, other| nearness(one).total_cmp(&nearness(other)))?;
    let axis = |body: usize, grows: bool| {
        let axis = nearest[body];
        let cosine = cosine(body, axis);
        // Two axes of the file that run alike leave one of the body without any.
        (cosine.abs() > 0.1).then_some(Axis {
            length: lengths[axis],
            stride: strides[axis],
            spacing: spacing[axis],
            reversed: (cosine > 0.0) != grows,
        })
    };
    Some([axis(2, true)?, axis(1, false)?, axis(0, false)?])
}

/// A small file that decodes.
#[cfg(test)]
pub(crate) fn example() -> Vec<u8> {
    let plain = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
    tests::file([2, 3, 4], &[1; 24], plain, None)
}

#[cfg(test)]
mod tests;
