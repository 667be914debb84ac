//! Decoded pictures on disk, so that a file is decoded once per study size and not once per round.
//!
//! An entry is named by the hash of (format, target, content of the file) and lies in the folder of the loader's
//! version. It is written to a temporary name and renamed, ends with its own hash, and is used only if that is
//! right: a half-written or altered entry is a file to decode again, never a picture to train on. The folder
//! holds patients' pictures and belongs to the site agent alone.
//!
//! Entries never take more than their budget: for a new one those go that were not used for longest. The time of an
//! entry's last use is its file's time of change, which is set at each use, so the order outlives restarts and kills. One
//! process at a time writes; it holds a lock while its cache is open. Others only read what is there.
//!
//! ```text
//! lock             held by the process that writes
//! v1/ab/abcd…      entries of this version of the loader; folders of other versions go when the cache is opened
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use consilium_study::canonical::Canonical;
use consilium_study::hash::{Hash, Hasher};
use minicbor::{Decode, Encode};

use self::order::Order;
use super::decoder::Decoded;
use super::protocol::{Facts, Format};
use super::source::Target;

mod order;
#[cfg(test)]
mod tests;

/// Raised whenever the same file would give other values.
const LOADER_VERSION: u32 = 1;
/// File systems give a file whole blocks; a cache of small pictures is mostly that.
const BLOCK: u64 = 4096;

/// Where decoded pictures lie, and how much room they may take.
#[derive(Clone, Debug)]
pub struct Room {
    folder: PathBuf,
    budget: u64,
}

/// The decoded pictures of a [`Room`].
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// None where another process writes.
    writing: Option<Writing>,
}

/// What the process that writes knows.
#[derive(Debug)]
struct Writing {
    order: Mutex<Order>,
    /// Locked as long as this is open.
    _lock: File,
}

/// What an entry is named by.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Key {
    #[n(0)]
    version: u32,
    #[n(1)]
    format: Format,
    #[n(2)]
    target: Target,
    #[n(3)]
    content: Hash,
}

impl Room {
    /// `budget` bytes below `folder`; with 0 nothing is kept.
    pub fn new(folder: impl Into<PathBuf>, budget: u64) -> Self {
        Self { folder: folder.into(), budget }
    }

    /// Opens the folder, makes it (mode 0700) if it is not there, and counts what is in it. What an older loader made, what
    /// was being written when a process was killed, and what is over the budget goes.
    pub fn open(&self) -> io::Result<Cache> {
        make_folder(&self.folder)?;
        let lock = self.folder.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(lock)?;
        let is_ours = match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        let mut cache = Cache { folder: self.folder.join(version(LOADER_VERSION)), writing: None };
        if is_ours {
            self.clear(Some(&cache.folder))?;
            let order = cache.count(self.budget)?;
            cache.writing = Some(Writing { order: Mutex::new(order), _lock: lock });
        }
        Ok(cache)
    }

    /// Lets go of all pictures.
    pub fn empty(&self) -> io::Result<()> {
        self.clear(None)
    }

    /// Bytes that decoded pictures take now, in whole blocks.
    pub fn used(&self) -> io::Result<u64> {
        fn below(folder: &Path) -> io::Result<u64> {
            let mut used = 0;
            for (path, found) in list(folder)? {
                used += if found.is_dir() { below(&path)? } else { on_disk(found.len()) };
            }
            Ok(used)
        }
        below(&self.folder)
    }

    /// Removes the folders that this or an older agent made here, but for one, and nothing else.
    fn clear(&self, but: Option<&Path>) -> io::Result<()> {
        for (path, found) in list(&self.folder)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // Once, entries lay in the cache's folder itself.
            let is_unversioned = name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let is_version = name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
            if found.is_dir() && (is_version || is_unversioned) && but != Some(&*path) {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }
}

impl Cache {
    fn path(&self, name: &Hash) -> PathBuf {
        let name = name.to_string();
        self.folder.join(&name[..2]).join(name)
    }

    /// The decoded picture of a file with this content, if it is here and intact.
    pub fn get(&self, format: Format, target: Target, content: Hash) -> Option<Decoded> {
        let name = name(format, target, content);
        let mut file = File::open(self.path(&name)).ok()?;
        let mut entry = Vec::new();
        file.read_to_end(&mut entry).ok()?;
        let (entry, written) = entry.split_last_chunk::<32>()?;
        if seal(entry, content) != Hash::from_bytes(*written) {
            return None;
        }
        let split = entry.len().checked_sub(4 * format.values(target))?;
        let (facts, values) = entry.split_at(split);
        let values = values
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks have four bytes")))
            .collect();
        let decoded = Decoded { values, facts: Facts::from_canonical(facts).ok()? };
        // Where the time cannot be set, the entry goes earlier than it has to.
        let _ = file.set_modified(SystemTime::now());
        if let Some(writing) = &self.writing {
            writing.order.lock().unwrap_or_else(PoisonError::into_inner).touch(&name);
        }
        Some(decoded)
    }

    /// Keeps a decoded picture, if there can be room for it and no other process writes here.
    pub fn put(&self, format: Format, target: Target, content: Hash, decoded: &Decoded) -> io::Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
        let entry = entry(content, decoded);
        let (name, size) = (name(format, target, content), on_disk(entry.len() as u64));
        // Held to the end, so that what other threads write meanwhile has not been given the same room.
        let mut order = writing.order.lock().unwrap_or_else(PoisonError::into_inner);
        if !order.could_keep(size) {
            return Ok(());
        }
        // One that is written anew was damaged.
        self.let_go(&mut order, &name)?;
        self.make_room(&mut order, size)?;
        self.write(&name, &entry)?;
        order.add(name, size);
        Ok(())
    }

    fn write(&self, name: &Hash, entry: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        make_folder(path.parent().unwrap_or(&self.folder))?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        let written = file.and_then(|mut file| {
            file.write_all(entry)?;
            // By the clock that uses are told by.
            file.set_modified(SystemTime::now())?;
            fs::rename(&temporary, &path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes entries until there is room for `size` more.
    fn make_room(&self, order: &mut Order, size: u64) -> io::Result<()> {
        while let Some(oldest) = order.first_to_go(size) {
            self.let_go(order, &oldest)?;
        }
        Ok(())
    }

    fn let_go(&self, order: &mut Order, name: &Hash) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            // A person may empty the folder at any time.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => {
                order.remove(name);
                Ok(())
            }
        }
    }

    /// The entries that are here, once those over the budget are gone; leftovers of writing go too.
    fn count(&self, budget: u64) -> io::Result<Order> {
        let mut entries = Vec::new();
        for (folder, found) in list(&self.folder)? {
            if !found.is_dir() {
                continue;
            }
            for (path, found) in list(&folder)? {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                match name.parse::<Hash>() {
                    Ok(name) if found.is_file() && self.path(&name) == path => {
                        entries.push((found.modified()?, name, on_disk(found.len())));
                    }
                    Err(_) if found.is_file() && path.extension().is_some_and(|end| end == "tmp") => {
                        fs::remove_file(&path)?;
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        entries.sort_unstable();
        let mut order = Order::new(budget);
        for (_, name, size) in entries {
            order.add(name, size);
        }
        self.make_room(&mut order, 0)?;
        Ok(order)
    }
}

/// What is in a folder, links not followed. Nothing, where there is no such folder.
fn list(folder: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry?;
        match entry.metadata() {
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            metadata => found.push((entry.path(), metadata?)),
        }
    }
    Ok(found)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The folder of a version.
fn version(number: u32) -> String {
    format!("v{number}")
}

fn name(format: Format, target: Target, content: Hash) -> Hash {
    let key = Key { version: LOADER_VERSION, format, target, content };
    Hash::of_value("decoded-picture", &key)
}

fn on_disk(length: u64) -> u64 {
    length.div_ceil(BLOCK).saturating_mul(BLOCK)
}

fn entry(content: Hash, decoded: &Decoded) -> Vec<u8> {
    let mut entry = decoded.facts.to_canonical();
    entry.extend(decoded.values.iter().flat_map(|value| value.to_le_bytes()));
    let written = seal(&entry, content);
    entry.extend(written.as_bytes());
    entry
}

fn seal(entry: &[u8], content: Hash) -> Hash {
    let mut hasher = Hasher::labelled("decoded-entry");
    hasher.update(content.as_bytes());
    hasher.update(entry);
    hasher.finish()
}
