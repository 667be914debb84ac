//! Masked vectors on their way in: one spool file for each study, attempt and vector, named by the Merkle root of its
//! chunks.
//!
//! After any interruption a site goes on at a whole chunk, because chunks are what its receipt commits to. Where
//! everything had arrived but nobody was told, the last chunk is sent once more: its arrival is what completes an
//! upload. An upload enters the sum only when it is complete and matches its receipt; a partial one never does, because taking it out again
//! would need both of its masks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use consilium_study::hash::Hash;

use crate::blobs::sync_folder;
use crate::durable::durable;

const CHUNK: u64 = consilium_proto::CHUNK as u64;

/// The folder of spool files.
#[derive(Debug, Clone)]
pub struct Uploads {
    folder: PathBuf,
}

/// Which masked vector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadName {
    /// Hash of the study.
    pub study: Hash,
    /// Number of the attempt.
    pub attempt: u64,
    /// Merkle root of its chunks, to which its receipt commits.
    pub vector: Hash,
}

impl Uploads {
    /// Opens or makes the folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn attempt_folder(&self, study: &Hash, attempt: u64) -> PathBuf {
        self.folder.join(study.short()).join(attempt.to_string())
    }

    /// Where the spool file lies.
    pub fn path(&self, name: &UploadName) -> PathBuf {
        self.attempt_folder(&name.study, name.attempt).join(name.vector.to_string())
    }

    /// Where an upload of `total` bytes goes on.
    pub fn offset(&self, name: &UploadName, total: u64) -> u64 {
        goes_on(fs::metadata(self.path(name)).map_or(0, |metadata| metadata.len()), total)
    }

    /// Opens the spool of an upload of `total` bytes for writing where it goes on. What lies behind that place is
    /// written over and never cut off: a second stream of the same upload cannot shorten what the first completed.
    pub fn appender(&self, name: &UploadName, total: u64) -> io::Result<Appender> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a spool lies in its attempt's folder"))?;
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let offset = goes_on(file.metadata()?.len(), total);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Appender { file, offset, path })
    }

    /// Opens a spool for reading.
    pub fn reader(&self, name: &UploadName) -> io::Result<File> {
        File::open(self.path(name))
    }

    /// The first of `chunks` whole chunks that is not what was written, by the word of `check`; a power failure may
    /// leave one. None where all of them are.
    pub fn first_damaged(
        &self,
        name: &UploadName,
        chunks: usize,
        check: impl Fn(usize, &[u8]) -> bool,
    ) -> io::Result<Option<usize>> {
        let mut spool = self.reader(name)?;
        for index in 0..chunks {
            if !check(index, &read_chunk(&mut spool, CHUNK as usize)?) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Throws one vector away.
    pub fn discard(&self, name: &UploadName) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.path(name)))
    }

    /// Throws away all vectors of a study but those of one attempt: a coordinator that was killed between giving
    /// an attempt up and throwing its vectors away has left them.
    pub fn keep_only(&self, study: &Hash, attempt: Option<u64>) -> io::Result<()> {
        let kept = attempt.map(|attempt| attempt.to_string());
        let attempts = match fs::read_dir(self.folder.join(study.short())) {
            Ok(attempts) => attempts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in attempts {
            let entry = entry?;
            if entry.file_name().to_str() != kept.as_deref() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Throws away all vectors of an attempt.
    pub fn discard_attempt(&self, study: &Hash, attempt: u64) -> io::Result<()> {
        ignore_missing(fs::remove_dir_all(self.attempt_folder(study, attempt)))
    }
}

/// The last beginning of a chunk of which something is still missing, or which is the last.
fn goes_on(held: u64, total: u64) -> u64 {
    let whole = held.min(total.saturating_sub(1));
    whole - whole % CHUNK
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// A spool file open where its upload goes on.
#[derive(Debug)]
pub struct Appender {
    file: File,
    offset: u64,
    path: PathBuf,
}

impl Appender {
    /// Bytes held.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything written durable.
    pub fn finish(self) -> io::Result<()> {
        durable("upload", || {
            self.file.sync_all()?;
            sync_folder(self.path.parent().expect("a spool lies in its attempt's folder"))
        })
    }
}

/// A file read from a place that is its own: several readers of one file do not move each other on.
#[derive(Debug)]
pub struct ReadAt<'a> {
    /// The file.
    pub file: &'a File,
    /// Where the next byte is read.
    pub offset: u64,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Reads up to `length` bytes; fewer only at the end of the file.
pub fn read_chunk(file: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    file.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_upload_goes_on_at_a_whole_chunk() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(folder.path()).unwrap();
        let name = UploadName { study: Hash::of_bytes(b"s"), attempt: 3, vector: Hash::of_bytes(b"v") };
        let whole: Vec<u8> = (0..2 * CHUNK + 5).map(|byte| byte as u8).collect();
        let total = whole.len() as u64;
        assert_eq!(uploads.offset(&name, total), 0);
        // Torn off in the middle of the second chunk.
        uploads.appender(&name, total).unwrap().append(&whole[..CHUNK as usize + 9]).unwrap();
        assert_eq!(uploads.offset(&name, total), CHUNK);
        let mut again = uploads.appender(&name, total).unwrap();
        assert_eq!(again.offset(), CHUNK);
        again.append(&whole[CHUNK as usize..]).unwrap();
        again.finish().unwrap();
        // All there, but nobody may know.
        assert_eq!(uploads.offset(&name, total), 2 * CHUNK);
        let mut last = uploads.appender(&name, total).unwrap();
        assert_eq!(uploads.reader(&name).unwrap().metadata().unwrap().len(), total, "nothing is cut off");
        last.append(&whole[last.offset() as usize..]).unwrap();
        last.finish().unwrap();
        let read = read_chunk(&mut uploads.reader(&name).unwrap(), whole.len() + 1).unwrap();
        assert!(read == whole, "the same bytes");
        let late = UploadName { attempt: 4, ..name.clone() };
        uploads.appender(&late, total).unwrap().finish().unwrap();
        uploads.keep_only(&name.study, Some(3)).unwrap();
        assert!(uploads.reader(&late).is_err() && uploads.reader(&name).is_ok());
        uploads.keep_only(&Hash::of_bytes(b"another study"), None).unwrap();
        uploads.discard_attempt(&name.study, 3).unwrap();
        uploads.discard(&name).unwrap();
        assert_eq!(uploads.offset(&name, total), 0);
    }

    #[test]
    fn a_damaged_chunk_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(folder.path()).unwrap();
        let name = UploadName { study: Hash::of_bytes(b"s"), attempt: 3, vector: Hash::of_bytes(b"v") };
        let written = |index: usize, bytes: &[u8]| {
            bytes.len() as u64 == CHUNK && bytes.iter().all(|byte| *byte == 7 + index as u8)
        };
        let mut spool = uploads.appender(&name, 3 * CHUNK).unwrap();
        for byte in [7, 8] {
            spool.append(&vec![byte; CHUNK as usize]).unwrap();
        }
        spool.finish().unwrap();
        assert_eq!(uploads.first_damaged(&name, 2, written).unwrap(), None);
        assert_eq!(uploads.first_damaged(&name, 3, written).unwrap(), Some(2), "it is not there");
        let file = OpenOptions::new().write(true).open(uploads.path(&name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], CHUNK + 4096).unwrap();
        assert_eq!(uploads.first_damaged(&name, 1, written).unwrap(), None);
        assert_eq!(uploads.first_damaged(&name, 2, written).unwrap(), Some(1));
    }

    #[test]
    fn a_vector_of_whole_chunks_repeats_its_last() {
        assert_eq!(goes_on(0, 2 * CHUNK), 0);
        assert_eq!(goes_on(CHUNK, 2 * CHUNK), CHUNK);
        assert_eq!(goes_on(2 * CHUNK, 2 * CHUNK), CHUNK);
        assert_eq!(goes_on(9 * CHUNK, 2 * CHUNK), CHUNK);
        assert_eq!(goes_on(5, 0), 0);
    }
}
