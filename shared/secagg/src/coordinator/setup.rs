//! Passing setup messages on. The coordinator checks them so that a hospital need not, and believes none.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::{SignatureError, Signed, Statement};
use minicbor::{Decode, Encode};

use super::CoordinatorRefusal;
use crate::held::Held;
use crate::message::{Advert, Confirmation, Encapsulation, EpochOpening};
use crate::numbering::MIN_SITES;
use crate::pin::StudyPin;

/// One epoch of a study: the setup messages of all pairs.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct EpochSetup {
    #[n(0)]
    opening: Held<EpochOpening>,
    #[n(1)]
    adverts: BTreeMap<SiteName, Held<Advert>>,
    #[n(2)]
    encapsulations: BTreeMap<(SiteName, SiteName), Held<Encapsulation>>,
    #[n(3)]
    confirmations: BTreeMap<(SiteName, SiteName), Held<Confirmation>>,
    #[n(4)]
    settled: BTreeMap<SiteName, BTreeSet<SiteName>>,
}

/// What one site has to hear of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupMail {
    /// Adverts of all others.
    pub adverts: Vec<Signed<Advert>>,
    /// Ciphertexts for it.
    pub encapsulations: Vec<Signed<Encapsulation>>,
    /// Tags for it.
    pub confirmations: Vec<Signed<Confirmation>>,
}

impl EpochSetup {
    /// Starts an epoch that the coordinator has signed.
    pub fn new(pin: &StudyPin, opening: &Signed<EpochOpening>) -> Result<Self, CoordinatorRefusal> {
        let opening = pin.of_coordinator(opening)?;
        if opening.study != pin.study || opening.roster != pin.roster {
            return Err(CoordinatorRefusal::Foreign);
        }
        Ok(Self {
            opening,
            adverts: BTreeMap::new(),
            encapsulations: BTreeMap::new(),
            confirmations: BTreeMap::new(),
            settled: BTreeMap::new(),
        })
    }

    /// The opening, to be sent to every site of the roster.
    pub fn opening(&self) -> &Signed<EpochOpening> {
        self.opening.signed()
    }

    /// What the opening says.
    pub fn statement(&self) -> &EpochOpening {
        &self.opening
    }

    /// Takes a site's advert.
    pub fn take_advert(&mut self, pin: &StudyPin, signed: &Signed<Advert>) -> Result<(), CoordinatorRefusal> {
        let site = claim(signed)?.site;
        let advert = pin.of_site(signed, &site)?;
        if advert.study != pin.study || advert.roster != pin.roster || advert.epoch != self.opening.epoch {
            return Err(CoordinatorRefusal::Foreign);
        }
        first_counts(&mut self.adverts, site.clone(), advert, &site)
    }

    /// Takes a ciphertext.
    pub fn take_encapsulation(
        &mut self,
        pin: &StudyPin,
        signed: &Signed<Encapsulation>,
    ) -> Result<(), CoordinatorRefusal> {
        let from = claim(signed)?.from;
        let it = pin.of_site(signed, &from)?;
        let known = self.advert(&from) == Some(it.from_advert) && self.advert(&it.to) == Some(it.to_advert);
        if it.study != pin.study || it.epoch != self.opening.epoch || from >= it.to || !known {
            return Err(CoordinatorRefusal::Foreign);
        }
        first_counts(&mut self.encapsulations, (it.to.clone(), from.clone()), it, &from)
    }

    /// Takes a tag.
    pub fn take_confirmation(
        &mut self,
        pin: &StudyPin,
        signed: &Signed<Confirmation>,
    ) -> Result<(), CoordinatorRefusal> {
        let from = claim(signed)?.from;
        let it = pin.of_site(signed, &from)?;
        let known = self.adverts.contains_key(&from) && self.adverts.contains_key(&it.to);
        if it.study != pin.study || it.epoch != self.opening.epoch || from == it.to || !known {
            return Err(CoordinatorRefusal::Foreign);
        }
        first_counts(&mut self.confirmations, (it.to.clone(), from.clone()), it, &from)
    }

    /// Takes a site's word on whom it shares confirmed keys with.
    pub fn take_settled(&mut self, site: &SiteName, with: impl IntoIterator<Item = SiteName>) {
        if self.adverts.contains_key(site) {
            let known = with.into_iter().filter(|peer| self.adverts.contains_key(peer)).collect();
            self.settled.insert(site.clone(), known);
        }
    }

    /// Hash of a site's advert, which a Selection carries.
    pub fn advert(&self, site: &SiteName) -> Option<Hash> {
        self.adverts.get(site).map(|advert| advert.hash())
    }

    /// Whether both ends say that they share a confirmed key.
    pub fn is_settled(&self, a: &SiteName, b: &SiteName) -> bool {
        let says = |site, peer| self.settled.get(site).is_some_and(|with| with.contains(peer));
        says(a, b) && says(b, a)
    }

    /// Everything that a site has to hear, whatever it heard before: the site takes each message once.
    pub fn mail_for(&self, site: &SiteName) -> SetupMail {
        let adverts = self.adverts.iter().filter(|(name, _)| *name != site);
        SetupMail {
            adverts: adverts.map(|(_, advert)| advert.signed().clone()).collect(),
            encapsulations: to(&self.encapsulations, site),
            confirmations: to(&self.confirmations, site),
        }
    }

    /// The sites of `ready` that can be selected together, each with the hash of its advert: all pairs among them are
    /// settled. Sites with the most unsettled pairs are left out first. Empty where fewer than three are left.
    pub fn selectable(&self, ready: &BTreeSet<SiteName>) -> Vec<(SiteName, Hash)> {
        let mut sites: BTreeMap<SiteName, Hash> =
            ready.iter().filter_map(|site| Some((site.clone(), self.advert(site)?))).collect();
        loop {
            let unsettled = |site: &SiteName| {
                sites.keys().filter(|peer| *peer != site && !self.is_settled(site, peer)).count()
            };
            let worst = sites.keys().map(|site| (unsettled(site), site.clone())).max();
            match worst {
                Some((count, site)) if count > 0 => {
                    sites.remove(&site);
                }
                _ => break,
            }
        }
        if sites.len() < MIN_SITES { Vec::new() } else { sites.into_iter().collect() }
    }
}

fn to<T: Statement>(mail: &BTreeMap<(SiteName, SiteName), Held<T>>, site: &SiteName) -> Vec<Signed<T>> {
    mail.iter()
        .filter(|((recipient, _), _)| recipient == site)
        .map(|(_, held)| held.signed().clone())
        .collect()
}

fn claim<T: Statement>(signed: &Signed<T>) -> Result<T, CoordinatorRefusal> {
    Ok(signed.claim().map_err(SignatureError::from)?)
}

/// Keeps the first statement of a kind; a second with another content is refused.
pub(super) fn first_counts<K: Ord, T: PartialEq + Statement>(
    kept: &mut BTreeMap<K, Held<T>>,
    key: K,
    held: Held<T>,
    site: &SiteName,
) -> Result<(), CoordinatorRefusal> {
    match kept.get(&key) {
        Some(first) if **first == *held => Ok(()),
        Some(_) => Err(CoordinatorRefusal::Equivocation(site.clone())),
        None => {
            kept.insert(key, held);
            Ok(())
        }
    }
}
