//! What reaches a shard from outside: commands of the manager, answers of the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crossbeam::queue::ArrayQueue;
use jiff::Timestamp;
use probe_core::action::AttemptId;
use probe_core::id::{ContainerName, PodUid, ProbeType};
use probe_core::outcome::Outcome;
use probe_core::spec::Pod;
use probe_core::status::PodStatus;
use probe_core::time::Instant;
use probe_core::worker::Memory;

use super::kernel::Waker;
use super::metrics::PhasesUs;
use crate::limits;
use crate::results::{Paused, ProbeStats};
use crate::source::Pause;

/// One probe of a pod that is being added, and where its counts go.
#[derive(Clone, Debug)]
pub struct ProbeSlot {
    /// The container.
    pub container: ContainerName,
    /// Which of its probes.
    pub probe_type: ProbeType,
    /// Written by the shard alone, read by anyone.
    pub stats: Arc<ProbeStats>,
    /// What a daemon before this one knew of it.
    pub past: Option<Past>,
    /// It was paused under a daemon before this one, and is still.
    pub paused: Option<Paused>,
}

/// A probe's verdict as a state file had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// What its worker goes on with.
    pub memory: Memory,
    /// When the verdict was last set to another value.
    pub since: Timestamp,
}

/// What a daemon before this one knew of a probe of an instance that is told for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The container.
    pub container: ContainerName,
    /// Which of its probes.
    pub probe_type: ProbeType,
    /// What its worker goes on with.
    pub memory: Memory,
}

/// From the manager to a shard.
#[derive(Clone, Debug)]
pub enum Command {
    /// A new pod; all its workers live on this shard.
    AddPod {
        /// The pod.
        pod: Arc<Pod>,
        /// One entry per probe.
        slots: Box<[ProbeSlot]>,
        /// Its state, where it is known already.
        status: Option<Arc<PodStatus>>,
    },
    /// The pod is gone: its workers end.
    RemovePod {
        /// Which.
        uid: PodUid,
    },
    /// A pod's newest state.
    Status {
        /// Which.
        uid: PodUid,
        /// Whole.
        status: Arc<PodStatus>,
        /// What was known of instances that are new in it.
        remembered: Box<[Remembered]>,
    },
    /// The pod's termination begins.
    StopLivenessAndStartup {
        /// Which.
        uid: PodUid,
    },
    /// Probe now.
    Trigger {
        /// Which pod.
        uid: PodUid,
        /// Which container.
        container: ContainerName,
        /// Which probe.
        probe_type: ProbeType,
    },
    /// Make no attempts for a while, or make them again.
    Pause {
        /// Which pod.
        uid: PodUid,
        /// Which of its probes, and until when.
        pause: Arc<Pause>,
    },
    /// Early detection: a listener that could answer a target closed. One real attempt at once for each of its probes.
    Detect {
        /// [`crate::ebpf::Target::id`]
        target: u64,
    },
    /// End: cancel what is in flight, close sockets, leave the thread.
    Shutdown,
}

/// From the pool to a shard.
#[derive(Debug)]
pub enum PoolReply {
    /// The attempt left the queue: it is being made.
    Started {
        /// Which.
        attempt: AttemptId,
        /// When.
        at: Instant,
    },
    /// The attempt ended.
    Done {
        /// Which.
        attempt: AttemptId,
        /// What it saw.
        outcome: Outcome,
        /// From its start to its end, in nanoseconds.
        latency_ns: u64,
        /// How long its parts took.
        phases: PhasesUs,
    },
}

/// A shard's end of its queues. Bounds: [`limits::SHARD_INBOX_LEN_MAX`] commands,
/// [`limits::POOL_REPLIES_LEN_MAX`] replies.
#[derive(Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
}

/// Everybody else's end. Each command ends the shard's wait; for replies see [`ShardSender::reply`].
#[derive(Clone, Debug)]
pub struct ShardSender {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: ArrayQueue<Command>,
    replies: ArrayQueue<PoolReply>,
    closed: AtomicBool,
    /// When the shard meant to wake up when it last went to sleep, on the monotonic clock in nanoseconds.
    asleep_until_ns: AtomicU64,
    waker: Waker,
}

/// The two ends of a shard's queues; `waker` is the one that its kernel hears.
#[must_use]
pub fn inbox(waker: Waker) -> (ShardSender, Inbox) {
    let shared = Arc::new(Shared {
        commands: ArrayQueue::new(limits::SHARD_INBOX_LEN_MAX),
        replies: ArrayQueue::new(limits::POOL_REPLIES_LEN_MAX),
        closed: AtomicBool::new(false),
        asleep_until_ns: AtomicU64::new(u64::MAX),
        waker,
    });
    (ShardSender { shared: Arc::clone(&shared) }, Inbox { shared })
}

impl ShardSender {
    /// Gives the command back when the inbox is full (the sender waits, or tries later) or the shard has ended.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        if self.is_closed() {
            return Err(command);
        }
        self.shared.commands.push(command)?;
        self.shared.waker.wake();
        Ok(())
    }

    /// Hands over a reply of the pool. Never lost while the shard lives: the queue has room for two replies of every
    /// attempt that the pool can hold, and should it be full all the same, this waits for the shard.
    ///
    /// To wake a shard costs more than a turn. So that an attempt has ended does so only where the shard means to sleep for more
    /// than [`limits::POOL_REPLY_WAIT_MAX`] from `now`; and that one has started never does: it says itself when that was, and
    /// the shard takes it in before a timer of its next turn fires, with the attempt's end at the latest. Returns whether the
    /// shard was woken.
    pub fn reply(&self, reply: PoolReply, now: Instant) -> bool {
        let is_end = matches!(reply, PoolReply::Done { .. });
        let mut refused = Err(reply);
        let mut wakes = false;
        while let Err(reply) = refused {
            if self.is_closed() {
                return false;
            }
            refused = self.shared.replies.push(reply);
            // After the push: either this sees until when the shard is about to sleep, or the shard sees the reply.
            let asleep_until = Instant::from_nanos(self.shared.asleep_until_ns.load(Ordering::SeqCst));
            wakes = refused.is_err() || (is_end && asleep_until > now + limits::POOL_REPLY_WAIT_MAX);
            if wakes {
                self.shared.waker.wake();
            }
            if refused.is_err() {
                thread::yield_now();
            }
        }
        wakes
    }

    /// Ends the shard's wait without a command: the clock has been moved.
    pub fn wake(&self) {
        self.shared.waker.wake();
    }

    /// The shard has ended: nothing is taken any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Commands waiting.
    #[must_use]
    pub fn commands_len(&self) -> usize {
        self.shared.commands.len()
    }
}

impl Inbox {
    /// The oldest command.
    #[must_use]
    pub fn pop_command(&self) -> Option<Command> {
        self.shared.commands.pop()
    }

    /// The oldest reply of the pool.
    #[must_use]
    pub fn pop_reply(&self) -> Option<PoolReply> {
        self.shared.replies.pop()
    }

    /// The shard is about to sleep until then, if nothing wakes it. False: something has come, and it must not.
    #[must_use]
    pub fn may_sleep_until(&self, at: Instant) -> bool {
        self.shared.asleep_until_ns.store(at.as_nanos(), Ordering::SeqCst);
        self.is_empty()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.commands.is_empty() && self.shared.replies.is_empty()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn a_full_inbox_gives_the_command_back() {
        let (sender, inbox) = inbox(Waker::new().expect("an eventfd"));
        for _ in 0..limits::SHARD_INBOX_LEN_MAX {
            sender.send(Command::Shutdown).expect("room");
        }
        assert!(sender.send(Command::Shutdown).is_err());
        assert!(inbox.pop_command().is_some());
        assert!(sender.send(Command::Shutdown).is_ok());
    }

    #[test]
    fn an_attempts_end_wakes_a_shard_that_would_sleep_on_and_its_start_does_not() {
        let waker = Waker::new().expect("an eventfd");
        let (sender, inbox) = inbox(waker.clone());
        let is_woken = || {
            let mut fds = [PollFd::new(waker.fd().as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).expect("an eventfd can be polled") == 1
        };
        let attempt = AttemptId { worker: probe_core::action::WorkerIndex(0), generation: 0 };
        let done = || PoolReply::Done {
            attempt,
            outcome: Outcome::Success("".into()),
            latency_ns: 1,
            phases: PhasesUs::default(),
        };
        let now = Instant::from_secs(7);
        assert!(inbox.may_sleep_until(now + limits::POOL_REPLY_WAIT_MAX));
        assert!(!sender.reply(PoolReply::Started { attempt, at: now }, now));
        assert!(!inbox.may_sleep_until(now + limits::POOL_REPLY_WAIT_MAX), "it has come in time");
        assert!(!sender.reply(done(), now) && !is_woken());
        assert!(matches!(inbox.pop_reply(), Some(PoolReply::Started { .. })), "in the order in which they came");
        assert!(matches!(inbox.pop_reply(), Some(PoolReply::Done { .. })));
        assert!(inbox.may_sleep_until(now + limits::POOL_REPLY_WAIT_MAX * 2));
        assert!(!sender.reply(PoolReply::Started { attempt, at: now }, now) && !is_woken());
        assert!(sender.reply(done(), now) && is_woken());
    }

    #[test]
    fn an_ended_shard_takes_nothing_and_blocks_nobody() {
        let (sender, inbox) = inbox(Waker::new().expect("an eventfd"));
        drop(inbox);
        assert!(sender.send(Command::Shutdown).is_err());
        let worker = probe_core::action::WorkerIndex(0);
        let attempt = AttemptId { worker, generation: 0 };
        sender.reply(PoolReply::Started { attempt, at: Instant::ZERO }, Instant::ZERO);
    }
}
