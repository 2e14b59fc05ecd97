//! What keeps the kernel program from running here, as one sentence with its remedy, and what can be read about that
//! without trying.

use std::io;
use std::path::PathBuf;

use super::offsets::OffsetsError;

/// Lines of the verifier's log that are told: its verdict is at the end.
const VERIFIER_LINES_MAX: usize = 4;
/// Bytes of them.
const VERIFIER_BYTES_MAX: usize = 600;

/// Why there are no passive answers. The engine runs on, and connects for real.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// `--ebpf off`
    #[error("turned off (--ebpf off)")]
    Off,
    /// The ABI between program and daemon is for these machines only.
    #[error("the kernel program is compiled for 64-bit little-endian machines only, which this one is not")]
    Machine,
    /// ENOSYS
    #[error("the kernel has no bpf(2): it needs CONFIG_BPF_SYSCALL=y")]
    NoBpf,
    /// CapEff does not hold what loading needs.
    #[error(
        "this process lacks {0}, which loading a kernel program needs: give the daemon CAP_BPF and CAP_PERFMON, and \
         CAP_NET_ADMIN without which nothing is answered passively (AmbientCapabilities= in its unit, \
         securityContext.capabilities.add in a pod)"
    )]
    Capabilities(String),
    /// EPERM in spite of the capabilities.
    #[error(
        "bpf(2) is refused ({0}) although the capabilities are there: a seccomp profile, a user namespace or a security \
         module forbids it; allow bpf(2) for the daemon, in the initial user namespace"
    )]
    Forbidden(String),
    /// EPERM or ENOMEM for a map, where memory for maps is limited.
    #[error(
        "the kernel gives no memory for the program's maps ({0}): raise the limit of locked memory (LimitMEMLOCK=infinity \
         in the daemon's unit) or the memory of its cgroup"
    )]
    Memory(String),
    /// Kernel memory may not be read.
    #[error(
        "the kernel is locked down (confidentiality), which forbids programs to read its memory: boot with \
         lockdown=integrity or without"
    )]
    Lockdown,
    /// ENOENT
    #[error(
        "there is no {}: the kernel needs CONFIG_DEBUG_INFO_BTF=y, and in a container /sys has to be mounted",
        .0.display()
    )]
    NoBtf(PathBuf),
    /// The kernel is not as the program needs it, or its BTF cannot be read.
    #[error("the layout of the kernel's structs is not known: {0}; a kernel from 5.14 on with its own BTF is needed")]
    Offsets(#[from] OffsetsError),
    /// The embedded object is not what this daemon expects.
    #[error("the kernel program's object cannot be used ({0}): build it anew with `cargo xtask ebpf`")]
    Object(String),
    /// The verifier said no.
    #[error("the kernel's verifier refuses the program; please report this with the kernel's version: {0}")]
    Verifier(String),
    /// It is loaded, and cannot be attached.
    #[error("the tracepoint sock:inet_sock_set_state cannot be used ({0}): the kernel needs CONFIG_BPF_EVENTS=y")]
    Attach(String),
    /// mmap(2) of a map.
    #[error("the program's map {name} cannot be mapped: {source}; a kernel from 5.14 on is needed")]
    Map {
        /// Which map.
        name: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// /proc does not tell who we are.
    #[error("reading {path}: {source}; /proc has to be mounted")]
    Proc {
        /// Which file.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Bits of `CapEff` (linux/capability.h).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Which capabilities for loading a tracing program a `/proc/PID/status` shows to be missing; empty = none. `None` = it
/// does not tell.
#[must_use]
pub fn lacking_capabilities(status: &str) -> Option<Vec<&'static str>> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    let has = |bit: u32| effective >> bit & 1 == 1;
    // Linux 5.8 split both off CAP_SYS_ADMIN, which still stands for them (perfmon_capable, bpf_capable).
    let lacking = [("CAP_BPF", CAP_BPF), ("CAP_PERFMON", CAP_PERFMON)];
    Some(lacking.into_iter().filter(|(_, bit)| !has(*bit) && !has(CAP_SYS_ADMIN)).map(|(name, _)| name).collect())
}

/// The mode in force, which stands in brackets: `none [integrity] confidentiality`.
#[must_use]
pub fn lockdown_mode(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode)
}

/// The end of a verifier's log as one line; its statistics left away.
#[must_use]
pub(super) fn verifier_end(log: &str) -> String {
    let is_statistics = |line: &&str| line.starts_with("processed ") || line.starts_with("verification time");
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let told: Vec<&str> =
        lines.into_iter().rev().filter(|line| !is_statistics(line)).take(VERIFIER_LINES_MAX).collect();
    let mut text = told.into_iter().rev().collect::<Vec<_>>().join(" | ");
    if text.len() > VERIFIER_BYTES_MAX {
        let start = text.ceil_char_boundary(text.len() - VERIFIER_BYTES_MAX);
        text.replace_range(..start, "...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_process_status() {
        let lacking = |hex: &str| lacking_capabilities(&format!("Name:\tx\nCapEff:\t{hex}\nSeccomp:\t2\n"));
        assert_eq!(lacking("000001ffffffffff"), Some(vec![]));
        assert_eq!(lacking("0000000000200000"), Some(vec![]), "CAP_SYS_ADMIN stands for both");
        assert_eq!(lacking("000000c000000000"), Some(vec![]));
        assert_eq!(lacking("0000008000000000"), Some(vec!["CAP_PERFMON"]));
        assert_eq!(lacking("0000000000000000"), Some(vec!["CAP_BPF", "CAP_PERFMON"]));
        assert_eq!((lacking("zz"), lacking_capabilities("")), (None, None));
    }

    #[test]
    fn the_lockdown_mode_stands_in_brackets() {
        assert_eq!(lockdown_mode("none [integrity] confidentiality"), Some("integrity"));
        assert_eq!(lockdown_mode("?"), None);
    }

    #[test]
    fn of_a_verifiers_log_the_end_is_told() {
        let log =
            "0: R1=ctx()\n1: r2\n2: r3\n\nprogram of this type cannot use helper\nprocessed 2 insns (limit 1000000)\n";
        assert_eq!(verifier_end(log), "0: R1=ctx() | 1: r2 | 2: r3 | program of this type cannot use helper");
        let long = verifier_end(&"ä".repeat(5_000));
        assert!(long.len() <= VERIFIER_BYTES_MAX + 3 && long.starts_with("..."), "{}", long.len());
        assert_eq!(verifier_end(""), "");
    }

    #[test]
    fn every_reason_is_one_sentence_with_its_remedy() {
        let all = [
            Unavailable::Machine,
            Unavailable::NoBpf,
            Unavailable::Capabilities("CAP_BPF".into()),
            Unavailable::Forbidden("BPF_MAP_CREATE: EPERM".into()),
            Unavailable::Memory("BPF_MAP_CREATE: ENOMEM".into()),
            Unavailable::Lockdown,
            Unavailable::NoBtf("/sys/kernel/btf/vmlinux".into()),
            Unavailable::Offsets(OffsetsError::NoStruct("sock")),
            Unavailable::Object("x".into()),
            Unavailable::Verifier("x".into()),
            Unavailable::Attach("x".into()),
            Unavailable::Map { name: "COUNTERS", source: io::Error::from_raw_os_error(libc::EINVAL) },
        ];
        for reason in all {
            let text = reason.to_string();
            assert!(!text.contains('\n') && !text.contains("  ") && !text.ends_with('.'), "{text}");
            assert!(text.len() > 40, "{text}");
        }
        let privileges = Unavailable::Capabilities("CAP_BPF".into()).to_string();
        assert!(privileges.contains("CAP_NET_ADMIN"), "passive answers need it too: {privileges}");
    }
}
