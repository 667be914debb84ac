//! Every durable write of the coordinator goes through [`durable`], so that a test can stop the process
//! before and after each of them.
//!
//! With the feature `crash-points`, `CONSILIUM_CRASH_LIST=FILE` appends the name of every point that is passed,
//! each time, to `FILE`: the list that crash tests walk through. `CONSILIUM_CRASH_AT=NAME` kills the process with
//! SIGKILL the first time it passes `NAME`, `NAME#3` the third time.

/// Performs one durable write. `name` says which.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn durable<T>(_name: &str, write: impl FnOnce() -> T) -> T {
    write()
}

/// Performs one durable write, unless a test wants the process to end here.
#[cfg(feature = "crash-points")]
pub fn durable<T>(name: &str, write: impl FnOnce() -> T) -> T {
    points::pass(&format!("coordinator.{name}.before"));
    let outcome = write();
    points::pass(&format!("coordinator.{name}.after"));
    outcome
}

#[cfg(feature = "crash-points")]
mod points {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::sync::{Mutex, PoisonError};

    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

    pub(super) fn pass(name: &str) {
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let count = passed.entry(name.to_owned()).or_default();
        *count += 1;
        if let Some(list) = std::env::var_os("CONSILIUM_CRASH_LIST") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(list);
            if let Err(error) = file.and_then(|mut file| writeln!(file, "{name}")) {
                tracing::warn!(%error, "cannot list the crash point {name}");
            }
        }
        let Ok(wanted) = std::env::var("CONSILIUM_CRASH_AT") else { return };
        let (point, times) = wanted.split_once('#').unwrap_or((&wanted, "1"));
        if point == name && times.parse() == Ok(*count) {
            // No destructor, no flush: what a power cut leaves.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
