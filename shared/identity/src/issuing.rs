//! The coordinator's issuing key: it renews what the roster names, and adds nothing.

use std::fmt;

use consilium_study::name::Principal;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::address::Host;
use crate::authority::{Validity, can_issue, chain_of, issue_below, leaf_params, lifetime};
use crate::certificate::{Chain, UnreadableCertificate, authority_validity, public_key_of};
use crate::key::{PublicKey, UnknownKeyKind};
use crate::roster::Roster;
use crate::spiffe::SpiffeId;
use crate::{TlsKey, certificate};

/// The issuing key with the certificate that the consortium gave it.
pub struct IssuingKey {
    key: TlsKey,
    certificate: CertificateDer<'static>,
    ends: Timestamp,
}

/// Why a certificate is not renewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenewalRefusal {
    /// The roster does not name the party.
    #[error("{0} is not on the roster")]
    NotOnRoster(Principal),
    /// The roster names the party with another key. New keys are a matter for the consortium's key.
    #[error("the roster names another TLS key for {0}; a site with new keys enrols again")]
    OtherKey(Principal),
    /// The certificate that is to be renewed cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableCertificate),
    /// Its key is of a kind that is not used.
    #[error(transparent)]
    Key(#[from] UnknownKeyKind),
    /// The issuing certificate is over.
    #[error("the coordinator's issuing certificate expired at {0}; the consortium's operator must renew it")]
    IssuingExpired(Timestamp),
}

/// Key and certificate do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIssuing {
    /// No PEM certificate.
    #[error("not a PEM file with a certificate")]
    Pem,
    /// The certificate cannot be read.
    #[error(transparent)]
    Unreadable(#[from] UnreadableCertificate),
    /// The certificate is for another key.
    #[error("the issuing certificate is for another key")]
    OtherKey,
}

impl IssuingKey {
    /// Puts key and certificate together.
    pub fn new(key: TlsKey, certificate: CertificateDer<'static>) -> Result<Self, InvalidIssuing> {
        let ends = authority_validity(&certificate)?;
        let spki = public_key_of(&certificate)?;
        if certificate::key_hash(&spki) != key.public_key().hash() {
            return Err(InvalidIssuing::OtherKey);
        }
        if !can_issue(&certificate, key.pair()) {
            return Err(UnreadableCertificate::Encoding.into());
        }
        Ok(Self { key, certificate, ends })
    }

    /// Reads the certificate from its PEM file.
    pub fn from_pem(key: TlsKey, certificate: &str) -> Result<Self, InvalidIssuing> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| InvalidIssuing::Pem)?;
        Self::new(key, der)
    }

    /// Hash of the issuing key, as it stands on the roster.
    pub fn key(&self) -> consilium_study::hash::Hash {
        self.key.public_key().hash()
    }

    /// A new certificate for the key, and with the addresses, that `current` is for, if the roster names that key
    /// for that party.
    ///
    /// Whoever calls has checked that the requester holds the key (by the handshake) and is not revoked.
    pub fn renew(
        &self,
        roster: &Roster,
        current: &CertificateDer<'_>,
        now: Timestamp,
    ) -> Result<Chain, RenewalRefusal> {
        let principal = certificate::Leaf::parse(current)?.id.principal;
        let key = PublicKey::from_spki(public_key_of(current)?)?;
        match roster.tls_key(&principal) {
            None => return Err(RenewalRefusal::NotOnRoster(principal)),
            Some(known) if known != key.hash() => return Err(RenewalRefusal::OtherKey(principal)),
            Some(_) => {}
        }
        let span = match principal {
            Principal::Operator(_) | Principal::Auditor(_) => lifetime::PERSON,
            Principal::Consortium | Principal::Coordinator | Principal::Site(_) => lifetime::SITE,
        };
        if now >= self.ends {
            return Err(RenewalRefusal::IssuingExpired(self.ends));
        }
        let validity = Validity::starting(now, span);
        let validity = Validity { not_after: validity.not_after.min(self.ends), ..validity };
        let id = SpiffeId { consortium: roster.consortium().clone(), principal };
        Ok(self.sign(&id, &key, &certificate::hosts_of(current)?, validity))
    }

    /// Signs without asking the roster: what a thief of the key can do. Only [`Self::renew`] and the tests
    /// that show a thief gains nothing call it.
    pub(crate) fn sign(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        addresses: &[Host],
        validity: Validity,
    ) -> Chain {
        let params = leaf_params(id, addresses, validity);
        let leaf = issue_below(&params, key, &self.certificate, self.key.pair());
        chain_of(vec![leaf, self.certificate.clone()])
    }
}

impl fmt::Debug for IssuingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuingKey({})", self.key().short())
    }
}
