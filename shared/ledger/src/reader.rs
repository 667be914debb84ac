//! Reading a log: every entry is hashed and compared with the tiles and with the root in the checkpoint.
//!
//! [`LogReader::open`] reads the whole log once and keeps its hashes; entries are read again when they
//! are asked for, and compared with those hashes again. Nothing is allocated by a size that a checkpoint
//! or a bundle claims: a claim that is not true ends at the first file that is not there.

use std::io;

use consilium_study::canonical::NotCanonical;
use consilium_study::name::ConsortiumName;
use consilium_study::sign::VerifyingKey;

use crate::bundle::{self, MAX_BUNDLE};
use crate::checkpoint::{Checkpoint, CheckpointError, ClaimedCheckpoint};
use crate::describe::counted;
use crate::entry::{Entry, Kind};
use crate::files::Files;
use crate::path::{Bundle, CHECKPOINT, Named, Tile, WIDTH, new_tiles};
use crate::tree::{Tree, leaf_hash};

/// Longest checkpoint that is read.
const MAX_CHECKPOINT: u64 = 64 * 1024;

/// Bytes of a full tile.
const FULL_TILE: u64 = 256 * 32;

/// A log whose entries, tiles and root agree. Who signed the root is told by [`LogReader::authenticate`].
pub struct LogReader<'f, F> {
    files: &'f F,
    tree: Tree,
    checkpoint: ClaimedCheckpoint,
}

impl<'f, F: Files> LogReader<'f, F> {
    /// Reads the log and compares everything with the root that its checkpoint claims.
    pub fn open(files: &'f F) -> Result<Self, LogError> {
        let bytes = read(files, CHECKPOINT, MAX_CHECKPOINT)?;
        let bytes = bytes.ok_or(LogError::NoCheckpoint)?;
        let checkpoint = ClaimedCheckpoint::parse(&bytes)?;
        let mut tree = Tree::new();
        for bundle in Bundle::all(checkpoint.claim().size) {
            for entry in read_bundle(files, bundle)? {
                tree.push(leaf_hash(&entry)).expect("a checkpoint claims no more than a log may have");
            }
        }
        let reader = Self { files, tree, checkpoint };
        if reader.tree.root() != reader.checkpoint.claim().root {
            return Err(reader.blame()?);
        }
        for tile in new_tiles(0, reader.size()) {
            let want = reader.tree.tile(tile).expect("the tree has all entries of the log");
            if read_tile(files, tile)? != want {
                return Err(LogError::Tile { path: tile.path() });
            }
        }
        Ok(reader)
    }

    /// What the checkpoint says, its signature unchecked.
    pub fn claim(&self) -> &Checkpoint {
        self.checkpoint.claim()
    }

    /// Checks whose log this is and who signed its checkpoint.
    pub fn authenticate(&self, origin: &ConsortiumName, key: &VerifyingKey) -> Result<Checkpoint, LogError> {
        Ok(self.checkpoint.verify(origin, key)?)
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The tree over the entries, for proofs.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// One entry.
    pub fn entry(&self, index: u64) -> Result<Entry, LogError> {
        let size = self.size();
        if index >= size {
            return Err(LogError::NoSuchEntry { index, size });
        }
        let bundle = Bundle::all(size)
            .nth(usize::try_from(index / WIDTH).unwrap_or(usize::MAX))
            .expect("every entry is in a bundle");
        let mut entries = self.bundle(bundle)?;
        parse(index, &entries.swap_remove((index % WIDTH) as usize))
    }

    /// All entries in order, with their indexes.
    pub fn entries(&self) -> impl Iterator<Item = Result<(u64, Entry), LogError>> {
        Bundle::all(self.size()).flat_map(move |bundle| {
            let (entries, failed) = match self.bundle(bundle) {
                Ok(entries) => (entries, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let first = bundle.index() * WIDTH;
            let parsed = (first..).zip(entries).map(|(index, bytes)| Ok((index, parse(index, &bytes)?)));
            parsed.chain(failed)
        })
    }

    /// Compares *every* file in the folder with the log, also those that a reader need not open. Returns
    /// the names of files that are no part of the log: rests of an append that was cut short, and others.
    pub fn check_folder(&self) -> Result<Vec<String>, LogError> {
        let listed =
            self.files.list().map_err(|source| LogError::Storage { path: ".".to_owned(), source })?;
        let mut others = Vec::new();
        for path in listed {
            let (want, limit) = match Named::parse(&path) {
                Some(Named::Checkpoint) => continue,
                Some(Named::Tile(tile)) => (self.tree.tile(tile), FULL_TILE),
                Some(Named::Bundle(bundle)) => (self.prefix(bundle)?, MAX_BUNDLE),
                None => (None, 0),
            };
            match want {
                None => others.push(path),
                Some(want) if read(self.files, &path, limit)?.as_ref() == Some(&want) => {}
                Some(_) => return Err(LogError::Tile { path }),
            }
        }
        others.sort();
        Ok(others)
    }

    /// What a bundle has to hold, if its entries are all in the log.
    fn prefix(&self, bundle: Bundle) -> Result<Option<Vec<u8>>, LogError> {
        let Some(whole) = Bundle::all(self.size()).find(|whole| whole.index() == bundle.index()) else {
            return Ok(None);
        };
        if bundle.width() > whole.width() {
            return Ok(None);
        }
        let entries = self.bundle(whole)?;
        Ok(Some(bundle::encode(&entries[..usize::from(bundle.width())])))
    }

    /// The entries of a bundle, each compared with its hash in the tree.
    fn bundle(&self, bundle: Bundle) -> Result<Vec<Vec<u8>>, LogError> {
        let entries = read_bundle(self.files, bundle)?;
        for (index, entry) in (bundle.index() * WIDTH..).zip(&entries) {
            if self.tree.leaf(index) != Some(leaf_hash(entry)) {
                return Err(LogError::Entry { index, kind: Entry::glimpse(entry) });
            }
        }
        Ok(entries)
    }

    /// The entries do not lead to the root. If the tiles do, they tell which entry was changed.
    fn blame(&self) -> Result<LogError, LogError> {
        let mut tiles = Tree::new();
        for tile in new_tiles(0, self.size()).into_iter().filter(|tile| tile.level() == 0) {
            for hash in read_tile(self.files, tile)?.chunks_exact(32) {
                let hash = hash.try_into().expect("chunks of 32 bytes");
                tiles.push(consilium_study::hash::Hash::from_bytes(hash)).expect("a log may have that many");
            }
        }
        if tiles.size() != self.size() || tiles.root() != self.claim().root {
            return Ok(LogError::Root { size: self.size() });
        }
        let differs = |index: &u64| self.tree.leaf(*index) != tiles.leaf(*index);
        let index = (0..self.size()).find(differs).expect("equal leaves have equal roots");
        let bundle = Bundle::all(self.size()).nth((index / WIDTH) as usize).expect("it was just read");
        let entry = &read_bundle(self.files, bundle)?[(index % WIDTH) as usize];
        Ok(LogError::Entry { index, kind: Entry::glimpse(entry) })
    }
}

fn parse(index: u64, bytes: &[u8]) -> Result<Entry, LogError> {
    Entry::parse(bytes).map_err(|cause| LogError::NotAnEntry { index, cause })
}

fn read(files: &impl Files, path: &str, limit: u64) -> Result<Option<Vec<u8>>, LogError> {
    files.read(path, limit).map_err(|source| LogError::Storage { path: path.to_owned(), source })
}

/// A partial file may be gone once the full one is there (a folder copied while its log grew).
fn read_grown(files: &impl Files, path: &str, full: &str, limit: u64) -> Result<(Vec<u8>, bool), LogError> {
    if let Some(bytes) = read(files, path, limit)? {
        return Ok((bytes, path == full));
    }
    match read(files, full, limit)? {
        Some(bytes) => Ok((bytes, true)),
        None => Err(LogError::Missing { path: path.to_owned() }),
    }
}

fn read_tile(files: &impl Files, tile: Tile) -> Result<Vec<u8>, LogError> {
    let full = Tile::new(tile.level(), tile.index(), 256).expect("256 is a width").path();
    let (mut bytes, is_full) = read_grown(files, &tile.path(), &full, FULL_TILE)?;
    let length = usize::from(tile.width()) * 32;
    if is_full && bytes.len() as u64 == FULL_TILE {
        bytes.truncate(length);
    }
    if bytes.len() == length { Ok(bytes) } else { Err(LogError::Tile { path: tile.path() }) }
}

fn read_bundle(files: &impl Files, bundle: Bundle) -> Result<Vec<Vec<u8>>, LogError> {
    let full = Bundle::new(bundle.index(), 256).expect("256 is a width").path();
    let (bytes, is_full) = read_grown(files, &bundle.path(), &full, MAX_BUNDLE)?;
    let damaged =
        |read: usize| LogError::Bundle { path: bundle.path(), index: bundle.index() * WIDTH + read as u64 };
    let (entries, rest) = bundle::decode(&bytes, bundle.width()).map_err(damaged)?;
    if rest.is_empty() || (is_full && u64::from(bundle.width()) < WIDTH) {
        Ok(entries)
    } else {
        Err(damaged(entries.len() - 1))
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The storage failed.
    #[error("{path} cannot be read: {source}")]
    Storage {
        /// The file.
        path: String,
        /// What the storage says.
        source: io::Error,
    },
    /// There is no log, or its head is lost.
    #[error("checkpoint is missing: this is not the folder of a log")]
    NoCheckpoint,
    /// A file that the checkpoint needs.
    #[error("{path} is missing, and the checkpoint counts entries in it")]
    Missing {
        /// The file.
        path: String,
    },
    /// The checkpoint is not accepted.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A bundle that cannot be cut into entries.
    #[error("{path} is damaged at entry {index}: lengths and bytes do not fit")]
    Bundle {
        /// The file.
        path: String,
        /// The first entry that could not be read, or the last before bytes that belong to none.
        index: u64,
    },
    /// An entry was changed after it was recorded.
    #[error("entry {index}{} was changed: its bytes do not have the hash that the log was signed with",
        kind.map(|kind| format!(" ({kind})")).unwrap_or_default())]
    Entry {
        /// The entry.
        index: u64,
        /// Its kind, where the bytes still tell.
        kind: Option<Kind>,
    },
    /// A tile or an older form of a bundle was changed.
    #[error("{path} was changed: it is not what the entries of the log lead to")]
    Tile {
        /// The file.
        path: String,
    },
    /// Entries and checkpoint disagree, and no single entry is to blame.
    #[error("checkpoint: the root it names is not the root of the {} beside it", counted(*size, "entry", "entries"))]
    Root {
        /// Number of entries.
        size: u64,
    },
    /// An entry that is no entry, although the log was signed with it.
    #[error("entry {index} is not an entry: {cause}")]
    NotAnEntry {
        /// The entry.
        index: u64,
        /// What is wrong with its bytes.
        cause: NotCanonical,
    },
    /// Nobody recorded that.
    #[error("there is no entry {index}; the log has {}", counted(*size, "entry", "entries"))]
    NoSuchEntry {
        /// What was asked for.
        index: u64,
        /// Number of entries.
        size: u64,
    },
}
