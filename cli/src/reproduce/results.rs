//! Results on disk: a file for each cell, written when it is done. So a run that was stopped goes on where it was.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use consilium_files::write_public;
use consilium_study::hash::Hash;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::experiment::Cell;
use crate::demo::progress::Story;

/// What comes of a cell.
pub(super) trait Outcome: Serialize + DeserializeOwned {
    /// Trains a cell, and scores what came of it.
    fn perform(cell: &Cell<'_>, data: &Path, recipe: Hash, story: &Story) -> anyhow::Result<Self>;

    /// [`Cell::recipe`] of the cell that it is of.
    fn recipe(&self) -> Hash;

    /// In one line, for people.
    fn line(&self, cell: &Cell<'_>, state: &str) -> String;
}

/// The folder of an experiment's results.
pub(super) struct Results {
    folder: PathBuf,
    /// What names the data.
    pub(super) data: Hash,
}

impl Results {
    pub(super) fn new(folder: PathBuf, data: Hash) -> Self {
        Self { folder, data }
    }

    fn path(&self, cell: &Cell<'_>) -> PathBuf {
        self.folder.join(format!("{}.json", cell.name().replace('/', "-")))
    }

    /// What is kept of a cell, if it is of this very training and data.
    pub(super) fn get<R: Outcome>(&self, cell: &Cell<'_>) -> anyhow::Result<Option<R>> {
        let path = self.path(cell);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        let kept: R = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no result of this command; move it away", path.display()))?;
        Ok((kept.recipe() == cell.recipe(self.data)).then_some(kept))
    }

    /// Whether something is kept of a cell, be it of another training.
    pub(super) fn has_any(&self, cell: &Cell<'_>) -> bool {
        self.path(cell).exists()
    }

    /// Keeps a result. What was there of another training is replaced.
    pub(super) fn put(&self, cell: &Cell<'_>, result: &impl Outcome) -> anyhow::Result<()> {
        write_public(&self.path(cell), &serde_json::to_vec_pretty(result)?)
    }
}

/// A name for the content of a file, or of all files of a folder.
pub(super) fn name_of(data: &Path) -> anyhow::Result<Hash> {
    let about = || format!("reading {}", data.display());
    if data.is_file() {
        return Ok(Hash::of_bytes(&std::fs::read(data).with_context(about)?));
    }
    let mut names = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(about)? {
            let path = entry.with_context(about)?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let hash = Hash::of_bytes(&std::fs::read(&path).with_context(about)?);
                names.push(format!("{} {hash}\n", path.strip_prefix(data).unwrap_or(&path).display()));
            }
        }
    }
    names.sort();
    Ok(Hash::labelled("reproduce-data", names.concat().as_bytes()))
}
