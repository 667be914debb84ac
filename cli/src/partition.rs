//! Dealing one collection out to sites, for `demo` and `simulate`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Gamma};

/// How cases are dealt out.
#[derive(Clone, Debug, PartialEq)]
pub enum Partition {
    /// Every site gets the same mixture.
    Iid,
    /// Each class is split in shares drawn from a symmetric Dirichlet distribution (Hsu et al. 2019): the smaller
    /// the parameter, the less alike the sites.
    Dirichlet(f64),
    /// One site for each value of a column of the table.
    By(String),
}

/// A text that is no partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no partition: write iid, dirichlet:0.5 or by:COLUMN")]
pub struct InvalidPartition(String);

impl FromStr for Partition {
    type Err = InvalidPartition;

    fn from_str(text: &str) -> Result<Self, InvalidPartition> {
        let invalid = || InvalidPartition(text.to_owned());
        match text.split_once(':') {
            None if text == "iid" => Ok(Self::Iid),
            Some(("dirichlet", alpha)) => {
                let alpha: f64 = alpha.parse().map_err(|_| invalid())?;
                let usable = alpha.is_finite() && alpha >= 1e-3;
                usable.then_some(Self::Dirichlet(alpha)).ok_or_else(invalid)
            }
            Some(("by", column)) if !column.is_empty() => Ok(Self::By(column.to_owned())),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iid => f.write_str("iid"),
            Self::Dirichlet(alpha) => write!(f, "dirichlet:{alpha}"),
            Self::By(column) => write!(f, "by:{column}"),
        }
    }
}

/// No dealing gave every site enough cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{cases} cases cannot be dealt to {sites} sites with at least {least} each; use fewer sites or another partition"
)]
pub struct TooFew {
    cases: usize,
    sites: usize,
    least: usize,
}

/// Assigns each unit (a case or a patient) to a site. `classes[i]` is the class of unit `i`. Every site gets at
/// least `least` units: drawings that give fewer are drawn again, as in Li et al. 2022 (NIID-Bench).
pub fn deal(
    classes: &[u16],
    sites: usize,
    alpha: Option<f64>,
    least: usize,
    seed: u64,
) -> Result<Vec<usize>, TooFew> {
    let too_few = TooFew { cases: classes.len(), sites, least };
    if sites == 0 || classes.len() < sites * least {
        return Err(too_few);
    }
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut by_class: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (unit, class) in classes.iter().enumerate() {
        by_class.entry(*class).or_default().push(unit);
    }
    for units in by_class.values_mut() {
        shuffle(units, &mut rng);
    }
    // A drawing succeeds with good odds; the bound only keeps an impossible wish from lasting for ever.
    for _ in 0..10_000 {
        let mut assigned = vec![0; classes.len()];
        let mut sizes = vec![0; sites];
        for units in by_class.values() {
            let shares = match alpha {
                None => vec![1.0; sites],
                Some(alpha) => {
                    let gamma = Gamma::new(alpha, 1.0).expect("the parameter was checked to be above zero");
                    (0..sites).map(|_| gamma.sample(&mut rng)).collect()
                }
            };
            let total: f64 = shares.iter().sum();
            let mut before = 0.0;
            let mut start = 0;
            for (site, share) in shares.iter().enumerate() {
                before += share;
                let last = site + 1 == sites;
                let end =
                    if last { units.len() } else { ((before / total) * units.len() as f64).round() as usize };
                let end = end.clamp(start, units.len());
                for unit in &units[start..end] {
                    assigned[*unit] = site;
                }
                sizes[site] += end - start;
                start = end;
            }
        }
        if sizes.iter().all(|size| *size >= least) {
            return Ok(assigned);
        }
        if alpha.is_none() {
            break;
        }
    }
    Err(too_few)
}

fn shuffle(units: &mut [usize], rng: &mut ChaCha12Rng) {
    use rand_chacha::rand_core::Rng;
    for last in (1..units.len()).rev() {
        let other = rng.next_u64() % (last as u64 + 1);
        units.swap(last, other as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_round_trip() {
        for text in ["iid", "dirichlet:0.5", "by:country"] {
            assert_eq!(text.parse::<Partition>().unwrap().to_string(), text);
        }
        for text in ["", "iid:1", "dirichlet", "dirichlet:0", "dirichlet:x", "by:", "by"] {
            assert!(text.parse::<Partition>().is_err(), "{text}");
        }
    }

    #[test]
    fn equal_shares_are_equal() {
        let classes: Vec<u16> = (0..1000).map(|case| u16::from(case % 4 == 0)).collect();
        let assigned = deal(&classes, 4, None, 10, 1).unwrap();
        for site in 0..4 {
            let of_site = |class| {
                assigned.iter().zip(&classes).filter(|(at, kind)| **at == site && **kind == class).count()
            };
            assert!((i64::try_from(of_site(1)).unwrap() - 62).abs() <= 2);
            assert!((i64::try_from(of_site(0)).unwrap() - 188).abs() <= 2);
        }
    }

    proptest! {
        /// Everybody gets something, nothing is lost, and the same seed deals the same.
        #[test]
        fn every_unit_has_a_site(cases in 40_usize..300, sites in 1_usize..5, seed in any::<u64>()) {
            let classes: Vec<u16> = (0..cases).map(|case| u16::from(case % 3 == 0)).collect();
            let assigned = deal(&classes, sites, Some(0.5), 3, seed).unwrap();
            prop_assert_eq!(&assigned, &deal(&classes, sites, Some(0.5), 3, seed).unwrap());
            for site in 0..sites {
                prop_assert!(assigned.iter().filter(|at| **at == site).count() >= 3);
            }
        }
    }
}
