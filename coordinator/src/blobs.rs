//! Content-addressed files: models, updates kept as evidence, and everything too large for a record.
//!
//! A file's name is the SHA-256 of its bytes. It is written beside its place, flushed, and renamed, so a name
//! that exists is whole; writing it again is harmless.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use consilium_study::hash::{Hash, Hasher};

use crate::durable::durable;

/// A folder of content-addressed files.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Opens or makes the folder, and removes what an interrupted write left behind.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where a file lies, whether it exists or not.
    pub fn path(&self, hash: &Hash) -> PathBuf {
        self.folder.join(hash.to_string())
    }

    /// Length of a file, if it is here.
    pub fn length(&self, hash: &Hash) -> Option<u64> {
        fs::metadata(self.path(hash)).ok().map(|metadata| metadata.len())
    }

    /// Stores bytes under their hash.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Hash> {
        let mut writer = self.writer()?;
        writer.write_all(bytes)?;
        writer.finish()
    }

    /// Stores bytes that belong to a file here under a name of their own, in place of what had the name before.
    pub fn put_named(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix("blob-").suffix(".part").tempfile_in(&self.folder)?;
        file.write_all(bytes)?;
        durable("card", || {
            file.as_file().sync_all()?;
            file.persist(self.folder.join(name))?;
            sync_folder(&self.folder)
        })
    }

    /// All bytes of a file.
    pub fn read(&self, hash: &Hash) -> io::Result<Vec<u8>> {
        fs::read(self.path(hash))
    }

    /// Up to `length` bytes from `offset`, and the length of the whole file.
    pub fn read_at(&self, hash: &Hash, offset: u64, length: usize) -> io::Result<(Vec<u8>, u64)> {
        let mut file = File::open(self.path(hash))?;
        let whole = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset.min(whole)))?;
        let mut bytes = Vec::new();
        file.take(length as u64).read_to_end(&mut bytes)?;
        Ok((bytes, whole))
    }

    /// Removes a file; one that is not there is fine.
    pub fn remove(&self, hash: &Hash) -> io::Result<()> {
        match fs::remove_file(self.path(hash)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes a file whose bytes arrive in pieces.
    pub fn writer(&self) -> io::Result<BlobWriter> {
        let file = tempfile::Builder::new().prefix("blob-").suffix(".part").tempfile_in(&self.folder)?;
        Ok(BlobWriter { file, hasher: Hasher::new(), length: 0, folder: self.folder.clone() })
    }
}

/// A content-addressed file in the making; dropped without [`BlobWriter::finish`], it leaves nothing.
pub struct BlobWriter {
    file: tempfile::NamedTempFile,
    hasher: Hasher,
    length: u64,
    folder: PathBuf,
}

impl BlobWriter {
    /// Bytes written until now.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Flushes, names the file by its hash and makes the name durable.
    pub fn finish(self) -> io::Result<Hash> {
        let hash = self.hasher.finish();
        durable("blob", || {
            self.file.as_file().sync_all()?;
            self.file.persist(self.folder.join(hash.to_string()))?;
            sync_folder(&self.folder)
        })?;
        Ok(hash)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes renames and removals in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_file_as_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let whole = blobs.put(b"hello world").unwrap();
        let mut writer = blobs.writer().unwrap();
        writer.write_all(b"hello ").unwrap();
        writer.write_all(b"world").unwrap();
        assert_eq!(writer.finish().unwrap(), whole);
        assert_eq!(whole, Hash::of_bytes(b"hello world"));
        assert_eq!(blobs.read_at(&whole, 6, 3).unwrap(), (b"wor".to_vec(), 11));
        assert_eq!(blobs.read_at(&whole, 99, 3).unwrap(), (Vec::new(), 11));
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        fs::write(folder.path().join("blob-x.part"), b"torn").unwrap();
        drop(blobs.writer().unwrap());
        let blobs = Blobs::open(folder.path()).unwrap();
        assert_eq!(fs::read_dir(&blobs.folder).unwrap().count(), 0);
    }
}
