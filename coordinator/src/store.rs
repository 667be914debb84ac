//! Records of the coordinator: explicit transactions, flushed before anybody is told.
//!
//! What repeats after a crash: nothing that a committed transaction holds. What is lost: an event whose
//! transaction was not committed; its sender was not answered and sends it again.

use std::path::{Path, PathBuf};

use crate::durable::durable;

/// What a record is about. The discriminant is the first byte of its key on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Site name → its certificates and when it was last heard.
    Sites = 1,
    /// Site name → open invitation.
    Invitations = 2,
    /// Site name → request for admission or admission.
    Enrolments = 3,
    /// Study hash → state of the study's machine.
    Studies = 4,
    /// Study hash and number → event shown to watchers.
    Events = 5,
    /// Certificate serial → revocation.
    Revocations = 6,
    /// Index → ledger entry that may not be in the ledger's folder yet.
    Ledger = 7,
    /// Single values: the roster, the ledger's size.
    Meta = 8,
}

/// Changes that are made together or not at all.
#[derive(Debug, Default)]
pub struct Transaction {
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Transaction {
    /// A transaction without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a record.
    #[must_use]
    pub fn put(mut self, table: Table, key: &[u8], value: Vec<u8>) -> Self {
        self.writes.push((full_key(table, key), Some(value)));
        self
    }

    /// Removes a record.
    #[must_use]
    pub fn remove(mut self, table: Table, key: &[u8]) -> Self {
        self.writes.push((full_key(table, key), None));
        self
    }

    /// Nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Adds the changes of another transaction.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.writes.extend(other.writes);
        self
    }
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table as u8], key].concat()
}

/// Key and value of a record.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Where records live.
pub trait Store: Send + Sync {
    /// One record.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// All records of a table whose key starts with `prefix`, in the order of their keys.
    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<Entry>, StoreError>;

    /// Makes all changes and returns when they are on disk. `name` is the name of this write in crash tests.
    fn commit(&self, name: &str, transaction: Transaction) -> Result<(), StoreError>;
}

/// Why the record store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("another coordinator uses {} already; stop that one first", .0.display())]
    InUse(PathBuf),
    /// The disk is full, or broken.
    #[error("the record store cannot be used: {0}. Check the disk, then start the coordinator again")]
    Failed(#[from] sled::Error),
}

/// The embedded store.
pub struct SledStore {
    tree: sled::Db,
}

impl SledStore {
    /// Opens or creates the store in a folder. A second process is refused by a lock that dies with its holder.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        // Every commit flushes, so the background flush has nothing to do; the cache is small because
        // models and updates are files, not records.
        let config = sled::Config::new().path(folder).cache_capacity(16 << 20).flush_every_ms(None);
        let tree = config.open().map_err(|error| {
            // The library says it in words only.
            let in_use =
                matches!(&error, sled::Error::Io(io) if io.to_string().contains("could not acquire lock"));
            if in_use { StoreError::InUse(folder.to_owned()) } else { error.into() }
        })?;
        Ok(Self { tree })
    }
}

impl Store for SledStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tree.get(full_key(table, key))?.map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<Entry>, StoreError> {
        self.tree
            .scan_prefix(full_key(table, prefix))
            .map(|record| {
                record.map(|(key, value)| (key[1..].to_vec(), value.to_vec())).map_err(StoreError::Failed)
            })
            .collect()
    }

    fn commit(&self, name: &str, transaction: Transaction) -> Result<(), StoreError> {
        durable(name, || {
            let mut batch = sled::Batch::default();
            for (key, value) in transaction.writes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            self.tree.apply_batch(batch)?;
            self.tree.flush()?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_all_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let first =
            Transaction::new().put(Table::Sites, b"a", b"1".to_vec()).put(Table::Meta, b"a", b"2".to_vec());
        store.commit("first", first).unwrap();
        store.commit("second", Transaction::new().remove(Table::Sites, b"a")).unwrap();
        let second = SledStore::open(folder.path()).map(|_| ());
        assert!(matches!(second, Err(StoreError::InUse(_))), "{second:?}");
        drop(store);
        let store = SledStore::open(folder.path()).unwrap();
        assert_eq!(store.get(Table::Sites, b"a").unwrap(), None);
        assert_eq!(store.get(Table::Meta, b"a").unwrap(), Some(b"2".to_vec()));
    }

    #[test]
    fn tables_do_not_mix_and_scans_are_ordered() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let rows =
            [(Table::Events, b"x2"), (Table::Events, b"x1"), (Table::Events, b"y1"), (Table::Ledger, b"x3")];
        let all = rows.iter().fold(Transaction::new(), |t, (table, key)| t.put(*table, *key, key.to_vec()));
        store.commit("rows", all).unwrap();
        let found: Vec<_> =
            store.scan(Table::Events, b"x").unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(found, [b"x1", b"x2"]);
    }
}
