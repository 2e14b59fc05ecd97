//! eBPF: what passive answers need, and whether the kernel program really runs here: it is loaded, attached, put to the
//! test and gone again.

use std::path::Path;

use nix::errno::Errno;

use super::{Check, State, read};
use crate::ebpf::feature::{Unavailable, lacking_capabilities, lockdown_mode};
use crate::ebpf::load::{self, Hook, LOCKDOWN_PATH, Loaded};
use crate::ebpf::netns::{self, Namespace, NetnsError, NetnsRef};
use crate::ebpf::offsets::{self, BTF_PATH};
use crate::ebpf::thread::{KERNEL_MEASURED, is_preemptible};
use crate::ebpf::watch::self_test::{OwnListener, SelfTest};

const AREA: &str = "eBPF (passive answers: without it every attempt connects for real)";

pub(super) fn checks() -> Vec<Check> {
    let status = read("/proc/self/status").unwrap_or_default();
    let mut checks = vec![
        syscall(read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref()),
        capabilities(lacking_capabilities(&status)),
        btf(Path::new(BTF_PATH)),
        lockdown(read(LOCKDOWN_PATH).as_deref()),
        seccomp(status_field(&status, "Seccomp:")),
        statistics(read("/proc/sys/kernel/bpf_stats_enabled").as_deref()),
        preemption(is_preemptible()),
        Check::ok(AREA, "object", format!("sha256:{}", load::OBJECT_SHA256)),
    ];
    checks.extend(program(load::load(false)));
    checks.extend(namespace());
    checks
}

/// The sysctl is there exactly where the kernel has bpf(2).
fn syscall(unprivileged_disabled: Option<&str>) -> Check {
    let name = "bpf(2)";
    match unprivileged_disabled {
        None => Check::ok(AREA, name, "no kernel.unprivileged_bpf_disabled").lacking(
            State::Missing,
            "the kernel was built without bpf(2), or /proc/sys is hidden",
            "a kernel with CONFIG_BPF_SYSCALL=y",
        ),
        Some(value) => {
            let who = if value == "0" { "anyone may load simple programs" } else { "privileges are needed" };
            Check::ok(AREA, name, format!("kernel.unprivileged_bpf_disabled={value}: {who}"))
        }
    }
}

fn capabilities(lacking: Option<Vec<&'static str>>) -> Check {
    let name = "capabilities";
    match lacking.as_deref() {
        None => Check::ok(AREA, name, "no CapEff in /proc/self/status").lacking(
            State::Unknown,
            "what this process may do cannot be read",
            "mount /proc",
        ),
        Some([]) => Check::ok(AREA, name, "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN for both"),
        Some(lacking) => Check::ok(AREA, name, format!("without {}", lacking.join(" and "))).lacking(
            State::Missing,
            "programs cannot be loaded",
            "AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN in the daemon's unit, or \
             securityContext.capabilities.add",
        ),
    }
}

fn btf(path: &Path) -> Check {
    let name = "BTF";
    match offsets::read(path) {
        Ok(offsets) => {
            let some = (offsets.net_cookie, offsets.skc_cookie, offsets.inet_sport);
            let found = format!(
                "{}: every field found (net_cookie at {}, skc_cookie at {}, inet_sport at {})",
                path.display(),
                some.0,
                some.1,
                some.2
            );
            Check::ok(AREA, name, found)
        }
        Err(error) => Check::ok(AREA, name, error.to_string()).lacking(
            State::Missing,
            "the layout of the kernel's structs is not known",
            "a kernel from 5.14 on with CONFIG_DEBUG_INFO_BTF=y; in a container, /sys mounted",
        ),
    }
}

fn lockdown(text: Option<&str>) -> Check {
    let name = "lockdown";
    match text.map(|text| (lockdown_mode(text), text)) {
        None => Check::ok(AREA, name, "not there: nothing is forbidden by it"),
        Some((Some("confidentiality"), _)) => Check::ok(AREA, name, "confidentiality").lacking(
            State::Missing,
            "programs may not read kernel memory",
            "boot with lockdown=integrity or without lockdown (Secure Boot may set it)",
        ),
        Some((Some(mode), _)) => Check::ok(AREA, name, mode),
        Some((None, text)) => Check::ok(AREA, name, text).lacking(
            State::Unknown,
            "the mode cannot be read from /sys/kernel/security/lockdown",
            "see what it holds",
        ),
    }
}

/// It is loaded and attached here, in earnest.
fn program(loaded: Result<Loaded, Unavailable>) -> Vec<Check> {
    let name = "program";
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(unavailable) => {
            let reason = "there are no passive answers here";
            let check = Check::ok(AREA, name, "not loaded").lacking(State::Missing, reason, unavailable.to_string());
            return vec![check];
        }
    };
    let hook = Check::ok(AREA, name, format!("loads and attaches to {}", loaded.hook.as_str()));
    let hook = match loaded.hook {
        Hook::TpBtf => hook,
        Hook::RawTracepoint => hook.lacking(
            State::Limited,
            "tp_btf is refused, so that events tell a socket's cookie only where something asked for it",
            "a kernel with CONFIG_BPF_JIT=y and BPF trampolines for this machine",
        ),
    };
    vec![hook, self_test(&loaded)]
}

/// What the daemon does once a second.
fn self_test(loaded: &Loaded) -> Check {
    let name = "self-test";
    let moved = netns::own_cookie().map_err(std::io::Error::from).and_then(|cookie| {
        let mut own = OwnListener::new(cookie)?;
        let before = loaded.counters.load(own.slot());
        own.listen_and_stop()?;
        Ok(loaded.counters.load(own.slot()).wrapping_sub(before))
    });
    let remedy = "probe-engine run --ebpf off, and report it with the kernel's version";
    match moved {
        Ok(moved @ 2..) => {
            Check::ok(AREA, name, format!("listen(2) and shutdown(2) of a socket moved its counter by {moved}"))
        }
        Ok(moved) => Check::ok(AREA, name, format!("the counter moved by {moved} instead of 2")).lacking(
            State::Missing,
            "the program does not see every listener, so there are no passive answers",
            remedy,
        ),
        Err(error) => Check::ok(AREA, name, error.to_string()).lacking(
            State::Unknown,
            "a listener of our own cannot be made, so there are no passive answers",
            "IPv4 on the loopback interface, and a free port",
        ),
    }
}

/// What the daemon asks and hears of each namespace, tried on its own.
fn namespace() -> Vec<Check> {
    let name = "netlink";
    match Namespace::open(&NetnsRef::Own) {
        Ok(own) => vec![
            Check::ok(AREA, name, "sock_diag and rtnetlink can be asked"),
            nftables(own.monitor.nftables_refused()),
            sk_lookup(own.has_sk_lookup()),
            other_namespaces(enter_another()),
        ],
        Err(error) => vec![Check::ok(AREA, name, error.to_string()).lacking(
            State::Missing,
            "listeners and routes cannot be looked at, so there are no passive answers",
            "a kernel with CONFIG_INET_DIAG=y, and a seccomp profile that allows netlink sockets",
        )],
    }
}

fn nftables(refused: Option<Errno>) -> Check {
    let name = "nftables";
    let Some(errno) = refused else {
        return Check::ok(AREA, name, "new packet filter rules are announced");
    };
    Check::ok(AREA, name, format!("new packet filter rules are not announced: {errno}")).lacking(
        State::Limited,
        "one that cuts a target off is noticed by the next real connect only (passiveMaxAgeSeconds)",
        if errno == Errno::EPERM { "CAP_NET_ADMIN" } else { "a kernel with CONFIG_NF_TABLES" },
    )
}

/// As the daemon enters a pod's, but our own by its path: setns(2) judges it like any other.
fn enter_another() -> Result<(), NetnsError> {
    Namespace::open(&NetnsRef::at("/proc/self/ns/net")).map(drop)
}

fn other_namespaces(entered: Result<(), NetnsError>) -> Check {
    let name = "other namespaces";
    match entered {
        Ok(()) => Check::ok(
            AREA,
            name,
            "a network namespace can be entered; opening /proc/PID/ns/net may need CAP_SYS_PTRACE besides",
        ),
        Err(error) => Check::ok(AREA, name, error.to_string()).lacking(
            State::Limited,
            "targets in network namespaces of their own are always connected to for real",
            "CAP_SYS_ADMIN to enter them, and CAP_SYS_PTRACE where they are named by /proc/PID/ns/net",
        ),
    }
}

/// Such a program may hand a connection to any socket, so that a namespace with one has no passive answers.
fn sk_lookup(found: nix::Result<bool>) -> Check {
    let name = "sk_lookup";
    match found {
        Ok(false) => Check::ok(AREA, name, "may be asked for; none is attached in this namespace"),
        Ok(true) => Check::ok(AREA, name, "a program is attached in this namespace").lacking(
            State::Limited,
            "it may hand connections to any socket, so there are no passive answers for targets in this namespace",
            "bpftool net, to see whose it is",
        ),
        Err(error) => Check::ok(AREA, name, format!("may not be asked for: {error}")).lacking(
            State::Missing,
            "whether a program redirects connections is not known, so there are no passive answers",
            "CAP_NET_ADMIN",
        ),
    }
}

/// Either way is fine: they cost some nanoseconds per run of any program.
fn statistics(enabled: Option<&str>) -> Check {
    let found = match enabled {
        None => "no kernel.bpf_stats_enabled: runs and time of the program are not counted".to_owned(),
        Some("0") => "kernel.bpf_stats_enabled=0: runs and time of the program are not counted".to_owned(),
        Some(value) => format!("kernel.bpf_stats_enabled={value}: runs and time of the program are counted"),
    };
    Check::ok(AREA, "bpf statistics", found)
}

/// Whether the watch takes a run that the kernel left out for a listener's.
fn preemption(is_preemptible: bool) -> Check {
    let name = "preemption";
    if !is_preemptible {
        return Check::ok(AREA, name, "a run of the program is not interrupted by another");
    }
    let (major, minor) = KERNEL_MEASURED;
    let found =
        format!("PREEMPT_RT, or a kernel newer than {major}.{minor}: runs of the program may interrupt each other");
    Check::ok(AREA, name, found).lacking(
        State::Limited,
        "runs of the program that the kernel leaves out end all passive answers",
        "nothing, while probe_engine_ebpf_program_misses_total stands still",
    )
}

fn seccomp(mode: Option<&str>) -> Check {
    let name = "seccomp";
    match mode {
        None | Some("0") => Check::ok(AREA, name, "no filter"),
        Some(mode) => Check::ok(AREA, name, format!("mode {mode}")).lacking(
            State::Limited,
            "a filter is in force; it may refuse bpf(2), perf_event_open(2) and io_uring_setup(2)",
            "a profile that allows them (container runtimes refuse them by default)",
        ),
    }
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn capabilities_that_are_missing_are_named() {
        assert_eq!(capabilities(Some(vec![])).state, State::Ok);
        let none = capabilities(Some(vec!["CAP_BPF", "CAP_PERFMON"]));
        assert_eq!((none.state, none.found.as_str()), (State::Missing, "without CAP_BPF and CAP_PERFMON"));
        assert_eq!(capabilities(None).state, State::Unknown);
    }

    #[test]
    fn the_lockdown_mode_is_judged() {
        assert_eq!(lockdown(Some("[none] integrity confidentiality")).state, State::Ok);
        assert_eq!(lockdown(Some("none [integrity] confidentiality")).found, "integrity");
        assert_eq!(lockdown(Some("none integrity [confidentiality]")).state, State::Missing);
        assert_eq!(lockdown(None).state, State::Ok);
        assert_eq!(lockdown(Some("?")).state, State::Unknown);
    }

    #[test]
    fn bpf_btf_and_seccomp_are_explained() {
        assert_eq!(syscall(None).state, State::Missing);
        assert!(syscall(Some("2")).found.contains("privileges are needed"));
        let missing = btf(Path::new("/nonexistent"));
        assert!(missing.state == State::Missing && missing.found.contains("No such file"), "{missing:?}");
        assert_eq!(seccomp(status_field("Seccomp:\t2\nSeccomp_filters:\t1", "Seccomp:")).state, State::Limited);
        assert_eq!(seccomp(Some("0")).state, State::Ok);
    }

    #[test]
    fn what_ends_or_forbids_passive_answers_is_explained() {
        let error = NetnsError::Enter { path: Arc::from("/proc/self/ns/net"), source: Errno::EPERM };
        let check = other_namespaces(Err(error));
        assert!(check.state == State::Limited && check.remedy.contains("CAP_SYS_PTRACE"), "{check:?}");
        assert!(check.remedy.contains("CAP_SYS_ADMIN") && check.found.contains("setns"), "{check:?}");
        assert_eq!(other_namespaces(Ok(())).state, State::Ok);
        let check = sk_lookup(Err(Errno::EPERM));
        assert!(check.state == State::Missing && check.remedy == "CAP_NET_ADMIN", "{check:?}");
        let remedy = |errno| nftables(Some(errno)).remedy;
        assert_eq!(remedy(Errno::EPERM), "CAP_NET_ADMIN");
        assert!(remedy(Errno::EPROTONOSUPPORT).contains("CONFIG_NF_TABLES"));
        assert_eq!((nftables(None).state, preemption(false).state), (State::Ok, State::Ok));
        let check = preemption(true);
        assert!(check.state == State::Limited && check.reason.contains("end all passive answers"), "{check:?}");
    }

    #[test]
    fn bpf_statistics_are_fine_either_way() {
        for (value, found) in [(None, "no kernel"), (Some("0"), "=0: runs"), (Some("1"), "=1: runs")] {
            let check = statistics(value);
            assert!(check.state == State::Ok && check.found.contains(found), "{check:?}");
        }
    }

    #[test]
    fn a_program_that_does_not_load_is_explained_by_its_sentence() {
        let checks = program(Err(Unavailable::NoBpf));
        assert_eq!((checks.len(), checks[0].state), (1, State::Missing));
        assert_eq!(checks[0].remedy, Unavailable::NoBpf.to_string());
    }
}
