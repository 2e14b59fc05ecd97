//! Keeps the state file up to date: puts it together from results, and replaces it where it would be another.
//!
//! **Invariant:** nobody waits for this: results is asked part by part, and the file is written on a thread that may block.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;
use std::time::Duration;

use probe_core::time::Instant;
use tokio::sync::{oneshot, watch};

use crate::results::{Node, PodRecord, ResultsError, ResultsHandle};
use crate::state::{self, DIGEST_BYTES, PodState, Whole, Writer};
use crate::{clock, limits, shutdown};

/// What is counted of it.
#[derive(Debug, Default)]
pub struct StateStats {
    /// When the file was last known to be up to date, in milliseconds since 1970; 0 = not yet.
    pub current_at_ms: AtomicU64,
    /// Its size in bytes.
    pub bytes: AtomicU64,
    /// Times that it could not be written.
    pub errors: AtomicU64,
    /// Pods that had no place in it at the last look.
    pub pods_left_out: AtomicU64,
}

/// Where the file is, and how often it is looked at.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state directory.
    pub directory: PathBuf,
    /// So often, or at most [`limits::STATE_INTERVAL_MAX`] where putting the state together takes more than a hundredth of it.
    pub interval: Duration,
}

/// Runs until `end` turns true (or its sender goes) and the last state is written, or results has ended.
pub async fn run(config: Config, results: ResultsHandle, stats: Arc<StateStats>, mut end: watch::Receiver<bool>) {
    let Config { directory, interval: interval_min } = config;
    let mut keeper = Keeper { directory, results, stats, written: None, is_told: false };
    let mut interval = interval_min;
    loop {
        let ending = tokio::select! {
            () = shutdown::told(&mut end) => true,
            () = tokio::time::sleep(interval) => false,
        };
        let Ok(cost) = keeper.keep().await else { return };
        if ending {
            return;
        }
        interval = (cost * 100).clamp(interval_min, limits::STATE_INTERVAL_MAX);
    }
}

struct Keeper {
    directory: PathBuf,
    results: ResultsHandle,
    stats: Arc<StateStats>,
    /// The digest of the pods in the file; `None` = not known.
    written: Option<[u8; DIGEST_BYTES]>,
    /// That it cannot be written has been told.
    is_told: bool,
}

impl Keeper {
    /// Gives how long it took to put the state together. What the disk takes is not in it: others wait for nothing then, and a
    /// disk that was busy once is no reason to lose more.
    async fn keep(&mut self) -> Result<Duration, ResultsError> {
        let begun = clock::now();
        if self.results.read(|node| node.unsynced().next().is_some()).await? {
            // Not all pods are known yet: what is in the file is more.
            return Ok(Duration::ZERO);
        }
        let writer = self.collect().await?;
        self.stats.pods_left_out.store(writer.left_out().into(), Ordering::Relaxed);
        let made_at = self.write(writer).await;
        Ok(made_at.unwrap_or_else(clock::now) - begun)
    }

    async fn collect(&self) -> Result<Writer, ResultsError> {
        let mut writer = Writer::default();
        for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
            let look = move |node: &Node| {
                let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART)?;
                let outlives = node.has_external_containers();
                // Where instances outlive the daemon, those of a pod that is being ended do, too.
                let wanted = part.filter(move |record| outlives || !record.deleting);
                let past = |record: &PodRecord| node.pasts.get(&record.pod.uid).map(|past| &**past);
                let of = |record: &PodRecord| PodState::of(record, past(record), outlives);
                Some(wanted.map(of).collect::<Vec<_>>())
            };
            match self.results.read(look).await? {
                Some(part) => part.iter().for_each(|pod| writer.push(pod)),
                None => break,
            }
        }
        let absent = |node: &Node| {
            let absent = node.pasts.iter().filter(|(uid, _)| node.pods.get(uid).is_none());
            absent.map(|(_, past)| Arc::clone(past)).collect::<Vec<_>>()
        };
        let mut absent = self.results.read(absent).await?;
        absent.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
        absent.iter().for_each(|past| writer.push(past));
        Ok(writer)
    }

    /// Puts it in the place of what is in the file, unless that is the same. Gives when all was ready to be written.
    async fn write(&mut self, writer: Writer) -> Option<Instant> {
        let (directory, before) = (self.directory.clone(), self.written);
        let (done, written) = oneshot::channel();
        // A thread of its own: the runtime's end waits for its blocking ones, and a file system may hang.
        let thread = Builder::new().name("state".to_owned()).spawn(move || {
            let digest = writer.digest();
            let content = (before != Some(digest)).then(|| writer.finish(&Whole::now()));
            let made_at = clock::now();
            let result = content.map(|content| state::replace(&directory, &content)).transpose();
            // Whoever asked may have gone.
            let _ = done.send((digest, made_at, result));
        });
        let written = match thread {
            Ok(_) => written.await.map_err(|_| "its thread panicked".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let (made_at, error) = match written {
            Ok((digest, made_at, Ok(bytes))) => {
                self.written = Some(digest);
                self.is_told = false;
                bytes.into_iter().for_each(|bytes| self.stats.bytes.store(bytes, Ordering::Relaxed));
                self.is_current();
                return Some(made_at);
            }
            Ok((_, made_at, Err(error))) => (Some(made_at), error.to_string()),
            Err(error) => (None, error),
        };
        self.stats.errors.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.is_told, true) {
            let directory = self.directory.display();
            tracing::warn!(%directory, error, "cannot write the state file; trying again until it can be written");
        }
        made_at
    }

    fn is_current(&self) {
        let now = u64::try_from(clock::wall().as_millisecond()).unwrap_or_default();
        self.stats.current_at_ms.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
