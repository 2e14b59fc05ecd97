//! io_uring: whether rings can be made, and which of the set-up flags that a shard wants.

use std::io;

use ::io_uring::{Builder, IoUring, Probe, cqueue, opcode, squeue};

use super::{Check, State, read};

const AREA: &str = "io_uring";

/// Entries of the rings tried here: the kernel's least.
const ENTRIES: u32 = 2;

pub(super) fn checks() -> Vec<Check> {
    let sysctl = read("/proc/sys/kernel/io_uring_disabled");
    let mut checks = vec![disabled(sysctl.as_deref())];
    match IoUring::new(ENTRIES) {
        Ok(ring) => {
            checks.push(Check::ok(AREA, "rings", "can be made"));
            checks.extend(flags());
            checks.push(operations(&ring));
        }
        Err(error) => checks.push(refused(&error, sysctl.as_deref())),
    }
    checks
}

/// `kernel.io_uring_disabled`: since Linux 6.6; 1 = only for a group and CAP_SYS_ADMIN, 2 = for nobody.
fn disabled(value: Option<&str>) -> Check {
    let name = "kernel.io_uring_disabled";
    let slower = "shards use epoll: the same verdicts, somewhat more CPU";
    match value {
        None => Check::ok(AREA, name, "not there (Linux before 6.6): nothing is forbidden by it"),
        Some("0") => Check::ok(AREA, name, "0"),
        Some("1") => Check::ok(AREA, name, "1: only for CAP_SYS_ADMIN and the group of kernel.io_uring_group").lacking(
            State::Limited,
            slower,
            "run the daemon with CAP_SYS_ADMIN or in that group, or `sysctl kernel.io_uring_disabled=0`",
        ),
        Some(value) => {
            Check::ok(AREA, name, value).lacking(State::Missing, slower, "`sysctl kernel.io_uring_disabled=0`")
        }
    }
}

fn refused(error: &io::Error, sysctl: Option<&str>) -> Check {
    let (why, remedy) = match (error.raw_os_error(), sysctl) {
        (Some(libc::ENOSYS), _) => (
            "the kernel has no io_uring, or a seccomp profile hides it",
            "Linux 5.19 or newer; a seccomp profile that allows io_uring_setup",
        ),
        (Some(libc::EPERM), Some("1" | "2")) => {
            ("kernel.io_uring_disabled forbids it", "`sysctl kernel.io_uring_disabled=0`")
        }
        (Some(libc::EPERM | libc::EACCES), _) => (
            "a seccomp profile or a security module forbids it (container runtimes do by default)",
            "a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        ),
        (Some(libc::ENOMEM), _) => {
            ("RLIMIT_MEMLOCK is too small (kernels before 5.12 count rings)", "raise LimitMEMLOCK")
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => ("there are no descriptors left", "raise LimitNOFILE"),
        _ => ("io_uring_setup failed", "see the error"),
    };
    let reason = format!("{why}; shards use epoll: the same verdicts, somewhat more CPU");
    Check::ok(AREA, "rings", format!("io_uring_setup: {error}")).lacking(State::Missing, reason, remedy)
}

/// Each flag that a shard's ring is made with, tried with those it needs.
fn flags() -> Vec<Check> {
    type SetUp = fn(&mut Builder<squeue::Entry, cqueue::Entry>);
    let wanted: [(&str, &str, SetUp); 4] = [
        ("SINGLE_ISSUER", "6.0", |b| {
            b.setup_single_issuer();
        }),
        ("COOP_TASKRUN", "5.19", |b| {
            b.setup_coop_taskrun();
        }),
        ("TASKRUN_FLAG", "5.19", |b| {
            b.setup_coop_taskrun().setup_taskrun_flag();
        }),
        ("DEFER_TASKRUN", "6.1", |b| {
            b.setup_single_issuer().setup_defer_taskrun();
        }),
    ];
    let check = |(name, since, set_up): (&str, &str, SetUp)| {
        let mut builder = IoUring::builder();
        set_up(&mut builder);
        match builder.build(ENTRIES) {
            Ok(_) => Check::ok(AREA, name, "yes"),
            Err(error) => Check::ok(AREA, name, format!("io_uring_setup: {error}")).lacking(
                State::Limited,
                "rings are made without it: more interruptions of the shard's thread",
                format!("Linux {since} or newer"),
            ),
        }
    };
    wanted.into_iter().map(check).collect()
}

/// The operations that a shard submits.
fn operations(ring: &IoUring) -> Check {
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return Check::ok(AREA, "operations", format!("IORING_REGISTER_PROBE: {error}")).lacking(
            State::Unknown,
            "which operations the kernel has cannot be asked",
            "Linux 5.6 or newer; a seccomp profile that allows io_uring_register",
        );
    }
    let needed = [
        ("CONNECT", opcode::Connect::CODE),
        ("SEND", opcode::Send::CODE),
        ("RECV", opcode::Recv::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
    ];
    let lacking: Vec<&str> =
        needed.iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| *name).collect();
    if lacking.is_empty() {
        return Check::ok(AREA, "operations", needed.map(|(name, _)| name).join(" "));
    }
    Check::ok(AREA, "operations", format!("without {}", lacking.join(" "))).lacking(
        State::Missing,
        "shards use epoll",
        "Linux 5.19 or newer",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sysctl_is_explained() {
        assert_eq!(disabled(None).state, State::Ok);
        assert_eq!(disabled(Some("0")).state, State::Ok);
        assert_eq!(disabled(Some("1")).state, State::Limited);
        let forbidden = disabled(Some("2"));
        assert!(forbidden.state == State::Missing && forbidden.remedy.contains("sysctl"), "{forbidden:?}");
    }

    #[test]
    fn a_refusal_names_its_likely_cause() {
        let because = |errno, sysctl| refused(&io::Error::from_raw_os_error(errno), sysctl).reason;
        assert!(because(libc::EPERM, Some("2")).contains("io_uring_disabled"));
        assert!(because(libc::EPERM, Some("0")).contains("seccomp"));
        assert!(because(libc::ENOSYS, None).contains("no io_uring"));
        assert!(because(libc::EMFILE, None).contains("descriptors"));
    }
}
