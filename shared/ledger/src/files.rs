//! What the ledger asks of whoever holds its files.

use std::io;

use consilium_study::hash::Hash;

/// Read access to the folder of a log. Paths are relative, with `/` between their elements.
pub trait Files {
    /// The bytes of a file, `None` if there is no such file, an error if it is longer than `limit`.
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>>;

    /// The paths of all files in the folder, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
}

/// Read access to the content-addressed files beside a log.
pub trait Blobs {
    /// The bytes of a blob, `None` if it is not there, an error if it is longer than `limit`.
    /// Nobody trusts what comes back: its hash is computed by the caller.
    fn blob(&self, hash: &Hash, limit: u64) -> io::Result<Option<Vec<u8>>>;
}

/// Why a content-addressed part could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not there.
    #[error("blob {0} is missing")]
    Missing(Hash),
    /// Its bytes have another hash than its name says.
    #[error("blob {0} was changed: its bytes do not have the hash it is named by")]
    Changed(Hash),
    /// Its length is not the one in the entry.
    #[error("blob {blob} has {got} bytes, the entry says {want}")]
    Length {
        /// The blob.
        blob: Hash,
        /// Length in the entry.
        want: u64,
        /// Length found.
        got: u64,
    },
    /// The storage failed.
    #[error("blob {blob} cannot be read: {source}")]
    Storage {
        /// The blob.
        blob: Hash,
        /// What the storage says.
        source: io::Error,
    },
}

/// Reads a blob and checks its hash.
pub(crate) fn read_blob(blobs: &impl Blobs, hash: &Hash, limit: u64) -> Result<Vec<u8>, Unreadable> {
    match blobs.blob(hash, limit) {
        Ok(Some(bytes)) if Hash::of_bytes(&bytes) == *hash => Ok(bytes),
        Ok(Some(_)) => Err(Unreadable::Changed(*hash)),
        Ok(None) => Err(Unreadable::Missing(*hash)),
        Err(source) => Err(Unreadable::Storage { blob: *hash, source }),
    }
}
