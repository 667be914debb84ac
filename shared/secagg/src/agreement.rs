//! Hybrid key agreement of a pair: X25519 and ML-KEM-768 (design, section 2).
//!
//! Recorded traffic stays closed while either of the two holds. Authenticity rests on the signatures of
//! adverts and encapsulations. The inputs of a key never leave this file.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use consilium_study::hash::Hash;
use minicbor::bytes::ByteArray;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::message::{Advert, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES};
use crate::secret::{PairKey, hash_parts, hkdf};

/// Bytes of an ML-KEM-768 decapsulation key (FIPS 203).
const KEM_SECRET_BYTES: usize = 2400;

/// The secret halves of a site's keys of one epoch.
pub(crate) struct EpochSecrets {
    x25519: Zeroizing<[u8; 32]>,
    ml_kem: Zeroizing<Vec<u8>>,
}

/// The public halves.
pub(crate) struct EpochPublic {
    pub(crate) x25519: ByteArray<32>,
    pub(crate) ml_kem: ByteArray<KEM_KEY_BYTES>,
}

/// Why a peer's keys give no shared key. Both are the peer's fault, and neither happens by accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// No point of the curve with a usable order: the shared secret would be zero.
    #[error("the X25519 key of the peer gives no shared secret")]
    X25519,
    /// No ML-KEM-768 key or ciphertext.
    #[error("the ML-KEM key or ciphertext of the peer is malformed")]
    MlKem,
}

/// What both ends of a pair derive.
pub(crate) struct Agreed {
    /// `k_ij(0)`.
    pub(crate) key: PairKey,
    /// The tag that the lower name sends.
    pub(crate) tag_of_lower: Zeroizing<[u8; 32]>,
    /// The tag that the higher name sends.
    pub(crate) tag_of_higher: Zeroizing<[u8; 32]>,
}

impl EpochSecrets {
    /// New keys.
    pub(crate) fn generate() -> (Self, EpochPublic) {
        let private = PrivateKey::generate(&X25519).expect("X25519 key generation only needs randomness");
        let public = private.compute_public_key().expect("a generated key has a public half");
        let bytes: Curve25519SeedBin<'_> =
            private.as_be_bytes().expect("a generated X25519 key has 32 bytes");
        let x25519 = Zeroizing::new(bytes.as_ref().try_into().expect("a generated X25519 key has 32 bytes"));
        let decapsulation =
            DecapsulationKey::generate(&ML_KEM_768).expect("ML-KEM key generation only needs randomness");
        let encapsulation = decapsulation
            .encapsulation_key()
            .and_then(|key| key.key_bytes())
            .expect("a generated key has a public half");
        let ml_kem =
            Zeroizing::new(decapsulation.key_bytes().expect("a generated key has bytes").as_ref().to_vec());
        let public = EpochPublic {
            x25519: <[u8; 32]>::try_from(public.as_ref()).expect("an X25519 public key has 32 bytes").into(),
            ml_kem: <[u8; KEM_KEY_BYTES]>::try_from(encapsulation.as_ref())
                .expect("an ML-KEM-768 public key has 1184 bytes")
                .into(),
        };
        (Self { x25519, ml_kem }, public)
    }

    /// Both secrets, for the chain file.
    pub(crate) fn parts(&self) -> (&[u8; 32], &[u8]) {
        (&self.x25519, &self.ml_kem)
    }

    /// From the chain file.
    pub(crate) fn from_parts(x25519: &[u8], ml_kem: &[u8]) -> Option<Self> {
        let x25519 = Zeroizing::new(x25519.try_into().ok()?);
        (ml_kem.len() == KEM_SECRET_BYTES).then(|| Self { x25519, ml_kem: Zeroizing::new(ml_kem.to_vec()) })
    }

    /// The lower name's side: makes the ciphertext and the key.
    pub(crate) fn encapsulate(
        &self,
        mine: &Advert,
        theirs: &Advert,
    ) -> Result<(ByteArray<KEM_CIPHERTEXT_BYTES>, Agreed), BadKey> {
        let (ciphertext, secret) = EncapsulationKey::new(&ML_KEM_768, theirs.ml_kem.as_slice())
            .map_err(|_| BadKey::MlKem)?
            .encapsulate()
            .map_err(|_| BadKey::MlKem)?;
        let ciphertext: [u8; KEM_CIPHERTEXT_BYTES] =
            ciphertext.as_ref().try_into().map_err(|_| BadKey::MlKem)?;
        let classical = self.x25519(theirs)?;
        let agreed = derive(secret.as_ref(), classical.as_slice(), mine, theirs, &ciphertext);
        Ok((ciphertext.into(), agreed))
    }

    /// The higher name's side.
    pub(crate) fn decapsulate(
        &self,
        theirs: &Advert,
        mine: &Advert,
        ciphertext: &[u8; KEM_CIPHERTEXT_BYTES],
    ) -> Result<Agreed, BadKey> {
        let secret = DecapsulationKey::new(&ML_KEM_768, &self.ml_kem)
            .map_err(|_| BadKey::MlKem)?
            .decapsulate(Ciphertext::from(ciphertext.as_slice()))
            .map_err(|_| BadKey::MlKem)?;
        let classical = self.x25519(theirs)?;
        Ok(derive(secret.as_ref(), classical.as_slice(), theirs, mine, ciphertext))
    }

    /// What goes into a key, for test vectors.
    #[cfg(test)]
    pub(crate) fn shared(
        &self,
        theirs: &Advert,
        ciphertext: &[u8; KEM_CIPHERTEXT_BYTES],
    ) -> (Vec<u8>, [u8; 32]) {
        let key = DecapsulationKey::new(&ML_KEM_768, &self.ml_kem).expect("our own key");
        let ml_kem = key.decapsulate(Ciphertext::from(ciphertext.as_slice())).expect("an honest ciphertext");
        (ml_kem.as_ref().to_vec(), *self.x25519(theirs).expect("an honest key"))
    }

    fn x25519(&self, theirs: &Advert) -> Result<Zeroizing<[u8; 32]>, BadKey> {
        let private = PrivateKey::from_private_key(&X25519, self.x25519.as_slice())
            .expect("any 32 bytes are an X25519 key");
        agreement::agree(
            &private,
            UnparsedPublicKey::new(&X25519, theirs.x25519.as_slice()),
            BadKey::X25519,
            |shared| {
                let shared: Zeroizing<[u8; 32]> =
                    Zeroizing::new(shared.try_into().map_err(|_| BadKey::X25519)?);
                // RFC 7748, section 6.1: a peer's key of small order would give everybody this secret.
                if bool::from(shared.ct_eq(&[0; 32])) { Err(BadKey::X25519) } else { Ok(shared) }
            },
        )
    }
}

pub(crate) fn derive(
    ml_kem: &[u8],
    x25519: &[u8],
    lower: &Advert,
    higher: &Advert,
    ciphertext: &[u8; KEM_CIPHERTEXT_BYTES],
) -> Agreed {
    let mut ikm = Zeroizing::new(Vec::with_capacity(ml_kem.len() + x25519.len()));
    ikm.extend_from_slice(ml_kem);
    ikm.extend_from_slice(x25519);
    let salt = hash_parts("pair-salt", &(lower.study, lower.epoch, lower.roster));
    let adverts = hash_parts("both-adverts", &(lower.hash(), higher.hash()));
    let ciphertext = Hash::labelled("ciphertext", ciphertext);
    let secret = |label| hkdf(salt.as_bytes(), &ikm, label, &(adverts, ciphertext));
    let mut key = secret("pair-key");
    let agreed = Agreed {
        key: PairKey::from_bytes(&key),
        tag_of_lower: secret("confirmation-of-lower"),
        tag_of_higher: secret("confirmation-of-higher"),
    };
    key.zeroize();
    agreed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbering::Epoch;

    fn site(name: &str) -> (EpochSecrets, Advert) {
        let (secrets, public) = EpochSecrets::generate();
        let advert = Advert {
            study: Hash::of_bytes(b"study"),
            roster: Hash::of_bytes(b"roster"),
            epoch: Epoch::new(1).unwrap(),
            site: name.parse().unwrap(),
            x25519: public.x25519,
            ml_kem: public.ml_kem,
            nonce: None,
        };
        (secrets, advert)
    }

    #[test]
    fn both_ends_agree_and_nobody_else() {
        let (a, advert_a) = site("a");
        let (b, advert_b) = site("b");
        let (c, _) = site("c");
        let (ciphertext, at_a) = a.encapsulate(&advert_a, &advert_b).unwrap();
        let at_b = b.decapsulate(&advert_a, &advert_b, &ciphertext).unwrap();
        assert_eq!(at_a.key, at_b.key);
        assert_eq!(at_a.tag_of_lower, at_b.tag_of_lower);
        assert_ne!(at_a.tag_of_lower, at_a.tag_of_higher);
        let at_c = c.decapsulate(&advert_a, &advert_b, &ciphertext).unwrap();
        assert_ne!(at_c.key, at_a.key);
        // Keys survive the chain file.
        let (x25519, ml_kem) = b.parts();
        let again = EpochSecrets::from_parts(x25519, ml_kem).unwrap();
        assert_eq!(again.decapsulate(&advert_a, &advert_b, &ciphertext).unwrap().key, at_a.key);
        assert!(EpochSecrets::from_parts(x25519, &ml_kem[1..]).is_none());
        assert!(EpochSecrets::from_parts(&x25519[1..], ml_kem).is_none());
    }

    #[test]
    fn a_changed_advert_or_ciphertext_gives_another_key() {
        let (a, advert_a) = site("a");
        let (b, advert_b) = site("b");
        let (ciphertext, at_a) = a.encapsulate(&advert_a, &advert_b).unwrap();
        let renamed = Advert { site: "aa".parse().unwrap(), ..advert_a.clone() };
        assert_ne!(b.decapsulate(&renamed, &advert_b, &ciphertext).unwrap().key, at_a.key);
        let mut changed = <[u8; KEM_CIPHERTEXT_BYTES]>::from(ciphertext);
        changed[3] ^= 1;
        assert_ne!(b.decapsulate(&advert_a, &advert_b, &changed).unwrap().key, at_a.key);
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        let (a, advert_a) = site("a");
        let (_, advert_b) = site("b");
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            let bad = Advert { x25519: point.into(), ..advert_b.clone() };
            assert_eq!(a.encapsulate(&advert_a, &bad).map(|_| ()), Err(BadKey::X25519));
        }
        let bad = Advert { ml_kem: [0xff; KEM_KEY_BYTES].into(), ..advert_b };
        assert_eq!(a.encapsulate(&advert_a, &bad).map(|_| ()), Err(BadKey::MlKem));
    }
}
