//! From the means of groups to one mean update: a rule in each coordinate by itself.
//!
//! A hospital that sends a bad update spoils the mean of its group and no other, so a median or a trimmed mean over the
//! groups leaves it out in every coordinate where it stands out (Yin et al. 2018; over groups Chen et al. 2017). Groups
//! count alike, whatever their cases; within a group hospitals weigh as in any sum.

use consilium_secagg::quantiser::Aggregate;
use consilium_study::grouping::Groups;

/// Joins what the groups' sums say: weights, saturated entries, clipped sites and counts are added, means combined. None
/// where there are too few groups for the rule.
pub(crate) fn combine(groups: Groups, mut sums: Vec<Aggregate>) -> Option<Aggregate> {
    let means = sums.iter_mut().map(|sum| std::mem::take(&mut sum.update)).collect();
    let update = combine_means(groups, means)?;
    let mut joined = sums.pop()?;
    for sum in &sums {
        joined.weight = joined.weight.saturating_add(sum.weight);
        joined.clipped = joined.clipped.wrapping_add(sum.clipped);
        let counters = joined.saturated.iter_mut().zip(&sum.saturated);
        counters
            .chain(joined.counts.iter_mut().zip(&sum.counts))
            .for_each(|(all, one)| *all = all.wrapping_add(*one));
    }
    Some(Aggregate { update, ..joined })
}

/// Combines means of groups, each of shape `[params]`. In every coordinate the values stand in ascending order, the rule's
/// share is left out at both ends, and the mean of the others is their sum in that order as `f64`, divided by their number
/// and rounded to `f32`. None where there are too few groups for the rule.
pub fn combine_means(groups: Groups, mut means: Vec<Vec<f32>>) -> Option<Vec<f32>> {
    let trim = groups.trimmed(means.len())?;
    let mut values = vec![0.0f32; means.len()];
    let kept = trim..values.len() - trim;
    let mut combined = means.pop()?;
    for (entry, mean) in combined.iter_mut().enumerate() {
        values[0] = *mean;
        for (value, mean) in values[1..].iter_mut().zip(&means) {
            *value = mean[entry];
        }
        values.sort_unstable_by(f32::total_cmp);
        let kept = &values[kept.clone()];
        *mean = (kept.iter().copied().map(f64::from).sum::<f64>() / kept.len() as f64) as f32;
    }
    Some(combined)
}

#[cfg(test)]
mod tests {
    use consilium_study::grouping::Combine;

    use super::*;

    fn sum(update: &[f32]) -> Aggregate {
        Aggregate {
            weight: 2,
            update: update.to_vec(),
            saturated: vec![1],
            clipped: 1,
            counts: vec![u32::MAX, 3],
        }
    }

    fn rule(combine: Combine, trim: u32) -> Groups {
        Groups { count: 5, combine, trim }
    }

    #[test]
    fn medians_and_trimmed_means_are_those_of_the_book() {
        let five = || {
            [[1.0, -9.0], [2.0, 0.0], [3.0, 1.0], [40.0, 2.0], [-50.0, 7.0]]
                .map(|update| sum(&update))
                .to_vec()
        };
        let update = |rule, sums| combine(rule, sums).map(|joined| joined.update);
        assert_eq!(update(rule(Combine::Median, 0), five()), Some(vec![2.0, 1.0]));
        assert_eq!(update(rule(Combine::TrimmedMean, 1), five()), Some(vec![2.0, 1.0]));
        assert_eq!(update(rule(Combine::TrimmedMean, 2), five()), Some(vec![2.0, 1.0]));
        // Of four the two in the middle.
        assert_eq!(update(rule(Combine::Median, 0), five()[..4].to_vec()), Some(vec![2.5, 0.5]));
        assert_eq!(update(rule(Combine::Median, 0), five()[..2].to_vec()), None);
        assert_eq!(update(rule(Combine::TrimmedMean, 2), five()[..4].to_vec()), None);
    }

    #[test]
    fn everything_else_is_added() {
        let joined = combine(rule(Combine::Median, 0), vec![sum(&[0.0]); 3]).unwrap();
        assert_eq!((joined.weight, joined.clipped, joined.saturated), (6, 3, vec![3]));
        assert_eq!(joined.counts, [u32::MAX.wrapping_mul(3), 9]);
    }

    /// However the values of one group are chosen, the result lies among those of the others.
    #[test]
    fn one_group_moves_nothing_beyond_the_others() {
        let honest = [[0.1, -1.0], [0.2, 0.5], [0.15, 3.0], [0.3, 0.0]];
        for bad in [f32::MAX, -f32::MAX, 1e30, 0.2, -0.0] {
            for rule in [rule(Combine::Median, 0), rule(Combine::TrimmedMean, 1)] {
                let mut sums: Vec<_> = honest.iter().map(|update| sum(update)).collect();
                sums.insert(2, sum(&[bad, bad]));
                let update = combine(rule, sums).unwrap().update;
                assert!(
                    (0.1..=0.3).contains(&update[0]) && (-1.0..=3.0).contains(&update[1]),
                    "{bad} {update:?}"
                );
            }
        }
    }

    #[test]
    fn a_combination_is_no_longer_than_the_stretch() {
        // The worst case of the bound: in each coordinate the groups needed agree on all the length they have.
        for groups in 3..=9usize {
            let needed = groups.div_ceil(2);
            let sets = 1usize << groups;
            let agreeing: Vec<usize> = (0..sets).filter(|set| set.count_ones() as usize == needed).collect();
            let sums: Vec<Aggregate> = (0..groups)
                .map(|group| {
                    let entry = |set: &usize| if set >> group & 1 == 1 { 1.0 } else { 0.0 };
                    let raw: Vec<f32> = agreeing.iter().map(entry).collect();
                    let norm = raw.iter().map(|entry| entry * entry).sum::<f32>().sqrt();
                    sum(&raw.iter().map(|entry| entry / norm).collect::<Vec<_>>())
                })
                .collect();
            let rule = Groups { count: groups as u32, combine: Combine::Median, trim: 0 };
            let update = combine(rule, sums).unwrap().update;
            let norm = update.iter().map(|entry| f64::from(*entry).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 0.7 && norm <= consilium_study::grouping::STRETCH, "{groups}: {norm}");
        }
    }
}
