//! What a study pins: the values that every context has to repeat.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{SignatureError, Signed, Statement, VerifyingKey};

use crate::context::{Context, Purpose};
use crate::held::Held;
use crate::layout::{BlockKind, Layout};
use crate::quantiser::{ClipNorm, range_exponent};
use crate::ring::Ring;
use crate::{packed, quantiser};

/// The study as a party accepted it, with the keys of the roster it is pinned to. Made from the signed study
/// and the roster by whoever checked both; the same at every party.
#[derive(Clone, Debug)]
pub struct StudyPin {
    /// Hash of the signed study.
    pub study: Hash,
    /// Hash of the roster.
    pub roster: Hash,
    /// The coordinator's signing key.
    pub coordinator: VerifyingKey,
    /// The sites named in the study, each with its signing key: `N` of them, whether or not they accepted.
    pub sites: BTreeMap<SiteName, VerifyingKey>,
    /// Rounds of the study.
    pub rounds: u32,
    /// The model that its first round starts from.
    pub initial_model: Hash,
    /// Least number of honest sites behind a sum; 0 where the study asks for no more than the rule.
    pub min_honest: u16,
    /// Bound on an update's L2 norm.
    pub clip_norm: ClipNorm,
    /// Largest weight of a site.
    pub weight_cap: u32,
    /// Scale of the noise of each site, in quantiser steps; 0 is none.
    pub noise: u64,
    /// Groups whose updates are summed apart; 1 where everybody's are summed together.
    pub groups: u16,
    /// Whether sites correct their steps by control variates.
    pub control: bool,
    /// The layout of each kind of sum. Ranges in it do not matter: those are the context's.
    pub layouts: BTreeMap<Purpose, Layout>,
}

/// Which value of a context is not the study's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinMismatch {
    /// Another study.
    #[error("it belongs to another study")]
    Study,
    /// Another roster.
    #[error("it names another roster")]
    Roster,
    /// A roster of another size.
    #[error("it counts another number of sites in the roster")]
    RosterSize,
    /// A round after the study's last.
    #[error("it counts a round that the study does not have")]
    Round,
    /// A first round that starts from another model than the study's.
    #[error("its first round does not start from the study's model")]
    InitialModel,
    /// Fewer honest sites than the study asks for.
    #[error("it demands fewer honest sites than the study")]
    MinHonest,
    /// Another clip norm.
    #[error("its clip norm is not the study's")]
    ClipNorm,
    /// Another largest weight.
    #[error("its largest weight is not the study's")]
    WeightCap,
    /// Another noise scale.
    #[error("its noise is not the study's")]
    Noise,
    /// Another number of groups.
    #[error("it splits the sites otherwise than the study")]
    Groups,
    /// Control variates in a study that has none.
    #[error("it names control variates, and the study's strategy has none")]
    Control,
    /// Another ring than the study's for this purpose.
    #[error("its ring is not the study's for this purpose")]
    Ring,
    /// A kind of sum that the study does not have, or another layout.
    #[error("its layout is not the study's for this purpose")]
    Layout,
    /// A range that no rule of the study leads to.
    #[error("the range of block {0} is out of the study's bounds")]
    Range(usize),
    /// Somebody who is not named in the study.
    #[error("it selects a site that the study does not name")]
    Stranger,
}

impl StudyPin {
    /// The roster's names in order.
    pub fn names(&self) -> Vec<SiteName> {
        self.sites.keys().cloned().collect()
    }

    /// Checks a statement that the coordinator signs.
    pub(crate) fn of_coordinator<T: Statement>(&self, signed: &Signed<T>) -> Result<Held<T>, SignatureError> {
        Held::check(signed, &Principal::Coordinator, &self.coordinator)
    }

    /// Checks a statement that `site` signs. A site outside the roster has no key and signs nothing.
    pub(crate) fn of_site<T: Statement>(
        &self,
        signed: &Signed<T>,
        site: &SiteName,
    ) -> Result<Held<T>, SignatureError> {
        let signer = Principal::Site(site.clone());
        match self.sites.get(site) {
            Some(key) => Held::check(signed, &signer, key),
            None => Err(SignatureError::Bad { label: T::LABEL, signer }),
        }
    }

    /// Checks that everything in a context is the study's, save what changes between attempts.
    pub fn check(&self, context: &Context) -> Result<(), PinMismatch> {
        let stated = &context.thresholds;
        let layout = self.layouts.get(&context.purpose).ok_or(PinMismatch::Layout)?;
        for (holds, mismatch) in [
            (context.study == self.study, PinMismatch::Study),
            (context.roster == self.roster, PinMismatch::Roster),
            (usize::from(stated.roster) == self.sites.len(), PinMismatch::RosterSize),
            (context.round.get() <= self.rounds, PinMismatch::Round),
            (self.starts_rightly(context), PinMismatch::InitialModel),
            (stated.honest >= self.min_honest, PinMismatch::MinHonest),
            (context.clip_norm == self.clip_norm, PinMismatch::ClipNorm),
            (context.weight_cap == self.weight_cap, PinMismatch::WeightCap),
            (context.noise == self.noise, PinMismatch::Noise),
            (context.groups == self.groups_of(context.purpose), PinMismatch::Groups),
            (self.control || context.control.is_none(), PinMismatch::Control),
            (context.layout.ring() == layout.ring(), PinMismatch::Ring),
            (context.layout.same_shape(layout), PinMismatch::Layout),
        ] {
            if !holds {
                return Err(mismatch);
            }
        }
        let largest = range_exponent(self.clip_norm.get());
        let steps = match layout.ring() {
            Ring::Words => quantiser::LEAST_RANGE_STEPS,
            Ring::Packed => packed::LEAST_RANGE_STEPS,
        };
        for (index, block) in context.layout.blocks().iter().enumerate() {
            let lawful = (largest - steps..=largest).contains(&block.range_exponent);
            if block.kind == BlockKind::Update && !lawful {
                return Err(PinMismatch::Range(index));
            }
        }
        let named = |site: &SiteName| self.sites.contains_key(site);
        if context.selection.members().iter().all(|member| named(&member.site)) {
            Ok(())
        } else {
            Err(PinMismatch::Stranger)
        }
    }

    /// Groups in a kind of sum: figures and counts are summed over everybody.
    pub fn groups_of(&self, purpose: Purpose) -> u16 {
        if purpose == Purpose::Train { self.groups } else { 1 }
    }

    /// Only the first starting model is in the study. Each later one follows from sums that no single site can check.
    fn starts_rightly(&self, context: &Context) -> bool {
        context.round.get() > 1 || context.purpose != Purpose::Train || context.model == self.initial_model
    }

    /// The names behind indices of a context.
    pub(crate) fn names_of(
        context: &Context,
        indices: impl Iterator<Item = crate::numbering::SiteIndex>,
    ) -> BTreeSet<SiteName> {
        indices.filter_map(|index| context.selection.site(index).cloned()).collect()
    }
}
