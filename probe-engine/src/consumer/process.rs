//! What the kernel says of this process.

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// CPU time of all threads, ended ones included, in nanoseconds; 0 where it cannot be read. getrusage(2).
pub(super) fn cpu_ns() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0 };
    let nanos = |time: nix::sys::time::TimeVal| {
        let micros = i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_usec());
        u64::try_from(micros * 1_000).unwrap_or_default()
    };
    nanos(usage.user_time()) + nanos(usage.system_time())
}

/// Resident memory, in bytes; 0 where it cannot be read. The second number of /proc/self/statm (proc(5)), in pages.
pub(super) fn memory_bytes() -> u64 {
    statm_bytes(1)
}

/// Virtual memory, in bytes; 0 where it cannot be read. The first number there.
pub(super) fn virtual_bytes() -> u64 {
    statm_bytes(0)
}

/// Open descriptors; 0 where they cannot be counted. Entries of /proc/self/fd, but for the one that it is read by.
pub(super) fn descriptors_count() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64)
}

fn statm_bytes(index: usize) -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(index)?.parse::<u64>().ok()).unwrap_or_default();
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
    pages * page_bytes.unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_memory_and_descriptors() {
        let before = cpu_ns();
        let busy: u64 = (0..20_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        assert!(cpu_ns() > before, "{busy}");
        assert!(memory_bytes() > 1_000_000 && virtual_bytes() >= memory_bytes());
        assert!(descriptors_count() >= 3, "standard input, output and error");
    }
}
