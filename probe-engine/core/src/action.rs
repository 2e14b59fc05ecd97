//! All that the core can ask the shell to do, and all that it tells.

use core::time::Duration;

use crate::id::{ContainerId, ContainerName, PodUid, ProbeType};
use crate::outcome::{LocalCause, Outcome, Verdict};
use crate::time::Instant;

/// A worker's place in the scheduler's slab. Reused after [`Action::WorkerEnded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(pub u32);

/// One attempt of one worker. The generation makes a late completion of an earlier attempt, or of an earlier
/// worker in the same place, recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptId {
    /// Whose attempt.
    pub worker: WorkerIndex,
    /// Counts up with every attempt made in that place; wraps.
    pub generation: u32,
}

/// What the shell shall do next. Drained with [`crate::scheduler::Scheduler::poll_action`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this attempt. The shell answers with exactly one `handle_outcome` (or drops the attempt when the
    /// worker has ended), and with `handle_started` once the attempt left every queue.
    Start(Start),
    /// The stored verdict of a worker changed: set (initial values included) or removed.
    Publish(Publish),
    /// A call of the prober is over: for metrics, events and history.
    Report(Report),
    /// The same of a call that there is nothing to tell of: for counts alone.
    Passed(Passed),
    /// No outcome but local trouble for too long: a `ProbeUnknown` event.
    LocalTooLong(LocalTooLong),
    /// Due times that got no attempt.
    Missed {
        /// Whose.
        worker: WorkerIndex,
        /// How many since the last such action.
        count: u32,
        /// Between two due times of this worker.
        period: Duration,
    },
    /// The worker is gone; its metric series end, its place may be given to another.
    WorkerEnded {
        /// Whose place is free.
        worker: WorkerIndex,
    },
}

/// See [`Action::Start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Names the attempt in `handle_started` and `handle_outcome`.
    pub attempt: AttemptId,
    /// The due time on the worker's grid: lateness is counted from here.
    pub due: Instant,
    /// 0 for the first try of a call, 1 and 2 for the tries after an [`Outcome::Error`].
    pub retry: u8,
    /// Only local trouble for too long: ahead of the queue, with the shard's reserved descriptor.
    pub urgent: bool,
}

/// See [`Action::Publish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Whose verdict.
    pub worker: WorkerIndex,
    /// The pod.
    pub pod: PodUid,
    /// The container within it.
    pub container: ContainerName,
    /// Which probe.
    pub probe_type: ProbeType,
    /// The instance that the verdict is about.
    pub container_id: ContainerId,
    /// `None` = the entry is removed.
    pub verdict: Option<Verdict>,
    /// What made it so.
    pub cause: PublishCause,
    /// When.
    pub at: Instant,
}

/// Why a verdict was stored or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublishCause {
    /// A new container instance: the initial value of the probe's type.
    Initial,
    /// Attempts reached a threshold.
    Threshold,
    /// The container is not running.
    NotRunning,
    /// The pod is being deleted.
    Deleting,
    /// The worker ended, or the instance was replaced.
    Removed,
}

/// See [`Action::Passed`]: a success beyond its threshold, for which nobody has asked. It names its worker alone, so that
/// what a pod is called is not touched by every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Whose call.
    pub worker: WorkerIndex,
    /// Successes in a row, this one included.
    pub run: u32,
    /// `successThreshold`
    pub threshold: u32,
    /// From the start of the call's first try, in nanoseconds.
    pub duration_ns: u64,
    /// When the call ended.
    pub at: Instant,
}

/// See [`Action::Report`]. One per call of the prober that is no [`Passed`], retries folded in; discarded ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose call.
    pub worker: WorkerIndex,
    /// The pod.
    pub pod: PodUid,
    /// The container within it.
    pub container: ContainerName,
    /// Which probe.
    pub probe_type: ProbeType,
    /// The instance that was asked.
    pub container_id: ContainerId,
    /// What the last try saw.
    pub outcome: Outcome,
    /// Results of this kind in a row, this one included; 0 where it was discarded.
    pub run: u32,
    /// How many in a row make the verdict: `failureThreshold` or `successThreshold`; 0 where discarded.
    pub threshold: u32,
    /// From the start of the call's first try, in nanoseconds.
    pub duration_ns: u64,
    /// When the call ended.
    pub at: Instant,
}

/// See [`Action::LocalTooLong`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTooLong {
    /// Whose.
    pub worker: WorkerIndex,
    /// The pod.
    pub pod: PodUid,
    /// The container within it.
    pub container: ContainerName,
    /// Which probe.
    pub probe_type: ProbeType,
    /// The newest cause.
    pub cause: LocalCause,
    /// Nanoseconds since the start of the first attempt that was spoiled; no real outcome since.
    pub for_ns: u64,
    /// When it was found.
    pub at: Instant,
}
