//! Pods from manifest files (`--manifests PATH`), watched: a new file adds its pods, a changed one replaces those
//! that changed, a removed one ends them.
//!
//! A path is a file, or a directory of which the `*.yaml`, `*.yml` and `*.json` files are read: not those of
//! directories inside it, nor hidden ones. It need not exist yet. Whatever happens, all files are looked at again: those
//! that may have changed are read and compared by content, so no event has to be understood; what cannot be read or has
//! errors keeps the pods that it gave before.

mod stamp;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use probe_core::spec::Pod;
use tokio::sync::watch as signal;
use tokio::time;
use tracing::{debug, info, warn};

use super::parse::{Problem, RuntimeKind, Severity, Strictness};
use super::{PodUpdate, PodUpdateSender};
use crate::{clock, limits, shutdown};
pub(super) use table::accept;
use table::{Change, Table};
use watch::Watch;

/// This source's name in [`PodUpdate::Synced`].
pub const NAME: &str = "manifests";

/// What to read, and what for.
#[derive(Clone, Debug)]
pub struct ManifestConfig {
    /// Files and directories.
    pub paths: Vec<PathBuf>,
    /// How strictly; `Run` for the daemon.
    pub strictness: Strictness,
    /// Who will run the pods.
    pub runtime: RuntimeKind,
    /// Run pods without what the runtime cannot honour, even where that is unsafe.
    pub ignore_unsupported: bool,
    /// The runtime can limit memory: it has cgroups.
    pub memory_limits: bool,
}

/// What this source has read, for /readyz and `describe`.
#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    /// Every path was read once, with or without errors.
    pub synced: bool,
    /// Pods that are wanted now.
    pub pods_count: usize,
    /// Errors of the newest reading, by file; at most `limits::MANIFEST_PROBLEMS_LEN_MAX` a file.
    pub errors: BTreeMap<PathBuf, Vec<Problem>>,
    /// When it was last read without any; `None` = not yet.
    pub clean_at: Option<Timestamp>,
}

/// Reads and watches until `shutdown` turns true or its sender is gone, or nobody takes `updates` any more. Does
/// not end the pods: that is for whoever shuts down.
pub async fn run(
    config: ManifestConfig,
    updates: PodUpdateSender,
    status: signal::Sender<SourceStatus>,
    mut shutdown: signal::Receiver<bool>,
) {
    let config = Arc::new(config);
    let mut watch = Watch::new(&config.paths);
    let mut table = Table::default();
    let mut synced = false;
    let mut clean_at = None;
    loop {
        // Armed before the files are read, so that a change in between is not lost.
        watch.arm();
        let reading = read(Arc::clone(&config), table);
        let read = tokio::select! {
            read = reading => read,
            () = shutdown::told(&mut shutdown) => return,
        };
        let Some((next, changes)) = read else {
            return;
        };
        table = next;
        let is_whole = synced || table.status().errors.is_empty();
        let sends = send(&updates, changes, is_whole, &mut synced);
        let taken = tokio::select! {
            taken = sends => taken,
            () = shutdown::told(&mut shutdown) => return,
        };
        if !taken {
            return;
        }
        let read = table.status();
        if read.errors.is_empty() {
            clean_at = Some(clock::wall());
        }
        status.send_replace(SourceStatus { clean_at, ..read });
        tokio::select! {
            () = watch.changed() => {}
            () = shutdown::told(&mut shutdown) => return,
        }
        time::sleep(limits::MANIFEST_SETTLE).await;
    }
}

/// One reading of everything, off the runtime's threads. `None` = the runtime is going down.
async fn read(config: Arc<ManifestConfig>, mut table: Table) -> Option<(Table, Vec<Change>)> {
    let reading = tokio::task::spawn_blocking(move || {
        let changes = table.read(&config);
        (table, changes)
    });
    reading.await.ok()
}

async fn send(updates: &PodUpdateSender, changes: Vec<Change>, is_whole: bool, synced: &mut bool) -> bool {
    let named = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
    let removed = changes.iter().filter(|change| matches!(change, Change::Remove(_))).count();
    let is_each_told = changes.len() <= limits::LOG_PODS_EACH_MAX;
    if !is_each_told {
        info!(added = changes.len() - removed, removed, "pods from manifests");
    }
    for change in changes {
        let update = match change {
            Change::Remove(pod) => {
                if is_each_told {
                    info!(pod = named(&pod), uid = %pod.uid, "manifest gone or changed: pod ends");
                } else {
                    debug!(pod = named(&pod), uid = %pod.uid, "manifest gone or changed: pod ends");
                }
                PodUpdate::Remove(pod.uid.clone(), None)
            }
            Change::Add(pod) => {
                if is_each_told {
                    info!(pod = named(&pod), uid = %pod.uid, "pod from manifest");
                } else {
                    debug!(pod = named(&pod), uid = %pod.uid, "pod from manifest");
                }
                PodUpdate::Add(pod)
            }
        };
        if updates.send(update).await.is_err() {
            return false;
        }
    }
    if !*synced {
        *synced = true;
        return updates.send(PodUpdate::Synced { source: NAME, is_whole }).await.is_ok();
    }
    true
}

/// Logs what is wrong with a file: errors wake someone, the rest does not.
fn log(file: &Path, problems: &[Problem]) {
    for problem in problems.iter().take(limits::MANIFEST_PROBLEMS_LEN_MAX) {
        match problem.severity {
            Severity::Error => warn!("{problem}"),
            Severity::Warning => info!("{problem}"),
            Severity::Note => debug!("{problem}"),
        }
    }
    let more = problems.len().saturating_sub(limits::MANIFEST_PROBLEMS_LEN_MAX);
    if more > 0 {
        warn!("{}: and {more} more", file.display());
    }
}

/// The manifest files of a directory, sorted by name: `*.yaml`, `*.yml` and `*.json`, not those of directories
/// inside it, nor hidden and temporary ones (`.x`, `#x#`, `x~`).
///
/// # Errors
/// What reading the directory gives.
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // As long as it has to be: there may be hundreds of thousands.
        let mut path = PathBuf::with_capacity(directory.as_os_str().len() + 1 + name.len());
        path.push(directory);
        path.push(name);
        // The directory itself tells of most entries what they are.
        let is_file = || entry.file_type().is_ok_and(|t| t.is_file()) || path.is_file();
        if is_manifest(&path) && is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let extension = path.extension().and_then(|extension| extension.to_str());
    name.is_some_and(|name| !name.starts_with(['.', '#'])) && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Reads a file that may be a manifest: at most one byte more than is allowed, which is enough to refuse it.
///
/// # Errors
/// What opening and reading give.
pub fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(file)?;
    file.take(limits::MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
