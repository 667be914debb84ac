//! Decoded pictures on disk, so that a file is decoded once per study size and not once per round.
//!
//! An entry is named by the hash of (version of the loader, format, target, content of the file). It is
//! written to a temporary name and renamed, ends with its own hash, and is used only if that is
//! right: a half-written or altered entry is a file to decode again, never a picture to train on. The folder
//! holds patients' pictures and belongs to the site agent alone.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use consilium_study::canonical::Canonical;
use consilium_study::hash::{Hash, Hasher};
use minicbor::{Decode, Encode};

use super::decoder::Decoded;
use super::protocol::{Facts, Format};
use super::source::Target;

/// Raised whenever the same file would give other values.
const LOADER_VERSION: u32 = 1;

/// A folder of decoded pictures.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
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

impl Cache {
    /// Opens the folder, and makes it (mode 0700) if it is not there.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn path(&self, format: Format, target: Target, content: Hash) -> PathBuf {
        let key = Key { version: LOADER_VERSION, format, target, content };
        let name = Hash::of_value("decoded-picture", &key).to_string();
        self.folder.join(&name[..2]).join(name)
    }

    /// The decoded picture of a file with this content, if it is here and intact.
    pub fn get(&self, format: Format, target: Target, content: Hash) -> Option<Decoded> {
        let entry = fs::read(self.path(format, target, content)).ok()?;
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
        Some(Decoded { values, facts: Facts::from_canonical(facts).ok()? })
    }

    /// Keeps a decoded picture.
    pub fn put(&self, format: Format, target: Target, content: Hash, decoded: &Decoded) -> io::Result<()> {
        let mut entry = decoded.facts.to_canonical();
        entry.extend(decoded.values.iter().flat_map(|value| value.to_le_bytes()));
        let written = seal(&entry, content);
        entry.extend(written.as_bytes());
        let path = self.path(format, target, content);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&entry)?;
        fs::rename(&temporary, &path)
    }
}

fn seal(entry: &[u8], content: Hash) -> Hash {
    let mut hasher = Hasher::labelled("decoded-entry");
    hasher.update(content.as_bytes());
    hasher.update(entry);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::display::Shading;

    #[test]
    fn an_altered_entry_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let target = Target::new(1, 1, 2).unwrap();
        let content = Hash::of_bytes(b"file");
        let facts = Facts {
            format: "PNG".into(),
            rows: 1,
            columns: 2,
            bits: 8,
            shading: Shading::FullRange,
            turned: false,
            patient: None,
        };
        let decoded = Decoded { values: vec![0.25, 1.0], facts };
        assert_eq!(cache.get(Format::Raster, target, content), None);
        cache.put(Format::Raster, target, content, &decoded).unwrap();
        assert_eq!(cache.get(Format::Raster, target, content), Some(decoded));
        assert_eq!(cache.get(Format::Dicom, target, content), None);
        assert_eq!(cache.get(Format::Raster, Target::new(1, 2, 1).unwrap(), content), None);

        let path = cache.path(Format::Raster, target, content);
        let intact = fs::read(&path).unwrap();
        for index in 0..intact.len() {
            let mut altered = intact.clone();
            altered[index] ^= 1;
            fs::write(&path, &altered).unwrap();
            assert_eq!(cache.get(Format::Raster, target, content), None, "byte {index}");
        }
        fs::write(&path, &intact[..intact.len() / 2]).unwrap();
        assert_eq!(cache.get(Format::Raster, target, content), None);
    }
}
