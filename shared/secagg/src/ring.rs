//! The rings that vectors are summed in, and how two words are added.
//!
//! Exact integers always stand in words of `Z_{2^32}`. In the packed ring the rotated updates behind them stand two to a
//! word, each in a lane of `Z_{2^16}` with a carry that ends at its own edge: a word is then an element of
//! `Z_{2^16} × Z_{2^16}`, and a uniform word masks both lanes. Where the one kind ends and the other begins is a number of
//! words, the *exact* ones.

use pulp::Arch;

use crate::layout::Layout;

/// How the numbers of update blocks are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ring {
    /// One word an entry, in `Z_{2^32}`.
    #[default]
    Words,
    /// Rotated, two lanes of `Z_{2^16}` to a word.
    Packed,
}

impl Ring {
    /// Bits of an update's number, as contexts and studies write it.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Words => 32,
            Self::Packed => 16,
        }
    }

    /// The ring that a context or a study names.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            32 => Some(Self::Words),
            16 => Some(Self::Packed),
            _ => None,
        }
    }
}

/// Whether words are added or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Plus,
    Minus,
}

/// The upper bit of each lane, where a carry would leave it.
const TOPS: u32 = 0x8000_8000;

/// Adds two pairs of lanes: the lower 15 bits cannot carry out of a lane, and the upper one is added without carry.
const fn add_lanes(a: u32, b: u32) -> u32 {
    ((a & !TOPS) + (b & !TOPS)) ^ ((a ^ b) & TOPS)
}

/// Subtracts two pairs of lanes: the borrowed upper bit keeps each lane's difference above zero.
const fn subtract_lanes(a: u32, b: u32) -> u32 {
    ((a | TOPS) - (b & !TOPS)) ^ ((a ^ !b) & TOPS)
}

/// Joins little-endian words with words, of which the first `exact` are in `Z_{2^32}` and the others are pairs of lanes.
pub(crate) fn combine(simd: Arch, words: &mut [u32], bytes: &[[u8; 4]], exact: usize, sign: Sign) {
    let (whole, lanes) = words.split_at_mut(exact.min(words.len()));
    let (of_whole, of_lanes) = bytes.split_at(whole.len());
    match sign {
        Sign::Plus => simd.dispatch(|| {
            each(whole, of_whole, u32::wrapping_add);
            each(lanes, of_lanes, add_lanes);
        }),
        Sign::Minus => simd.dispatch(|| {
            each(whole, of_whole, u32::wrapping_sub);
            each(lanes, of_lanes, subtract_lanes);
        }),
    }
}

/// Inlined into a `dispatch`, it is compiled for each kind of vector unit.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
fn each(words: &mut [u32], bytes: &[[u8; 4]], join: impl Fn(u32, u32) -> u32) {
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = join(*word, u32::from_le_bytes(*bytes));
    }
}

/// Adds a vector that is not masked to a sum of such vectors, as simulations do to compare.
pub fn add_plain(layout: &Layout, sum: &mut [u32], vector: &[u32]) {
    let exact = layout.exact_words();
    for (at, (total, word)) in sum.iter_mut().zip(vector).enumerate() {
        *total = if at < exact { total.wrapping_add(*word) } else { add_lanes(*total, *word) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lanes(word: u32) -> [u16; 2] {
        [word as u16, (word >> 16) as u16]
    }

    fn each_lane(a: u32, b: u32, join: fn(u16, u16) -> u16) -> [u16; 2] {
        std::array::from_fn(|lane| join(lanes(a)[lane], lanes(b)[lane]))
    }

    #[test]
    fn no_lane_carries_into_the_other_at_the_edges() {
        let edges = [0u16, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let words: Vec<u32> = edges
            .iter()
            .flat_map(|low| edges.iter().map(|high| u32::from(*low) | u32::from(*high) << 16))
            .collect();
        for a in &words {
            for b in &words {
                assert_eq!(lanes(add_lanes(*a, *b)), each_lane(*a, *b, u16::wrapping_add), "{a:x} + {b:x}");
                assert_eq!(
                    lanes(subtract_lanes(*a, *b)),
                    each_lane(*a, *b, u16::wrapping_sub),
                    "{a:x} - {b:x}"
                );
            }
        }
    }

    #[test]
    fn exact_words_carry_and_lanes_do_not() {
        let mut words = [u32::MAX, 0x0000_ffff, 0x0000_ffff];
        let ones = [1u32.to_le_bytes(); 3];
        combine(Arch::new(), &mut words, &ones, 2, Sign::Plus);
        assert_eq!(words, [0, 0x0001_0000, 0]);
        combine(Arch::new(), &mut words, &ones, 2, Sign::Minus);
        assert_eq!(words, [u32::MAX, 0x0000_ffff, 0x0000_ffff]);
    }

    #[test]
    fn rings_have_the_names_that_studies_write() {
        for ring in [Ring::Words, Ring::Packed] {
            assert_eq!(Ring::from_bits(u32::from(ring.bits())), Some(ring));
        }
        assert_eq!(Ring::from_bits(0), None);
    }

    proptest! {
        /// Lanes are those of two 16-bit sums, and what was added can be taken away again.
        #[test]
        fn lanes_add_and_subtract_apart(a: u32, b: u32) {
            prop_assert_eq!(lanes(add_lanes(a, b)), each_lane(a, b, u16::wrapping_add));
            prop_assert_eq!(lanes(subtract_lanes(a, b)), each_lane(a, b, u16::wrapping_sub));
            prop_assert_eq!(subtract_lanes(add_lanes(a, b), b), a);
        }
    }
}
