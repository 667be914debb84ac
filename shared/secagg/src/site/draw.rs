//! Taking part in the draw of an epoch's groups; see [`crate::grouping`].

use std::collections::BTreeMap;

use consilium_study::canonical::Canonical;
use consilium_study::document::{colluders, least_honest};
use consilium_study::grouping::GroupPlan;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::{SignatureError, Signed};

use super::record::{CalledDraw, DrawRecord, EpochRecord};
use super::{Missing, SiteMachine, SiteRefusal, Unsent};
use crate::alarm::Occasion;
use crate::context::Context;
use crate::grouping::{Drawn, MAX_DRAWS, NotDrawn, commitment};
use crate::held::Held;
use crate::message::{DrawCall, Reveal};
use crate::numbering::Epoch;
use crate::secret::random;

impl DrawRecord {
    pub(super) fn new() -> Self {
        Self { nonce: (*random()).into(), called: None }
    }

    /// What this site's advert says of its nonce.
    pub(super) fn commitment(&self, study: Hash, epoch: Epoch, site: &SiteName) -> Hash {
        commitment(&self.reveal(study, epoch, site, Hash::of_bytes(&[])))
    }

    fn reveal(&self, study: Hash, epoch: Epoch, site: &SiteName, draw: Hash) -> Reveal {
        Reveal { study, epoch, site: site.clone(), draw, nonce: self.nonce }
    }
}

impl SiteMachine {
    /// Gives this site's nonce for the draw that the coordinator calls: once per epoch, the same bytes when asked again.
    /// From here on nobody can come or go, and everybody's nonce was fixed before.
    pub fn reveal(&mut self, signed: &Signed<DrawCall>) -> Result<Unsent<Signed<Reveal>>, SiteRefusal> {
        let call: Held<DrawCall> = self.pin.of_coordinator(signed)?;
        let epoch = self.has_epoch()?;
        let number = epoch.opening.epoch;
        let draw = epoch.draw.as_ref().ok_or(SiteRefusal::Foreign)?;
        if call.study != self.pin.study || call.epoch != number {
            return Err(SiteRefusal::Foreign);
        }
        if let Some(CalledDraw { call: before, own, .. }) = &draw.called {
            let (first, second) = (before.hash(), call.hash());
            if first != second {
                return Err(self.alarm(Occasion::Draw(number), first, second));
            }
            return Ok(self.unsent(own.clone()));
        }
        if call.advert_of(&self.me) != Some(epoch.advert.hash()) {
            return Err(SiteRefusal::NotInDraw);
        }
        for participant in call.participants.iter().filter(|participant| participant.site != self.me) {
            match epoch.pairs.get(&participant.site) {
                None => return Err(SiteRefusal::NotYet(Missing::Advert(participant.site.clone()))),
                Some(pair) if pair.advert.hash() != participant.advert => {
                    return Err(SiteRefusal::OtherAdvert(participant.site.clone()));
                }
                Some(_) => {}
            }
        }
        let roster = self.pin.sites.len();
        let honest = (least_honest(roster) as u16).max(self.pin.min_honest).max(self.floors.min_honest);
        GroupPlan::new(call.participants.len(), self.pin.groups, colluders(roster) as u16, honest)?;
        if self.record.draws >= MAX_DRAWS {
            return Err(SiteRefusal::TooManyDraws);
        }
        let reveal = self.sign_statement(&draw.reveal(self.pin.study, number, &self.me, call.hash()));
        let held = self.pin.of_site(&reveal, &self.me)?;
        let reveals = BTreeMap::from([(self.me.clone(), held)]);
        if let Some(draw) = self.record.epoch.as_mut().and_then(|epoch| epoch.draw.as_mut()) {
            draw.called = Some(CalledDraw { call, own: reveal.clone(), reveals, drawn: None });
        }
        self.record.draws += 1;
        self.touch();
        Ok(self.unsent(reveal))
    }

    /// Takes the nonces of other participants. Returns those that it refused; the others count. Persist afterwards.
    pub fn take_reveals(&mut self, reveals: &[Signed<Reveal>]) -> Result<Vec<SiteRefusal>, SiteRefusal> {
        self.called_draw()?;
        let refused = reveals.iter().filter_map(|reveal| self.take_reveal(reveal).err()).collect();
        self.draw_groups();
        Ok(refused)
    }

    fn called_draw(&self) -> Result<(&EpochRecord, &CalledDraw), SiteRefusal> {
        let epoch = self.has_epoch()?;
        let draw = epoch.draw.as_ref().ok_or(SiteRefusal::Foreign)?;
        Ok((epoch, draw.called.as_ref().ok_or(SiteRefusal::NotYet(Missing::Draw))?))
    }

    fn take_reveal(&mut self, signed: &Signed<Reveal>) -> Result<(), SiteRefusal> {
        let site = signed.claim().map_err(SignatureError::from)?.site;
        let reveal = self.pin.of_site(signed, &site)?;
        let (epoch, called) = self.called_draw()?;
        let takes_part = called.call.advert_of(&site).is_some();
        if reveal.study != self.pin.study || reveal.epoch != epoch.opening.epoch || !takes_part {
            return Err(SiteRefusal::Foreign);
        }
        if let Some(known) = called.reveals.get(&site) {
            let (first, second) = (reveal_hash(known), reveal_hash(&reveal));
            if first != second {
                return Err(self.alarm(Occasion::Reveal(reveal.epoch), first, second));
            }
            return Ok(());
        }
        if reveal.draw != called.call.hash() || committed(epoch, &self.me, &site) != Some(commitment(&reveal))
        {
            return Err(SiteRefusal::WrongReveal(site));
        }
        if let Some(called) = self.called_draw_mut() {
            called.reveals.insert(site, reveal);
        }
        self.touch();
        Ok(())
    }

    fn called_draw_mut(&mut self) -> Option<&mut CalledDraw> {
        self.record.epoch.as_mut()?.draw.as_mut()?.called.as_mut()
    }

    /// Once everybody has revealed, the groups follow.
    fn draw_groups(&mut self) {
        let Ok((epoch, called)) = self.called_draw() else { return };
        let drawn = Drawn::new(
            &called.call,
            self.pin.groups,
            |site| committed(epoch, &self.me, site),
            |site| called.reveals.get(site).map(|held| -> &Reveal { held }),
        );
        match drawn {
            Ok(drawn) if called.drawn.is_none() => {
                if let Some(called) = self.called_draw_mut() {
                    called.drawn = Some(drawn);
                }
                self.touch();
            }
            // The one before it, or not everybody yet; what is broken was refused when it came.
            Ok(_) | Err(NotDrawn::Hidden(_) | NotDrawn::Broken(_)) => {}
        }
    }

    /// The groups of a context are those that this site drew with the others.
    pub(super) fn check_groups(&self, context: &Context) -> Result<(), SiteRefusal> {
        if context.grouping.is_none() {
            return Ok(());
        }
        let (_, called) = self.called_draw()?;
        let drawn = called.drawn.as_ref().ok_or(SiteRefusal::NotYet(Missing::Draw))?;
        if drawn.grouping(&context.selection) == context.grouping {
            Ok(())
        } else {
            Err(SiteRefusal::OtherGroups)
        }
    }
}

/// What a participant's advert commits to.
fn committed(epoch: &EpochRecord, me: &SiteName, site: &SiteName) -> Option<Hash> {
    if site == me { epoch.advert.nonce } else { epoch.pairs.get(site)?.advert.nonce }
}

fn reveal_hash(reveal: &Reveal) -> Hash {
    Hash::labelled("reveal-hash", &reveal.to_canonical())
}
