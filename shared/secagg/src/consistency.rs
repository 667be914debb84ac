//! The checks of the consistency trip, which the coordinator runs for itself and every survivor for itself
//! (design, section 3).
//!
//! The trip looks superfluous and is not: pairwise seeds are shared too, so without `t` signatures on one set of
//! survivors a coordinator could tell each site another story and open one site's vector without a forged
//! message. The tests in `site/opening/split_view.rs` carry the attack out.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::name::SiteName;

use crate::context::Context;
use crate::message::{Receipt, Survivors};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;
use crate::terms::{RosterSet, Terms};

/// Why survivors are not in order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// Fewer than `t`.
    #[error("{got} survivors, and {want} are needed")]
    TooFew {
        /// Survivors.
        got: usize,
        /// The threshold.
        want: usize,
    },
    /// A group that is there in part: too few to stand for the promise of the draw.
    #[error("{got} sites of the group of survivor {of} are too few: it has to be left out as a whole")]
    ThinGroup {
        /// Its first survivor.
        of: SiteIndex,
        /// Survivors of the group.
        got: usize,
    },
    /// A survivor without a receipt, or with another than is at hand.
    #[error("the receipt of survivor {0} is not at hand")]
    Receipt(SiteIndex),
    /// A receipt of another attempt or of another sender.
    #[error("the receipt of survivor {0} belongs elsewhere")]
    Foreign(SiteIndex),
    /// Two receipts that commit to different seeds for their pair.
    #[error("survivors {0} and {1} commit to different seeds")]
    UnequalPair(SiteIndex, SiteIndex),
    /// Terms that the survivors do not meet.
    #[error("the terms of survivor {site} are not met: {unmet}")]
    Terms {
        /// Whose terms.
        site: SiteIndex,
        /// Which.
        unmet: UnmetTerms,
    },
}

/// Which of a site's terms is not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnmetTerms {
    /// Too few honest sites behind the sum.
    #[error("too few honest sites stand behind the sum")]
    MinHonest,
    /// Too few survivors.
    #[error("too few sites survived")]
    MinSelection,
    /// The survivors differ from earlier ones by too few.
    #[error("the survivors differ too little from earlier ones")]
    MinChange,
    /// The starting model was opened with other survivors.
    #[error("this starting model was opened with other survivors")]
    Repeat,
}

/// Whether `sites` count as the set `bound`: the same, or the same less exactly those whose guilt is proved.
pub(crate) fn counts_as(
    sites: &BTreeSet<SiteName>,
    bound: &BTreeSet<SiteName>,
    guilty: &BTreeSet<SiteName>,
) -> bool {
    sites == bound || sites.iter().eq(bound.difference(guilty))
}

/// Whether the survivors meet one site's terms.
pub(crate) fn meets(
    terms: &Terms,
    context: &Context,
    sites: &BTreeSet<SiteName>,
    roster: &[SiteName],
    guilty: &BTreeSet<SiteName>,
) -> Result<(), UnmetTerms> {
    if terms.min_honest > context.thresholds.honest {
        return Err(UnmetTerms::MinHonest);
    }
    if sites.len() < usize::from(terms.min_selection) {
        return Err(UnmetTerms::MinSelection);
    }
    if terms.min_change > 0 {
        let set = RosterSet::of(roster, sites);
        let too_near =
            |earlier: &RosterSet| (1..u32::from(terms.min_change)).contains(&set.distance(earlier));
        if terms.earlier.iter().any(too_near) {
            return Err(UnmetTerms::MinChange);
        }
    }
    for bound in &terms.bound {
        if !counts_as(sites, &bound.iter().cloned().collect(), guilty) {
            return Err(UnmetTerms::Repeat);
        }
    }
    Ok(())
}

/// Checks everything about survivors that does not depend on who checks. The signatures of `receipts` were
/// checked when they were taken.
pub(crate) fn check<'a>(
    pin: &StudyPin,
    context: &Context,
    survivors: &Survivors,
    receipts: impl Fn(SiteIndex) -> Option<&'a Receipt>,
    guilty: &BTreeSet<SiteName>,
) -> Result<(), Inconsistent> {
    let want = usize::from(context.thresholds.threshold);
    if survivors.len() < want {
        return Err(Inconsistent::TooFew { got: survivors.len(), want });
    }
    if let Some(thin) = context.thin_groups(survivors.indices()).first()
        && let Some(of) = thin.first()
    {
        return Err(Inconsistent::ThinGroup { of: *of, got: thin.len() });
    }
    let ctx = context.hash();
    let mut held = BTreeMap::new();
    for member in survivors.members() {
        let receipt = receipts(member.site).ok_or(Inconsistent::Receipt(member.site))?;
        if receipt.hash() != member.receipt {
            return Err(Inconsistent::Receipt(member.site));
        }
        if !fits(receipt, context) || receipt.ctx != ctx || receipt.sender != member.site {
            return Err(Inconsistent::Foreign(member.site));
        }
        held.insert(member.site, receipt);
    }
    if let Some((a, b)) = unequal_pairs(&held).first() {
        return Err(Inconsistent::UnequalPair(*a, *b));
    }
    let sites = StudyPin::names_of(context, survivors.indices());
    let roster = pin.names();
    for (site, receipt) in &held {
        meets(&receipt.terms, context, &sites, &roster, guilty)
            .map_err(|unmet| Inconsistent::Terms { site: *site, unmet })?;
    }
    Ok(())
}

/// Whether a receipt speaks to a Selection of this size, and has no more terms than a site can have.
pub(crate) fn fits(receipt: &Receipt, context: &Context) -> bool {
    receipt.envelopes.len() == context.selection.len() && receipt.terms.are_few()
}

/// Pairs whose two receipts commit to different seeds, each with its lower index first.
pub(crate) fn unequal_pairs(receipts: &BTreeMap<SiteIndex, &Receipt>) -> Vec<(SiteIndex, SiteIndex)> {
    let mut unequal = Vec::new();
    for (a, of_a) in receipts {
        for (b, of_b) in receipts.range(a..).skip(1) {
            if of_a.pair_commitment(*b) != of_b.pair_commitment(*a) {
                unequal.push((*a, *b));
            }
        }
    }
    unequal
}

#[cfg(test)]
mod tests {
    use consilium_study::hash::Hash;

    use super::*;
    use crate::context::Context;
    use crate::federation::{Federation, name, vectors};
    use crate::layout::Layout;
    use crate::message::{ReceiptFields, Survivor};

    #[test]
    fn only_receipts_of_this_attempt_sender_and_selection_count() {
        let layout = Layout::of_counts(3);
        let mut federation = Federation::new(4, &layout);
        let context = federation.sign(federation.fields(1));
        let phase = federation.collect(&context, &vectors(4, layout.words(), 1));
        let elsewhere = Context::new(federation.fields(2)).unwrap().hash();
        let second = SiteIndex::new(2).unwrap();
        let checked = |change: &dyn Fn(&mut ReceiptFields)| {
            let mut receipts: BTreeMap<SiteIndex, Receipt> =
                phase.receipts.iter().map(|(site, held)| (*site, Receipt::clone(held))).collect();
            let mut fields = ReceiptFields::clone(&receipts[&second]);
            change(&mut fields);
            receipts.insert(second, Receipt::new(fields).unwrap());
            let named = receipts.iter().map(|(site, it)| Survivor { site: *site, receipt: it.hash() });
            let survivors = Survivors::new(named.collect()).unwrap();
            let receipts = |site| receipts.get(&site);
            check(&federation.pin, phase.context(), &survivors, receipts, &BTreeSet::new())
        };
        assert_eq!(checked(&|_| ()), Ok(()));
        let changes: [&dyn Fn(&mut ReceiptFields); 4] = [
            &|fields| fields.ctx = elsewhere,
            &|fields| fields.sender = SiteIndex::new(3).unwrap(),
            &|fields| fields.terms.bound = vec![Vec::new(); 3],
            &|fields| {
                fields.envelopes.push(Hash::of_bytes(b"more"));
                fields.pair_commitments.push(Hash::of_bytes(b"more"));
            },
        ];
        for change in changes {
            assert_eq!(checked(change), Err(Inconsistent::Foreign(second)));
        }
    }

    #[test]
    fn every_set_that_binds_has_to_be_met() {
        let federation = Federation::new(4, &Layout::of_counts(3));
        let context = Context::new(federation.fields(1)).unwrap();
        let sites: BTreeSet<SiteName> = (0..3).map(name).collect();
        let same: Vec<SiteName> = sites.iter().cloned().collect();
        let met = |bound: &[&[SiteName]]| {
            let bound = bound.iter().map(|set| set.to_vec()).collect();
            let terms = Terms { min_honest: 0, min_selection: 0, min_change: 0, earlier: Vec::new(), bound };
            meets(&terms, &context, &sites, &federation.pin.names(), &BTreeSet::new())
        };
        assert_eq!(met(&[]), Ok(()));
        assert_eq!(met(&[&same, &same]), Ok(()));
        assert_eq!(met(&[&same, &same[..2]]), Err(UnmetTerms::Repeat));
    }

    fn set(names: &str) -> BTreeSet<SiteName> {
        names.split(' ').filter(|name| !name.is_empty()).map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn only_proved_guilt_makes_a_smaller_set_the_same() {
        assert!(counts_as(&set("a b c"), &set("a b c"), &set("")));
        assert!(!counts_as(&set("a b"), &set("a b c"), &set("")));
        assert!(counts_as(&set("a b"), &set("a b c"), &set("c")));
        assert!(counts_as(&set("a b"), &set("a b c"), &set("c d")));
        assert!(!counts_as(&set("a"), &set("a b c"), &set("c")), "b is not guilty");
        assert!(!counts_as(&set("a b d"), &set("a b c"), &set("c")), "d was not in");
    }

    #[test]
    fn distances_count_sites_that_come_and_go() {
        let roster: Vec<SiteName> = set("a b c d e f g h i j").into_iter().collect();
        let of = |names| RosterSet::of(&roster, &set(names));
        assert_eq!(of("a b j").distance(&of("a b j")), 0);
        assert_eq!(of("a b j").distance(&of("a c")), 3);
        assert_eq!(of("").distance(&of("a b c d e f g h i j")), 10);
    }
}
