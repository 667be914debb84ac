//! Clipping: no site's update is longer than the study allows.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use pulp::Arch;

use crate::layout::{BlockKind, Layout};
use crate::quantiser::EncodeError;

/// Bound on an update's L2 norm. Finite and above zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipNorm(f64);

/// A number that bounds no norm.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a clip norm is a finite number above zero, not {0}")]
pub struct InvalidClipNorm(f64);

impl ClipNorm {
    /// Checks and wraps a bound.
    pub fn new(norm: f64) -> Result<Self, InvalidClipNorm> {
        if norm.is_finite() && norm > 0.0 { Ok(Self(norm)) } else { Err(InvalidClipNorm(norm)) }
    }

    /// The bound.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl<C> Encode<C> for ClipNorm {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.f64(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for ClipNorm {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(d.f64()?).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// An update whose trained parameters have at most the clip norm. Only [`ClippedUpdate::clip`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct ClippedUpdate {
    entries: Vec<f32>,
    was_clipped: bool,
}

impl ClippedUpdate {
    /// Scales the update blocks of `entries`, shape `[params]` in the order of the layout, to at most `bound` in
    /// L2 norm (flat clipping, McMahan et al. 2018). Normalisation statistics are left alone.
    pub fn clip(mut entries: Vec<f32>, layout: &Layout, bound: ClipNorm) -> Result<Self, EncodeError> {
        let want = layout.entries();
        if entries.len() != want {
            return Err(EncodeError::Length { got: entries.len(), want });
        }
        let simd = Arch::new();
        let mut square = 0.0f64;
        let mut finite = true;
        let mut rest = entries.as_slice();
        for block in layout.blocks() {
            let (part, after) = rest.split_at(block.length as usize);
            // Squares of floats of 32 bits are finite in 64, and so are their sums.
            let sum = simd.dispatch(|| sum_of_squares(part));
            finite &= sum.is_finite();
            if block.kind == BlockKind::Update {
                square += sum;
            }
            rest = after;
        }
        if !finite && let Some(index) = entries.iter().position(|entry| !entry.is_finite()) {
            return Err(EncodeError::NotFinite { index });
        }
        let norm = square.sqrt();
        let was_clipped = norm > bound.get();
        if was_clipped {
            let scale = bound.get() / norm;
            let mut rest = entries.as_mut_slice();
            for block in layout.blocks() {
                let (part, after) = rest.split_at_mut(block.length as usize);
                if block.kind == BlockKind::Update {
                    simd.dispatch(|| scale_by(part, scale));
                }
                rest = after;
            }
        }
        Ok(Self { entries, was_clipped })
    }

    /// The entries, shape `[params]`.
    pub fn entries(&self) -> &[f32] {
        &self.entries
    }

    /// Whether the norm was over the bound.
    pub const fn was_clipped(&self) -> bool {
        self.was_clipped
    }

    /// The entries, and whether the norm was over the bound.
    pub(crate) fn into_parts(self) -> (Vec<f32>, bool) {
        (self.entries, self.was_clipped)
    }
}

/// Sums that squares are added to in turns, so that a processor need not wait for one addition to begin the next.
const SUMS: usize = 32;

/// Sum of squares: entry `j` is added to sum `j mod 32`, and the sums are folded in halves. The order is fixed, so the
/// result is the same on every vector unit.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
fn sum_of_squares(entries: &[f32]) -> f64 {
    let mut sums = [0.0f64; SUMS];
    let (groups, rest) = entries.as_chunks::<SUMS>();
    for group in groups {
        for (sum, entry) in sums.iter_mut().zip(group) {
            *sum += f64::from(*entry) * f64::from(*entry);
        }
    }
    for (sum, entry) in sums.iter_mut().zip(rest) {
        *sum += f64::from(*entry) * f64::from(*entry);
    }
    let mut half = SUMS / 2;
    while half > 0 {
        for at in 0..half {
            sums[at] += sums[at + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Scales entries, each product rounded once from 64 bits.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
fn scale_by(entries: &mut [f32], scale: f64) {
    for entry in entries {
        *entry = (f64::from(*entry) * scale) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of the specification, one entry at a time.
    fn slow(entries: &[f32]) -> f64 {
        let mut sums = vec![0.0f64; SUMS];
        for (at, entry) in entries.iter().enumerate() {
            sums[at % SUMS] += f64::from(*entry) * f64::from(*entry);
        }
        while sums.len() > 1 {
            let upper = sums.split_off(sums.len() / 2);
            sums.iter_mut().zip(upper).for_each(|(sum, other)| *sum += other);
        }
        sums[0]
    }

    #[test]
    fn squares_are_summed_in_one_order() {
        for length in [0, 1, 31, 32, 33, 1000, 4096, 10_007] {
            let entries: Vec<f32> = (0..length).map(|at| (at as f32 * 0.377).sin() * 3.0).collect();
            let got = Arch::new().dispatch(|| sum_of_squares(&entries));
            assert_eq!(got.to_bits(), slow(&entries).to_bits(), "{length}");
            let plain: f64 = entries.iter().map(|entry| f64::from(*entry).powi(2)).sum();
            assert!((got - plain).abs() <= plain * 1e-12);
        }
    }

    #[test]
    fn a_clip_norm_is_finite_and_above_zero() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ClipNorm::new(bad).is_err(), "{bad}");
        }
        assert_eq!(ClipNorm::new(0.5).map(ClipNorm::get), Ok(0.5));
    }
}
