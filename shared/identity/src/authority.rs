//! The consortium's key: offline, on the operator's machine, the only one that can add anybody.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use consilium_study::name::{ConsortiumName, Principal};
use consilium_study::sign::{Signed, SigningKey, Statement};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::Anchor;
use crate::address::Host;
use crate::certificate::Chain;
use crate::key::{InvalidKey, PublicKey, pem, pkcs8_from_pem};
use crate::spiffe::SpiffeId;

/// How long certificates live.
pub mod lifetime {
    use std::time::Duration;

    const DAY: Duration = Duration::from_hours(24);

    /// A site's, and every renewed one.
    pub const SITE: Duration = DAY.saturating_mul(30);
    /// A person's.
    pub const PERSON: Duration = DAY.saturating_mul(90);
    /// The coordinator's first. It renews itself afterwards, for as long as a site.
    pub const COORDINATOR: Duration = DAY.saturating_mul(90);
    /// The issuing certificate. Long, because its key only repeats what the roster says.
    pub const ISSUING: Duration = DAY.saturating_mul(3650);
    /// The consortium's own certificate. Checks go by the pinned key, so nothing happens when it ends.
    pub const CONSORTIUM: Duration = DAY.saturating_mul(7300);
    /// How far certificates reach into the past, for clocks that are slow.
    pub(crate) const BACKDATED: Duration = Duration::from_hours(1);
}

/// A PKCS#8 file of an Ed25519 key, up to the seed (RFC 8410, section 7).
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The offline key of a consortium: certificate authority and signer of rosters in one.
pub struct ConsortiumKey {
    name: ConsortiumName,
    key: SigningKey,
}

impl ConsortiumKey {
    /// A new key from the operating system's randomness.
    pub fn generate(name: ConsortiumName) -> Self {
        Self { name, key: SigningKey::generate() }
    }

    /// Reads the key's PEM file (PKCS#8).
    pub fn from_pem(name: ConsortiumName, text: &str) -> Result<Self, InvalidKey> {
        let der = pkcs8_from_pem(text)?;
        let seed = der.secret_pkcs8_der().strip_prefix(&ED25519_PKCS8).ok_or(InvalidKey)?;
        let seed: [u8; 32] = seed.try_into().map_err(|_| InvalidKey)?;
        Ok(Self { name, key: SigningKey::from_seed(Zeroizing::new(seed)) })
    }

    /// Writes the key's PEM file, to be kept offline.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", &self.pkcs8()))
    }

    /// What others pin.
    pub fn anchor(&self) -> Anchor {
        Anchor { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a statement in the name of the consortium.
    pub fn sign<T: Statement>(&self, statement: &T) -> Signed<T> {
        Signed::seal(statement, Principal::Consortium, &self.key)
    }

    /// The consortium's own certificate, for tools that want a file; our own checks go by the [`Anchor`].
    pub fn certificate(&self, now: Timestamp) -> CertificateDer<'static> {
        let params = authority_params(&self.name, None, Validity::starting(now, lifetime::CONSORTIUM));
        let pair = Pair::new(&self.pkcs8());
        let certificate = params.self_signed(&pair.0).expect("the consortium's certificate has valid fields");
        certificate.into()
    }

    /// A certificate for a site, an operator or an auditor. Adding the party to the roster is the other half.
    pub fn certify(
        &self,
        key: &PublicKey,
        principal: &Principal,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Chain, NotCertifiable> {
        if matches!(principal, Principal::Consortium | Principal::Coordinator) {
            return Err(NotCertifiable(principal.clone()));
        }
        let params = leaf_params(&self.id(principal), &[], Validity::starting(now, lifetime));
        Ok(chain_of(vec![self.issue(&params, key)]))
    }

    /// The coordinator's certificate. Its addresses are for tools that go by host names.
    pub fn certify_coordinator(&self, key: &PublicKey, addresses: &[Host], now: Timestamp) -> Chain {
        let id = self.id(&Principal::Coordinator);
        let params = leaf_params(&id, addresses, Validity::starting(now, lifetime::COORDINATOR));
        chain_of(vec![self.issue(&params, key)])
    }

    /// The certificate of the coordinator's issuing key.
    pub fn certify_issuing(&self, key: &PublicKey, now: Timestamp) -> CertificateDer<'static> {
        let validity = Validity::starting(now, lifetime::ISSUING);
        self.issue(&authority_params(&self.name, Some("issuing"), validity), key)
    }

    fn id(&self, principal: &Principal) -> SpiffeId {
        SpiffeId { consortium: self.name.clone(), principal: principal.clone() }
    }

    fn issue(&self, params: &CertificateParams, key: &PublicKey) -> CertificateDer<'static> {
        // The issuer's validity is not part of what it issues.
        let own =
            authority_params(&self.name, None, Validity::starting(Timestamp::UNIX_EPOCH, Duration::ZERO));
        let pair = Pair::new(&self.pkcs8());
        let certificate = params
            .signed_by(key.info(), &Issuer::from_params(&own, &pair.0))
            .expect("a certificate of checked fields can be signed");
        certificate.into()
    }

    fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        // Reserved whole, so that no part of the seed stays behind in a smaller buffer.
        let mut der = Zeroizing::new(Vec::with_capacity(ED25519_PKCS8.len() + 32));
        der.extend_from_slice(&ED25519_PKCS8);
        der.extend_from_slice(self.key.to_seed().as_slice());
        der
    }
}

impl fmt::Debug for ConsortiumKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConsortiumKey(of {}, {})", self.name, self.key.verifying_key().fingerprint())
    }
}

/// The party gets no certificate this way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a certificate for {0} is not made this way")]
pub struct NotCertifiable(Principal);

/// A key pair of the certificate library that forgets itself.
struct Pair(KeyPair);

impl Pair {
    fn new(pkcs8: &Zeroizing<Vec<u8>>) -> Self {
        let der = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519);
        Self(pair.expect("a seed of 32 bytes is a key"))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// First and last moment of a certificate.
#[derive(Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Validity {
    pub(crate) fn starting(now: Timestamp, lifetime: Duration) -> Self {
        let end = now.checked_add(lifetime).unwrap_or(Timestamp::MAX);
        Self { not_before: now.checked_sub(lifetime::BACKDATED).unwrap_or(now), not_after: end }
    }
}

/// Fields of a certificate that signs certificates.
fn authority_params(name: &ConsortiumName, unit: Option<&str>, validity: Validity) -> CertificateParams {
    let mut params = dated(validity);
    if let Some(unit) = unit {
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    }
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(u8::from(unit.is_none())));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Fields of a party's certificate.
pub(crate) fn leaf_params(id: &SpiffeId, addresses: &[Host], validity: Validity) -> CertificateParams {
    let mut params = dated(validity);
    let principal = id.principal.to_string();
    let (role, name) = principal.split_once('/').unwrap_or((&principal, id.consortium.as_str()));
    params.distinguished_name.push(DnType::OrganizationalUnitName, role);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if id.principal == Principal::Coordinator {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    let ascii = |text: String| text.try_into().expect("names, URIs and host names are ASCII");
    params.subject_alt_names.push(SanType::URI(ascii(id.to_string())));
    params.subject_alt_names.extend(addresses.iter().map(|address| match address {
        Host::Name(name) => SanType::DnsName(ascii(name.clone())),
        Host::Ip(ip) => SanType::IpAddress(*ip),
    }));
    params
}

fn dated(validity: Validity) -> CertificateParams {
    let moment = |at: Timestamp| {
        // X.509 knows no year before 1950 and none of five digits.
        let seconds = u64::try_from(at.as_second()).unwrap_or(0);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = moment(validity.not_before);
    params.not_after = moment(validity.not_after);
    params.serial_number = Some(random_serial());
    params.use_authority_key_identifier_extension = true;
    params
}

/// 127 random bits. The first byte is in 0x40..0x80, so the number is positive and always 16 bytes long.
fn random_serial() -> SerialNumber {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

pub(crate) fn chain_of(certificates: Vec<CertificateDer<'static>>) -> Chain {
    Chain::new(certificates).expect("a certificate we have just made names a party")
}

/// Whether the fields that [`issue_below`] reads from an issuing certificate can be read.
pub(crate) fn can_issue(issuing: &CertificateDer<'static>, pair: &KeyPair) -> bool {
    Issuer::from_ca_cert_der(issuing, pair).is_ok()
}

/// Signs a leaf with an issuing key, whose certificate follows it in the chain.
pub(crate) fn issue_below(
    params: &CertificateParams,
    key: &PublicKey,
    issuing: &CertificateDer<'static>,
    pair: &KeyPair,
) -> CertificateDer<'static> {
    let issuer = Issuer::from_ca_cert_der(issuing, pair).expect("`can_issue` was asked first");
    let certificate = params.signed_by(key.info(), &issuer);
    certificate.expect("a certificate of checked fields can be signed").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TlsKey;
    use crate::certificate::{Leaf, UnreadableCertificate};

    #[test]
    fn the_key_survives_its_file_and_prints_no_secret() {
        let key = ConsortiumKey::generate("north".parse().unwrap());
        let text = key.to_pem();
        let again = ConsortiumKey::from_pem("north".parse().unwrap(), &text).unwrap();
        assert_eq!(again.anchor(), key.anchor());
        assert!(!format!("{key:?}").contains("PRIVATE"));
        // A key on another curve is not taken for this one.
        let other = TlsKey::generate().to_pem();
        assert_eq!(ConsortiumKey::from_pem("north".parse().unwrap(), &other).unwrap_err(), InvalidKey);
    }

    #[test]
    fn a_certificate_says_what_it_was_asked_to_say() {
        let key = ConsortiumKey::generate("north".parse().unwrap());
        let tls = TlsKey::generate();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let principal: Principal = "site/charite".parse().unwrap();
        let chain = key.certify(&tls.public_key(), &principal, lifetime::SITE, now).unwrap();
        let leaf = Chain::from_pem(&chain.to_pem()).unwrap().leaf();
        assert_eq!(leaf.id.to_string(), "spiffe://north/site/charite");
        assert_eq!(leaf.key, tls.public_key().hash());
        assert_eq!(leaf.not_before, now - lifetime::BACKDATED);
        assert_eq!(leaf.not_after, now + lifetime::SITE);
        assert!(leaf.not_before < leaf.renew_at() && leaf.renew_at() < leaf.not_after);
        assert_eq!(leaf.serial.as_bytes().len(), 16);
        assert_eq!(leaf.serial.to_string().parse(), Ok(leaf.serial));
        let refused = key.certify(&tls.public_key(), &Principal::Coordinator, lifetime::SITE, now);
        assert_eq!(refused, Err(NotCertifiable(Principal::Coordinator)));
    }

    /// A stranger can write any dates into a certificate; none may trip the code that reads it.
    #[test]
    fn a_life_that_ends_before_it_begins_is_refused() {
        let key = ConsortiumKey::generate("north".parse().unwrap());
        let moment = |seconds| Timestamp::from_second(seconds).unwrap();
        let backwards = Validity { not_before: moment(2_000_000_000), not_after: moment(1_000_000_000) };
        let params = leaf_params(&key.id(&"site/a".parse().unwrap()), &[], backwards);
        let certificate = key.issue(&params, &TlsKey::generate().public_key());
        assert_eq!(Leaf::parse(&certificate), Err(UnreadableCertificate::Range));
    }
}
