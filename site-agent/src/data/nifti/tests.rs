//! Files made here, byte by byte.

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
                    at[place] = if phantom_grows == grows[axis] { index } else { PHANTOM[place] - 1 - index };
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
            assert_eq!((facts.turned, facts.rows, facts.columns), (!as_wanted, 3, 4), "{order:?} {grows:?}");
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

/// As in `nifti1_io` and nibabel: a sign of a distance is no direction.
#[test]
fn a_negative_distance_turns_nothing_over() {
    let (lengths, voxels, _) = stored([0, 1, 2], [true, true, true]);
    let plain = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let mut file = file(lengths, &voxels, plain, Some(([0.0; 3], 1.0)));
    file[80..84].copy_from_slice(&(-1.0_f32).to_le_bytes());
    let (_, values) = read(file, target(2, 3, 4, Some([-10, 36]))).unwrap();
    assert_eq!(values, (0..24).map(|voxel| voxel as f32 / 23.0).collect::<Vec<f32>>());
}

/// Both orders of bytes, every type of numbers, and packed.
#[test]
fn numbers_of_every_type_and_order_are_read() {
    let plain = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
    let little = file([2, 1, 1], &[], plain, None);
    let fields = [(0, 4), (70, 2), (72, 2), (108, 4), (112, 4), (116, 4), (254, 2)];
    let numbers = (40..56).step_by(2).map(|at| (at, 2)).chain((76..108).step_by(4).map(|at| (at, 4)));
    let rows = (280..328).step_by(4).map(|at| (at, 4));
    let mut big = little.clone();
    for (at, bytes) in fields.into_iter().chain(numbers).chain(rows) {
        big[at..at + bytes].reverse();
    }
    macro_rules! both {
        ($code:expr, $number:ty) => {
            for (header, voxels) in [
                (&little, [5 as $number, 25 as $number].map(<$number>::to_le_bytes)),
                (&big, [5 as $number, 25 as $number].map(<$number>::to_be_bytes)),
            ] {
                let mut file = header.clone();
                let code = if std::ptr::eq(header, &little) {
                    u16::to_le_bytes($code)
                } else {
                    u16::to_be_bytes($code)
                };
                file[70..72].copy_from_slice(&code);
                file.extend(voxels.concat());
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut packed, &file).unwrap();
                for file in [file, packed.finish().unwrap()] {
                    assert!(looks_like_one(&file));
                    // Twice the voxel, less ten.
                    let (_, values) = read(file, target(1, 1, 2, Some([0, 40]))).unwrap();
                    assert_eq!(values, [0.0, 1.0], "{}", stringify!($number));
                }
            }
        };
    }
    both!(2, u8);
    both!(256, i8);
    both!(512, u16);
    both!(4, i16);
    both!(768, u32);
    both!(8, i32);
    both!(1280, u64);
    both!(1024, i64);
    both!(16, f32);
    both!(64, f64);
}

/// A gzip of anything else is no volume, and not a broken one either.
#[test]
fn other_things_that_are_packed_are_passed_over() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"path,label\n").unwrap();
    let packed = packed.finish().unwrap();
    assert!(!looks_like_one(&packed));
    assert_eq!(read(packed, target(1, 1, 2, None)).map(drop), Err(Reason::NotAnImage));
}

/// The study says which values are black and white, whatever the file holds.
#[test]
fn the_window_of_the_study_is_every_files() {
    let plain = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
    // Twice the voxel, less ten: -10, 0, 30, 90, 110.
    let voxels = [0, 5, 20, 50, 60, 5];
    let (facts, values) =
        read(file([6, 1, 1], &voxels, plain, None), target(1, 1, 6, Some([0, 90]))).unwrap();
    assert_eq!(facts.shading, Shading::StudyWindow);
    assert_eq!(values, [0.0, 0.0, 1.0 / 3.0, 1.0, 1.0, 0.0]);
}

/// One bright voxel of a thousand leaves the others their shades.
#[test]
fn without_a_window_the_tails_are_cut() {
    let mut voxels: Vec<i16> = (0..1000).map(|voxel| (voxel % 100) as i16).collect();
    voxels[7] = 30_000;
    let plain = [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]];
    let (facts, values) = read(file([10, 10, 10], &voxels, plain, None), target(10, 10, 10, None)).unwrap();
    assert_eq!(facts.shading, Shading::Percentiles);
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
    assert_eq!(changed(112, &f32::INFINITY.to_le_bytes()), Ok(()), "no slope");
    assert_eq!(changed(116, &f32::INFINITY.to_le_bytes()), damaged(Defect::BadNumber));
    assert_eq!(changed(280, &1e9_f32.to_le_bytes()), damaged(Defect::BadNumber), "a needle");
    assert_eq!(changed(254, &[0]), Err(Reason::NoOrientation));
    assert_eq!(changed(280, &[0; 4]), damaged(Defect::BadNumber), "an axis that leads nowhere");
    assert_eq!(read(b"no volume".to_vec(), target(2, 2, 2, None)).map(drop), Err(Reason::NotAVolume));
    assert_eq!(read(vec![0x1F, 0x8B, 8, 0], target(2, 2, 2, None)).map(drop), damaged(Defect::BadDeflate));
    assert!(looks_like_one(&good) && !looks_like_one(b"\x89PNG\r\n\x1a\n"));
}
