//! Masks: AES-256-CTR key streams added to a vector in the ring `Z_{2^32}`.
//!
//! Follows Bonawitz et al. 2017, MaskedInputCollection. The bytes are fixed for all implementations (design,
//! section 4): stream key `HKDF(seed, "mask-stream" ‖ ctx ‖ role)`, 64-bit little-endian block counter from
//! 0, nonce 0; word `k` is the little-endian bytes `4k..4k+3`.
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

/// Whether a mask is added or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Plus,
    Minus,
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
    /// Adds the next stretch of the mask to `words`. Only the last stretch may be other than whole blocks.
    fn apply(&mut self, simd: Arch, words: &mut [u32], block: &mut [u8; BLOCK_WORDS * 4]) {
        let block = &mut block[..words.len() * 4];
        self.cipher.write_keystream(block);
        let (stream, _) = block.as_chunks::<4>();
        match self.sign {
            Sign::Plus => simd.dispatch(|| combine(words, stream, u32::wrapping_add)),
            Sign::Minus => simd.dispatch(|| combine(words, stream, u32::wrapping_sub)),
        }
    }
}

/// Joins little-endian words with words. Inlined into a `dispatch`, it is compiled for each kind of vector unit.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the unit")]
#[inline(always)]
pub(crate) fn combine(words: &mut [u32], bytes: &[[u8; 4]], join: impl Fn(u32, u32) -> u32) {
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = join(*word, u32::from_le_bytes(*bytes));
    }
}

/// Adds the next stretch of every mask to `words`: block by block, so that a block is read from memory once
/// however many masks there are.
pub(crate) fn apply_all(streams: &mut [MaskStream], words: &mut [u32]) {
    let simd = Arch::new();
    let mut block = [0; BLOCK_WORDS * 4];
    for part in words.chunks_mut(BLOCK_WORDS) {
        for stream in &mut *streams {
            stream.apply(simd, part, &mut block);
        }
    }
    block.zeroize();
}

/// Adds whole masks to a whole vector, on so many threads. The words do not depend on their number.
pub(crate) fn apply_whole(masks: &[Mask], words: &mut [u32], threads: usize) {
    let blocks = words.len().div_ceil(BLOCK_WORDS);
    let length = blocks.div_ceil(threads.max(1)).max(1) * BLOCK_WORDS;
    let part = |(index, words): (usize, &mut [u32])| {
        let mut streams: Vec<_> = masks.iter().map(|mask| mask.stream(index * length)).collect();
        apply_all(&mut streams, words);
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
            apply_all(&mut [Mask::new(&seed, &ctx(), Role::Pair, Sign::Plus).stream(0)], &mut vector);
            assert_eq!(vector, slow(&seed, words), "{words} words");
        }
    }

    #[test]
    fn stretches_join_and_signs_cancel() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        let mut vector = vec![5; BLOCK_WORDS * 3 + 10];
        let mut plus = [Mask::new(&seed, &ctx(), Role::Pair, Sign::Plus).stream(0)];
        let (front, back) = vector.split_at_mut(BLOCK_WORDS * 2);
        apply_all(&mut plus, front);
        apply_all(&mut plus, back);
        assert!(vector.iter().filter(|word| **word == 5).count() < 3);
        apply_all(&mut [Mask::new(&seed, &ctx(), Role::Pair, Sign::Minus).stream(0)], &mut vector);
        assert!(vector.iter().all(|word| *word == 5));
    }

    #[test]
    fn threads_change_nothing() {
        let masks = [(1, Role::Own, Sign::Plus), (2, Role::Pair, Sign::Minus)];
        let masks =
            masks.map(|(seed, role, sign)| Mask::new(&MaskSeed::from_bytes(&[seed; 32]), &ctx(), role, sign));
        for words in [0, 1, BLOCK_WORDS, BLOCK_WORDS * 5 + 7] {
            let mut one = vec![9; words];
            apply_all(&mut masks.each_ref().map(|mask| mask.stream(0)), &mut one);
            for threads in [0, 1, 2, 3, 64] {
                let mut many = vec![9; words];
                apply_whole(&masks, &mut many, threads);
                assert!(many == one, "{words} words, {threads} threads");
            }
        }
    }

    #[test]
    fn roles_have_streams_of_their_own() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        let stream = |role| {
            let mut vector = vec![0; 8];
            apply_all(&mut [Mask::new(&seed, &ctx(), role, Sign::Plus).stream(0)], &mut vector);
            vector
        };
        assert_ne!(stream(Role::Own), stream(Role::Pair));
    }
}
