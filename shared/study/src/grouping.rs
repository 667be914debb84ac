//! Into how many groups sites can be split, and what a group's sum still promises.
//!
//! A sum over a group shows less than one site's update and more than a sum over everybody: a site may find itself among
//! sites that help the coordinator. Groups are drawn, so that is a matter of chance, and the chance is bounded here: a
//! group's floor of Survivors assumes as many helpers as are exceeded once in a thousand draws, and a split in which a
//! group could not reach its floor is refused.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::check::MIN_SITES;

/// `aggregation.groups`: sums over groups of sites, and how they become one mean update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(map)]
pub struct Groups {
    /// Number of groups; a robust rule needs at least [`MIN_GROUPS`].
    #[n(0)]
    pub count: u32,
    /// How the groups' means are combined, in each coordinate by itself.
    #[n(1)]
    #[serde(default)]
    pub combine: Combine,
    /// With `trimmed-mean`: how many of the largest and how many of the smallest values are left out.
    #[n(2)]
    #[serde(default)]
    pub trim: u32,
}

/// Fewest groups of a robust rule: of two, nobody can say which is wrong.
pub const MIN_GROUPS: u32 = 3;

/// A rule over the means of groups. Rules that must see single updates (Krum, Bulyan, a median over sites) cannot run
/// under masks, so there is no name for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(try_from = "String", into = "String")]
#[cbor(index_only)]
pub enum Combine {
    /// The median; the mean of the two in the middle where groups are even in number (Yin et al. 2018, over groups as Chen
    /// et al. 2017).
    #[n(0)]
    #[default]
    Median,
    /// The mean without the largest and the smallest values (Yin et al. 2018).
    #[n(1)]
    TrimmedMean,
}

/// A text that names no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no rule over the sums of groups; write \"median\" or \"trimmed-mean\" (rules that must see single \
     updates, such as Krum or a median over sites, cannot run under masks)"
)]
pub struct UnknownRule(String);

impl TryFrom<String> for Combine {
    type Error = UnknownRule;

    fn try_from(text: String) -> Result<Self, UnknownRule> {
        [Self::Median, Self::TrimmedMean]
            .into_iter()
            .find(|rule| rule.name() == text)
            .ok_or(UnknownRule(text))
    }
}

impl From<Combine> for String {
    fn from(rule: Combine) -> Self {
        rule.name().to_owned()
    }
}

impl Combine {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::TrimmedMean => "trimmed-mean",
        }
    }
}

impl Groups {
    /// Of `present` groups, how many of the largest and how many of the smallest values are left out; none where too few
    /// groups are there. A median is a trimmed mean of which one or two values are left.
    pub const fn trimmed(&self, present: usize) -> Option<usize> {
        if present < MIN_GROUPS as usize {
            return None;
        }
        let trim = match self.combine {
            Combine::Median => (present - 1) / 2,
            Combine::TrimmedMean => self.trim as usize,
        };
        if present > 2 * trim { Some(trim) } else { None }
    }
}

/// How many times as long as the longest of the groups' means a combination can be, in L2 norm. In one coordinate, of `m`
/// values let `k` be left out at each end and `T` be the mean of the others: their squares sum to at least `(m − 2k) T²`,
/// and as one of them is as far from zero as `T` and on its side, so are `k` that were left out. So `T²` is at most the sum
/// of all squares over `m − k`, and `m` is less than twice that.
pub const STRETCH: f64 = std::f64::consts::SQRT_2;

/// Largest chance that a site's group holds more sites that help the coordinator than its floor assumes.
pub const MAX_CHANCE: f64 = 1e-3;

/// A split of drawn sites into groups, with what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    participants: u16,
    groups: u16,
    corrupt: u16,
    honest: u16,
}

/// Why sites cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoGroups {
    /// One group is no split, and a group has at least three sites.
    #[error("{participants} sites cannot be split into {groups} groups of at least {MIN_SITES}")]
    Size {
        /// Sites in the draw.
        participants: usize,
        /// Groups.
        groups: u16,
    },
    /// A site could find itself among friends of the coordinator.
    #[error(
        "in a group of {size} the chance that a site meets fewer than {others} other honest sites is {millionths} in a \
         million, and at most {} is accepted", MAX_CHANCE * 1e6
    )]
    Chance {
        /// Sites in the smallest group.
        size: u16,
        /// `h − 1`.
        others: u16,
        /// The chance for one site and draw, in millionths, rounded up.
        millionths: u32,
    },
}

impl GroupPlan {
    /// Splits `participants` into `groups` where `corrupt` of them may help the coordinator and `honest` honest sites have
    /// to stand behind a group's sum.
    pub fn new(participants: usize, groups: u16, corrupt: u16, honest: u16) -> Result<Self, NoGroups> {
        let size = NoGroups::Size { participants, groups };
        let number = u16::try_from(participants).map_err(|_| size)?;
        if groups < 2 || number / groups < MIN_SITES as u16 {
            return Err(size);
        }
        let plan = Self { participants: number, groups, corrupt, honest };
        // The smallest groups come last, and promise least.
        let size = plan.size(groups - 1);
        let others = honest.saturating_sub(1);
        let chance = plan.chance_of_more(size, (size - 1).saturating_sub(others));
        if others >= size || chance > MAX_CHANCE || plan.floor(0) > plan.size(0) {
            return Err(NoGroups::Chance { size, others, millionths: millionths(chance) });
        }
        Ok(plan)
    }

    /// Number of groups.
    pub const fn groups(self) -> u16 {
        self.groups
    }

    /// Honest sites behind a group's sum.
    pub const fn honest(self) -> u16 {
        self.honest
    }

    /// Sites that a group has when all participants are there.
    pub fn size(self, group: u16) -> u16 {
        self.participants / self.groups + u16::from(group < self.participants % self.groups)
    }

    /// Least number of survivors of a group whose vectors are in the sum: with so many, `honest` of them are honest unless
    /// the draw went against the odds.
    pub fn floor(self, group: u16) -> u16 {
        let size = self.size(group);
        let unlucky = |helpers: &u16| self.chance_of_more(size, *helpers) <= MAX_CHANCE;
        let helpers = (0..size).find(unlucky).unwrap_or(size);
        helpers.saturating_add(self.honest)
    }

    /// The chance that a site finds more than its floor assumes, the largest over the groups.
    pub fn chance(self) -> f64 {
        let of = |group| {
            let size = self.size(group);
            self.chance_of_more(size, self.floor(group).saturating_sub(self.honest))
        };
        of(0).max(of(self.groups - 1))
    }

    /// The chance that of the `size − 1` others in an honest site's group more than `helpers` help the coordinator: the
    /// tail of a hypergeometric distribution, one draw after the other.
    fn chance_of_more(self, size: u16, helpers: u16) -> f64 {
        let others = usize::from(self.participants - 1);
        let corrupt = usize::from(self.corrupt).min(others);
        let mut chances = vec![0.0; corrupt + 1];
        chances[0] = 1.0;
        for drawn in 0..usize::from(size - 1) {
            let left = (others - drawn) as f64;
            for found in (0..=corrupt.min(drawn)).rev() {
                let bad = (corrupt - found) as f64;
                let here = chances[found];
                if found < corrupt {
                    chances[found + 1] += here * bad / left;
                }
                chances[found] = here * ((left - bad) / left).max(0.0);
            }
        }
        chances.iter().skip(usize::from(helpers) + 1).sum()
    }
}

fn millionths(chance: f64) -> u32 {
    (chance * 1e6).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{colluders, least_honest};

    #[test]
    fn only_rules_over_sums_have_a_name() {
        let read = |text: &str| toml::from_str::<Groups>(text).map_err(|error| error.to_string());
        let median = Groups { count: 3, combine: Combine::Median, trim: 0 };
        assert_eq!(read("count = 3"), Ok(median));
        assert_eq!(
            read("count = 5\ncombine = \"trimmed-mean\"\ntrim = 1"),
            Ok(Groups { count: 5, combine: Combine::TrimmedMean, trim: 1 })
        );
        for bad in ["krum", "bulyan", "mean", "geometric-median"] {
            let error = read(&format!("count = 5\ncombine = \"{bad}\"")).unwrap_err();
            assert!(error.contains("cannot run under masks") && error.contains(bad), "{error}");
        }
        assert!(read("count = 5\nrule = \"median\"").is_err());
    }

    #[test]
    fn too_few_groups_are_not_combined() {
        let median = Groups { count: 5, combine: Combine::Median, trim: 0 };
        let trims: Vec<_> = (0..=5).map(|present| median.trimmed(present)).collect();
        assert_eq!(trims, [None, None, None, Some(1), Some(1), Some(2)]);
        let trimmed = Groups { combine: Combine::TrimmedMean, trim: 2, ..median };
        let trims: Vec<_> = (3..=6).map(|present| trimmed.trimmed(present)).collect();
        assert_eq!(trims, [None, None, Some(2), Some(2)]);
    }

    fn plan(sites: usize, groups: u16) -> Result<GroupPlan, NoGroups> {
        GroupPlan::new(sites, groups, colluders(sites) as u16, least_honest(sites) as u16)
    }

    fn binomial(n: u32, k: u32) -> f64 {
        (0..k.min(n)).map(|i| f64::from(n - i) / f64::from(k - i)).product()
    }

    /// The tail by its definition, term by term.
    fn tail(others: u32, corrupt: u32, drawn: u32, helpers: u32) -> f64 {
        let ways = |found: u32| {
            let possible = found <= corrupt && drawn - found <= others - corrupt;
            if possible { binomial(corrupt, found) * binomial(others - corrupt, drawn - found) } else { 0.0 }
        };
        (helpers + 1..=drawn).map(ways).sum::<f64>() / binomial(others, drawn)
    }

    #[test]
    fn chances_are_those_of_the_hypergeometric_distribution() {
        for (sites, corrupt, size) in [(12, 3, 6), (30, 9, 10), (45, 14, 9), (200, 66, 10), (200, 66, 66)] {
            let plan = GroupPlan { participants: sites, groups: 2, corrupt, honest: 3 };
            for helpers in 0..size {
                let want = tail((sites - 1).into(), corrupt.into(), (size - 1).into(), helpers.into());
                let got = plan.chance_of_more(size, helpers);
                assert!((got - want).abs() < 1e-9 * want.max(1e-3), "{sites} {size} {helpers}: {got} {want}");
            }
        }
    }

    #[test]
    fn small_federations_cannot_be_split() {
        // The fewest sites that can be split into so many groups.
        for (groups, fewest) in [(2, 12), (3, 24), (4, 36), (5, 45), (7, 70)] {
            let first = (3..=200).find(|sites| plan(*sites, groups).is_ok());
            assert_eq!(first, Some(fewest), "{groups} groups");
        }
        // Groups of three are never accepted where two sites may help the coordinator.
        for sites in 7..=200usize {
            assert!(plan(sites, (sites / 3) as u16).is_err(), "{sites}");
        }
        assert!(plan(24, 1).is_err() && plan(24, 0).is_err() && plan(24, 9).is_err() && plan(0, 2).is_err());
    }

    #[test]
    fn floors_leave_enough_honest_sites_except_with_the_accepted_chance() {
        for (sites, groups, size, floor) in [(12, 2, 6, 6), (24, 3, 8, 8), (45, 5, 9, 9), (60, 5, 12, 11)] {
            let plan = plan(sites, groups).unwrap();
            assert_eq!((plan.size(0), plan.floor(0)), (size, floor), "{sites} in {groups}");
            assert!(plan.chance() <= MAX_CHANCE);
        }
        // Uneven groups: the first get what is left over.
        let plan = plan(28, 3).unwrap();
        assert_eq!([plan.size(0), plan.size(1), plan.size(2)], [10, 9, 9]);
    }

    #[test]
    fn a_stricter_site_asks_for_larger_groups() {
        assert!(GroupPlan::new(24, 3, 7, 3).is_ok());
        let refused = GroupPlan::new(24, 3, 7, 4).unwrap_err();
        assert!(matches!(refused, NoGroups::Chance { size: 8, others: 3, millionths: 1001.. }), "{refused}");
    }
}
