//! A disk that stops taking writes, as if the process had been killed there.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::{Disk, Kind, Staged, Store, StoreError};

/// A disk that stops taking writes after so many, as if the process had been killed there.
#[derive(Default)]
pub(super) struct Mortal {
    /// Writes so far.
    pub(super) writes: AtomicUsize,
    /// The write that does not happen any more; 0 for none.
    pub(super) last: AtomicUsize,
}

impl Mortal {
    fn write(&self, kind: Kind, path: &Path) -> Result<(), StoreError> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        let last = self.last.load(Ordering::Relaxed);
        if last == 0 || number < last {
            return Ok(());
        }
        let source = std::io::Error::other("killed");
        Err(StoreError { act: "write", kind, path: path.to_owned(), source })
    }
}

impl Store for Mortal {
    fn read(&self, kind: Kind, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        Disk.read(kind, path)
    }

    fn replace(&self, kind: Kind, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(kind, path)?;
        Disk.replace(kind, path, bytes)
    }

    fn append(&self, kind: Kind, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(kind, path)?;
        Disk.append(kind, path, bytes)
    }

    fn overwrite(&self, kind: Kind, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(kind, path)?;
        Disk.overwrite(kind, path, offset, bytes)
    }

    fn promote(&self, kind: Kind, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.write(kind, to)?;
        Disk.promote(kind, from, to)
    }

    fn remove(&self, kind: Kind, path: &Path) -> Result<(), StoreError> {
        self.write(kind, path)?;
        Disk.remove(kind, path)
    }

    fn stage(&self, kind: Kind, path: &Path) -> Result<Box<dyn Staged>, StoreError> {
        self.write(kind, path)?;
        Disk.stage(kind, path)
    }
}
