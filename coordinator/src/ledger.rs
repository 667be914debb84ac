//! The ledger on disk: a C2SP log folder that any web server may publish.
//!
//! Statements are first committed with the state that they belong to ([`pending`]) and then appended here, so a
//! crash between the two loses none: [`Ledger::append_pending`] does the rest at the next start. Appending a
//! statement twice is harmless.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use consilium_ledger::checkpoint::Checkpoint;
use consilium_ledger::entry::Kind;
use consilium_ledger::files::Files;
use consilium_ledger::log::{AppendError, Log, Step};
use consilium_ledger::reader::{LogError, LogReader};
use consilium_ledger::record::{Record, UnreadableRecord};
use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::name::ConsortiumName;
use consilium_study::sign::{SigningKey, VerifyingKey};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::blobs::{Blobs, sync_folder};
use crate::durable::durable;
use crate::store::{Store, StoreError, Table, Transaction};

/// The log and the folder it is kept in.
pub struct Ledger {
    folder: PathBuf,
    blobs: Blobs,
    key: Arc<SigningKey>,
    log: Mutex<Log>,
}

/// Why the ledger cannot be used. The coordinator stops: it never acts without recording.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The folder holds a log that does not verify.
    #[error("the ledger does not verify: {0}. Restore its folder from a backup")]
    Log(#[from] LogError),
    /// A statement that no log takes.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The disk.
    #[error("the ledger's folder {folder} cannot be used: {source}", folder = folder.display())]
    Disk {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The record store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pending statement that cannot be read back.
    #[error("a statement waiting for the ledger cannot be read: {0}")]
    Pending(#[from] NotCanonical),
    /// The same, of a pending statement's content.
    #[error(transparent)]
    Record(#[from] UnreadableRecord),
}

/// A statement that waits to be appended.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Pending {
    #[n(0)]
    kind: Kind,
    #[n(1)]
    statement: ByteVec,
    #[n(2)]
    at_ms: u64,
}

/// The records of a transaction that will be appended to the ledger once it is committed. `sequence` orders them
/// among all that wait.
pub fn pending(records: &[Record], now_ms: u64, sequence: &mut u64) -> Transaction {
    records.iter().fold(Transaction::new(), |transaction, record| {
        let statement = record.to_statement().into();
        let value = Pending { kind: record.kind(), statement, at_ms: now_ms }.to_canonical();
        *sequence += 1;
        transaction.put(Table::Ledger, &sequence.to_be_bytes(), value)
    })
}

impl Ledger {
    /// Opens the log after checking all of it, or begins one.
    pub fn open(
        folder: &Path,
        origin: ConsortiumName,
        key: Arc<SigningKey>,
        blobs: Blobs,
    ) -> Result<Self, LedgerError> {
        let files = Folder(folder.to_owned());
        let disk = |source| LedgerError::Disk { folder: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(disk)?;
        let begun = files.read(consilium_ledger::path::CHECKPOINT, u64::MAX).map_err(disk)?.is_some();
        let (log, steps) = if begun { Log::open(&files, origin, &key)? } else { Log::create(origin, &key) };
        let ledger = Self { folder: folder.to_owned(), blobs, key, log: Mutex::new(log) };
        ledger.perform(steps)?;
        Ok(ledger)
    }

    /// Checks all of the log and changes nothing. Returns the number of entries; 0 where none was begun.
    pub fn check(folder: &Path, origin: &ConsortiumName, key: &VerifyingKey) -> Result<u64, LedgerError> {
        let files = Folder(folder.to_owned());
        match LogReader::open(&files) {
            Ok(log) => Ok(log.authenticate(origin, key)?.size),
            Err(LogError::NoCheckpoint) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends everything that committed transactions left waiting.
    pub fn append_pending(&self, store: &dyn Store) -> Result<(), LedgerError> {
        // One at a time: what waits is appended in the order of its commits.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = store.scan(Table::Ledger, &[])?;
        if waiting.is_empty() {
            return Ok(());
        }
        let mut done = Transaction::new();
        for (key, value) in waiting {
            let pending = Pending::from_canonical(&value)?;
            let record = Record::read(pending.kind, &pending.statement)?;
            let appended = log.append(&[record], pending.at_ms, &self.key)?;
            self.perform(appended.steps)?;
            done = done.remove(Table::Ledger, &key);
        }
        store.commit("ledger-appended", done)?;
        Ok(())
    }

    /// Size and root as they are now.
    pub fn checkpoint(&self) -> Checkpoint {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).checkpoint()
    }

    /// One file of the log's folder, if its path is one that a log has.
    pub fn file(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let known = path == consilium_ledger::path::CHECKPOINT
            || consilium_ledger::path::Named::parse(path).is_some();
        if known { Folder(self.folder.clone()).read(path, MAX_FILE) } else { Ok(None) }
    }

    fn perform(&self, steps: Vec<Step>) -> Result<(), LedgerError> {
        for step in steps {
            let outcome = match step {
                Step::Keep(blob) => self.blobs.put(&blob.bytes).map(|_| ()),
                Step::Write { path, bytes } => durable("ledger-file", || self.replace(&path, &bytes)),
                Step::Remove { path } => durable("ledger-remove", || self.remove(&path)),
            };
            outcome.map_err(|source| LedgerError::Disk { folder: self.folder.clone(), source })?;
        }
        Ok(())
    }

    fn replace(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.folder.join(path);
        let folder = target.parent().expect("a file of a log lies in its folder");
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".part-").tempfile_in(folder)?;
        io::Write::write_all(&mut file, bytes)?;
        file.as_file().sync_all()?;
        // Other people's web servers read this folder.
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(&target)?;
        sync_folder(folder)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let target = self.folder.join(path);
        let outcome = if target.is_dir() { fs::remove_dir_all(&target) } else { fs::remove_file(&target) };
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Largest file of a log: a full bundle of entries.
const MAX_FILE: u64 = 256 * (64 << 10);

/// Read access to a log's folder.
struct Folder(PathBuf);

impl Files for Folder {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match fs::File::open(self.0.join(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{path} is longer than {limit} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if let Ok(path) = entry.path().strip_prefix(&self.0) {
                    found.push(path.to_string_lossy().into_owned());
                }
            }
        }
        Ok(found)
    }
}
