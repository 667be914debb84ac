//! What everybody pins: a consortium's name and the public half of its key.

use std::fmt;
use std::str::FromStr;

use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, Principal};
use consilium_study::sign::{SignatureError, Signed, Statement, Verified, VerifyingKey};
use minicbor::{Decode, Encode};
use rustls::RootCertStore;
use rustls_pki_types::{Der, TrustAnchor};

/// SubjectPublicKeyInfo of an Ed25519 key up to the key itself (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The root of trust of one consortium. With it alone a certificate chain, a roster and every statement of
/// the consortium can be checked; the consortium's own certificate adds nothing and need not be distributed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Anchor {
    /// The consortium's name.
    #[n(0)]
    pub name: ConsortiumName,
    /// The public half of its key.
    #[n(1)]
    pub key: VerifyingKey,
}

/// A text that is no anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a line of name and public key")]
pub struct InvalidAnchor;

/// The line of `consortium.pub`: the name and the key in hexadecimal digits.
impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.key)
    }
}

impl FromStr for Anchor {
    type Err = InvalidAnchor;

    fn from_str(line: &str) -> Result<Self, InvalidAnchor> {
        let (name, key) = line.trim_end().split_once(' ').ok_or(InvalidAnchor)?;
        let key: Hash = key.parse().map_err(|_| InvalidAnchor)?;
        Ok(Self {
            name: name.parse().map_err(|_| InvalidAnchor)?,
            key: VerifyingKey::from_bytes(*key.as_bytes()),
        })
    }
}

impl Anchor {
    /// A short text for two people to compare.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint()
    }

    /// Checks a statement that the consortium itself must have signed.
    pub fn verify<T: Statement>(&self, signed: &Signed<T>) -> Result<Verified<T>, SignatureError> {
        signed.verify(&Principal::Consortium, &self.key)
    }

    /// The root store that chains of this consortium are checked against. The subject is derived from the
    /// name, as [`crate::ConsortiumKey`] writes it, so it takes no certificate to check one.
    pub(crate) fn root_store(&self) -> RootCertStore {
        let mut spki = ED25519_SPKI.to_vec();
        spki.extend_from_slice(self.key.as_bytes());
        let anchor = TrustAnchor {
            subject: Der::from(common_name(&self.name)),
            // Like the subject, the contents of the SEQUENCE without its header.
            subject_public_key_info: Der::from(spki[2..].to_vec()),
            name_constraints: None,
        };
        RootCertStore { roots: vec![anchor] }
    }
}

/// The distinguished name `CN=<name>`, without the outer SEQUENCE. A name has at most 63 ASCII characters,
/// so every length is one byte.
fn common_name(name: &ConsortiumName) -> Vec<u8> {
    let text = name.as_str().as_bytes();
    let length = u8::try_from(text.len()).expect("a name has at most 63 characters");
    let mut der = vec![0x31, length + 9, 0x30, length + 7, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, length];
    der.extend_from_slice(text);
    der
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConsortiumKey;
    use jiff::Timestamp;

    /// The slow, obvious way is to read the anchor out of the consortium's certificate.
    #[test]
    fn the_anchor_is_what_the_certificate_says() {
        for name in ["a", "north-sea", &"z".repeat(63)] {
            let key = ConsortiumKey::generate(name.parse().unwrap());
            let mut from_certificate = RootCertStore::empty();
            from_certificate.add(key.certificate(Timestamp::UNIX_EPOCH)).unwrap();
            assert_eq!(key.anchor().root_store().roots, from_certificate.roots);
        }
    }
}
