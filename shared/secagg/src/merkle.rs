//! Merkle trees over hashes, with proofs for several leaves at once.
//!
//! The shape is that of RFC 6962, section 2.1: the left half is the largest power of two below the length.
//! Leaves are labelled hashes of another kind than nodes, and the number of leaves is known to everybody
//! from the context, so that no node can pass for a leaf.

use consilium_study::hash::{Hash, Hasher};

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Hasher::labelled("merkle-node");
    hasher.update(left.as_bytes());
    hasher.update(right.as_bytes());
    hasher.finish()
}

/// Where a tree of `length` leaves, at least two, is cut.
fn cut(length: usize) -> usize {
    length.next_power_of_two() / 2
}

/// The root over `leaves`, of which there is at least one.
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = leaves.split_at(cut(leaves.len()));
    node(&root(left), &root(right))
}

/// The hashes that lead from the leaves at `opened` (rising positions) to the root, from left to right.
pub(crate) fn prove(leaves: &[Hash], opened: &[usize]) -> Vec<Hash> {
    let mut proof = Vec::new();
    walk_down(leaves, 0, opened, &mut proof);
    proof
}

fn walk_down(leaves: &[Hash], start: usize, opened: &[usize], proof: &mut Vec<Hash>) {
    if opened.is_empty() {
        proof.push(root(leaves));
    } else if leaves.len() > 1 {
        let cut = cut(leaves.len());
        let (left, right) = opened.split_at(opened.partition_point(|position| *position < start + cut));
        walk_down(&leaves[..cut], start, left, proof);
        walk_down(&leaves[cut..], start + cut, right, proof);
    }
}

/// The root that `opened` leaves (rising positions) and a proof lead to. None where the proof does not have
/// exactly the hashes that a tree of `length` leaves needs.
pub(crate) fn climb(length: usize, opened: &[(usize, Hash)], proof: &[Hash]) -> Option<Hash> {
    let rising = opened.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if length == 0 || !rising || opened.last().is_some_and(|(position, _)| *position >= length) {
        return None;
    }
    let mut rest = proof.iter();
    let root = walk_up(length, 0, opened, &mut rest)?;
    rest.next().is_none().then_some(root)
}

fn walk_up(
    length: usize,
    start: usize,
    opened: &[(usize, Hash)],
    proof: &mut std::slice::Iter<'_, Hash>,
) -> Option<Hash> {
    match opened {
        [] => proof.next().copied(),
        [(_, leaf)] if length == 1 => Some(*leaf),
        _ => {
            let cut = cut(length);
            let (left, right) =
                opened.split_at(opened.partition_point(|(position, _)| *position < start + cut));
            let left = walk_up(cut, start, left, proof)?;
            let right = walk_up(length - cut, start + cut, right, proof)?;
            Some(node(&left, &right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|index| Hash::labelled("leaf", &index.to_le_bytes())).collect()
    }

    proptest! {
        /// A proof leads to the root for its own leaves, and for no others.
        #[test]
        fn proofs_lead_to_the_root(count in 1usize..40, choice in any::<u64>(), flip in any::<u8>()) {
            let leaves = leaves(count);
            let opened: Vec<usize> = (0..count).filter(|position| choice >> position & 1 == 1).collect();
            let proof = prove(&leaves, &opened);
            let given: Vec<_> = opened.iter().map(|position| (*position, leaves[*position])).collect();
            prop_assert_eq!(climb(count, &given, &proof), Some(root(&leaves)));
            if let Some(first) = given.first() {
                let mut other = given.clone();
                other[0] = (first.0, Hash::of_bytes(&[flip]));
                prop_assert_ne!(climb(count, &other, &proof), Some(root(&leaves)));
            }
            let mut longer = proof.clone();
            longer.push(root(&leaves));
            prop_assert_eq!(climb(count, &given, &longer), None);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let leaf = leaves(1)[0];
        for proof in [&[leaf; 3][..0], &[leaf; 1], &[leaf; 2], &[leaf; 3]] {
            assert_eq!(climb(0, &[], proof), None);
            assert_eq!(climb(4, &[(4, leaf)], proof), None, "no place of this tree");
        }
        assert_eq!(climb(4, &[(1, leaf), (1, leaf)], &[leaf; 3]), None);
        assert_eq!(climb(4, &[(2, leaf), (1, leaf)], &[leaf; 3]), None);
    }
}
