//! Strangers' bytes: certificates, requests, invitations and rosters are read or refused, and nothing panics.

use std::sync::OnceLock;
use std::time::Duration;

use consilium_fuzz::{Target, canonical, run};
use consilium_study::canonical::Canonical;
use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::address::{Address, Host};
use crate::certificate::{Chain, Issuer, Leaf, authority_validity, hosts_of, issuer_of, public_key_of};
use crate::commission::{CheckedRequest, Commission, CoordinatorKeys, CoordinatorRequest, commission};
use crate::enrolment::{Admission, EnrolmentRequest, Terms, accept_request, admit};
use crate::fixture::{Consortium, Keys, now};
use crate::invitation::InvitationRecord;
use crate::key::{Csr, PublicKey};
use crate::revocation::Revocation;
use crate::roster::verify;
use crate::spiffe::SpiffeId;
use crate::{Anchor, ConsortiumKey, Invitation, IssuingKey, Roster, Serial, TlsKey, Trust};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A certificate as a peer shows it in a handshake: everything that is ever read of one, and the judgement.
fn certificate(bytes: &[u8]) -> bool {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    let trust = TRUST.get_or_init(|| Consortium::new("north").trust());
    let der = CertificateDer::from(bytes.to_vec());
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second() as u64));
    let _ =
        (Issuer::parse(&der), authority_validity(&der), issuer_of(&der), public_key_of(&der), hosts_of(&der));
    for rest in [&[][..], std::slice::from_ref(&der)] {
        assert!(trust.judge(&der, rest, at).is_err(), "a stranger's certificate counts");
        assert!(trust.judge_coordinator(&der, rest, at).is_err(), "a stranger's certificate counts");
    }
    let Ok(leaf) = Leaf::parse(&der) else { return false };
    let moment = leaf.renew_at();
    assert!(leaf.not_before <= moment && moment <= leaf.not_after);
    assert!(!leaf.renews(&leaf));
    true
}

fn chain_file(bytes: &[u8]) -> bool {
    let Ok(chain) = Chain::from_pem(text(bytes)) else { return false };
    assert_eq!(Chain::from_pem(&chain.to_pem()), Ok(chain));
    true
}

fn signing_request(bytes: &[u8]) -> bool {
    let Ok(csr) = Csr::from_der(bytes) else { return false };
    assert_eq!(csr.as_der(), bytes);
    true
}

fn public_key(bytes: &[u8]) -> bool {
    PublicKey::from_spki(bytes.to_vec()).is_ok()
}

fn private_key(bytes: &[u8]) -> bool {
    let consortium = ConsortiumKey::from_pem("north".parse().unwrap(), text(bytes));
    TlsKey::from_pem(text(bytes)).is_ok() || consortium.is_ok()
}

fn issuing(bytes: &[u8]) -> bool {
    static KEY: OnceLock<String> = OnceLock::new();
    let key = KEY.get_or_init(|| TlsKey::generate().to_pem().to_string());
    let key = TlsKey::from_pem(key).unwrap();
    // The certificate is of another key, so it is read and refused.
    assert!(IssuingKey::from_pem(key, text(bytes)).is_err());
    CertificateDer::from_pem_slice(bytes).is_ok()
}

/// A roster as it arrives, under the key of somebody else.
fn roster(bytes: &[u8]) -> bool {
    static ANCHOR: OnceLock<Anchor> = OnceLock::new();
    let anchor = ANCHOR.get_or_init(|| ConsortiumKey::generate("north".parse().unwrap()).anchor());
    let taken = canonical::<Signed<Roster>>(bytes);
    if taken {
        assert!(verify(anchor, &Signed::from_canonical(bytes).unwrap()).is_err(), "a forged roster counts");
    }
    taken
}

/// A request as the coordinator takes it from anybody who connects.
fn enrolment(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::<EnrolmentRequest>::from_canonical(bytes) else { return false };
    let Ok(request) = signed.claim() else { return false };
    let _ = (request.fingerprint(), request.csr());
    assert!(accept_request(request.consortium(), None, &signed, now()).is_err(), "nobody was invited");
    true
}

fn coordinator_request(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::<CoordinatorRequest>::from_canonical(bytes) else { return false };
    CheckedRequest::new(&signed).is_ok_and(|checked| !checked.fingerprint().is_empty())
}

fn given_commission(bytes: &[u8]) -> bool {
    static KEYS: OnceLock<CoordinatorKeys> = OnceLock::new();
    let taken = canonical::<Commission>(bytes);
    if taken {
        let given = Commission::from_canonical(bytes).unwrap();
        let refused = given.verify(KEYS.get_or_init(CoordinatorKeys::generate), now()).is_err();
        assert!(refused && given.files().len() == 4, "it is for other keys");
    }
    taken
}

fn invitation(bytes: &[u8]) -> bool {
    let Ok(invitation) = text(bytes).parse::<Invitation>() else { return false };
    assert_eq!(*invitation.to_text(), text(bytes).trim());
    true
}

#[test]
fn strangers_bytes_are_read_or_refused() {
    let mut consortium = Consortium::new("north");
    consortium.add_site("bonn");
    let keys = Keys::new();
    let expires = now() + Duration::from_hours(24);
    let address: Address = "coordinator.example.org:443".parse().unwrap();
    let invited =
        Invitation::new(consortium.key.anchor(), address.clone(), "charite".parse().unwrap(), expires);
    let request = EnrolmentRequest::new(&invited, &keys.tls.request(), &keys.signing);
    let terms = Terms { test: false, replace: false };
    let admission = admit(&consortium.key, &invited, &request, &consortium.roster, terms, now()).unwrap();
    let chains = [consortium.coordinator_chain(), consortium.certify("site/bonn", &keys, now())];
    let leaves = chains.iter().map(|chain| chain.certificates()[0].to_vec());
    let authorities =
        [consortium.key.certificate(now()), consortium.key.certify_issuing(&keys.tls.public_key(), now())];
    let asked = CoordinatorRequest::new(&CoordinatorKeys::generate(), address);
    let given = commission(&consortium.key, &CheckedRequest::new(&asked).unwrap(), keys.person("ada"), now())
        .unwrap();
    let spki = public_key_of(&chains[0].certificates()[0]).unwrap();
    let secret = SigningKey::generate();
    let admin = Principal::Operator("ada".parse().unwrap());
    let revoked = Revocation::of(&chains[1].leaf(), now());
    run([
        Target::new(
            "identity-certificate",
            certificate,
            leaves.chain(authorities.iter().map(|certificate| certificate.to_vec())),
        ),
        Target::new(
            "identity-chain-file",
            chain_file,
            chains.iter().map(|chain| chain.to_pem().into_bytes()),
        ),
        Target::canonical::<Chain>("identity-chain", chains),
        Target::new("identity-csr", signing_request, [keys.tls.request().as_der().to_vec()]),
        Target::new("identity-public-key", public_key, [spki]),
        Target::new(
            "identity-private-key",
            private_key,
            [keys.tls.to_pem().as_bytes().to_vec(), consortium.key.to_pem().as_bytes().to_vec()],
        ),
        Target::new(
            "identity-issuing",
            issuing,
            authorities.iter().map(|certificate| crate::certificate::to_pem(certificate).into_bytes()),
        ),
        Target::new("identity-roster-signed", roster, [consortium.roster.to_canonical()]),
        Target::canonical::<Roster>("identity-roster", [consortium.roster.claim().unwrap()]),
        Target::canonical::<EnrolmentRequest>("identity-wish", [request.claim().unwrap()]),
        Target::new("identity-enrolment", enrolment, [request.to_canonical()]),
        Target::canonical::<Admission>("identity-admission", [admission]),
        Target::new("identity-invitation", invitation, [invited.to_text().as_bytes().to_vec()]),
        Target::canonical::<Invitation>("identity-invitation-body", [invited.clone()]),
        Target::canonical::<InvitationRecord>("identity-invitation-record", [invited.record()]),
        Target::canonical("identity-revocation", [revoked.clone()]),
        Target::canonical("identity-revocation-signed", [Signed::seal(&revoked, admin, &secret)]),
        Target::new("identity-coordinator-request", coordinator_request, [asked.to_canonical()]),
        Target::new("identity-commission", given_commission, [given.to_canonical()]),
        Target::text::<Anchor>("identity-anchor", &[&consortium.key.anchor().to_string()]),
        Target::text::<Address>("identity-address", &["localhost:443", "[::1]:8443", "10.0.0.1:1"]),
        Target::text::<Host>("identity-host", &["a.example.org", "::1", "127.0.0.1"]),
        Target::text::<SpiffeId>(
            "identity-spiffe",
            &["spiffe://north/site/charite", "spiffe://north/coordinator"],
        ),
        Target::text::<Serial>("identity-serial", &["00ff17", "1a"]),
    ]);
}
