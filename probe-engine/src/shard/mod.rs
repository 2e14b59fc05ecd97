//! One thread each: a scheduler, a kernel, and the attempts between them.
//!
//! [`spawn`] runs one; [`turn`] is its loop's body, which a simulation drives with a clock and a kernel of its own.
//! **Invariant:** nothing in a turn blocks but the wait at its beginning.

pub mod epoll;
pub mod errand;
pub mod flight;
pub mod inbox;
pub mod kernel;
mod lease;
pub mod metrics;
pub mod once;
pub mod outbox;
pub mod pace;
pub mod ring;
mod slot;
pub mod token;
pub mod turn;
pub mod waiting;
mod witness;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use probe_core::scheduler;
use probe_core::time::Instant;

use crate::ebpf::Why;
use crate::ebpf::passive::Passive;
use crate::prober::pool::{Job, PoolHandle};
use crate::results::UpdateQueue;
use crate::{clock, limits};
use inbox::Inbox;
use kernel::{CloseMode, IoChoice, Kernel, OpenError, Opened, Waker};
use pace::Pace;

pub use turn::{Shard, Turn};

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which of the node's shards this is; named in updates and in jobs of the pool.
    pub index: usize,
    /// Which kernel it uses.
    pub io: IoChoice,
    /// How its connections are ended.
    pub close: CloseMode,
    /// Its scheduler's.
    pub scheduler: scheduler::Config,
    /// `net.ipv4.ip_local_port_range`: only a connect to such a port can reach itself.
    pub local_ports: RangeInclusive<u16>,
    /// Passive answers; `Err` where there are none, with what every tcpSocket probe then says: [`Why::Off`] or
    /// [`Why::Unavailable`].
    pub passive: Result<Passive, Why>,
    /// How many shards the node has, which share the audits of passive answers.
    pub shards: usize,
    /// Attempts in flight on its ring.
    pub flights_max: usize,
}

impl ShardConfig {
    /// With the bounds of `limits.rs`, this host's range of ephemeral ports, and no passive answers. `seed` is the daemon's; every shard
    /// makes its own of it.
    #[must_use]
    pub fn new(index: usize, seed: u64, manager_start: Instant) -> Self {
        Self {
            index,
            io: IoChoice::Auto,
            close: CloseMode::Fin,
            scheduler: scheduler::Config {
                seed: seed.wrapping_add(index as u64),
                manager_start,
                local_backoff_min: limits::LOCAL_BACKOFF_MIN,
                local_backoff_max: limits::LOCAL_BACKOFF_MAX,
                local_max: limits::LOCAL_MAX,
            },
            local_ports: local_port_range(),
            passive: Err(Why::Off),
            shards: 1,
            flights_max: limits::FLIGHTS_PER_SHARD_MAX,
        }
    }
}

/// Where attempts go that the ring does not make. The pool; in a simulation, something else.
pub trait JobSink {
    /// Queues a job; gives it back when there is no place for it now.
    #[expect(clippy::result_large_err, reason = "the job goes back to its owner, without a box per attempt")]
    fn try_submit(&self, job: Job) -> Result<(), Job>;
}

impl JobSink for PoolHandle {
    fn try_submit(&self, job: Job) -> Result<(), Job> {
        PoolHandle::try_submit(self, job)
    }
}

/// A shard did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No thread.
    #[error("cannot start the thread of shard {shard}: {source} (a limit on threads or processes, TasksMax?)")]
    Thread {
        /// Which.
        shard: usize,
        /// From clone(2).
        source: io::Error,
    },
    /// No kernel.
    #[error("shard {shard} has no I/O: {source}")]
    Kernel {
        /// Which.
        shard: usize,
        /// Why.
        source: OpenError,
    },
    /// The thread ended before it could say.
    #[error("the thread of shard {shard} ended while it started")]
    Ended {
        /// Which.
        shard: usize,
    },
}

/// A running shard.
#[derive(Debug)]
pub struct ShardThread {
    /// Which.
    pub index: usize,
    /// `io_uring` or `epoll`.
    pub kernel: &'static str,
    /// Why it is not io_uring, where that was wanted.
    pub fallback: Option<String>,
    heartbeat: Arc<AtomicU64>,
    workers_len: Arc<AtomicUsize>,
    pace: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl ShardThread {
    /// When it last finished a turn.
    #[must_use]
    pub fn heartbeat(&self) -> Instant {
        Instant::from_nanos(self.heartbeat.load(Ordering::Relaxed))
    }

    /// Workers that it had at the end of its last turn.
    #[must_use]
    pub fn workers_len(&self) -> usize {
        self.workers_len.load(Ordering::Relaxed)
    }

    /// For whoever watches over it: nanoseconds of CLOCK_MONOTONIC at the end of its last turn.
    #[must_use]
    pub fn heartbeat_ns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.heartbeat)
    }

    /// What it waits for, told after every turn on a stepped clock. For whoever steps it.
    #[must_use]
    pub fn pace(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.pace)
    }

    /// Waits for its end, which `Command::Shutdown` brings about. False if it panicked.
    #[must_use]
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

/// Starts a shard's thread and waits until its kernel is made. `waker` is the one that `inbox` was made with.
pub fn spawn(
    config: ShardConfig,
    waker: Waker,
    inbox: Inbox,
    updates: Arc<UpdateQueue>,
    pool: Option<PoolHandle>,
) -> Result<ShardThread, SpawnError> {
    let shard = config.index;
    let heartbeat = Arc::new(AtomicU64::new(clock::now().as_nanos()));
    let workers_len = Arc::new(AtomicUsize::new(0));
    let pace = Arc::new(AtomicU64::new(Pace::UnderWay.to_word()));
    let told =
        Told { heartbeat: Arc::clone(&heartbeat), workers_len: Arc::clone(&workers_len), pace: Arc::clone(&pace) };
    let (opened, opening) = mpsc::sync_channel(1);
    let body = move || {
        // A failed send: nobody waits for this shard, and its inbox ends it.
        let pool = pool.map(|pool| Box::new(pool) as Box<dyn JobSink>);
        match kernel::open(config.io, &waker) {
            Ok(Opened::Ring(ring)) => {
                let _ = opened.send(Ok((ring.name(), None)));
                run(config, ring, inbox, updates, pool, &told);
            }
            Ok(Opened::Epoll(epoll, refused)) => {
                let _ = opened.send(Ok((epoll.name(), refused)));
                run(config, epoll, inbox, updates, pool, &told);
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
    };
    let thread = thread::Builder::new().name(format!("shard-{shard}")).spawn(body);
    let thread = thread.map_err(|source| SpawnError::Thread { shard, source })?;
    match opening.recv() {
        Ok(Ok((kernel, fallback))) => {
            Ok(ShardThread { index: shard, kernel, fallback, heartbeat, workers_len, pace, thread })
        }
        Ok(Err(source)) => Err(SpawnError::Kernel { shard, source }),
        Err(mpsc::RecvError) => Err(SpawnError::Ended { shard }),
    }
}

/// What a shard's thread tells of itself after every turn.
struct Told {
    heartbeat: Arc<AtomicU64>,
    workers_len: Arc<AtomicUsize>,
    pace: Arc<AtomicU64>,
}

fn run<K: Kernel>(
    config: ShardConfig,
    kernel: K,
    inbox: Inbox,
    updates: Arc<UpdateQueue>,
    pool: Option<Box<dyn JobSink>>,
    told: &Told,
) {
    let mut shard = Shard::new(config, kernel, inbox, updates, pool, clock::now());
    let tell_pace = |shard: &Shard<K>| {
        if clock::is_stepped() {
            told.pace.store(shard.pace().to_word(), Ordering::Release);
        }
    };
    tell_pace(&shard);
    while shard.turn(&mut clock::now) == Turn::Again {
        tell_pace(&shard);
        told.heartbeat.store(clock::now().as_nanos(), Ordering::Relaxed);
        told.workers_len.store(shard.scheduler().workers_len(), Ordering::Relaxed);
    }
}

/// `net.ipv4.ip_local_port_range` of this network namespace, which holds for IPv6 too; Linux's default where it cannot
/// be read.
#[must_use]
pub fn local_port_range() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32_768..=60_999,
    }
}
