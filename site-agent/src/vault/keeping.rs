//! Where the aggregation protocol's state rests: its [`Store`](consilium_secagg::site::Store) over ours.
//!
//! The repeat book is written before the record that made it change. A crash in between leaves a book that
//! binds this site to survivors it has not signed yet: it will sign those and no others, which is the safe side.

use std::sync::Arc;

use anyhow::Context as _;
use consilium_secagg::site::{Persisted, RepeatBook, RestoreError, SiteMachine, Store as SecaggStore};
use consilium_study::hash::Hash;

use super::chainfile::{self, Which};
use crate::folder::SiteFolder;
use crate::store::{Kind, Store, StoreError};

/// The files of the protocol.
pub(super) struct Keeping {
    store: Arc<dyn Store>,
    folder: SiteFolder,
}

impl Keeping {
    pub(super) fn new(store: Arc<dyn Store>, folder: SiteFolder) -> Self {
        Self { store, folder }
    }

    /// The repeat book, empty where there is none yet.
    pub(super) fn read_book(&self) -> anyhow::Result<RepeatBook> {
        match self.store.read(Kind::RepeatBook, &self.folder.repeat_book())? {
            Some(bytes) => Ok(RepeatBook::restore(&bytes)?),
            None => Ok(RepeatBook::new()),
        }
    }

    /// Makes the machine of a study again from what was written. `restore` is given record and chain. After a
    /// crash there are two chains, and the one that goes with the record is found by trying: with the other
    /// one the machine has lost its epoch.
    pub(super) fn restore(
        &self,
        study: &Hash,
        restore: impl Fn(&[u8], Option<&[u8]>) -> Result<SiteMachine, RestoreError>,
    ) -> anyhow::Result<SiteMachine> {
        let files = self.folder.study(study);
        let record = self.store.read(Kind::Secagg, &files.secagg())?;
        let record = record.with_context(|| format!("the protocol's record of study {study} is missing"))?;
        let mut machine = None;
        for (which, chain) in chainfile::candidates(&*self.store, &files, study)? {
            let with_keys = restore(&record, Some(&chain))?;
            let fits = with_keys.epoch().is_some();
            machine = Some((which, with_keys));
            if fits {
                break;
            }
        }
        let Some((which, machine)) = machine else { return Ok(restore(&record, None)?) };
        match which {
            Which::Current => chainfile::abandon(&*self.store, &files)?,
            Which::Next => chainfile::commit(&*self.store, &files)?,
        }
        Ok(machine)
    }

    /// Writes a machine's state.
    pub(super) fn persist(
        &mut self,
        machine: &mut SiteMachine,
        book: &mut RepeatBook,
    ) -> Result<Persisted, StoreError> {
        machine.persist(book, self)
    }

    /// Erases the keys of a study that is over.
    pub(super) fn erase_keys(&self, study: &Hash) -> Result<(), StoreError> {
        chainfile::erase(&*self.store, &self.folder.study(study))
    }
}

impl SecaggStore for Keeping {
    type Error = StoreError;

    fn save_chain(&mut self, study: &Hash, chain: &[u8]) -> Result<(), StoreError> {
        chainfile::prepare(&*self.store, &self.folder.study(study), study, chain)
    }

    fn save_record(&mut self, study: &Hash, record: &[u8], book: Option<&[u8]>) -> Result<(), StoreError> {
        if let Some(book) = book {
            self.store.replace(Kind::RepeatBook, &self.folder.repeat_book(), book)?;
        }
        let files = self.folder.study(study);
        self.store.replace(Kind::Secagg, &files.secagg(), record)?;
        chainfile::commit(&*self.store, &files)
    }
}
