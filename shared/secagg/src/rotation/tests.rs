use proptest::prelude::*;

use super::*;

/// `H[i][j] = (−1)^popcount(i & j)`, entry by entry.
fn slow(values: &[i64]) -> Vec<i64> {
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1 } else { -1 };
    (0..values.len()).map(|i| values.iter().enumerate().map(|(j, value)| sign(i, j) * value).sum()).collect()
}

fn bit(signs: &[u8], at: usize) -> bool {
    signs[at / 8] >> (at % 8) & 1 == 1
}

/// Whole numbers that floats of 32 bits sum exactly, from a hash.
fn numbers(length: usize, salt: u32) -> Vec<i64> {
    (0..length as u32)
        .map(|at| i64::from(at.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 27) - 16)
        .collect()
}

#[test]
fn the_rotation_is_signs_and_a_hadamard_matrix() {
    for length in [256, 512, 1024, 8192] {
        let plain = numbers(length, 7);
        let signs: Vec<u8> = (0..length / 8).map(|at| (at * 37) as u8).collect();
        let signed: Vec<i64> = plain
            .iter()
            .enumerate()
            .map(|(at, value)| if bit(&signs, at) { -value } else { *value })
            .collect();
        let want = slow(&signed);
        let mut floats: Vec<f32> = plain.iter().map(|value| *value as f32).collect();
        rotate(&mut floats, &signs);
        assert!(floats.iter().zip(&want).all(|(got, want)| *got as i64 == *want), "{length}");
        // And back: the matrix is its own inverse but for the length.
        let mut sums: Vec<_> = want.iter().map(|value| Wrapping(*value as i32)).collect();
        rotate_back(&mut sums, &signs);
        assert!(
            sums.iter().zip(&plain).all(|(got, plain)| i64::from(got.0) == plain << length.trailing_zeros()),
            "{length}"
        );
    }
}

#[test]
fn units_do_not_change_a_bit() {
    let plain: Vec<f32> = (0..LONGEST_PIECE).map(|at| (at as f32 * 0.377).sin() * 1e-3).collect();
    let signs = vec![0b0110_1001; LONGEST_PIECE / 8];
    let (mut here, mut there) = (plain.clone(), plain);
    rotate(&mut here, &signs);
    pulp::Arch::new().dispatch(|| rotate(&mut there, &signs));
    assert!(here.iter().zip(&there).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn a_single_entry_is_spread_over_its_piece() {
    let mut values = vec![0.0; 1024];
    values[77] = 3.0;
    rotate(&mut values, &[0; 128]);
    assert!(values.iter().all(|value| (value.abs() - 3.0).abs() < f32::EPSILON));
}

#[test]
fn pieces_are_long_and_waste_little() {
    for (length, want) in [
        (1, 256),
        (257, 512),
        (512, 512),
        (1568, 256),
        (18_432, 1 << 11),
        (401_408, 1 << 13),
        (1 << 15, 1 << 15),
        (2_359_296, 1 << 15),
        (10_000_000, 1 << 15),
    ] {
        assert_eq!(piece(length), want, "{length}");
    }
}

#[test]
fn the_rotation_keeps_the_root_mean_square() {
    let block: Vec<f32> =
        (0..5000).map(|at| (at as f32 * 0.377).sin() * if at < 300 { 9.0 } else { 1.0 }).collect();
    let piece = piece(block.len());
    let mut largest = 0.0f64;
    for part in block.chunks(piece) {
        let mut values = part.to_vec();
        values.resize(piece, 0.0);
        rotate(&mut values, &vec![0x5a; piece / 8]);
        // Twice the length: once for the mean, once for the factor that is left out.
        let square = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        largest = largest.max((square / (piece * piece) as f64).sqrt());
    }
    assert!((largest / largest_rms(&block) - 1.0).abs() < 1e-5);
}

proptest! {
    /// Every block is padded by at most a 128th or 256 lanes, and pieces are as long as that allows.
    #[test]
    fn padding_is_bounded(length in 1usize..20_000_000) {
        let (piece, lanes) = (piece(length), lanes(length));
        let slack = (length / 128).max(256);
        prop_assert!(piece.is_power_of_two() && (256..=LONGEST_PIECE).contains(&piece));
        prop_assert!(lanes.is_multiple_of(piece) && lanes >= length && lanes - length <= slack);
        prop_assert!(piece == LONGEST_PIECE || length.div_ceil(2 * piece) * 2 * piece - length > slack);
    }
}
