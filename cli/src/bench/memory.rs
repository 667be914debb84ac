//! Memory of this process, as the kernel counts it. Where it does not tell, nothing is known.

/// What is resident now, in bytes.
pub(super) fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most that was ever resident, in bytes.
pub(super) fn peak() -> Option<u64> {
    status("VmHWM:")
}

fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
