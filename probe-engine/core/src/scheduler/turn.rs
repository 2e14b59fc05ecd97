//! What happens to one worker: made, due, stepped, answered, ended.

use super::*;
use crate::action::{Passed, PublishCause};
use crate::outcome::LocalCause;
use crate::schedule::{Schedule, Taken};
use crate::worker::{Step, Worker};
use occupant::{Busy, Call, Flag, Local};

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
        let mut occupant =
            Occupant::new(Worker::new(probe_type), Arc::clone(spec), Schedule::new(first), pod_index, position);
        // The first step is due now: without a status it would find nothing, so it counts as taken; with one
        // (a worker made again) it waits its turn like any other.
        let mut has_tick = false;
        if first <= now {
            occupant.schedule.rephase(spec.period(), now);
            occupant.set(Flag::Begun);
            if entry.status.is_some() {
                self.busies.of(&mut occupant).tick = Some(now);
                has_tick = true;
            }
        }
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

    /// The occupant whose attempt this is, with its call; `None` for a stale one.
    pub(super) fn in_flight(&mut self, attempt: AttemptId) -> Option<(&mut Occupant, &mut Busy)> {
        let place = self.places.get_mut(attempt.worker.0 as usize)?;
        let is_current = place.generation == attempt.generation;
        let occupant = place.occupant.as_mut().filter(|occupant| is_current && occupant.has(Flag::InFlight))?;
        let busy = self.busies.find_mut(occupant)?;
        Some((occupant, busy))
    }

    /// Sets the worker's timer to its next deadline.
    pub(super) fn arm(&mut self, worker: WorkerIndex) {
        if let Some(occupant) = self.occupant(worker).filter(|occupant| !occupant.has(Flag::Stopping)) {
            let next = occupant.schedule.next();
            let local = self.busies.find(occupant).and_then(|busy| busy.local).filter(|local| local.waiting);
            self.wheel.insert(worker.0, local.map_or(next, |local| next.min(local.until)));
        }
    }

    /// No pause stands in the way of an attempt at `now`.
    pub(super) fn allows(&self, worker: WorkerIndex, now: Instant) -> bool {
        let until = self.occupant(worker).and_then(|occupant| self.pauses.until(worker, occupant));
        until.is_none_or(|until| until <= now)
    }

    pub(super) fn due_after_pause(&self, worker: WorkerIndex, occupant: &Occupant) -> Instant {
        match self.pauses.until(worker, occupant) {
            Some(until) => occupant.schedule.next_from(occupant.period(), until),
            None => occupant.schedule.next(),
        }
    }

    fn queue(&mut self, worker: WorkerIndex, at: Instant) {
        let Place { generation, occupant } = &mut self.places[worker.0 as usize];
        if let Some(occupant) = occupant {
            occupant.set(Flag::Queued);
            self.ready.push(Due { at, worker, generation: *generation });
        }
    }

    pub(super) fn miss(&mut self, worker: WorkerIndex, count: u32) {
        if count > 0
            && let Some(occupant) = self.occupant(worker)
        {
            let period = occupant.period();
            self.actions.push_back(Action::Missed { worker, count, period });
        }
    }

    /// The worker's timer fired: a due time has passed, a local back-off is over, or both.
    pub(super) fn fire(&mut self, worker: WorkerIndex, now: Instant, answers: &mut impl AnswerAtOnce) {
        let Self { places, busies, pauses, wheel, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return };
        let mut missed = 0;
        if let Some(taken) = occupant.schedule.take(occupant.period(), now) {
            let after = pauses.pass(worker, occupant, busies, taken);
            let taken = after.unwrap_or(Taken { due: taken.due, dropped: 0 });
            missed = taken.dropped;
            let next = occupant.schedule.next();
            let run = occupant.worker.run().saturating_add(1);
            let quick = Quick { worker, due: taken.due, run, next };
            if missed == 0 && occupant.is_well() && answers.answer(&quick) {
                occupant.worker.count_quietly(&occupant.spec);
                wheel.insert(worker.0, next);
                debug_assert!(self.is_steady(worker, now), "a steady worker sees something new");
                return;
            }
            let in_flight = occupant.has(Flag::InFlight);
            let busy = busies.of(occupant);
            let never_left_the_queue = in_flight && !busy.call.started;
            let waited = busy.local.as_mut().filter(|local| local.waiting);
            let answered_before = waited.is_some_and(|local| core::mem::replace(&mut local.absorbed, true));
            if after.is_some() && (busy.tick.is_some() || never_left_the_queue || answered_before) {
                missed = missed.saturating_add(1);
            }
            if !never_left_the_queue {
                busy.tick.get_or_insert(taken.due);
            }
        }
        let mut due = None;
        if let Some(busy) = busies.find_mut(occupant) {
            if let Some(local) = busy.local.as_mut().filter(|local| local.waiting && local.until <= now) {
                local.waiting = false;
                busy.tick.get_or_insert(local.until);
            }
            due = busy.tick;
        }
        if let Some(due) = due.filter(|_| occupant.is_idle()) {
            self.queue(worker, due);
        }
        self.miss(worker, missed);
        self.arm(worker);
    }

    /// Returns whether there is such a worker, and it is not paused. One trigger is kept at most. `asked`: by somebody who waits for the report.
    pub(super) fn trigger_worker(&mut self, worker: WorkerIndex, asked: bool, now: Instant) -> bool {
        let Self { places, busies, pauses, .. } = self;
        let Some(occupant) = places.get_mut(worker.0 as usize).and_then(|place| place.occupant.as_mut()) else {
            return false;
        };
        if occupant.has(Flag::Stopping) || !pauses.allow(worker, occupant, busies, now) {
            return false;
        }
        if !occupant.has(Flag::Begun) && !asked {
            occupant.set(Flag::TriggeredEarly);
            return true;
        }
        let busy = busies.of(occupant);
        busy.trigger.get_or_insert(now);
        busy.asked |= asked;
        if occupant.has(Flag::Begun) && occupant.is_idle() {
            self.queue(worker, now);
        }
        true
    }

    /// One step of a queued worker. Returns whether an attempt was started.
    pub(super) fn step(&mut self, worker: WorkerIndex, now: Instant) -> bool {
        let Self { places, busies, pauses, pods, actions, config, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return false };
        occupant.clear(Flag::Queued);
        let busy = busies.of(occupant);
        let (due, is_rephased) = take_due(occupant, busy, now);
        let is_waiting = busy.is_waiting_locally();
        let may_attempt = pauses.allow(worker, occupant, busies, due);
        let pod_index = occupant.pod;
        let probe_type = occupant.worker.probe_type();
        let mut must_generate = false;
        let step = if occupant.has(Flag::Steady) {
            debug_assert!(is_steady(occupant, pods, config, now), "a steady worker sees something new");
            Step::Probe
        } else {
            let Some(entry) = &pods[pod_index as usize] else { return false };
            let view = entry.view(occupant.container, config.manager_start);
            let mut has_changed = false;
            let step = occupant.worker.step(view, &occupant.spec, now, |change| {
                has_changed = true;
                must_generate |= leads_to_sync(probe_type, change.verdict);
                actions.push_back(publish(worker, probe_type, entry, occupant.container, change, now));
            });
            if step == Step::Probe && !has_changed {
                occupant.set(Flag::Steady);
            }
            step
        };
        let step = if step == Step::Probe && !may_attempt { Step::Continue } else { step };
        let mut started = false;
        let mut is_local_over = false;
        match step {
            Step::Continue => {
                is_local_over = busies.of(occupant).local.take().is_some();
                busies.tidy(occupant);
            }
            Step::Exit => self.end(worker, now),
            Step::Probe if is_waiting => busies.tidy(occupant),
            Step::Probe => {
                occupant.set(Flag::InFlight);
                busies.of(occupant).call = Call { due, started_at: now, started: false, retry: 0 };
                self.emit_start(worker);
                started = true;
            }
        }
        // Otherwise its timer stands where `fire` has set it.
        if is_rephased || is_local_over {
            self.arm(worker);
        }
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
        let Some(busy) = self.busies.find(occupant) else { return };
        *generation = generation.wrapping_add(1);
        self.actions.push_back(Action::Start(Start {
            attempt: AttemptId { worker, generation: *generation },
            due: busy.call.due,
            retry: busy.call.retry,
            urgent: busy.local.is_some_and(|local| local.told),
        }));
    }

    /// A call of the prober is over: count it, tell it, and go on. `Some`: there is nothing to tell but this, and the caller
    /// goes on.
    pub(super) fn finish_call(&mut self, worker: WorkerIndex, outcome: Outcome, now: Instant) -> Option<Passed> {
        let Self { places, busies, pods, actions, .. } = self;
        let occupant = places[worker.0 as usize].occupant.as_mut()?;
        occupant.clear(Flag::InFlight);
        let counted = match outcome {
            Outcome::Success(_) | Outcome::Warning(_) => Some(occupant.worker.count(true, &occupant.spec)),
            Outcome::Failure(_) => Some(occupant.worker.count(false, &occupant.spec)),
            Outcome::Error(_) | Outcome::Local(_) => None,
        };
        if occupant.worker.is_on_hold() {
            occupant.clear(Flag::Steady);
        }
        let (run, threshold) = counted.as_ref().map_or((0, 0), |counted| (counted.run, counted.threshold));
        let change = counted.and_then(|counted| counted.change);
        let is_quiet = matches!(outcome, Outcome::Success(_)) && run > threshold && change.is_none();
        if is_quiet {
            occupant.set(Flag::Quiet);
        } else {
            occupant.clear(Flag::Quiet);
        }
        let busy = busies.of(occupant);
        let duration_ns = now.as_nanos().saturating_sub(busy.call.started_at.as_nanos());
        if is_quiet && !busy.asked {
            return Some(Passed { worker, run, threshold, duration_ns, at: now });
        }
        busy.asked = false;
        let entry = pods[occupant.pod as usize].as_ref()?;
        let container_id = occupant.worker.container_id().cloned()?;
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
            duration_ns,
            at: now,
        }));
        let must_generate = change.as_ref().is_some_and(|change| leads_to_sync(probe_type, change.verdict));
        actions.extend(change.map(|change| publish(worker, probe_type, entry, occupant.container, change, now)));
        self.go_on(worker, local_cause, now);
        if must_generate {
            self.generate_status(pod_index, None, now);
        }
        None
    }

    /// After a call: to what waited for its end.
    pub(super) fn go_on(&mut self, worker: WorkerIndex, local_cause: Option<LocalCause>, now: Instant) {
        let Self { places, busies, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return };
        if occupant.has(Flag::Stopping) {
            return self.end(worker, now);
        }
        let busy = busies.of(occupant);
        busy.trigger = busy.trigger.map(|_| now);
        match local_cause {
            Some(cause) => self.back_off(worker, cause, now),
            None => busy.local = None,
        }
        self.queue_what_waited(worker);
    }

    /// Puts the next attempt off after local trouble, and tells of it when it has gone on for too long.
    fn back_off(&mut self, worker: WorkerIndex, cause: LocalCause, now: Instant) {
        let Self { places, busies, pods, actions, config, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return };
        let Some(entry) = &pods[occupant.pod as usize] else { return };
        let busy = busies.of(occupant);
        let (since, backoff, mut told) = match busy.local {
            None => (busy.call.started_at, config.local_backoff_min, false),
            Some(local) => (local.since, (local.backoff * 2).min(config.local_backoff_max), local.told),
        };
        // A due time that passed during the attempt is answered by the attempt after the wait.
        let absorbed = busy.tick.take().is_some();
        let limit = config.local_max.max(occupant.period() * 5);
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
        busies.of(occupant).local = Some(Local { since, backoff, until: now + backoff, waiting: true, absorbed, told });
        self.arm(worker);
    }

    /// Queues a worker whose attempt is over, if a tick or a trigger came during it.
    fn queue_what_waited(&mut self, worker: WorkerIndex) {
        let Self { places, busies, .. } = self;
        let Some(occupant) = &mut places[worker.0 as usize].occupant else { return };
        let busy = busies.of(occupant);
        let waited = busy.tick.into_iter().chain(busy.trigger).min();
        match waited.filter(|_| occupant.is_idle()) {
            Some(at) => self.queue(worker, at),
            None => busies.tidy(occupant),
        }
    }

    /// Ends the worker: at once, or with its attempt in flight.
    pub(super) fn stop(&mut self, worker: WorkerIndex, now: Instant) {
        let Some(occupant) = &mut self.places[worker.0 as usize].occupant else { return };
        if occupant.has(Flag::InFlight) {
            occupant.set(Flag::Stopping);
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
        self.busies.take_back(&mut occupant);
        self.pauses.forget(worker, &mut occupant);
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

    /// See [`Flag::Steady`].
    fn is_steady(&self, worker: WorkerIndex, now: Instant) -> bool {
        self.occupant(worker).is_some_and(|occupant| is_steady(occupant, &self.pods, &self.config, now))
    }

    /// The workers of this pod look at its status again at their next step; `position`: only those of that container.
    pub(super) fn unsteady(&mut self, pod_index: u32, position: Option<usize>) {
        let Some(entry) = &self.pods[pod_index as usize] else { return };
        let concerned = entry.containers.iter().enumerate().filter(|(at, _)| position.is_none_or(|only| only == *at));
        for worker in concerned.flat_map(|(_, container)| container.workers()) {
            if let Some(occupant) = &mut self.places[worker.0 as usize].occupant {
                occupant.clear(Flag::Steady);
            }
        }
    }
}

/// Takes what made the worker due, with its time. A trigger takes the tick with it and sets the grid anew: whether it did.
fn take_due(occupant: &mut Occupant, busy: &mut Busy, now: Instant) -> (Instant, bool) {
    let first = !occupant.has(Flag::Begun);
    occupant.set(Flag::Begun);
    let tick = busy.tick.take();
    let early = occupant.clear(Flag::TriggeredEarly).then_some(now);
    let trigger = busy.trigger.take().or(early);
    if let Some(at) = trigger {
        let period = occupant.period();
        occupant.schedule.rephase(period, tick.filter(|_| first).unwrap_or(at));
    }
    // A trigger within the stagger waits for its end: the first step is not late from before it.
    let due = tick.filter(|_| first).or_else(|| tick.into_iter().chain(trigger).min()).unwrap_or(now);
    // Lateness is not counted from within a back-off that was meant.
    (busy.local.map_or(due, |local| due.max(local.until.min(now))), trigger.is_some())
}

/// What [`Flag::Steady`] says still holds: a step that looked would make an attempt and change nothing.
fn is_steady(occupant: &Occupant, pods: &[Option<PodEntry>], config: &Config, now: Instant) -> bool {
    let mut worker = occupant.worker.clone();
    let mut has_changed = false;
    let view =
        pods[occupant.pod as usize].as_ref().and_then(|entry| entry.view(occupant.container, config.manager_start));
    let step = worker.step(view, &occupant.spec, now, |_| has_changed = true);
    step == Step::Probe && !has_changed
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
