//! One turn of a shard: wait, take commands, reap, judge, start, submit.
//!
//! The clock is read once for everything that is decided in a turn, and *before* the last look at the completions that
//! decisions rest on: what had completed by then has been seen when a deadline is judged.

mod answering;
mod commands;

use std::sync::Arc;
use std::time::Duration;

use probe_core::action::{Action, AttemptId, Passed, Publish, Report, Start, WorkerIndex};
use probe_core::outcome::{LocalCause, Outcome};
use probe_core::scheduler::Scheduler;
use probe_core::time::Instant;

use super::flight::{End, Flights, Landed, Launch, Look, Rules};
use super::inbox::{Inbox, PoolReply};
use super::kernel::{Completion, Kernel};
use super::lease::Leases;
use super::metrics::{HandlerKind, Occupancy, OutcomeKind, PhasesUs, ShardMetrics, is_near, micros};
use super::outbox::Outbox;
use super::pace::Pace;
use super::slot::{Current, Slots};
use super::waiting::{Lane, Waiting};
use super::{JobSink, ShardConfig};
use crate::ebpf::Why;
use crate::limits;
use crate::prober::pool::Job;
use crate::prober::{Request, http};
use crate::results::{Update, UpdateQueue};
use crate::runtime::Instance;
use answering::AtOnce;

/// How often a shard hands its counts over, and turns at least.
const METRICS_PERIOD: Duration = Duration::from_secs(1);

/// How often a turn asks for the completions of what it cancelled before it leaves them to the next one.
const CANCEL_FLUSHES_MAX: usize = 1_024;

/// How soon the next turn looks for what this one still waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Whether there is another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Go on.
    Again,
    /// The shard has shut down.
    Ended,
}

/// See [`super`].
pub struct Shard<K> {
    config: ShardConfig,
    kernel: K,
    scheduler: Scheduler,
    inbox: Inbox,
    outbox: Outbox,
    pool: Option<Box<dyn JobSink>>,
    flights: Flights,
    leases: Leases,
    waiting: Waiting,
    slots: Slots,
    /// The urgent attempt that holds the reserve descriptor.
    urgent: Option<AttemptId>,
    completions: Vec<Completion>,
    /// Due times of attempts that this turn hands to the kernel, or answered from its state: late by its end.
    reached: Vec<(HandlerKind, Instant)>,
    reached_passively: Vec<(Instant, u64)>,
    metrics: Box<ShardMetrics>,
    metrics_at: Instant,
    stuck_local: u64,
    looked_at: Instant,
    flush_failing: bool,
    /// Shutdown was asked for: the latest end of the last turn.
    ending: Option<Instant>,
}

impl<K: Kernel> Shard<K> {
    /// A shard without workers. `pool` is `None` where there is none: its attempts are then local trouble.
    #[must_use]
    pub fn new(
        config: ShardConfig,
        kernel: K,
        inbox: Inbox,
        updates: Arc<UpdateQueue>,
        pool: Option<Box<dyn JobSink>>,
        now: Instant,
    ) -> Self {
        let connects = config.passive.as_ref().ok().map(|passive| Arc::clone(&passive.connects));
        let rules = Rules { close: config.close, local_ports: config.local_ports.clone(), connects };
        let ShardConfig { index, shards, .. } = config;
        let leases = Leases::new(config.passive.clone(), index, shards, config.scheduler.seed, now);
        Self {
            scheduler: Scheduler::new(config.scheduler.clone(), now),
            config,
            kernel,
            inbox,
            outbox: Outbox::new(updates),
            pool,
            flights: Flights::new(rules),
            leases,
            waiting: Waiting::default(),
            slots: Slots::default(),
            urgent: None,
            completions: Vec::new(),
            reached: Vec::new(),
            reached_passively: Vec::new(),
            metrics: Box::default(),
            metrics_at: now + METRICS_PERIOD,
            stuck_local: 0,
            looked_at: now,
            flush_failing: false,
            ending: None,
        }
    }

    /// One turn, which waits for something to do first, for a second at most. `clock` is read before the wait, once
    /// after it for all that is decided, and at the end.
    pub fn turn(&mut self, clock: &mut dyn FnMut() -> Instant) -> Turn {
        let wait = self.wait(clock());
        self.flush(wait);
        let now = clock();
        self.take_commands(now);
        self.take_replies(now);
        let look = self.reap(now, clock);
        let now = look.now;
        if let Some(latest) = self.ending {
            return self.wind_up(now, latest);
        }
        self.flights.judge(&mut self.kernel, look);
        self.reap_cancelled(now, clock);
        self.settle(now);
        if self.urgent.is_none() {
            // Before anything else can take the descriptor.
            self.kernel.restore_reserve();
        }
        self.start_due(now);
        if self.flights.has_launched() {
            self.flush(None);
        }
        let end = clock();
        self.flights.submitted(end - now);
        self.count_lateness(end);
        self.metrics.turned(end - now);
        self.outbox.flush();
        if end >= self.metrics_at {
            self.tell_metrics(end);
        }
        Turn::Again
    }

    /// The kernel, for tests that look at what became of it.
    #[must_use]
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// The scheduler, to look at.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Attempts in flight on the ring.
    #[must_use]
    pub fn flights_len(&self) -> usize {
        self.flights.len()
    }

    /// Attempts that are due and have no place.
    #[must_use]
    pub fn waiting_len(&self) -> usize {
        self.waiting.attempts_len()
    }

    /// Whether it may be left alone, and until when. A pool's reply that wakes nobody is of an attempt that is under way here.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let attempts = self.slots.attempts().used > 0 || !self.flights.is_empty() || self.waiting.attempts_len() > 0;
        if attempts || self.outbox.is_waiting() || !self.inbox.is_empty() || self.ending.is_some() {
            return Pace::UnderWay;
        }
        self.scheduler.poll_timeout().map_or(Pace::Idle, Pace::Until)
    }

    /// How long there is nothing to do; `None` = there is something now.
    fn wait(&self, now: Instant) -> Option<Duration> {
        if !self.completions.is_empty() || !self.inbox.is_empty() || self.may_start() {
            return None;
        }
        let again = self.ending.is_some() || self.flights.cancelling() > 0;
        let times = [
            Some(self.metrics_at).filter(|_| self.ending.is_none()),
            self.scheduler.poll_timeout().filter(|_| self.ending.is_none()),
            self.flights.poll_timeout(),
            again.then(|| now + LOOK_AGAIN),
            (self.outbox.is_waiting() || !self.waiting.is_pool_empty()).then(|| now + limits::POOL_RETRY),
        ];
        let next = times.into_iter().flatten().min()?;
        (next > now && self.inbox.may_sleep_until(next)).then(|| next - now)
    }

    /// An attempt waits that has a place: the turn before had started as many as it may.
    fn may_start(&self) -> bool {
        let http_allowed = self.flights.http_len() < limits::HTTP_FLIGHTS_PER_SHARD_MAX;
        let ring = self.flights.len() < self.config.flights_max && self.waiting.has_ring(http_allowed);
        ring || (self.urgent.is_none() && self.waiting.has_urgent())
    }

    fn flush(&mut self, wait: Option<Duration>) {
        match self.kernel.flush(wait, &mut self.completions) {
            Ok(()) => self.flush_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.flush_failing, true) {
                    tracing::error!(shard = self.config.index, kernel = self.kernel.name(), %error, "the shard's I/O fails");
                }
                // Not a busy loop while it does.
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }

    fn take_replies(&mut self, now: Instant) {
        while let Some(reply) = self.inbox.pop_reply() {
            match reply {
                PoolReply::Started { attempt, at } => self.started(attempt, at.min(now)),
                PoolReply::Done { attempt, outcome, latency_ns, phases } => {
                    let Some(current) = self.end_current(attempt) else { continue };
                    self.answered(attempt, &current, &outcome, Err(Why::NotShown), now);
                    // An attempt that began here took as long as both of its parts.
                    let began = current.began.filter(|_| current.redirected);
                    let latency = began.map_or(Duration::from_nanos(latency_ns), |began| now - began);
                    if began.is_none() {
                        self.count_phases(attempt, &outcome, phases);
                    }
                    self.count_of_probe(attempt, &outcome, latency, current.lateness(), now);
                    self.outcome(attempt, outcome, latency, now);
                }
            }
        }
    }

    /// Takes completions on until there are none; what they lead to is submitted as it comes. `now`: the clock after the
    /// last flush. It is read again after each further one that gave something, since our thread may have been held up in
    /// any of them. Returns the look that nothing is left of.
    fn reap(&mut self, mut now: Instant, clock: &mut dyn FnMut() -> Instant) -> Look {
        let before = self.looked_at;
        loop {
            let mut completions = std::mem::take(&mut self.completions);
            for completion in completions.drain(..) {
                self.flights.complete(&mut self.kernel, completion, Look { now, before });
            }
            // The same memory again.
            self.completions = completions;
            self.flush(None);
            if self.completions.is_empty() {
                self.looked_at = now;
                return Look { now, before };
            }
            now = clock();
        }
    }

    /// A cancelled connect holds its socket until its completion was reaped: not later than this turn.
    fn reap_cancelled(&mut self, mut now: Instant, clock: &mut dyn FnMut() -> Instant) {
        for _ in 0..CANCEL_FLUSHES_MAX {
            if self.flights.cancelling() == 0 {
                break;
            }
            now = self.reap(now, clock).now;
        }
    }

    /// Carries out what the core asks for and tells it what ended, until neither has more.
    fn settle(&mut self, now: Instant) {
        loop {
            while let Some(landed) = self.flights.poll_landed() {
                self.land(landed, now);
            }
            match self.scheduler.poll_action() {
                Some(action) => self.act(action, now),
                None => return,
            }
        }
    }

    fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Start(_) if self.ending.is_some() => {}
            Action::Start(start) => self.admit(start, now),
            Action::Publish(publish) => self.publish(publish),
            Action::Report(report) => self.report(report),
            Action::Passed(passed) => self.passed(&passed),
            Action::LocalTooLong(told) => {
                if let Some(slot) = self.slots.find_mut(told.worker) {
                    slot.stuck = true;
                    self.stuck_local += 1;
                }
                self.outbox.report(Update::LocalTooLong(told));
            }
            Action::Missed { worker, count, period } => self.missed(worker, count, period),
            Action::WorkerEnded { worker } => {
                if let Some(slot) = self.slots.remove(worker) {
                    self.stuck_local -= u64::from(slot.stuck);
                    slot.lease.into_iter().for_each(|lease| self.leases.let_go(lease));
                    slot.stats.end();
                }
            }
        }
    }

    /// What waited goes first, then what is due now, a bounded number of both.
    fn start_due(&mut self, now: Instant) {
        let mut left = limits::STARTS_PER_TURN_MAX;
        if self.urgent.is_none()
            && let Some(start) = self.waiting.pop_urgent()
        {
            left -= 1;
            self.launch_urgent(start, now);
        }
        while left > 0 && self.flights.len() < self.config.flights_max {
            let http_allowed = self.flights.http_len() < limits::HTTP_FLIGHTS_PER_SHARD_MAX;
            let Some(start) = self.waiting.pop_ring(http_allowed) else { break };
            left -= 1;
            self.launch(start, now);
        }
        for handler in HandlerKind::ALL {
            while left > 0
                && let Some(job) = self.waiting.pop_pool(handler)
            {
                left -= 1;
                if let Err(job) = self.submit(job, now) {
                    self.waiting.unpop_pool(*job);
                    break;
                }
            }
        }
        // What is answered passively takes no place: it has a bound of its own.
        let mut passive_left = limits::PASSIVE_PER_TURN_MAX;
        while passive_left > 0 {
            let mut at_once = AtOnce {
                slots: &mut self.slots,
                leases: &mut self.leases,
                counts: &mut self.metrics.passive,
                reached: &mut self.reached_passively,
                stuck_local: &mut self.stuck_local,
                left: &mut passive_left,
                now,
            };
            let started = self.scheduler.handle_timeout_with(now, left, &mut at_once);
            let passive = self.metrics.passive.passive;
            self.settle(now);
            let answered = (self.metrics.passive.passive - passive) as usize;
            // What came due again meanwhile has time until the next turn.
            if answered == 0 || started < left {
                break;
            }
            left -= started.saturating_sub(answered).min(left);
            passive_left -= answered.min(passive_left);
        }
    }

    /// The scheduler asks for an attempt: it gets a place, or waits for one.
    fn admit(&mut self, start: Start, now: Instant) {
        let attempt = start.attempt;
        let Some(slot) = self.slots.find(attempt.worker) else { return };
        let (lane, handler) = (slot.lane, slot.handler());
        let why = match lane {
            Lane::Ring => match self.answer_passively(start, now) {
                Ok(()) => return,
                Err(why) => why,
            },
            _ => None,
        };
        self.slots.begin(start, why);
        if let Lane::Pool(_) = lane {
            let Some(job) = self.job(attempt, handler) else { return };
            if self.waiting.is_lane_empty(lane) {
                if let Err(job) = self.submit(job, now) {
                    self.wait_for_pool(*job);
                }
            } else {
                self.wait_for_pool(job);
            }
            return;
        }
        if start.urgent {
            return self.waiting.push_urgent(start);
        }
        let is_http = lane == Lane::RingHttp;
        let full = self.flights.len() >= self.config.flights_max
            || (is_http && self.flights.http_len() >= limits::HTTP_FLIGHTS_PER_SHARD_MAX);
        if full || !self.waiting.is_lane_empty(lane) {
            self.metrics.rescheduled[handler.index()] += 1;
            self.waiting.push_ring(start, is_http);
        } else {
            self.launch(start, now);
        }
    }

    fn launch(&mut self, start: Start, now: Instant) {
        let attempt = start.attempt;
        // Overtaken: the worker ended while its attempt waited, and another has its place.
        if self.slots.current(attempt).is_none() {
            return;
        }
        let Some(target) = self.scheduler.target(attempt.worker) else { return };
        let timeout = target.spec.timeout();
        let Some(errand) = self.slots.errand(attempt.worker, target.spec, target.pod_ip) else { return };
        let errand = match errand {
            Ok(errand) => errand,
            Err(outcome) => {
                self.started(attempt, now);
                self.end_current(attempt);
                return self.outcome(attempt, outcome, Duration::ZERO, now);
            }
        };
        match errand.addr() {
            Some(peer) => {
                self.launched(attempt, now);
                let witness = self.take_off(attempt, peer);
                self.flights.start(&mut self.kernel, Launch { attempt, errand, peer, timeout, witness }, now);
            }
            // A name after all (an address with a zone, say): whoever resolves names makes the attempt.
            None => {
                let Some(slot) = self.slots.find_mut(attempt.worker) else { return };
                let handler = slot.handler();
                slot.lane = Lane::Pool(handler);
                if let Some(job) = self.job(attempt, handler)
                    && let Err(job) = self.submit(job, now)
                {
                    self.wait_for_pool(*job);
                }
            }
        }
    }

    /// With the descriptor that is kept for this; nothing else is urgent until it ended.
    fn launch_urgent(&mut self, start: Start, now: Instant) {
        self.urgent = Some(start.attempt);
        self.kernel.release_reserve();
        self.launch(start, now);
        if self.slots.current(start.attempt).is_none() {
            self.urgent = None;
        }
        self.settle(now);
    }

    /// The attempt left every queue at `at`: it is being made, or is over.
    fn started(&mut self, attempt: AttemptId, at: Instant) {
        if let Some((handler, due)) = self.begin(attempt, at) {
            self.metrics.started(handler, at - due);
        }
    }

    /// The same of one that reaches the kernel at the end of this turn.
    fn launched(&mut self, attempt: AttemptId, at: Instant) {
        let reached = self.begin(attempt, at);
        self.reached.extend(reached);
    }

    /// Since when it was due; `None` for what has begun before, and for a further try of the same call, which is as late as
    /// the tries before it took.
    fn begin(&mut self, attempt: AttemptId, at: Instant) -> Option<(HandlerKind, Instant)> {
        let handler = self.slots.find(attempt.worker)?.handler();
        let current = self.slots.current(attempt).filter(|current| current.began.is_none())?;
        current.began = Some(at);
        let due = (current.start.retry == 0).then_some((handler, current.start.due));
        self.scheduler.handle_started(attempt, at);
        due
    }

    fn count_lateness(&mut self, at: Instant) {
        for (handler, due) in self.reached.drain(..) {
            self.metrics.started(handler, at - due);
        }
        for (due, count) in self.reached_passively.drain(..) {
            self.metrics.started_n(HandlerKind::Tcp, at - due, count);
        }
    }

    /// Nobody was late for them: they count with the whole distance to the next due time.
    fn missed(&mut self, worker: WorkerIndex, count: u32, period: Duration) {
        let Some(slot) = self.slots.find(worker) else { return };
        self.metrics.missed += u64::from(count);
        self.metrics.started_n(slot.handler(), period, count.into());
    }

    fn land(&mut self, landed: Landed, now: Instant) {
        let Landed { attempt, errand, started, phases, end, taken } = landed;
        tracing::trace!(?attempt, ?phases, ?end, "attempt ended");
        // Another worker may be in the place of the one that it was for.
        let is_current = self.slots.current(attempt).is_some();
        if is_current {
            if let (Some(took), Some(slot)) = (phases.handshake, self.slots.find(attempt.worker)) {
                self.metrics.handshake(slot.handler(), took);
            }
            self.slots.keep(attempt.worker, errand);
        }
        match end {
            End::Outcome(outcome) => {
                let current = self.end_current(attempt);
                if let Some(current) = &current {
                    self.answered(attempt, current, &outcome, taken, now);
                }
                // Where there is nothing but a handshake, the kernel may know better than we how long it took.
                let is_tcp = self.slots.find(attempt.worker).is_some_and(|slot| slot.handler() == HandlerKind::Tcp);
                let latency = phases.connect.filter(|_| is_tcp).unwrap_or(phases.total);
                if is_current && !is_tcp {
                    self.count_phases(attempt, &outcome, PhasesUs::from(&phases));
                }
                if is_current {
                    let lateness = current.and_then(|current| current.lateness());
                    self.count_of_probe(attempt, &outcome, latency, lateness, now);
                }
                self.outcome(attempt, outcome, latency, now);
            }
            End::Redirect(target) => self.redirect(attempt, started, target, now),
        }
    }

    /// The pool follows it, within the same deadline.
    fn redirect(&mut self, attempt: AttemptId, started: Instant, target: http::Target, now: Instant) {
        let Some(handler) = self.slots.find(attempt.worker).map(|slot| slot.handler()) else { return };
        if let Some(current) = self.slots.current(attempt) {
            current.redirected = true;
        }
        let Some(job) = self.job(attempt, handler) else { return };
        let job = Job { deadline_from: Some(started), resume: Some(target), requests_made: 1, ..job };
        if !self.waiting.is_lane_empty(Lane::Pool(handler)) {
            return self.wait_for_pool(job);
        }
        if let Err(job) = self.submit(job, now) {
            self.wait_for_pool(*job);
        }
    }

    /// `None` where the worker has ended.
    fn job(&self, attempt: AttemptId, handler: HandlerKind) -> Option<Job> {
        let target = self.scheduler.target(attempt.worker)?;
        let label = format!("{}/{}:{}", target.pod.namespace, target.pod.name, target.container);
        let request = Request {
            spec: Arc::clone(target.spec),
            pod_ip: target.pod_ip,
            instance: Some(Instance {
                pod: target.pod.uid.clone(),
                container: target.container.clone(),
                id: target.container_id.clone(),
            }),
            label: label.into(),
        };
        let shard = self.config.index;
        Some(Job { shard, attempt, handler, request, deadline_from: None, resume: None, requests_made: 0 })
    }

    /// Gives the job back (boxed: it is rare) where the pool has no place for it. One that nobody waits for any more, or
    /// whose deadline passed while it waited for a place, is done with.
    fn submit(&mut self, job: Job, now: Instant) -> Result<(), Box<Job>> {
        let attempt = job.attempt;
        if self.slots.current(attempt).is_none() {
            return Ok(());
        }
        let expired = job.deadline_from.is_some_and(|from| from + job.request.spec.timeout() <= now);
        match &self.pool {
            Some(pool) if !expired => pool.try_submit(job).map_err(Box::new),
            // Waiting for our own pool is no fault of the target's.
            _ => {
                self.started(attempt, now);
                self.end_current(attempt);
                self.outcome(attempt, Outcome::Local(LocalCause::Pool), Duration::ZERO, now);
                Ok(())
            }
        }
    }

    fn wait_for_pool(&mut self, job: Job) {
        self.metrics.rescheduled[job.handler.index()] += 1;
        self.waiting.push_pool(job);
    }

    /// The attempt is no longer its worker's current one; `None` for a stale one.
    fn end_current(&mut self, attempt: AttemptId) -> Option<Current> {
        if self.urgent == Some(attempt) {
            self.urgent = None;
        }
        self.slots.end(attempt)
    }

    fn outcome(&mut self, attempt: AttemptId, outcome: Outcome, latency: Duration, now: Instant) {
        if let Some(slot) = self.slots.find(attempt.worker) {
            self.metrics.attempt(slot.handler(), &outcome, latency);
        }
        self.scheduler.handle_outcome(attempt, outcome, now);
    }

    /// What is kept of single probes, of an attempt that its worker still waits for.
    fn count_of_probe(
        &mut self,
        attempt: AttemptId,
        outcome: &Outcome,
        latency: Duration,
        lateness: Option<Duration>,
        now: Instant,
    ) {
        let Some(slot) = self.slots.find(attempt.worker) else { return };
        if let Some(token) = slot.stats.detail() {
            let told = Update::Attempt {
                token,
                outcome: OutcomeKind::of(outcome),
                latency_us: micros(latency) as u32,
                lateness_us: lateness.map(|lateness| micros(lateness) as u32),
            };
            self.metrics.details_dropped += u64::from(!self.outbox.tell(told));
        }
        if latency >= limits::NEAR_MIN && matches!(outcome, Outcome::Success(_) | Outcome::Warning(_)) {
            let target = self.scheduler.target(attempt.worker);
            if target.is_some_and(|target| is_near(latency, target.spec.timeout())) {
                self.metrics.near[slot.handler().index()] += 1;
                slot.stats.note_near(now.as_nanos());
            }
        }
    }

    /// Of what succeeded: where it failed, the last phase is the one that it failed in.
    fn count_phases(&mut self, attempt: AttemptId, outcome: &Outcome, phases: PhasesUs) {
        if let Some(slot) = self.slots.find(attempt.worker)
            && matches!(outcome, Outcome::Success(_) | Outcome::Warning(_))
        {
            self.metrics.phases(slot.handler(), phases);
        }
    }

    fn publish(&mut self, publish: Publish) {
        self.note_due(publish.worker);
        self.outbox.publish(publish);
    }

    fn report(&mut self, mut report: Report) {
        let counted = matches!(report.outcome, Outcome::Success(_) | Outcome::Warning(_) | Outcome::Failure(_));
        self.note_due(report.worker);
        if let Some(slot) = self.slots.find_mut(report.worker) {
            if counted {
                slot.record(&report);
            }
            if !matches!(report.outcome, Outcome::Local(_)) {
                self.stuck_local -= slot.unstick();
            }
        }
        cut(&mut report.outcome);
        self.outbox.report(Update::Report(report));
    }

    /// A success of which there is nothing to tell.
    fn passed(&mut self, passed: &Passed) {
        self.note_due(passed.worker);
        if let Some(slot) = self.slots.find_mut(passed.worker) {
            slot.record_passed(passed);
            self.stuck_local -= slot.unstick();
        }
    }

    fn note_due(&mut self, worker: WorkerIndex) {
        let due = self.scheduler.next_due(worker);
        if let Some(slot) = self.slots.find(worker) {
            slot.stats.set_due(due.map_or(0, Instant::as_nanos));
        }
    }

    fn tell_metrics(&mut self, now: Instant) {
        // On a grid, so that two readings whole seconds apart have the same delay.
        self.metrics_at = (self.metrics_at + METRICS_PERIOD).max(now);
        self.flights.sample_handshakes(limits::HANDSHAKE_SAMPLES_MAX);
        self.metrics.reports_dropped += self.outbox.take_dropped();
        self.metrics.in_flight = self.flights.len() as u64;
        self.metrics.workers = self.scheduler.workers_len() as u64;
        let workers = Occupancy { used: self.metrics.workers, places: self.scheduler.places_len() as u64 };
        self.metrics.slabs = [self.slots.attempts(), self.leases.occupancy(), workers];
        self.metrics.stuck_local = self.stuck_local;
        self.leases.count(now, &mut self.metrics.passive);
        let next = self.outbox.spare_metrics();
        let metrics = std::mem::replace(&mut self.metrics, next);
        if let Err(Update::Metrics(metrics)) = self.outbox.offer(Update::Metrics(metrics)) {
            // No place for it: it goes on counting.
            self.metrics = metrics;
        }
    }

    fn begin_end(&mut self, now: Instant) {
        if self.ending.is_none() {
            self.ending = Some(now + limits::SHARD_SHUTDOWN_MAX);
            self.waiting.clear();
            self.flights.cancel_all(&mut self.kernel);
        }
    }

    /// Shutdown: sockets are closed when their last completions came, then the updates that are left go out.
    fn wind_up(&mut self, now: Instant, latest: Instant) -> Turn {
        self.settle(now);
        let late = now >= latest;
        let landed = self.flights.is_empty() && self.kernel.pending() == 0;
        if !landed && !late {
            return Turn::Again;
        }
        let told = self.outbox.flush();
        if told {
            self.tell_metrics(now);
        }
        let shard = self.config.index;
        if told && self.outbox.offer(Update::ShardEnded { shard }).is_ok() {
            return Turn::Ended;
        }
        if late {
            tracing::warn!(shard, in_flight = self.flights.len(), "shard ended without telling all it knew");
            return Turn::Ended;
        }
        Turn::Again
    }
}

/// Nobody behind the shard shows more than this of a text; 10 KiB each would fill the queue's memory.
fn cut(outcome: &mut Outcome) {
    let (Outcome::Success(text) | Outcome::Warning(text) | Outcome::Failure(text) | Outcome::Error(text)) = outcome
    else {
        return;
    };
    if text.len() > limits::MESSAGE_BYTES_MAX {
        let end = text.floor_char_boundary(limits::MESSAGE_BYTES_MAX);
        *text = text[..end].into();
    }
}
