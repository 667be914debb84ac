//! How many sites must agree before a sum is opened (design, section 1).
//!
//! The number of sites that may help the coordinator is taken over the study's *roster*, because the
//! coordinator picks the Selection: otherwise it would pick a victim and two friends. For the same reason
//! the least number of honest sites behind a sum follows the roster, not the Selection.

use consilium_study::document::{colluders, least_honest};
use minicbor::{Decode, Encode};

use crate::numbering::{MAX_SITES, MIN_SITES};

/// The thresholds of a Selection. Computed by everyone for themselves, and carried in the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Thresholds {
    /// `N`: sites in the study's roster.
    #[n(0)]
    pub roster: u16,
    /// `n`: sites in the Selection.
    #[n(1)]
    pub selected: u16,
    /// `c`: how many sites may help the coordinator.
    #[n(2)]
    pub corrupt: u16,
    /// `h`: least number of honest sites behind any opened sum.
    #[n(3)]
    pub honest: u16,
    /// `t`: shares that rebuild a seed, and signatures that open a sum.
    #[n(4)]
    pub threshold: u16,
}

impl Thresholds {
    /// The thresholds of a Selection of `selected` out of `roster` sites, where study and sites ask for at
    /// least `min_honest` honest sites behind a sum (0 where nobody asks for more than the rule).
    pub fn new(roster: usize, selected: usize, min_honest: u16) -> Result<Self, NoThreshold> {
        if roster < MIN_SITES || selected < MIN_SITES {
            return Err(NoThreshold::TooFew { roster, selected });
        }
        if selected > MAX_SITES {
            return Err(NoThreshold::TooMany { selected });
        }
        if selected > roster {
            return Err(NoThreshold::MoreThanRoster { roster, selected });
        }
        let roster = u16::try_from(roster).map_err(|_| NoThreshold::TooMany { selected: roster })?;
        let selected = selected as u16;
        let corrupt = colluders(roster.into()) as u16;
        let honest = min_honest.max(least_honest(roster.into()) as u16);
        let threshold = (2 * selected / 3 + 1)
            .max(u16::midpoint(selected, corrupt) + 1)
            .max(corrupt.saturating_add(honest));
        if threshold > selected {
            return Err(NoThreshold::Unreachable { threshold, selected });
        }
        Ok(Self { roster, selected, corrupt, honest, threshold })
    }

    /// The fewest sites that can be selected out of `roster`; none where `min_honest` asks for too many.
    pub fn fewest(roster: usize, min_honest: u16) -> Option<usize> {
        (MIN_SITES..=roster.min(MAX_SITES)).find(|selected| Self::new(roster, *selected, min_honest).is_ok())
    }

    /// How many sites of the Selection may drop out.
    pub const fn dropouts(&self) -> u16 {
        self.selected - self.threshold
    }

    /// What an opened sum guarantees: at least so many honest sites in it.
    pub const fn honest_behind_a_sum(&self) -> u16 {
        self.threshold - self.corrupt
    }
}

/// Why a Selection has no thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoThreshold {
    /// Below three sites each learns the others' update.
    #[error("secure aggregation needs 3 sites; {selected} of {roster} are selected")]
    TooFew {
        /// Sites in the roster.
        roster: usize,
        /// Sites in the Selection.
        selected: usize,
    },
    /// Shares are points of a field with 256 elements.
    #[error("{selected} sites are more than a Selection can have")]
    TooMany {
        /// Sites in the Selection.
        selected: usize,
    },
    /// A Selection is part of the roster.
    #[error("{selected} sites cannot be selected out of {roster}")]
    MoreThanRoster {
        /// Sites in the roster.
        roster: usize,
        /// Sites in the Selection.
        selected: usize,
    },
    /// The Selection is too small for the roster it comes from.
    #[error("{threshold} sites would have to agree, and only {selected} are selected")]
    Unreachable {
        /// The `t` of the formula.
        threshold: u16,
        /// Sites in the Selection.
        selected: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_table_of_the_design() {
        let table = [
            // n, t, dropouts, c, honest behind a sum
            (3, 3, 0, 0, 3),
            (4, 3, 1, 1, 2),
            (5, 4, 1, 1, 3),
            (6, 5, 1, 1, 4),
            (7, 5, 2, 2, 3),
            (8, 6, 2, 2, 4),
            (9, 7, 2, 2, 5),
            (10, 7, 3, 3, 4),
        ];
        for (n, threshold, dropouts, corrupt, honest) in table {
            let row = Thresholds::new(n, n, 0).unwrap();
            let got = (row.threshold, row.dropouts(), row.corrupt, row.honest_behind_a_sum());
            assert_eq!(got, (threshold, dropouts, corrupt, honest), "n = {n}");
        }
    }

    #[test]
    fn fewer_than_the_fewest_have_no_thresholds() {
        for (roster, min_honest, fewest) in [
            (3, 0, Some(3)),
            (4, 0, Some(3)),
            (5, 0, Some(4)),
            (8, 0, Some(5)),
            (5, 4, Some(5)),
            (5, 9, None),
        ] {
            assert_eq!(Thresholds::fewest(roster, min_honest), fewest, "{roster} {min_honest}");
        }
    }

    /// Two stories would need `2t` signatures from `n + c` voices, and enough honest sites stand behind a sum.
    #[test]
    fn no_selection_admits_two_stories() {
        for roster in 3..=220usize {
            for selected in 3..=roster.min(MAX_SITES) {
                for min_honest in [0, 4, 20] {
                    if let Ok(it) = Thresholds::new(roster, selected, min_honest) {
                        assert!(2 * it.threshold > it.selected + it.corrupt);
                        assert!(it.honest_behind_a_sum() >= it.honest && it.honest >= 2);
                        assert!(it.threshold <= it.selected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_victim_among_friends_is_refused() {
        // 10 sites, 3 of them may be corrupt: a Selection of {victim, friend, friend} has no threshold.
        assert_eq!(Thresholds::new(10, 3, 0), Err(NoThreshold::Unreachable { threshold: 6, selected: 3 }));
        for (roster, selected) in [(2, 2), (2, 3), (3, 2)] {
            let too_few = NoThreshold::TooFew { roster, selected };
            assert_eq!(Thresholds::new(roster, selected, 0), Err(too_few));
        }
        assert!(Thresholds::new(300, 201, 0).is_err());
        assert!(Thresholds::new(4, 5, 0).is_err());
        assert!(Thresholds::new(4, 4, u16::MAX).is_err());
    }
}
