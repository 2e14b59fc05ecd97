//! The node: kernel, clock, loopback, limits of this process, and the ports and sockets that attempts use up.

use std::net::TcpListener;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Check, State, read};

const AREA: &str = "node";

/// Descriptors wanted: every attempt in flight holds one, on up to four shards and in the pool.
const NOFILE_WANTED: u64 = 20_000;
/// With fewer the daemon can hardly run.
const NOFILE_MIN: u64 = 256;
/// The least number of processes and threads: ours, and the exec probes'.
const NPROC_WANTED: u64 = 4_096;
/// TIME_WAIT lasts this long on Linux (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_S: u64 = 60;

pub(super) fn checks() -> Vec<Check> {
    vec![
        kernel(read("/proc/sys/kernel/osrelease").as_deref()),
        clock(read("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_deref()),
        loopback("IPv4 loopback", TcpListener::bind("127.0.0.1:0").err().as_ref()).required(),
        loopback("IPv6 loopback", TcpListener::bind("[::1]:0").err().as_ref()),
        nofile(limits(Resource::RLIMIT_NOFILE)),
        nproc(limits(Resource::RLIMIT_NPROC)),
        memlock(limits(Resource::RLIMIT_MEMLOCK)),
        ports(read("/proc/sys/net/ipv4/ip_local_port_range").as_deref()),
        time_wait(read("/proc/sys/net/ipv4/tcp_max_tw_buckets").as_deref()),
    ]
}

fn kernel(release: Option<&str>) -> Check {
    match release {
        Some(release) => Check::ok(AREA, "kernel", format!("Linux {release}")),
        None => Check::ok(AREA, "kernel", "no /proc/sys/kernel/osrelease")
            .lacking(State::Missing, "/proc is not mounted: limits, ports and processes cannot be read", "mount /proc")
            .required(),
    }
}

/// tsc, kvm-clock, arch_sys_counter ... are read without a system call; the others with one, slowly.
fn clock(source: Option<&str>) -> Check {
    let name = "clock source";
    match source {
        None => Check::ok(AREA, name, "not said").lacking(
            State::Unknown,
            "/sys/devices/system/clocksource is not there",
            "mount /sys",
        ),
        Some(source @ ("hpet" | "acpi_pm" | "jiffies" | "pit")) => Check::ok(AREA, name, source).lacking(
            State::Limited,
            "reading it takes a microsecond or more: due times and latencies get coarser",
            "boot with clocksource=tsc where the machine's is reliable",
        ),
        Some(source) => Check::ok(AREA, name, source),
    }
}

fn loopback(name: &'static str, error: Option<&std::io::Error>) -> Check {
    match error {
        None => Check::ok(AREA, name, "can be bound"),
        Some(error) => Check::ok(AREA, name, format!("bind: {error}")).lacking(
            State::Missing,
            "targets there cannot be reached, and their probes fail",
            "`ip link set lo up`; for IPv6 `sysctl net.ipv6.conf.lo.disable_ipv6=0`",
        ),
    }
}

/// Soft and hard; `None` where they cannot be asked.
fn limits(resource: Resource) -> Option<(u64, u64)> {
    getrlimit(resource).ok()
}

fn nofile(limits: Option<(u64, u64)>) -> Check {
    let name = "RLIMIT_NOFILE";
    let Some((soft, hard)) = limits else { return unreadable(name) };
    let found = format!("{} (at most {})", shown(soft), shown(hard));
    let check = Check::ok(AREA, name, found);
    let reason = "fewer attempts are made at once: where many targets do not answer, the others wait for their turn";
    let remedy = format!("LimitNOFILE={NOFILE_WANTED} in the daemon's unit, or `ulimit -n {NOFILE_WANTED}`");
    match soft {
        0..NOFILE_MIN => check.lacking(State::Missing, reason, remedy).required(),
        NOFILE_MIN..NOFILE_WANTED => check.lacking(State::Limited, reason, remedy),
        _ => check,
    }
}

fn nproc(limits: Option<(u64, u64)>) -> Check {
    let name = "RLIMIT_NPROC";
    let Some((soft, hard)) = limits else { return unreadable(name) };
    let check = Check::ok(AREA, name, format!("{} (at most {})", shown(soft), shown(hard)));
    if soft >= NPROC_WANTED {
        return check;
    }
    let reason = "exec probes and containers may find no process (does not bind root)";
    check.lacking(State::Limited, reason, "LimitNPROC= and TasksMax= in the daemon's unit")
}

fn memlock(limits: Option<(u64, u64)>) -> Check {
    let name = "RLIMIT_MEMLOCK";
    let Some((soft, hard)) = limits else { return unreadable(name) };
    // Nothing of today's engine is short of it: rings since Linux 5.12 and BPF maps since 5.11 are counted by cgroup.
    Check::ok(AREA, name, format!("{} bytes (at most {})", shown(soft), shown(hard)))
}

fn unreadable(name: &'static str) -> Check {
    Check::ok(AREA, name, "getrlimit failed").lacking(State::Unknown, "the limit cannot be read", "see `ulimit -a`")
}

fn shown(limit: u64) -> String {
    if limit == RLIM_INFINITY { "unlimited".to_owned() } else { limit.to_string() }
}

/// How many attempts a second one target takes before its ports are all in TIME_WAIT.
fn ports(range: Option<&str>) -> Check {
    let name = "net.ipv4.ip_local_port_range";
    let Some((first, last)) = range.and_then(port_range) else {
        return Check::ok(AREA, name, range.unwrap_or("not there")).lacking(
            State::Unknown,
            "the ephemeral ports cannot be read",
            "mount /proc",
        );
    };
    let count = u64::from(last - first) + 1;
    let a_second = count / TIME_WAIT_S;
    let check =
        Check::ok(AREA, name, format!("{first} {last}: {count} ports, {a_second} attempts a second per target"));
    if count >= 10_000 {
        return check;
    }
    check.lacking(
        State::Limited,
        "a target probed more often uses its ports up (local trouble: ports)",
        "`sysctl net.ipv4.ip_local_port_range=\"32768 60999\"` or wider",
    )
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace().map(|word| word.parse::<u16>().ok());
    match (words.next(), words.next(), words.next()) {
        (Some(Some(first)), Some(Some(last)), None) if first <= last => Some((first, last)),
        _ => None,
    }
}

fn time_wait(buckets: Option<&str>) -> Check {
    let name = "net.ipv4.tcp_max_tw_buckets";
    match buckets.and_then(|text| text.parse::<u64>().ok()) {
        Some(count) => {
            let a_second = count / TIME_WAIT_S;
            let found = format!("{count}: full at {a_second} closes a second, then TIME_WAIT is cut short (harmless)");
            Check::ok(AREA, name, found)
        }
        None => Check::ok(AREA, name, buckets.unwrap_or("not there")).lacking(
            State::Unknown,
            "the size of the TIME_WAIT table cannot be read",
            "mount /proc",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_read_and_judged() {
        assert_eq!(port_range("32768\t60999"), Some((32_768, 60_999)));
        for bad in ["", "1", "9 1", "1 2 3", "a b", "1 70000"] {
            assert_eq!(port_range(bad), None, "{bad}");
        }
        let usual = ports(Some("32768\t60999"));
        assert!(usual.state == State::Ok && usual.found.contains("28232 ports, 470 attempts"), "{usual:?}");
        assert_eq!(ports(Some("60000 60999")).state, State::Limited);
        assert_eq!(ports(Some("x")).state, State::Unknown);
    }

    #[test]
    fn few_descriptors_are_a_limit_and_very_few_are_fatal() {
        assert_eq!(nofile(Some((1_048_576, 1_048_576))).state, State::Ok);
        assert_eq!(nofile(Some((1_024, 4_096))).state, State::Limited);
        let none = nofile(Some((64, 64)));
        assert!(none.state == State::Missing && none.required);
        assert!(nofile(Some((RLIM_INFINITY, RLIM_INFINITY))).found.starts_with("unlimited"));
    }

    #[test]
    fn slow_clocks_and_small_tables_are_told() {
        assert_eq!(clock(Some("tsc")).state, State::Ok);
        assert_eq!(clock(Some("hpet")).state, State::Limited);
        assert!(time_wait(Some("131072")).found.contains("full at 2184 closes a second"));
        assert_eq!(time_wait(None).state, State::Unknown);
    }
}
