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
mod journal;
pub mod latency;
mod node;
mod pauses;
mod pods;
mod series;
mod sketch;
mod stage;
mod stats;
#[cfg(test)]
mod tests;
mod timeline;
mod totals;
mod watch;

use std::num::NonZeroU16;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use probe_core::action::{LocalTooLong, Publish, Report};
use tokio::sync::Notify;

pub use handle::{Inbox, Input, PendingReport, ResultsError, ResultsHandle, ResultsSender, channel};
pub use journal::GonePod;
pub(crate) use node::cut;
pub use node::{
    CONDITIONS_LEN, ContainerRecord, ContainerView, Gate, LastReport, LocalTrouble, Node, PodRecord, ProbeRecord,
    StuckProbe, WallNs,
};
pub use pauses::{Paused, Standing};
pub use pods::Pods;
pub use series::{SeriesLevel, SeriesLevels};
pub use sketch::Sketch;
pub use stage::{Config, Stage};
pub use stats::{DURATION_BUCKETS_S, Durations, ProbeStats};
pub use timeline::{Change, Changed, Timeline};
pub use totals::ShardTotals;
pub use watch::{News, Part, PodWatch, Select};

use crate::limits;
use crate::shard::metrics::{OutcomeKind, ShardMetrics};

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
    /// An attempt of a probe whose [`ProbeStats::detail`] is set ended.
    Attempt {
        /// What it was.
        token: NonZeroU16,
        /// How it ended.
        outcome: OutcomeKind,
        /// How long it took, in microseconds.
        latency_us: u32,
        /// Actual start minus due time, in microseconds; `None` of a further try.
        lateness_us: Option<u32>,
    },
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
    /// Deltas that were added to the totals: the shard counts in their memory again.
    spare: ArrayQueue<Box<ShardMetrics>>,
}

impl UpdateQueue {
    /// An empty queue that rings `wake` when something arrives.
    #[must_use]
    pub fn new(wake: Arc<Notify>) -> Self {
        let queue = ArrayQueue::new(limits::UPDATES_LEN_MAX);
        Self { queue, wake, spare: ArrayQueue::new(limits::SPARE_METRICS_LEN_MAX) }
    }

    /// Gives the update back when the queue is full.
    pub fn push(&self, update: Update) -> Result<(), Update> {
        self.push_unrung(update)?;
        self.ring();
        Ok(())
    }

    /// The same, but the results stage sleeps on until [`UpdateQueue::ring`].
    pub fn push_unrung(&self, update: Update) -> Result<(), Update> {
        self.queue.push(update)
    }

    /// Wakes the results stage.
    pub fn ring(&self) {
        self.wake.notify_one();
    }

    /// A delta with nothing counted: one that was given back, else a new one.
    #[must_use]
    pub fn take_spare(&self) -> Box<ShardMetrics> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a delta back that has been added to the totals.
    pub fn give_back(&self, mut delta: Box<ShardMetrics>) {
        delta.clear();
        // Full: let go.
        let _ = self.spare.push(delta);
    }

    /// The oldest update.
    #[must_use]
    pub fn pop(&self) -> Option<Update> {
        self.queue.pop()
    }
}
