//! Groups that are summed apart, so that a robust rule has something to compare (design, section 7).
//!
//! A mean over groups of sites is robust where one over sites would be (median of means, Nemirovsky and Yudin 1983;
//! under secure aggregation So et al. 2020; against Byzantine updates Chen et al. 2017), and shows less of each site.
//! It is a weaker promise than a sum over everybody, "the sum over your group", so each site opts in. Masks cancel
//! within a group; shares, `t` and signatures stay over the whole Selection.
//!
//! Groups are drawn, never chosen: once per epoch, among participants that the coordinator names before anybody reveals
//! anything, from nonces that all of them committed to in their adverts ([`crate::message::DrawCall`],
//! [`crate::message::Reveal`]). One honest nonce makes the draw uniform. What is left to a coordinator is to let a draw
//! that it dislikes go unused; a site takes part in [`MAX_DRAWS`] draws of a study and no more.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::grouping::GroupPlan;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::{SignatureError, Signed};
use minicbor::{Decode, Encode};

use crate::context::Selection;
use crate::message::{Advert, DrawCall, Reveal};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;
use crate::secret::hash_parts;

/// Draws of one study that a site takes part in: each is another chance for a coordinator that looks for a bad one.
pub const MAX_DRAWS: u32 = 16;

/// The groups of an epoch, from a draw whose nonces were all revealed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Drawn {
    /// What the draw came to; names it in contexts.
    #[n(0)]
    seed: Hash,
    /// The group of each participant.
    #[n(1)]
    groups: BTreeMap<SiteName, u16>,
}

/// Why reveals make no draw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDrawn {
    /// A participant's nonce is not known.
    #[error("{0} has not revealed its nonce")]
    Hidden(SiteName),
    /// A nonce that its site did not commit to, or for another draw.
    #[error("{0} revealed something else than it committed to")]
    Broken(SiteName),
}

/// What an advert says of the nonce that its site will reveal.
pub(crate) fn commitment(reveal: &Reveal) -> Hash {
    hash_parts("draw-commitment", &(reveal.study, reveal.epoch, &reveal.site, reveal.nonce))
}

impl Drawn {
    /// Splits the participants of `call` into `groups`. `commitment_of` gives what a participant's advert commits to,
    /// `reveal_of` what it revealed, its signature checked.
    pub fn new<'r>(
        call: &DrawCall,
        groups: u16,
        commitment_of: impl Fn(&SiteName) -> Option<Hash>,
        reveal_of: impl Fn(&SiteName) -> Option<&'r Reveal>,
    ) -> Result<Self, NotDrawn> {
        let draw = call.hash();
        let mut nonces = Vec::with_capacity(call.participants.len());
        for participant in &call.participants {
            let site = &participant.site;
            let reveal = reveal_of(site).ok_or_else(|| NotDrawn::Hidden(site.clone()))?;
            if reveal.draw != draw || commitment_of(site) != Some(commitment(reveal)) {
                return Err(NotDrawn::Broken(site.clone()));
            }
            nonces.push(reveal.nonce);
        }
        let seed = hash_parts("group-draw", &(draw, nonces));
        let mut lots: Vec<(Hash, &SiteName)> = call
            .participants
            .iter()
            .map(|participant| (hash_parts("group-lot", &(seed, &participant.site)), &participant.site))
            .collect();
        lots.sort_unstable();
        // Dealt like cards: the first groups get what is left over.
        let dealt = lots.into_iter().zip((0..groups).cycle()).map(|((_, site), group)| (site.clone(), group));
        Ok(Self { seed, groups: dealt.collect() })
    }

    /// What the draw came to.
    pub const fn seed(&self) -> &Hash {
        &self.seed
    }

    /// The group of a site; none for one that was not in the draw.
    pub fn group_of(&self, site: &SiteName) -> Option<u16> {
        self.groups.get(site).copied()
    }

    /// The participants.
    pub fn participants(&self) -> impl Iterator<Item = &SiteName> {
        self.groups.keys()
    }

    /// What a context says of a Selection. None where somebody was not in the draw.
    pub fn grouping(&self, selection: &Selection) -> Option<Grouping> {
        let groups = selection.members().iter().map(|member| self.group_of(&member.site));
        Some(Grouping {
            seed: self.seed,
            participants: self.groups.len() as u16,
            of: groups.collect::<Option<_>>()?,
        })
    }
}

/// A draw with everything that proves it, for the ledger.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct DrawProof {
    /// Who took part.
    #[n(0)]
    pub call: Signed<DrawCall>,
    /// What they committed to, among their keys.
    #[n(1)]
    pub adverts: Vec<Signed<Advert>>,
    /// What they revealed.
    #[n(2)]
    pub reveals: Vec<Signed<Reveal>>,
}

impl DrawProof {
    /// Draws again. The groups are what the coordinator and every site came to.
    pub fn check(&self, pin: &StudyPin) -> Result<(DrawCall, Drawn), BadDraw> {
        let call = pin.of_coordinator(&self.call).map_err(BadDraw::Signature)?;
        let mut adverts = BTreeMap::new();
        for signed in &self.adverts {
            let site = signed.claim().map_err(|error| BadDraw::Signature(error.into()))?.site;
            let advert = pin.of_site(signed, &site).map_err(BadDraw::Signature)?;
            if call.advert_of(&site) == Some(advert.hash()) {
                adverts.insert(site, advert);
            }
        }
        let mut reveals = BTreeMap::new();
        for signed in &self.reveals {
            let site = signed.claim().map_err(|error| BadDraw::Signature(error.into()))?.site;
            reveals.insert(site.clone(), pin.of_site(signed, &site).map_err(BadDraw::Signature)?);
        }
        if call.study != pin.study {
            return Err(BadDraw::Foreign);
        }
        let drawn = Drawn::new(
            &call,
            pin.groups,
            |site| adverts.get(site)?.nonce,
            |site| reveals.get(site).map(|held| -> &Reveal { held }),
        )?;
        Ok(((*call).clone(), drawn))
    }
}

/// Why a draw is not proved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDraw {
    /// A signature does not match.
    #[error(transparent)]
    Signature(SignatureError),
    /// A draw of another study.
    #[error("this draw belongs to another study")]
    Foreign,
    /// A nonce is missing, or not the one that was committed to.
    #[error(transparent)]
    Nonce(#[from] NotDrawn),
}

/// The groups of a Selection, in a context.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Grouping {
    /// What the epoch's draw came to.
    #[n(0)]
    pub seed: Hash,
    /// Sites in the draw.
    #[n(1)]
    pub participants: u16,
    /// The group of each member, from 0, in the order of indices.
    #[n(2)]
    pub of: Vec<u16>,
}

impl Grouping {
    /// The group of a member.
    pub fn group_of(&self, index: SiteIndex) -> Option<u16> {
        self.of.get(index.position()).copied()
    }

    /// Whether this can be the split of a Selection under a plan: every member has a group, and no group has more members
    /// than were drawn into it.
    pub(crate) fn fits(&self, selection: &Selection, plan: GroupPlan) -> bool {
        let mut members = vec![0u16; usize::from(plan.groups())];
        for group in &self.of {
            match members.get_mut(usize::from(*group)) {
                Some(count) => *count += 1,
                None => return false,
            }
        }
        self.of.len() == selection.len()
            && members.iter().zip(0..).all(|(count, group)| *count <= plan.size(group))
    }

    /// Members of `sites` by group.
    pub(crate) fn split(&self, sites: impl Iterator<Item = SiteIndex>) -> BTreeMap<u16, BTreeSet<SiteIndex>> {
        let mut split: BTreeMap<u16, BTreeSet<SiteIndex>> = BTreeMap::new();
        for site in sites {
            if let Some(group) = self.group_of(site) {
                split.entry(group).or_default().insert(site);
            }
        }
        split
    }
}
