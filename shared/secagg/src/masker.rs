//! Masking a site's vector, chunk by chunk (Bonawitz et al. 2017, MaskedInputCollection).
//!
//! `y_i = q_i + PRG(b_i) + Σ_{j>i} PRG(s_ij) − Σ_{j<i} PRG(s_ij)` in the ring of each word, over the members of the site's
//! group. A self-mask seed masks one vector, once: a [`Masker`] draws its own and is consumed with the vector.

use consilium_study::hash::Hash;
use zeroize::Zeroize;

use crate::context::{Context, CtxHash};
use crate::dealing::{Dealt, deal};
use crate::layout::CHUNK_WORDS;
use crate::mask::{Mask, Role, Sign, apply_from};
use crate::merkle;
use crate::numbering::SiteIndex;
use crate::secret::{MaskSeed, PairKey, hash_parts};

/// The leaf of a chunk in the tree of a receipt. Index and sender are in it, so that chunks cannot change places. The
/// bytes go through BLAKE3 (O'Connor et al. 2020), four times as fast as SHA-256 and the largest part of a sum's cost.
pub(crate) fn chunk_leaf(ctx: &CtxHash, sender: SiteIndex, index: usize, bytes: &[u8]) -> Hash {
    let digest = Hash::from_bytes(blake3::hash(bytes).into());
    hash_parts("masked-chunk", &(ctx, sender, index as u64, digest))
}

/// Masks one vector. Made by [`crate::site::SiteMachine::mask`] after the context was written down.
pub struct Masker {
    ctx: CtxHash,
    context: Context,
    me: SiteIndex,
    vector: Vec<u32>,
    position: usize,
    masks: Vec<Mask>,
    threads: usize,
    seeds: Vec<MaskSeed>,
    keys: Vec<PairKey>,
    leaves: Vec<Hash>,
    chunk: Vec<u8>,
}

/// A masked vector whose chunks all left the masker: what the receipt says about it, and the dealt shares.
pub struct MaskedVector {
    pub(crate) ctx: CtxHash,
    pub(crate) chunks: Vec<Hash>,
    pub(crate) dealt: Dealt,
}

/// A chunk on its way to the spool.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Its index.
    pub index: usize,
    /// Its bytes: little-endian words.
    pub bytes: &'a [u8],
}

/// The vector has chunks that were not taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{left} words of the vector are not masked yet")]
pub struct Unfinished {
    /// Words left.
    pub left: usize,
}

impl Masker {
    /// `keys` are the pair keys of the attempt in the order of indices, the site's own key at its own place;
    /// `vector` has the layout's length.
    pub(crate) fn new(context: Context, me: SiteIndex, keys: Vec<PairKey>, vector: Vec<u32>) -> Self {
        let ctx = context.hash();
        let seeds: Vec<MaskSeed> = context
            .selection
            .indices()
            .zip(&keys)
            .map(|(index, key)| if index == me { MaskSeed::random() } else { key.mask_seed(&ctx) })
            .collect();
        let masks = context
            .selection
            .indices()
            .zip(&seeds)
            .filter(|(index, _)| *index == me || context.share_a_mask(me, *index))
            .map(|(index, seed)| {
                if index == me {
                    Mask::new(seed, &ctx, Role::Own, Sign::Plus)
                } else {
                    Mask::new(seed, &ctx, Role::Pair, Sign::of_pair(me, index))
                }
            })
            .collect();
        let chunk = Vec::with_capacity(vector.len().min(CHUNK_WORDS) * 4);
        Self {
            ctx,
            context,
            me,
            vector,
            position: 0,
            masks,
            threads: 1,
            seeds,
            keys,
            leaves: Vec::new(),
            chunk,
        }
    }

    /// Expands the masks on so many threads. The chunks do not depend on their number.
    #[must_use]
    pub fn on(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Every seed, for test vectors.
    #[cfg(test)]
    pub(crate) fn seeds(&self) -> &[MaskSeed] {
        &self.seeds
    }

    /// The attempt.
    pub fn ctx(&self) -> &CtxHash {
        &self.ctx
    }

    /// Masks the next chunk, to be written to the spool. None when all have been taken.
    pub fn next_chunk(&mut self) -> Option<Chunk<'_>> {
        let rest = &mut self.vector[self.position..];
        let length = rest.len().min(CHUNK_WORDS);
        if length == 0 {
            return None;
        }
        let words = &mut rest[..length];
        // The plain words are masked in place, so that nothing of them is left once a chunk was taken.
        let exact = self.context.layout.exact_words().saturating_sub(self.position);
        apply_from(&self.masks, self.position, words, exact, self.threads);
        self.chunk.resize(words.len() * 4, 0);
        for (word, bytes) in words.iter().zip(self.chunk.as_chunks_mut::<4>().0) {
            *bytes = word.to_le_bytes();
        }
        let index = self.leaves.len();
        self.leaves.push(chunk_leaf(&self.ctx, self.me, index, &self.chunk));
        self.position += length;
        Some(Chunk { index, bytes: &self.chunk })
    }

    /// Deals the shares, when all chunks have been taken.
    pub fn finish(self) -> Result<MaskedVector, Unfinished> {
        let left = self.vector.len() - self.position;
        if left > 0 {
            return Err(Unfinished { left });
        }
        let dealt = deal(&self.ctx, self.me, &self.context.thresholds, &self.seeds, &self.keys);
        Ok(MaskedVector { ctx: self.ctx, chunks: self.leaves.clone(), dealt })
    }
}

impl Drop for Masker {
    fn drop(&mut self) {
        self.vector.zeroize();
    }
}

impl MaskedVector {
    /// The root that the receipt carries.
    pub(crate) fn root(&self) -> Hash {
        merkle::root(&self.chunks)
    }
}

#[cfg(test)]
mod tests {
    use consilium_study::hash::Hash as ModelHash;

    use super::*;
    use crate::accumulator::Accumulator;
    use crate::federation::Federation;
    use crate::layout::Layout;
    use crate::mask::{BLOCK_WORDS, apply_all};

    const WORDS: u32 = 1 << 14;

    /// The sum of four masked vectors of zeros with the self masks taken out, where site `i` was shown `models[i]`.
    fn sum_of_zeros(models: [&[u8]; 4]) -> Vec<u32> {
        let layout = Layout::of_counts(WORDS - 1);
        let federation = Federation::new(4, &layout);
        let mut keys: Vec<Vec<PairKey>> = vec![Vec::new(); 4];
        for a in 0..4u8 {
            for b in 0..4u8 {
                keys[usize::from(a)].push(PairKey::from_bytes(&[a.min(b) * 4 + a.max(b); 32]));
            }
        }
        let mut sum = Accumulator::new(&layout);
        for (position, (model, keys)) in models.into_iter().zip(keys).enumerate() {
            let mut fields = federation.fields(1);
            fields.model = ModelHash::of_bytes(model);
            let context = Context::new(fields).unwrap();
            let me = SiteIndex::from_position(position).unwrap();
            let ctx = context.hash();
            let mut masker = Masker::new(context, me, keys, vec![0; layout.words()]);
            let own = masker.seeds[position].clone();
            let chunk = masker.next_chunk().unwrap().bytes.to_vec();
            assert!(chi_square(&words(&chunk)) < LIMIT, "a masked vector looks random");
            sum.add_chunk(0, &chunk).unwrap();
            let mut mask = vec![0; layout.words()];
            apply_all(&mut [Mask::new(&own, &ctx, Role::Own, Sign::Plus).stream(0)], &mut mask, usize::MAX);
            let mask: Vec<u8> = mask.iter().flat_map(|word| word.to_le_bytes()).collect();
            sum.remove_chunk(0, &mask).unwrap();
        }
        sum.into_words()
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// Over the frequencies of bytes: 255 degrees of freedom.
    fn chi_square(words: &[u32]) -> f64 {
        let mut seen = [0f64; 256];
        for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
            seen[usize::from(byte)] += 1.0;
        }
        let expected = words.len() as f64 * 4.0 / 256.0;
        seen.iter().map(|count| (count - expected).powi(2) / expected).sum()
    }

    /// Six standard deviations: uniform bytes exceed it once in a billion runs.
    const LIMIT: f64 = 255.0 + 6.0 * 22.6;

    #[test]
    fn masks_cancel_where_all_sites_saw_the_same() {
        assert!(sum_of_zeros([b"model"; 4]).iter().all(|word| *word == 0));
    }

    #[test]
    fn sites_that_saw_different_models_leave_noise() {
        for models in [[b"a", b"b", b"b", b"b"], [b"a", b"a", b"b", b"b"], [b"a", b"b", b"c", b"d"]] {
            let sum = sum_of_zeros(models.map(<[u8; 1]>::as_slice));
            assert!(chi_square(&sum) < LIMIT, "{models:?}");
        }
    }

    #[test]
    fn chunks_do_not_depend_on_the_number_of_threads() {
        // Two chunks, the second of a block and a half.
        let layout = Layout::of_counts((CHUNK_WORDS + 3 * BLOCK_WORDS / 2) as u32);
        let federation = Federation::new(3, &layout);
        let context = Context::new(federation.fields(1)).unwrap();
        let vector: Vec<u32> = (0..layout.words() as u32).collect();
        let key = |at: u8| PairKey::from_bytes(&[at; 32]);
        let me = SiteIndex::new(2).unwrap();
        let masked = |threads| {
            let mut masker = Masker::new(context.clone(), me, (0..3).map(key).collect(), vector.clone());
            // A self mask is drawn; here all have the same.
            masker.masks[1] = Mask::new(&MaskSeed::from_bytes(&[7; 32]), &masker.ctx, Role::Own, Sign::Plus);
            let mut masker = masker.on(threads);
            let mut bytes = Vec::new();
            while let Some(chunk) = masker.next_chunk() {
                bytes.extend_from_slice(chunk.bytes);
            }
            bytes
        };
        let one = masked(1);
        for threads in [0, 2, 3, 200] {
            assert!(masked(threads) == one, "{threads} threads");
        }
    }

    #[test]
    fn a_vector_is_finished_only_when_all_of_it_was_masked() {
        let federation = Federation::new(3, &Layout::of_counts(7));
        let context = Context::new(federation.fields(1)).unwrap();
        let keys = vec![PairKey::from_bytes(&[1; 32]); 3];
        let masker = Masker::new(context, SiteIndex::new(2).unwrap(), keys, vec![0; 8]);
        assert_eq!(masker.finish().map(|_| ()), Err(Unfinished { left: 8 }));
    }
}
