//! Clipping: no site's update is longer than the study allows.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

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
        let want = layout.update().len();
        if entries.len() != want {
            return Err(EncodeError::Length { got: entries.len(), want });
        }
        let mut square = 0.0f64;
        let mut finite = true;
        let mut rest = entries.as_slice();
        for block in layout.blocks() {
            let (part, after) = rest.split_at(block.length as usize);
            // Squares of floats of 32 bits are finite in 64, and so are their sums.
            let sum = part.iter().map(|entry| f64::from(*entry).powi(2)).sum::<f64>();
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
                    for entry in part {
                        *entry = (f64::from(*entry) * scale) as f32;
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_norm_is_finite_and_above_zero() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ClipNorm::new(bad).is_err(), "{bad}");
        }
        assert_eq!(ClipNorm::new(0.5).map(ClipNorm::get), Ok(0.5));
    }
}
