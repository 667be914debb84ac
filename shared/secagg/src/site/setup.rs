//! Setting up pair keys, once per epoch, pair by pair (design, section 2).

use std::collections::BTreeMap;

use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::{SignatureError, Signed, Statement};
use minicbor::{Decode, Encode};

use super::record::{AgreedRecord, DrawRecord, EpochRecord, PairRecord};
use super::{Missing, SiteMachine, SiteRefusal, Unsent};
use crate::agreement::{Agreed, EpochSecrets};
use crate::alarm::Occasion;
use crate::chain::EpochChain;
use crate::message::{Advert, Confirmation, Encapsulation, EpochOpening};
use crate::numbering::{Epoch, MAX_ATTEMPTS_PER_EPOCH};

/// What a site says to the adverts, encapsulations or tags it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupReply {
    /// Its ciphertexts for higher names.
    pub encapsulations: Vec<Signed<Encapsulation>>,
    /// Its tags.
    pub confirmations: Vec<Signed<Confirmation>>,
    /// Messages of the batch that it refused; the others count.
    pub refused: Vec<SiteRefusal>,
}

/// With whom a site shares a confirmed key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PairsSettled {
    /// The epoch.
    #[n(0)]
    pub epoch: Epoch,
    /// The peers, in the order of names.
    #[n(1)]
    pub with: Vec<SiteName>,
}

impl SiteMachine {
    /// A new epoch: makes keys and advertises them. Ends the attempt of the epoch before.
    pub fn open_epoch(
        &mut self,
        opening: &Signed<EpochOpening>,
    ) -> Result<Unsent<Signed<Advert>>, SiteRefusal> {
        let opening = self.pin.of_coordinator(opening)?;
        if opening.study != self.pin.study || opening.roster != self.pin.roster {
            return Err(SiteRefusal::Foreign);
        }
        if let Some(epoch) = &self.record.epoch
            && epoch.opening.epoch == opening.epoch
        {
            let (first, second) = (opening_hash(&epoch.opening), opening_hash(&opening));
            if first != second {
                return Err(self.alarm(Occasion::Opening(opening.epoch), first, second));
            }
            return Ok(self.unsent(epoch.advert.signed().clone()));
        }
        let late = self.record.last_epoch.is_some_and(|last| opening.epoch <= last)
            || self.record.highest.is_some_and(|highest| opening.first_attempt <= highest)
            || opening.attempts == 0
            || opening.attempts > MAX_ATTEMPTS_PER_EPOCH;
        if late {
            return Err(SiteRefusal::StaleEpoch(opening.epoch));
        }
        let (secrets, public) = EpochSecrets::generate();
        let draw = (self.pin.groups > 1).then(DrawRecord::new);
        let advert = self.sign_statement(&Advert {
            study: self.pin.study,
            roster: self.pin.roster,
            epoch: opening.epoch,
            site: self.me.clone(),
            x25519: public.x25519,
            ml_kem: public.ml_kem,
            nonce: draw.as_ref().map(|draw| draw.commitment(self.pin.study, opening.epoch, &self.me)),
        });
        let held = self.pin.of_site(&advert, &self.me)?;
        self.chain.epoch = Some(EpochChain::new(opening.epoch, opening.first_attempt, secrets));
        self.record.last_epoch = Some(opening.epoch);
        self.record.attempt = None;
        self.record.epoch = Some(EpochRecord {
            opening,
            advert: held,
            pairs: BTreeMap::new(),
            earlier: std::collections::BTreeSet::new(),
            draw,
        });
        self.touch();
        Ok(self.unsent(advert))
    }

    /// Takes adverts of peers. For higher names it encapsulates, once; asked again it gives the same bytes.
    pub fn take_adverts(&mut self, adverts: &[Signed<Advert>]) -> Result<Unsent<SetupReply>, SiteRefusal> {
        self.has_epoch()?;
        let mut reply = SetupReply::default();
        for advert in adverts {
            match self.take_advert(advert) {
                Ok(peer) => self.repeat(&peer, &mut reply),
                Err(refusal) => reply.refused.push(refusal),
            }
        }
        Ok(self.unsent(reply))
    }

    /// Takes ciphertexts of lower names, and confirms.
    pub fn take_encapsulations(
        &mut self,
        encapsulations: &[Signed<Encapsulation>],
    ) -> Result<Unsent<SetupReply>, SiteRefusal> {
        self.has_epoch()?;
        let mut reply = SetupReply::default();
        for encapsulation in encapsulations {
            match self.take_encapsulation(encapsulation) {
                Ok(peer) => self.repeat(&peer, &mut reply),
                Err(refusal) => reply.refused.push(refusal),
            }
        }
        Ok(self.unsent(reply))
    }

    /// Takes the tags of peers, which need no answer: [`Self::pairs_settled`] says what came of them. When the pairs
    /// with the whole roster are confirmed, the epoch's secret keys are erased.
    pub fn take_confirmations(
        &mut self,
        confirmations: &[Signed<Confirmation>],
    ) -> Result<Unsent<SetupReply>, SiteRefusal> {
        self.has_epoch()?;
        let mut reply = SetupReply::default();
        for confirmation in confirmations {
            if let Err(refusal) = self.take_confirmation(confirmation) {
                reply.refused.push(refusal);
            }
        }
        if self.pairs_settled().is_some_and(|settled| settled.with.len() + 1 == self.pin.sites.len()) {
            self.erase_setup_keys();
        }
        Ok(self.unsent(reply))
    }

    /// With whom this site shares a confirmed key. None without an epoch.
    pub fn pairs_settled(&self) -> Option<PairsSettled> {
        let chain = self.chain.epoch.as_ref()?;
        let epoch = self.record.epoch.as_ref()?;
        let with = epoch.pairs.keys().filter(|peer| chain.is_settled(peer)).cloned().collect();
        Some(PairsSettled { epoch: epoch.opening.epoch, with })
    }

    /// Erases the epoch's secret keys. The shell calls it at the latest 24 hours after the epoch was opened; pairs
    /// that are not settled by then wait for the next epoch.
    pub fn erase_setup_keys(&mut self) {
        if let Some(chain) = &mut self.chain.epoch
            && chain.secrets().is_some()
        {
            chain.erase_secrets();
            self.touch();
        }
    }

    pub(super) fn has_epoch(&self) -> Result<&EpochRecord, SiteRefusal> {
        self.record.epoch.as_ref().ok_or(SiteRefusal::NotYet(Missing::Epoch))
    }

    /// Adds what was said to a peer before.
    fn repeat(&self, peer: &SiteName, reply: &mut SetupReply) {
        let pair = self.record.epoch.as_ref().and_then(|epoch| epoch.pairs.get(peer));
        if let Some(agreed) = pair.and_then(|pair| pair.agreed.as_ref()) {
            if self.me < *peer {
                reply.encapsulations.push(agreed.encapsulation.clone());
            }
            reply.confirmations.push(agreed.confirmation.clone());
        }
    }

    fn take_advert(&mut self, signed: &Signed<Advert>) -> Result<SiteName, SiteRefusal> {
        let peer = claim(signed)?.site;
        let advert = self.pin.of_site(signed, &peer)?;
        let epoch = self.has_epoch()?;
        let number = epoch.opening.epoch;
        if advert.study != self.pin.study
            || advert.roster != self.pin.roster
            || advert.epoch != number
            || advert.nonce.is_some() != (self.pin.groups > 1)
            || peer == self.me
        {
            return Err(SiteRefusal::Foreign);
        }
        if let Some(known) = epoch.pairs.get(&peer) {
            let (first, second) = (known.advert.hash(), advert.hash());
            if first != second {
                return Err(self.alarm(Occasion::Advert(number), first, second));
            }
            return Ok(peer);
        }
        let agreed = if self.me < peer { self.encapsulate(&advert)? } else { None };
        let epoch = self.record.epoch.as_mut().ok_or(SiteRefusal::NotYet(Missing::Epoch))?;
        epoch.pairs.insert(peer.clone(), PairRecord { advert, agreed });
        self.touch();
        Ok(peer)
    }

    /// Makes the key with a higher name. None where the epoch's keys were erased: the pair waits for the next.
    fn encapsulate(&mut self, theirs: &Advert) -> Result<Option<AgreedRecord>, SiteRefusal> {
        let mine = &self.has_epoch()?.advert;
        let Some(secrets) = self.chain.epoch.as_ref().and_then(EpochChain::secrets) else { return Ok(None) };
        let bad = |why| SiteRefusal::BadKey { site: theirs.site.clone(), why };
        let (ciphertext, agreed) = secrets.encapsulate(mine, theirs).map_err(bad)?;
        let statement = Encapsulation {
            study: self.pin.study,
            epoch: theirs.epoch,
            from: self.me.clone(),
            to: theirs.site.clone(),
            from_advert: mine.hash(),
            to_advert: theirs.hash(),
            ciphertext,
        };
        let encapsulation = self.sign_statement(&statement);
        Ok(Some(self.agree(&theirs.site, encapsulation, agreed)))
    }

    fn take_encapsulation(&mut self, signed: &Signed<Encapsulation>) -> Result<SiteName, SiteRefusal> {
        let peer = claim(signed)?.from;
        let statement = self.pin.of_site(signed, &peer)?;
        let epoch = self.has_epoch()?;
        let number = epoch.opening.epoch;
        if statement.study != self.pin.study
            || statement.epoch != number
            || statement.to != self.me
            || peer >= self.me
        {
            return Err(SiteRefusal::Foreign);
        }
        let pair =
            epoch.pairs.get(&peer).ok_or_else(|| SiteRefusal::NotYet(Missing::Advert(peer.clone())))?;
        if let Some(agreed) = &pair.agreed {
            let first = agreed.encapsulation.claim().map_err(SignatureError::from)?;
            if first != *statement {
                let (first, second) = (encapsulation_hash(&first), encapsulation_hash(&statement));
                return Err(self.alarm(Occasion::Encapsulation(number), first, second));
            }
            return Ok(peer);
        }
        if statement.from_advert != pair.advert.hash() || statement.to_advert != epoch.advert.hash() {
            return Err(SiteRefusal::Foreign);
        }
        let Some(secrets) = self.chain.epoch.as_ref().and_then(EpochChain::secrets) else {
            return Err(SiteRefusal::StaleEpoch(number));
        };
        let agreed = secrets
            .decapsulate(&pair.advert, &epoch.advert, &statement.ciphertext)
            .map_err(|why| SiteRefusal::BadKey { site: peer.clone(), why })?;
        let agreed = self.agree(&peer, signed.clone(), agreed);
        if let Some(pair) = self.record.epoch.as_mut().and_then(|epoch| epoch.pairs.get_mut(&peer)) {
            pair.agreed = Some(agreed);
        }
        self.touch();
        Ok(peer)
    }

    /// Puts the key into the chain and signs this end's tag.
    fn agree(
        &mut self,
        peer: &SiteName,
        encapsulation: Signed<Encapsulation>,
        agreed: Agreed,
    ) -> AgreedRecord {
        let Agreed { key, tag_of_lower, tag_of_higher } = agreed;
        let (mine, theirs) =
            if self.me < *peer { (tag_of_lower, tag_of_higher) } else { (tag_of_higher, tag_of_lower) };
        let chain = self.chain.epoch.as_mut().expect("an epoch's record stands beside its chain");
        chain.settle(peer, key, theirs);
        let epoch = chain.epoch();
        let confirmation = self.sign_statement(&Confirmation {
            study: self.pin.study,
            epoch,
            from: self.me.clone(),
            to: peer.clone(),
            tag: (*mine).into(),
        });
        AgreedRecord { encapsulation, confirmation }
    }

    fn take_confirmation(&mut self, signed: &Signed<Confirmation>) -> Result<(), SiteRefusal> {
        let peer = claim(signed)?.from;
        let confirmation = self.pin.of_site(signed, &peer)?;
        let chain = self.chain.epoch.as_mut().ok_or(SiteRefusal::NotYet(Missing::Epoch))?;
        if confirmation.study != self.pin.study
            || confirmation.epoch != chain.epoch()
            || confirmation.to != self.me
        {
            return Err(SiteRefusal::Foreign);
        }
        if !chain.has(&peer) {
            return Err(SiteRefusal::NotYet(Missing::Advert(peer)));
        }
        let before = chain.is_settled(&peer);
        if !chain.confirm(&peer, &confirmation.tag) {
            return Err(SiteRefusal::WrongTag(peer));
        }
        if !before {
            self.touch();
        }
        Ok(())
    }
}

fn claim<T: Statement>(signed: &Signed<T>) -> Result<T, SiteRefusal> {
    signed.claim().map_err(|error| SiteRefusal::Signature(error.into()))
}

fn opening_hash(opening: &EpochOpening) -> Hash {
    Hash::labelled("opening-hash", &opening.to_canonical())
}

fn encapsulation_hash(encapsulation: &Encapsulation) -> Hash {
    Hash::labelled("encapsulation-hash", &encapsulation.to_canonical())
}
