//! Opening a hospital's files: never outside their folder, and with an honest reason when it fails.
//!
//! "I may not read it" and "it cannot be read" are different things. A hospital that was told the second
//! when the first was true deleted good cases.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::local::LocalPath;
use super::protocol::LONGEST_BODY;
use super::reason::Reason;

/// A data folder, with every link in its own path resolved.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// Finds the folder.
    pub fn open(folder: &Path) -> Result<Self, Reason> {
        let path = fs::canonicalize(folder).map_err(|error| refuse(&error, folder))?;
        if path.is_dir() { Ok(Self(path)) } else { Err(Reason::NotAFile) }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads a whole file of the folder, if it is not longer than what is decoded.
    pub fn read(&self, path: &LocalPath) -> Result<Vec<u8>, Reason> {
        whole(self.file(path)?, &self.0)
    }

    fn file(&self, path: &LocalPath) -> Result<File, Reason> {
        let named = self.0.join(path.reveal());
        let is_link = fs::symlink_metadata(&named).map_err(|error| refuse(&error, &named))?.is_symlink();
        let found = fs::canonicalize(&named).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if is_link => Reason::BrokenLink,
            _ => refuse(&error, &named),
        })?;
        if !found.starts_with(&self.0) {
            return Err(Reason::OutsideFolder);
        }
        open_file(&found)
    }
}

/// Reads a whole file that a person names, wherever it lies, if it is not longer than what is decoded.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Reason> {
    let is_link = fs::symlink_metadata(path).map_err(|error| refuse(&error, path))?.is_symlink();
    let file = open_file(path).map_err(|reason| match reason {
        Reason::Missing if is_link => Reason::BrokenLink,
        reason => reason,
    })?;
    whole(file, path)
}

fn whole(file: File, path: &Path) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::new();
    let limit = u64::from(LONGEST_BODY) + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| refuse(&error, path))?;
    if bytes.len() as u64 == limit { Err(Reason::TooLarge) } else { Ok(bytes) }
}

/// Opens an ordinary file for reading. Opening a pipe or device would wait for somebody, so those are
/// opened without waiting and refused.
pub fn open_file(path: &Path) -> Result<File, Reason> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY).bits().cast_signed();
    let file =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| refuse(&error, path))?;
    let is_file = file.metadata().map_err(|error| refuse(&error, path))?.is_file();
    if is_file { Ok(file) } else { Err(Reason::NotAFile) }
}

fn refuse(error: &io::Error, path: &Path) -> Reason {
    classify(error, fs::metadata(path).ok().as_ref().map(Owned::of), geteuid().as_raw())
}

/// What decides who may read a file.
#[derive(Debug, Clone, Copy)]
struct Owned {
    owner: u32,
    mode: u32,
}

impl Owned {
    fn of(metadata: &Metadata) -> Self {
        Self { owner: metadata.uid(), mode: metadata.mode() }
    }
}

fn classify(error: &io::Error, file: Option<Owned>, user: u32) -> Reason {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Reason::Missing,
        Some(Errno::LOOP) => Reason::BrokenLink,
        Some(Errno::ACCESS | Errno::PERM) => match file {
            Some(file) if file.owner != user && file.mode & 0o444 != 0 => Reason::WrongOwner,
            _ => Reason::NoPermission,
        },
        Some(Errno::ISDIR | Errno::NXIO | Errno::NODEV) => Reason::NotAFile,
        // A mount that went away, a server that does not answer, a disk that fails: the storage's fault.
        _ => Reason::StorageUnreachable,
    }
}

/// The name of the user this program runs as, for messages that say who needs a permission.
pub fn user_name() -> String {
    let id = geteuid().as_raw();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id.to_string()).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("with the number {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn permission_owner_and_storage_are_told_apart() {
        let denied = io::Error::from(Errno::ACCESS);
        let file = |owner, mode| Some(Owned { owner, mode });
        assert_eq!(classify(&denied, file(1000, 0o100_000), 1000), Reason::NoPermission);
        assert_eq!(classify(&denied, file(7, 0o100_640), 1000), Reason::WrongOwner);
        assert_eq!(classify(&denied, file(7, 0o100_000), 1000), Reason::NoPermission);
        assert_eq!(classify(&denied, None, 1000), Reason::NoPermission);
        for errno in [Errno::STALE, Errno::IO, Errno::TIMEDOUT, Errno::NOTCONN, Errno::HOSTDOWN] {
            assert_eq!(classify(&io::Error::from(errno), None, 1000), Reason::StorageUnreachable);
        }
        assert_eq!(classify(&io::Error::from(Errno::NOENT), None, 1000), Reason::Missing);
    }

    #[test]
    fn links_and_pipes_are_told_apart_and_nothing_outside_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let inside = folder.path().join("data");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("file"), b"bytes").unwrap();
        symlink("file", inside.join("link")).unwrap();
        symlink("gone", inside.join("broken")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        symlink(outside.path(), inside.join("out")).unwrap();
        symlink(folder.path(), inside.join("up")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            inside.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let root = Root::open(&inside).unwrap();
        let read = |path: &str| root.read(&LocalPath::new(path));
        assert_eq!(read("file"), Ok(b"bytes".to_vec()));
        assert_eq!(read("link"), Ok(b"bytes".to_vec()));
        assert_eq!(read("gone"), Err(Reason::Missing));
        assert_eq!(read("file/x"), Err(Reason::Missing));
        assert_eq!(read("broken"), Err(Reason::BrokenLink));
        assert_eq!(read("loop"), Err(Reason::BrokenLink));
        assert_eq!(read("out"), Err(Reason::OutsideFolder));
        assert_eq!(read("up/data/file"), Ok(b"bytes".to_vec()));
        assert_eq!(read("pipe"), Err(Reason::NotAFile));
        assert_eq!(read("."), Err(Reason::NotAFile));
    }

    #[test]
    fn the_user_has_a_name() {
        assert!(!user_name().is_empty());
    }
}
