//! Masks: AES-256-CTR key streams added to a vector in the ring `Z_{2^32}`.
//!
//! Follows Bonawitz et al. 2017, MaskedInputCollection. The bytes are fixed for all implementations (design,
//! section 4): stream key `HKDF(seed, "mask-stream" ‖ ctx ‖ role)`, 64-bit little-endian block counter from
//! 0, nonce 0; word `k` is the little-endian bytes `4k..4k+3`.
//!
//! Key stream and addition are fused in blocks that stay in the first-level cache. `write_keystream` into a
//! small block is about twice as fast as `apply_keystream` over the whole vector.

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use ctr::Ctr64LE;
use zeroize::Zeroize;

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

/// A mask that is expanded from front to back.
pub(crate) struct MaskStream {
    cipher: Ctr64LE<Aes256>,
    sign: Sign,
}

impl MaskStream {
    pub(crate) fn new(seed: &MaskSeed, ctx: &CtxHash, role: Role, sign: Sign) -> Self {
        let role = match role {
            Role::Own => "self",
            Role::Pair => "pair",
        };
        let key = hkdf(&[], seed.as_bytes(), "mask-stream", &(ctx, role));
        Self { cipher: Ctr64LE::new((&*key).into(), &[0; 16].into()), sign }
    }

    /// Adds the next stretch of the mask to `words`. Only the last stretch may be other than whole blocks.
    fn apply(&mut self, words: &mut [u32], block: &mut [u8; BLOCK_WORDS * 4]) {
        let block = &mut block[..words.len() * 4];
        self.cipher.write_keystream(block);
        let (stream, _) = block.as_chunks::<4>();
        match self.sign {
            Sign::Plus => {
                for (word, mask) in words.iter_mut().zip(stream) {
                    *word = word.wrapping_add(u32::from_le_bytes(*mask));
                }
            }
            Sign::Minus => {
                for (word, mask) in words.iter_mut().zip(stream) {
                    *word = word.wrapping_sub(u32::from_le_bytes(*mask));
                }
            }
        }
    }
}

/// Adds the next stretch of every mask to `words`: block by block, so that a block is read from memory once
/// however many masks there are.
pub(crate) fn apply_all(streams: &mut [MaskStream], words: &mut [u32]) {
    let mut block = [0; BLOCK_WORDS * 4];
    for part in words.chunks_mut(BLOCK_WORDS) {
        for stream in &mut *streams {
            stream.apply(part, &mut block);
        }
    }
    block.zeroize();
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
            apply_all(&mut [MaskStream::new(&seed, &ctx(), Role::Pair, Sign::Plus)], &mut vector);
            assert_eq!(vector, slow(&seed, words), "{words} words");
        }
    }

    #[test]
    fn stretches_join_and_signs_cancel() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        let mut vector = vec![5; BLOCK_WORDS * 3 + 10];
        let mut plus = [MaskStream::new(&seed, &ctx(), Role::Pair, Sign::Plus)];
        let (front, back) = vector.split_at_mut(BLOCK_WORDS * 2);
        apply_all(&mut plus, front);
        apply_all(&mut plus, back);
        assert!(vector.iter().filter(|word| **word == 5).count() < 3);
        apply_all(&mut [MaskStream::new(&seed, &ctx(), Role::Pair, Sign::Minus)], &mut vector);
        assert!(vector.iter().all(|word| *word == 5));
    }

    #[test]
    fn roles_have_streams_of_their_own() {
        let seed = MaskSeed::from_bytes(&[9; 32]);
        let stream = |role| {
            let mut vector = vec![0; 8];
            apply_all(&mut [MaskStream::new(&seed, &ctx(), role, Sign::Plus)], &mut vector);
            vector
        };
        assert_ne!(stream(Role::Own), stream(Role::Pair));
    }
}
