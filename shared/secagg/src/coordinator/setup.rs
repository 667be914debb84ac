//! Passing setup messages on. The coordinator checks them so that a hospital need not, and believes none.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::{SignatureError, Signed, Statement};
use minicbor::{Decode, Encode};

use super::CoordinatorRefusal;
use crate::grouping::{DrawProof, Drawn, commitment};
use crate::held::Held;
use crate::message::{Advert, Confirmation, DrawCall, Encapsulation, EpochOpening, Participant, Reveal};
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
    /// Who takes part in the draw of groups, where the study sums groups.
    #[n(5)]
    call: Option<Held<DrawCall>>,
    /// By participant.
    #[n(6)]
    reveals: BTreeMap<SiteName, Held<Reveal>>,
    /// What the draw came to, once everybody has revealed.
    #[n(7)]
    drawn: Option<Drawn>,
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
    /// The draw that it takes part in.
    pub call: Option<Signed<DrawCall>>,
    /// All nonces of that draw, once everybody has revealed.
    pub reveals: Vec<Signed<Reveal>>,
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
            call: None,
            reveals: BTreeMap::new(),
            drawn: None,
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
        if advert.study != pin.study
            || advert.roster != pin.roster
            || advert.epoch != self.opening.epoch
            || advert.nonce.is_some() != (pin.groups > 1)
        {
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

    /// Names the participants of the epoch's draw. The first call counts.
    pub fn call_draw(&mut self, pin: &StudyPin, call: &Signed<DrawCall>) -> Result<(), CoordinatorRefusal> {
        let call: Held<DrawCall> = pin.of_coordinator(call)?;
        let known = |participant: &Participant| self.advert(&participant.site) == Some(participant.advert);
        let fits = call.study == pin.study && call.epoch == self.opening.epoch;
        if !fits || self.call.is_some() || !call.participants.iter().all(known) {
            return Err(CoordinatorRefusal::Foreign);
        }
        self.call = Some(call);
        Ok(())
    }

    /// Takes a participant's nonce.
    pub fn take_reveal(&mut self, pin: &StudyPin, signed: &Signed<Reveal>) -> Result<(), CoordinatorRefusal> {
        let site = claim(signed)?.site;
        let reveal = pin.of_site(signed, &site)?;
        let call = self.call.as_ref().ok_or(CoordinatorRefusal::Foreign)?;
        let takes_part = call.advert_of(&site).is_some();
        if reveal.study != pin.study || reveal.epoch != self.opening.epoch || !takes_part {
            return Err(CoordinatorRefusal::Foreign);
        }
        if reveal.draw != call.hash() || self.commitment(&site) != Some(commitment(&reveal)) {
            return Err(CoordinatorRefusal::WrongReveal(site));
        }
        first_counts(&mut self.reveals, site.clone(), reveal, &site)?;
        self.drawn = self.draw(pin.groups);
        Ok(())
    }

    fn commitment(&self, site: &SiteName) -> Option<Hash> {
        self.adverts.get(site)?.nonce
    }

    fn draw(&self, groups: u16) -> Option<Drawn> {
        let reveal_of = |site: &SiteName| self.reveals.get(site).map(|held| -> &Reveal { held });
        Drawn::new(self.call.as_ref()?, groups, |site| self.commitment(site), reveal_of).ok()
    }

    /// The draw that was called.
    pub fn call(&self) -> Option<&DrawCall> {
        self.call.as_ref().map(|call| -> &DrawCall { call })
    }

    /// The groups, once everybody has revealed.
    pub fn drawn(&self) -> Option<&Drawn> {
        self.drawn.as_ref()
    }

    /// What proves the groups: the call, and the adverts and reveals of its participants.
    pub fn proof_of_draw(&self) -> Option<DrawProof> {
        let call = self.call.as_ref().filter(|_| self.drawn.is_some())?;
        let takes_part = |site: &SiteName| call.advert_of(site).is_some();
        let adverts = self.adverts.iter().filter(|(site, _)| takes_part(site));
        Some(DrawProof {
            call: call.signed().clone(),
            adverts: adverts.map(|(_, held)| held.signed().clone()).collect(),
            reveals: self.reveals.values().map(|held| held.signed().clone()).collect(),
        })
    }

    /// Participants that have not revealed their nonce.
    pub fn hidden(&self) -> Vec<SiteName> {
        let call = self.call.iter().flat_map(|call| &call.participants);
        let sites = call.map(|participant| &participant.site);
        sites.filter(|site| !self.reveals.contains_key(site)).cloned().collect()
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
        let call = self.call.as_ref().filter(|call| call.advert_of(site).is_some());
        let all_are_here = call.is_some() && self.drawn.is_some();
        let reveals =
            self.reveals.iter().filter(|(name, _)| all_are_here && *name != site).map(|(_, held)| held);
        SetupMail {
            adverts: adverts.map(|(_, advert)| advert.signed().clone()).collect(),
            encapsulations: to(&self.encapsulations, site),
            confirmations: to(&self.confirmations, site),
            call: call.map(|call| call.signed().clone()),
            reveals: reveals.map(|reveal| reveal.signed().clone()).collect(),
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
