//! The pods, workers and timers of one shard: the pure half of a shard's thread.
//!
//! Driven by `handle_*(.., now)`, asked with [`Scheduler::poll_timeout`], drained with
//! [`Scheduler::poll_action`] (the form of quinn-proto and str0m).

use alloc::sync::Arc;
use core::time::Duration;

use crate::action::{Action, AttemptId, WorkerIndex};
use crate::id::{ContainerId, ContainerName, PodUid, ProbeType};
use crate::outcome::{Outcome, Verdict};
use crate::spec::{Pod, ProbeSpec};
use crate::status::PodStatus;
use crate::time::Instant;

/// What a scheduler is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Seed of everything random (the stagger after start).
    pub seed: u64,
    /// When the manager (the daemon) started: workers made within one period of it are staggered (rule 2.3.1),
    /// containers running since before it get no initial value (rule 2.5).
    pub manager_start: Instant,
    /// First and longest wait after an [`Outcome::Local`], doubling in between.
    pub local_backoff_min: Duration,
    /// See `local_backoff_min`.
    pub local_backoff_max: Duration,
    /// With nothing but local outcomes for this long (or 5 periods, the longer), the probe is said to be
    /// unknown and its next attempt is urgent.
    pub local_max: Duration,
}

/// What an attempt is made against.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// The pod, as captured when the worker was made.
    pub pod: &'a Arc<Pod>,
    /// The container.
    pub container: &'a ContainerName,
    /// Which of its probes.
    pub probe_type: ProbeType,
    /// The probe.
    pub spec: &'a Arc<ProbeSpec>,
    /// The instance that is asked.
    pub container_id: &'a ContainerId,
    /// The pod's address as last reported.
    pub pod_ip: Option<core::net::IpAddr>,
}

/// One worker as `describe` and `get probes` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// The instance that it watches.
    pub container_id: Option<ContainerId>,
    /// The stored verdict.
    pub verdict: Option<Verdict>,
    /// Results of one kind in a row.
    pub run: u32,
    /// No attempts until a new instance is seen.
    pub on_hold: bool,
    /// The next due time.
    pub due: Option<Instant>,
}

/// See the module.
pub struct Scheduler {
    _private: (),
}

impl Scheduler {
    /// An empty scheduler at `now`.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        todo!()
    }

    /// Makes a worker for every probe of the pod that has none yet (rule 2.1: idempotent, existing keys are
    /// skipped). `made` hears of each new worker before any action names it.
    pub fn add_pod(
        &mut self,
        pod: Arc<Pod>,
        now: Instant,
        made: &mut dyn FnMut(WorkerIndex, &ContainerName, ProbeType),
    ) {
        todo!()
    }

    /// Stops all workers of the pod (rule 2.9); those with an attempt in flight end when it does.
    pub fn remove_pod(&mut self, uid: &PodUid, now: Instant) {
        todo!()
    }

    /// The pod's newest state. Unknown pods are ignored.
    pub fn handle_status(&mut self, uid: &PodUid, status: PodStatus, now: Instant) {
        todo!()
    }

    /// Pod termination begins (rule 2.9): liveness and startup workers of the pod end, readiness goes on.
    pub fn stop_liveness_and_startup(&mut self, uid: &PodUid, now: Instant) {
        todo!()
    }

    /// Runs a probe now, outside its grid (rule 2.8 for readiness; for an operator any type). One pending
    /// trigger at most. Returns false for an unknown worker.
    pub fn trigger(
        &mut self,
        uid: &PodUid,
        container: &ContainerName,
        probe_type: ProbeType,
        now: Instant,
    ) -> bool {
        todo!()
    }

    /// The attempt left every queue: it is being made now.
    pub fn handle_started(&mut self, attempt: AttemptId, now: Instant) {
        todo!()
    }

    /// The attempt ended. Stale attempts (ended worker, earlier generation) are ignored; returns whether it was known.
    pub fn handle_outcome(&mut self, attempt: AttemptId, outcome: Outcome, now: Instant) -> bool {
        todo!()
    }

    /// Moves the wheel to `now` and steps due workers, earliest due time first, until `starts_max` attempts
    /// have been started in this call; the rest stay due and go first next time.
    pub fn handle_timeout(&mut self, now: Instant, starts_max: usize) {
        todo!()
    }

    /// When `handle_timeout` wants to be called next; a time not after `now` = at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// The next thing to do or to tell, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        todo!()
    }

    /// What the worker's attempts are made against; `None` once it ended.
    #[must_use]
    pub fn target(&self, worker: WorkerIndex) -> Option<Target<'_>> {
        todo!()
    }

    /// How a worker stands; `None` once it ended.
    #[must_use]
    pub fn worker(&self, worker: WorkerIndex) -> Option<WorkerView> {
        todo!()
    }

    /// Live workers.
    #[must_use]
    pub fn workers_len(&self) -> usize {
        todo!()
    }
}
