//! Is the daemon alive, and is it ready: a list of checks each.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_core::time::Instant;
use tokio::time::timeout;

use crate::clock;
use crate::limits;
use crate::results::{Node, ResultsHandle};

/// Stuck probes that a failed check names at most.
const STUCK_SHOWN_MAX: usize = 5;

/// One line of `/healthz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// One word.
    pub name: String,
    /// Why it failed; `None` = it passed.
    pub failure: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(f, "[+]{} ok", self.name),
            Some(why) => write!(f, "[-]{} failed: {why}", self.name),
        }
    }
}

/// What the checks look at; cheap to clone.
#[derive(Clone)]
pub struct Health {
    heartbeats: Arc<[Arc<AtomicU64>]>,
    results: ResultsHandle,
}

impl Health {
    /// `heartbeats`: by shard, the end of its last turn in nanoseconds of CLOCK_MONOTONIC, never 0.
    #[must_use]
    pub fn new(heartbeats: Vec<Arc<AtomicU64>>, results: ResultsHandle) -> Self {
        Self { heartbeats: heartbeats.into(), results }
    }

    /// Every shard has finished a turn within [`limits::SHARD_STALL`]. Asks no stage.
    #[must_use]
    pub fn live(&self) -> Vec<Check> {
        let now = clock::now();
        let check = |(index, heartbeat): (usize, &Arc<AtomicU64>)| {
            let idle = now - Instant::from_nanos(heartbeat.load(Ordering::Relaxed));
            let stalled = || format!("no turn was finished for {} s", idle.as_secs());
            Check { name: format!("shard-{index}"), failure: (idle >= limits::SHARD_STALL).then(stalled) }
        };
        self.heartbeats.iter().enumerate().map(check).collect()
    }

    /// Every check of [`Health::live`] passes.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live().iter().all(|check| check.failure.is_none())
    }

    /// Every source has been read once, and no probe is stuck on trouble of our own.
    pub async fn ready(&self) -> Vec<Check> {
        let read = self.results.read(|node| (sources(node), local(node)));
        let why = match timeout(limits::ADMIN_ANSWER_TIMEOUT, read).await {
            Ok(Ok((sources, local))) => return vec![sources, local],
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("did not answer within {} s", limits::ADMIN_ANSWER_TIMEOUT.as_secs()),
        };
        vec![Check { name: "results".to_owned(), failure: Some(why) }]
    }

    /// Every source has been read once.
    pub async fn is_synced(&self) -> bool {
        let read = self.results.read(|node| node.unsynced().next().is_none());
        matches!(timeout(limits::ADMIN_ANSWER_TIMEOUT, read).await, Ok(Ok(true)))
    }
}

fn sources(node: &Node) -> Check {
    let open: Vec<&str> = node.unsynced().collect();
    let failure = (!open.is_empty()).then(|| format!("not read once yet: {}", open.join(", ")));
    Check { name: "sources".to_owned(), failure }
}

fn local(node: &Node) -> Check {
    let mut stuck: Vec<String> = node
        .stuck()
        .map(|stuck| {
            let (pod, container, probe) = (stuck.pod, stuck.container, stuck.probe);
            format!(
                "{}/{} {container} {} ({})",
                pod.namespace,
                pod.name,
                probe.probe_type,
                stuck.trouble.cause.sentence()
            )
        })
        .collect();
    stuck.sort_unstable();
    let count = stuck.len();
    stuck.truncate(STUCK_SHOWN_MAX);
    let failure =
        (count > 0).then(|| format!("{count} probes have no outcome, for reasons of our own: {}", stuck.join("; ")));
    Check { name: "local".to_owned(), failure }
}
