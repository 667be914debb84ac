//! The roster: who belongs to a consortium, with which keys, said by the consortium's offline key.
//!
//! Rosters form a chain: each names the hash of the one before. A site pins the roster it joined with and
//! accepts another only as its successor, so nobody, the coordinator least of all, adds a site unseen.

use std::collections::BTreeSet;

use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, PersonName, Principal, SiteName};
use consilium_study::sign::{SignatureError, Signed, Statement, Verified, VerifyingKey};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::Anchor;

/// One site on the roster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SiteEntry {
    /// The site.
    #[n(0)]
    pub name: SiteName,
    /// What it signs statements with; held by its vault.
    #[n(1)]
    pub signing_key: VerifyingKey,
    /// Hash of the key its relay opens connections with.
    #[n(2)]
    pub tls_key: Hash,
    /// A test machine: shown apart and counted in no figure about hospitals.
    #[n(3)]
    pub test: bool,
}

/// One operator or auditor on the roster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PersonEntry {
    /// The person.
    #[n(0)]
    pub name: PersonName,
    /// What the person signs statements with.
    #[n(1)]
    pub signing_key: VerifyingKey,
    /// Hash of the key the person opens connections with.
    #[n(2)]
    pub tls_key: Hash,
}

/// The coordinator's keys, certified by standing on the roster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CoordinatorEntry {
    /// What it signs contexts, statements and checkpoints with.
    #[n(0)]
    pub signing_key: VerifyingKey,
    /// Hash of the key it answers connections with.
    #[n(1)]
    pub tls_key: Hash,
    /// Hash of the key it renews certificates with. A new roster with another key here ends the old one.
    #[n(2)]
    pub issuing_key: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Fields {
    #[n(0)]
    consortium: ConsortiumName,
    #[n(1)]
    version: u32,
    #[n(2)]
    previous: Option<Hash>,
    #[n(3)]
    coordinator: CoordinatorEntry,
    #[n(4)]
    sites: Vec<SiteEntry>,
    #[n(5)]
    operators: Vec<PersonEntry>,
    #[n(6)]
    auditors: Vec<PersonEntry>,
}

/// The members of a consortium. Entries are in rising order of name, and no two share a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster(Fields);

/// Why something is no roster, or not the next one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// The signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The first roster has no predecessor, and every other has one.
    #[error("roster version {0} has a predecessor where there is none, or lacks one")]
    Origin(u32),
    /// The same party twice, or out of order.
    #[error("{0} stands on the roster twice or out of order")]
    Order(Principal),
    /// Two parties with one key.
    #[error("{0} has a key that another party has too")]
    SharedKey(Principal),
    /// Nobody of this name is there.
    #[error("{0} is not on the roster")]
    Unknown(Principal),
    /// Somebody of this name is there.
    #[error("{0} is on the roster already")]
    Present(Principal),
    /// Of another consortium.
    #[error("this is the roster of consortium {got}, not of {want}")]
    OtherConsortium {
        /// Whose roster it is.
        got: ConsortiumName,
        /// Whose it should be.
        want: ConsortiumName,
    },
    /// Not the successor.
    #[error("roster version {next} does not follow from version {known}")]
    NotSuccessor {
        /// Version of the roster that is known.
        known: u32,
        /// Version of the one that was offered.
        next: u32,
    },
}

/// What happened to one party between a roster and its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// New.
    Added,
    /// Gone.
    Removed,
    /// Same name, other keys or mark.
    Replaced,
}

impl Roster {
    /// The first roster: a coordinator and the operator who made the consortium.
    pub fn first(
        consortium: ConsortiumName,
        coordinator: CoordinatorEntry,
        operator: PersonEntry,
    ) -> Result<Self, RosterError> {
        Self::checked(Fields {
            consortium,
            version: 1,
            previous: None,
            coordinator,
            sites: Vec::new(),
            operators: vec![operator],
            auditors: Vec::new(),
        })
    }

    fn checked(fields: Fields) -> Result<Self, RosterError> {
        if (fields.version == 1) != fields.previous.is_none() || fields.version == 0 {
            return Err(RosterError::Origin(fields.version));
        }
        let roster = Self(fields);
        let mut signing_keys = BTreeSet::new();
        let mut tls_keys = BTreeSet::from([roster.0.coordinator.issuing_key]);
        let mut before: Option<Principal> = None;
        // `parties` lists role by role and in the order of the fields, and principals order the same way.
        for (party, signing_key, tls_key) in roster.parties() {
            if before.is_some_and(|before| before >= party) {
                return Err(RosterError::Order(party));
            }
            if !signing_keys.insert(signing_key) || !tls_keys.insert(tls_key) {
                return Err(RosterError::SharedKey(party));
            }
            before = Some(party);
        }
        Ok(roster)
    }

    /// Everybody on the roster: who, statement key, TLS key.
    pub fn parties(&self) -> impl Iterator<Item = (Principal, VerifyingKey, Hash)> {
        let Fields { coordinator, sites, operators, auditors, .. } = &self.0;
        let sites = sites.iter().map(|e| (Principal::Site(e.name.clone()), e.signing_key, e.tls_key));
        let people = |entries: &'_ [PersonEntry], role: fn(PersonName) -> Principal| {
            entries.iter().map(|e| (role(e.name.clone()), e.signing_key, e.tls_key)).collect::<Vec<_>>()
        };
        std::iter::once((Principal::Coordinator, coordinator.signing_key, coordinator.tls_key))
            .chain(sites)
            .chain(people(operators, Principal::Operator))
            .chain(people(auditors, Principal::Auditor))
    }

    /// The consortium.
    pub fn consortium(&self) -> &ConsortiumName {
        &self.0.consortium
    }

    /// Counts from 1.
    pub fn version(&self) -> u32 {
        self.0.version
    }

    /// The coordinator's keys.
    pub fn coordinator(&self) -> &CoordinatorEntry {
        &self.0.coordinator
    }

    /// The sites, in rising order of name.
    pub fn sites(&self) -> &[SiteEntry] {
        &self.0.sites
    }

    /// The operators, in rising order of name.
    pub fn operators(&self) -> &[PersonEntry] {
        &self.0.operators
    }

    /// The auditors, in rising order of name.
    pub fn auditors(&self) -> &[PersonEntry] {
        &self.0.auditors
    }

    /// One site.
    pub fn site(&self, name: &SiteName) -> Option<&SiteEntry> {
        let at = self.0.sites.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        self.0.sites.get(at)
    }

    /// The key that a party signs statements with. The consortium's own stands in the [`Anchor`].
    pub fn signing_key(&self, party: &Principal) -> Option<VerifyingKey> {
        self.keys(party).map(|(signing_key, _)| signing_key)
    }

    /// The hash of the key that a party opens or answers connections with.
    pub fn tls_key(&self, party: &Principal) -> Option<Hash> {
        self.keys(party).map(|(_, tls_key)| tls_key)
    }

    fn keys(&self, party: &Principal) -> Option<(VerifyingKey, Hash)> {
        let person = |entries: &[PersonEntry], name: &PersonName| {
            entries.iter().find(|entry| entry.name == *name).map(|entry| (entry.signing_key, entry.tls_key))
        };
        match party {
            Principal::Consortium => None,
            Principal::Coordinator => Some((self.0.coordinator.signing_key, self.0.coordinator.tls_key)),
            Principal::Site(name) => self.site(name).map(|entry| (entry.signing_key, entry.tls_key)),
            Principal::Operator(name) => person(&self.0.operators, name),
            Principal::Auditor(name) => person(&self.0.auditors, name),
        }
    }

    /// Hash of what the roster says. Acceptances, studies and successors name a roster by it.
    pub fn hash(&self) -> Hash {
        Hash::of_value(Self::LABEL, self)
    }

    /// The successor with one site more.
    pub fn with_site(&self, entry: SiteEntry) -> Result<Self, RosterError> {
        let party = Principal::Site(entry.name.clone());
        let mut next = self.next();
        match next.sites.binary_search_by(|known| known.name.cmp(&entry.name)) {
            Ok(_) => return Err(RosterError::Present(party)),
            Err(at) => next.sites.insert(at, entry),
        }
        Self::checked(next)
    }

    /// The successor in which a site has other keys, after it lost its own.
    pub fn with_site_replaced(&self, entry: SiteEntry) -> Result<Self, RosterError> {
        let at = self.position(&entry.name)?;
        let mut next = self.next();
        next.sites[at] = entry;
        Self::checked(next)
    }

    /// The successor without a site.
    pub fn without_site(&self, name: &SiteName) -> Result<Self, RosterError> {
        let mut next = self.next();
        let at = self.position(name)?;
        next.sites.remove(at);
        Self::checked(next)
    }

    /// The successor with one operator more.
    pub fn with_operator(&self, entry: PersonEntry) -> Result<Self, RosterError> {
        let mut next = self.next();
        insert_person(&mut next.operators, entry, Principal::Operator)?;
        Self::checked(next)
    }

    /// The successor with one auditor more.
    pub fn with_auditor(&self, entry: PersonEntry) -> Result<Self, RosterError> {
        let mut next = self.next();
        insert_person(&mut next.auditors, entry, Principal::Auditor)?;
        Self::checked(next)
    }

    /// The successor without an operator or auditor.
    pub fn without_person(&self, person: &Principal) -> Result<Self, RosterError> {
        let mut next = self.next();
        match person {
            Principal::Operator(name) => next.operators.retain(|entry| entry.name != *name),
            Principal::Auditor(name) => next.auditors.retain(|entry| entry.name != *name),
            Principal::Consortium | Principal::Coordinator | Principal::Site(_) => {}
        }
        if next.operators.len() + next.auditors.len() == self.0.operators.len() + self.0.auditors.len() {
            return Err(RosterError::Unknown(person.clone()));
        }
        Self::checked(next)
    }

    /// The successor with another coordinator.
    pub fn with_coordinator(&self, entry: CoordinatorEntry) -> Result<Self, RosterError> {
        Self::checked(Fields { coordinator: entry, ..self.next() })
    }

    fn next(&self) -> Fields {
        Fields { version: self.0.version + 1, previous: Some(self.hash()), ..self.0.clone() }
    }

    fn position(&self, name: &SiteName) -> Result<usize, RosterError> {
        self.0
            .sites
            .binary_search_by(|entry| entry.name.cmp(name))
            .map_err(|_| RosterError::Unknown(Principal::Site(name.clone())))
    }

    /// Checks that `next` follows this roster, and says what changed: a person at a site looks at that.
    pub fn follow(&self, next: &Self) -> Result<Vec<(Principal, Change)>, RosterError> {
        if next.0.consortium != self.0.consortium {
            return Err(RosterError::OtherConsortium {
                got: next.0.consortium.clone(),
                want: self.0.consortium.clone(),
            });
        }
        let follows = self.0.version.checked_add(1) == Some(next.0.version);
        if !follows || next.0.previous != Some(self.hash()) {
            return Err(RosterError::NotSuccessor { known: self.0.version, next: next.0.version });
        }
        Ok(self.changes_to(next))
    }

    /// What differs between two rosters, in order of party.
    pub fn changes_to(&self, next: &Self) -> Vec<(Principal, Change)> {
        let entry = |roster: &Self, party: &Principal| match party {
            Principal::Coordinator => Some(Entry::Coordinator(roster.0.coordinator.clone())),
            Principal::Site(name) => roster.site(name).cloned().map(Entry::Site),
            _ => roster.keys(party).map(|(signing_key, tls_key)| Entry::Person(signing_key, tls_key)),
        };
        let parties: BTreeSet<Principal> =
            self.parties().chain(next.parties()).map(|(party, ..)| party).collect();
        parties
            .into_iter()
            .filter_map(|party| {
                let change = match (entry(self, &party), entry(next, &party)) {
                    (before, after) if before == after => return None,
                    (None, _) => Change::Added,
                    (_, None) => Change::Removed,
                    _ => Change::Replaced,
                };
                Some((party, change))
            })
            .collect()
    }
}

#[derive(PartialEq)]
enum Entry {
    Coordinator(CoordinatorEntry),
    Site(SiteEntry),
    Person(VerifyingKey, Hash),
}

fn insert_person(
    entries: &mut Vec<PersonEntry>,
    entry: PersonEntry,
    role: fn(PersonName) -> Principal,
) -> Result<(), RosterError> {
    match entries.binary_search_by(|known| known.name.cmp(&entry.name)) {
        Ok(_) => Err(RosterError::Present(role(entry.name))),
        Err(at) => {
            entries.insert(at, entry);
            Ok(())
        }
    }
}

impl Statement for Roster {
    const LABEL: &'static str = "roster";
}

impl<C> Encode<C> for Roster {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Roster {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        Self::checked(Fields::decode(d, ctx)?).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// Checks a roster's signature and that it belongs to the anchor's consortium.
pub fn verify(anchor: &Anchor, signed: &Signed<Roster>) -> Result<Verified<Roster>, RosterError> {
    let roster = anchor.verify(signed)?;
    if roster.consortium() == &anchor.name {
        return Ok(roster);
    }
    Err(RosterError::OtherConsortium { got: roster.consortium().clone(), want: anchor.name.clone() })
}

#[cfg(test)]
mod tests;
