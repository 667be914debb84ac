//! What the system sees of memory that was freed. Without a harness, on the first thread: settings and resident pages
//! belong to a process, and a thread that runs already has its arena.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use consilium_memory::{Freed, settle, trim};

const MIB: usize = 1 << 20;

/// Resident MiB of this process.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096 / MIB
}

/// Writes to so many buffers of so many MiB, and frees them.
fn fill(buffers: usize, mib: usize) {
    drop((0..buffers).map(|_| vec![1_u8; mib * MIB]).collect::<Vec<_>>());
}

fn main() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    settle(Freed::Stays);
    let before = resident();
    fill(8, 24);
    assert!(resident() > before + 150, "{} MiB are kept", resident() - before);
    trim();
    assert!(resident() < before + 20, "{} MiB after trimming", resident() - before);
    settle(Freed::GoesBack);
    fill(8, 24);
    fill(64, 1);
    assert!(resident() < before + 20, "{} MiB did not go back", resident() - before);
    println!("freed memory stays until it is trimmed, or goes back at once: ok");
}
