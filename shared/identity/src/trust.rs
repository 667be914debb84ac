//! Whose certificate counts: one set of rules for the handshake and for every later call.
//!
//! A certificate of a member counts when (1) its chain leads to the consortium's key, (2) it is in its time,
//! (3) neither it nor its key is revoked, and (4) name, role and TLS key stand on the roster, and where the
//! coordinator's issuing key made it, that key stands there too. Rule 4 is what keeps a stolen issuing key
//! from adding a site.
//!
//! One exception: a site also accepts a coordinator whose certificate the consortium key signed *directly*,
//! with a key its own roster does not know. That is how a coordinator with new keys can bring the roster that
//! says so.

use std::sync::{Arc, PoisonError, RwLock};

use consilium_study::name::{ConsortiumName, Principal};
use consilium_study::sign::{Signed, Verified};
use jiff::Timestamp;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::Anchor;
use crate::certificate::{Issuer, Leaf, Peer, Serial, UnreadableCertificate};
use crate::revocation::{Revocation, Revocations};
use crate::roster::{self, Change, Roster, RosterError};

/// Why a certificate does not count. Texts are written for the log of the side that refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CertificateRefusal {
    /// Not a certificate of a party.
    #[error(transparent)]
    Unreadable(#[from] UnreadableCertificate),
    /// Of another consortium.
    #[error("foreign certificate: it belongs to consortium {consortium}")]
    OtherConsortium {
        /// The consortium it names.
        consortium: ConsortiumName,
    },
    /// It names this consortium, and no key of this consortium signed it.
    #[error("foreign certificate: it says {claimed}, but was not signed by this consortium")]
    Unsigned {
        /// The party it claims to be.
        claimed: Principal,
    },
    /// Its time is over.
    #[error("the certificate of {principal} expired at {at}")]
    Expired {
        /// Whose it is.
        principal: Principal,
        /// Last moment of its life.
        at: Timestamp,
    },
    /// Its time has not come: usually a clock that is wrong.
    #[error("the certificate of {principal} is valid from {from} only; is a clock wrong?")]
    NotYetValid {
        /// Whose it is.
        principal: Principal,
        /// First moment of its life.
        from: Timestamp,
    },
    /// It, or its key, was revoked.
    #[error("the certificate {serial} of {principal} is revoked")]
    Revoked {
        /// Whose it was.
        principal: Principal,
        /// Its serial number.
        serial: Serial,
    },
    /// The roster does not know the name.
    #[error("{principal} is not on the roster")]
    NotOnRoster {
        /// The name.
        principal: Principal,
    },
    /// The roster knows the name with another key.
    #[error("the certificate of {principal} is for another key than the roster's")]
    OtherKey {
        /// The name.
        principal: Principal,
    },
    /// Renewed by an issuing key that the roster does not name.
    #[error("the certificate of {principal} was renewed by a key that the roster does not name")]
    OtherIssuer {
        /// Whose it is.
        principal: Principal,
    },
    /// A certificate of the consortium that does not serve here, for example a person's shown by a server.
    #[error("the certificate of {principal}, or its issuer's, does not serve here: {cause:?}")]
    Purpose {
        /// Whose it is.
        principal: Principal,
        /// What the chain check says.
        cause: CertificateError,
    },
}

impl CertificateRefusal {
    /// The TLS error whose alert tells the other side the same.
    pub(crate) fn tls_error(&self) -> CertificateError {
        match self {
            Self::Unreadable(UnreadableCertificate::Encoding | UnreadableCertificate::Range) => {
                CertificateError::BadEncoding
            }
            Self::Unreadable(UnreadableCertificate::Name { .. })
            | Self::OtherConsortium { .. }
            | Self::Unsigned { .. } => CertificateError::UnknownIssuer,
            Self::Expired { .. } => CertificateError::Expired,
            Self::NotYetValid { .. } => CertificateError::NotValidYet,
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::NotOnRoster { .. } | Self::OtherKey { .. } | Self::OtherIssuer { .. } => {
                CertificateError::ApplicationVerificationFailure
            }
            Self::Purpose { .. } => CertificateError::InvalidPurpose,
        }
    }
}

/// Everything by which certificates are judged. The roster and the revocations are live: a change counts
/// from the next question on.
pub struct Trust {
    anchor: Anchor,
    checker: ChainChecker,
    live: RwLock<Live>,
}

struct Live {
    roster: Arc<Verified<Roster>>,
    revocations: Revocations,
}

impl Trust {
    /// Starts with a roster of the anchor's consortium.
    pub fn new(
        anchor: Anchor,
        roster: &Signed<Roster>,
        revocations: Revocations,
    ) -> Result<Self, RosterError> {
        let roster = Arc::new(roster::verify(&anchor, roster)?);
        let checker = ChainChecker::new(&anchor);
        Ok(Self { anchor, checker, live: RwLock::new(Live { roster, revocations }) })
    }

    /// The root of all of it.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// The roster as it is now.
    pub fn roster(&self) -> Arc<Verified<Roster>> {
        Arc::clone(&self.read().roster)
    }

    /// Takes the next roster. One that does not follow from the present one is refused; the present one
    /// again changes nothing.
    pub fn adopt(&self, next: &Signed<Roster>) -> Result<Vec<(Principal, Change)>, RosterError> {
        let next = roster::verify(&self.anchor, next)?;
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if next.hash() == live.roster.hash() {
            return Ok(Vec::new());
        }
        let changes = live.roster.follow(&next)?;
        live.roster = Arc::new(next);
        Ok(changes)
    }

    /// Records a revocation. The caller has checked who signed it and has written it down.
    pub fn revoke(&self, revocation: Revocation) {
        self.live.write().unwrap_or_else(PoisonError::into_inner).revocations.insert(revocation);
    }

    /// Whether a certificate, or its key, was revoked.
    pub fn is_revoked(&self, leaf: &Leaf) -> bool {
        self.read().check_revoked(leaf, None).is_err()
    }

    /// Judges the certificate that a client shows.
    pub fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, CertificateRefusal> {
        let CheckedChain { leaf, issuer } =
            self.checker.check(Use::Client, certificate, intermediates, now)?;
        self.judge_now(&leaf, issuer.as_ref(), true, moment(now))?;
        Ok(Peer::proven(leaf, issuer))
    }

    /// Judges the certificate that a server shows; it must be the coordinator's.
    pub(crate) fn judge_coordinator(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, CertificateRefusal> {
        let CheckedChain { leaf, issuer } =
            self.checker.check(Use::Server, certificate, intermediates, now)?;
        self.judge_now(&leaf, issuer.as_ref(), issuer.is_some(), moment(now))?;
        Ok(Peer::proven(leaf, issuer))
    }

    /// Judges a member again: asked before every call, and by whatever cuts connections.
    pub fn recheck(&self, peer: &Peer, now: Timestamp) -> Result<(), CertificateRefusal> {
        self.judge_now(peer.leaf(), peer.issuer(), true, now)
    }

    /// Everything about a certificate that time can change.
    fn judge_now(
        &self,
        leaf: &Leaf,
        issuer: Option<&Issuer>,
        by_roster: bool,
        now: Timestamp,
    ) -> Result<(), CertificateRefusal> {
        let live = self.read();
        live.check_revoked(leaf, issuer)?;
        check_time(leaf, now)?;
        if by_roster { live.check_roster(leaf, issuer) } else { Ok(()) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Live> {
        // Every write replaces a value whole, so a panic in between leaves nothing half done.
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn check_revoked(&self, leaf: &Leaf, issuer: Option<&Issuer>) -> Result<(), CertificateRefusal> {
        let shown = std::iter::once((&leaf.serial, &leaf.key));
        let mut shown = shown.chain(issuer.map(|issuer| (&issuer.serial, &issuer.key)));
        match shown.find(|(serial, key)| self.revocations.contains(serial, key)) {
            None => Ok(()),
            Some((serial, _)) => Err(CertificateRefusal::Revoked {
                principal: leaf.id.principal.clone(),
                serial: serial.clone(),
            }),
        }
    }

    fn check_roster(&self, leaf: &Leaf, issuer: Option<&Issuer>) -> Result<(), CertificateRefusal> {
        let principal = leaf.id.principal.clone();
        match self.roster.tls_key(&principal) {
            None => Err(CertificateRefusal::NotOnRoster { principal }),
            Some(known) if known != leaf.key => Err(CertificateRefusal::OtherKey { principal }),
            Some(_) => match issuer {
                Some(issuer) if issuer.key != self.roster.coordinator().issuing_key => {
                    Err(CertificateRefusal::OtherIssuer { principal })
                }
                _ => Ok(()),
            },
        }
    }
}

/// What a certificate is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Client,
    Server,
}

/// Checks chains against one anchor, by the path building of `rustls`.
pub(crate) struct ChainChecker {
    consortium: ConsortiumName,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
}

/// A leaf whose chain leads to the anchor, and what stands between.
pub(crate) struct CheckedChain {
    pub(crate) leaf: Leaf,
    pub(crate) issuer: Option<Issuer>,
}

impl ChainChecker {
    pub(crate) fn new(anchor: &Anchor) -> Self {
        let roots = Arc::new(anchor.root_store());
        let provider = crate::tls::provider();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .expect("the store holds an anchor, and there are no revocation lists to parse");
        Self { consortium: anchor.name.clone(), roots, provider, clients }
    }

    /// Checks name and chain. Time is not judged here, so that a foreign certificate is called foreign and an
    /// expired one of ours expired: the path is checked at the moment of the leaf's life nearest to `now`.
    pub(crate) fn check(
        &self,
        purpose: Use,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<CheckedChain, CertificateRefusal> {
        let leaf = Leaf::parse(certificate)?;
        if leaf.id.consortium != self.consortium {
            return Err(CertificateRefusal::OtherConsortium { consortium: leaf.id.consortium });
        }
        let claimed = || leaf.id.principal.clone();
        let at = moment(now).clamp(leaf.not_before, leaf.not_after);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(at.as_second()).map_err(|_| UnreadableCertificate::Range)?,
        ));
        // First without the intermediates: only what the consortium key itself signed passes.
        let issuer = match (self.path(purpose, certificate, &[], at), intermediates.first()) {
            (Ok(()), _) => None,
            // Then with exactly the one that follows the leaf. Were others offered too, the path could lead
            // through one of them while the roster's question is asked about this one.
            (Err(CertificateError::UnknownIssuer), Some(issuing)) => {
                self.path(purpose, certificate, std::slice::from_ref(issuing), at)
                    .map_err(|error| refusal(error, claimed()))?;
                Some(Issuer::parse(issuing)?)
            }
            (Err(error), _) => return Err(refusal(error, claimed())),
        };
        Ok(CheckedChain { leaf, issuer })
    }

    fn path(
        &self,
        purpose: Use,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<(), CertificateError> {
        let checked = match purpose {
            Use::Client => self.clients.verify_client_cert(certificate, intermediates, at).map(|_| ()),
            Use::Server => ParsedCertificate::try_from(certificate).and_then(|parsed| {
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, at, algorithms)
            }),
        };
        checked.map_err(|error| match error {
            rustls::Error::InvalidCertificate(error) => error,
            _ => CertificateError::BadEncoding,
        })
    }
}

fn refusal(error: CertificateError, claimed: Principal) -> CertificateRefusal {
    match error {
        CertificateError::BadEncoding => UnreadableCertificate::Encoding.into(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateRefusal::Unsigned { claimed }
        }
        cause => CertificateRefusal::Purpose { principal: claimed, cause },
    }
}

/// Whether a certificate is in its time.
pub(crate) fn check_time(leaf: &Leaf, now: Timestamp) -> Result<(), CertificateRefusal> {
    let principal = || leaf.id.principal.clone();
    if now > leaf.not_after {
        return Err(CertificateRefusal::Expired { principal: principal(), at: leaf.not_after });
    }
    if now < leaf.not_before {
        return Err(CertificateRefusal::NotYetValid { principal: principal(), from: leaf.not_before });
    }
    Ok(())
}

pub(crate) fn moment(time: UnixTime) -> Timestamp {
    // A clock beyond the calendar's end judges like one at its end: everything has expired.
    i64::try_from(time.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
