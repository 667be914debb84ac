//! What a site demands of a Selection and of the survivors, and how everybody enforces it for everybody.
//!
//! Floors come from the site's policy. They and the survivors that bind a site travel in its receipt, and
//! every signer checks the terms of *every* receipt in `U`: otherwise `t` lenient sites could open a sum
//! over the head of a strict one.

use std::collections::BTreeSet;

use consilium_study::name::SiteName;
use consilium_study::statement::{self, SiteTerms};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::numbering::{MAX_ATTEMPTS_PER_EPOCH, MAX_SITES};

/// What a site's policy asks of every attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    /// Least number of honest sites behind a sum; 0 where the rule of the protocol is enough.
    pub min_honest: u16,
    /// Least number of sites in Selection and survivors; 0 where `t` is enough.
    pub min_selection: u16,
    /// Survivors differ from all earlier ones of the epoch by nobody or by at least so many; 0 is off.
    pub min_change: u16,
    /// Sites that must stand in every Selection.
    pub known_sites: Vec<SiteName>,
    /// Who may let the same starting model be opened with other survivors.
    pub repeat: Repeat,
}

impl Floors {
    /// Those of a site that has accepted a study on these terms. A number beyond the protocol's cannot be met.
    pub fn of(terms: &SiteTerms) -> Self {
        let narrow = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        Self {
            min_honest: narrow(terms.min_honest),
            min_selection: narrow(terms.min_selection),
            min_change: terms.min_change.map_or(0, narrow),
            known_sites: Vec::new(),
            repeat: match terms.repeat {
                statement::Repeat::Ask => Repeat::Ask,
                statement::Repeat::Never => Repeat::Never,
            },
        }
    }

    /// Whether a receipt asks for what its site said when it accepted.
    pub fn are_in(&self, terms: &Terms) -> bool {
        let Self { min_honest, min_selection, min_change, .. } = self;
        (terms.min_honest, terms.min_selection, terms.min_change)
            == (*min_honest, *min_selection, *min_change)
    }
}

/// What happens when other survivors are proposed for a starting model that was opened before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Repeat {
    /// A person at the site decides.
    #[n(0)]
    #[default]
    Ask,
    /// Never.
    #[n(1)]
    Never,
}

/// A set of sites of the study's roster: one bit per site, in the order of names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct RosterSet(#[n(0)] ByteVec);

impl RosterSet {
    /// The set of `sites` within `roster`. Sites outside the roster are left out.
    pub fn of(roster: &[SiteName], sites: &BTreeSet<SiteName>) -> Self {
        let mut bits = vec![0; roster.len().div_ceil(8)];
        for (position, _) in roster.iter().enumerate().filter(|(_, site)| sites.contains(*site)) {
            bits[position / 8] |= 1 << (position % 8);
        }
        Self(bits.into())
    }

    /// In how many sites two sets of one roster differ.
    pub fn distance(&self, other: &Self) -> u32 {
        let longest = self.0.len().max(other.0.len());
        let byte = |set: &Self, at: usize| set.0.get(at).copied().unwrap_or(0);
        (0..longest).map(|at| (byte(self, at) ^ byte(other, at)).count_ones()).sum()
    }
}

/// What one site demands of the survivors of an attempt; part of its receipt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Terms {
    /// Least number of honest sites behind the sum.
    #[n(0)]
    pub min_honest: u16,
    /// Least number of survivors.
    #[n(1)]
    pub min_selection: u16,
    /// Survivors differ from those of `earlier` by nobody or by at least so many; 0 is off.
    #[n(2)]
    pub min_change: u16,
    /// Earlier survivors of this epoch, where `min_change` is on.
    #[n(3)]
    pub earlier: Vec<RosterSet>,
    /// Survivors that this site has signed for the same starting model and purpose: no others may be opened.
    #[n(4)]
    pub bound: Vec<Vec<SiteName>>,
}

impl Terms {
    /// No more than an honest site can have: an evaluation plays two parts that may be bound, and an epoch has so
    /// many attempts.
    pub(crate) fn are_few(&self) -> bool {
        self.bound.len() <= 2
            && self.bound.iter().all(|set| set.len() <= MAX_SITES)
            && self.earlier.len() <= MAX_ATTEMPTS_PER_EPOCH as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_no_more_than_an_honest_site_can_have() {
        let set = RosterSet::of(&[], &BTreeSet::new());
        let name: SiteName = "a".parse().unwrap();
        let are_few = |bound: &[usize], earlier: usize| {
            let bound = bound.iter().map(|sites| vec![name.clone(); *sites]).collect();
            let earlier = vec![set.clone(); earlier];
            Terms { min_honest: 0, min_selection: 0, min_change: 0, earlier, bound }.are_few()
        };
        assert!(are_few(&[200, 200], 100));
        assert!(!are_few(&[1, 1, 1], 0), "an evaluation plays two parts");
        assert!(!are_few(&[1, 201], 0));
        assert!(!are_few(&[], 101), "an epoch has a hundred attempts");
    }

    #[test]
    fn floors_are_those_of_the_acceptance() {
        let accepted = SiteTerms {
            min_honest: 3,
            min_selection: 4,
            min_change: Some(2),
            repeat: statement::Repeat::Never,
            exact_weights: false,
            groups: false,
        };
        let floors = Floors::of(&accepted);
        let expected = Floors {
            min_honest: 3,
            min_selection: 4,
            min_change: 2,
            known_sites: Vec::new(),
            repeat: Repeat::Never,
        };
        assert_eq!(floors, expected);
        let endless = Floors::of(&SiteTerms { min_honest: 65_537, ..accepted });
        assert_eq!(endless.min_honest, u16::MAX, "what cannot be met is not met by less");
        let terms = |min_honest, min_selection, min_change| {
            let (earlier, bound) = (Vec::new(), Vec::new());
            Terms { min_honest, min_selection, min_change, earlier, bound }
        };
        assert!(floors.are_in(&terms(3, 4, 2)));
        for other in [terms(2, 4, 2), terms(3, 3, 2), terms(3, 4, 1)] {
            assert!(!floors.are_in(&other));
        }
    }
}
