//! Where the demo keeps everything: keys, data, logs, models.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

/// Parts that were killed may write for so long.
const PAUSE: Duration = Duration::from_millis(50);
/// Tries to remove a folder.
const TRIES: u32 = 40;

/// The demo's folder. Unless it is to be kept, it goes with this value.
pub(super) struct Folder {
    root: PathBuf,
    temporary: Option<TempDir>,
}

impl Folder {
    /// The folder to keep, or one that will be removed.
    pub(super) fn new(keep: Option<&Path>) -> anyhow::Result<Self> {
        let Some(folder) = keep else {
            let temporary = tempfile::Builder::new().prefix("consilium-demo-").tempdir()?;
            return Ok(Self { root: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        if folder.join("consortium").exists() {
            bail!("{} holds a consortium already; choose another folder", folder.display());
        }
        let root = std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
        let root = root.with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self { root, temporary: None })
    }

    /// Its path.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes it, unless it is kept.
    pub(super) fn leave(self) -> anyhow::Result<()> {
        if self.temporary.is_none() {
            return Ok(());
        }
        remove(&self.root).context("it holds keys")
    }
}

/// Removes a folder, although somebody may still be writing into it for a moment.
pub(crate) fn remove(folder: &Path) -> anyhow::Result<()> {
    let mut removed = Ok(());
    for _ in 0..TRIES {
        removed = std::fs::remove_dir_all(folder);
        // Who was killed may have been writing, and so made a folder of it again.
        std::thread::sleep(PAUSE);
        if !folder.exists() {
            return Ok(());
        }
    }
    removed.with_context(|| format!("{} could not be removed", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let Err(error) = Folder::new(Some(Path::new("/proc/no-such-folder"))) else { panic!("it was made") };
        assert!(error.to_string().contains("/proc/no-such-folder"), "{error}");
    }

    #[test]
    fn only_a_folder_to_keep_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let kept = Folder::new(Some(&parent.path().join("a/b"))).unwrap();
        let root = kept.root().to_owned();
        kept.leave().unwrap();
        assert!(root.is_dir());
        let temporary = Folder::new(None).unwrap();
        let root = temporary.root().to_owned();
        std::fs::write(root.join("key"), "k").unwrap();
        temporary.leave().unwrap();
        assert!(!root.exists());
    }
}
