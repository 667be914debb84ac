use super::*;
use crate::authority::{Validity, lifetime};
use crate::fixture::{Consortium, Keys, now};
use crate::spiffe::SpiffeId;
use crate::{Chain, IssuingKey, TlsKey};
use std::time::Duration;

fn judge_at(trust: &Trust, chain: &Chain, at: Timestamp) -> Result<Peer, CertificateRefusal> {
    let (leaf, rest) = chain.split();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second() as u64));
    trust.judge(leaf, rest, at)
}

fn judge(trust: &Trust, chain: &Chain) -> Result<Peer, CertificateRefusal> {
    judge_at(trust, chain, now())
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

#[test]
fn members_are_known_by_first_and_renewed_certificates() {
    let mut consortium = Consortium::new("north");
    let site = consortium.add_site("a");
    let trust = consortium.trust();
    let first = consortium.certify("site/a", &site, now());
    let peer = judge(&trust, &first).unwrap();
    assert_eq!(peer.site().unwrap().as_str(), "a");
    assert!(peer.operator().is_err());
    let renewed = consortium.issuing.renew(&trust.roster(), &first.certificates()[0], now()).unwrap();
    assert_eq!(renewed.certificates().len(), 2);
    let again = judge(&trust, &renewed).unwrap();
    assert_eq!((again.principal(), again.key()), (peer.principal(), peer.key()));
    assert_ne!(again.serial(), peer.serial());
    assert_eq!(trust.recheck(&again, now()), Ok(()));
}

#[test]
fn each_bad_certificate_is_refused_for_its_own_reason() {
    let mut consortium = Consortium::new("north");
    let site = consortium.add_site("a");
    let trust = consortium.trust();
    let chain = consortium.certify("site/a", &site, now());
    let leaf = chain.leaf();

    let expired = judge_at(&trust, &chain, leaf.not_after + Duration::from_secs(1));
    assert!(matches!(expired, Err(CertificateRefusal::Expired { .. })));
    let early = judge_at(&trust, &chain, leaf.not_before - Duration::from_secs(1));
    assert!(matches!(early, Err(CertificateRefusal::NotYetValid { .. })));
    let south = Consortium::new("south").certify("site/a", &site, now());
    assert!(matches!(judge(&trust, &south), Err(CertificateRefusal::OtherConsortium { .. })));
    // Another consortium that calls itself the same. Expired or not, it is foreign first.
    let twin = Consortium::new("north").certify("site/a", &site, now());
    assert!(matches!(judge(&trust, &twin), Err(CertificateRefusal::Unsigned { .. })));
    let late = judge_at(&trust, &twin, leaf.not_after + Duration::from_hours(1));
    assert!(matches!(late, Err(CertificateRefusal::Unsigned { .. })));
    let unlisted = consortium.certify("site/b", &Keys::new(), now());
    assert!(matches!(judge(&trust, &unlisted), Err(CertificateRefusal::NotOnRoster { .. })));
    let other_key = consortium.certify("site/a", &Keys::new(), now());
    assert!(matches!(judge(&trust, &other_key), Err(CertificateRefusal::OtherKey { .. })));
    let damaged = vec![0x30, 0x03, 0x02, 0x01, 0x00].into();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second() as u64));
    assert!(matches!(trust.judge(&damaged, &[], at), Err(CertificateRefusal::Unreadable(_))));
}

#[test]
fn every_changed_byte_of_a_certificate_is_noticed() {
    let mut consortium = Consortium::new("north");
    let site = consortium.add_site("a");
    let trust = consortium.trust();
    let chain = consortium.certify("site/a", &site, now());
    let good = chain.certificates()[0].to_vec();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second() as u64));
    assert!(trust.judge(&good.clone().into(), &[], at).is_ok());
    for position in 0..good.len() {
        for change in [1, 0x80] {
            let mut changed = good.clone();
            changed[position] ^= change;
            assert!(trust.judge(&changed.into(), &[], at).is_err(), "byte {position}");
        }
    }
}

#[test]
fn a_revocation_ends_every_certificate_of_the_key() {
    let mut consortium = Consortium::new("north");
    let (a, b) = (consortium.add_site("a"), consortium.add_site("b"));
    let trust = consortium.trust();
    let first = consortium.certify("site/a", &a, now());
    let renewed = consortium.issuing.renew(&trust.roster(), &first.certificates()[0], now()).unwrap();
    let peer = judge(&trust, &renewed).unwrap();
    trust.revoke(Revocation::of(&first.leaf(), now()));
    for chain in [&first, &renewed] {
        assert!(matches!(judge(&trust, chain), Err(CertificateRefusal::Revoked { .. })));
    }
    assert!(matches!(trust.recheck(&peer, now()), Err(CertificateRefusal::Revoked { .. })));
    assert!(judge(&trust, &consortium.certify("site/b", &b, now())).is_ok());
}

/// Whoever steals the coordinator's issuing key can repeat what the roster says, and nothing else.
#[test]
fn a_stolen_issuing_key_adds_nobody() {
    let mut consortium = Consortium::new("north");
    consortium.add_site("a");
    let trust = consortium.trust();
    let thief = TlsKey::generate();
    let validity = Validity::starting(now(), lifetime::SITE);
    let forge = |name: &str| consortium.issuing.sign(&id(name), &thief.public_key(), &[], validity);
    let new_site = judge(&trust, &forge("spiffe://north/site/z"));
    assert!(matches!(new_site, Err(CertificateRefusal::NotOnRoster { .. })));
    for known in ["site/a", "operator/ada", "coordinator"] {
        let verdict = judge(&trust, &forge(&format!("spiffe://north/{known}")));
        assert!(matches!(verdict, Err(CertificateRefusal::OtherKey { .. })), "{known}");
    }
    let coordinator = forge("spiffe://north/coordinator");
    let (leaf, rest) = coordinator.split();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second() as u64));
    let verdict = trust.judge_coordinator(leaf, rest, at);
    assert!(matches!(verdict, Err(CertificateRefusal::OtherKey { .. })));
    // Nor does a member's certificate sign certificates.
    let site = consortium.add_site("b");
    let chain = consortium.certify("site/b", &site, now());
    let member = IssuingKey::new(site.tls, chain.certificates()[0].clone()).unwrap();
    let verdict =
        judge(&trust, &member.sign(&id("spiffe://north/site/a"), &thief.public_key(), &[], validity));
    assert!(matches!(verdict, Err(CertificateRefusal::Unsigned { .. } | CertificateRefusal::Purpose { .. })));
}

#[test]
fn an_issuing_key_that_left_the_roster_issues_nothing() {
    let mut consortium = Consortium::new("north");
    let site = consortium.add_site("a");
    let trust = consortium.trust();
    let first = consortium.certify("site/a", &site, now());
    let old = consortium.issuing.renew(&trust.roster(), &first.certificates()[0], now()).unwrap();
    let connected = judge(&trust, &old).unwrap();
    let next_key = TlsKey::generate();
    let entry = roster::CoordinatorEntry {
        issuing_key: next_key.public_key().hash(),
        ..trust.roster().coordinator().clone()
    };
    let next = consortium.key.sign(&trust.roster().with_coordinator(entry).unwrap());
    assert_eq!(trust.adopt(&next).unwrap(), [(Principal::Coordinator, Change::Replaced)]);
    assert_eq!(trust.adopt(&next).unwrap(), [], "the same again changes nothing");
    assert!(matches!(judge(&trust, &old), Err(CertificateRefusal::OtherIssuer { .. })));
    assert!(matches!(trust.recheck(&connected, now()), Err(CertificateRefusal::OtherIssuer { .. })));
    // Showing the new issuing certificate before or after the old one changes nothing.
    let new = consortium.key.certify_issuing(&next_key.public_key(), now());
    let [leaf, issuing] = [old.certificates()[0].clone(), old.certificates()[1].clone()];
    for chain in [[leaf.clone(), new.clone(), issuing.clone()], [leaf, issuing, new]] {
        assert!(judge(&trust, &Chain::new(chain.to_vec()).unwrap()).is_err());
    }
}

#[test]
fn only_rostered_keys_are_renewed() {
    let mut consortium = Consortium::new("north");
    let site = consortium.add_site("a");
    let roster = consortium.trust().roster();
    let renew = |chain: &Chain| consortium.issuing.renew(&roster, &chain.certificates()[0], now());
    assert!(renew(&consortium.certify("site/a", &site, now())).is_ok());
    let unlisted = renew(&consortium.certify("site/z", &Keys::new(), now()));
    assert!(matches!(unlisted, Err(crate::issuing::RenewalRefusal::NotOnRoster(_))));
    let other = renew(&consortium.certify("site/a", &Keys::new(), now()));
    assert!(matches!(other, Err(crate::issuing::RenewalRefusal::OtherKey(_))));
    // The coordinator renews itself, and sites believe it.
    let first = consortium.coordinator_chain();
    let own = renew(&first).unwrap();
    assert!(own.leaf().renews(&first.leaf()) || own.leaf().not_after < first.leaf().not_after);
    let hosts = |chain: &Chain| crate::certificate::hosts_of(&chain.certificates()[0]).unwrap();
    assert!(!hosts(&first).is_empty() && hosts(&own) == hosts(&first));
    let (leaf, rest) = own.split();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second() as u64));
    assert!(consortium.trust().judge_coordinator(leaf, rest, at).is_ok());
}
