//! Stopping a process at a named durable write, in test builds only (feature `crash-points`; without it every
//! point compiles to nothing).
//!
//! `CONSILIUM_CRASH_LIST=FILE` appends the name of every point that is passed, each time, to `FILE`: an
//! undisturbed run makes the list that crash tests walk through. `CONSILIUM_CRASH_AT=NAME` kills the process with
//! SIGKILL the first time it passes `NAME`, `NAME#3` the third time; where there is a list too, it says so there.

/// The variable that names the file to list points in.
pub const CRASH_LIST: &str = "CONSILIUM_CRASH_LIST";
/// The variable that names the point to stop at.
pub const CRASH_AT: &str = "CONSILIUM_CRASH_AT";
/// What stands in the list before the name of a point at which a process was killed.
pub const KILLED_AT: &str = "killed at ";

/// Passes a point, or ends the process there because a test wants it to.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_name: impl FnOnce() -> String) {}

/// Passes a point, or ends the process there because a test wants it to.
#[cfg(feature = "crash-points")]
pub fn point(name: impl FnOnce() -> String) {
    armed::pass(&name());
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::collections::BTreeMap;
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::sync::{Mutex, PoisonError};

    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

    pub(super) fn pass(name: &str) {
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let count = passed.entry(name.to_owned()).or_default();
        *count += 1;
        list(name);
        let Ok(wanted) = std::env::var(super::CRASH_AT) else { return };
        let (point, times) = wanted.split_once('#').unwrap_or((&wanted, "1"));
        if point == name && times.parse() == Ok(*count) {
            list(&format!("{}{name}", super::KILLED_AT));
            // No destructor, no flush: what a power cut leaves.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }

    fn list(line: &str) {
        let Some(list) = std::env::var_os(super::CRASH_LIST) else { return };
        let file = OpenOptions::new().create(true).append(true).open(list);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            tracing::warn!(%error, "cannot list the crash point {line}");
        }
    }
}
