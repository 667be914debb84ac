//! The rotation that spreads an update evenly before it is packed: random signs, then a Walsh-Hadamard transform.
//!
//! Ailon and Chazelle 2009 (the fast Johnson-Lindenstrauss transform) mix a vector so; Suresh et al. 2017 ("Distributed
//! mean estimation with limited communication") quantise what comes out, since its largest entry is then about as large
//! as the others; Vargaftik et al. 2021 (DRIVE) show how near to normal the entries are. The transform is linear, so the
//! sum of rotated updates is the rotated sum, and it is undone once, after the masks are gone. We deviate in that a block
//! is rotated in pieces of bounded length: time grows with the length alone, a piece stays in the cache, and little is
//! padded.
//!
//! Signs are public and the same at every site. They depend on study, round and purpose, not on the attempt: a repeated
//! attempt of a round sends the same integers, as rounding does. A hospital's update does not depend on them, so by
//! Hoeffding's inequality an entry is beyond `t` times the root mean square of its piece with a chance of at most
//! `2·exp(−t²/2)`, whatever the update.

use std::num::Wrapping;
use std::ops::{Add, Sub};

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use ctr::Ctr64LE;

use crate::context::ContextFields;
use crate::secret::hash_parts;

/// Longest piece that is rotated at once: 128 KiB of floats.
pub const LONGEST_PIECE: usize = 1 << 15;
/// Shortest piece. A block of any length wastes less than one.
const SHORTEST_PIECE: usize = 1 << 8;
/// Levels of the transform whose strides are below this are done on so many entries at a time.
const NEAR: usize = 1 << 12;

/// Length of the pieces in which a block of `length` entries is rotated: the longest power of two from 2^8 to 2^15 that
/// pads the block by at most a 128th, or by at most 256 entries.
pub fn piece(length: usize) -> usize {
    let slack = (length / 128).max(SHORTEST_PIECE);
    let mut piece = LONGEST_PIECE;
    while piece > SHORTEST_PIECE && padded(length, piece) - length > slack {
        piece /= 2;
    }
    piece
}

/// Lanes that a block of `length` entries takes.
pub fn lanes(length: usize) -> usize {
    padded(length, piece(length))
}

fn padded(length: usize, piece: usize) -> usize {
    length.div_ceil(piece) * piece
}

/// Largest root mean square of a piece of a block. The rotation leaves it as it is, so it is also that of the lanes.
pub fn largest_rms(block: &[f32]) -> f64 {
    let piece = piece(block.len());
    let square = |part: &[f32]| part.iter().map(|entry| f64::from(*entry).powi(2)).sum::<f64>();
    let largest = block.chunks(piece).map(square).fold(0.0, f64::max);
    (largest / piece as f64).sqrt()
}

/// The signs of a round, front to back: a bit for each lane, 1 for minus.
pub(crate) struct Signs {
    stream: Ctr64LE<Aes256>,
    bits: [u8; LONGEST_PIECE / 8],
}

impl Signs {
    pub(crate) fn of(context: &ContextFields) -> Self {
        let key = hash_parts("rotation", &(context.study, context.round, context.purpose));
        Self { stream: Ctr64LE::new(key.as_bytes().into(), &[0; 16].into()), bits: [0; LONGEST_PIECE / 8] }
    }

    /// The bits of the next piece.
    pub(crate) fn next(&mut self, piece: usize) -> &[u8] {
        let bits = &mut self.bits[..piece / 8];
        self.stream.write_keystream(bits);
        bits
    }
}

/// Rotates a piece, but for the factor `1/√P`. Compiled for each kind of vector unit where it is inlined into a
/// `dispatch`; additions in a fixed order, so that the bits are the same on all.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
pub(crate) fn rotate(values: &mut [f32], signs: &[u8]) {
    for (values, signs) in values.as_chunks_mut::<8>().0.iter_mut().zip(signs) {
        for (at, value) in values.iter_mut().enumerate() {
            *value = f32::from_bits(value.to_bits() ^ (u32::from(*signs >> at) << 31));
        }
    }
    transform(values);
}

/// Undoes [`rotate`] on sums of lanes, but for the factor `1/√P`: exactly, for `2^15 · 2^15` does not wrap.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
pub(crate) fn rotate_back(values: &mut [Wrapping<i32>], signs: &[u8]) {
    transform(values);
    for (values, signs) in values.as_chunks_mut::<8>().0.iter_mut().zip(signs) {
        for (at, value) in values.iter_mut().enumerate() {
            let minus = Wrapping(-i32::from(*signs >> at & 1));
            *value = (*value ^ minus) - minus;
        }
    }
}

/// The Walsh-Hadamard transform in its natural order, without a factor: strides fall from half the length to 1, and each
/// makes `a + b, a − b` of the pairs that are so far apart.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
fn transform<T: Copy + Add<Output = T> + Sub<Output = T>>(values: &mut [T]) {
    levels(values, values.len() / 2, NEAR);
    for part in values.chunks_mut(NEAR) {
        levels(part, part.len() / 2, 16);
        for group in part.as_chunks_mut::<16>().0 {
            level::<T, 8>(group);
            level::<T, 4>(group);
            level::<T, 2>(group);
            level::<T, 1>(group);
        }
    }
}

/// The levels with strides from `stride` down to `least`.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
fn levels<T: Copy + Add<Output = T> + Sub<Output = T>>(values: &mut [T], mut stride: usize, least: usize) {
    while stride >= least {
        for pair in values.chunks_exact_mut(2 * stride) {
            let (low, high) = pair.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride /= 2;
    }
}

/// One level within sixteen entries.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
fn level<T: Copy + Add<Output = T> + Sub<Output = T>, const STRIDE: usize>(values: &mut [T; 16]) {
    let before = *values;
    for at in 0..16 {
        let (low, high) = (before[at & !STRIDE], before[at | STRIDE]);
        values[at] = if at & STRIDE == 0 { low + high } else { low - high };
    }
}

#[cfg(test)]
mod tests;
