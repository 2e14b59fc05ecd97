//! cgroup v2: what ends every process of a container, counts its memory and limits it.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{Check, State, read};

const AREA: &str = "cgroups (runtime process)";

pub(super) fn checks() -> Vec<Check> {
    let Some(mount) = read("/proc/self/mountinfo").as_deref().and_then(unified_mount) else {
        let found = "no cgroup2 in /proc/self/mountinfo";
        return vec![Check::ok(AREA, "cgroup v2", found).lacking(
            State::Missing,
            "a container's processes are ended by process group: what calls setsid(2) can stay behind; no memory limits, no OOMKilled",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount it: `mount -t cgroup2 none /sys/fs/cgroup`",
        )];
    };
    let own = read("/proc/self/cgroup").as_deref().and_then(own_path).unwrap_or_else(|| "/".to_owned());
    let group = mount.join(own.trim_start_matches('/'));
    // Seen from within a namespace the path may not be there; then the mount's root is ours.
    let group = if group.is_dir() { group } else { mount.clone() };
    vec![
        Check::ok(AREA, "cgroup v2", format!("mounted at {}, this process in {}", mount.display(), group.display())),
        writable(&group),
        memory(read(group.join("cgroup.controllers")).as_deref()),
        kill(&mount, &group),
    ]
}

fn writable(group: &Path) -> Check {
    let name = "own subtree";
    match access(group, AccessFlags::W_OK) {
        Ok(()) => Check::ok(AREA, name, format!("{} can be written", group.display())),
        Err(errno) => Check::ok(AREA, name, format!("{}: {errno}", group.display())).lacking(
            State::Missing,
            "no cgroup per container can be made: processes that call setsid(2) can outlive the daemon",
            "run as root, or Delegate=yes in the daemon's unit",
        ),
    }
}

fn memory(controllers: Option<&str>) -> Check {
    let name = "memory controller";
    match controllers {
        Some(list) if list.split_whitespace().any(|c| c == "memory") => Check::ok(AREA, name, "there"),
        Some(list) => Check::ok(AREA, name, format!("controllers here: {}", if list.is_empty() { "none" } else { list }))
            .lacking(
                State::Missing,
                "memory limits are refused and OOMKilled cannot be told",
                "enable it in the parent's cgroup.subtree_control; on a hybrid (v1) system boot with systemd.unified_cgroup_hierarchy=1",
            ),
        None => Check::ok(AREA, name, "no cgroup.controllers").lacking(
            State::Unknown,
            "the controllers cannot be read",
            "see whether the mount is complete",
        ),
    }
}

/// `cgroup.kill` is in every group but the root, since Linux 5.14.
fn kill(mount: &Path, group: &Path) -> Check {
    let name = "cgroup.kill";
    let candidates = std::iter::once(group.to_owned()).chain(children(mount));
    let found = candidates.map(|dir| dir.join(name)).find(|path| path.exists());
    match found {
        Some(_) => Check::ok(AREA, name, "there"),
        None if kernel_has_kill(read("/proc/sys/kernel/osrelease").as_deref()) => {
            Check::ok(AREA, name, "by the kernel's version (the root group has none)")
        }
        None => Check::ok(AREA, name, "not there").lacking(
            State::Limited,
            "processes are killed one by one, until none is left",
            "Linux 5.14 or newer",
        ),
    }
}

fn children(mount: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(mount) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).take(8).collect()
}

fn kernel_has_kill(release: Option<&str>) -> bool {
    let Some(release) = release else { return false };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 14)
}

/// The mount point whose file system is cgroup2; the optional fields end with a lone `-`.
fn unified_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_unified = after.split_whitespace().next() == Some("cgroup2");
        let point = before.split_whitespace().nth(4)?;
        is_unified.then(|| PathBuf::from(unescape(point)))
    })
}

/// The line of the unified hierarchy: `0::/path`.
fn own_path(cgroup: &str) -> Option<String> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// mountinfo writes blanks and backslashes as `\040` and so on.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw";

    #[test]
    fn the_unified_mount_is_found_among_others() {
        assert_eq!(unified_mount(HYBRID), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let spaced = "1 2 0:3 / /mnt/a\\040b rw - cgroup2 none rw";
        assert_eq!(unified_mount(spaced), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(unified_mount("1 2 0:3 / /proc rw - proc proc rw"), None);
        assert_eq!(unified_mount("garbage"), None);
    }

    #[test]
    fn the_own_group_is_that_of_the_unified_hierarchy() {
        assert_eq!(own_path("8:pids:/x\n0::/system.slice/a.service"), Some("/system.slice/a.service".to_owned()));
        assert_eq!(own_path("8:pids:/x"), None);
    }

    #[test]
    fn the_memory_controller_is_looked_for_by_name() {
        assert_eq!(memory(Some("cpuset cpu io memory pids")).state, State::Ok);
        assert_eq!(memory(Some("")).state, State::Missing);
        assert_eq!(memory(Some("hugememory")).state, State::Missing);
        assert_eq!(memory(None).state, State::Unknown);
    }

    #[test]
    fn cgroup_kill_came_with_5_14() {
        for (release, has) in
            [("5.14.0", true), ("6.1.0-9-amd64", true), ("5.13.9", false), ("4.19", false), ("x", false)]
        {
            assert_eq!(kernel_has_kill(Some(release)), has, "{release}");
        }
    }
}
