//! Time that one party spends, and memory that it needs, among others in one process.

use std::time::{Duration, Instant};

use crate::bench::memory::{peak, resident};

/// A party's time, added up over its turns.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    spent: Duration,
}

impl Stopwatch {
    /// A turn of this party.
    pub(super) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        self.spent += began.elapsed();
        result
    }

    pub(super) fn seconds(&self) -> f64 {
        self.spent.as_secs_f64()
    }
}

/// The shortest of several measurements, in seconds.
pub(super) fn best(times: usize, mut work: impl FnMut() -> Duration) -> f64 {
    (0..times).map(|_| work()).min().unwrap_or_default().as_secs_f64()
}

/// Most memory that a party's turns needed beyond what the process had when each began.
#[derive(Debug, Default)]
pub(super) struct Peak {
    bytes: Option<u64>,
}

impl Peak {
    /// A turn of this party. Where the kernel does not tell, nothing is known.
    pub(super) fn watch<T>(&mut self, work: impl FnOnce() -> T) -> T {
        // "5" sets the high-water mark back to what is resident now.
        let before = std::fs::write("/proc/self/clear_refs", "5").ok().and_then(|()| resident());
        let result = work();
        if let (Some(before), Some(peak)) = (before, peak()) {
            self.bytes = self.bytes.max(Some(peak.saturating_sub(before)));
        }
        result
    }

    pub(super) const fn bytes(&self) -> Option<u64> {
        self.bytes
    }
}
