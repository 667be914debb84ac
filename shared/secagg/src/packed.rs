//! The packed ring: updates in 16 bits an entry, for slow links.
//!
//! A block of trained parameters is rotated ([`crate::rotation`]) and each lane becomes
//! `v = round_stochastic(y · (w / w_cap) · Q / range)`, saturating at `±Q`, with `Q = floor((2^15 − 1) / n)`: no sum of `n`
//! sites leaves a lane. (Where `n` is a power of two these are the `16 − log2 n` bits of Suresh et al. 2017; elsewhere
//! what a whole bit would waste is used.) The mean is the sum, rotated back, times `range · w_cap / (Q · Σw)`.
//! Statistics of normalisations, weight and counts stay exact integers or entries in words of 32 bits.
//!
//! *Error.* Without saturation each lane of each site is rounded by less than a step, without bias, with a variance of at
//! most a quarter step squared; the rotation keeps lengths. So the L2 error of a block's mean is below
//! `n · step · √lanes`, and its square is on average at most `n · lanes · step² / 4`, with
//! `step = range · w_cap / (Q · Σw)` (and 2^-20 of the block's length for the floats of 32 bits in between).
//!
//! *Ranges.* A rotated entry is about normal with the root mean square `σ` of its piece, so a range of several `σ` does
//! for an update of any shape, where the 32-bit ring has to allow for its largest entry.

use std::num::Wrapping;

use aes::cipher::StreamCipher;
use pulp::Arch;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::layout::{Block, BlockKind};
use crate::quantiser::{ClipNorm, RoundingKey, STRETCH, entry_bits, mean, range_exponent, round};
use crate::rotation::{LONGEST_PIECE, Signs, piece, rotate, rotate_back};

/// Ranges of packed blocks never fall further below the clip norm: 2^-40.
pub(crate) const LEAST_RANGE_STEPS: i16 = 40;
/// Most doublings of the ranges for entries that saturate.
pub const WIDEST_SPREAD: u8 = 12;

/// The largest magnitude that each of `sites` sites may put into a lane without the sum leaving it.
pub const fn lane_limit(sites: usize) -> u32 {
    0x7fff / sites as u32
}

/// The range in the first round: sixteen times the root mean square of an update that is as long as the clip norm and
/// spread evenly over `parameters` entries.
pub fn first_range_exponent(clip_norm: ClipNorm, parameters: usize) -> i16 {
    within(clip_norm, range_exponent(16.0 * clip_norm.get() / (parameters.max(1) as f64).sqrt()))
}

/// The range after an aggregate of which the heaviest site sends, if all agree, lanes of the root mean square `typical`:
/// six times that, rounded up, and doubled `spread` times.
pub fn range_exponent_after(clip_norm: ClipNorm, typical: f64, spread: u8) -> i16 {
    within(clip_norm, range_exponent(6.0 * typical) + i16::from(spread))
}

/// No rotated entry of a clipped update is larger than the clip norm.
fn within(clip_norm: ClipNorm, exponent: i16) -> i16 {
    let largest = range_exponent(clip_norm.get());
    exponent.clamp(largest - LEAST_RANGE_STEPS, largest)
}

/// Whether so many saturated entries, of `parameters` from each of `sites` sites, call for wider ranges: more than one in
/// 2^16. Hospitals that disagree, or of which one counts most, have shares that are longer than their mean says.
pub const fn is_crowded(saturated: u64, parameters: usize, sites: usize) -> bool {
    saturated > (parameters as u64 * sites as u64) >> 16
}

/// The words of a site's update, in a vector that has everything else still to come, and the saturated entries of each
/// block. `share` is the weight by the weight cap.
pub(crate) fn fill(
    context: &Context,
    share: f64,
    entries: Vec<f32>,
    rounding: &RoundingKey,
) -> (Vec<u32>, Vec<u32>) {
    let entries = Zeroizing::new(entries);
    let layout = &context.layout;
    let sites = context.selection.len();
    let mut words = vec![0; layout.words()];
    let mut saturated = vec![0; layout.blocks().len()];
    let mut dice = Dice { stream: rounding.stream(), simd: Arch::new() };

    let bits = entry_bits(sites);
    let largest = f64::from(((1u64 << (bits - 1)) - 1) as u32);
    let mut at = layout.update().start;
    for (index, block, entries) in blocks(layout.blocks(), &entries, BlockKind::Statistics) {
        let scale = share * f64::from(bits - 1).exp2() / block.range();
        saturated[index] = dice.round(entries, scale, largest, &mut words[at..at + entries.len()]);
        at += entries.len();
    }

    let largest = f64::from(lane_limit(sites));
    let mut signs = Signs::of(context);
    let mut values = Zeroizing::new(vec![0f32; LONGEST_PIECE]);
    let mut rounded = Zeroizing::new(vec![0u32; LONGEST_PIECE]);
    let mut at = layout.exact_words();
    for (index, block, entries) in blocks(layout.blocks(), &entries, BlockKind::Update) {
        let piece = piece(entries.len());
        let scale = share * largest / (block.range() * (piece as f64).sqrt());
        let (values, rounded) = (&mut values[..piece], &mut rounded[..piece]);
        for entries in entries.chunks(piece) {
            values[..entries.len()].copy_from_slice(entries);
            values[entries.len()..].fill(0.0);
            let signs = signs.next(piece);
            dice.simd.dispatch(|| rotate(values, signs));
            let over = dice.round(values, scale, largest, rounded);
            saturated[index] = u32::saturating_add(saturated[index], over);
            for (word, pair) in words[at..].iter_mut().zip(rounded.as_chunks::<2>().0) {
                *word = pair[0] & 0xffff | pair[1] << 16;
            }
            at += piece / 2;
        }
    }
    (words, saturated)
}

/// Rounds with the numbers of one stream, front to back.
struct Dice<S> {
    stream: S,
    simd: Arch,
}

impl<S: StreamCipher> Dice<S> {
    /// Rounds entries to words and counts those beyond the range.
    fn round(&mut self, entries: &[f32], scale: f64, largest: f64, words: &mut [u32]) -> u32 {
        let mut noise = [0u8; STRETCH * 2];
        let entries = bytemuck::cast_slice::<f32, u32>(entries);
        let mut saturated = 0u32;
        for (entries, words) in entries.chunks(STRETCH).zip(words.chunks_mut(STRETCH)) {
            let noise = &mut noise[..entries.len() * 2];
            self.stream.write_keystream(noise);
            let (noise, _) = noise.as_chunks::<2>();
            saturated += self.simd.dispatch(|| round(entries, noise, scale, largest, words));
        }
        saturated
    }
}

/// The blocks of one kind, each with its index and its entries.
fn blocks<'a>(
    blocks: &'a [Block],
    entries: &'a [f32],
    kind: BlockKind,
) -> impl Iterator<Item = (usize, &'a Block, &'a [f32])> {
    let mut rest = entries;
    let each = blocks.iter().enumerate().map(move |(index, block)| {
        let (part, after) = rest.split_at(block.length as usize);
        rest = after;
        (index, block, part)
    });
    each.filter(move |(_, block, _)| block.kind == kind)
}

/// The mean update of a sum whose weights add up to `weight`, shape `[params]`.
pub(crate) fn read(context: &Context, weight: u32, words: &[u32]) -> Vec<f32> {
    let layout = &context.layout;
    let sites = context.selection.len();
    let whole = |steps: f64| f64::from(context.weight_cap) / (steps * f64::from(weight));
    let of_words = whole(f64::from(entry_bits(sites) - 1).exp2());
    let of_lanes = whole(f64::from(lane_limit(sites)));
    let simd = Arch::new();
    let mut signs = Signs::of(context);
    let mut sums = vec![Wrapping(0); LONGEST_PIECE];
    let mut update = vec![0f32; layout.entries()];
    let mut rest = update.as_mut_slice();
    let (mut exact, mut packed) = words.split_at(layout.exact_words());
    exact = &exact[layout.update().start..];
    for block in layout.blocks() {
        let (part, after) = rest.split_at_mut(block.length as usize);
        rest = after;
        if block.kind == BlockKind::Statistics {
            let means = bytemuck::cast_slice_mut::<f32, u32>(part);
            simd.dispatch(|| mean(&exact[..means.len()], block.range() * of_words, means));
            exact = &exact[part.len()..];
            continue;
        }
        let piece = piece(part.len());
        let scale = block.range() * of_lanes / (piece as f64).sqrt();
        let sums = &mut sums[..piece];
        for part in part.chunks_mut(piece) {
            let (lanes, after) = packed.split_at(piece / 2);
            packed = after;
            let signs = signs.next(piece);
            simd.dispatch(|| {
                unpack(lanes, sums);
                rotate_back(sums, signs);
                for (entry, sum) in part.iter_mut().zip(&*sums) {
                    *entry = (f64::from(sum.0) * scale) as f32;
                }
            });
        }
    }
    update
}

/// Words to the signed lanes in them, the lower one first.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
fn unpack(words: &[u32], sums: &mut [Wrapping<i32>]) {
    for (word, pair) in words.iter().zip(sums.as_chunks_mut::<2>().0) {
        *pair = [word << 16, *word].map(|lane| Wrapping(lane.cast_signed() >> 16));
    }
}

#[cfg(test)]
mod tests;
