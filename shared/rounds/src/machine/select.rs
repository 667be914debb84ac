//! Who is invited to a round: every ready site, unless somebody's terms say otherwise.
//!
//! Only what all members can sign is selected: pairs have settled their keys, every member's floors are met,
//! and a set of survivors that was signed for the same starting model is proposed again or not at all.

use std::collections::{BTreeMap, BTreeSet};

use consilium_secagg::threshold::Thresholds;
use consilium_study::document::Study;
use consilium_study::name::SiteName;
use consilium_study::statement::SiteTerms;
use minicbor::{Decode, Encode};
use serde::Serialize;

/// What a Selection has to meet.
pub(crate) struct Rules<'s> {
    /// Sites in the study.
    pub(crate) roster: usize,
    /// The study's quorum.
    pub(crate) quorum: usize,
    /// The study's floor of honest sites behind a sum.
    pub(crate) min_honest: u32,
    /// Sites the study cannot do without.
    pub(crate) required: &'s [SiteName],
    /// The set that was signed for this starting model and purpose, if one was.
    pub(crate) bound: Option<&'s BTreeSet<SiteName>>,
    /// Sets signed earlier in this epoch, for `min_change`.
    pub(crate) earlier: &'s [BTreeSet<SiteName>],
}

/// A Selection that everyone in it can sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// The sites in the order of their names.
    pub(crate) sites: BTreeSet<SiteName>,
    /// Thresholds of the protocol.
    pub(crate) thresholds: Thresholds,
    /// Least number of survivors: quorum, threshold and everyone's floor.
    pub(crate) needed: usize,
}

/// Why no Selection is possible now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Shortage {
    /// Too few sites are ready.
    #[n(0)]
    TooFew {
        /// Sites that could be selected.
        #[n(0)]
        ready: u32,
        /// Sites needed.
        #[n(1)]
        needed: u32,
    },
    /// Sites the study cannot do without are missing.
    #[n(1)]
    Required {
        /// Which.
        #[n(0)]
        missing: Vec<SiteName>,
    },
    /// Survivors were signed for this starting model, and not all of them are ready. Another set would show
    /// the difference.
    #[n(2)]
    Bound {
        /// Members of the signed set that are not ready.
        #[n(0)]
        missing: Vec<SiteName>,
    },
    /// The survivors would differ too little from an earlier set (`min_change`).
    #[n(3)]
    TooSmallChange,
    /// This starting model was opened in groups of an earlier draw. Other groups of the same sites would show the
    /// difference.
    #[n(4)]
    Regrouped,
    /// The ready sites cannot be split, or of the groups that were drawn too few are there.
    #[n(5)]
    TooFewGroups {
        /// Sites that are ready.
        #[n(0)]
        ready: u32,
        /// Groups of the study.
        #[n(1)]
        groups: u32,
    },
}

/// The fewest sites that a round of `study` is made of: its quorum, or more where the thresholds ask for it. What
/// single sites ask for beyond that is theirs to leave a round for.
pub fn fewest_sites(study: &Study) -> usize {
    let min_honest = u16::try_from(study.aggregation.min_honest).unwrap_or(u16::MAX);
    let sites = study.sites.len();
    Thresholds::fewest(sites, min_honest).unwrap_or(sites).max(study.rounds.quorum as usize)
}

/// Chooses among `ready` sites, given who has settled keys with whom.
pub(crate) fn select(
    ready: &BTreeMap<SiteName, SiteTerms>,
    settled: impl Fn(&SiteName, &SiteName) -> bool,
    rules: &Rules<'_>,
) -> Result<Selected, Shortage> {
    let mut sites: BTreeSet<SiteName> = ready.keys().cloned().collect();
    if let Some(bound) = rules.bound {
        sites.retain(|site| bound.contains(site));
    }
    drop_unsettled(&mut sites, settled, rules.required);
    let selected = meet_terms(&mut sites, ready, rules);
    // A named absence says more than a count.
    if let Some(bound) = rules.bound {
        let missing: Vec<_> = bound.difference(&sites).cloned().collect();
        if !missing.is_empty() {
            return Err(Shortage::Bound { missing });
        }
    }
    let missing: Vec<_> = rules.required.iter().filter(|site| !sites.contains(*site)).cloned().collect();
    if !missing.is_empty() {
        return Err(Shortage::Required { missing });
    }
    let selected = selected?;
    if changes_enough(&sites, ready, rules.earlier) {
        return Ok(selected);
    }
    // Whoever came or went makes too small a change: it goes on with an earlier set, the largest that is there.
    let as_before = rules.earlier.iter().filter(|before| before.is_subset(&sites)).filter_map(|before| {
        let mut before = before.clone();
        let selected = meet_terms(&mut before, ready, rules).ok()?;
        let holds = rules.required.iter().all(|site| before.contains(site))
            && changes_enough(&before, ready, rules.earlier);
        (holds && rules.bound.is_none()).then_some(selected)
    });
    as_before.max_by_key(|selected| selected.sites.len()).ok_or(Shortage::TooSmallChange)
}

/// Leaves sites out, the one with most open pairs first, until all that remain have settled with each other.
pub(crate) fn drop_unsettled(
    sites: &mut BTreeSet<SiteName>,
    settled: impl Fn(&SiteName, &SiteName) -> bool,
    required: &[SiteName],
) {
    loop {
        let open = |site: &SiteName| {
            sites.iter().filter(|peer| *peer != site && !(settled(site, peer) && settled(peer, site))).count()
        };
        // On a tie an optional site goes before a required one, a later name before an earlier.
        let worst = sites
            .iter()
            .map(|site| (open(site), !required.contains(site), site))
            .max()
            .filter(|(open, _, _)| *open > 0)
            .map(|(_, _, site)| site.clone());
        match worst {
            Some(site) => sites.remove(&site),
            None => return,
        };
    }
}

/// Leaves out sites whose floors this Selection cannot meet, the strictest first.
fn meet_terms(
    sites: &mut BTreeSet<SiteName>,
    ready: &BTreeMap<SiteName, SiteTerms>,
    rules: &Rules<'_>,
) -> Result<Selected, Shortage> {
    loop {
        let terms = || sites.iter().map(|site| (&ready[site], site));
        let too_few = |needed: usize| Shortage::TooFew { ready: sites.len() as u32, needed: needed as u32 };
        if sites.len() < rules.quorum.max(3) {
            return Err(too_few(rules.quorum.max(3)));
        }
        let largest_floor = terms().map(|(terms, site)| (terms.min_selection, site)).max();
        let (floor, by) = largest_floor.expect("three sites are left");
        if floor as usize > sites.len() {
            let by = by.clone();
            sites.remove(&by);
            continue;
        }
        let strictest = terms().map(|(terms, site)| (terms.min_honest, site)).max();
        let (honest, by) = strictest.expect("three sites are left");
        let wanted = u16::try_from(honest.max(rules.min_honest)).unwrap_or(u16::MAX);
        match Thresholds::new(rules.roster, sites.len(), wanted) {
            Ok(thresholds) => {
                let needed = rules.quorum.max(thresholds.threshold.into()).max(floor as usize);
                return Ok(Selected { sites: sites.clone(), thresholds, needed });
            }
            Err(_) if honest > rules.min_honest => {
                let by = by.clone();
                sites.remove(&by);
            }
            Err(_) => return Err(too_few(sites.len() + 1)),
        }
    }
}

/// Whether `sites` differ from every earlier set by nobody or by as many as each member's `min_change`.
fn changes_enough(
    sites: &BTreeSet<SiteName>,
    ready: &BTreeMap<SiteName, SiteTerms>,
    earlier: &[BTreeSet<SiteName>],
) -> bool {
    let least = sites.iter().filter_map(|site| ready[site].min_change).max().unwrap_or(0) as usize;
    earlier.iter().all(|before| {
        let change = before.symmetric_difference(sites).count();
        change == 0 || change >= least
    })
}

#[cfg(test)]
mod tests {
    use consilium_study::statement::Repeat;

    use super::*;

    fn names(text: &str) -> BTreeSet<SiteName> {
        text.chars().map(|name| SiteName::new(name).unwrap()).collect()
    }

    fn ready(text: &str) -> BTreeMap<SiteName, SiteTerms> {
        let terms = SiteTerms {
            min_honest: 2,
            min_selection: 3,
            min_change: None,
            repeat: Repeat::Ask,
            exact_weights: false,
            groups: false,
        };
        names(text).into_iter().map(|name| (name, terms)).collect()
    }

    fn rules<'s>(bound: Option<&'s BTreeSet<SiteName>>, required: &'s [SiteName]) -> Rules<'s> {
        Rules { roster: 5, quorum: 3, min_honest: 3, required, bound, earlier: &[] }
    }

    #[test]
    fn by_default_everyone_ready_is_selected() {
        let selected = select(&ready("abcde"), |_, _| true, &rules(None, &[])).unwrap();
        assert_eq!((selected.sites, selected.needed), (names("abcde"), 4));
    }

    #[test]
    fn unsettled_pairs_are_not_selected_together() {
        let late = SiteName::new("b").unwrap();
        let settled = |one: &SiteName, other: &SiteName| *one != late && *other != late;
        let selected = select(&ready("abcde"), settled, &rules(None, &[])).unwrap();
        assert_eq!(selected.sites, names("acde"));
        let required = [late.clone()];
        let shortage = select(&ready("abcde"), settled, &rules(None, &required)).unwrap_err();
        assert_eq!(shortage, Shortage::Required { missing: vec![late] });
    }

    #[test]
    fn a_strict_site_is_left_out_not_outvoted() {
        let mut ready = ready("abcde");
        ready.get_mut(&SiteName::new("a").unwrap()).unwrap().min_selection = 6;
        ready.get_mut(&SiteName::new("b").unwrap()).unwrap().min_honest = 9;
        let shortage = select(&ready, |_, _| true, &rules(None, &[]));
        // Without a and b three of five are left, and the formula asks for four.
        assert_eq!(shortage, Err(Shortage::TooFew { ready: 3, needed: 4 }));
        ready.remove(&SiteName::new("b").unwrap());
        ready.insert(SiteName::new("f").unwrap(), ready[&SiteName::new("c").unwrap()]);
        let selected = select(&ready, |_, _| true, &rules(None, &[])).unwrap();
        assert_eq!(selected.sites, names("cdef"));
    }

    #[test]
    fn a_signed_set_comes_back_whole_or_not_at_all() {
        let bound = names("abde");
        let selected = select(&ready("abcde"), |_, _| true, &rules(Some(&bound), &[])).unwrap();
        assert_eq!(selected.sites, bound);
        let shortage = select(&ready("abcd"), |_, _| true, &rules(Some(&bound), &[])).unwrap_err();
        assert_eq!(shortage, Shortage::Bound { missing: vec![SiteName::new("e").unwrap()] });
    }

    #[test]
    fn min_change_forbids_small_steps() {
        let mut ready = ready("abcd");
        ready.get_mut(&SiteName::new("a").unwrap()).unwrap().min_change = Some(2);
        let earlier = [names("abcde")];
        let rules = Rules { earlier: &earlier, ..rules(None, &[]) };
        assert_eq!(select(&ready, |_, _| true, &rules), Err(Shortage::TooSmallChange));
    }

    #[test]
    fn a_late_site_waits_until_the_change_is_large_enough() {
        let mut ready = ready("abcdef");
        ready.get_mut(&SiteName::new("a").unwrap()).unwrap().min_change = Some(2);
        let earlier = [names("abce"), names("abcde")];
        let rules = Rules { roster: 6, earlier: &earlier, ..rules(None, &[]) };
        let refused = select(&ready, |_, _| true, &rules);
        assert_eq!(refused, Err(Shortage::TooSmallChange), "both earlier sets differ by one");
        let earlier = [names("abcde")];
        let rules = Rules { earlier: &earlier, ..rules };
        assert_eq!(select(&ready, |_, _| true, &rules).unwrap().sites, names("abcde"), "f waits");
        let earlier = [names("abcd")];
        let rules = Rules { earlier: &earlier, ..rules };
        assert_eq!(
            select(&ready, |_, _| true, &rules).unwrap().sites,
            names("abcdef"),
            "e and f come together"
        );
    }
}
