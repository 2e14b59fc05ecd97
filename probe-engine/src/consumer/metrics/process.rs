//! What the process takes of the machine, under the names that Prometheus' client libraries use for it.
//!
//! Source: `prometheus/process_collector_procfsenabled.go` of client_golang (names, help). What the kernel does not tell is left out.

use std::fs;

use jiff::Timestamp;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

use super::families;
use super::text::{Labels, Text};

/// Everything of this file.
pub(super) fn write(text: &mut Text, started_at: Timestamp) {
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        let nanos = u64::try_from(micros).unwrap_or_default().saturating_mul(1_000);
        text.family(&families::PROCESS_CPU_SECONDS_TOTAL).seconds(&Labels::none(), nanos);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        text.family(&families::PROCESS_MAX_FDS).value(&Labels::none(), soft);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The one that reads the directory is none of ours.
        let open = entries.count().saturating_sub(1) as u64;
        text.family(&families::PROCESS_OPEN_FDS).value(&Labels::none(), open);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = memory_bytes(&status, "VmRSS:") {
        text.family(&families::PROCESS_RESIDENT_MEMORY_BYTES).value(&Labels::none(), bytes);
    }
    let started_ns = u64::try_from(started_at.as_nanosecond()).unwrap_or_default();
    text.family(&families::PROCESS_START_TIME_SECONDS).seconds(&Labels::none(), started_ns);
    if let Some(bytes) = memory_bytes(&status, "VmSize:") {
        text.family(&families::PROCESS_VIRTUAL_MEMORY_BYTES).value(&Labels::none(), bytes);
    }
}

/// A line of /proc/PID/status that is in kB (of 1,024 bytes).
fn memory_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_takes_is_what_the_kernel_says() {
        let mut text = Text::default();
        write(&mut text, Timestamp::from_second(1_700_000_000).expect("a time"));
        let text = text.finish();
        let of = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} in {text}")).parse().expect("a number")
        };
        assert!(of("process_open_fds") >= 3.0 && of("process_open_fds") < of("process_max_fds"), "{text}");
        assert!(of("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(of("process_virtual_memory_bytes") >= of("process_resident_memory_bytes"), "{text}");
        assert!(of("process_cpu_seconds_total") > 0.0, "{text}");
        assert!(text.contains("process_start_time_seconds 1700000000\n"), "{text}");
    }

    #[test]
    fn a_status_without_memory_gives_none() {
        assert_eq!(memory_bytes("Name:\tkthreadd\n", "VmRSS:"), None);
        assert_eq!(memory_bytes("VmRSS:\t    2048 kB\n", "VmRSS:"), Some(2_097_152));
    }
}
