//! Tells that something may have changed below the given paths: by inotify, or by the clock where that fails and
//! where symbolic links lead out of what is watched.
//! Says no more than that; whoever asks reads everything again.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time;
use tracing::warn;

use super::is_manifest;
use crate::limits;

/// See the module.
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    /// Watched directories with device and inode: one made anew under its old name has to be watched anew.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    changed: mpsc::Receiver<()>,
    notify: mpsc::Sender<()>,
    has_warned: bool,
    /// What a link leads to changes elsewhere, unseen from here.
    has_links: bool,
}

impl Watch {
    /// Watches nothing until [`Watch::arm`].
    pub(super) fn new(paths: &[PathBuf]) -> Self {
        // One place: any number of events is one reason to look.
        let (notify, changed) = mpsc::channel(1);
        Self {
            paths: paths.iter().map(|path| absolute(path)).collect(),
            watcher: None,
            watched: BTreeMap::new(),
            changed,
            notify,
            has_warned: false,
            has_links: false,
        }
    }

    /// Watches the directories that matter now. Call it again after every change: directories come and go.
    pub(super) fn arm(&mut self) {
        // What was told until now is seen by the reading that follows.
        while self.changed.try_recv().is_ok() {}
        self.has_links = self.paths.iter().any(|path| has_links(path));
        let directories = directories(&self.paths);
        if self.watcher.is_some() && directories == self.watched {
            return;
        }
        match self.watch(&directories) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watched = directories;
                self.has_warned = false;
            }
            Err(error) => {
                self.watcher = None;
                if !self.has_warned {
                    let seconds = limits::MANIFEST_POLL.as_secs();
                    warn!(
                        "manifests cannot be watched, they are read every {seconds} s: {error} (fs.inotify.max_user_watches and max_user_instances may be too low)"
                    );
                }
                self.has_warned = true;
            }
        }
    }

    /// Returns when something may have changed since the last call of [`Watch::arm`].
    pub(super) async fn changed(&mut self) {
        let is_polled = self.watcher.is_none() || self.has_links;
        tokio::select! {
            // Never `None`: the other end is in self.
            _ = self.changed.recv(), if self.watcher.is_some() => {}
            () = time::sleep(limits::MANIFEST_POLL), if is_polled => {}
        }
    }

    fn watch(&self, directories: &BTreeMap<PathBuf, (u64, u64)>) -> notify::Result<RecommendedWatcher> {
        let paths = self.paths.clone();
        let notify = self.notify.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| matters(&event, &paths)) {
                // Full = the change is already told.
                let _ = notify.try_send(());
            }
        })?;
        for directory in directories.keys() {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

/// The directories in which a change can concern one of the paths: a directory itself and the one it is in; of a
/// path that is not there, the nearest one above it that is.
fn directories(paths: &[PathBuf]) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut directories = BTreeMap::new();
    let mut add = |path: &Path| match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            directories.insert(path.to_owned(), (metadata.dev(), metadata.ino()));
            true
        }
        _ => false,
    };
    for path in paths {
        add(path);
        let mut above = path.ancestors().skip(1);
        let _ = above.find(|path| add(path));
    }
    directories
}

/// Whether the path is a symbolic link, or a directory with manifests that are.
fn has_links(path: &Path) -> bool {
    let is_link = |entry: &DirEntry| entry.file_type().is_ok_and(|t| t.is_symlink()) && is_manifest(&entry.path());
    path.is_symlink() || std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| is_link(&entry)))
}

/// Whether an event can have changed what would be read. Our own reading must not.
fn matters(event: &Event, paths: &[PathBuf]) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    // Anything directly in a watched directory counts: volumes of Kubernetes swap a hidden link (`..data`).
    let concerns = |at: &PathBuf| paths.iter().any(|path| path.starts_with(at) || at.parent() == Some(path));
    event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(concerns)
}

fn absolute(path: &Path) -> PathBuf {
    // Fails only where there is no current directory; then the path is as good as any.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
