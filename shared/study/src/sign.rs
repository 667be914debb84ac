//! Signatures: Ed25519 over labelled canonical bytes (RFC 8032; input as in the design's section on bytes).
//!
//! What is signed is `"consilium/v1/" ‖ label ‖ 0x00 ‖ bytes`, so a signature of one kind can never be
//! shown as another. The algorithm is a field, so that ML-DSA can follow. A [`Verified`] value can only be
//! made by checking a signature.

use std::fmt;
use std::marker::PhantomData;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use zeroize::Zeroizing;

use crate::canonical::{Canonical, NotCanonical};
use crate::fingerprint;
use crate::hash::Hash;
use crate::name::Principal;

/// A type that is signed as a whole. The label names the kind of statement.
pub trait Statement: Canonical {
    /// Distinguishes this kind of signature from every other.
    const LABEL: &'static str;
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// A key from its 32 bytes. Every verification fails for bytes that are no point of the curve.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A short text that two people compare over the telephone: five groups of four digits.
    pub fn fingerprint(&self) -> String {
        fingerprint::groups(&Hash::labelled("fingerprint", &self.0))
    }

    /// Checks a signature over labelled bytes.
    pub fn verify(&self, label: &str, bytes: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(&labelled(label, bytes), &signature.0)
            .map_err(|_| BadSignature)
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// A signature from its bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// The signature does not match key, label and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature does not match")]
pub struct BadSignature;

/// An Ed25519 private key. Printing it prints its public half.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    // The seed is kept beside the pair because the library gives it back only in a buffer of its own.
    seed: Zeroizing<[u8; 32]>,
}

impl SigningKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::SecureRandom::fill(&SystemRandom::new(), seed.as_mut_slice())
            .expect("the operating system has randomness");
        Self::from_seed(seed)
    }

    /// The key of a 32-byte seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: Zeroizing<[u8; 32]>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed of 32 bytes is a key");
        Self { pair, seed }
    }

    /// The seed, to be written where only its owner reads.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        let bytes = self.pair.public_key().as_ref();
        VerifyingKey(bytes.try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs labelled bytes.
    pub fn sign(&self, label: &str, bytes: &[u8]) -> Signature {
        let signature = self.pair.sign(&labelled(label, bytes));
        Signature(signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.verifying_key())
    }
}

fn labelled(label: &str, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(label.len() + bytes.len() + 14);
    message.extend_from_slice(b"consilium/v1/");
    message.extend_from_slice(label.as_bytes());
    message.push(0);
    message.extend_from_slice(bytes);
    message
}

/// How a statement was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Algorithm {
    /// RFC 8032.
    #[n(0)]
    Ed25519,
}

/// What of a signed statement does not depend on its kind.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Sealed {
    #[n(0)]
    algorithm: Algorithm,
    #[n(1)]
    signer: Principal,
    #[n(2)]
    body: ByteVec,
    #[n(3)]
    signature: Signature,
}

/// A signed statement as it travels and rests: canonical bytes of a `T`, who signed them, and how.
///
/// The content is read only through [`Signed::verify`] or, where the signer is looked up by what the
/// statement says, through [`Signed::claim`].
pub struct Signed<T> {
    sealed: Sealed,
    kind: PhantomData<fn() -> T>,
}

impl<T: Statement> Signed<T> {
    /// Signs a statement in the name of `signer`.
    pub fn seal(statement: &T, signer: Principal, key: &SigningKey) -> Self {
        let body = statement.to_canonical();
        let signature = key.sign(T::LABEL, &signed_input(&signer, &body));
        let sealed = Sealed { algorithm: Algorithm::Ed25519, signer, body: body.into(), signature };
        Self { sealed, kind: PhantomData }
    }

    /// Who is said to have signed.
    pub fn signer(&self) -> &Principal {
        &self.sealed.signer
    }

    /// What is said, unchecked: only to find the key to check it with.
    pub fn claim(&self) -> Result<T, NotCanonical> {
        T::from_canonical(&self.sealed.body)
    }

    /// Checks signer and signature, and returns what was signed.
    pub fn verify(&self, signer: &Principal, key: &VerifyingKey) -> Result<Verified<T>, SignatureError> {
        let Sealed { algorithm: Algorithm::Ed25519, signer: got, body, signature } = &self.sealed;
        if got != signer {
            return Err(SignatureError::WrongSigner { got: got.clone(), want: signer.clone() });
        }
        key.verify(T::LABEL, &signed_input(got, body), signature)
            .map_err(|BadSignature| SignatureError::Bad { label: T::LABEL, signer: signer.clone() })?;
        Ok(Verified { statement: T::from_canonical(body)?, signer: signer.clone() })
    }

    /// Hash of the whole signed statement, signature included.
    pub fn hash(&self) -> Hash {
        Hash::of_value(T::LABEL, self)
    }
}

/// The signer's name is signed too, so that two parties with one key could not be exchanged.
fn signed_input(signer: &Principal, body: &[u8]) -> Vec<u8> {
    let mut input = signer.to_canonical();
    input.extend_from_slice(body);
    input
}

impl<T, C> Encode<C> for Signed<T> {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.sealed.encode(e, ctx)
    }
}

impl<'b, T, C> Decode<'b, C> for Signed<T> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        Ok(Self { sealed: Sealed::decode(d, ctx)?, kind: PhantomData })
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { sealed: self.sealed.clone(), kind: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.sealed == other.sealed
    }
}

impl<T> Eq for Signed<T> {}

impl<T: Statement> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} by {})", T::LABEL, self.sealed.signer)
    }
}

/// A statement whose signature was checked. Only [`Signed::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    statement: T,
    signer: Principal,
}

impl<T> Verified<T> {
    /// The statement.
    pub fn into_inner(self) -> T {
        self.statement
    }

    /// Who signed it.
    pub fn signer(&self) -> &Principal {
        &self.signer
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.statement
    }
}

/// Why a signed statement is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Signed by somebody else than required here.
    #[error("signed by {got}, but {want} must sign this")]
    WrongSigner {
        /// Who signed.
        got: Principal,
        /// Who has to.
        want: Principal,
    },
    /// The signature does not match.
    #[error("the {label} signature of {signer} does not match")]
    Bad {
        /// Kind of statement.
        label: &'static str,
        /// Who is said to have signed.
        signer: Principal,
    },
    /// Signed bytes that are not a canonical statement.
    #[error("the signed bytes are not a statement of this kind: {0}")]
    Body(#[from] NotCanonical),
}

macro_rules! fixed_bytes {
    ($name:ident, $len:literal, $message:literal) => {
        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                <[u8; $len]>::try_from(d.bytes()?).map(Self).map_err(|_| decode::Error::message($message))
            }
        }
    };
}

fixed_bytes!(VerifyingKey, 32, "an Ed25519 public key has 32 bytes");
fixed_bytes!(Signature, 64, "an Ed25519 signature has 64 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Yes(#[n(0)] u32);
    impl Statement for Yes {
        const LABEL: &'static str = "test-yes";
    }

    fn site() -> Principal {
        "site/a".parse().unwrap()
    }

    #[test]
    fn a_statement_survives_the_wire() {
        let key = SigningKey::generate();
        let signed = Signed::seal(&Yes(3), site(), &key);
        let arrived = Signed::<Yes>::from_canonical(&signed.to_canonical()).unwrap();
        assert_eq!(arrived, signed);
        assert_eq!(arrived.verify(&site(), &key.verifying_key()).unwrap().into_inner(), Yes(3));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = SigningKey::generate();
        let bytes = Signed::seal(&Yes(3), site(), &key).to_canonical();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let verdict = Signed::<Yes>::from_canonical(&changed)
                .map(|signed| signed.verify(&site(), &key.verifying_key()).is_err());
            assert!(verdict.unwrap_or(true), "bit {bit} was not noticed");
        }
    }

    #[test]
    fn labels_and_signers_separate() {
        let key = SigningKey::generate();
        let signature = key.sign("a", b"x");
        assert_eq!(key.verifying_key().verify("a", b"x", &signature), Ok(()));
        assert_eq!(key.verifying_key().verify("b", b"x", &signature), Err(BadSignature));
        let signed = Signed::seal(&Yes(3), site(), &key);
        let other: Principal = "site/b".parse().unwrap();
        assert!(matches!(
            signed.verify(&other, &key.verifying_key()),
            Err(SignatureError::WrongSigner { .. })
        ));
        let mut exchanged = signed;
        exchanged.sealed.signer = other.clone();
        assert!(matches!(exchanged.verify(&other, &key.verifying_key()), Err(SignatureError::Bad { .. })));
    }

    #[test]
    fn agrees_with_rfc_8032() {
        // RFC 8032, section 7.1, test 1: the public key of a given seed.
        let seed =
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse::<Hash>().unwrap();
        let key = SigningKey::from_seed(Zeroizing::new(*seed.as_bytes()));
        assert_eq!(
            key.verifying_key().to_string(),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert!(!format!("{key:?}").contains("9d61"));
    }
}
