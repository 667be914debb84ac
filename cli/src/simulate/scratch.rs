//! A folder for copies of cases. They must not outlive the program, also where somebody stops it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use crate::demo::folder::remove;
use crate::demo::interruption::Interruption;

/// What a program that a signal ended leaves as its status: 128 and the number of Ctrl-C.
const STOPPED: i32 = 130;

/// The folders that are there; none before signals are listened to.
static HELD: Mutex<Option<BTreeMap<PathBuf, TempDir>>> = Mutex::new(None);

/// A folder that goes with this value, or with the program.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            watch()?;
        }
        let folder = tempfile::Builder::new().prefix("consilium-simulate-").tempdir()?;
        let path = folder.path().to_owned();
        held.get_or_insert_default().insert(path.clone(), folder);
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is removed while this is locked, so that no signal ends the program half way.
        HELD.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().remove(&self.0);
    }
}

/// From now on a signal ends the program only when all folders are gone.
fn watch() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut interruption = {
        let _inside = runtime.enter();
        Interruption::listen()?
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(interruption.arrives());
        // Nobody makes another one while this is locked, which it stays.
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in held.iter().flatten().map(|(path, _)| path) {
            if let Err(error) = remove(folder) {
                eprintln!("error: {error:#}");
            }
        }
        exit(STOPPED)
    })?;
    Ok(())
}
