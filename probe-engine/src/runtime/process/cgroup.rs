//! The cgroup v2 sub-tree of this daemon: one leaf per container instance, so that whatever a container
//! started can be killed and counted, however it forked.
//!
//! `<own cgroup>/probe-engine-<pid>-<random>/<pod>-<container>-<n>-<id>`. The daemon holds an flock on its
//! directory for as long as it lives: a sub-tree that nobody holds is left over from one that died.
//! Source: the kernel's Documentation/admin-guide/cgroup-v2.rst.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

const PREFIX: &str = "probe-engine-";
/// Where the daemon goes when its own cgroup must be empty of processes to pass on the memory controller.
const DAEMON_LEAF: &str = "probe-engine.daemon";
/// First and longest wait between two looks at a cgroup that is being killed.
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);
/// A directory name's bytes at most (NAME_MAX), with room for what is appended.
const NAME_BYTES_MAX: usize = 200;

/// What this host lets us do with cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Containers can be put in cgroups of their own and killed whole.
    pub cgroup: bool,
    /// Memory limits can be set, and OOM kills told from others.
    pub memory: bool,
    /// What is missing and why, one sentence each; empty when nothing is.
    pub missing: Vec<String>,
}

/// Looks without leaving anything behind.
#[must_use]
pub fn capabilities() -> Capabilities {
    match Place::find() {
        Err(why) => Capabilities {
            cgroup: false,
            memory: false,
            missing: vec![
                format!("no cgroup for containers: {why}; {NOT_COVERED}"),
                "no memory limits: they need a cgroup v2".to_owned(),
            ],
        },
        Ok(place) => {
            let memory = place.memory();
            Capabilities {
                cgroup: true,
                memory: memory.is_ok(),
                missing: memory.err().into_iter().map(|why| format!("no memory limits: {why}")).collect(),
            }
        }
    }
}

/// What the fallback without cgroups cannot promise.
pub const NOT_COVERED: &str = "a process that leaves its session and clears its environment outlives its container";

/// Where the sub-tree goes.
#[derive(Clone, Debug)]
struct Place {
    own: PathBuf,
}

impl Place {
    fn find() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"));
        let (point, root) = mount_in(&read("/proc/self/mountinfo")?)
            .ok_or("no cgroup2 file system is mounted; mount one at /sys/fs/cgroup")?;
        let own = own_in(&read("/proc/self/cgroup")?).ok_or("this process is in no cgroup v2")?.to_owned();
        let below = Path::new(&own)
            .strip_prefix(&root)
            .map_err(|_| format!("our cgroup {own} lies outside of the mounted tree"))?;
        let own = point.join(below);
        if own.components().any(|c| c == std::path::Component::ParentDir) {
            return Err("our cgroup lies outside of our cgroup namespace".to_owned());
        }
        let place = Self { own };
        place.check()?;
        Ok(place)
    }

    /// Making a leaf needs write access to our directory, moving a child there to our `cgroup.procs`.
    fn check(&self) -> Result<(), String> {
        let own = self.own.display();
        for path in [self.own.clone(), self.own.join("cgroup.procs")] {
            access(&path, AccessFlags::W_OK)
                .map_err(|e| format!("{} is not writable ({e}); with systemd set Delegate=yes", path.display()))?;
        }
        match fs::read_to_string(self.own.join("cgroup.type")) {
            Ok(kind) if kind.trim() != "domain" => Err(format!("{own} is a {} cgroup", kind.trim())),
            _ => Ok(()),
        }
    }

    fn memory(&self) -> Result<(), String> {
        let controllers = fs::read_to_string(self.own.join("cgroup.controllers")).unwrap_or_default();
        if controllers.split_whitespace().any(|c| c == "memory") {
            return Ok(());
        }
        let own = self.own.display();
        Err(format!("{own}/cgroup.controllers does not list memory (a v1 hierarchy or the parent keeps it)"))
    }
}

/// The daemon's own sub-tree; its flock is held until it is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    memory: bool,
    _lock: File,
}

impl Tree {
    /// Makes it, after removing those of daemons that are gone. The error is a sentence for the operator.
    pub(super) fn create() -> Result<Self, String> {
        let place = Place::find()?;
        remove_leftovers(&place.own);
        let memory = place.memory().is_ok() && pass_on_memory(&place.own).is_ok();
        let mut tree = None;
        // A sub-tree just made can be taken for a leftover until it is locked: then make another.
        for _ in 0..8 {
            let name = format!("{PREFIX}{}-{:08x}", std::process::id(), random().map_err(|e| e.to_string())?);
            let path = place.own.join(name);
            fs::create_dir(&path).map_err(|e| format!("mkdir {}: {e}", path.display()))?;
            let Ok(lock) = File::open(&path) else {
                continue;
            };
            if lock.try_lock().is_ok() && path.is_dir() {
                tree = Some(Self { path, memory, _lock: lock });
                break;
            }
        }
        let mut tree = tree.ok_or("could not lock a cgroup of our own")?;
        if !tree.path.join("cgroup.kill").exists() {
            let _ = fs::remove_dir(&tree.path);
            return Err("cgroup.kill is missing: it needs Linux 5.14".to_owned());
        }
        tree.memory = memory && enable_memory(&tree.path).is_ok();
        Ok(tree)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether leaves can have memory limits.
    pub(super) fn memory(&self) -> bool {
        self.memory
    }

    /// A new leaf; `memory_bytes` becomes its memory.max where limits can be set.
    pub(super) fn leaf(&self, name: &str, memory_bytes: Option<u64>) -> io::Result<Leaf> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        let leaf = Leaf { path };
        if self.memory {
            // The whole container dies of its limit, as under a kubelet on cgroup v2.
            let _ = fs::write(leaf.path.join("memory.oom.group"), "1");
            if let Some(bytes) = memory_bytes {
                fs::write(leaf.path.join("memory.max"), bytes.to_string())?;
            }
        }
        Ok(leaf)
    }
}

/// One container instance's cgroup.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    path: PathBuf,
}

impl Leaf {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `cgroup.procs`, for a child to write itself into.
    pub(super) fn procs(&self) -> io::Result<OwnedFd> {
        Ok(OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))?.into())
    }

    /// SIGKILL to everything in it, forks under way included.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether a living process is in it; a cgroup that is gone has none.
    pub(super) fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|text| field(&text, "populated") != 0)
    }

    /// How often the kernel's OOM killer took a process of it.
    pub(super) fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events")).map_or(0, |text| oom_kills_in(&text))
    }

    /// Removes it; containers may have made cgroups below theirs.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_dirs(&self.path)
    }
}

/// Waits between looks at something that is about to end: 1, 2, 4 ... 50 ms.
#[derive(Debug)]
pub(super) struct Looks(Duration);

impl Looks {
    pub(super) fn new() -> Self {
        Self(LOOK_MIN)
    }

    /// How long to wait before the next look.
    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LOOK_MAX);
        wait
    }
}

/// Kills everything below `tree` and removes it, for as long as `patience` lasts. Blocks.
pub(super) fn destroy(tree: &Path, patience: Duration) -> io::Result<()> {
    let mut looks = Looks::new();
    let mut waited = Duration::ZERO;
    loop {
        // Every time: a child may just have moved itself in.
        let _ = fs::write(tree.join("cgroup.kill"), "1");
        match remove_dirs(tree) {
            Ok(()) => return Ok(()),
            Err(e) if waited >= patience => return Err(e),
            Err(_) => {}
        }
        let wait = looks.next_wait();
        std::thread::sleep(wait);
        waited += wait;
    }
}

/// The name of an instance's leaf: readable, and surely one path component.
pub(super) fn leaf_name(pod: &str, container: &str, restart_count: u32, id: &str) -> String {
    let clean = |text: &str| -> String {
        text.chars()
            .take(NAME_BYTES_MAX / 2 - 10)
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .collect()
    };
    format!("{}-{}-{restart_count}-{}", clean(pod), clean(container), clean(id))
}

fn remove_leftovers(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|n| n.starts_with(PREFIX)) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::open(&path) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        match destroy(&path, Duration::from_secs(2)) {
            Ok(()) => {
                tracing::info!(cgroup = %path.display(), "removed what an earlier daemon left behind")
            }
            Err(e) => {
                tracing::warn!(cgroup = %path.display(), error = %e, "cannot remove what an earlier daemon left behind")
            }
        }
    }
}

/// A cgroup that passes controllers on must have no processes (except the root): the daemon moves to a leaf,
/// if it is alone.
fn pass_on_memory(own: &Path) -> io::Result<()> {
    if enable_memory(own).is_ok() {
        return Ok(());
    }
    let alone = fs::read_to_string(own.join("cgroup.procs"))?.lines().all(|pid| pid.parse() == Ok(std::process::id()));
    if !alone {
        return Err(io::Error::other("other processes are in our cgroup"));
    }
    let leaf = own.join(DAEMON_LEAF);
    if !leaf.is_dir() {
        fs::create_dir(&leaf)?;
    }
    fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
    enable_memory(own)
}

fn enable_memory(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.subtree_control"), "+memory")
}

fn remove_dirs(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_dirs(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// 64 random bits.
pub(super) fn random() -> io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Mount point and mounted root of the first cgroup2 in /proc/self/mountinfo (proc(5)).
fn mount_in(mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        Some((unescaped(point).into(), unescaped(root).into()))
    })
}

/// Our path in the unified hierarchy, from /proc/self/cgroup.
fn own_in(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

fn oom_kills_in(memory_events: &str) -> u64 {
    field(memory_events, "oom_kill")
}

/// The number behind `key` in a flat keyed file; 0 where there is none.
fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(k, _)| *k == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_mount_of_a_hybrid_host_is_found() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let (point, root) = mount_in(text).unwrap();
        assert_eq!(point, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(root, Path::new("/"));
    }

    #[test]
    fn the_mount_of_a_container_keeps_its_root_and_its_spaces() {
        let text = "9 1 0:26 /docker/abc /my\\040cg rw shared:4 master:2 - cgroup2 cgroup rw\n";
        let (point, root) = mount_in(text).unwrap();
        assert_eq!((point.as_path(), root.as_path()), (Path::new("/my cg"), Path::new("/docker/abc")));
    }

    #[test]
    fn a_host_without_cgroup2_has_none() {
        assert_eq!(mount_in("35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"), None);
        assert_eq!(own_in("4:memory:/a\n"), None);
        assert_eq!(own_in("4:memory:/a\n0::/user.slice\n"), Some("/user.slice"));
    }

    #[test]
    fn only_the_oom_kill_counter_counts_as_an_oom_kill() {
        let text = "low 0\nhigh 3\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(oom_kills_in(text), 1);
        assert_eq!(oom_kills_in("low 0\noom 2\noom_kill 0\n"), 0, "the limit was hit, but nobody was killed");
        assert_eq!(oom_kills_in(""), 0);
    }

    #[test]
    fn a_leaf_name_is_one_component_whatever_the_pod_is_called() {
        let name = leaf_name("../..", "a/b", 3, "0123");
        assert_eq!(name, "_____-a_b-3-0123");
        assert!(leaf_name(&"p".repeat(253), &"c".repeat(253), u32::MAX, "0123456789abcdef").len() < 255);
    }
}
