//! A shard with its pods, the watch and the sweep, on the thread of the test and by its clock.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::ProbeType;
use probe_core::spec::Pod;
use probe_core::time::Instant;
use probe_engine::clock;
use probe_engine::ebpf::{Answer, PassiveSettings, Why};
use probe_engine::results::{ProbeStats, UpdateQueue};
use probe_engine::shard::inbox::{Command, ProbeSlot, ShardSender, inbox};
use probe_engine::shard::kernel::{Kernel, Waker};
use probe_engine::shard::{Shard, ShardConfig};
use tokio::sync::Notify;

use super::feed::Feed;
use super::impatient::{Connects, Impatient};
use super::pod::{CONTAINER, Times, pod, running};

/// Turns without an attempt that ends, after which those in flight are left to their deadlines.
const IDLE_TURNS_MAX: usize = 1;

/// The timing wheel's step, and more: what was due that long ago has been found.
const TICK: Duration = Duration::from_millis(2);

/// A probe of the rig.
pub struct Probe {
    /// Where it connects to.
    pub addr: SocketAddr,
    pod: Arc<Pod>,
    netns: Option<Arc<str>>,
    instance: u32,
    started_at: Instant,
    stats: Arc<ProbeStats>,
    seen: Counts,
}

/// Attempts of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// That ended in a success.
    pub successes: u64,
    /// That ended in a failure.
    pub failures: u64,
    /// Answered from kernel state.
    pub passive: u64,
    /// That made a connection.
    pub real: u64,
}

impl Counts {
    fn of(stats: &ProbeStats) -> Self {
        Self { successes: stats.successful(), failures: stats.failed(), passive: stats.passive(), real: stats.real() }
    }

    fn since(self, before: Self) -> Self {
        Self {
            successes: self.successes - before.successes,
            failures: self.failures - before.failures,
            passive: self.passive - before.passive,
            real: self.real - before.real,
        }
    }
}

/// See the module.
pub struct Rig<K> {
    /// Kernel program, watch, sweep.
    pub feed: Feed,
    /// Its probes, in the order in which they were added.
    pub probes: Vec<Probe>,
    /// Connects that the shard made.
    pub connects: Connects,
    now: Cell<Instant>,
    times: Times,
    shard: Shard<Impatient<K>>,
    sender: ShardSender,
    updates: Arc<UpdateQueue>,
}

impl<K: Kernel> Rig<K> {
    /// On the calling thread, in whose network namespace the engine then is. `kernel` makes the shard's.
    ///
    /// # Errors
    /// Why the kernel program cannot be loaded here.
    pub fn new(
        settings: PassiveSettings,
        times: Times,
        seed: u64,
        kernel: impl FnOnce(&Waker) -> K,
    ) -> Result<Self, String> {
        // On the grid of due times, as steps of whole seconds then are.
        let start = Instant::from_nanos(clock::now().as_nanos().next_multiple_of(10_000_000));
        Ok(Self::with_feed(Feed::new(settings, seed, start)?, times, seed, start, kernel))
    }

    /// The same around a feed made at `start`, which is where the test's clock begins.
    pub fn with_feed(feed: Feed, times: Times, seed: u64, start: Instant, kernel: impl FnOnce(&Waker) -> K) -> Self {
        let waker = Waker::new().expect("an eventfd");
        let (kernel, connects) = Impatient::new(kernel(&waker));
        let (sender, inbox) = inbox(waker);
        let updates = Arc::new(UpdateQueue::new(Arc::new(Notify::new())));
        // Old enough that nothing is staggered.
        let mut config = ShardConfig::new(0, seed, start.saturating_sub(Duration::from_secs(3_600)));
        config.passive = Ok(feed.passive());
        let shard = Shard::new(config, kernel, inbox, Arc::clone(&updates), None, start);
        let now = Cell::new(start);
        Self { feed, probes: Vec::new(), connects, now, times, shard, sender, updates }
    }

    /// The test's clock.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Moves the clock.
    pub fn advance(&self, by: Duration) {
        self.now.set(self.now.get() + by);
    }

    /// Moves it to this time, if that is to come.
    pub fn advance_to(&self, at: Instant) {
        self.now.set(self.now.get().max(at));
    }

    /// A pod that runs, with one probe. Its first attempt is due now.
    pub fn add(&mut self, addr: SocketAddr, netns: Option<Arc<str>>) -> usize {
        let index = self.probes.len();
        let pod = pod(&format!("pod-{index}"), addr, self.times);
        let stats = Arc::new(ProbeStats::default());
        let started_at = self.now().saturating_sub(Duration::from_secs(60));
        let slot = ProbeSlot {
            container: CONTAINER.into(),
            probe_type: ProbeType::Readiness,
            stats: Arc::clone(&stats),
            past: None,
            paused: None,
        };
        let status = running(addr, netns.clone(), 1, started_at);
        let command = Command::AddPod { pod: Arc::clone(&pod), slots: Box::new([slot]), status: Some(status) };
        self.send(command);
        let seen = Counts::default();
        self.probes.push(Probe { addr, pod, netns, instance: 1, started_at, stats, seen });
        index
    }

    /// Another instance of its container runs.
    pub fn restart(&mut self, probe: usize) {
        let now = self.now();
        let Probe { addr, pod, netns, instance, started_at, .. } = &mut self.probes[probe];
        *instance += 1;
        *started_at = now;
        let status = running(*addr, netns.clone(), *instance, now);
        let command = Command::Status { uid: pod.uid.clone(), status, remembered: Box::default() };
        self.send(command);
    }

    /// How its newest attempt was answered.
    #[must_use]
    pub fn answer(&self, probe: usize) -> Answer {
        self.probes[probe].stats.answer()
    }

    /// Its attempts since the last [`Rig::take`].
    #[must_use]
    pub fn peek(&self, probe: usize) -> Counts {
        let Probe { stats, seen, .. } = &self.probes[probe];
        Counts::of(stats).since(*seen)
    }

    /// Its attempts since the last call.
    pub fn take(&mut self, probe: usize) -> Counts {
        let counts = self.peek(probe);
        self.probes[probe].seen = Counts::of(&self.probes[probe].stats);
        counts
    }

    /// The same of all of them.
    pub fn take_all(&mut self) -> Vec<Counts> {
        (0..self.probes.len()).map(|probe| self.take(probe)).collect()
    }

    /// Attempts in flight.
    #[must_use]
    pub fn flights_len(&self) -> usize {
        self.shard.flights_len()
    }

    /// Makes the attempts that are due, and what else there is to do at this time; those that the kernel has not answered
    /// within [`super::impatient::PATIENCE`] of real time stay in flight.
    pub fn attempt(&mut self) {
        let mut idle = 0;
        let mut before = (0, u64::MAX);
        while idle <= IDLE_TURNS_MAX {
            self.turn();
            let left = self.shard.flights_len() + self.shard.waiting_len();
            if left == 0 && !self.is_due() {
                return;
            }
            let made = self.connects.borrow().values().sum();
            idle = if (left, made) == before { idle + 1 } else { 0 };
            before = (left, made);
        }
    }

    /// One period, of two seconds or more: the attempts that are due now, their deadlines, and two sweeps. `accept` is what the
    /// applications do meanwhile.
    pub fn period(&mut self, mut accept: impl FnMut()) {
        let due = self.now();
        let period = Duration::from_secs(self.times.period_seconds.into());
        let timeout = Duration::from_secs(self.times.timeout_seconds.into());
        self.attempt_due();
        accept();
        self.advance_to(due + period / 4);
        self.tend(true);
        for after in [timeout + ms(10), timeout + ms(100)] {
            self.advance_to(due + after);
            if self.flights_len() > 0 {
                self.attempt();
            }
        }
        accept();
        self.advance_to(due + period * 3 / 4);
        self.tend(true);
        self.advance_to(due + period);
    }

    /// The engine's other threads do their work; `sweeps`: a second is over.
    pub fn tend(&mut self, sweeps: bool) {
        self.watch();
        if sweeps {
            self.sweep();
        }
    }

    /// Periods until every probe has been answered from kernel state, and makes a connection only because of its lease's age.
    ///
    /// # Panics
    /// After ten of them.
    pub fn lease_all(&mut self, mut accept: impl FnMut()) {
        let is_leased = |answer| matches!(answer, Answer::Passive | Answer::Real(Why::Renewed));
        let mut were_passive = vec![false; self.probes.len()];
        for _ in 0..10 {
            self.period(&mut accept);
            for (probe, was_passive) in were_passive.iter_mut().enumerate() {
                *was_passive |= self.take(probe).passive > 0;
            }
            if (0..self.probes.len()).all(|probe| were_passive[probe] && is_leased(self.answer(probe))) {
                return;
            }
        }
        let answers: Vec<_> = (0..self.probes.len().min(40)).map(|probe| self.answer(probe).to_string()).collect();
        panic!("no passive answers after ten periods: {answers:?}");
    }

    /// The attempts of a period that begins now.
    pub fn attempt_due(&mut self) {
        if self.sender.commands_len() > 0 {
            // Of pods that were just added: their grid begins here.
            self.attempt();
        }
        self.advance(TICK);
        self.attempt();
    }

    fn is_due(&self) -> bool {
        self.shard.scheduler().poll_timeout().is_some_and(|due| due <= self.now.get())
    }

    /// One turn of the shard.
    pub fn turn(&mut self) {
        let now = &self.now;
        self.shard.turn(&mut || now.get());
        // Everything that is asked of it is in the probes' counts.
        while self.updates.pop().is_some() {}
    }

    /// The watch takes what the ring buffer and the shard have for it, and the sweep answers its questions.
    pub fn watch(&mut self) {
        self.feed.watch(self.now.get());
    }

    /// A sweep over the listeners, as once a second.
    pub fn sweep(&mut self) {
        self.feed.sweep(self.now.get());
    }

    fn send(&mut self, command: Command) {
        if let Err(command) = self.sender.send(command) {
            self.turn();
            self.sender.send(command).expect("the shard took what was in its inbox");
        }
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
