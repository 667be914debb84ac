//! What the C library does with memory that a process frees: the one place with `unsafe` for it.
//!
//! glibc gives a large buffer back to the system when it is freed, and the system clears each page anew when the next is
//! asked for. A coordinator wants that, because it holds many hospitals' vectors and then none; for training, which makes
//! the same buffers in every step, it costs up to a third of the time. Other C libraries have no such settings.

use std::process::Command;

/// What a process does with freed memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// Buffers of 2 MiB and more go back when they are freed, and threads share two arenas, each of which keeps at most
    /// 8 MiB at its end, enough for the chunks of uploads. Left to itself, glibc raises the first limit with each large
    /// buffer that it sees freed, up to 32 MiB, and the second to twice that.
    GoesBack,
    /// Everything stays for the next buffer, until [`trim`].
    Stays,
}

/// The variable from which glibc reads settings when a process starts.
const VARIABLE: &str = "GLIBC_TUNABLES";

impl Freed {
    /// What glibc should read when such a process starts.
    ///
    /// For both: loops in place of the processor's string moves, which on some AMD processors are several times slower
    /// for certain distances between source and destination (glibc bug 30994, mended in 2.40). Where memory stays also
    /// large pages, where the system leaves them to programs; a process that gives memory back would need more of it.
    pub const fn tunables(self) -> &'static str {
        match self {
            Self::GoesBack => "glibc.cpu.x86_rep_movsb_threshold=1000000000",
            Self::Stays => "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.malloc.hugetlb=1",
        }
    }

    /// Has a program that is about to start read the [`tunables`](Self::tunables), unless whoever started this one chose
    /// their own.
    pub fn tune(self, command: &mut Command) -> &mut Command {
        if std::env::var_os(VARIABLE).is_none() {
            command.env(VARIABLE, self.tunables());
        }
        command
    }
}

/// Settles what this process does with freed memory. To be called before there are threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn settle(freed: Freed) {
    use libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD};
    const MIB: libc::c_int = 1 << 20;
    let settings: &[(libc::c_int, libc::c_int)] = match freed {
        Freed::GoesBack => &[(M_MMAP_THRESHOLD, 2 * MIB), (M_TRIM_THRESHOLD, 8 * MIB), (M_ARENA_MAX, 2)],
        // Older versions refuse the second value, and the first stays.
        Freed::Stays => &[
            (M_MMAP_THRESHOLD, 32 * MIB),
            (M_MMAP_THRESHOLD, 1024 * MIB),
            (M_TRIM_THRESHOLD, libc::c_int::MAX),
            // Other arenas than the first consist of pieces that go back whole.
            (M_ARENA_MAX, 1),
        ],
    };
    for &(setting, value) in settings {
        // SAFETY: `mallopt` takes two numbers by value and keeps no pointer; glibc documents it as safe in a process
        // with one thread. It refuses values that it does not like, and nothing depends on whether it does.
        let _ = unsafe { libc::mallopt(setting, value) };
    }
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn settle(_: Freed) {}

/// Gives all freed memory back now: after work that needed much, or before work that will.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn trim() {
    // SAFETY: `malloc_trim` takes a number by value and may be called by any thread at any time.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other C libraries keep what they like.
#[cfg(not(target_env = "gnu"))]
pub fn trim() {}
