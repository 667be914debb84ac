//! TLS keys: made where they live, and shown to others as certificate signing requests.

use std::fmt;

use consilium_study::hash::Hash;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::certificate::key_hash;

/// Longest signing request that is read. An ordinary one has 200 bytes.
const LONGEST_REQUEST: usize = 4096;

/// A TLS private key: ECDSA on P-256, which every TLS stack and inspecting firewall knows.
///
/// It authenticates connections and nothing else; statements are signed with Ed25519 keys of their own.
pub struct TlsKey {
    pair: KeyPair,
}

/// A text that is no private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PEM file with a PKCS#8 private key on P-256")]
pub struct InvalidKey;

impl TlsKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        let pair =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the operating system has randomness");
        Self { pair }
    }

    /// Reads a PEM file.
    pub fn from_pem(text: &str) -> Result<Self, InvalidKey> {
        let der = pkcs8_from_pem(text)?;
        let pair =
            KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|_| InvalidKey)?;
        Ok(Self { pair })
    }

    /// Writes a PEM file, to be kept where only its owner reads.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", self.pair.serialized_der()))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let spki = self.pair.subject_public_key_info();
        PublicKey::from_spki(spki).expect("a key on P-256 is a key we use")
    }

    /// A request for a certificate. It proves possession of the key and claims no name: the name is given by
    /// whoever signs.
    pub fn request(&self) -> Csr {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair).expect("a request without names can be written");
        Csr { der: request.der().to_vec(), key: self.public_key() }
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.pair.serialized_der().to_vec().into())
    }
}

impl Drop for TlsKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsKey(of {})", self.public_key().hash().short())
    }
}

/// The public half of a TLS key.
pub struct PublicKey {
    info: SubjectPublicKeyInfo,
    spki: Vec<u8>,
}

/// A public key of a kind that is not used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("TLS keys are ECDSA keys on P-256 or Ed25519 keys")]
pub struct UnknownKeyKind;

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo.
    pub fn from_spki(spki: Vec<u8>) -> Result<Self, UnknownKeyKind> {
        let info = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| UnknownKeyKind)?;
        let known = [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519].contains(&info.algorithm());
        if known { Ok(Self { info, spki }) } else { Err(UnknownKeyKind) }
    }

    /// The hash that rosters and revocations name this key by.
    pub fn hash(&self) -> Hash {
        key_hash(&self.spki)
    }

    pub(crate) fn info(&self) -> &SubjectPublicKeyInfo {
        &self.info
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.hash().short())
    }
}

/// A certificate signing request (PKCS#10) whose own signature was checked. Only its key is ever used: names
/// and extensions that the requester may have written into it are ignored.
#[derive(Debug)]
pub struct Csr {
    der: Vec<u8>,
    key: PublicKey,
}

/// Bytes that are no signing request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCsr {
    /// Not PKCS#10, too long, or its signature does not match.
    #[error("not a certificate signing request with a matching signature")]
    Malformed,
    /// A key we do not use.
    #[error(transparent)]
    Key(#[from] UnknownKeyKind),
}

impl Csr {
    /// Reads a request and checks that the requester holds the key.
    pub fn from_der(der: &[u8]) -> Result<Self, InvalidCsr> {
        if der.len() > LONGEST_REQUEST {
            return Err(InvalidCsr::Malformed);
        }
        let request = CertificateSigningRequestDer::from(der);
        let params =
            CertificateSigningRequestParams::from_der(&request).map_err(|_| InvalidCsr::Malformed)?;
        let key = PublicKey::from_spki(params.public_key.subject_public_key_info())?;
        Ok(Self { der: der.to_vec(), key })
    }

    /// The request as DER.
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// The key that a certificate is asked for.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// Reads a private key's PEM file; what it holds is wiped when it is let go.
pub(crate) fn pkcs8_from_pem(text: &str) -> Result<Zeroizing<PrivatePkcs8KeyDer<'static>>, InvalidKey> {
    PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map(Zeroizing::new).map_err(|_| InvalidKey)
}

/// PEM (RFC 7468) with 64 characters a line.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    use std::fmt::Write as _;
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    // Reserved whole, so that a private key is not left behind in a smaller buffer.
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 40);
    writeln!(pem, "-----BEGIN {label}-----").expect("writing into a string cannot fail");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    writeln!(pem, "-----END {label}-----").expect("writing into a string cannot fail");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_requests_survive_their_files() {
        let key = TlsKey::generate();
        let again = TlsKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public_key().hash(), key.public_key().hash());
        let csr = Csr::from_der(key.request().as_der()).unwrap();
        assert_eq!(csr.key().hash(), key.public_key().hash());
        assert!(!format!("{key:?}").contains("PRIVATE"));
        assert_eq!(TlsKey::from_pem("hello").unwrap_err(), InvalidKey);
    }

    #[test]
    fn a_request_for_somebody_elses_key_is_refused() {
        let key = TlsKey::generate();
        let good = key.request().as_der().to_vec();
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            // Some bits of the envelope are read loosely; none of them leads to another key.
            if let Ok(csr) = Csr::from_der(&changed) {
                assert_eq!(csr.key().hash(), key.public_key().hash(), "byte {at}");
            }
        }
        // A request whose key was exchanged, signature and all else left: the key is 65 bytes from 0x04 on.
        let other = TlsKey::generate().request().as_der().to_vec();
        let point = |der: &[u8]| der.windows(3).position(|w| w == [0x42, 0x00, 0x04]).unwrap() + 2;
        let (from, to) = (point(&other), point(&good));
        let mut swapped = good;
        swapped[to..to + 65].copy_from_slice(&other[from..from + 65]);
        assert_eq!(Csr::from_der(&swapped).unwrap_err(), InvalidCsr::Malformed);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Csr::from_der(&bytes);
            let _ = PublicKey::from_spki(bytes);
        }
    }
}
