//! What a shard holds of passive answers, and its way to the watch.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::counters::{Connects, Counters};
use super::settings::PassiveSettings;
use super::target::Target;
use crate::limits;
use crate::shard::kernel::Waker;

/// From a shard to the watch.
#[derive(Clone, Debug)]
pub enum ToWatch {
    /// Watch this target until nobody else holds it.
    Register(Arc<Target>),
    /// The shard has let go of it: it need not be found to be gone.
    LetGo(Arc<Target>),
    /// An audit's connect failed while its lease stood.
    AuditFailed {
        /// Whose.
        target: Arc<Target>,
        /// The change counter before that connect.
        value: u64,
        /// [`Target::epoch`] before it.
        epoch: u32,
    },
    /// End.
    Shutdown,
}

/// The way to the watch. Bound: [`limits::WATCH_INBOX_LEN_MAX`].
#[derive(Clone, Debug)]
pub struct WatchSender {
    queue: Arc<ArrayQueue<ToWatch>>,
    waker: Waker,
}

impl WatchSender {
    /// And the queue's other end.
    #[must_use]
    pub fn new(waker: Waker) -> (Self, Arc<ArrayQueue<ToWatch>>) {
        let queue = Arc::new(ArrayQueue::new(limits::WATCH_INBOX_LEN_MAX));
        (Self { queue: Arc::clone(&queue), waker }, queue)
    }

    /// Gives the message back when there is no room: tried again later.
    pub fn send(&self, message: ToWatch) -> Result<(), ToWatch> {
        self.queue.push(message)?;
        self.waker.wake();
        Ok(())
    }

    /// Tells when it next wakes that nobody holds this target any more. No room: it finds out by itself, in the course of
    /// [`limits::TARGETS_VISIT_SWEEPS`] sweeps.
    pub fn let_go(&self, target: Arc<Target>) {
        let _ = self.queue.push(ToWatch::LetGo(target));
    }
}

/// One per daemon, cloned into every shard.
#[derive(Clone, Debug)]
pub struct Passive {
    /// The operator's.
    pub settings: Arc<PassiveSettings>,
    /// Moved by the kernel program.
    pub counters: Arc<Counters>,
    /// Written by it.
    pub connects: Arc<Connects>,
    /// Where targets are registered.
    pub watch: WatchSender,
}

impl Passive {
    /// For a daemon's shards.
    #[must_use]
    pub fn new(
        settings: PassiveSettings,
        counters: Arc<Counters>,
        connects: Arc<Connects>,
        watch: WatchSender,
    ) -> Self {
        Self { settings: Arc::new(settings), counters, connects, watch }
    }
}
