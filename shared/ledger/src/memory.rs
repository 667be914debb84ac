//! A log's folder in memory, for tests.

use std::collections::BTreeMap;
use std::io;

use consilium_study::hash::Hash;

use crate::files::{Blobs, Files};
use crate::log::Step;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Folder {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) blobs: BTreeMap<Hash, Vec<u8>>,
}

impl Folder {
    pub(crate) fn perform(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            match step {
                Step::Keep(blob) => drop(self.blobs.insert(blob.hash, blob.bytes)),
                Step::Write { path, bytes } => drop(self.files.insert(path, bytes)),
                Step::Remove { path } => {
                    let below = format!("{path}/");
                    self.files.retain(|name, _| *name != path && !name.starts_with(&below));
                }
            }
        }
    }
}

fn within(bytes: Option<&Vec<u8>>, limit: u64) -> io::Result<Option<Vec<u8>>> {
    match bytes {
        Some(bytes) if bytes.len() as u64 > limit => Err(io::Error::other("longer than the limit")),
        other => Ok(other.cloned()),
    }
}

impl Files for Folder {
    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        within(self.files.get(path), limit)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }
}

impl Blobs for Folder {
    fn blob(&self, hash: &Hash, limit: u64) -> io::Result<Option<Vec<u8>>> {
        within(self.blobs.get(hash), limit)
    }
}
