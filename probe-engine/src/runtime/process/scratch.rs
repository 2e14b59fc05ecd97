//! Where a container runs whose manifest names no `workingDir`: a directory of its own, empty at each start (as an
//! image's file system would be) and gone with its pod.
//!
//! Bound: one directory per container of a running pod; what a killed daemon left is removed by the next one. The
//! state directory is locked for as long as a daemon uses it: two would take each other's directories and logs away.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use probe_core::id::ContainerName;

use super::spawn::Credentials;

/// Directories of this name and a pid belong to the daemon of that pid; of one that has gone, if it is not ours.
const PREFIX: &str = "scratch-";

/// The scratch directories of one daemon.
#[derive(Debug)]
pub(super) struct Scratch {
    root: PathBuf,
    /// Of the state directory.
    _lock: File,
}

impl Scratch {
    /// Below `state_dir`. Removes those of daemons that are gone. `ResourceBusy` = another daemon uses it.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let lock = File::open(state_dir)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another daemon uses it; give this one its own --state-dir")
            }
            TryLockError::Error(error) => error,
        })?;
        for entry in fs::read_dir(state_dir)?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let root = state_dir.join(format!("{PREFIX}{}", std::process::id()));
        // Containers of other users must be able to reach their own directory, nobody to list the others.
        DirBuilder::new().mode(0o711).create(&root)?;
        Ok(Self { root: fs::canonicalize(root)?, _lock: lock })
    }

    /// An empty directory for the next instance of a container, owned by the user that it runs as.
    pub(super) fn fresh(&self, pod: &str, container: &ContainerName, owner: &Credentials) -> io::Result<PathBuf> {
        let directory = self.root.join(pod).join(container.as_str());
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o711).recursive(true).create(self.root.join(pod))?;
        DirBuilder::new().mode(0o700).create(&directory)?;
        if owner.uid.is_some() || owner.gid.is_some() {
            chown(&directory, owner.uid, owner.gid)?;
        }
        Ok(directory)
    }

    /// The pod is gone.
    pub(super) fn remove(&self, pod: &str) {
        remove(&self.root.join(pod));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.root);
    }
}

fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(directory = %directory.display(), %error, "a scratch directory is left");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instance_starts_with_an_empty_directory_and_nothing_is_left() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let dead = state.path().join("scratch-4294967290");
        fs::create_dir(&dead).expect("what a dead daemon left");
        let scratch = Scratch::open(state.path()).expect("a scratch directory");
        assert!(!dead.exists());
        let second = Scratch::open(state.path()).expect_err("a second daemon");
        assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
        let name = ContainerName::from("main");
        let first = scratch.fresh("default_web_1", &name, &Credentials::default()).expect("fresh");
        fs::write(first.join("healthy"), "").expect("written");
        let second = scratch.fresh("default_web_1", &name, &Credentials::default()).expect("fresh");
        assert_eq!(first, second);
        assert_eq!(fs::read_dir(&second).expect("there").count(), 0);
        scratch.remove("default_web_1");
        assert!(!second.exists());
        drop(scratch);
        assert_eq!(fs::read_dir(state.path()).expect("there").count(), 0);
    }
}
