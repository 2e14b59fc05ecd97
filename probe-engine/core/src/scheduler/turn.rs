//! What happens to one worker: made, due, stepped, answered, ended.

use super::*;
use crate::action::PublishCause;
use crate::outcome::LocalCause;
use crate::schedule::Schedule;
use crate::worker::{Step, Worker};
use occupant::{Call, Local};

impl Scheduler {
    /// `None` where the key has a worker already.
    pub(super) fn insert_worker(
        &mut self,
        pod_index: u32,
        position: u16,
        probe_type: ProbeType,
        spec: &Arc<ProbeSpec>,
        now: Instant,
    ) -> Option<WorkerIndex> {
        let entry = self.pods[pod_index as usize].as_mut()?;
        let container = &mut entry.containers[usize::from(position)];
        if container.worker(probe_type).is_some() {
            return None;
        }
        let name = &pods::container_at(&entry.pod, position).name;
        let key = (&entry.pod.uid, name, probe_type);
        let first = schedule::first_step(self.config.seed, key, spec.period(), self.config.manager_start, now);
        let mut occupant = Occupant {
            worker: Worker::new(probe_type),
            spec: Arc::clone(spec),
            pod: pod_index,
            container: position,
            begun: false,
            queued: false,
            in_flight: false,
            stopping: false,
            schedule: Schedule::new(first, spec.period()),
            tick: None,
            trigger: None,
            call: Call { due: first, started_at: first, started: false, retry: 0 },
            local: None,
        };
        // The first step is due now: without a status it would find nothing, so it counts as taken; with one
        // (a worker made again) it waits its turn like any other.
        let steps_now = first <= now;
        if steps_now {
            occupant.schedule.rephase(now);
            occupant.begun = true;
            occupant.tick = entry.status.is_some().then_some(now);
        }
        let has_tick = occupant.tick.is_some();
        let index = match self.places_free.pop() {
            Some(free) => free,
            None => {
                self.places.push(Place { generation: 0, occupant: None });
                self.places.len() as u32 - 1
            }
        };
        let worker = WorkerIndex(index);
        container.set_worker(probe_type, Some(worker));
        self.places[index as usize].occupant = Some(occupant);
        self.workers_len += 1;
        self.arm(worker);
        if has_tick {
            self.queue(worker, now);
        }
        Some(worker)
    }

    pub(super) fn occupant(&self, worker: WorkerIndex) -> Option<&Occupant> {
        self.places.get(worker.0 as usize)?.occupant.as_ref()
    }

    fn occupant_mut(&mut self, worker: WorkerIndex) -> Option<&mut Occupant> {
        self.places.get_mut(worker.0 as usize)?.occupant.as_mut()
    }

    /// The occupant whose attempt this is; `None` for a stale one.
    pub(super) fn in_flight(&mut self, attempt: AttemptId) -> Option<&mut Occupant> {
        let place = self.places.get_mut(attempt.worker.0 as usize)?;
        let current = place.generation == attempt.generation;
        place.occupant.as_mut().filter(|occupant| current && occupant.in_flight)
    }

    /// Sets the worker's timer to its next deadline.
    pub(super) fn arm(&mut self, worker: WorkerIndex) {
        if let Some(occupant) = self.occupant(worker).filter(|occupant| !occupant.stopping) {
            let deadline = occupant.deadline();
            self.wheel.insert(worker.0, deadline);
        }
    }

    fn queue(&mut self, worker: WorkerIndex, at: Instant) {
        let Place { generation, occupant } = &mut self.places[worker.0 as usize];
        if let Some(occupant) = occupant {
            occupant.queued = true;
            self.ready.push(Reverse(Due { at, worker, generation: *generation }));
        }
    }

    pub(super) fn miss(&mut self, worker: WorkerIndex, count: u32) {
        if count > 0 {
            self.actions.push_back(Action::Missed { worker, count });
        }
    }

    /// The worker's timer fired: a due time has passed, a local back-off is over, or both.
    pub(super) fn fire(&mut self, worker: WorkerIndex, now: Instant) {
        let Some(occupant) = self.occupant_mut(worker) else { return };
        let mut missed = 0;
        if let Some(taken) = occupant.schedule.take(now) {
            missed = taken.dropped;
            let never_left_the_queue = occupant.in_flight && !occupant.call.started;
            let waited = occupant.local.as_mut().filter(|local| local.waiting);
            let answered_before = waited.is_some_and(|local| core::mem::replace(&mut local.absorbed, true));
            if occupant.tick.is_some() || never_left_the_queue || answered_before {
                missed = missed.saturating_add(1);
            }
            if !never_left_the_queue {
                occupant.tick.get_or_insert(taken.due);
            }
        }
        if let Some(local) = occupant.local.as_mut().filter(|local| local.waiting && local.until <= now) {
            local.waiting = false;
            occupant.tick.get_or_insert(local.until);
        }
        if let Some(due) = occupant.tick
            && occupant.is_idle()
        {
            self.queue(worker, due);
        }
        self.miss(worker, missed);
        self.arm(worker);
    }

    /// Returns whether there is such a worker. One trigger is kept at most.
    pub(super) fn trigger_worker(&mut self, worker: WorkerIndex, now: Instant) -> bool {
        let Some(occupant) = self.occupant_mut(worker).filter(|occupant| !occupant.stopping) else { return false };
        occupant.trigger.get_or_insert(now);
        if occupant.begun && occupant.is_idle() {
            self.queue(worker, now);
        }
        true
    }

    /// One step of a queued worker. Returns whether an attempt was started.
    pub(super) fn step(&mut self, worker: WorkerIndex, now: Instant) -> bool {
        let Self { places, pods, actions, config, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return false };
        let Some(entry) = &pods[occupant.pod as usize] else { return false };
        occupant.queued = false;
        let due = occupant.take_due(now);
        let pod_index = occupant.pod;
        let probe_type = occupant.worker.probe_type();
        let mut must_generate = false;
        let view = entry.view(occupant.container, config.manager_start);
        let step = occupant.worker.step(view, &occupant.spec, now, |change| {
            must_generate |= leads_to_sync(probe_type, change.verdict);
            actions.push_back(publish(worker, probe_type, entry, occupant.container, change, now));
        });
        let mut started = false;
        match step {
            Step::Continue => occupant.local = None,
            Step::Exit => self.end(worker, now),
            Step::Probe if occupant.is_waiting_locally() => {}
            Step::Probe => {
                occupant.in_flight = true;
                occupant.call = Call { due, started_at: now, started: false, retry: 0 };
                self.emit_start(worker);
                started = true;
            }
        }
        self.arm(worker);
        if must_generate {
            // An initial value is answered by the attempt that the same step makes.
            let except = (step == Step::Probe).then_some(worker);
            self.generate_status(pod_index, except, now);
        }
        started
    }

    /// Asks for the next try of the worker's call.
    pub(super) fn emit_start(&mut self, worker: WorkerIndex) {
        let Place { generation, occupant } = &mut self.places[worker.0 as usize];
        let Some(occupant) = occupant else { return };
        *generation = generation.wrapping_add(1);
        self.actions.push_back(Action::Start(Start {
            attempt: AttemptId { worker, generation: *generation },
            due: occupant.call.due,
            retry: occupant.call.retry,
            urgent: occupant.local.is_some_and(|local| local.told),
        }));
    }

    /// A call of the prober is over: count it, tell it, and go on.
    pub(super) fn finish_call(&mut self, worker: WorkerIndex, outcome: Outcome, now: Instant) {
        let Self { places, pods, actions, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return };
        let Some(entry) = &pods[occupant.pod as usize] else { return };
        let Some(container_id) = occupant.worker.container_id().cloned() else { return };
        let counted = match outcome {
            Outcome::Success(_) | Outcome::Warning(_) => Some(occupant.worker.count(true, &occupant.spec)),
            Outcome::Failure(_) => Some(occupant.worker.count(false, &occupant.spec)),
            Outcome::Error(_) | Outcome::Local(_) => None,
        };
        let (run, threshold) = counted.as_ref().map_or((0, 0), |counted| (counted.run, counted.threshold));
        let local_cause = if let Outcome::Local(cause) = outcome { Some(cause) } else { None };
        let probe_type = occupant.worker.probe_type();
        let pod_index = occupant.pod;
        actions.push_back(Action::Report(Report {
            worker,
            pod: entry.pod.uid.clone(),
            container: pods::container_at(&entry.pod, occupant.container).name.clone(),
            probe_type,
            container_id,
            outcome,
            run,
            threshold,
            duration_ns: now.as_nanos().saturating_sub(occupant.call.started_at.as_nanos()),
            at: now,
        }));
        let change = counted.and_then(|counted| counted.change);
        let must_generate = change.as_ref().is_some_and(|change| leads_to_sync(probe_type, change.verdict));
        actions.extend(change.map(|change| publish(worker, probe_type, entry, occupant.container, change, now)));

        if occupant.stopping {
            self.end(worker, now);
        } else {
            occupant.trigger = occupant.trigger.map(|_| now);
            match local_cause {
                Some(cause) => self.back_off(worker, cause, now),
                None => occupant.local = None,
            }
            self.queue_what_waited(worker);
        }
        if must_generate {
            self.generate_status(pod_index, None, now);
        }
    }

    /// Puts the next attempt off after local trouble, and tells of it when it has gone on for too long.
    fn back_off(&mut self, worker: WorkerIndex, cause: LocalCause, now: Instant) {
        let Self { places, pods, actions, config, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return };
        let Some(entry) = &pods[occupant.pod as usize] else { return };
        let (since, backoff, mut told) = match occupant.local {
            None => (occupant.call.started_at, config.local_backoff_min, false),
            Some(local) => (local.since, (local.backoff * 2).min(config.local_backoff_max), local.told),
        };
        let limit = config.local_max.max(occupant.spec.period() * 5);
        if !told && now - since >= limit {
            told = true;
            actions.push_back(Action::LocalTooLong(LocalTooLong {
                worker,
                pod: entry.pod.uid.clone(),
                container: pods::container_at(&entry.pod, occupant.container).name.clone(),
                probe_type: occupant.worker.probe_type(),
                cause,
                for_ns: now.as_nanos() - since.as_nanos(),
                at: now,
            }));
        }
        // A due time that passed during the attempt is answered by the attempt after the wait.
        let absorbed = occupant.tick.take().is_some();
        occupant.local = Some(Local { since, backoff, until: now + backoff, waiting: true, absorbed, told });
        self.arm(worker);
    }

    /// Queues a worker whose attempt is over, if a tick or a trigger came during it.
    fn queue_what_waited(&mut self, worker: WorkerIndex) {
        let Some(occupant) = self.occupant(worker) else { return };
        let waited = occupant.tick.into_iter().chain(occupant.trigger).min();
        if let Some(at) = waited.filter(|_| occupant.is_idle()) {
            self.queue(worker, at);
        }
    }

    /// Ends the worker: at once, or with its attempt in flight.
    pub(super) fn stop(&mut self, worker: WorkerIndex, now: Instant) {
        let Some(occupant) = self.occupant_mut(worker) else { return };
        if occupant.in_flight {
            occupant.stopping = true;
            self.wheel.cancel(worker.0);
        } else {
            self.end(worker, now);
        }
    }

    /// The worker leaves: its stored verdict goes, its attempt in flight (if any) becomes stale.
    pub(super) fn end(&mut self, worker: WorkerIndex, now: Instant) {
        let place = &mut self.places[worker.0 as usize];
        let Some(mut occupant) = place.occupant.take() else { return };
        place.generation = place.generation.wrapping_add(1);
        self.workers_len -= 1;
        self.wheel.cancel(worker.0);
        let probe_type = occupant.worker.probe_type();
        if let Some(entry) = &mut self.pods[occupant.pod as usize] {
            entry.containers[usize::from(occupant.container)].set_worker(probe_type, None);
            let change = occupant.worker.leave();
            self.actions
                .extend(change.map(|change| publish(worker, probe_type, entry, occupant.container, change, now)));
        }
        self.actions.push_back(Action::WorkerEnded { worker });
        self.forget_pod_without_workers(occupant.pod);
    }
}

impl Occupant {
    /// Takes what made the worker due, with its time. A trigger takes the tick with it and sets the grid anew.
    fn take_due(&mut self, now: Instant) -> Instant {
        let first = !core::mem::replace(&mut self.begun, true);
        let tick = self.tick.take();
        let trigger = self.trigger.take();
        if let Some(at) = trigger {
            self.schedule.rephase(tick.filter(|_| first).unwrap_or(at));
        }
        // A trigger within the stagger waits for its end: the first step is not late from before it.
        let due = tick.filter(|_| first).or_else(|| tick.into_iter().chain(trigger).min()).unwrap_or(now);
        // Lateness is not counted from within a back-off that was meant.
        self.local.map_or(due, |local| due.max(local.until.min(now)))
    }
}

/// The sync loop acts on any change of readiness and startup, and on a liveness failure; removals are silent
/// (`kubelet.go`, `syncLoopIteration`).
fn leads_to_sync(probe_type: ProbeType, verdict: Option<Verdict>) -> bool {
    match probe_type {
        ProbeType::Readiness | ProbeType::Startup => verdict.is_some(),
        ProbeType::Liveness => verdict == Some(Verdict::Failure),
    }
}

fn publish(
    worker: WorkerIndex,
    probe_type: ProbeType,
    entry: &PodEntry,
    container: u16,
    change: Change,
    at: Instant,
) -> Action {
    debug_assert!(change.verdict.is_some() || change.cause == PublishCause::Removed);
    Action::Publish(Publish {
        worker,
        pod: entry.pod.uid.clone(),
        container: pods::container_at(&entry.pod, container).name.clone(),
        probe_type,
        container_id: change.container_id,
        verdict: change.verdict,
        cause: change.cause,
        at,
    })
}
