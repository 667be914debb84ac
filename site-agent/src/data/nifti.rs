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

/// Most bytes of a file that is unpacked: 512 x 512 x 600 in 16 bits.
const MOST_BYTES: u64 = 300 << 20;
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
    let numbers = [HEADER as u32, HEADER_2];
    let begins =
        |number: u32| start.starts_with(&number.to_le_bytes()) || start.starts_with(&number.to_be_bytes());
    start.starts_with(&[0x1F, 0x8B, 8]) || numbers.into_iter().any(begins)
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
    let mut packed = MultiGzDecoder::new(file.as_slice()).take(MOST_BYTES + 1);
    packed.read_to_end(&mut bytes).map_err(|_| Reason::Malformed(Defect::BadDeflate))?;
    if bytes.len() as u64 > MOST_BYTES { Err(Reason::TooLarge) } else { Ok(bytes) }
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
        let (slope, intercept) = if scale == 0.0 { (1.0, 0.0) } else { (scale, f64::from(header.scl_inter)) };
        if !slope.is_finite() || !intercept.is_finite() {
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
            return (Shade { low: low.into(), high: high.into() }, Shading::Window);
        }
        let count = self.voxels.len() / self.size;
        let mut values: Vec<f64> = (0..count)
            .step_by(count.div_ceil(SAMPLES).max(1))
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
        (Shade { low, high }, Shading::OwnRange)
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
    let [hand, first, second, third] = [0, 1, 2, 3].map(|index| f64::from(header.pixdim[index]));
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
    if !spacing.iter().all(|&spacing| spacing.is_finite() && spacing > 0.0) {
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
mod tests {
    use super::*;

    /// A file of 16-bit voxels with axes of these lengths. `directions` as in [`directions`]; a quaternion in their place if it is
    /// given.
    pub(super) fn file(
        lengths: [u16; 3],
        voxels: &[i16],
        directions: [[f32; 3]; 3],
        quaternion: Option<([f32; 3], f32)>,
    ) -> Vec<u8> {
        let mut header = vec![0; HEADER + 4];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(HEADER as u32).to_le_bytes());
        for (index, side) in [3, lengths[0], lengths[1], lengths[2], 1, 1, 1, 1].into_iter().enumerate() {
            put(40 + 2 * index, &side.to_le_bytes());
        }
        put(70, &4_i16.to_le_bytes());
        put(72, &16_i16.to_le_bytes());
        put(108, &352.0_f32.to_le_bytes());
        put(112, &2.0_f32.to_le_bytes());
        put(116, &(-10.0_f32).to_le_bytes());
        let spacing = directions.map(|axis| axis.iter().map(|side| side * side).sum::<f32>().sqrt());
        let hand = quaternion.map_or(0.0, |(_, hand)| hand);
        for (index, side) in [hand, spacing[0], spacing[1], spacing[2]].into_iter().enumerate() {
            put(76 + 4 * index, &side.to_le_bytes());
        }
        match quaternion {
            Some((parts, _)) => {
                put(252, &1_i16.to_le_bytes());
                for (index, part) in parts.into_iter().enumerate() {
                    put(256 + 4 * index, &part.to_le_bytes());
                }
            }
            None => {
                put(254, &1_i16.to_le_bytes());
                for body in 0..3 {
                    for (axis, direction) in directions.iter().enumerate() {
                        put(280 + 16 * body + 4 * axis, &direction[body].to_le_bytes());
                    }
                }
            }
        }
        put(344, b"n+1\0");
        header.extend(voxels.iter().flat_map(|voxel| voxel.to_le_bytes()));
        header
    }

    fn target(depth: u32, height: u32, width: u32, window: Option<[i32; 2]>) -> Target {
        Target::of([1, depth, height, width].into(), window.map(Window::from)).unwrap()
    }

    /// Slices from feet to head, rows from front to back, columns from right to left, of 2 x 3 x 4.
    const PHANTOM: [usize; 3] = [2, 3, 4];

    /// Its file as a scanner would write it whose axes run along these of the body (0 left-right, 1 front-back, 2 feet-head), each the
    /// way that x, y, z grow or against it.
    fn stored(order: [usize; 3], grows: [bool; 3]) -> ([u16; 3], Vec<i16>, [[f32; 3]; 3]) {
        // What the body's axes are in the phantom, and whether the phantom's index grows with x, y, z.
        let of_body = |body: usize| (2 - body, body == 2);
        let length = |axis: usize| PHANTOM[of_body(order[axis]).0];
        let mut voxels = Vec::new();
        for k in 0..length(2) {
            for j in 0..length(1) {
                for i in 0..length(0) {
                    let mut at = [0; 3];
                    for (axis, index) in [i, j, k].into_iter().enumerate() {
                        let (place, phantom_grows) = of_body(order[axis]);
                        at[place] =
                            if phantom_grows == grows[axis] { index } else { PHANTOM[place] - 1 - index };
                    }
                    voxels.push(i16::try_from(12 * at[0] + 4 * at[1] + at[2]).unwrap());
                }
            }
        }
        let directions = [0, 1, 2].map(|axis| {
            let mut direction = [0.05; 3];
            direction[order[axis]] = if grows[axis] { 1.0 } else { -1.0 };
            direction
        });
        ([0, 1, 2].map(|axis| length(axis) as u16), voxels, directions)
    }

    #[test]
    fn an_asymmetric_phantom_comes_out_the_same_from_every_orientation() {
        // Twice the voxel, less ten.
        let wanted: Vec<f32> = (0..24).map(|voxel| voxel as f32 / 23.0).collect();
        let mut seen = std::collections::BTreeSet::new();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for grows in (0..8).map(|bits| [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0]) {
                let (lengths, voxels, directions) = stored(order, grows);
                let file = file(lengths, &voxels, directions, None);
                seen.insert(file.clone());
                let (facts, values) = read(file, target(2, 3, 4, Some([-10, 36]))).unwrap();
                assert_eq!(values, wanted, "{order:?} {grows:?}");
                let as_wanted = order == [0, 1, 2] && grows == [false, false, true];
                assert_eq!(
                    (facts.turned, facts.rows, facts.columns),
                    (!as_wanted, 3, 4),
                    "{order:?} {grows:?}"
                );
            }
        }
        assert_eq!(seen.len(), 48);
    }

    /// Rotations by quaternions, and the left hand of the third axis, as `nifti1.h` has them.
    #[test]
    fn a_quaternion_says_what_its_rotation_does() {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        for (parts, hand, order, grows) in [
            ([0.0, 0.0, 0.0], 1.0, [0, 1, 2], [true, true, true]),
            ([0.0, 0.0, 0.0], -1.0, [0, 1, 2], [true, true, false]),
            ([0.0, 0.0, 1.0], 1.0, [0, 1, 2], [false, false, true]),
            // A quarter about z: x becomes y, y becomes -x.
            ([0.0, 0.0, half], 1.0, [1, 0, 2], [true, false, true]),
            // A quarter about x: y becomes z, z becomes -y.
            ([half, 0.0, 0.0], 0.0, [0, 2, 1], [true, true, false]),
            // A third about the diagonal: x becomes y, y becomes z, z becomes x.
            ([0.5, 0.5, 0.5], 1.0, [1, 2, 0], [true, true, true]),
        ] {
            let (lengths, voxels, _) = stored(order, grows);
            let plain = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
            let file = file(lengths, &voxels, plain, Some((parts, hand)));
            let (_, values) = read(file, target(2, 3, 4, Some([-10, 36]))).unwrap();
            let wanted: Vec<f32> = (0..24).map(|voxel| voxel as f32 / 23.0).collect();
            assert_eq!(values, wanted, "{parts:?} {hand}");
        }
    }

    /// Two bright voxels of ten thousand, and one that is no number, leave the others their shades.
    #[test]
    fn without_a_window_the_tails_are_cut() {
        let mut voxels: Vec<i16> = (0..1000).map(|voxel| (voxel % 100) as i16).collect();
        voxels[7] = 30_000;
        let plain = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
        let (facts, values) =
            read(file([10, 10, 10], &voxels, plain, None), target(10, 10, 10, None)).unwrap();
        assert_eq!(facts.shading, Shading::OwnRange);
        assert_eq!((values[0], values[7], values[99]), (0.0, 1.0, 1.0));
        assert!((values[50] - 50.0 / 99.0).abs() < 0.02, "{}", values[50]);
        // All alike is black.
        let (_, values) = read(file([2, 2, 2], &[5; 8], plain, None), target(2, 2, 2, None)).unwrap();
        assert_eq!(values, [0.0; 8]);
    }

    #[test]
    fn what_is_no_volume_has_a_reason() {
        let good = example();
        let changed = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            read(file, target(2, 2, 2, None)).map(drop)
        };
        assert_eq!(changed(0, &[]), Ok(()));
        let damaged = |defect| Err(Reason::Malformed(defect));
        assert_eq!(changed(0, &540_i32.to_le_bytes()), Err(Reason::NotAVolume));
        assert_eq!(changed(344, b"ni1\0"), Err(Reason::NotAVolume), "its voxels are in another file");
        assert_eq!(changed(40, &[2]), Err(Reason::NotAVolume), "a picture");
        assert_eq!(changed(40, &[4, 0, 2, 0, 3, 0, 2, 0, 2, 0]), Err(Reason::SeveralVolumes));
        assert_eq!(changed(40, &[4]), Ok(()), "a series of one");
        assert_eq!(changed(42, &[0]), damaged(Defect::BadNumber), "a side of nothing");
        assert_eq!(changed(42, &[3]), damaged(Defect::Truncated));
        assert_eq!(changed(42, &[255; 6]), damaged(Defect::Truncated), "more than there can be");
        assert_eq!(changed(70, &32_i16.to_le_bytes()), Err(Reason::UnsupportedPixels), "complex numbers");
        assert_eq!(changed(70, &3_i16.to_le_bytes()), damaged(Defect::BadNumber));
        assert_eq!(changed(108, &1e9_f32.to_le_bytes()), damaged(Defect::BadNumber));
        assert_eq!(changed(108, &f32::NAN.to_le_bytes()), Ok(()), "as before there were extensions");
        assert_eq!(changed(112, &f32::INFINITY.to_le_bytes()), damaged(Defect::BadNumber));
        assert_eq!(changed(254, &[0]), Err(Reason::NoOrientation));
        assert_eq!(changed(280, &[0; 4]), damaged(Defect::BadNumber), "an axis that leads nowhere");
        assert_eq!(read(b"no volume".to_vec(), target(2, 2, 2, None)).map(drop), Err(Reason::NotAVolume));
        assert_eq!(
            read(vec![0x1F, 0x8B, 8, 0], target(2, 2, 2, None)).map(drop),
            damaged(Defect::BadDeflate)
        );
        assert!(looks_like_one(&good) && !looks_like_one(b"\x89PNG\r\n\x1a\n"));
    }
}
