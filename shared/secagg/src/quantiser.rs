//! Numbers to integers of the ring, so that a sum of integers is a weighted mean of updates.
//!
//! `v[j] = round_stochastic(Δ[j] · (w / w_cap) · 2^(bits−1) / range_b)` with `bits = 32 − ceil(log2 n)`,
//! saturating at `±(2^(bits−1) − 1)`, so that no sum of `n` sites wraps. The mean is
//! `Σv · range_b · w_cap / (2^(bits−1) · Σw)`. Rounding is unbiased and repeats: its randomness depends on
//! study seed, site and round only, so that a new attempt of a round quantises to the same integers.
//!
//! Saturated entries are counted per block, and clipped updates by one flag, under the mask.

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use consilium_study::name::SiteName;
use ctr::Ctr64LE;

pub use crate::clip::{ClipNorm, ClippedUpdate};
use crate::context::Context;
use crate::layout::MAX_RANGE_EXPONENT;
use crate::numbering::RoundNumber;
use crate::secret::hash_parts;

/// Bits of an entry such that `sites` of them cannot wrap: `32 − ceil(log2 n)`.
pub const fn entry_bits(sites: usize) -> u32 {
    32 - sites.next_power_of_two().trailing_zeros()
}

/// Largest exact integer that each of `sites` sites may put into one word without the sum wrapping.
pub const fn count_limit(sites: usize) -> u32 {
    u32::MAX >> (32 - entry_bits(sites))
}

/// Ranges of update blocks never fall further below the clip norm: 2^-20.
pub const LEAST_RANGE_STEPS: i16 = 20;

/// The smallest power of two that is at least `bound`, as its exponent within what a layout holds.
pub fn range_exponent(bound: f64) -> i16 {
    let limit = f64::from(MAX_RANGE_EXPONENT);
    // A bound of zero has no logarithm; the smallest range holds it. NaN counts as unbounded.
    let exponent = if bound > 0.0 {
        bound.log2().ceil()
    } else if bound.is_nan() {
        limit
    } else {
        -limit
    };
    exponent.clamp(-limit, limit) as i16
}

/// The range of an update block: the clip norm at first, afterwards `min(C, 16 · max|previous aggregate|)`,
/// rounded up, never below `2^-20 · C`.
pub fn update_range_exponent(clip_norm: ClipNorm, previous_largest: Option<f64>) -> i16 {
    let largest = range_exponent(clip_norm.get());
    match previous_largest {
        None => largest,
        Some(previous) => range_exponent(16.0 * previous).clamp(largest - LEAST_RANGE_STEPS, largest),
    }
}

/// Why a site's numbers cannot be summed. All are the site's own fault, and it uploads nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Not the layout's number of entries.
    #[error("{got} entries, and the layout has {want}")]
    Length {
        /// Entries given.
        got: usize,
        /// Entries of the layout.
        want: usize,
    },
    /// An update that is infinite or not a number.
    #[error("entry {index} of the update is not finite")]
    NotFinite {
        /// Its position.
        index: usize,
    },
    /// A weight of nothing, or over the study's largest.
    #[error("a weight of {got} is not between 1 and {cap}")]
    Weight {
        /// The weight.
        got: u32,
        /// The study's largest.
        cap: u32,
    },
    /// An exact integer that could wrap in the sum.
    #[error("count {index} is {got}, and the sum holds at most {limit} per site")]
    Count {
        /// Which.
        index: usize,
        /// The integer.
        got: u32,
        /// The largest that cannot wrap.
        limit: u32,
    },
}

/// Key of the rounding of one site in one round.
#[derive(Clone)]
pub struct RoundingKey([u8; 32]);

impl RoundingKey {
    /// The key. Attempts and pair keys have no influence on it.
    pub fn new(study_seed: u64, site: &SiteName, round: RoundNumber) -> Self {
        Self(*hash_parts("rounding", &(study_seed, site, round)).as_bytes())
    }

    fn stream(&self) -> Ctr64LE<Aes256> {
        Ctr64LE::new((&self.0).into(), &[0; 16].into())
    }
}

/// The vector of a site: its weight, its update and exact integers. Every word is what the site contributes.
pub fn encode(
    context: &Context,
    weight: u32,
    update: &ClippedUpdate,
    counts: &[u32],
    rounding: &RoundingKey,
) -> Result<Vec<u32>, EncodeError> {
    let layout = &context.layout;
    let mut words = frame(context, weight, update.entries().len(), counts)?;
    let bits = entry_bits(context.selection.len());
    let largest = f64::from(((1u64 << (bits - 1)) - 1) as u32);
    let share = f64::from(weight) / f64::from(context.weight_cap);
    let mut dice = rounding.stream();
    let mut noise = [0u8; 4096];
    let mut entries = update.entries();
    let mut at = layout.update().start;
    for (index, block) in layout.blocks().iter().enumerate() {
        let scale = share * f64::from(bits - 1).exp2() / block.range();
        let mut saturated = 0;
        let (part, rest) = entries.split_at(block.length as usize);
        for some in part.chunks(noise.len() / 4) {
            let noise = &mut noise[..some.len() * 4];
            dice.write_keystream(noise);
            let (noise, _) = noise.as_chunks::<4>();
            for ((entry, noise), word) in some.iter().zip(noise).zip(&mut words[at..]) {
                // Uniform in (0, 1): the floor of value plus noise is unbiased.
                let up = (f64::from(u32::from_le_bytes(*noise)) + 0.5) / 2f64.powi(32);
                let value = (f64::from(*entry) * scale + up).floor();
                saturated += u32::from(value.abs() > largest);
                *word = value.clamp(-largest, largest) as i32 as u32;
            }
            at += some.len();
        }
        entries = rest;
        words[layout.saturated().start + index] = saturated.min(count_limit(context.selection.len()));
    }
    if let Some(clipped) = layout.clipped() {
        words[clipped] = u32::from(update.was_clipped());
    }
    Ok(words)
}

/// The vector of a sum without update blocks, as evaluations and statistics use. Every site weighs 1.
pub fn encode_counts(context: &Context, counts: &[u32]) -> Result<Vec<u32>, EncodeError> {
    frame(context, 1, 0, counts)
}

/// Checks lengths and limits, and writes weight and exact integers.
fn frame(context: &Context, weight: u32, entries: usize, counts: &[u32]) -> Result<Vec<u32>, EncodeError> {
    let layout = &context.layout;
    for (got, want) in [(entries, layout.update().len()), (counts.len(), layout.counts().len())] {
        if got != want {
            return Err(EncodeError::Length { got, want });
        }
    }
    let cap = context.weight_cap;
    if weight == 0 || weight > cap {
        return Err(EncodeError::Weight { got: weight, cap });
    }
    let limit = count_limit(context.selection.len());
    if let Some((index, got)) = counts.iter().enumerate().find(|(_, count)| **count > limit) {
        return Err(EncodeError::Count { index, got: *got, limit });
    }
    let mut words = vec![0; layout.words()];
    words[layout.weight()] = weight;
    words[layout.counts()].copy_from_slice(counts);
    Ok(words)
}

/// What a sum says.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Sum of the weights.
    pub weight: u32,
    /// Weighted mean of the updates, shape `[params]`.
    pub update: Vec<f32>,
    /// Saturated entries per block, over all sites.
    pub saturated: Vec<u32>,
    /// How many sites clipped their update.
    pub clipped: u32,
    /// The exact integers, summed.
    pub counts: Vec<u32>,
}

/// A sum that no survivors' vectors lead to: a site sent other values than the protocol allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the layout's length.
    #[error("{got} words, and the layout has {want}")]
    Length {
        /// Words given.
        got: usize,
        /// Words of the layout.
        want: usize,
    },
    /// A sum of weights that the survivors cannot have.
    #[error("the weights of {sites} sites sum to {got}")]
    Weight {
        /// The sum.
        got: u32,
        /// Sites in the Selection.
        sites: usize,
    },
}

/// Reads a sum of vectors. The mean update takes the place of the sum, so that one vector is in memory.
pub fn decode(context: &Context, mut words: Vec<u32>) -> Result<Aggregate, DecodeError> {
    let layout = &context.layout;
    if words.len() != layout.words() {
        return Err(DecodeError::Length { got: words.len(), want: layout.words() });
    }
    let sites = context.selection.len();
    let weight = words[layout.weight()];
    if weight == 0 || u64::from(weight) > u64::from(context.weight_cap) * sites as u64 {
        return Err(DecodeError::Weight { got: weight, sites });
    }
    let step = f64::from(context.weight_cap) / (f64::from(entry_bits(sites) - 1).exp2() * f64::from(weight));
    let saturated = words[layout.saturated()].to_vec();
    let clipped = layout.clipped().map_or(0, |at| words[at]);
    let counts = words[layout.counts()].to_vec();
    let mut rest = &mut words[layout.update()];
    for block in layout.blocks() {
        let scale = block.range() * step;
        let (part, after) = rest.split_at_mut(block.length as usize);
        for word in part {
            *word = ((f64::from(word.cast_signed()) * scale) as f32).to_bits();
        }
        rest = after;
    }
    words.truncate(layout.update().end);
    words.drain(..layout.update().start);
    // The standard library collects into the same allocation.
    let update = words.into_iter().map(f32::from_bits).collect();
    Ok(Aggregate { weight, update, saturated, clipped, counts })
}

#[cfg(test)]
mod tests;
