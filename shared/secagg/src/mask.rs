//! Masks: AES-256-CTR key streams added to a vector in its ring, `Z_{2^32}` or lanes of `Z_{2^16}`.
//!
//! Follows Bonawitz et al. 2017, MaskedInputCollection. The bytes are fixed for all implementations (design,
//! section 4): stream key `HKDF(seed, "mask-stream" ‖ ctx ‖ role)`, 64-bit little-endian block counter from
//! 0, nonce 0; word `k` is the little-endian bytes `4k..4k+3`, in the packed ring a mask for each of its lanes.
//!
//! Key stream and addition are fused in blocks that stay in the first-level cache. `write_keystream` into a
//! small block is about twice as fast as `apply_keystream` over the whole vector.

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use ctr::Ctr64LE;
use pulp::Arch;
use zeroize::{Zeroize, Zeroizing};

use crate::context::CtxHash;
use crate::numbering::SiteIndex;
pub(crate) use crate::ring::Sign;
use crate::ring::combine;
use crate::secret::{MaskSeed, hkdf};

/// Words of key stream made at a time: 8 KiB.
pub(crate) const BLOCK_WORDS: usize = 2048;

/// Which of the two kinds of mask a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `PRG(b_i)`.
    Own,
    /// `PRG(s_ij)`.
    Pair,
}

impl Sign {
    /// The sign with which a site's vector carries the mask it shares with a peer: plus for the lower index.
    pub(crate) fn of_pair(site: SiteIndex, peer: SiteIndex) -> Self {
        if site < peer { Self::Plus } else { Self::Minus }
    }

    /// The sign that undoes this one.
    pub(crate) fn undo(self) -> Self {
        match self {
            Self::Plus => Self::Minus,
            Self::Minus => Self::Plus,
        }
    }
}

/// A mask with its sign, to be expanded.
pub(crate) struct Mask {
    key: Zeroizing<[u8; 32]>,
    sign: Sign,
}

impl Mask {
    pub(crate) fn new(seed: &MaskSeed, ctx: &CtxHash, role: Role, sign: Sign) -> Self {
        let role = match role {
            Role::Own => "self",
            Role::Pair => "pair",
        };
        Self { key: hkdf(&[], seed.as_bytes(), "mask-stream", &(ctx, role)), sign }
    }

    /// The mask from word `position` on, which begins a block.
    pub(crate) fn stream(&self, position: usize) -> MaskStream {
        let mut cipher = Ctr64LE::new((&*self.key).into(), &[0; 16].into());
        cipher.seek(position as u64 * 4);
        MaskStream { cipher, sign: self.sign }
    }
}

/// A mask that is expanded from front to back.
pub(crate) struct MaskStream {
    cipher: Ctr64LE<Aes256>,
    sign: Sign,
}

impl MaskStream {
    /// Adds the next stretch of the mask to `words`, of which the first `exact` are in `Z_{2^32}`. Only the last stretch
    /// may be other than whole blocks.
    fn apply(&mut self, simd: Arch, words: &mut [u32], exact: usize, block: &mut [u8; BLOCK_WORDS * 4]) {
        let block = &mut block[..words.len() * 4];
        self.cipher.write_keystream(block);
        combine(simd, words, block.as_chunks::<4>().0, exact, self.sign);
    }
}

/// Adds the next stretch of every mask to `words`, of which the first `exact` are in `Z_{2^32}`: block by block, so that a
/// block is read from memory once however many masks there are.
pub(crate) fn apply_all(streams: &mut [MaskStream], words: &mut [u32], exact: usize) {
    let simd = Arch::new();
    let mut block = [0; BLOCK_WORDS * 4];
    for (index, part) in words.chunks_mut(BLOCK_WORDS).enumerate() {
        let exact = exact.saturating_sub(index * BLOCK_WORDS);
        for stream in &mut *streams {
            stream.apply(simd, part, exact, &mut block);
        }
    }
    block.zeroize();
}

/// Adds masks to the words that begin at word `from` of a vector, which begins a block, on so many threads. Of these words
/// the first `exact` are in `Z_{2^32}`. What comes out does not depend on the number of threads.
pub(crate) fn apply_from(masks: &[Mask], from: usize, words: &mut [u32], exact: usize, threads: usize) {
    let blocks = words.len().div_ceil(BLOCK_WORDS);
    let length = blocks.div_ceil(threads.max(1)).max(1) * BLOCK_WORDS;
    let part = |(index, words): (usize, &mut [u32])| {
        let mut streams: Vec<_> = masks.iter().map(|mask| mask.stream(from + index * length)).collect();
        apply_all(&mut streams, words, exact.saturating_sub(index * length));
    };
    std::thread::scope(|scope| {
        let mut parts = words.chunks_mut(length).enumerate();
        let first = parts.next();
        for rest in parts {
            scope.spawn(move || part(rest));
        }
        first.map(part);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::cipher::{BlockCipherEncrypt, KeyInit};
    use consilium_study::hash::Hash;

    fn ctx() -> CtxHash {
        minicbor::decode(&minicbor::to_vec(Hash::of_bytes(b"ctx")).unwrap()).unwrap()
    }

    /// The stream as the design words it, one AES block at a time.
    fn slow(seed: &MaskSeed, words: usize) -> Vec<u32> {
        let key = hkdf(&[], seed.as_bytes(), "mask-stream", &(ctx(), "pair"));
        let cipher = Aes256::new((&*key).into());
        let mut bytes = Vec::new();
        for counter in 0u64.. {
            let mut block = [0; 16];
            block[..8].copy_from_slice(&counter.to_le_bytes());
            let mut block = block.into();
            cipher.encrypt_block(&mut block);
            bytes.extend_from_slice(&block);
            if bytes.len() >= words * 4 {
                break;
            }
        }
        bytes.chunks_exact(4).take(words).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn the_stream_is_the_one_of_the_design() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        for words in [1, 3, 4, 5, BLOCK_WORDS, BLOCK_WORDS * 2 + 7] {
            let mut vector = vec![0; words];
            apply_all(&mut [Mask::new(&seed, &ctx(), Role::Pair, Sign::Plus).stream(0)], &mut vector, words);
            assert_eq!(vector, slow(&seed, words), "{words} words");
        }
    }

    #[test]
    fn stretches_join_and_signs_cancel() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        let mut vector = vec![5; BLOCK_WORDS * 3 + 10];
        let mut plus = [Mask::new(&seed, &ctx(), Role::Pair, Sign::Plus).stream(0)];
        let (front, back) = vector.split_at_mut(BLOCK_WORDS * 2);
        apply_all(&mut plus, front, usize::MAX);
        apply_all(&mut plus, back, usize::MAX);
        assert!(vector.iter().filter(|word| **word == 5).count() < 3);
        let mut minus = [Mask::new(&seed, &ctx(), Role::Pair, Sign::Minus).stream(0)];
        apply_all(&mut minus, &mut vector, usize::MAX);
        assert!(vector.iter().all(|word| *word == 5));
    }

    /// A mask meets exact words whole and packed ones lane by lane, and what is added can be taken away.
    #[test]
    fn lanes_are_masked_apart() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        let (words, exact) = (BLOCK_WORDS + 100, BLOCK_WORDS + 10);
        let stream = slow(&seed, words);
        let plain: Vec<u32> = (0..words as u32).map(|at| at.wrapping_mul(0x9E37_79B1)).collect();
        let mut vector = plain.clone();
        apply_all(&mut [Mask::new(&seed, &ctx(), Role::Pair, Sign::Plus).stream(0)], &mut vector, exact);
        for (at, got) in vector.iter().enumerate() {
            let (plain, mask) = (plain[at], stream[at]);
            let low = (plain as u16).wrapping_add(mask as u16);
            let high = ((plain >> 16) as u16).wrapping_add((mask >> 16) as u16);
            let lanes = u32::from(low) | u32::from(high) << 16;
            assert_eq!(*got, if at < exact { plain.wrapping_add(mask) } else { lanes }, "word {at}");
        }
        apply_all(&mut [Mask::new(&seed, &ctx(), Role::Pair, Sign::Minus).stream(0)], &mut vector, exact);
        assert!(vector == plain);
    }

    #[test]
    fn threads_change_nothing() {
        let masks = [(1, Role::Own, Sign::Plus), (2, Role::Pair, Sign::Minus)];
        let masks =
            masks.map(|(seed, role, sign)| Mask::new(&MaskSeed::from_bytes(&[seed; 32]), &ctx(), role, sign));
        for words in [0, 1, BLOCK_WORDS, BLOCK_WORDS * 5 + 7] {
            for exact in [0, 3, BLOCK_WORDS * 3 + 1, words] {
                let mut one = vec![9; words];
                apply_all(&mut masks.each_ref().map(|mask| mask.stream(0)), &mut one, exact);
                for threads in [0, 1, 2, 3, 64] {
                    let mut many = vec![9; words];
                    apply_from(&masks, 0, &mut many, exact, threads);
                    assert!(many == one, "{words} words, {exact} exact, {threads} threads");
                }
            }
        }
    }

    #[test]
    fn roles_have_streams_of_their_own() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        let stream = |role| {
            let mut vector = vec![0; 8];
            apply_all(&mut [Mask::new(&seed, &ctx(), role, Sign::Plus).stream(0)], &mut vector, 8);
            vector
        };
        assert_ne!(stream(Role::Own), stream(Role::Pair));
    }
}
