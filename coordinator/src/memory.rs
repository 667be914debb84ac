//! How the C library gives model-sized buffers back to the system: the one place of this crate with `unsafe`.

/// Buffers of 2 MiB and more go back when they are freed, and threads share two arenas, each of which keeps at most 4 MiB
/// at its end. Left to itself, glibc raises the first limit with each large buffer that it sees freed, up to 32 MiB, and
/// the second to twice that. Chunks of 1 MiB stay, as far as that goes: giving each back costs an upload a third of its
/// rate, in pages cleared again and again. To be called before there are threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn give_large_buffers_back() {
    const LARGE: libc::c_int = 2 << 20;
    const KEPT: libc::c_int = 4 << 20;
    for (setting, value) in
        [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, KEPT), (libc::M_ARENA_MAX, 2)]
    {
        // SAFETY: `mallopt` takes two numbers by value and keeps no pointer; glibc documents it as safe in a process
        // with one thread. It refuses values that it does not like, and nothing depends on whether it does.
        let _ = unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives back what many small buffers of a transfer have left: to be called before a model-sized job.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub(crate) fn give_small_buffers_back() {
    // SAFETY: `malloc_trim` takes a number by value and may be called by any thread at any time.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn give_large_buffers_back() {}

/// Nor this.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_small_buffers_back() {}
