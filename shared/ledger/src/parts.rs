//! Lists of signed statements that are kept as one blob each: receipts, signatures.

use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::hash::Hash;
use consilium_study::sign::{Signed, Statement};
use minicbor::{Decode, Encode};

use crate::entry::{Blob, MAX_STATEMENT};
use crate::files::{Blobs, Unreadable, read_blob};
use crate::tree::{Tree, leaf_hash};

/// A list kept as one blob: the blob's plain hash, how long the list is, and the Merkle root over the
/// canonical bytes of each element (see [`crate::tree`]), so that one of them can be shown and proved to
/// be there without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Parts {
    /// Plain hash of the blob, the canonical array of the elements.
    #[n(0)]
    pub blob: Hash,
    /// Length of the list.
    #[n(1)]
    pub count: u32,
    /// Root over the elements.
    #[n(2)]
    pub root: Hash,
}

impl Parts {
    /// Names a list, and gives the blob to keep before the entry that holds the name is appended.
    pub fn of<T: Statement>(list: &Vec<Signed<T>>) -> (Self, Blob) {
        let bytes = list.to_canonical();
        let blob = Blob { hash: Hash::of_bytes(&bytes), bytes };
        (Self { blob: blob.hash, count: list.len() as u32, root: root(list) }, blob)
    }

    /// Fetches the list and checks it against its name. Signatures are not checked here.
    pub fn read<T: Statement>(&self, blobs: &impl Blobs) -> Result<Vec<Signed<T>>, BadParts> {
        let bytes = read_blob(blobs, &self.blob, MAX_STATEMENT as u64)?;
        let list = Vec::<Signed<T>>::from_canonical(&bytes)
            .map_err(|cause| BadParts::Malformed { blob: self.blob, cause })?;
        if list.len() != self.count as usize || root(&list) != self.root {
            return Err(BadParts::Mismatch { blob: self.blob });
        }
        Ok(list)
    }
}

fn root<T: Statement>(list: &[Signed<T>]) -> Hash {
    let mut tree = Tree::new();
    for signed in list {
        tree.push(leaf_hash(&signed.to_canonical())).expect("a list in memory is short");
    }
    tree.root()
}

/// Why a list is not what its name says.
#[derive(Debug, thiserror::Error)]
pub enum BadParts {
    /// It could not be had.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It is no list of such statements.
    #[error("blob {blob} is not a list of such statements: {cause}")]
    Malformed {
        /// The blob.
        blob: Hash,
        /// What is wrong with it.
        cause: NotCanonical,
    },
    /// Length or root are others.
    #[error("blob {blob} has another length or root than the entry says")]
    Mismatch {
        /// The blob.
        blob: Hash,
    },
}
