//! What the process takes of the machine, under the names that Prometheus' client libraries use for it.
//!
//! Source: `prometheus/process_collector_procfsenabled.go` of client_golang (names, help). What cannot be read is left out.

use jiff::Timestamp;
use nix::sys::resource::{Resource, getrlimit};

use super::families::{self, Spec};
use super::text::{Labels, Text};
use crate::consumer::process;

/// Everything of this file.
pub(super) fn write(text: &mut Text, started_at: Timestamp) {
    text.family(&families::PROCESS_CPU_SECONDS_TOTAL).seconds(&Labels::none(), process::cpu_ns());
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        text.family(&families::PROCESS_MAX_FDS).value(&Labels::none(), soft);
    }
    let mut known = |spec: &'static Spec, value: u64| {
        if value > 0 {
            text.family(spec).value(&Labels::none(), value);
        }
    };
    known(&families::PROCESS_OPEN_FDS, process::descriptors_count());
    known(&families::PROCESS_RESIDENT_MEMORY_BYTES, process::memory_bytes());
    known(&families::PROCESS_VIRTUAL_MEMORY_BYTES, process::virtual_bytes());
    let started_ns = u64::try_from(started_at.as_nanosecond()).unwrap_or_default();
    text.family(&families::PROCESS_START_TIME_SECONDS).seconds(&Labels::none(), started_ns);
}

#[cfg(test)]
mod tests {
    use super::super::text::Format;
    use super::*;

    #[test]
    fn what_the_process_takes_is_told_under_the_usual_names() {
        let mut text = Text::new(Format::Text);
        write(&mut text, Timestamp::from_second(1_700_000_000).expect("a time"));
        let text = String::from_utf8(text.finish()).expect("text");
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
}
