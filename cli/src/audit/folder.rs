//! The folder of an audit: log, blobs and models on disk.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::bail;
use consilium_ledger::files::{Blobs, Files};
use consilium_study::hash::{Hash, Hasher};

/// Where a bundle keeps its blobs.
const BLOBS: [&str; 3] = ["coordinator/data/blobs", "coordinator/blobs", "blobs"];

/// A bundle to be audited.
pub(super) struct Bundle {
    root: PathBuf,
    log: PathBuf,
    blobs: Vec<PathBuf>,
}

impl Bundle {
    /// Finds the log in a folder: in `ledger/`, or the folder is one itself.
    pub(super) fn open(root: &Path) -> anyhow::Result<Self> {
        let candidates = [root.join("ledger"), root.to_owned()];
        let Some(log) = candidates.into_iter().find(|log| log.join("checkpoint").is_file()) else {
            bail!(
                "{} holds no ledger: neither ledger/checkpoint nor checkpoint is there. Name the folder that `demo --keep` left, or the bundle",
                root.display()
            );
        };
        let blobs = BLOBS.iter().map(|name| root.join(name)).filter(|folder| folder.is_dir()).collect();
        Ok(Self { root: root.to_owned(), log, blobs })
    }

    /// The file with the consortium's public key.
    pub(super) fn key_file(&self) -> PathBuf {
        let within = self.root.join("consortium/consortium.pub");
        if within.is_file() { within } else { self.root.join("consortium.pub") }
    }

    /// The log's own folder.
    pub(super) fn log(&self) -> LogFolder<'_> {
        LogFolder(&self.log)
    }

    /// The models in the folder, with the hashes of their bytes.
    pub(super) fn models(&self) -> io::Result<Vec<(PathBuf, Hash)>> {
        let folder = self.root.join("models");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut models = Vec::new();
        for path in files_below(&folder)? {
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let hash = hash_of(&path)?;
                models.push((path, hash));
            }
        }
        models.sort();
        Ok(models)
    }

    /// A file with the bytes of a model.
    pub(super) fn find_model(&self, model: Hash) -> io::Result<Option<PathBuf>> {
        let files = self.among_blobs(&model.to_string())?.into_iter().chain(self.models()?);
        Ok(files.into_iter().find(|(_, hash)| *hash == model).map(|(path, _)| path))
    }

    /// The files of a name among the blobs, with the hashes of their bytes. Every folder of blobs may have one.
    pub(super) fn among_blobs(&self, name: &str) -> io::Result<Vec<(PathBuf, Hash)>> {
        let mut found = Vec::new();
        for folder in &self.blobs {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    let hash = hash_of(&path)?;
                    found.push((path, hash));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(found)
    }
}

impl Blobs for Bundle {
    fn blob(&self, hash: &Hash, limit: u64) -> io::Result<Option<Vec<u8>>> {
        for folder in &self.blobs {
            if let Some(bytes) = read(&folder.join(hash.to_string()), limit)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// A log's folder.
pub(super) struct LogFolder<'b>(&'b Path);

impl Files for LogFolder<'_> {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        read(&self.0.join(path), limit)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = files_below(self.0)?.into_iter().filter_map(|path| {
            let name = path.strip_prefix(self.0).ok()?;
            Some(name.to_string_lossy().into_owned())
        });
        Ok(names.collect())
    }
}

fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// Plain hash of a file of any length, read piece by piece.
fn hash_of(path: &Path) -> io::Result<Hash> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// All files below a folder. Links are not followed.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}
