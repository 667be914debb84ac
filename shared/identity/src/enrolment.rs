//! Enrolment: from an invitation to a certificate and a place on the roster.
//!
//! 1. The site makes a TLS key and a signing key and sends an [`EnrolmentRequest`], signed by the second,
//!    with a signing request for the first and a MAC by the invitation's secret over both.
//! 2. The coordinator checks what it can ([`accept_request`]) and keeps the request.
//! 3. The operator compares the fingerprint with the one the site shows, and [`admit`] makes certificate and
//!    roster with the consortium's key. The MAC is checked here, where the secret is.
//! 4. The site collects its [`Admission`] and checks all of it against the anchor it was invited with.

use consilium_study::canonical::Canonical;
use consilium_study::fingerprint;
use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, Principal, SiteName};
use consilium_study::sign::{SignatureError, Signed, SigningKey, Statement, Verified, VerifyingKey};
use jiff::Timestamp;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rustls_pki_types::UnixTime;
use subtle::ConstantTimeEq;

use crate::authority::lifetime;
use crate::invitation::{InvitationRecord, InvitationRefusal};
use crate::key::{Csr, InvalidCsr};
use crate::revocation::Revocations;
use crate::roster::{Roster, RosterError, SiteEntry};
use crate::{Chain, ConsortiumKey, Invitation, TlsKey, Trust, roster};

/// What a site asks for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EnrolmentRequest {
    #[n(0)]
    wish: Wish,
    /// MAC of the wish by the invitation's secret.
    #[n(1)]
    mac: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Wish {
    #[n(0)]
    consortium: ConsortiumName,
    #[n(1)]
    invitation: Hash,
    #[n(2)]
    site: SiteName,
    #[n(3)]
    csr: ByteVec,
    #[n(4)]
    signing_key: VerifyingKey,
}

impl Statement for EnrolmentRequest {
    const LABEL: &'static str = "enrolment-request";
}

impl EnrolmentRequest {
    /// The request of an invited site. The same keys give the same request, so sending it again is harmless.
    pub fn new(invitation: &Invitation, tls: &Csr, signing_key: &SigningKey) -> Signed<Self> {
        let wish = Wish {
            consortium: invitation.anchor().name.clone(),
            invitation: invitation.id(),
            site: invitation.site().clone(),
            csr: tls.as_der().to_vec().into(),
            signing_key: signing_key.verifying_key(),
        };
        let mac = invitation.mac(&wish.to_canonical());
        let signer = Principal::Site(wish.site.clone());
        Signed::seal(&Self { wish, mac }, signer, signing_key)
    }

    /// Checks that a request was signed by the keys that it asks for. Whether it comes from whoever was invited, only
    /// the holder of the invitation can check.
    pub fn verify(signed: &Signed<Self>) -> Result<Verified<Self>, EnrolmentRefusal> {
        let request = check_signature(signed)?;
        request.csr()?;
        Ok(request)
    }

    /// The consortium that it asks.
    pub fn consortium(&self) -> &ConsortiumName {
        &self.wish.consortium
    }

    /// Who asks.
    pub fn site(&self) -> &SiteName {
        &self.wish.site
    }

    /// The invitation it names.
    pub fn invitation(&self) -> Hash {
        self.wish.invitation
    }

    /// The key the site signs with.
    pub fn signing_key(&self) -> VerifyingKey {
        self.wish.signing_key
    }

    /// The signing request for its TLS key.
    pub fn csr(&self) -> Result<Csr, InvalidCsr> {
        Csr::from_der(&self.wish.csr)
    }

    /// The text that site and operator compare: of the name and both keys, five groups of four digits.
    pub fn fingerprint(&self) -> Result<String, InvalidCsr> {
        Ok(fingerprint(self.site(), &self.csr()?.key().hash(), &self.wish.signing_key))
    }
}

/// The text that site and operator compare before the site is admitted.
pub fn fingerprint(site: &SiteName, tls_key: &Hash, signing_key: &VerifyingKey) -> String {
    #[derive(Encode, Decode)]
    #[cbor(map)]
    struct Shown {
        #[n(0)]
        site: SiteName,
        #[n(1)]
        tls_key: Hash,
        #[n(2)]
        signing_key: VerifyingKey,
    }
    let shown = Shown { site: site.clone(), tls_key: *tls_key, signing_key: *signing_key };
    fingerprint::groups(&Hash::of_value("enrolment-fingerprint", &shown))
}

/// Why an enrolment does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentRefusal {
    /// The invitation.
    #[error(transparent)]
    Invitation(#[from] InvitationRefusal),
    /// The request's signature.
    #[error("the enrolment request is not signed by the key it asks for: {0}")]
    Signature(#[from] SignatureError),
    /// The signing request.
    #[error(transparent)]
    Csr(#[from] InvalidCsr),
    /// A good invitation, for somebody else.
    #[error("the invitation is for {invited}, and the request for {asked}")]
    OtherSite {
        /// Who was invited.
        invited: SiteName,
        /// Who asks.
        asked: SiteName,
    },
    /// The secret does not match the keys: somebody on the way changed them.
    #[error("the keys in this request were not sent by whoever holds the invitation of {0}; do not admit it")]
    Mac(SiteName),
    /// The roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
}

impl EnrolmentRefusal {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invitation(refusal) => refusal.code(),
            Self::Signature(_) | Self::Csr(_) => "malformed",
            Self::OtherSite { .. } => "other_site",
            Self::Mac(_) => "mac",
            Self::Roster(_) => "roster",
        }
    }
}

/// Whether the coordinator hears a request for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first; the record now names it.
    First,
    /// The same again, after a lost answer.
    Again,
}

/// The coordinator's check. On the first arrival the record is marked as used; the caller writes it down
/// together with the request before it answers.
pub fn accept_request(
    consortium: &ConsortiumName,
    record: Option<&mut InvitationRecord>,
    signed: &Signed<EnrolmentRequest>,
    now: Timestamp,
) -> Result<Arrival, EnrolmentRefusal> {
    let request = EnrolmentRequest::verify(signed)?;
    if request.wish.consortium != *consortium {
        let got = request.wish.consortium.clone();
        return Err(InvitationRefusal::Foreign { got, want: consortium.clone() }.into());
    }
    let record =
        record.filter(|record| record.id == request.wish.invitation).ok_or(InvitationRefusal::Unknown)?;
    check_site(&record.site, &request)?;
    match record.used_by {
        Some(known) if known == signed.hash() => Ok(Arrival::Again),
        Some(_) => Err(InvitationRefusal::Replayed { site: record.site.clone() }.into()),
        None if now > record.expires => {
            Err(InvitationRefusal::Expired { site: record.site.clone(), at: record.expires }.into())
        }
        None => {
            record.used_by = Some(signed.hash());
            Ok(Arrival::First)
        }
    }
}

fn check_signature(
    signed: &Signed<EnrolmentRequest>,
) -> Result<Verified<EnrolmentRequest>, EnrolmentRefusal> {
    let claim = signed.claim().map_err(SignatureError::from)?;
    Ok(signed.verify(&Principal::Site(claim.wish.site), &claim.wish.signing_key)?)
}

fn check_site(invited: &SiteName, request: &EnrolmentRequest) -> Result<(), EnrolmentRefusal> {
    if *invited == request.wish.site {
        return Ok(());
    }
    Err(EnrolmentRefusal::OtherSite { invited: invited.clone(), asked: request.wish.site.clone() })
}

/// How a site is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// A test machine: shown apart, and counted in no figure about hospitals.
    pub test: bool,
    /// Whether the site may take the place of one with the same name, after it lost its keys.
    pub replace: bool,
}

/// What a site gets: its certificate and the roster that names it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Admission {
    /// The certificate.
    #[n(0)]
    pub chain: Chain,
    /// The roster.
    #[n(1)]
    pub roster: Signed<Roster>,
}

/// The operator's act, after the fingerprints were compared: checks the request by the invitation's secret
/// and makes certificate and roster. Admitting the same keys again gives a new certificate and the same
/// roster. The invitation's end is not asked again here: the request came in time, people may take longer.
pub fn admit(
    key: &ConsortiumKey,
    invitation: &Invitation,
    signed: &Signed<EnrolmentRequest>,
    current: &Signed<Roster>,
    terms: Terms,
    now: Timestamp,
) -> Result<Admission, EnrolmentRefusal> {
    let roster = roster::verify(&key.anchor(), current)?;
    let request = check_signature(signed)?;
    if *invitation.anchor() != key.anchor() {
        let got = invitation.anchor().name.clone();
        return Err(InvitationRefusal::Foreign { got, want: key.anchor().name }.into());
    }
    check_site(invitation.site(), &request)?;
    let expected = invitation.mac(&request.wish.to_canonical());
    if !bool::from(expected.as_bytes().ct_eq(request.mac.as_bytes())) {
        return Err(EnrolmentRefusal::Mac(request.wish.site.clone()));
    }
    let csr = request.csr()?;
    let entry = SiteEntry {
        name: request.wish.site.clone(),
        signing_key: request.wish.signing_key,
        tls_key: csr.key().hash(),
        test: terms.test,
    };
    let roster = match roster.site(&entry.name) {
        Some(known) if *known == entry => current.clone(),
        Some(_) if terms.replace => key.sign(&roster.with_site_replaced(entry)?),
        _ => key.sign(&roster.with_site(entry)?),
    };
    let principal = Principal::Site(request.wish.site.clone());
    let chain = key
        .certify(csr.key(), &principal, lifetime::SITE, now)
        .expect("a site is certified by the consortium's key");
    Ok(Admission { chain, roster })
}

/// Why a site does not believe what it collected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdmissionError {
    /// The roster is not the consortium's.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The roster names the site with another signing key, or not at all.
    #[error("the roster that was sent does not name {0} with the keys made here")]
    NotNamed(SiteName),
    /// The certificate does not count.
    #[error(transparent)]
    Certificate(#[from] crate::CertificateRefusal),
    /// A certificate for somebody else.
    #[error("the certificate that was sent is for {0}")]
    OtherParty(Principal),
}

impl Admission {
    /// The site's check: the same rules by which the coordinator will judge it, and its own keys.
    pub fn verify(
        &self,
        invitation: &Invitation,
        tls_key: &TlsKey,
        signing_key: &VerifyingKey,
        now: Timestamp,
    ) -> Result<Verified<Roster>, AdmissionError> {
        let roster = roster::verify(invitation.anchor(), &self.roster)?;
        let site = invitation.site();
        let named = roster
            .site(site)
            .is_some_and(|e| e.signing_key == *signing_key && e.tls_key == tls_key.public_key().hash());
        if !named {
            return Err(AdmissionError::NotNamed(site.clone()));
        }
        let trust = Trust::new(invitation.anchor().clone(), &self.roster, Revocations::new())?;
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let (leaf, rest) = self.chain.split();
        let peer = trust.judge(leaf, rest, now)?;
        if peer.principal() != &Principal::Site(site.clone()) {
            return Err(AdmissionError::OtherParty(peer.principal().clone()));
        }
        Ok(roster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Consortium, now};

    struct Newcomer {
        invitation: Invitation,
        tls: TlsKey,
        signing: SigningKey,
    }

    impl Newcomer {
        fn invited(consortium: &Consortium, site: &str) -> Self {
            let expires = now() + std::time::Duration::from_hours(24);
            let (anchor, address) = (consortium.key.anchor(), "localhost:443".parse().unwrap());
            Self {
                invitation: Invitation::new(anchor, address, site.parse().unwrap(), expires),
                tls: TlsKey::generate(),
                signing: SigningKey::generate(),
            }
        }

        fn request(&self) -> Signed<EnrolmentRequest> {
            EnrolmentRequest::new(&self.invitation, &self.tls.request(), &self.signing)
        }
    }

    const TERMS: Terms = Terms { test: false, replace: false };

    #[test]
    fn an_invited_site_is_admitted_and_believes_it() {
        let consortium = Consortium::new("north");
        let newcomer = Newcomer::invited(&consortium, "charite");
        let request = newcomer.request();
        let mut record = newcomer.invitation.record();
        let name = &consortium.key.anchor().name;
        assert_eq!(accept_request(name, Some(&mut record), &request, now()), Ok(Arrival::First));
        // A lost answer: the same request again, even after the end, is not a replay.
        let late = newcomer.invitation.expires() + std::time::Duration::from_hours(1);
        assert_eq!(accept_request(name, Some(&mut record), &request, late), Ok(Arrival::Again));

        let current = &consortium.roster;
        let admission =
            admit(&consortium.key, &newcomer.invitation, &request, current, TERMS, now()).unwrap();
        let arrived = Admission::from_canonical(&admission.to_canonical()).unwrap();
        let key = newcomer.signing.verifying_key();
        let roster = arrived.verify(&newcomer.invitation, &newcomer.tls, &key, now()).unwrap();
        assert_eq!(roster.version(), 2);
        assert_eq!(roster.site(newcomer.invitation.site()).unwrap().signing_key, key);
        let shown = request.claim().unwrap().fingerprint().unwrap();
        assert_eq!(shown, fingerprint(newcomer.invitation.site(), &newcomer.tls.public_key().hash(), &key));

        // The same act twice: a new certificate, no new roster.
        let again =
            admit(&consortium.key, &newcomer.invitation, &request, &admission.roster, TERMS, now()).unwrap();
        assert_eq!(again.roster, admission.roster);
        // New keys under an old name: only when the operator says so.
        let other = Newcomer::invited(&consortium, "charite");
        let admit_other = |terms| {
            admit(&consortium.key, &other.invitation, &other.request(), &admission.roster, terms, now())
        };
        assert_eq!(admit_other(TERMS).unwrap_err().code(), "roster");
        let replaced = admit_other(Terms { test: true, replace: true }).unwrap();
        let roster = consortium.key.anchor().verify(&replaced.roster).unwrap();
        assert_eq!((roster.version(), roster.sites().len(), roster.sites()[0].test), (3, 1, true));
    }

    #[test]
    fn four_bad_invitations_are_told_apart() {
        let consortium = Consortium::new("north");
        let name = &consortium.key.anchor().name;
        let newcomer = Newcomer::invited(&consortium, "charite");
        let code = |record: Option<&mut InvitationRecord>, from: &Newcomer, at| {
            accept_request(name, record, &from.request(), at).unwrap_err().code()
        };
        let mut record = newcomer.invitation.record();
        let late = record.expires + std::time::Duration::from_secs(1);
        assert_eq!(code(Some(&mut record), &newcomer, late), "expired");
        assert_eq!(code(None, &newcomer, now()), "unknown");
        let mut other = Newcomer::invited(&consortium, "charite").invitation.record();
        assert_eq!(code(Some(&mut other), &newcomer, now()), "unknown");
        let stranger = Newcomer::invited(&Consortium::new("south"), "charite");
        assert_eq!(code(Some(&mut record), &stranger, now()), "foreign");
        assert_eq!(record.used_by, None, "a refused request uses no invitation");
        accept_request(name, Some(&mut record), &newcomer.request(), now()).unwrap();
        let thief = Newcomer { invitation: newcomer.invitation.clone(), ..stranger };
        assert_eq!(code(Some(&mut record), &thief, now()), "replayed");
    }

    /// The coordinator sees every request and knows no secret: keys it puts in itself are noticed.
    #[test]
    fn a_coordinator_cannot_exchange_keys() {
        let consortium = Consortium::new("north");
        let newcomer = Newcomer::invited(&consortium, "charite");
        let (tls, signing) = (TlsKey::generate(), SigningKey::generate());
        let honest = newcomer.request().claim().unwrap();
        let mut wish = honest.wish;
        wish.csr = tls.request().as_der().to_vec().into();
        wish.signing_key = signing.verifying_key();
        let forged = EnrolmentRequest { wish, mac: honest.mac };
        let forged = Signed::seal(&forged, Principal::Site("charite".parse().unwrap()), &signing);
        let admitted =
            admit(&consortium.key, &newcomer.invitation, &forged, &consortium.roster, TERMS, now());
        assert_eq!(admitted.unwrap_err(), EnrolmentRefusal::Mac("charite".parse().unwrap()));
    }

    #[test]
    fn a_site_believes_no_admission_of_other_keys_or_another_consortium() {
        let consortium = Consortium::new("north");
        let newcomer = Newcomer::invited(&consortium, "charite");
        let current = &consortium.roster;
        let admission =
            admit(&consortium.key, &newcomer.invitation, &newcomer.request(), current, TERMS, now()).unwrap();
        let key = newcomer.signing.verifying_key();
        let verify = |admission: &Admission, tls: &TlsKey, key: &VerifyingKey| {
            admission.verify(&newcomer.invitation, tls, key, now()).unwrap_err()
        };
        let other_key = SigningKey::generate().verifying_key();
        assert!(matches!(verify(&admission, &newcomer.tls, &other_key), AdmissionError::NotNamed(_)));
        assert!(matches!(verify(&admission, &TlsKey::generate(), &key), AdmissionError::NotNamed(_)));
        let foreign = Admission { roster: Consortium::new("north").roster, ..admission.clone() };
        assert!(matches!(verify(&foreign, &newcomer.tls, &key), AdmissionError::Roster(_)));
        let bare = Admission { roster: consortium.roster.clone(), ..admission.clone() };
        assert!(matches!(verify(&bare, &newcomer.tls, &key), AdmissionError::NotNamed(_)));
        // Somebody else's certificate under the right roster.
        let operators = consortium.key.certify(
            &consortium.operator.tls.public_key(),
            &"operator/ada".parse().unwrap(),
            lifetime::PERSON,
            now(),
        );
        let swapped = Admission { chain: operators.unwrap(), ..admission };
        assert!(matches!(verify(&swapped, &newcomer.tls, &key), AdmissionError::OtherParty(_)));
    }
}
