//! A shard's way out: verdicts are never lost, reports are dropped and counted when nobody takes them.
//!
//! While the results queue is full, verdicts wait here, the latest per probe; their order among probes is kept.
//! The results stage is woken once a turn, not once an update: a wake can cost a system call.
//! Bound: one verdict per probe of this shard, and of those that ended while the queue was full.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use probe_core::action::Publish;
use probe_core::id::ProbeKey;

use crate::results::{Update, UpdateQueue};
use crate::shard::metrics::ShardMetrics;

/// See the module.
pub struct Outbox {
    queue: Arc<UpdateQueue>,
    latest: HashMap<ProbeKey, Publish>,
    order: VecDeque<ProbeKey>,
    dropped: u64,
    /// Something was handed on of which the results stage has not been told.
    unrung: bool,
}

impl Outbox {
    /// Nothing waits.
    #[must_use]
    pub fn new(queue: Arc<UpdateQueue>) -> Self {
        Self { queue, latest: HashMap::new(), order: VecDeque::new(), dropped: 0, unrung: false }
    }

    /// Hands a verdict on, or keeps it until it can be.
    pub fn publish(&mut self, publish: Publish) {
        let publish = if self.order.is_empty() {
            match self.push(Update::Publish(publish)) {
                Err(Update::Publish(publish)) => publish,
                _ => return,
            }
        } else {
            publish
        };
        let key = key_of(&publish);
        if self.latest.insert(key.clone(), publish).is_none() {
            self.order.push_back(key);
        }
    }

    /// Hands on what may be lost: dropped and counted where the queue is full, or verdicts wait before it.
    pub fn report(&mut self, update: Update) {
        if !self.order.is_empty() || self.push(update).is_err() {
            self.dropped += 1;
        }
    }

    /// Hands on what may be lost, and tells whether it was.
    #[must_use]
    pub fn tell(&mut self, update: Update) -> bool {
        self.order.is_empty() && self.push(update).is_ok()
    }

    /// Hands on what its owner keeps otherwise, and wakes the results stage.
    pub fn offer(&mut self, update: Update) -> Result<(), Update> {
        let offered = if self.order.is_empty() { self.push(update) } else { Err(update) };
        self.ring();
        offered
    }

    /// A delta with nothing counted, in memory that the results stage is done with where there is some.
    #[must_use]
    pub fn spare_metrics(&self) -> Box<ShardMetrics> {
        self.queue.take_spare()
    }

    /// Ends a turn: hands on verdicts that waited, and wakes the results stage, once for all that the turn told it. Returns
    /// whether all are gone.
    pub fn flush(&mut self) -> bool {
        let gone = self.hand_on();
        self.ring();
        gone
    }

    fn hand_on(&mut self) -> bool {
        while let Some(key) = self.order.pop_front() {
            let Some(publish) = self.latest.remove(&key) else { continue };
            if let Err(Update::Publish(publish)) = self.push(Update::Publish(publish)) {
                self.latest.insert(key.clone(), publish);
                self.order.push_front(key);
                return false;
            }
        }
        true
    }

    /// A full queue is told of at once: whoever empties it must not sleep until the turn's end.
    fn push(&mut self, update: Update) -> Result<(), Update> {
        let pushed = self.queue.push_unrung(update);
        self.unrung = true;
        if pushed.is_err() {
            self.ring();
        }
        pushed
    }

    fn ring(&mut self) {
        if std::mem::take(&mut self.unrung) {
            self.queue.ring();
        }
    }

    /// Verdicts wait.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.order.is_empty()
    }

    /// Reports dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

fn key_of(publish: &Publish) -> ProbeKey {
    ProbeKey { pod: publish.pod.clone(), container: publish.container.clone(), probe_type: publish.probe_type }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use probe_core::action::{PublishCause, WorkerIndex};
    use probe_core::id::ProbeType;
    use probe_core::outcome::Verdict;
    use probe_core::time::Instant;
    use tokio::sync::Notify;

    use super::*;
    use crate::limits;

    fn publish(container: &str, verdict: Verdict) -> Publish {
        Publish {
            worker: WorkerIndex(0),
            pod: "pod".into(),
            container: container.into(),
            probe_type: ProbeType::Readiness,
            container_id: "id".into(),
            verdict: Some(verdict),
            cause: PublishCause::Threshold,
            at: Instant::ZERO,
        }
    }

    #[tokio::test]
    async fn the_results_stage_is_woken_at_the_end_of_a_turn_and_by_a_full_queue() {
        let wake = Arc::new(Notify::new());
        let mut outbox = Outbox::new(Arc::new(UpdateQueue::new(Arc::clone(&wake))));
        let is_woken = || std::pin::pin!(wake.notified()).enable();
        (0..3).for_each(|_| outbox.publish(publish("a", Verdict::Failure)));
        assert!(!is_woken());
        outbox.flush();
        assert!(is_woken());
        outbox.flush();
        assert!(!is_woken(), "nothing new");
        for _ in 0..limits::UPDATES_LEN_MAX {
            outbox.publish(publish("a", Verdict::Failure));
        }
        assert!(outbox.is_waiting() && is_woken());
    }

    #[test]
    fn verdicts_wait_for_a_full_queue_latest_first_and_reports_are_counted() {
        let queue = Arc::new(UpdateQueue::new(Arc::new(Notify::new())));
        let mut outbox = Outbox::new(Arc::clone(&queue));
        for _ in 0..limits::UPDATES_LEN_MAX {
            outbox.publish(publish("first", Verdict::Unknown));
        }
        outbox.publish(publish("a", Verdict::Failure));
        outbox.publish(publish("b", Verdict::Failure));
        outbox.publish(publish("a", Verdict::Success));
        outbox.report(Update::ShardEnded { shard: 0 });
        assert!(!outbox.flush());
        while queue.pop().is_some() {}
        assert!(outbox.flush());
        let told: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|update| match update {
                Update::Publish(publish) => (publish.container.to_string(), publish.verdict),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [("a".to_owned(), Some(Verdict::Success)), ("b".to_owned(), Some(Verdict::Failure))]);
        assert_eq!(outbox.take_dropped(), 1);
    }
}
