//! How a coordinator takes office without its keys leaving its machine.
//!
//! 1. The coordinator makes its [`CoordinatorKeys`] and writes a [`CoordinatorRequest`], signed by one of them, with
//!    signing requests for the other two.
//! 2. The operator compares the fingerprint with the one shown there, and [`commission`] makes the certificates
//!    and the consortium's first roster with the consortium's key.
//! 3. The coordinator checks all of its [`Commission`] against the keys it made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use consilium_study::canonical::Canonical;
use consilium_study::fingerprint;
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::sign::{SignatureError, Signed, SigningKey, Statement, VerifyingKey};
use jiff::Timestamp;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rustls_pki_types::{CertificateDer, UnixTime};
use zeroize::Zeroizing;

use crate::address::{Address, Host};
use crate::certificate;
use crate::issuing::{InvalidIssuing, RenewalRefusal};
use crate::key::{Csr, InvalidCsr};
use crate::revocation::Revocations;
use crate::roster::{CoordinatorEntry, PersonEntry, RosterError};
use crate::{Anchor, CertificateRefusal, Chain, ConsortiumKey, IssuingKey, Roster, TlsKey, Trust, roster};

/// Longest file with a request or a commission that is read, in bytes. Ordinary ones have two thousand.
pub const LONGEST_FILE: u64 = 64 * 1024;

/// The three keys of a coordinator.
#[derive(Debug)]
pub struct CoordinatorKeys {
    /// Answers connections.
    pub tls: TlsKey,
    /// Signs contexts, statements and checkpoints.
    pub signing: SigningKey,
    /// Renews certificates of those on the roster.
    pub issuing: TlsKey,
}

impl CoordinatorKeys {
    /// New keys from the operating system's randomness.
    pub fn generate() -> Self {
        Self { tls: TlsKey::generate(), signing: SigningKey::generate(), issuing: TlsKey::generate() }
    }

    /// What stands on the roster.
    pub fn entry(&self) -> CoordinatorEntry {
        CoordinatorEntry {
            signing_key: self.signing.verifying_key(),
            tls_key: self.tls.public_key().hash(),
            issuing_key: self.issuing.public_key().hash(),
        }
    }

    /// The files of the identity folder that only their owner may read.
    pub fn files(&self) -> [(&'static str, Zeroizing<Vec<u8>>); 3] {
        let pem = |key: &TlsKey| Zeroizing::new(key.to_pem().as_bytes().to_vec());
        [
            ("tls.key", pem(&self.tls)),
            ("signing.key", Zeroizing::new(self.signing.to_seed().to_vec())),
            ("issuing.key", pem(&self.issuing)),
        ]
    }
}

/// What a coordinator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CoordinatorRequest {
    /// Where sites will reach it.
    #[n(0)]
    address: Address,
    #[n(1)]
    tls: ByteVec,
    #[n(2)]
    issuing: ByteVec,
    #[n(3)]
    signing_key: VerifyingKey,
}

impl Statement for CoordinatorRequest {
    const LABEL: &'static str = "coordinator-request";
}

impl CoordinatorRequest {
    /// The request of a coordinator that sites will reach at `address`.
    pub fn new(keys: &CoordinatorKeys, address: Address) -> Signed<Self> {
        let csr = |key: &TlsKey| key.request().as_der().to_vec().into();
        let request = Self {
            address,
            tls: csr(&keys.tls),
            issuing: csr(&keys.issuing),
            signing_key: keys.signing.verifying_key(),
        };
        Signed::seal(&request, Principal::Coordinator, &keys.signing)
    }
}

/// A request whose signatures hold: by the signing key over all of it, and by each TLS key over its own part. Whose
/// keys they are is for people to compare, by the [fingerprint](CheckedRequest::fingerprint) of all three.
#[derive(Debug)]
pub struct CheckedRequest {
    address: Address,
    tls: Csr,
    issuing: Csr,
    signing_key: VerifyingKey,
}

impl CheckedRequest {
    /// Checks the three signatures.
    pub fn new(signed: &Signed<CoordinatorRequest>) -> Result<Self, CommissionRefusal> {
        let claim = signed.claim().map_err(SignatureError::from)?;
        let request = signed.verify(&Principal::Coordinator, &claim.signing_key)?.into_inner();
        Ok(Self {
            tls: Csr::from_der(&request.tls)?,
            issuing: Csr::from_der(&request.issuing)?,
            address: request.address,
            signing_key: request.signing_key,
        })
    }

    /// Where sites will reach the coordinator.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The text that is compared on both machines: of the address and the three keys.
    pub fn fingerprint(&self) -> String {
        #[derive(Encode, Decode)]
        #[cbor(map)]
        struct Shown {
            #[n(0)]
            address: Address,
            #[n(1)]
            keys: CoordinatorEntry,
        }
        let shown = Shown { address: self.address.clone(), keys: self.entry() };
        fingerprint::groups(&Hash::of_value("coordinator-fingerprint", &shown))
    }

    /// What would stand on the roster.
    pub fn entry(&self) -> CoordinatorEntry {
        CoordinatorEntry {
            signing_key: self.signing_key,
            tls_key: self.tls.key().hash(),
            issuing_key: self.issuing.key().hash(),
        }
    }
}

/// Why a coordinator is not commissioned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommissionRefusal {
    /// The request's signature.
    #[error("the coordinator's request is not signed by the key it names: {0}")]
    Signature(#[from] SignatureError),
    /// A signing request in it.
    #[error(transparent)]
    Csr(#[from] InvalidCsr),
}

/// What a coordinator gets. None of it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Commission {
    /// Whom it serves.
    #[n(0)]
    pub anchor: Anchor,
    /// The consortium's first roster.
    #[n(1)]
    pub roster: Signed<Roster>,
    /// Its certificate.
    #[n(2)]
    pub chain: Chain,
    /// The certificate of its issuing key, DER.
    #[n(3)]
    issuing: ByteVec,
}

/// The operator's act, after the fingerprints were compared: certificates for the coordinator's keys, and the first
/// roster, with the operator on it.
pub fn commission(
    key: &ConsortiumKey,
    request: &CheckedRequest,
    operator: PersonEntry,
    now: Timestamp,
) -> Result<Commission, RosterError> {
    let anchor = key.anchor();
    let roster = key.sign(&Roster::first(anchor.name.clone(), request.entry(), operator)?);
    let hosts = std::slice::from_ref(request.address.host());
    let chain = key.certify_coordinator(request.tls.key(), hosts, now);
    let issuing = key.certify_issuing(request.issuing.key(), now).to_vec().into();
    Ok(Commission { anchor, roster, chain, issuing })
}

/// Why a coordinator does not take up a commission.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidCommission {
    /// The roster is not the consortium's.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// It answers the request of another coordinator.
    #[error("the commission is for other keys than those of this coordinator")]
    OtherKeys,
    /// Its certificate does not count.
    #[error(transparent)]
    Certificate(#[from] CertificateRefusal),
    /// The issuing certificate.
    #[error(transparent)]
    Issuing(#[from] InvalidIssuing),
    /// What the issuing key signs would not count.
    #[error(transparent)]
    Renewal(#[from] RenewalRefusal),
}

impl Commission {
    /// The coordinator's check: its own keys, and the rules by which the sites of this consortium will judge it,
    /// today and once it has renewed its certificate. Whether it is the right consortium is for people to compare,
    /// by the anchor's fingerprint.
    pub fn verify(&self, keys: &CoordinatorKeys, now: Timestamp) -> Result<(), InvalidCommission> {
        let roster = roster::verify(&self.anchor, &self.roster)?;
        if *roster.coordinator() != keys.entry() {
            return Err(InvalidCommission::OtherKeys);
        }
        let trust = Trust::new(self.anchor.clone(), &self.roster, Revocations::new())?;
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let judge = |chain: &Chain| {
            let (leaf, rest) = chain.split();
            trust.judge_coordinator(leaf, rest, at)
        };
        judge(&self.chain)?;
        if self.chain.leaf().key != roster.coordinator().tls_key {
            return Err(InvalidCommission::OtherKeys);
        }
        let issuing = TlsKey::from_pem(&keys.issuing.to_pem()).expect("what we wrote we can read");
        let issuing = IssuingKey::new(issuing, CertificateDer::from(self.issuing.to_vec()))?;
        let renewed = issuing.renew(&roster, &self.chain.certificates()[0], now)?;
        judge(&renewed)?;
        Ok(())
    }

    /// For whose keys it is.
    pub fn is_for(&self, coordinator: &CoordinatorEntry) -> bool {
        roster::verify(&self.anchor, &self.roster).is_ok_and(|roster| roster.coordinator() == coordinator)
    }

    /// The files of the identity folder that anybody may read. The last one makes the folder complete.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 4] {
        let issuing = certificate::to_pem(&CertificateDer::from(self.issuing.to_vec()));
        [
            ("certificate.pem", self.chain.to_pem().into_bytes()),
            ("issuing.pem", issuing.into_bytes()),
            ("roster", self.roster.to_canonical()),
            ("consortium.pub", format!("{}\n", self.anchor).into_bytes()),
        ]
    }
}

/// The coordinator's configuration file. It listens on the address that sites are told where that is the machine's
/// own (loopback), else on all.
///
/// `ledger` is the folder of the ledger, relative to the file.
pub fn configuration(address: &Address, ledger: &str) -> String {
    let listen = match address.host() {
        Host::Ip(ip) if ip.is_loopback() => *ip,
        Host::Ip(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Host::Name(_) | Host::Ip(IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
    };
    let listen = SocketAddr::new(listen, address.port());
    format!(
        "# The coordinator's configuration. Paths are relative to this file.\n\
         listen = \"{listen}\"\n\
         identity = \"identity\"\n\
         data = \"data\"\n\
         ledger = \"{ledger}\"\n\
         \n\
         # Traces and metrics go nowhere unless this is set.\n\
         # [telemetry]\n\
         # otlp = \"http://127.0.0.1:4317\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Keys, now};

    fn commissioned(keys: &CoordinatorKeys) -> Commission {
        let request = CoordinatorRequest::new(keys, "coordinator.example.org:443".parse().unwrap());
        let request = CheckedRequest::new(&request).unwrap();
        let key = ConsortiumKey::generate("north".parse().unwrap());
        commission(&key, &request, Keys::new().person("ada"), now()).unwrap()
    }

    #[test]
    fn a_commission_counts_for_the_keys_that_asked_and_no_others() {
        let keys = CoordinatorKeys::generate();
        let given = commissioned(&keys);
        assert_eq!(given.verify(&keys, now()), Ok(()));
        assert_eq!(Commission::from_canonical(&given.to_canonical()).unwrap(), given);
        let other = CoordinatorKeys::generate();
        assert_eq!(given.verify(&other, now()), Err(InvalidCommission::OtherKeys));
        // Each half of another consortium's commission is noticed.
        let foreign = commissioned(&keys);
        let refused = |changed: Commission| changed.verify(&keys, now()).is_err();
        assert!(refused(Commission { anchor: foreign.anchor, ..given.clone() }));
        assert!(refused(Commission { roster: foreign.roster, ..given.clone() }));
        assert!(refused(Commission { chain: foreign.chain, ..given.clone() }));
        assert!(refused(Commission { issuing: foreign.issuing, ..given.clone() }));
    }

    #[test]
    fn every_part_of_a_request_is_signed_by_its_key() {
        let keys = CoordinatorKeys::generate();
        let signed = CoordinatorRequest::new(&keys, "127.0.0.1:1".parse().unwrap());
        let honest = signed.claim().unwrap();
        let stranger = SigningKey::generate();
        let taken = Signed::seal(&honest, Principal::Coordinator, &stranger);
        assert!(matches!(CheckedRequest::new(&taken), Err(CommissionRefusal::Signature(_))));
        for broken in [
            CoordinatorRequest { tls: vec![0x30].into(), ..honest.clone() },
            CoordinatorRequest { issuing: vec![].into(), ..honest.clone() },
        ] {
            let signed = Signed::seal(&broken, Principal::Coordinator, &keys.signing);
            assert!(matches!(CheckedRequest::new(&signed), Err(CommissionRefusal::Csr(_))));
        }
    }

    #[test]
    fn the_fingerprint_is_of_address_and_keys() {
        let keys = CoordinatorKeys::generate();
        let shown = |keys: &CoordinatorKeys, address: &str| {
            let request = CoordinatorRequest::new(keys, address.parse().unwrap());
            CheckedRequest::new(&request).unwrap().fingerprint()
        };
        assert_eq!(
            shown(&keys, "a.example:1"),
            shown(&keys, "a.example:1"),
            "not of the random in a signature"
        );
        let before = shown(&keys, "a.example:1");
        assert_ne!(before, shown(&keys, "b.example:1"));
        let other = CoordinatorKeys { issuing: TlsKey::generate(), ..keys };
        assert_ne!(before, shown(&other, "a.example:1"));
    }
}
