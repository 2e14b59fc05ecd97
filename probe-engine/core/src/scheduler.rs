//! The pods, workers and timers of one shard: the pure half of a shard's thread.
//!
//! Driven by `handle_*(.., now)`, asked with [`Scheduler::poll_timeout`], drained with
//! [`Scheduler::poll_action`] (the form of quinn-proto and str0m).
//!
//! A worker's timer stands in the wheel at its next due time; once that has passed the worker waits in a queue
//! ordered by due time until [`Scheduler::handle_timeout`] has a start left for it. A manual trigger that comes before a
//! step has begun is answered by that step; one that comes during an attempt leads to one more step after it.
//!
//! **Invariant:** a worker is idle, queued (once) or in flight (one attempt), never two of them.
//! Bounds: one timer and one queue entry per worker; the action queue holds what the calls since the last drain made.

mod occupant;
mod pause;
mod pods;
mod ready;
#[cfg(test)]
mod tests;
mod turn;
mod uids;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use self::occupant::{Busies, Due, Flag, Occupant, Place};
use self::pause::Pauses;
use self::pods::PodEntry;
use self::ready::Ready;
use self::uids::Uids;
use crate::action::{Action, AttemptId, LocalTooLong, Passed, Publish, Report, Start, WorkerIndex};
use crate::container::Flags;
use crate::id::{ContainerId, ContainerName, PodUid, ProbeType};
use crate::outcome::{Outcome, Verdict};
use crate::schedule;
use crate::spec::{Pod, ProbeSpec};
use crate::status::PodStatus;
use crate::time::Instant;
use crate::wheel::Wheel;
use crate::worker::{ATTEMPTS_MAX, Change, Memory};

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
    /// The pod's address as last reported, else the manifest's.
    pub pod_ip: Option<core::net::IpAddr>,
    /// The pod's network namespace as last reported; see [`PodStatus::netns`].
    pub netns: Option<&'a Arc<str>>,
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
    /// The next due time; while it is paused the first one after that.
    pub due: Option<Instant>,
    /// No attempts before; it may have come already.
    pub paused_until: Option<Instant>,
}

/// One pod as the status consumer and the API see it; borrowed, so asking costs nothing.
pub struct PodView<'a> {
    entry: &'a PodEntry,
    places: &'a [Place],
    manager_start: Instant,
}

/// A due time that may be answered at once: see [`AnswerAtOnce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quick {
    /// Whose.
    pub worker: WorkerIndex,
    /// The due time that has come.
    pub due: Instant,
    /// Its successes in a row, with this one.
    pub run: u32,
    /// Its next due time.
    pub next: Instant,
}

/// Who can answer due times without an attempt. Only a worker is asked for that is well and of whose success there would be
/// nothing to tell: nine of ten, on a node where all is well, and for these the way over [`Action::Start`] and
/// [`Scheduler::handle_passed`] is most of the cost.
pub trait AnswerAtOnce {
    /// The timers of these workers have fired, in this order, and each may be asked for now.
    fn ahead(&mut self, _fired: &[WorkerIndex]) {}

    /// True = the attempt was made and has succeeded. Otherwise the worker is asked for by [`Action::Start`].
    fn answer(&mut self, quick: &Quick) -> bool;
}

/// Nothing is answered at once.
impl AnswerAtOnce for () {
    fn answer(&mut self, _: &Quick) -> bool {
        false
    }
}

/// So many pods at most may be known at a time; the caller keeps to it.
pub const PODS_MAX: usize = uids::PLACES_MAX;

/// See the module. A clone goes on by itself: what one is told the other does not hear.
#[derive(Clone)]
pub struct Scheduler {
    config: Config,
    wheel: Wheel,
    places: Vec<Place>,
    busies: Busies,
    pauses: Pauses,
    /// Places that may be given away: their `WorkerEnded` has been drained.
    places_free: Vec<u32>,
    workers_len: usize,
    pods: Vec<Option<PodEntry>>,
    pods_free: Vec<u32>,
    pods_by_uid: Uids,
    /// Workers that have something due. An entry whose generation is not its place's is stale.
    ready: Ready,
    /// What a turn of the wheel gave; the same memory again.
    fired: Vec<WorkerIndex>,
    actions: VecDeque<Action>,
}

impl Scheduler {
    /// An empty scheduler at `now`.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let seed = config.seed;
        Self {
            config,
            wheel: Wheel::new(now),
            places: Vec::new(),
            busies: Busies::default(),
            pauses: Pauses::default(),
            places_free: Vec::new(),
            workers_len: 0,
            pods: Vec::new(),
            pods_free: Vec::new(),
            pods_by_uid: Uids::new(seed),
            ready: Ready::default(),
            fired: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    /// Makes a worker for every probe of the pod that has none yet (rule 2.1: idempotent, existing keys are
    /// skipped, workers that ended are made again). `made` hears of each new worker before any action names it.
    ///
    /// Where its `status` is known already, the first step of a worker that is not staggered sees it: containers that
    /// run are probed at once, whatever the probe's type.
    ///
    /// Of a pod that is known, the object captured first stays, whatever `pod` says: a changed spec means
    /// `remove_pod` first. A pod that is still ending ends at once, and its attempts in flight become stale.
    pub fn add_pod(
        &mut self,
        pod: Arc<Pod>,
        status: Option<Arc<PodStatus>>,
        now: Instant,
        made: &mut dyn FnMut(WorkerIndex, &ContainerName, ProbeType),
    ) {
        self.add_pod_remembering(pod, status, &|_, _| None, now, made);
    }

    /// The same, with what another daemon knew of its probes: `memory` is asked for each worker of a container that has an
    /// instance in `status`.
    pub fn add_pod_remembering(
        &mut self,
        pod: Arc<Pod>,
        status: Option<Arc<PodStatus>>,
        memory: &dyn Fn(&ContainerName, ProbeType) -> Option<Memory>,
        now: Instant,
        made: &mut dyn FnMut(WorkerIndex, &ContainerName, ProbeType),
    ) {
        let mut known = self.pods_by_uid.find(&self.pods, &pod.uid);
        if let Some(ending) = known
            && self.pods[ending as usize].as_ref().is_some_and(|entry| entry.removed)
        {
            self.pod_workers(ending).into_iter().for_each(|worker| self.end(worker, now));
            known = self.pods_by_uid.find(&self.pods, &pod.uid);
        }
        let pod_index = match known {
            Some(known) => known,
            None => self.insert_pod(pod),
        };
        let Some(entry) = &mut self.pods[pod_index as usize] else { return };
        let pod = Arc::clone(&entry.pod);
        let known = status.is_some();
        status.into_iter().for_each(|status| entry.set_status(status));
        self.unsteady(pod_index, None);
        for position in pods::creation_order(&pod) {
            let container = pods::container_at(&pod, position);
            for probe_type in ProbeType::ALL {
                if let Some(spec) = container.probes.by_type(probe_type)
                    && let Some(worker) = self.insert_worker(pod_index, position, probe_type, spec, now)
                {
                    if let Some(memory) = memory(&container.name, probe_type) {
                        self.remember(worker, memory);
                    }
                    made(worker, &container.name, probe_type);
                }
            }
        }
        if known {
            self.generate_status(pod_index, None, now);
        }
    }

    /// Stops all workers of the pod (rule 2.9); those with an attempt in flight end when it does. Unknown pods are ignored.
    pub fn remove_pod(&mut self, uid: &PodUid, now: Instant) {
        let Some(pod_index) = self.pods_by_uid.find(&self.pods, uid) else { return };
        if let Some(entry) = &mut self.pods[pod_index as usize] {
            entry.removed = true;
        }
        self.pod_workers(pod_index).into_iter().for_each(|worker| self.stop(worker, now));
        self.forget_pod_without_workers(pod_index);
    }

    /// Removes every pod that is not desired (rule 2.9, housekeeping).
    pub fn cleanup_pods(&mut self, desired: &dyn Fn(&PodUid) -> bool, now: Instant) {
        let known = self.pods.iter().flatten().map(|entry| &entry.pod.uid);
        let undesired: Vec<PodUid> = known.filter(|uid| !desired(uid)).cloned().collect();
        undesired.iter().for_each(|uid| self.remove_pod(uid, now));
    }

    /// The pod's newest state. Unknown pods are ignored.
    pub fn handle_status(&mut self, uid: &PodUid, status: Arc<PodStatus>, now: Instant) {
        if let Some(pod_index) = self.set_status(uid, status) {
            self.generate_status(pod_index, None, now);
        }
    }

    /// The same, with what another daemon knew of instances that are in `status`: `memory` is asked for each worker, and heard
    /// for those that have seen no instance yet.
    pub fn handle_status_remembering(
        &mut self,
        uid: &PodUid,
        status: Arc<PodStatus>,
        memory: &dyn Fn(&ContainerName, ProbeType) -> Option<Memory>,
        now: Instant,
    ) {
        let Some(pod_index) = self.set_status(uid, status) else { return };
        for worker in self.pod_workers(pod_index) {
            if let Some(memory) = self.key_of(worker).and_then(|(container, probe_type)| memory(container, probe_type))
            {
                self.remember(worker, memory);
            }
        }
        self.generate_status(pod_index, None, now);
    }

    /// Pod termination begins (rule 2.9): liveness and startup workers of the pod end, sidecars' too; readiness goes on.
    pub fn stop_liveness_and_startup(&mut self, uid: &PodUid, now: Instant) {
        let Some(pod_index) = self.pods_by_uid.find(&self.pods, uid) else { return };
        for worker in self.pod_workers(pod_index) {
            let probe_type = self.occupant(worker).map(|occupant| occupant.worker.probe_type());
            if probe_type != Some(ProbeType::Readiness) {
                self.stop(worker, now);
            }
        }
    }

    /// Runs a probe now, outside its grid (rule 2.8 for readiness; for an operator any type). One pending
    /// trigger at most. Its next call is reported whatever it says. Returns false for an unknown worker, and for one that is
    /// paused.
    pub fn trigger(&mut self, uid: &PodUid, container: &ContainerName, probe_type: ProbeType, now: Instant) -> bool {
        let worker = self.worker_index(uid, container, probe_type);
        worker.is_some_and(|worker| self.trigger_worker(worker, true, now))
    }

    /// The attempt left every queue: it is being made now. Due times that passed while it was queued are missed.
    pub fn handle_started(&mut self, attempt: AttemptId, now: Instant) {
        let Some((occupant, busy)) = self.in_flight(attempt) else { return };
        if core::mem::replace(&mut busy.call.started, true) {
            return;
        }
        busy.call.started_at = now;
        if let Some(taken) = occupant.schedule.take(occupant.spec.period(), now) {
            let Self { places, busies, pauses, .. } = self;
            let occupant = places[attempt.worker.0 as usize].occupant.as_mut();
            let after = occupant.and_then(|occupant| pauses.pass(attempt.worker, occupant, busies, taken));
            self.miss(attempt.worker, after.map_or(0, |after| after.dropped.saturating_add(1)));
            self.arm(attempt.worker);
        }
    }

    /// The attempt ended. Stale attempts (ended worker, earlier generation) are ignored; returns whether it was known.
    pub fn handle_outcome(&mut self, attempt: AttemptId, outcome: Outcome, now: Instant) -> bool {
        let may_try_again = self.allows(attempt.worker, now);
        let Some((_, busy)) = self.in_flight(attempt) else { return false };
        if matches!(outcome, Outcome::Error(_)) && busy.call.retry + 1 < ATTEMPTS_MAX && may_try_again {
            busy.call.retry += 1;
            self.emit_start(attempt.worker);
            return true;
        }
        if let Some(passed) = self.finish_call(attempt.worker, outcome, now) {
            self.actions.push_back(Action::Passed(passed));
            self.go_on(attempt.worker, None, now);
        }
        true
    }

    /// The attempt was made and has succeeded at once: `handle_started` and `handle_outcome` in one. `Some` = all that there
    /// is to tell, of which no action tells again; `None` = actions tell it, or the attempt is a stale one.
    pub fn handle_passed(&mut self, attempt: AttemptId, now: Instant) -> Option<Passed> {
        self.handle_started(attempt, now);
        self.in_flight(attempt)?;
        let passed = self.finish_call(attempt.worker, Outcome::Success(Box::default()), now)?;
        self.go_on(attempt.worker, None, now);
        Some(passed)
    }

    /// Moves the wheel to `now` and steps due workers, earliest due time first, until `starts_max` attempts
    /// have been started in this call; the rest stay due and go first next time. With `starts_max` 0 due times
    /// are only noted, and [`Scheduler::poll_timeout`] goes on to say "at once". Returns how many were started.
    pub fn handle_timeout(&mut self, now: Instant, starts_max: usize) -> usize {
        self.handle_timeout_with(now, starts_max, &mut ())
    }

    /// The same, where `answers` may answer what is due and well. That counts as no start.
    pub fn handle_timeout_with(&mut self, now: Instant, starts_max: usize, answers: &mut impl AnswerAtOnce) -> usize {
        let mut fired = core::mem::take(&mut self.fired);
        self.wheel.advance(now, |index| fired.push(WorkerIndex(index)));
        // Those of one due time in the order of their places.
        fired.sort_unstable();
        self.touch(&fired);
        answers.ahead(&fired);
        for worker in fired.drain(..) {
            self.fire(worker, now, answers);
        }
        self.fired = fired;
        let mut starts = 0;
        while starts < starts_max
            && let Some(due) = self.ready.pop()
        {
            if self.places[due.worker.0 as usize].generation == due.generation && self.step(due.worker, now) {
                starts += 1;
            }
        }
        starts
    }

    /// Reads of each place, so that the processor fetches many of them from memory at a time: what follows takes one after the
    /// other, and would wait for each.
    fn touch(&self, fired: &[WorkerIndex]) {
        for worker in fired {
            core::hint::black_box(self.places[worker.0 as usize].generation);
        }
    }

    /// When `handle_timeout` wants to be called next; a time not after `now` = at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ready = self.ready.peek().map(|due| due.at);
        ready.into_iter().chain(self.wheel.next_expiry()).min()
    }

    /// The next thing to do or to tell, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::WorkerEnded { worker } = action {
            // Not earlier: a place given away before would be named by two workers' actions at once.
            self.places_free.push(worker.0);
        }
        Some(action)
    }

    /// What the worker's attempts are made against; `None` once it ended, and before it has seen an instance.
    #[must_use]
    pub fn target(&self, worker: WorkerIndex) -> Option<Target<'_>> {
        let occupant = self.occupant(worker)?;
        let entry = self.pods[occupant.pod as usize].as_ref()?;
        let reported = entry.status.as_ref().and_then(|status| status.pod_ip);
        Some(Target {
            pod: &entry.pod,
            container: &pods::container_at(&entry.pod, occupant.container).name,
            probe_type: occupant.worker.probe_type(),
            spec: &occupant.spec,
            container_id: occupant.worker.container_id()?,
            pod_ip: reported.or(entry.pod.pod_ip.get()),
            netns: entry.status.as_ref().and_then(|status| status.netns.as_ref()),
        })
    }

    /// How a worker stands; `None` once it ended.
    #[must_use]
    pub fn worker(&self, worker: WorkerIndex) -> Option<WorkerView> {
        self.occupant(worker).map(|occupant| WorkerView {
            container_id: occupant.worker.container_id().cloned(),
            verdict: occupant.worker.verdict(),
            run: occupant.worker.run(),
            on_hold: occupant.worker.is_on_hold(),
            due: (!occupant.has(Flag::Stopping)).then(|| self.due_after_pause(worker, occupant)),
            paused_until: self.pauses.until(worker, occupant),
        })
    }

    /// The worker's next due time, and while it is paused the first one after that; `None` while it is on hold, is about to end,
    /// or has ended.
    #[must_use]
    pub fn next_due(&self, worker: WorkerIndex) -> Option<Instant> {
        let has_none = |occupant: &&Occupant| occupant.has(Flag::Stopping) || occupant.worker.is_on_hold();
        let occupant = self.occupant(worker).filter(|occupant| !has_none(occupant))?;
        Some(self.due_after_pause(worker, occupant))
    }

    /// The worker of this key.
    #[must_use]
    pub fn worker_index(&self, uid: &PodUid, container: &ContainerName, probe_type: ProbeType) -> Option<WorkerIndex> {
        let entry = self.pods[self.pods_by_uid.find(&self.pods, uid)? as usize].as_ref()?;
        let position = entry.pod.all_containers().position(|c| c.name == *container)?;
        entry.containers[position].worker(probe_type)
    }

    /// How a pod stands; `None` if unknown.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<PodView<'_>> {
        let entry = self.pods[self.pods_by_uid.find(&self.pods, uid)? as usize].as_ref()?;
        Some(PodView { entry, places: &self.places, manager_start: self.config.manager_start })
    }

    /// Live workers.
    #[must_use]
    pub fn workers_len(&self) -> usize {
        self.workers_len
    }

    /// Places of workers that were ever needed at once; those of ended workers are given away again.
    #[must_use]
    pub fn places_len(&self) -> usize {
        self.places.len()
    }
}

impl<'a> PodView<'a> {
    /// The pod as captured.
    #[must_use]
    pub fn pod(&self) -> &'a Arc<Pod> {
        &self.entry.pod
    }

    /// Its newest state; `None` before the first.
    #[must_use]
    pub fn status(&self) -> Option<&'a PodStatus> {
        self.entry.status.as_deref()
    }

    /// `started` and `ready` of a container; both false where it has no status.
    ///
    /// `pod_was_ready`: the last known condition Ready is True; it matters to containers that have been running
    /// since before the manager (rule 5.2).
    #[must_use]
    pub fn flags(&self, container: &ContainerName, pod_was_ready: bool) -> Flags {
        let position = self.entry.pod.all_containers().position(|c| c.name == *container);
        let flags = position.and_then(|p| self.entry.flags(p, self.places, self.manager_start, pod_was_ready));
        flags.unwrap_or_default()
    }

    /// The live workers of the pod with their containers and types.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerIndex, &'a ContainerName, ProbeType)> {
        let entry = self.entry;
        entry.pod.all_containers().zip(entry.containers.iter()).flat_map(|(spec, container)| {
            let of_type = |t: ProbeType| container.worker(t).map(|worker| (worker, &spec.name, t));
            ProbeType::ALL.into_iter().filter_map(of_type)
        })
    }
}
