//! A small consortium for tests.

use consilium_study::name::Principal;
use consilium_study::sign::{Signed, SigningKey};
use jiff::Timestamp;

use crate::authority::lifetime;
use crate::revocation::Revocations;
use crate::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use crate::{Chain, ConsortiumKey, IssuingKey, Roster, TlsKey, Trust};

/// The present of all tests: the real one, because `rustls` asks the real clock.
pub(crate) fn now() -> Timestamp {
    crate::moment::whole_second(Timestamp::now())
}

/// Both keys of one party.
pub(crate) struct Keys {
    pub(crate) tls: TlsKey,
    pub(crate) signing: SigningKey,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self { tls: TlsKey::generate(), signing: SigningKey::generate() }
    }

    pub(crate) fn person(&self, name: &str) -> PersonEntry {
        PersonEntry {
            name: name.parse().unwrap(),
            signing_key: self.signing.verifying_key(),
            tls_key: self.tls.public_key().hash(),
        }
    }

    pub(crate) fn site(&self, name: &str) -> SiteEntry {
        SiteEntry {
            name: name.parse().unwrap(),
            signing_key: self.signing.verifying_key(),
            tls_key: self.tls.public_key().hash(),
            test: false,
        }
    }
}

pub(crate) struct Consortium {
    pub(crate) key: ConsortiumKey,
    pub(crate) roster: Signed<Roster>,
    pub(crate) coordinator: Keys,
    pub(crate) operator: Keys,
    pub(crate) issuing: IssuingKey,
}

impl Consortium {
    /// A coordinator and the operator `ada`, and no site yet.
    pub(crate) fn new(name: &str) -> Self {
        let key = ConsortiumKey::generate(name.parse().unwrap());
        let (coordinator, operator, issuing) = (Keys::new(), Keys::new(), TlsKey::generate());
        let entry = CoordinatorEntry {
            signing_key: coordinator.signing.verifying_key(),
            tls_key: coordinator.tls.public_key().hash(),
            issuing_key: issuing.public_key().hash(),
        };
        let roster = Roster::first(name.parse().unwrap(), entry, operator.person("ada")).unwrap();
        let roster = key.sign(&roster);
        let certificate = key.certify_issuing(&issuing.public_key(), now());
        let issuing = IssuingKey::new(issuing, certificate).unwrap();
        Self { key, roster, coordinator, operator, issuing }
    }

    /// Puts a site on the roster.
    pub(crate) fn add_site(&mut self, name: &str) -> Keys {
        let keys = Keys::new();
        self.roster = self.key.sign(&self.roster.claim().unwrap().with_site(keys.site(name)).unwrap());
        keys
    }

    pub(crate) fn certify(&self, principal: &str, keys: &Keys, at: Timestamp) -> Chain {
        let principal: Principal = principal.parse().unwrap();
        self.key.certify(&keys.tls.public_key(), &principal, lifetime::SITE, at).unwrap()
    }

    pub(crate) fn coordinator_chain(&self) -> Chain {
        let addresses = ["localhost".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        self.key.certify_coordinator(&self.coordinator.tls.public_key(), &addresses, now())
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(self.key.anchor(), &self.roster, Revocations::new()).unwrap()
    }
}
