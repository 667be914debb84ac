use super::*;
use crate::fixture::{Consortium, Keys};
use consilium_study::canonical::Canonical;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn entry(name: &str, number: u8) -> SiteEntry {
    SiteEntry {
        name: name.parse().unwrap(),
        signing_key: VerifyingKey::from_bytes([number; 32]),
        tls_key: Hash::from_bytes([number; 32]),
        test: false,
    }
}

fn first() -> Roster {
    Consortium::new("north").roster.claim().unwrap()
}

#[test]
fn only_the_successor_follows() {
    let consortium = Consortium::new("north");
    let one = first();
    let two = one.with_site(entry("b", 1)).unwrap();
    let three = two.with_site(entry("a", 2)).unwrap();
    assert_eq!(one.follow(&two), Ok(vec![("site/b".parse().unwrap(), Change::Added)]));
    assert_eq!(three.sites().iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    // Skipped, backwards, itself, and a second version two with another past.
    for (known, next) in [(&one, &three), (&two, &one), (&one, &one)] {
        assert!(matches!(known.follow(next), Err(RosterError::NotSuccessor { .. })));
    }
    let fork = one.with_site(entry("c", 3)).unwrap().with_site(entry("d", 4)).unwrap();
    assert!(matches!(two.follow(&fork), Err(RosterError::NotSuccessor { .. })));
    let foreign =
        Roster::first("south".parse().unwrap(), one.0.coordinator.clone(), one.0.operators[0].clone());
    assert!(matches!(one.follow(&foreign.unwrap()), Err(RosterError::OtherConsortium { .. })));
    // Signed by another key of the same name.
    let signed = consortium.key.sign(&one);
    assert!(verify(&Consortium::new("north").key.anchor(), &signed).is_err());
}

#[test]
fn changes_are_named() {
    let two = first().with_site(entry("a", 1)).unwrap();
    let moved = two.with_site_replaced(entry("a", 9)).unwrap();
    assert_eq!(two.follow(&moved), Ok(vec![("site/a".parse().unwrap(), Change::Replaced)]));
    let gone = moved.without_site(&"a".parse().unwrap()).unwrap();
    assert_eq!(moved.follow(&gone), Ok(vec![("site/a".parse().unwrap(), Change::Removed)]));
    let ben = Keys::new();
    let grown = gone.with_auditor(ben.person("ben")).unwrap();
    assert_eq!(gone.follow(&grown), Ok(vec![("auditor/ben".parse().unwrap(), Change::Added)]));
    assert_eq!(grown.signing_key(&"auditor/ben".parse().unwrap()), Some(ben.signing.verifying_key()));
    let shrunk = grown.without_person(&"auditor/ben".parse().unwrap()).unwrap();
    assert!(shrunk.auditors().is_empty());
    let coordinator = Consortium::new("north").roster.claim().unwrap().0.coordinator;
    let changed = shrunk.with_coordinator(coordinator).unwrap();
    assert_eq!(shrunk.follow(&changed), Ok(vec![(Principal::Coordinator, Change::Replaced)]));
    assert_eq!(
        shrunk.without_person(&"operator/nobody".parse().unwrap()),
        Err(RosterError::Unknown("operator/nobody".parse().unwrap()))
    );
}

/// A name for a mistake, and how it is made.
type Break = (&'static str, fn(&mut Fields));

#[test]
fn bytes_that_break_the_rules_do_not_decode() {
    let good = first().with_site(entry("a", 1)).unwrap().with_site(entry("b", 2)).unwrap();
    assert_eq!(Roster::from_canonical(&good.to_canonical()), Ok(good.clone()));
    let broken: [Break; 7] = [
        ("order", |fields| fields.sites.swap(0, 1)),
        ("twice", |fields| fields.sites[1] = fields.sites[0].clone()),
        ("shared signing key", |fields| fields.sites[1].signing_key = fields.sites[0].signing_key),
        ("shared TLS key", |fields| fields.sites[1].tls_key = fields.coordinator.tls_key),
        ("issuing key of a site", |fields| fields.sites[1].tls_key = fields.coordinator.issuing_key),
        ("no predecessor", |fields| fields.previous = None),
        ("version zero", |fields| (fields.version, fields.previous) = (0, None)),
    ];
    for (what, change) in broken {
        let mut fields = good.0.clone();
        change(&mut fields);
        assert!(Roster::from_canonical(&fields.to_canonical()).is_err(), "{what}");
    }
}

proptest! {
    /// Any sequence of acts leaves the roster that a plain map says, and every step follows the last.
    #[test]
    fn acts_do_what_a_map_does(acts in proptest::collection::vec((0..3_u8, 0..6_u8, 1..200_u8), 0..12)) {
        let mut roster = first();
        let mut plain = BTreeMap::new();
        for (act, name, number) in acts {
            let entry = entry(&format!("site-{name}"), number);
            let taken = plain.iter().any(|(n, e): (&SiteName, &SiteEntry)| {
                *n != entry.name && e.tls_key == entry.tls_key
            });
            let (known, next) = (plain.contains_key(&entry.name), match act {
                0 => roster.with_site(entry.clone()),
                1 => roster.with_site_replaced(entry.clone()),
                _ => roster.without_site(&entry.name),
            });
            let allowed = match act { 0 => !known && !taken, 1 => known && !taken, _ => known };
            prop_assert_eq!(next.is_ok(), allowed);
            if let Ok(next) = next {
                prop_assert!(roster.follow(&next).is_ok());
                if act < 2 { plain.insert(entry.name.clone(), entry) } else { plain.remove(&entry.name) };
                roster = next;
            }
            prop_assert_eq!(roster.sites(), plain.values().cloned().collect::<Vec<_>>());
        }
    }
}
