//! The Merkle tree of a log and its proofs.
//!
//! Hashing and proofs are those of RFC 9162, section 2.1 (SHA-256). The arithmetic is the port of Go's
//! `tlog` in the `tlog_tiles` crate, whose functions panic on sizes and indexes that make no sense;
//! everything here checks those first, so that a peer's numbers end in an error.

use consilium_study::hash::Hash;
use tlog_tiles::tlog;

use crate::path::{Tile, WIDTH};

/// Entries that a log may have. Far above any real log, far below where the arithmetic could overflow.
pub const MAX_SIZE: u64 = 1 << 40;

/// Hashes in the longest proof about a log of [`MAX_SIZE`] entries.
const MAX_PROOF: usize = 64;

/// Hash of an entry as a leaf: `SHA-256(0x00 ‖ entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    ours(tlog::record_hash(entry))
}

/// The tree over the entries of a log, in memory: two hashes for each entry.
#[derive(Clone, Default)]
pub struct Tree {
    // In the order of Crosby and Wallach: see `tlog::stored_hash_index`.
    stored: Stored,
    size: u64,
}

impl Tree {
    /// The tree of an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds the hash of the next entry. Returns `None`, and adds nothing, if the log is full.
    pub fn push(&mut self, leaf: Hash) -> Option<()> {
        if self.size >= MAX_SIZE {
            return None;
        }
        let new = tlog::stored_hashes_for_record_hash(self.size, theirs(leaf), &self.stored)
            .expect("hashes of earlier entries are stored");
        self.stored.0.extend(new);
        self.size += 1;
        Some(())
    }

    /// Hash of the entry at `index`.
    pub fn leaf(&self, index: u64) -> Option<Hash> {
        (index < self.size).then(|| self.node(0, index))
    }

    /// The root over all entries.
    pub fn root(&self) -> Hash {
        self.root_of(self.size).expect("the whole tree is in the tree")
    }

    /// The root when the log had `size` entries.
    pub fn root_of(&self, size: u64) -> Option<Hash> {
        (size <= self.size)
            .then(|| ours(tlog::tree_hash(size, &self.stored).expect("hashes of these entries are stored")))
    }

    /// Proof that the entry at `index` is in the log of `size` entries (RFC 9162, section 2.1.3).
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        if index >= size || size > self.size {
            return None;
        }
        let proof =
            tlog::prove_record(size, index, &self.stored).expect("hashes of these entries are stored");
        Some(proof.into_iter().map(ours).collect())
    }

    /// Proof that the log of `size` entries begins with the log of `old` entries (RFC 9162, section 2.1.4).
    pub fn consistency(&self, old: u64, size: u64) -> Option<Vec<Hash>> {
        if old > size || size > self.size {
            return None;
        }
        if old == 0 {
            return Some(Vec::new());
        }
        let proof = tlog::prove_tree(size, old, &self.stored).expect("hashes of these entries are stored");
        Some(proof.into_iter().map(ours).collect())
    }

    /// The bytes of a tile, if all its hashes are in the tree.
    pub fn tile(&self, tile: Tile) -> Option<Vec<u8>> {
        let first = tile.index().checked_mul(WIDTH)?;
        let end = first.checked_add(u64::from(tile.width()))?;
        if end > self.size.checked_shr(8 * u32::from(tile.level())).unwrap_or(0) {
            return None;
        }
        Some((first..end).flat_map(|n| *self.node(8 * tile.level(), n).as_bytes()).collect())
    }

    fn node(&self, level: u8, n: u64) -> Hash {
        ours(self.stored.0[at(tlog::stored_hash_index(level, n))])
    }
}

/// Why a proof does not prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProof {
    /// The sizes or the index make no sense together.
    #[error("the proof is about sizes or an index that cannot be")]
    Sizes,
    /// The hashes do not lead to the root.
    #[error("the proof does not lead to the root")]
    Hashes,
}

/// Checks that the entry with hash `leaf` is at `index` in the log of `size` entries with this `root`.
pub fn check_inclusion(
    proof: &[Hash],
    size: u64,
    root: Hash,
    index: u64,
    leaf: Hash,
) -> Result<(), BadProof> {
    if index >= size || size > MAX_SIZE || proof.len() > MAX_PROOF {
        return Err(BadProof::Sizes);
    }
    let proof = proof.iter().copied().map(theirs).collect();
    tlog::check_record(&proof, size, theirs(root), index, theirs(leaf)).map_err(|_| BadProof::Hashes)
}

/// Checks that the log of `size` entries begins with the log of `old` entries.
pub fn check_consistency(
    proof: &[Hash],
    old: u64,
    old_root: Hash,
    size: u64,
    root: Hash,
) -> Result<(), BadProof> {
    if old > size || size > MAX_SIZE || proof.len() > MAX_PROOF {
        return Err(BadProof::Sizes);
    }
    if old == 0 {
        // Every log begins with the empty one; there is nothing to prove.
        let proved = proof.is_empty() && old_root == Tree::new().root();
        return proved.then_some(()).ok_or(BadProof::Hashes);
    }
    let proof = proof.iter().copied().map(theirs).collect();
    tlog::check_tree(&proof, size, theirs(root), old, theirs(old_root)).map_err(|_| BadProof::Hashes)
}

#[derive(Clone, Default)]
struct Stored(Vec<tlog::Hash>);

impl tlog::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog_tiles::Error> {
        let find = |index: &u64| self.0.get(at(*index)).copied().ok_or(tlog_tiles::Error::IndexesNotInTree);
        indexes.iter().map(find).collect()
    }
}

/// A position that memory cannot have is a position that is not there.
fn at(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn ours(hash: tlog::Hash) -> Hash {
    Hash::from_bytes(hash.0)
}

fn theirs(hash: Hash) -> tlog::Hash {
    tlog::Hash(*hash.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::hash::Hasher;
    use proptest::prelude::*;

    /// Inputs and roots of the reference implementation of Certificate Transparency (`merkletree` tests
    /// of the project's Go code, from RFC 6962's own examples).
    const INPUTS: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn hash(text: &str) -> Hash {
        text.parse().unwrap()
    }

    fn tree_of(entries: &[Vec<u8>]) -> Tree {
        let mut tree = Tree::new();
        for entry in entries {
            tree.push(leaf_hash(entry)).unwrap();
        }
        tree
    }

    /// RFC 9162, section 2.1, as it is written.
    mod slow {
        use super::*;

        fn split(n: usize) -> usize {
            let mut k = 1;
            while k * 2 < n {
                k *= 2;
            }
            k
        }

        fn node(left: Hash, right: Hash) -> Hash {
            let mut hasher = Hasher::new();
            hasher.update(&[1]);
            hasher.update(left.as_bytes());
            hasher.update(right.as_bytes());
            hasher.finish()
        }

        pub(super) fn mth(d: &[Vec<u8>]) -> Hash {
            match d {
                [] => Hash::of_bytes(b""),
                [one] => Hash::of_bytes(&[&[0], one.as_slice()].concat()),
                _ => node(mth(&d[..split(d.len())]), mth(&d[split(d.len())..])),
            }
        }

        pub(super) fn path(m: usize, d: &[Vec<u8>]) -> Vec<Hash> {
            if d.len() == 1 {
                return vec![];
            }
            let k = split(d.len());
            let (mut inner, other) =
                if m < k { (path(m, &d[..k]), mth(&d[k..])) } else { (path(m - k, &d[k..]), mth(&d[..k])) };
            inner.push(other);
            inner
        }

        pub(super) fn subproof(m: usize, d: &[Vec<u8>], whole: bool) -> Vec<Hash> {
            if m == d.len() {
                return if whole { vec![] } else { vec![mth(d)] };
            }
            let k = split(d.len());
            let (mut inner, other) = if m <= k {
                (subproof(m, &d[..k], whole), mth(&d[k..]))
            } else {
                (subproof(m - k, &d[k..], false), mth(&d[..k]))
            };
            inner.push(other);
            inner
        }
    }

    #[test]
    fn roots_agree_with_certificate_transparency() {
        let entries: Vec<_> = INPUTS.iter().map(|text| unhex(text)).collect();
        let tree = tree_of(&entries);
        for (size, root) in ROOTS.iter().enumerate() {
            assert_eq!(tree.root_of(size as u64), Some(hash(root)), "size {size}");
        }
    }

    #[test]
    fn proofs_agree_with_certificate_transparency() {
        let entries: Vec<_> = INPUTS.iter().map(|text| unhex(text)).collect();
        let tree = tree_of(&entries);
        let first = [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ];
        assert_eq!(tree.inclusion(0, 8), Some(first.map(hash).to_vec()));
        let grown = [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        assert_eq!(tree.consistency(6, 8), Some(grown.map(hash).to_vec()));
    }

    #[test]
    fn sizes_that_cannot_be_are_errors() {
        let root = Tree::new().root();
        for (index, size) in [(0, 0), (5, 5), (u64::MAX, u64::MAX), (0, u64::MAX), (u64::MAX, 1)] {
            assert_eq!(check_inclusion(&[], size, root, index, root), Err(BadProof::Sizes));
        }
        for (old, size) in [(2, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert_eq!(check_consistency(&[], old, root, size, root), Err(BadProof::Sizes));
        }
        assert_eq!(check_inclusion(&vec![root; 100_000], 8, root, 1, root), Err(BadProof::Sizes));
        let tree = tree_of(&[vec![1]]);
        assert_eq!(tree.inclusion(1, 1), None);
        assert_eq!(tree.inclusion(0, 2), None);
        assert_eq!(tree.consistency(1, u64::MAX), None);
        assert_eq!(tree.root_of(2), None);
        assert_eq!(tree.leaf(1), None);
    }

    proptest! {
        /// Roots and proofs are those of the definition, and every proof made is a proof accepted.
        #[test]
        fn proofs_are_those_of_the_definition(
            entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 1..40),
            a in any::<prop::sample::Index>(),
            b in any::<prop::sample::Index>(),
        ) {
            let tree = tree_of(&entries);
            let size = a.index(entries.len()) + 1;
            let (root, cut) = (tree.root_of(size as u64).unwrap(), &entries[..size]);
            prop_assert_eq!(root, slow::mth(cut));
            let index = b.index(size);
            let proof = tree.inclusion(index as u64, size as u64).unwrap();
            prop_assert_eq!(&proof, &slow::path(index, cut));
            let leaf = tree.leaf(index as u64).unwrap();
            prop_assert_eq!(check_inclusion(&proof, size as u64, root, index as u64, leaf), Ok(()));
            let old = b.index(size) + 1;
            let grown = tree.consistency(old as u64, size as u64).unwrap();
            prop_assert_eq!(&grown, &slow::subproof(old, cut, true));
            let old_root = tree.root_of(old as u64).unwrap();
            prop_assert_eq!(check_consistency(&grown, old as u64, old_root, size as u64, root), Ok(()));
        }

        /// A proof for one place, with one bit changed or one hash more or less, proves nothing.
        #[test]
        fn changed_proofs_are_refused(
            size in 2u64..40, at in any::<prop::sample::Index>(), bit in 0usize..256, change in 0u8..4,
        ) {
            let entries: Vec<_> = (0..size).map(|n| vec![n as u8]).collect();
            let tree = tree_of(&entries);
            let index = at.index(entries.len()) as u64;
            let mut proof = tree.inclusion(index, size).unwrap();
            let mut leaf = tree.leaf(index).unwrap();
            let mut place = index;
            match change {
                0 => {
                    let which = at.index(proof.len());
                    let mut bytes = *proof[which].as_bytes();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    proof[which] = Hash::from_bytes(bytes);
                }
                1 => proof.push(leaf),
                2 => drop(proof.pop()),
                _ => place = (index + 1) % size,
            }
            prop_assert!(check_inclusion(&proof, size, tree.root(), place, leaf).is_err());
            leaf = tree.root();
            let honest = tree.inclusion(index, size).unwrap();
            prop_assert!(check_inclusion(&honest, size, tree.root(), index, leaf).is_err());
        }

        /// No log is consistent with one that has another beginning.
        #[test]
        fn a_rewritten_beginning_is_noticed(size in 2u64..40, at in any::<prop::sample::Index>()) {
            let entries: Vec<_> = (0..size).map(|n| vec![n as u8]).collect();
            let old = at.index(entries.len() - 1) as u64 + 1;
            let mut rewritten = entries.clone();
            rewritten[at.index(old as usize)].push(7);
            let (before, after) = (tree_of(&entries), tree_of(&rewritten));
            let proof = after.consistency(old, size).unwrap();
            let old_root = before.root_of(old).unwrap();
            prop_assert!(check_consistency(&proof, old, old_root, size, after.root()).is_err());
        }

        /// Proofs of strangers never panic.
        #[test]
        fn strange_proofs_end_in_errors(
            proof in proptest::collection::vec(any::<[u8; 32]>(), 0..80), old: u64, size: u64, root: [u8; 32],
        ) {
            let proof: Vec<_> = proof.into_iter().map(Hash::from_bytes).collect();
            let root = Hash::from_bytes(root);
            let _ = check_inclusion(&proof, size, root, old, root);
            let _ = check_consistency(&proof, old, root, size, root);
        }
    }
}
