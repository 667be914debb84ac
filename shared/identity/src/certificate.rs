//! Certificates as this system reads them: a name, a serial number, a key, a time.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use consilium_study::hash::Hash;
use consilium_study::name::{PersonName, Principal, SiteName};
use jiff::Timestamp;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::address::Host;
use crate::spiffe::{InvalidSpiffeId, SpiffeId};

/// Longest serial number that RFC 5280 allows, in bytes.
const LONGEST_SERIAL: usize = 20;

/// Serial number of a certificate, as bytes. Shown in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

/// A text or bytes that are no serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a serial number has 1 to 20 bytes, written as hexadecimal digits")]
pub struct InvalidSerial;

impl Serial {
    /// Wraps the bytes of a serial number.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidSerial> {
        if (1..=LONGEST_SERIAL).contains(&bytes.len()) {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(InvalidSerial)
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = InvalidSerial;

    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        if !text.len().is_multiple_of(2) || text.len() > 2 * LONGEST_SERIAL {
            return Err(InvalidSerial);
        }
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
            .collect();
        Self::new(&bytes.ok_or(InvalidSerial)?)
    }
}

impl<C> Encode<C> for Serial {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Serial {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(d.bytes()?).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// What a certificate says. Nothing of it is proved until the chain was checked: see [`Peer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Whose certificate it is.
    pub id: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// Hash of its public key ([`crate::key::PublicKey::hash`]).
    pub key: Hash,
    /// First moment of its life.
    pub not_before: Timestamp,
    /// Last moment of its life.
    pub not_after: Timestamp,
}

/// Why bytes are no certificate of a party.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableCertificate {
    /// Not X.509.
    #[error("the bytes are no X.509 certificate")]
    Encoding,
    /// No party's name, or several. `issuer` says who made the certificate.
    #[error("the certificate, issued by {issuer}, names no party of a consortium")]
    Name {
        /// The issuer as the certificate states it.
        issuer: String,
        /// Why its URI is no name, when it has one.
        cause: Option<InvalidSpiffeId>,
    },
    /// A validity outside of the calendar or that ends before it begins, or a serial number that is too long.
    #[error("the certificate's validity or serial number is out of range")]
    Range,
}

impl Leaf {
    /// Reads a certificate.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, UnreadableCertificate> {
        let parsed = parse(certificate)?;
        let mut names = uris(&parsed);
        let named = match (names.next(), names.next()) {
            (Some(uri), None) => uri.parse().map_err(Some),
            _ => Err(None),
        };
        let id =
            named.map_err(|cause| UnreadableCertificate::Name { issuer: issuer_text(&parsed), cause })?;
        let moment = |seconds| Timestamp::from_second(seconds).map_err(|_| UnreadableCertificate::Range);
        let not_before = moment(parsed.validity().not_before.timestamp())?;
        let not_after = moment(parsed.validity().not_after.timestamp())?;
        if not_before > not_after {
            return Err(UnreadableCertificate::Range);
        }
        Ok(Self {
            id,
            serial: Serial::new(parsed.raw_serial()).map_err(|InvalidSerial| UnreadableCertificate::Range)?,
            key: key_hash(parsed.public_key().raw),
            not_before,
            not_after,
        })
    }

    /// Whether this certificate may take the place of an earlier one: the same name and key, for longer.
    pub fn renews(&self, earlier: &Self) -> bool {
        self.id == earlier.id && self.key == earlier.key && self.not_after > earlier.not_after
    }

    /// When to ask for the next certificate: with a third of this one's life left.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.as_second() - self.not_before.as_second();
        Timestamp::from_second(self.not_before.as_second() + life / 3 * 2)
            .expect("a moment between two moments of the calendar is in the calendar")
    }
}

impl Issuer {
    /// Reads the certificate of an issuing key.
    pub(crate) fn parse(certificate: &CertificateDer<'_>) -> Result<Self, UnreadableCertificate> {
        let parsed = parse(certificate)?;
        let serial =
            Serial::new(parsed.raw_serial()).map_err(|InvalidSerial| UnreadableCertificate::Range)?;
        Ok(Self { serial, key: key_hash(parsed.public_key().raw) })
    }
}

/// When a certificate that signs certificates ends.
pub(crate) fn authority_validity(
    certificate: &CertificateDer<'_>,
) -> Result<Timestamp, UnreadableCertificate> {
    let parsed = parse(certificate)?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|_| UnreadableCertificate::Range)
}

/// Who issued a certificate, as it says itself: for people who look for an intercepting proxy.
pub fn issuer_of(certificate: &CertificateDer<'_>) -> Option<String> {
    parse(certificate).ok().map(|parsed| issuer_text(&parsed))
}

/// Public key of a certificate as DER.
pub(crate) fn public_key_of(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, UnreadableCertificate> {
    Ok(parse(certificate)?.public_key().raw.to_vec())
}

/// The hash by which rosters and revocations know a TLS key.
pub(crate) fn key_hash(spki: &[u8]) -> Hash {
    Hash::labelled("tls-key", spki)
}

/// The addresses in a certificate, for tools that go by host names.
pub(crate) fn hosts_of(certificate: &CertificateDer<'_>) -> Result<Vec<Host>, UnreadableCertificate> {
    let parsed = parse(certificate)?;
    let hosts = names_of(&parsed).filter_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(Host::Ip)
        }
        _ => None,
    });
    Ok(hosts.collect())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, UnreadableCertificate> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(UnreadableCertificate::Encoding),
    }
}

fn names_of<'a>(certificate: &'a X509Certificate<'a>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.into_iter().flat_map(|extension| &extension.value.general_names)
}

fn uris<'a>(certificate: &'a X509Certificate<'a>) -> impl Iterator<Item = &'a str> {
    names_of(certificate).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

/// A stranger wrote this text, so it is cut short and carries no control characters.
fn issuer_text(certificate: &X509Certificate<'_>) -> String {
    let text: String =
        certificate.issuer().to_string().chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { "(no name)".to_owned() } else { text }
}

/// A certificate and what leads from it to the consortium's key, leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain(Vec<CertificateDer<'static>>);

/// A chain that does not begin with a party's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChain {
    /// No certificate, or more than three.
    #[error("a certificate chain has one to three certificates, not {0}")]
    Length(usize),
    /// The text is no PEM.
    #[error("not a PEM file of certificates")]
    Pem,
    /// The first certificate is not one of ours.
    #[error(transparent)]
    Leaf(#[from] UnreadableCertificate),
}

/// Writes one certificate as a PEM file.
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    crate::key::pem("CERTIFICATE", certificate)
}

impl Chain {
    /// Longest chain: leaf, issuing certificate, and the consortium's own for tools that want it.
    const LONGEST: usize = 3;

    /// Checks and wraps a chain, leaf first.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, InvalidChain> {
        if !(1..=Self::LONGEST).contains(&certificates.len()) {
            return Err(InvalidChain::Length(certificates.len()));
        }
        Leaf::parse(&certificates[0])?;
        Ok(Self(certificates))
    }

    /// Reads a PEM file.
    pub fn from_pem(text: &str) -> Result<Self, InvalidChain> {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
            .take(Self::LONGEST + 1)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| InvalidChain::Pem)?;
        Self::new(certificates)
    }

    /// Writes a PEM file.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(|certificate| crate::key::pem("CERTIFICATE", certificate)).collect()
    }

    /// All certificates, leaf first.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// What the leaf says.
    pub fn leaf(&self) -> Leaf {
        Leaf::parse(&self.0[0]).expect("the leaf was read when the chain was made")
    }

    /// Leaf and the rest.
    pub(crate) fn split(&self) -> (&CertificateDer<'static>, &[CertificateDer<'static>]) {
        self.0.split_first().expect("a chain has at least one certificate")
    }
}

impl<C> Encode<C> for Chain {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.array(self.0.len() as u64)?;
        for certificate in &self.0 {
            e.bytes(certificate)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Chain {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let certificates = Vec::<ByteVec>::decode(d, ctx)?;
        let certificates = certificates.into_iter().map(|bytes| Vec::from(bytes).into()).collect();
        Self::new(certificates).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// A party whose certificate was accepted. Only [`crate::Trust`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    leaf: Leaf,
    issuer: Option<Issuer>,
}

/// What stands between a leaf and the consortium's key: the issuing certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issuer {
    pub(crate) serial: Serial,
    pub(crate) key: Hash,
}

impl Peer {
    pub(crate) fn proven(leaf: Leaf, issuer: Option<Issuer>) -> Self {
        Self { leaf, issuer }
    }

    pub(crate) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    pub(crate) fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// The party.
    pub fn principal(&self) -> &Principal {
        &self.leaf.id.principal
    }

    /// Serial number of the certificate it showed.
    pub fn serial(&self) -> &Serial {
        &self.leaf.serial
    }

    /// Hash of the TLS key it holds.
    pub fn key(&self) -> Hash {
        self.leaf.key
    }

    /// Until when the certificate is valid.
    pub fn not_after(&self) -> Timestamp {
        self.leaf.not_after
    }

    /// The site, if it is one.
    pub fn site(&self) -> Result<&SiteName, WrongRole> {
        match self.principal() {
            Principal::Site(name) => Ok(name),
            _ => Err(self.wrong(Role::Site)),
        }
    }

    /// The operator, if it is one.
    pub fn operator(&self) -> Result<&PersonName, WrongRole> {
        match self.principal() {
            Principal::Operator(name) => Ok(name),
            _ => Err(self.wrong(Role::Operator)),
        }
    }

    /// Any person who may look: an operator or an auditor.
    pub fn reader(&self) -> Result<&PersonName, WrongRole> {
        match self.principal() {
            Principal::Operator(name) | Principal::Auditor(name) => Ok(name),
            _ => Err(self.wrong(Role::Auditor)),
        }
    }

    fn wrong(&self, want: Role) -> WrongRole {
        WrongRole { got: self.principal().clone(), want }
    }
}

/// What a certificate entitles to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To take part in rounds.
    Site,
    /// To launch studies and admit sites.
    Operator,
    /// To read.
    Auditor,
    /// To run rounds.
    Coordinator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Site => "a site",
            Self::Operator => "an operator",
            Self::Auditor => "an operator or auditor",
            Self::Coordinator => "the coordinator",
        })
    }
}

/// A good certificate of the wrong kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this needs the certificate of {want}, and the caller is {got}")]
pub struct WrongRole {
    /// Who called.
    pub got: Principal,
    /// Who may.
    pub want: Role,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[0-9a-fx]{0,44}") {
            let _ = issuer_of(&bytes.clone().into());
            prop_assert!(Leaf::parse(&bytes.into()).is_err());
            if let Ok(serial) = text.parse::<Serial>() {
                prop_assert_eq!(serial.to_string(), text);
            }
        }
    }
}
