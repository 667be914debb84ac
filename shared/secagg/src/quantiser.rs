//! Numbers to integers of the ring, so that a sum of integers is a weighted mean of updates.
//!
//! `v[j] = round_stochastic(Δ[j] · (w / w_cap) · 2^(bits−1) / range_b)` with `bits = 32 − ceil(log2 n)`,
//! saturating at `±(2^(bits−1) − 1)`, so that no sum of `n` sites wraps. The mean is
//! `Σv · range_b · w_cap / (2^(bits−1) · Σw)`. Rounding is unbiased and repeats: its randomness depends on
//! study seed, site and round only, so that a new attempt of a round quantises to the same integers.
//!
//! In the packed ring trained parameters are rotated and take 16 bits instead ([`crate::packed`]).
//!
//! Saturated entries are counted per block, and clipped updates by one flag, under the mask.

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use consilium_study::name::SiteName;
use ctr::Ctr64LE;
use pulp::Arch;
use zeroize::Zeroize;

pub use crate::clip::{ClipNorm, ClippedUpdate};
use crate::context::Context;
use crate::layout::MAX_RANGE_EXPONENT;
use crate::numbering::RoundNumber;
use crate::packed;
use crate::ring::Ring;
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

    pub(crate) fn stream(&self) -> Ctr64LE<Aes256> {
        Ctr64LE::new((&self.0).into(), &[0; 16].into())
    }
}

/// Words that are worked on at a time: short enough that the memory's next words are fetched meanwhile.
pub(crate) const STRETCH: usize = 512;

/// The vector of a site: its weight, its update and exact integers. Every word is what the site contributes. The words
/// take the place of the update's entries, so that one vector is in memory.
pub fn encode(
    context: &Context,
    weight: u32,
    update: ClippedUpdate,
    counts: &[u32],
    rounding: &RoundingKey,
) -> Result<Vec<u32>, EncodeError> {
    encode_on(1, context, weight, update, counts, rounding)
}

/// The same on so many threads, where updates are not packed. The words do not depend on their number.
pub fn encode_on(
    threads: usize,
    context: &Context,
    weight: u32,
    update: ClippedUpdate,
    counts: &[u32],
    rounding: &RoundingKey,
) -> Result<Vec<u32>, EncodeError> {
    let (entries, was_clipped) = update.into_parts();
    check_frame(context, weight, entries.len(), counts)?;
    let layout = &context.layout;
    let share = f64::from(weight) / f64::from(context.weight_cap);
    let (mut words, saturated) = match layout.ring() {
        Ring::Words => fill(context, share, entries, rounding, threads),
        Ring::Packed => packed::fill(context, share, entries, rounding),
    };
    let limit = count_limit(context.selection.len());
    for (word, saturated) in words[layout.saturated()].iter_mut().zip(saturated) {
        *word = saturated.min(limit);
    }
    if let Some(at) = layout.clipped() {
        words[at] = was_clipped.into();
    }
    words[layout.weight()] = weight;
    words[layout.counts()].copy_from_slice(counts);
    Ok(words)
}

/// The words of a site's update, in a vector that has everything else still to come, and the saturated entries of each
/// block. `share` is the weight by the weight cap.
fn fill(
    context: &Context,
    share: f64,
    entries: Vec<f32>,
    rounding: &RoundingKey,
    threads: usize,
) -> (Vec<u32>, Vec<u32>) {
    let layout = &context.layout;
    let count = entries.len();
    let mut words = bytemuck::cast_vec::<f32, u32>(entries);
    words.resize(layout.words(), 0);
    let bits = entry_bits(context.selection.len());
    let mut saturated = vec![0; layout.blocks().len()];
    if count == 0 {
        return (words, saturated);
    }
    let length = count.div_ceil(threads.max(1)).next_multiple_of(STRETCH);
    let work = |mut part: Part<'_>| {
        let mut over = Vec::new();
        let mut dice = rounding.stream();
        dice.seek(part.from as u64 * 2);
        let mut at = 0;
        for block in layout.blocks() {
            let scale = share * f64::from(bits - 1).exp2() / block.range();
            let end = at + block.length as usize;
            over.push(part.round_to(end, &mut dice, scale, bits));
            at = end;
        }
        over
    };
    let overs = std::thread::scope(|scope| {
        let mut parts = Part::split(&mut words[..=count], length);
        // The last part is this thread's own.
        let own = parts.pop();
        let others: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
        let own = own.map(work);
        let others = others.into_iter().map(|other| other.join().expect("rounding numbers does not panic"));
        others.chain(own).collect::<Vec<_>>()
    });
    for overs in overs {
        for (all, over) in saturated.iter_mut().zip(overs) {
            *all = u32::saturating_add(*all, over);
        }
    }
    (words, saturated)
}

/// A stretch of the update in the making. The word of an entry stands one place behind it, so the first entry is kept
/// aside, and the others stand one place before their words.
struct Part<'w> {
    /// Number of the first entry.
    from: usize,
    /// Entries that are rounded already.
    done: usize,
    next: u32,
    /// One for each entry of the part: its word in the end, before that the next entry.
    places: &'w mut [u32],
}

impl<'w> Part<'w> {
    /// Splits entries that stand at the front of `words`, which is one longer, into parts of so many.
    fn split(words: &'w mut [u32], length: usize) -> Vec<Self> {
        let Some((first, mut rest)) = words.split_first_mut() else { return Vec::new() };
        let (mut parts, mut next, mut from) = (Vec::new(), *first, 0);
        while !rest.is_empty() {
            let (places, after) = rest.split_at_mut(length.min(rest.len()));
            // The last place of a part holds the first entry of the one after it.
            let after_next = places.last().copied().unwrap_or_default();
            let taken = places.len();
            parts.push(Self { from, done: 0, next, places });
            (rest, next, from) = (after, after_next, from + taken);
        }
        parts
    }

    /// Rounds the entries before number `end`, and counts those beyond the range.
    fn round_to(&mut self, end: usize, dice: &mut impl StreamCipher, scale: f64, bits: u32) -> u32 {
        let largest = f64::from(((1u64 << (bits - 1)) - 1) as u32);
        let simd = Arch::new();
        let mut noise = [0u8; STRETCH * 2];
        let mut entries = [0u32; STRETCH];
        let end = end.saturating_sub(self.from).min(self.places.len());
        let mut over = 0u32;
        while self.done < end {
            let length = STRETCH.min(end - self.done);
            let (entries, noise) = (&mut entries[..length], &mut noise[..length * 2]);
            let places = &mut self.places[self.done..self.done + length];
            entries[0] = std::mem::replace(&mut self.next, places[length - 1]);
            entries[1..].copy_from_slice(&places[..length - 1]);
            dice.write_keystream(noise);
            let (noise, _) = noise.as_chunks::<2>();
            over = over.saturating_add(simd.dispatch(|| round(entries, noise, scale, largest, places)));
            self.done += length;
        }
        entries.zeroize();
        over
    }
}

/// Rounds entries, given as the bits of their floats, to words, and counts those beyond the range. Compiled for each
/// kind of vector unit; every operation is one of IEEE 754, so the words are the same on all.
#[inline(always)]
pub(crate) fn round(entries: &[u32], noise: &[[u8; 2]], scale: f64, largest: f64, words: &mut [u32]) -> u32 {
    /// Added to a whole number below 2^51 in magnitude, it leaves that number in the low bits.
    const ALIGN: f64 = 6_755_399_441_055_744.0;
    let mut saturated = 0u32;
    for ((entry, noise), word) in entries.iter().zip(noise).zip(words) {
        // Uniform in (0, 1): the floor of value plus noise is unbiased, to within 2^-17 of a step.
        let up = (f64::from(u16::from_le_bytes(*noise)) + 0.5) * 2f64.powi(-16);
        let value = (f64::from(f32::from_bits(*entry)) * scale + up).floor();
        // Entries are finite, so no comparison is one of NaN.
        let held = if value < -largest { -largest } else { value };
        let held = if held > largest { largest } else { held };
        // At most one for each of the 2^32 words of a vector.
        saturated = saturated.wrapping_add(u32::from(value.abs() > largest));
        *word = (held + ALIGN).to_bits() as u32;
    }
    saturated
}

/// The vector of a sum without update blocks, as evaluations and statistics use. Every site weighs 1.
pub fn encode_counts(context: &Context, counts: &[u32]) -> Result<Vec<u32>, EncodeError> {
    let weight = 1;
    check_frame(context, weight, 0, counts)?;
    let layout = &context.layout;
    let mut words = vec![0; layout.words()];
    words[layout.weight()] = weight;
    words[layout.counts()].copy_from_slice(counts);
    Ok(words)
}

/// Checks lengths and limits.
fn check_frame(context: &Context, weight: u32, entries: usize, counts: &[u32]) -> Result<(), EncodeError> {
    let layout = &context.layout;
    for (got, want) in [(entries, layout.entries()), (counts.len(), layout.counts().len())] {
        if got != want {
            return Err(EncodeError::Length { got, want });
        }
    }
    let cap = context.weight_cap;
    if weight == 0 || weight > cap {
        return Err(EncodeError::Weight { got: weight, cap });
    }
    let limit = count_limit(context.selection.len());
    match counts.iter().enumerate().find(|(_, count)| **count > limit) {
        Some((index, got)) => Err(EncodeError::Count { index, got: *got, limit }),
        None => Ok(()),
    }
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

/// Reads a sum of vectors.
pub fn decode(context: &Context, words: Vec<u32>) -> Result<Aggregate, DecodeError> {
    let layout = &context.layout;
    if words.len() != layout.words() {
        return Err(DecodeError::Length { got: words.len(), want: layout.words() });
    }
    let sites = context.selection.len();
    let weight = words[layout.weight()];
    if weight == 0 || u64::from(weight) > u64::from(context.weight_cap) * sites as u64 {
        return Err(DecodeError::Weight { got: weight, sites });
    }
    let saturated = words[layout.saturated()].to_vec();
    let clipped = layout.clipped().map_or(0, |at| words[at]);
    let counts = words[layout.counts()].to_vec();
    let update = match layout.ring() {
        Ring::Words => read(context, weight, words),
        Ring::Packed => packed::read(context, weight, &words),
    };
    Ok(Aggregate { weight, update, saturated, clipped, counts })
}

/// The mean update of a sum whose weights add up to `weight`. It takes the place of the sum, so that one vector is in
/// memory.
fn read(context: &Context, weight: u32, mut words: Vec<u32>) -> Vec<f32> {
    let layout = &context.layout;
    let sites = context.selection.len();
    let step = f64::from(context.weight_cap) / (f64::from(entry_bits(sites) - 1).exp2() * f64::from(weight));
    let simd = Arch::new();
    let mut means = [0u32; STRETCH];
    let mut from = layout.update().start;
    let mut to = 0;
    for block in layout.blocks() {
        let scale = block.range() * step;
        let end = from + block.length as usize;
        while from < end {
            let length = STRETCH.min(end - from);
            let means = &mut means[..length];
            simd.dispatch(|| mean(&words[from..from + length], scale, means));
            words[to..to + length].copy_from_slice(means);
            from += length;
            to += length;
        }
    }
    words.truncate(to);
    bytemuck::cast_vec(words)
}

/// Words of a sum to the bits of the mean's entries.
#[expect(
    clippy::inline_always,
    reason = "what is dispatched is compiled for the unit only where it is inlined"
)]
#[inline(always)]
pub(crate) fn mean(words: &[u32], scale: f64, means: &mut [u32]) {
    for (word, mean) in words.iter().zip(means) {
        *mean = ((f64::from(word.cast_signed()) * scale) as f32).to_bits();
    }
}

#[cfg(test)]
mod tests;
