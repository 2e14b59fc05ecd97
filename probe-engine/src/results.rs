//! The last verdict of every probe, what is known of every pod, and the way from the shards to it.
//!
//! One task owns [`Node`]; shards reach it through one bounded [`UpdateQueue`] each, the manager through a
//! bounded channel, readers by asking the task ([`ResultsHandle::read`]). Verdicts are latest-wins and never
//! lost; reports are dropped and counted when a queue is full.
//!
//! **Invariant:** the task never waits for a consumer: what the lifecycle cannot take yet is kept, the latest
//! per container, and an event for which there is no place is dropped and counted.

#[cfg(test)]
pub(crate) mod fixture;
mod handle;
mod node;
mod stage;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use probe_core::action::{LocalTooLong, Publish, Report};
use tokio::sync::Notify;

pub use handle::{Inbox, Input, PendingReport, ResultsError, ResultsHandle, ResultsSender, channel};
pub(crate) use node::cut;
pub use node::{ContainerRecord, LastReport, LocalTrouble, Node, PodRecord, ProbeRecord, ShardTotals, StuckProbe};
pub use stage::{Config, Stage};

use crate::limits;
use crate::shard::metrics::ShardMetrics;

/// Upper bounds, in seconds, of `prober_probe_duration_seconds` (client_golang's default buckets).
pub const DURATION_BUCKETS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts of one probe since its worker was made. One shard writes, anyone reads; relaxed throughout.
#[derive(Debug, Default)]
pub struct ProbeStats {
    /// `prober_probe_total{result="successful"}`
    pub successful: AtomicU64,
    /// `prober_probe_total{result="failed"}`
    pub failed: AtomicU64,
    /// Per bucket of [`DURATION_BUCKETS_S`] (not cumulative), the last for what is longer.
    pub duration_buckets: [AtomicU64; 12],
    /// Sum of observed durations.
    pub duration_sum_ns: AtomicU64,
    /// When the newest call that was not discarded ended (CLOCK_MONOTONIC), 0 = none yet.
    pub last_at_ns: AtomicU64,
    /// How long that call took.
    pub last_duration_ns: AtomicU64,
    /// Results of one kind in a row, as of that call.
    pub run: AtomicU32,
    /// How many in a row make the verdict, as of that call.
    pub threshold: AtomicU32,
    /// The worker's next due time (CLOCK_MONOTONIC), 0 = none.
    pub due_ns: AtomicU64,
    /// How the last attempt of a tcpSocket probe was answered: [`crate::ebpf::Answer::to_bits`]. Trouble of our own is no
    /// answer.
    pub answer: AtomicU32,
    /// The same of the last attempt that made a connection.
    pub answer_real: AtomicU32,
    /// Answers of a tcpSocket probe from kernel state.
    pub passive: AtomicU64,
    /// Answers of a tcpSocket probe by a connection.
    pub real: AtomicU64,
    /// The worker has ended: set by the shard at `Action::WorkerEnded`. Its series end, and the container
    /// counts as one without this probe.
    pub ended: AtomicBool,
}

impl ProbeStats {
    /// Counts one call of the prober that was not discarded; durations only of successes (rule 7.1).
    pub fn record(&self, success: bool, duration_ns: u64) {
        if !success {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.successful.fetch_add(1, Ordering::Relaxed);
        let seconds = duration_ns as f64 / 1e9;
        let bucket = DURATION_BUCKETS_S.iter().position(|le| seconds <= *le).unwrap_or(DURATION_BUCKETS_S.len());
        self.duration_buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.duration_sum_ns.fetch_add(duration_ns, Ordering::Relaxed);
    }

    /// The worker still lives (or has not been made yet).
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }
}

/// From a shard to the results stage.
#[derive(Debug)]
pub enum Update {
    /// A verdict was stored or removed.
    Publish(Publish),
    /// A call of the prober ended in something worth telling: anything but a success; a success while the run
    /// is at most the threshold; the first one after a trigger. Steady successes show in [`ProbeStats`] alone.
    Report(Report),
    /// See [`LocalTooLong`].
    LocalTooLong(LocalTooLong),
    /// A shard's counts, once a second.
    Metrics(Box<ShardMetrics>),
    /// A shard finished its shutdown.
    ShardEnded {
        /// Which.
        shard: usize,
    },
}

/// One shard's way to the results stage. Bound: [`limits::UPDATES_LEN_MAX`].
#[derive(Debug)]
pub struct UpdateQueue {
    queue: ArrayQueue<Update>,
    wake: Arc<Notify>,
}

impl UpdateQueue {
    /// An empty queue that rings `wake` when something arrives.
    #[must_use]
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { queue: ArrayQueue::new(limits::UPDATES_LEN_MAX), wake }
    }

    /// Gives the update back when the queue is full.
    pub fn push(&self, update: Update) -> Result<(), Update> {
        self.queue.push(update)?;
        self.wake.notify_one();
        Ok(())
    }

    /// The oldest update.
    #[must_use]
    pub fn pop(&self) -> Option<Update> {
        self.queue.pop()
    }
}
