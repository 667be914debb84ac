//! Appending to a log.
//!
//! The log is a value; what has to be written comes out as [`Step`]s. Done in their order, each one whole
//! (a file is written beside its place, flushed, and renamed into it), a crash between any two leaves a
//! log that can be read: blobs come before the entries that name them, entries and tiles before the
//! checkpoint that needs them, and what an older checkpoint needs goes last.
//!
//! Recording a statement twice is harmless: a statement that is in the log already is not added again.
//! So a coordinator that is unsure after a crash records again what it was about to record.

use std::collections::BTreeMap;

use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::ConsortiumName;
use consilium_study::sign::SigningKey;

use crate::bundle;
use crate::checkpoint::Checkpoint;
use crate::entry::{Blob, Entry, Kind, MAX_ENTRY, TooLong};
use crate::files::Files;
use crate::path::{Bundle, CHECKPOINT, Named, WIDTH, new_tiles};
use crate::reader::{LogError, LogReader};
use crate::record::Record;
use crate::tree::{MAX_SIZE, Tree, leaf_hash};

/// One write of an append, to be done whole and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Keep this blob under its hash.
    Keep(Blob),
    /// Write this file of the log's folder, in place of one of the same name.
    Write {
        /// Path within the folder.
        path: String,
        /// All of its bytes.
        bytes: Vec<u8>,
    },
    /// Remove this file or folder with all in it; nothing to do if it is not there.
    Remove {
        /// Path within the folder.
        path: String,
    },
}

/// What an append did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the steps have to be written"]
pub struct Appended {
    /// The entry of each record, in the order given: a new one, or the one it has had.
    pub indexes: Vec<u64>,
    /// What to write. Empty if every record was in the log already.
    pub steps: Vec<Step>,
}

/// A log that can grow. If a step of an append fails, drop this value and open the log again: it is ahead
/// of its files.
pub struct Log {
    origin: ConsortiumName,
    tree: Tree,
    /// The entries of the last bundle, unless it is full.
    tail: Vec<Vec<u8>>,
    /// Entry of each recorded statement, by kind and plain hash of the statement.
    recorded: BTreeMap<(Kind, Hash), u64>,
}

impl Log {
    /// A new, empty log. Its checkpoint is to be written before anything else.
    pub fn create(origin: ConsortiumName, key: &SigningKey) -> (Self, Vec<Step>) {
        let log = Self { origin, tree: Tree::new(), tail: Vec::new(), recorded: BTreeMap::new() };
        let steps = vec![log.checkpoint_step(key)];
        (log, steps)
    }

    /// Opens a log after checking all of it. The steps remove what an append left behind that was cut
    /// short; they are to be done before the next append.
    pub fn open(
        files: &impl Files,
        origin: ConsortiumName,
        key: &SigningKey,
    ) -> Result<(Self, Vec<Step>), LogError> {
        let reader = LogReader::open(files)?;
        reader.authenticate(&origin, &key.verifying_key())?;
        let mut recorded = BTreeMap::new();
        let mut tail = Vec::new();
        for entry in reader.entries() {
            let (index, entry) = entry?;
            recorded.entry((entry.kind(), entry.statement_hash())).or_insert(index);
            if index >= reader.size() / WIDTH * WIDTH {
                tail.push(entry.to_canonical());
            }
        }
        let rests = reader.check_folder()?;
        let steps = rests
            .into_iter()
            .filter(|path| Named::parse(path).is_some())
            .map(|path| Step::Remove { path })
            .collect();
        Ok((Self { origin, tree: reader.tree().clone(), tail, recorded }, steps))
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The tree over the entries, for proofs.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Size and root as they are now.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { origin: self.origin.clone(), size: self.size(), root: self.tree.root() }
    }

    /// The entry that records this statement, if any does.
    pub fn find(&self, record: &Record) -> Option<u64> {
        self.recorded.get(&(record.kind(), Hash::of_bytes(&record.to_statement()))).copied()
    }

    /// Records statements, in their order, under one new checkpoint signed with `key`. The blobs that they
    /// name ([`Sealed::blobs`](crate::record::Sealed)) have to be kept already. On an error nothing has changed.
    pub fn append(
        &mut self,
        records: &[Record],
        now_ms: u64,
        key: &SigningKey,
    ) -> Result<Appended, AppendError> {
        let statements = records.iter().map(|record| (record.kind(), record.to_statement())).collect();
        self.append_statements(statements, now_ms, key)
    }

    pub(crate) fn append_statements(
        &mut self,
        statements: Vec<(Kind, Vec<u8>)>,
        now_ms: u64,
        key: &SigningKey,
    ) -> Result<Appended, AppendError> {
        let (old, mut size) = (self.size(), self.size());
        let mut added = BTreeMap::new();
        let (mut indexes, mut steps, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, statement) in statements {
            let id = (kind, Hash::of_bytes(&statement));
            if let Some(&index) = self.recorded.get(&id).or_else(|| added.get(&id)) {
                indexes.push(index);
                continue;
            }
            if size >= MAX_SIZE {
                return Err(AppendError::Full);
            }
            let (entry, blob) = Entry::new(kind, statement, now_ms)?;
            let entry = entry.to_canonical();
            debug_assert!(entry.len() <= MAX_ENTRY);
            steps.extend(blob.map(Step::Keep));
            entries.push(entry);
            added.insert(id, size);
            indexes.push(size);
            size += 1;
        }
        if entries.is_empty() {
            return Ok(Appended { indexes, steps });
        }
        for entry in &entries {
            self.tree.push(leaf_hash(entry)).expect("the size was checked");
        }
        self.recorded.append(&mut added);
        self.tail.append(&mut entries);
        let grown = self.grow_bundles(old);
        let full = grown.iter().filter(|(bundle, _)| u64::from(bundle.width()) == WIDTH);
        let mut removals: Vec<_> = full.map(|(bundle, _)| bundle.partials()).collect();
        for (bundle, bytes) in grown {
            steps.push(Step::Write { path: bundle.path(), bytes });
        }
        for tile in new_tiles(old, size) {
            let bytes = self.tree.tile(tile).expect("the tree has grown to this size");
            steps.push(Step::Write { path: tile.path(), bytes });
            if u64::from(tile.width()) == WIDTH {
                removals.push(tile.partials());
            }
        }
        steps.push(self.checkpoint_step(key));
        steps.extend(removals.into_iter().map(|path| Step::Remove { path }));
        Ok(Appended { indexes, steps })
    }

    /// The bundles that the entries in `tail` fill, the first one being that of entry `old`. Full ones
    /// leave the tail.
    fn grow_bundles(&mut self, old: u64) -> Vec<(Bundle, Vec<u8>)> {
        let mut grown = Vec::new();
        for index in old / WIDTH.. {
            let width = self.tail.len().min(WIDTH as usize);
            let Some(bundle) = Bundle::new(index, width as u16) else { break };
            grown.push((bundle, bundle::encode(&self.tail[..width])));
            if width < WIDTH as usize {
                break;
            }
            self.tail.drain(..width);
        }
        grown
    }

    fn checkpoint_step(&self, key: &SigningKey) -> Step {
        Step::Write { path: CHECKPOINT.to_owned(), bytes: self.checkpoint().sign(key) }
    }
}

/// Why statements were not recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// One of them is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The log has all entries that a log may have.
    #[error("the log has all the entries that a log may have")]
    Full,
}

#[cfg(test)]
mod tests;
