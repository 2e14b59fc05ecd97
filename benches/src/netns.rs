//! A network namespace of the scenario's own, so that the kernel's counts are of nobody else.

use std::fs;
use std::process::Command;

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, getgid, getuid};

/// `net.core.somaxconn` of the namespace: the longest queue of a listener. Of one that is tens of thousands of targets: all that
/// connect while its process has no core of its own, as the kernel drops what is beyond.
pub const SOMAXCONN: i32 = 65_535;

/// What the namespace is told: room for every listener's queue, and ports of connections above those of listeners.
const SETTINGS: [(&str, &str); 2] =
    [("/proc/sys/net/core/somaxconn", "65535"), ("/proc/sys/net/ipv4/ip_local_port_range", "32000 65535")];

/// Moves this process, which must have one thread, into a new namespace with its loopback up; an ordinary user's gets a
/// user namespace around it. Errors say what is missing.
pub fn enter() -> anyhow::Result<()> {
    if Uid::effective().is_root() {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET): CAP_SYS_ADMIN is needed")?;
    } else {
        let (uid, gid) = (getuid(), getgid());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).context(
            "unshare(CLONE_NEWUSER | CLONE_NEWNET): unprivileged user namespaces are off here; run it as root",
        )?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    let output = Command::new("ip").args(["link", "set", "lo", "up"]).output().context("ip (iproute2)")?;
    if !output.status.success() {
        bail!("ip link set lo up: {}", String::from_utf8_lossy(&output.stderr));
    }
    for (path, value) in SETTINGS {
        fs::write(path, value).with_context(|| path.to_owned())?;
    }
    Ok(())
}
