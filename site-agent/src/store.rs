//! Every durable write of the agent, through one door.
//!
//! The vault may be killed between any two instructions. What makes that harmless is decided here
//! once: a file is replaced whole (written aside, flushed, renamed, folder flushed), a journal only
//! grows, and nothing else writes. Because each write names what it writes, a test build can stop
//! the process before, inside and after every one of them (see `consilium_crash`); the list of those points
//! comes from the calls themselves.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What a durable write holds. The name is part of the crash points and of error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Names and public keys learnt at enrolment.
    Identity,
    /// A private key.
    PrivateKey,
    /// A TLS certificate.
    Certificate,
    /// `site.toml`, written once by `enrol`.
    Config,
    /// The site's own hash-chained record.
    Journal,
    /// State of one study.
    Study,
    /// State of the aggregation protocol of one study.
    Secagg,
    /// Survivors that bind this site, over all studies.
    RepeatBook,
    /// Chain keys of one study, apart from its state and from every backup.
    ChainKeys,
    /// The key that chain keys are sealed under, overwritten in place.
    ChainWrap,
    /// A person's answer to a proposal.
    Decision,
    /// A model fetched from the coordinator.
    Model,
    /// A model's bytes that arrived so far.
    PartialModel,
    /// A masked vector waiting to be uploaded.
    Spool,
    /// A site's own numbers in the local layers of one study.
    LocalLayers,
    /// A site's own control variate of one study.
    ControlVariate,
    /// A released model with the site's own layers in it, for the hospital's use.
    OwnModel,
    /// What the disclosure gate has told.
    Disclosure,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::PrivateKey => "private-key",
            Self::Certificate => "certificate",
            Self::Config => "config",
            Self::Journal => "journal",
            Self::Study => "study",
            Self::Secagg => "secagg",
            Self::RepeatBook => "repeat-book",
            Self::ChainKeys => "chain-keys",
            Self::ChainWrap => "chain-wrap",
            Self::Decision => "decision",
            Self::Model => "model",
            Self::PartialModel => "partial-model",
            Self::Spool => "spool",
            Self::LocalLayers => "local-layers",
            Self::ControlVariate => "control-variate",
            Self::OwnModel => "own-model",
            Self::Disclosure => "disclosure",
        })
    }
}

/// A durable write or read that the operating system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} the {kind} file {}: {source}", path.display())]
pub struct StoreError {
    /// `read`, `replace`, `append` …
    pub act: &'static str,
    /// What the file holds.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

/// Where durable state rests. Everything that survives a crash went through one of these calls, and
/// a call that returned has reached the disk.
pub trait Store: Send + Sync {
    /// The whole content of a file, or `None` where there is none.
    fn read(&self, kind: Kind, path: &Path) -> Result<Option<Vec<u8>>, StoreError>;

    /// Replaces a file whole: afterwards it holds `bytes`, and after a crash either those or what it held before.
    fn replace(&self, kind: Kind, path: &Path, bytes: &[u8]) -> Result<(), StoreError>;

    /// Adds bytes at the end of a file. After a crash a part of them may be there.
    fn append(&self, kind: Kind, path: &Path, bytes: &[u8]) -> Result<(), StoreError>;

    /// Writes bytes over those that stand at `offset`, in the same place of the disk where the file system does
    /// that. After a crash a part of them may be there.
    fn overwrite(&self, kind: Kind, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;

    /// Gives a file that was appended to its final name.
    fn promote(&self, kind: Kind, from: &Path, to: &Path) -> Result<(), StoreError>;

    /// Removes a file; a missing one counts as removed.
    fn remove(&self, kind: Kind, path: &Path) -> Result<(), StoreError>;

    /// Starts a file that is too large to hold in memory. It appears under its name only by [`Staged::commit`].
    fn stage(&self, kind: Kind, path: &Path) -> Result<Box<dyn Staged>, StoreError>;
}

/// A file being written. Dropped without `commit`, it never was.
pub trait Staged: Send {
    /// Adds bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Flushes the file and gives it its name.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// The file system. Files are readable by their owner only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Disk {
    /// Makes a folder, and those above it, that only its owner enters.
    pub fn make_folder(path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }
}

impl Store for Disk {
    fn read(&self, kind: Kind, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError { act: "read", kind, path: path.to_owned(), source }),
        }
    }

    fn replace(&self, kind: Kind, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let mut staged = StagedFile::create(kind, path)?;
        staged.write(bytes)?;
        Box::new(staged).commit()
    }

    fn append(&self, kind: Kind, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        point(kind, "append", "before");
        let existed = path.exists();
        let result = path
            .parent()
            .map_or(Ok(()), Disk::make_folder)
            .and_then(|()| OpenOptions::new().append(true).create(true).mode(0o600).open(path))
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_data()
            })
            .and_then(|()| if existed { Ok(()) } else { flush_folder_of(path) });
        result.map_err(|source| StoreError { act: "append to", kind, path: path.to_owned(), source })?;
        point(kind, "append", "after");
        Ok(())
    }

    fn overwrite(&self, kind: Kind, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        point(kind, "overwrite", "before");
        let existed = path.exists();
        path.parent()
            .map_or(Ok(()), Disk::make_folder)
            .and_then(|()| {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(false).mode(0o600).open(path)
            })
            .and_then(|file| {
                file.write_all_at(bytes, offset)?;
                file.sync_data()
            })
            .and_then(|()| if existed { Ok(()) } else { flush_folder_of(path) })
            .map_err(|source| StoreError { act: "overwrite", kind, path: path.to_owned(), source })?;
        point(kind, "overwrite", "after");
        Ok(())
    }

    fn promote(&self, kind: Kind, from: &Path, to: &Path) -> Result<(), StoreError> {
        point(kind, "promote", "before");
        fs::rename(from, to).and_then(|()| flush_folder_of(to)).map_err(|source| StoreError {
            act: "promote",
            kind,
            path: to.to_owned(),
            source,
        })?;
        point(kind, "promote", "after");
        Ok(())
    }

    fn remove(&self, kind: Kind, path: &Path) -> Result<(), StoreError> {
        point(kind, "remove", "before");
        let result = match fs::remove_file(path) {
            Ok(()) => flush_folder_of(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        result.map_err(|source| StoreError { act: "remove", kind, path: path.to_owned(), source })?;
        point(kind, "remove", "after");
        Ok(())
    }

    fn stage(&self, kind: Kind, path: &Path) -> Result<Box<dyn Staged>, StoreError> {
        Ok(Box::new(StagedFile::create(kind, path)?))
    }
}

/// A file beside its final name.
struct StagedFile {
    kind: Kind,
    path: PathBuf,
    aside: PathBuf,
    file: File,
    committed: bool,
}

impl StagedFile {
    fn create(kind: Kind, path: &Path) -> Result<Self, StoreError> {
        point(kind, "replace", "before");
        let aside = aside(path);
        let opened = path.parent().map_or(Ok(()), Disk::make_folder).and_then(|()| {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)
        });
        match opened {
            Ok(file) => Ok(Self { kind, path: path.to_owned(), aside, file, committed: false }),
            Err(source) => Err(StoreError { act: "write", kind, path: aside, source }),
        }
    }

    fn error(&self, act: &'static str, source: io::Error) -> StoreError {
        StoreError { act, kind: self.kind, path: self.path.clone(), source }
    }
}

impl Staged for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|source| self.error("write", source))
    }

    fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|source| self.error("flush", source))?;
        point(self.kind, "replace", "staged");
        fs::rename(&self.aside, &self.path).map_err(|source| self.error("replace", source))?;
        self.committed = true;
        point(self.kind, "replace", "renamed");
        flush_folder_of(&self.path).map_err(|source| self.error("flush the folder of", source))?;
        point(self.kind, "replace", "after");
        Ok(())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed {
            // Left behind only by a crash; the next write of the same file overwrites it.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

/// The name under which a file is written before it gets its own.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn flush_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// A durable write passes here before, inside and after.
fn point(kind: Kind, act: &str, when: &str) {
    consilium_crash::point(|| format!("agent.{kind}.{act}.{when}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_whole_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state");
        assert_eq!(Disk.read(Kind::Study, &path).unwrap(), None);
        Disk.replace(Kind::Study, &path, b"one").unwrap();
        Disk.replace(Kind::Study, &path, b"two").unwrap();
        assert_eq!(Disk.read(Kind::Study, &path).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_staged_file_that_is_not_committed_never_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        Disk.replace(Kind::Spool, &path, b"old").unwrap();
        let mut staged = Disk.stage(Kind::Spool, &path).unwrap();
        staged.write(b"half").unwrap();
        drop(staged);
        assert_eq!(Disk.read(Kind::Spool, &path).unwrap().unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_aside_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(aside(&path), b"a long half-written file").unwrap();
        Disk.replace(Kind::Study, &path, b"new").unwrap();
        assert_eq!(Disk.read(Kind::Study, &path).unwrap().unwrap(), b"new");
    }

    #[test]
    fn appending_grows_and_removing_twice_is_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        Disk.append(Kind::Journal, &path, b"a").unwrap();
        Disk.append(Kind::Journal, &path, b"b").unwrap();
        assert_eq!(Disk.read(Kind::Journal, &path).unwrap().unwrap(), b"ab");
        Disk.remove(Kind::Journal, &path).unwrap();
        Disk.remove(Kind::Journal, &path).unwrap();
        assert_eq!(Disk.read(Kind::Journal, &path).unwrap(), None);
    }

    #[test]
    fn an_error_names_act_kind_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = Disk.replace(Kind::ChainKeys, folder.path(), b"x").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("chain-keys") && text.contains("cannot replace"), "{text}");
    }
}
