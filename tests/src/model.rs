//! The reference model: what the kubelet's prober does with one pod, written as plainly as its rules read.
//!
//! It shares data types with the core (names, specs, statuses) and no logic: no wheel, no slab, no queue, every question
//! answered by looking at everything. Numbers in comments are the steps and sections of the specification.
//!
//! Where Go leaves a choice (`select` over a tick and a trigger that are both there), the model takes the one that the
//! engine documents: one step answers both, and the trigger sets the grid.

use std::collections::BTreeMap;

use probe_core::id::{ContainerId, ProbeType};
use probe_core::outcome::Verdict;
use probe_core::spec::{ContainerKind, Pod, RestartPolicy};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use probe_core::time::Instant;

/// What a worker is known by here: position among the probed containers, and type.
pub type Key = (usize, ProbeType);

/// One thing that a worker did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It asks for an attempt: how many tries of this call came before.
    Attempt(u8),
    /// Its stored verdict changed.
    Stored(ContainerId, Option<Verdict>),
    /// A call ended: run and threshold, or `None` where it was discarded.
    Called(Option<(u32, u32)>),
    /// It left.
    Left,
}

/// How an attempt ended, as far as thresholds care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Success or warning.
    Pass,
    /// Failure.
    Fail,
    /// An error: tried again, then discarded.
    Error,
}

#[derive(Clone, Debug)]
struct Worker {
    key: Key,
    /// Who goes first among workers due at the same time.
    rank: u32,
    period_ns: u64,
    next_tick: u64,
    tick: Option<u64>,
    trigger: Option<u64>,
    /// Tries of the call that is being made.
    attempt: Option<u8>,
    stopping: bool,
    id: Option<ContainerId>,
    last: Verdict,
    run: u32,
    hold: bool,
    /// Nothing that was due before leads to an attempt; 0 = it is not paused.
    paused_until: u64,
}

/// One pod and its workers.
#[derive(Clone, Debug)]
pub struct Model {
    pod: Pod,
    workers: Vec<Worker>,
    /// The results stores: three maps from container ID to result.
    results: BTreeMap<(ProbeType, ContainerId), Verdict>,
    /// The cached pod status, and `started` per probed container as of its last generation.
    status: Option<PodStatus>,
    started: Vec<Option<bool>>,
    /// What each worker did, in order.
    pub notes: BTreeMap<Key, Vec<Note>>,
    /// Due times that got no step of their own.
    pub missed: BTreeMap<Key, u64>,
}

impl Model {
    /// A pod without workers.
    #[must_use]
    pub fn new(pod: Pod) -> Self {
        let started = pod.probed_containers().map(|_| None).collect();
        Self {
            pod,
            workers: Vec::new(),
            results: BTreeMap::new(),
            status: None,
            started,
            notes: BTreeMap::new(),
            missed: BTreeMap::new(),
        }
    }

    /// 2.1: a worker was made; its first step is due now.
    pub fn made(&mut self, key: Key, rank: u32, now: Instant) {
        let spec = self.spec(key);
        let period_ns = u64::from(spec.period_seconds) * 1_000_000_000;
        self.workers.push(Worker {
            key,
            rank,
            period_ns,
            next_tick: on_grid(now.as_nanos() + period_ns),
            tick: Some(now.as_nanos()),
            trigger: None,
            attempt: None,
            stopping: false,
            id: None,
            last: Verdict::Success,
            run: 0,
            hold: false,
            paused_until: 0,
        });
    }

    /// A newer status of the pod.
    pub fn status(&mut self, status: PodStatus, now: Instant) {
        let id = |status: Option<&PodStatus>, name| status.and_then(|s| s.container(name)).and_then(|c| c.id.clone());
        for (index, container) in self.pod.probed_containers().enumerate() {
            if id(self.status.as_ref(), &container.name) != id(Some(&status), &container.name) {
                self.started[index] = None;
            }
        }
        self.status = Some(status);
        self.generate(None, now);
    }

    /// A trigger from outside.
    pub fn trigger(&mut self, key: Key, now: Instant) {
        let now = now.as_nanos();
        let is_it = |worker: &&mut Worker| worker.key == key && !worker.stopping && worker.paused_until <= now;
        for worker in self.workers.iter_mut().filter(is_it) {
            worker.trigger.get_or_insert(now);
        }
    }

    /// Our own (KUBELET.md): no attempts until then; a time that has passed ends it.
    pub fn pause(&mut self, which: impl Fn(Key) -> bool, until: Instant, now: Instant) {
        for worker in self.workers.iter_mut().filter(|worker| which(worker.key) && !worker.stopping) {
            worker.paused_until = if until > now { until.as_nanos() } else { 0 };
            if until > now {
                worker.trigger = None;
            }
        }
    }

    /// 2.9: workers told to stop leave between steps; one whose attempt is in flight finishes it.
    pub fn stop(&mut self, which: impl Fn(ProbeType) -> bool) {
        let keys: Vec<Key> = self.workers.iter().map(|worker| worker.key).filter(|key| which(key.1)).collect();
        for key in keys {
            let at = self.at(key);
            if self.workers[at].attempt.is_some() {
                self.workers[at].stopping = true;
            } else {
                self.leave(key);
            }
        }
    }

    /// Time passes: ticks fall into tickers that hold one, and every worker that can step does.
    pub fn run(&mut self, now: Instant) {
        let now = now.as_nanos();
        for worker in self.workers.iter_mut().filter(|worker| !worker.stopping) {
            while worker.next_tick <= now {
                let is_in_pause = |tick: u64| tick < worker.paused_until;
                match worker.tick {
                    None => worker.tick = Some(worker.next_tick),
                    // Nobody waits for either.
                    Some(_) if is_in_pause(worker.next_tick) => {}
                    Some(tick) if is_in_pause(tick) => worker.tick = Some(worker.next_tick),
                    Some(_) => *self.missed.entry(worker.key).or_default() += 1,
                }
                worker.next_tick += worker.period_ns;
            }
        }
        let due = |worker: &&Worker| worker.attempt.is_none() && (worker.tick.is_some() || worker.trigger.is_some());
        let first = |worker: &&Worker| (worker.tick.into_iter().chain(worker.trigger).min(), worker.rank);
        while let Some(key) = self.workers.iter().filter(due).min_by_key(first).map(|worker| worker.key) {
            self.step(key, now);
        }
    }

    /// Workers with an attempt in flight.
    #[must_use]
    pub fn attempting(&self) -> Vec<Key> {
        self.workers.iter().filter(|worker| worker.attempt.is_some()).map(|worker| worker.key).collect()
    }

    /// The attempt of this worker ended.
    pub fn answer(&mut self, key: Key, answer: Answer, now: Instant) {
        let at = self.at(key);
        let tries = self.workers[at].attempt.expect("an attempt is in flight");
        if answer == Answer::Error && tries < 2 && self.workers[at].paused_until <= now.as_nanos() {
            self.workers[at].attempt = Some(tries + 1);
            self.note(key, Note::Attempt(tries + 1));
            return;
        }
        self.workers[at].attempt = None;
        let mut changed = None;
        match answer {
            Answer::Error => self.note(key, Note::Called(None)),
            Answer::Pass => changed = self.count(key, Verdict::Success),
            Answer::Fail => changed = self.count(key, Verdict::Failure),
        }
        if self.workers[at].stopping {
            self.leave(key);
        } else if self.workers[at].trigger.is_some() {
            // It waited in the channel until now.
            self.workers[at].trigger = Some(now.as_nanos());
        }
        if changed.is_some_and(|verdict| syncs(key.1, verdict)) {
            self.generate(None, now);
        }
    }

    /// Steps 12 to 15. Gives the new stored verdict where it changed.
    fn count(&mut self, key: Key, result: Verdict) -> Option<Verdict> {
        let spec = self.spec(key);
        let threshold = if result == Verdict::Success { spec.success_threshold } else { spec.failure_threshold };
        let at = self.at(key);
        let worker = &mut self.workers[at];
        if result == worker.last {
            worker.run += 1;
        } else {
            worker.last = result;
            worker.run = 1;
        }
        let run = worker.run;
        self.note(key, Note::Called(Some((run, threshold))));
        if run < threshold {
            return None;
        }
        let changed = self.store(key, result);
        let worker = &mut self.workers[at];
        if key.1 == ProbeType::Startup || (key.1 == ProbeType::Liveness && result == Verdict::Failure) {
            worker.hold = true;
            worker.run = 0;
        }
        changed.then_some(result)
    }

    /// 2.4, steps 1 to 10.
    fn step(&mut self, key: Key, now: u64) {
        let at = self.at(key);
        if let Some(trigger) = self.workers[at].trigger {
            self.workers[at].next_tick = on_grid(trigger + self.workers[at].period_ns);
        }
        let worker = &mut self.workers[at];
        let due = worker.tick.take().into_iter().chain(worker.trigger.take()).max();
        let is_paused = due < Some(worker.paused_until);
        let mut synced = false;
        let probes = self.step_until_probe(key, now, &mut synced) && !is_paused;
        if probes {
            let at = self.at(key);
            self.workers[at].attempt = Some(0);
            self.note(key, Note::Attempt(0));
        }
        if synced {
            self.generate(probes.then_some(key), Instant::from_nanos(now));
        }
    }

    fn step_until_probe(&mut self, key: Key, now: u64, synced: &mut bool) -> bool {
        let Some(status) = self.status.clone() else { return false }; // 1
        if matches!(status.phase, PodPhase::Failed | PodPhase::Succeeded) {
            self.leave(key); // 2
            return false;
        }
        let container = self.pod.probed_containers().nth(key.0).expect("a probed container").clone();
        let Some(found) = status.container(&container.name).cloned() else { return false }; // 3
        let Some(id) = found.id.clone().filter(|id| !id.as_str().is_empty()) else { return false };
        let at = self.at(key);
        if self.workers[at].id.as_ref() != Some(&id) {
            self.forget_result(key); // 4
            self.workers[at].id = Some(id);
            self.workers[at].hold = false;
            let initial = match key.1 {
                ProbeType::Readiness => Verdict::Failure,
                ProbeType::Liveness => Verdict::Success,
                ProbeType::Startup => Verdict::Unknown,
            };
            *synced |= self.store(key, initial) && syncs(key.1, initial);
        }
        if self.workers[at].hold {
            return false; // 5
        }
        let started_at = match &found.state {
            ContainerState::Running { started_at } => *started_at,
            state => {
                *synced |= self.store(key, Verdict::Failure) && syncs(key.1, Verdict::Failure); // 6
                let sidecar = container.kind == ContainerKind::Sidecar;
                let restartable = sidecar || self.pod.restart_policy != RestartPolicy::Never;
                if matches!(state, ContainerState::Terminated(_)) && !restartable {
                    self.leave(key);
                }
                return false;
            }
        };
        if status.deleting && key.1 != ProbeType::Readiness {
            *synced |= self.store(key, Verdict::Success) && syncs(key.1, Verdict::Success); // 7
            self.leave(key);
            return false;
        }
        let age_seconds = now.saturating_sub(started_at.as_nanos()) / 1_000_000_000;
        if i128::from(age_seconds) < i128::from(self.spec(key).initial_delay_seconds) {
            return false; // 8
        }
        let started = self.started[key.0];
        match key.1 {
            ProbeType::Startup => started != Some(true), // 9
            ProbeType::Readiness | ProbeType::Liveness => started == Some(true),
        }
    }

    /// 5.1 and 2.8.
    fn generate(&mut self, except: Option<Key>, now: Instant) {
        let Some(status) = self.status.clone() else { return };
        let names: Vec<_> = self.pod.probed_containers().map(|container| container.name.clone()).collect();
        for (index, name) in names.iter().enumerate() {
            let Some(found) = status.container(name) else { continue };
            self.started[index] = Some(self.is_started(index, found));
            let ready = self.result((index, ProbeType::Readiness), found) == Some(Verdict::Success);
            let key = (index, ProbeType::Readiness);
            if self.started[index] == Some(true) && !ready && except != Some(key) {
                self.trigger(key, now);
            }
        }
    }

    fn is_started(&self, index: usize, found: &ContainerStatus) -> bool {
        let key = (index, ProbeType::Startup);
        if !matches!(found.state, ContainerState::Running { .. }) {
            return false;
        }
        if let Some(verdict) = self.result(key, found) {
            return verdict == Verdict::Success;
        }
        if self.started[index] == Some(true) {
            return true;
        }
        !self.workers.iter().any(|worker| worker.key == key)
    }

    fn result(&self, key: Key, found: &ContainerStatus) -> Option<Verdict> {
        let id = found.id.clone()?;
        // The stores are shared by all pods, but an ID names one container of one pod.
        let owner = self.workers.iter().find(|worker| worker.key == key)?;
        if owner.id.as_ref() != Some(&id) {
            return None;
        }
        self.results.get(&(key.1, id)).copied()
    }

    /// 4: set, and whether that changed anything.
    fn store(&mut self, key: Key, verdict: Verdict) -> bool {
        let id = self.workers[self.at(key)].id.clone().expect("an instance was seen");
        if self.results.insert((key.1, id.clone()), verdict) == Some(verdict) {
            return false;
        }
        self.note(key, Note::Stored(id, Some(verdict)));
        true
    }

    fn forget_result(&mut self, key: Key) {
        let Some(id) = self.workers[self.at(key)].id.clone() else { return };
        if self.results.remove(&(key.1, id.clone())).is_some() {
            self.note(key, Note::Stored(id, None));
        }
    }

    fn leave(&mut self, key: Key) {
        self.forget_result(key);
        let at = self.at(key);
        self.workers.remove(at);
        self.note(key, Note::Left);
    }

    fn spec(&self, key: Key) -> &probe_core::spec::ProbeSpec {
        let container = self.pod.probed_containers().nth(key.0).expect("a probed container");
        container.probes.by_type(key.1).expect("a probe of this type")
    }

    fn at(&self, key: Key) -> usize {
        self.workers.iter().position(|worker| worker.key == key).expect("a live worker")
    }

    fn note(&mut self, key: Key, note: Note) {
        self.notes.entry(key).or_default().push(note);
    }
}

/// 4: which updates make the kubelet sync the pod, and so generate its status.
fn syncs(probe_type: ProbeType, verdict: Verdict) -> bool {
    probe_type != ProbeType::Liveness || verdict == Verdict::Failure
}

/// Where a ticker that is made or reset would first tick (KUBELET.md: ours ticks at whole hundredths of a second).
fn on_grid(at_ns: u64) -> u64 {
    at_ns.next_multiple_of(10_000_000)
}
