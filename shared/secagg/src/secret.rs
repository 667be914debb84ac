//! Secrets of 32 bytes, and how one becomes another.
//!
//! Every derivation is HKDF-SHA256 (RFC 5869) with an info of its own: `"consilium/v1/" ‖ label ‖ 0x00 ‖` the
//! CBOR array of the parts. No key is used under two labels.

use std::convert::Infallible;
use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use consilium_study::hash::Hash;
use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use rand_core::{TryCryptoRng, TryRng};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::context::CtxHash;
use crate::numbering::SiteIndex;

/// `"consilium/v1/" ‖ label ‖ 0x00 ‖` the CBOR of `parts`.
pub(crate) fn labelled<T: Encode<()>>(label: &str, parts: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(b"consilium/v1/");
    bytes.extend_from_slice(label.as_bytes());
    bytes.push(0);
    encode(parts, &mut bytes).expect("encoding into a vector cannot fail");
    bytes
}

/// SHA-256 over [`labelled`].
pub(crate) fn hash_parts<T: Encode<()>>(label: &str, parts: &T) -> Hash {
    Hash::of_bytes(&Zeroizing::new(labelled(label, parts)))
}

/// HKDF-SHA256 to 32 bytes.
pub(crate) fn hkdf<T: Encode<()>>(salt: &[u8], ikm: &[u8], label: &str, parts: &T) -> Zeroizing<[u8; 32]> {
    let info = labelled(label, parts);
    let mut out = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(ikm)
        .expand(&[&info], HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .expect("HKDF-SHA256 gives 32 bytes for any input");
    out
}

/// The operating system's randomness.
pub(crate) struct SystemRng;

impl TryRng for SystemRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = Zeroizing::new([0; 4]);
        self.try_fill_bytes(bytes.as_mut_slice())?;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = Zeroizing::new([0; 8]);
        self.try_fill_bytes(bytes.as_mut_slice())?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        SystemRandom::new().fill(bytes).expect("the operating system has randomness");
        Ok(())
    }
}

impl TryCryptoRng for SystemRng {}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(bytes.as_mut_slice()).expect("the operating system has randomness");
    bytes
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub(crate) struct $name([u8; 32]);

        impl $name {
            pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
                Self(*bytes)
            }

            pub(crate) fn random() -> Self {
                Self(*random())
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret!(
    /// The key that two sites share in one attempt, or that a site has for itself.
    PairKey
);
secret!(
    /// Seed of one mask. Whoever holds it can remove the mask.
    MaskSeed
);

impl PairKey {
    /// The bytes, for test vectors.
    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `k(r+1) = HKDF(k(r))`.
    pub(crate) fn step(&self) -> Self {
        Self(*hkdf(&[], &self.0, "ratchet", &()))
    }

    /// `s_ij = HKDF(k_ij(r), "pairwise-mask" ‖ ctx)`.
    pub(crate) fn mask_seed(&self, ctx: &CtxHash) -> MaskSeed {
        MaskSeed(*hkdf(&[], &self.0, "pairwise-mask", &(ctx,)))
    }

    /// The key of the one envelope from `sender` to `recipient`.
    pub(crate) fn seal_key(
        &self,
        ctx: &CtxHash,
        sender: SiteIndex,
        recipient: SiteIndex,
    ) -> Zeroizing<[u8; 32]> {
        hkdf(&[], &self.0, "share-seal", &(ctx, sender, recipient))
    }
}

impl MaskSeed {
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The commitment that a receipt carries for the seed of `a` and `b`, or of one site where both are equal.
    pub(crate) fn commitment(&self, ctx: &CtxHash, a: SiteIndex, b: SiteIndex) -> Hash {
        let seed: &ByteSlice = self.0.as_slice().into();
        if a == b {
            hash_parts("self-commitment", &(ctx, a, seed))
        } else {
            hash_parts("pair-commitment", &(ctx, a.min(b), a.max(b), seed))
        }
    }
}

// Only the chain file and the evidence of an opened sum hold secrets, each through an encoder of its own.
impl<C> Encode<C> for PairKey {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PairKey {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let bytes = d.bytes()?;
        bytes.try_into().map(Self).map_err(|_| decode::Error::message("a pair key has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::canonical::Canonical;

    #[test]
    fn derivation_agrees_with_rfc_5869() {
        // Test case 1 of the RFC gives the first 32 bytes for this info; ours differs only in the info, so the
        // primitive is checked directly.
        let ikm = [0x0b; 22];
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let mut out = [0; 32];
        let info = [info.as_slice()];
        let prk = Salt::new(HKDF_SHA256, &salt).extract(&ikm);
        prk.expand(&info, HKDF_SHA256).unwrap().fill(&mut out).unwrap();
        assert_eq!(
            Hash::from_bytes(out).to_string(),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        );
    }

    #[test]
    fn a_pair_key_has_32_bytes() {
        let decoded = |length: usize| {
            let bytes = vec![7; length];
            let bytes: &ByteSlice = bytes.as_slice().into();
            let encoded = minicbor::to_vec(bytes).unwrap();
            PairKey::decode(&mut Decoder::new(&encoded), &mut ()).is_ok()
        };
        assert!(decoded(32) && !decoded(31) && !decoded(33) && !decoded(0));
    }

    #[test]
    fn labels_and_parts_separate() {
        let key = PairKey::from_bytes(&[7; 32]);
        let one = SiteIndex::new(1).unwrap();
        let two = SiteIndex::new(2).unwrap();
        let ctx = CtxHash::from_canonical(&Hash::of_bytes(b"x").to_canonical()).unwrap();
        assert_ne!(*key.seal_key(&ctx, one, two), *key.seal_key(&ctx, two, one));
        let seed = key.mask_seed(&ctx);
        assert_eq!(seed.commitment(&ctx, one, two), seed.commitment(&ctx, two, one));
        assert_ne!(seed.commitment(&ctx, one, one), seed.commitment(&ctx, one, two));
        assert_eq!(format!("{key:?} {seed:?}"), "PairKey(..) MaskSeed(..)");
    }
}
