//! Revocations: certificates that count no more, before their time is over.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, Principal};
use consilium_study::sign::Statement;
use jiff::Timestamp;
use minicbor::{Decode, Encode};

use crate::certificate::{Leaf, Serial};
use crate::moment::whole_second;

/// One revoked certificate. It names the serial number *and* the key: a certificate that was renewed has
/// several serial numbers, and none of them may outlive the revocation of one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Revocation {
    /// The consortium.
    #[n(0)]
    pub consortium: ConsortiumName,
    /// Whose certificate it was.
    #[n(1)]
    pub principal: Principal,
    /// Its serial number.
    #[n(2)]
    pub serial: Serial,
    /// Hash of its TLS key.
    #[n(3)]
    pub key: Hash,
    /// When it was revoked.
    #[cbor(n(4), with = "crate::moment")]
    pub at: Timestamp,
}

impl Revocation {
    /// Revokes a certificate, and with it every other certificate of the same key.
    pub fn of(leaf: &Leaf, now: Timestamp) -> Self {
        Self {
            consortium: leaf.id.consortium.clone(),
            principal: leaf.id.principal.clone(),
            serial: leaf.serial.clone(),
            key: leaf.key,
            at: whole_second(now),
        }
    }
}

impl Statement for Revocation {
    const LABEL: &'static str = "revocation";
}

/// All revocations that are known. Nothing is ever taken out: a site that comes back comes with new keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    by_serial: BTreeMap<Serial, Revocation>,
    keys: BTreeSet<Hash>,
}

impl Revocations {
    /// No revocation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one. The same twice is one.
    pub fn insert(&mut self, revocation: Revocation) {
        self.keys.insert(revocation.key);
        self.by_serial.entry(revocation.serial.clone()).or_insert(revocation);
    }

    /// Whether a certificate counts no more.
    pub fn contains(&self, serial: &Serial, key: &Hash) -> bool {
        self.by_serial.contains_key(serial) || self.keys.contains(key)
    }

    /// All revocations, by serial number.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.by_serial.values()
    }
}

impl FromIterator<Revocation> for Revocations {
    fn from_iter<I: IntoIterator<Item = Revocation>>(revocations: I) -> Self {
        let mut all = Self::new();
        revocations.into_iter().for_each(|revocation| all.insert(revocation));
        all
    }
}
