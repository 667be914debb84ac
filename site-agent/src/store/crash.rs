//! Stopping the process at a named write, in test builds only (feature `crash-points`).
//!
//! `CONSILIUM_CRASH_LIST=FILE` writes the name of every point that is passed, once each, to `FILE`:
//! an undisturbed run makes the list. `CONSILIUM_CRASH_AT=NAME` kills the process with SIGKILL the
//! first time it passes `NAME`, `NAME#3` the third time. The supervisor hands the variable to the
//! first start of a process only, so that the restarted one comes through.

use super::Kind;

/// The variable that names the point to stop at.
pub const CRASH_AT: &str = "CONSILIUM_CRASH_AT";

/// A durable write passes here before, inside and after.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub(super) fn point(_: Kind, _: &str, _: &str) {}

/// A durable write passes here before, inside and after.
#[cfg(feature = "crash-points")]
pub(super) fn point(kind: Kind, act: &str, when: &str) {
    armed::pass(&format!("agent.{kind}.{act}.{when}"));
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::sync::{Mutex, PoisonError};

    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

    pub(super) fn pass(name: &str) {
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let count = passed.entry(name.to_owned()).or_default();
        *count += 1;
        if *count == 1
            && let Some(list) = std::env::var_os("CONSILIUM_CRASH_LIST")
        {
            let written = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(list)
                .and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
            if let Err(error) = written {
                tracing::warn!(%error, "cannot list the crash point {name}");
            }
        }
        let Ok(wanted) = std::env::var(super::CRASH_AT) else { return };
        let (point, times) = wanted.split_once('#').unwrap_or((&wanted, "1"));
        if point == name && times.parse() == Ok(*count) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
