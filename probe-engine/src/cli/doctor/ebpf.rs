//! eBPF: what passive answers will need. Nothing is loaded here, and the engine runs without all of it.

use super::{Check, State, read};

const AREA: &str = "eBPF (passive answers: not built yet; without it every attempt connects for real)";

/// Bits of `CapEff` (linux/capability.h).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

pub(super) fn checks() -> Vec<Check> {
    let status = read("/proc/self/status").unwrap_or_default();
    vec![
        syscall(read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref()),
        capabilities(effective_capabilities(&status)),
        btf(std::fs::metadata("/sys/kernel/btf/vmlinux").map(|m| m.len()).ok()),
        lockdown(read("/sys/kernel/security/lockdown").as_deref()),
        seccomp(status_field(&status, "Seccomp:")),
    ]
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

fn capabilities(effective: Option<u64>) -> Check {
    let name = "capabilities";
    let Some(effective) = effective else {
        return Check::ok(AREA, name, "no CapEff in /proc/self/status").lacking(
            State::Unknown,
            "what this process may do cannot be read",
            "mount /proc",
        );
    };
    let has = |bit: u32| effective >> bit & 1 == 1;
    if has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON)) {
        let which = if has(CAP_SYS_ADMIN) { "CAP_SYS_ADMIN" } else { "CAP_BPF and CAP_PERFMON" };
        return Check::ok(AREA, name, which);
    }
    let lacking: Vec<&str> = [("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)]
        .into_iter()
        .filter(|(_, bit)| !has(*bit))
        .map(|(name, _)| name)
        .collect();
    Check::ok(AREA, name, format!("without {}", lacking.join(" and "))).lacking(
        State::Missing,
        "programs cannot be loaded",
        "AmbientCapabilities=CAP_BPF CAP_PERFMON in the daemon's unit, or securityContext.capabilities.add",
    )
}

fn btf(bytes: Option<u64>) -> Check {
    let name = "BTF";
    match bytes {
        Some(bytes) => Check::ok(AREA, name, format!("/sys/kernel/btf/vmlinux, {bytes} bytes")),
        None => Check::ok(AREA, name, "no /sys/kernel/btf/vmlinux").lacking(
            State::Missing,
            "the layout of the kernel's structs is not known",
            "a kernel with CONFIG_DEBUG_INFO_BTF=y; in a container, /sys mounted",
        ),
    }
}

/// The mode stands in brackets: `none [integrity] confidentiality`.
fn lockdown(text: Option<&str>) -> Check {
    let name = "lockdown";
    let mode = text.map(lockdown_mode);
    match mode {
        None => Check::ok(AREA, name, "not there: nothing is forbidden by it"),
        Some(Some("confidentiality")) => Check::ok(AREA, name, "confidentiality").lacking(
            State::Missing,
            "programs may not read kernel memory",
            "boot with lockdown=integrity or without lockdown (Secure Boot may set it)",
        ),
        Some(Some(mode)) => Check::ok(AREA, name, mode),
        Some(None) => Check::ok(AREA, name, text.unwrap_or_default()).lacking(
            State::Unknown,
            "the mode cannot be read from /sys/kernel/security/lockdown",
            "see what it holds",
        ),
    }
}

fn lockdown_mode(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode)
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

fn effective_capabilities(status: &str) -> Option<u64> {
    u64::from_str_radix(status_field(status, "CapEff:")?, 16).ok()
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_process_status() {
        let caps =
            |hex: &str| capabilities(effective_capabilities(&format!("Name:\tx\nCapEff:\t{hex}\nSeccomp:\t2\n")));
        assert_eq!(caps("000001ffffffffff").found, "CAP_SYS_ADMIN");
        assert_eq!(caps("000000c000000000").found, "CAP_BPF and CAP_PERFMON");
        let none = caps("0000000000000000");
        assert_eq!((none.state, none.found.as_str()), (State::Missing, "without CAP_BPF and CAP_PERFMON"));
        assert_eq!(caps("0000008000000000").found, "without CAP_PERFMON");
        assert_eq!(capabilities(effective_capabilities("CapEff:\tzz")).state, State::Unknown);
    }

    #[test]
    fn the_lockdown_mode_stands_in_brackets() {
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
        assert_eq!(btf(None).state, State::Missing);
        assert_eq!(btf(Some(7)).state, State::Ok);
        assert_eq!(seccomp(status_field("Seccomp:\t2\nSeccomp_filters:\t1", "Seccomp:")).state, State::Limited);
        assert_eq!(seccomp(Some("0")).state, State::Ok);
    }
}
