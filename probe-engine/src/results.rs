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
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use probe_core::action::{LocalTooLong, Publish, Report};
use tokio::sync::Notify;

pub use handle::{Inbox, Input, PendingReport, ResultsError, ResultsHandle, ResultsSender, channel};
pub(crate) use node::cut;
pub use node::{ContainerRecord, LastReport, LocalTrouble, Node, PodRecord, ProbeRecord, ShardTotals, StuckProbe};
pub use stage::{Config, Stage};
pub use stats::{DURATION_BUCKETS_S, Durations, ProbeStats};

use crate::limits;
use crate::shard::metrics::ShardMetrics;

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
