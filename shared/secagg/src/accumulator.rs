//! Adding masked vectors, and taking the opened masks out of the sum.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use pulp::Arch;

use crate::context::Context;
use crate::layout::{CHUNK_WORDS, Layout};
use crate::mask::{Mask, Role, Sign, apply_from};
use crate::numbering::SiteIndex;
use crate::ring::combine;
use crate::secret::MaskSeed;

/// A seed that was opened. It belongs to evidence: with the masked vectors it lets an auditor add again.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenedMask {
    /// A survivor.
    #[n(0)]
    pub survivor: SiteIndex,
    /// The dropped site that the seed is shared with; the survivor itself for its self mask.
    #[n(1)]
    pub peer: SiteIndex,
    /// The seed.
    #[n(2)]
    pub seed: ByteArray<32>,
}

impl std::fmt::Debug for OpenedMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenedMask({}, {})", self.survivor, self.peer)
    }
}

/// All masks that stand in the sum of the survivors, each opened.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenedSeeds {
    /// In the order of survivors, then peers.
    #[n(0)]
    pub masks: Vec<OpenedMask>,
}

impl OpenedSeeds {
    /// The masks that stand in the sum over one group of a Selection.
    #[must_use]
    pub fn of_group(&self, context: &Context, group: u16) -> Self {
        let within = |mask: &&OpenedMask| context.group_of(mask.survivor) == group;
        Self { masks: self.masks.iter().filter(within).cloned().collect() }
    }
}

/// The sum of masked vectors, in the ring of their layout.
pub struct Accumulator {
    words: Vec<u32>,
    /// How many of them are in `Z_{2^32}`.
    exact: usize,
}

/// A chunk that does not belong into the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("chunk {index} has {got} bytes instead of {want}")]
pub struct WrongChunk {
    /// Its index.
    pub index: usize,
    /// Its length.
    pub got: usize,
    /// The length that it has to have; 0 where the vector has no such chunk.
    pub want: usize,
}

impl Accumulator {
    /// An empty sum of vectors of this layout.
    pub fn new(layout: &Layout) -> Self {
        Self { words: vec![0; layout.words()], exact: layout.exact_words() }
    }

    /// Adds chunk `index` of a site's masked vector. Only chunks that match their receipt may be added.
    pub fn add_chunk(&mut self, index: usize, bytes: &[u8]) -> Result<(), WrongChunk> {
        self.combine(index, bytes, Sign::Plus)
    }

    /// Takes a chunk out again.
    pub fn remove_chunk(&mut self, index: usize, bytes: &[u8]) -> Result<(), WrongChunk> {
        self.combine(index, bytes, Sign::Minus)
    }

    fn combine(&mut self, index: usize, bytes: &[u8], sign: Sign) -> Result<(), WrongChunk> {
        let part = index
            .checked_mul(CHUNK_WORDS)
            .and_then(|start| self.words.get_mut(start..))
            .map(|rest| {
                let length = rest.len().min(CHUNK_WORDS);
                &mut rest[..length]
            })
            .unwrap_or_default();
        if part.is_empty() || bytes.len() != part.len() * 4 {
            return Err(WrongChunk { index, got: bytes.len(), want: part.len() * 4 });
        }
        let exact = self.exact.saturating_sub(index * CHUNK_WORDS);
        combine(Arch::new(), part, bytes.as_chunks::<4>().0, exact, sign);
        Ok(())
    }

    /// Takes all opened masks out of the sum, in one pass over it, on so many threads.
    pub fn remove_masks(&mut self, context: &Context, opened: &OpenedSeeds, threads: usize) {
        let ctx = context.hash();
        let masks: Vec<_> = opened
            .masks
            .iter()
            .map(|mask| {
                let seed = MaskSeed::from_bytes(&mask.seed);
                let (role, sign) = if mask.survivor == mask.peer {
                    (Role::Own, Sign::Plus)
                } else {
                    (Role::Pair, Sign::of_pair(mask.survivor, mask.peer))
                };
                Mask::new(&seed, &ctx, role, sign.undo())
            })
            .collect();
        apply_from(&masks, 0, &mut self.words, self.exact, threads);
    }

    /// The sum.
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_other_lengths_are_refused() {
        let mut sum = Accumulator::new(&Layout::of_counts(CHUNK_WORDS as u32 + 1));
        assert_eq!(sum.add_chunk(1, &[1, 0, 0, 0, 2, 0, 0, 0]), Ok(()));
        assert_eq!(sum.add_chunk(1, &[1, 0, 0, 0]), Err(WrongChunk { index: 1, got: 4, want: 8 }));
        assert_eq!(sum.add_chunk(2, &[]), Err(WrongChunk { index: 2, got: 0, want: 0 }));
        assert!(sum.add_chunk(usize::MAX, &[0; 4]).is_err());
        assert!(sum.add_chunk(0, &[0; 8]).is_err());
        assert_eq!(sum.remove_chunk(1, &[1, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(sum.into_words()[CHUNK_WORDS..], [0, 2]);
    }
}
