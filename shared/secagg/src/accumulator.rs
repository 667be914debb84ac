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
        combine_chunk(part, index, bytes, self.exact, sign)
    }

    /// Adds so many whole vectors, on so many threads; `read(vector, index)` returns chunk `index` of one. A chunk of
    /// every vector, then the next, so that the sum's stays in the cache: each thread asks in that order.
    pub fn add_vectors<B: AsRef<[u8]>, E: From<WrongChunk> + Send>(
        &mut self,
        vectors: usize,
        threads: usize,
        read: impl Fn(usize, usize) -> Result<B, E> + Sync,
    ) -> Result<(), E> {
        let length = self.words.len().div_ceil(CHUNK_WORDS).div_ceil(threads.max(1)).max(1);
        let exact = self.exact;
        let part = |(part, words): (usize, &mut [u32])| {
            for (index, sum) in (part * length..).zip(words.chunks_mut(CHUNK_WORDS)) {
                for vector in 0..vectors {
                    combine_chunk(sum, index, read(vector, index)?.as_ref(), exact, Sign::Plus)?;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let mut parts = self.words.chunks_mut(length * CHUNK_WORDS).enumerate();
            let first = parts.next();
            let others: Vec<_> = parts.map(|other| scope.spawn(move || part(other))).collect();
            let outcome = first.map_or(Ok(()), part);
            others
                .into_iter()
                .fold(outcome, |outcome, other| outcome.and(other.join().expect("adding does not panic")))
        })
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

/// Adds chunk `index` of a vector to the same part of a sum, or takes it out; so many words of the whole are `exact`.
fn combine_chunk(
    part: &mut [u32],
    index: usize,
    bytes: &[u8],
    exact: usize,
    sign: Sign,
) -> Result<(), WrongChunk> {
    if part.is_empty() || bytes.len() != part.len() * 4 {
        return Err(WrongChunk { index, got: bytes.len(), want: part.len() * 4 });
    }
    let exact = exact.saturating_sub(index * CHUNK_WORDS);
    combine(Arch::new(), part, bytes.as_chunks::<4>().0, exact, sign);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_vectors_on_any_number_of_threads_have_the_sum_of_their_chunks() {
        let layout = Layout::of_counts(3 * CHUNK_WORDS as u32 + 5);
        let chunk = |vector: usize, index: usize| {
            let words = (0..layout.chunk_bytes(index).unwrap_or_default() as u32 / 4)
                .map(|word| word.wrapping_mul(2_654_435_761).rotate_left((vector * 7 + index) as u32));
            words.flat_map(u32::to_le_bytes).collect::<Vec<_>>()
        };
        let mut one_by_one = Accumulator::new(&layout);
        for vector in 0..3 {
            for index in 0..layout.chunks() {
                one_by_one.add_chunk(index, &chunk(vector, index)).unwrap();
            }
        }
        let want = one_by_one.into_words();
        for threads in [0, 1, 2, 3, 4, 9] {
            let mut sum = Accumulator::new(&layout);
            sum.add_vectors(3, threads, |vector, index| Ok::<_, WrongChunk>(chunk(vector, index))).unwrap();
            assert!(sum.into_words() == want, "{threads} threads");
        }
        let short = |vector, index| {
            let mut bytes = chunk(vector, index);
            bytes.truncate(if (vector, index) == (1, 2) { 8 } else { bytes.len() });
            Ok::<_, WrongChunk>(bytes)
        };
        let refused = Accumulator::new(&layout).add_vectors(3, 2, short);
        assert_eq!(refused, Err(WrongChunk { index: 2, got: 8, want: 4 * CHUNK_WORDS }));
    }

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
