//! The thread `ebpf-watch`: [`Watch`] with a ring buffer, a sweep and the clock.
//!
//! It waits for the ring buffer, for messages of shards and answers of the sweep (one eventfd), and for the next look. The
//! ring buffer is read before and after everything else, and between two parts of a dump: an event reaches the listener
//! table within the time of one part.
//!
//! **Invariant:** all leases end before the program is detached, however the thread ends: a counter that nobody moves any
//! more would hold them.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use probe_core::time::Instant;
use probe_ebpf::ListenerEvent;
use tokio::sync::mpsc;

use super::counters::Drops;
use super::events::EventRing;
use super::load::{Attached, Loaded, ProgramInfo, ProgramLog};
use super::passive::{Passive, ToWatch, WatchSender};
use super::settings::PassiveSettings;
use super::stats::EbpfStats;
use super::sweep::{self, Question, SweepError, SweepHandle};
use super::watch::self_test::OwnListener;
use super::watch::{Drained, Feed, Notice, Queued, Watch};
use crate::clock;
use crate::consumer::events::{EventSender, EventType, NewEvent};
use crate::limits;
use crate::shard::inbox::{Command, ShardSender};
use crate::shard::kernel::Waker;

#[cfg(test)]
mod tests;

/// The newest kernel on which the program was seen to run to its end once begun (`trace_call_bpf`, preemption off).
pub(crate) const KERNEL_MEASURED: (u32, u32) = (6, 18);

/// setpriority(2) of the watch: it works for microseconds at a time, and what it hears is for the moment. Without
/// CAP_SYS_NICE it stays at 0, and on a node that is busy an event waits its turn (docs/PERFORMANCE.md has both).
const NICE: i32 = -10;

/// Where the watch tells what it finds.
#[derive(Debug)]
pub struct Outputs {
    /// Events on pods: `AcceptQueueFull`, `AcceptStalled`, `PassiveContradicted`.
    pub events: EventSender,
    /// By index: [`super::Target::shard`].
    pub shards: Vec<ShardSender>,
}

/// The threads could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// The sweep's.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// The listener by which the program is tested.
    #[error("no listener of our own on 127.0.0.1: {0}; is the loopback interface up?")]
    OwnListener(#[source] io::Error),
    /// The watch's.
    #[error("{call} for the watch: {source}; is the daemon out of descriptors or threads?")]
    Start {
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Both threads. Dropped, they end, and the program is detached.
#[derive(Debug)]
pub struct EbpfThreads {
    passive: Passive,
    thread: Option<JoinHandle<()>>,
}

impl EbpfThreads {
    /// For the shards.
    #[must_use]
    pub fn passive(&self) -> &Passive {
        &self.passive
    }
}

impl Drop for EbpfThreads {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        while self.passive.watch.send(ToWatch::Shutdown).is_err() && !thread.is_finished() {
            thread::yield_now();
        }
        if thread.join().is_err() {
            tracing::error!("the thread ebpf-watch panicked: a bug of probe-engine");
        }
    }
}

/// Starts both threads, in the calling thread's network namespace. `seed` spreads the ends of cut leases. Nothing is
/// answered passively before the first self-test has passed.
///
/// # Errors
/// See [`ThreadError`]; the program is detached then.
pub fn spawn(
    loaded: Loaded,
    settings: PassiveSettings,
    seed: u64,
    outputs: Outputs,
    stats: Arc<EbpfStats>,
) -> Result<EbpfThreads, ThreadError> {
    let start = |call| move |source| ThreadError::Start { call, source };
    let waker = Waker::new().map_err(start("eventfd"))?;
    let (sender, inbox) = WatchSender::new(waker.clone());
    let sweep = sweep::spawn(&settings, seed, Arc::clone(&stats), waker.clone())?;
    let own = OwnListener::new(sweep.own_cookie()).map_err(ThreadError::OwnListener)?;
    let Loaded { counters, connects, drops, events, program, log, attached, .. } = loaded;
    let passive = Passive::new(settings, Arc::clone(&counters), connects, sender);
    let now = clock::now();
    let watch = Watch::new(Arc::clone(&passive.settings), counters, Arc::clone(&stats), is_preemptible(), now);
    let body = Body {
        watch,
        feed: RingFeed { ring: events, look_again: None, drops, stats: Arc::clone(&stats) },
        program,
        log,
        sweep,
        refused: None,
        inbox,
        waker,
        own,
        outputs,
        stats,
        next_second: now,
        _attached: attached,
    };
    let thread = thread::Builder::new().name("ebpf-watch".into()).spawn(move || body.run()).map_err(start("clone"))?;
    Ok(EbpfThreads { passive, thread: Some(thread) })
}

/// What the thread holds.
struct Body {
    watch: Watch,
    feed: RingFeed,
    program: ProgramInfo,
    log: Option<ProgramLog>,
    sweep: SweepHandle,
    /// The sweep had no room for it.
    refused: Option<Question>,
    inbox: Arc<ArrayQueue<ToWatch>>,
    waker: Waker,
    own: OwnListener,
    outputs: Outputs,
    stats: Arc<EbpfStats>,
    /// When the self-test is due, and the program's counts are read.
    next_second: Instant,
    /// Dropped after `Body` has ended the leases.
    _attached: Attached,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.watch.end();
    }
}

/// What a round left behind.
enum Round {
    /// All was taken.
    Rest,
    /// There is more.
    More,
    /// The daemon ends.
    End,
}

impl Body {
    fn run(mut self) {
        // `None` is the calling thread: Linux has a priority for each.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "the watch runs at the priority of everybody");
        }
        loop {
            let now = clock::now();
            if now >= self.next_second {
                self.second(now);
            }
            let round = self.round();
            self.ask();
            self.hand_on();
            match round {
                Round::Rest => self.wait(),
                Round::More => {}
                Round::End => return,
            }
        }
    }

    /// Takes what there is, a bounded part of each.
    fn round(&mut self) -> Round {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut is_more = self.take_events() == limits::EVENTS_PER_ROUND_MAX;
        // Before the queues are looked at: what is pushed from here on wakes us again.
        self.waker.heard();
        for _ in 0..limits::SWEEP_ANSWERS_LEN_MAX {
            let Some(told) = self.sweep.told() else { break };
            self.watch.handle_told(told, clock::now());
            if !self.watch.finish_looks(&mut self.feed, clock::now()) {
                self.take_events();
            }
        }
        for _ in 0..limits::WATCH_MESSAGES_PER_ROUND_MAX {
            // The sweep wakes us with its answers; a shard that finds the inbox full meanwhile tries again.
            if !self.watch.has_room() {
                break;
            }
            match self.inbox.pop() {
                None => break,
                Some(ToWatch::Register(target)) => self.watch.register(target),
                Some(ToWatch::LetGo(target)) => self.watch.forget(&target),
                Some(ToWatch::AuditFailed { target, value, epoch }) => {
                    self.watch.handle_audit_failed(&target, value, epoch, clock::now());
                }
                Some(ToWatch::Shutdown) => return Round::End,
            }
        }
        is_more |= self.watch.has_room() && !self.inbox.is_empty();
        self.watch.handle_timeout(clock::now());
        if is_more { Round::More } else { Round::Rest }
    }

    /// How many.
    fn take_events(&mut self) -> usize {
        let (watch, feed) = (&mut self.watch, &mut self.feed);
        let taken = feed.take(limits::EVENTS_PER_ROUND_MAX, &mut |event, now| watch.handle_event(event, now));
        self.watch.handle_drops(self.feed.drops.load(), clock::now());
        taken
    }

    /// Once a second.
    fn second(&mut self, now: Instant) {
        self.next_second = now + limits::SELF_TEST_PERIOD;
        self.watch.self_test(&mut self.own, now);
        match self.program.read() {
            Ok(counts) => {
                self.stats.program_runs.store(counts.run_cnt, Relaxed);
                self.stats.program_run_ns.store(counts.run_time_ns, Relaxed);
                self.watch.handle_misses(counts.recursion_misses, now);
            }
            Err(error) => tracing::debug!(%error, "the program's counts cannot be read"),
        }
    }

    fn ask(&mut self) {
        while let Some(question) = self.refused.take().or_else(|| self.watch.poll_question()) {
            if let Err(question) = self.sweep.ask(question) {
                // It takes some, then wakes us with its answers.
                self.refused = Some(question);
                return;
            }
        }
    }

    fn hand_on(&mut self) {
        while let Some(notice) = self.watch.poll_notice() {
            let event = match notice {
                Notice::Touch(target) => {
                    let shard = self.outputs.shards.get(target.shard());
                    let refused = shard.is_some_and(|shard| shard.send(Command::Detect { target: target.id }).is_err());
                    // Its next due time is soon enough.
                    self.stats.notices_dropped.fetch_add(u64::from(refused), Relaxed);
                    continue;
                }
                Notice::AcceptQueueFull(queued) => accept_queue_full(&queued),
                Notice::AcceptStalled(queued) => accept_stalled(&queued),
                Notice::Contradicted { target, everywhere } => contradicted(&target, everywhere),
            };
            if let Err(mpsc::error::TrySendError::Full(_)) = self.outputs.events.try_send(event) {
                self.stats.notices_dropped.fetch_add(1, Relaxed);
            }
        }
    }

    fn wait(&self) {
        let due = self.watch.poll_timeout().min(self.next_second);
        let wait = clock::until(self.feed.look_again.map_or(due, |look| look.min(due)));
        let mut fds = vec![
            PollFd::new(self.waker.fd().as_fd(), PollFlags::POLLIN),
            PollFd::new(self.feed.ring.fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.log.as_ref().map(|log| PollFd::new(log.fd(), PollFlags::POLLIN)));
        // EINTR, and whatever else: the round looks at everything anyway.
        if ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None).is_ok() && fds[0].any().unwrap_or_default() {
            // It is readable, so this does not block.
            let _ = self.waker.fd().read();
        }
    }
}

/// The ring buffer, as the watch drains it.
struct RingFeed {
    ring: EventRing,
    /// What comes so soon after the records that were taken last wakes nobody.
    look_again: Option<Instant>,
    drops: Arc<Drops>,
    stats: Arc<EbpfStats>,
}

impl RingFeed {
    fn take(&mut self, max: usize, each: &mut dyn FnMut(&ListenerEvent, Instant)) -> usize {
        let stats = &self.stats;
        let taken = self.ring.drain(max, |event| {
            let now = clock::now();
            each(&event, now);
            stats.event_lag.record((now - Instant::from_nanos(event.time_ns)).as_nanos() as u64);
        });
        let now = clock::now();
        if taken > 0 {
            self.look_again = Some(now + Duration::from_nanos(probe_ebpf::WAKE_PAUSE_NS));
        } else if self.look_again.is_some_and(|look| look <= now) {
            self.look_again = None;
        }
        taken
    }

    /// There is a record that was not read: a new one, or one that a processor has begun and not submitted. Those behind
    /// it cannot be read before it.
    fn has_more(&self) -> bool {
        !self.ring.is_empty()
    }
}

impl Feed for RingFeed {
    fn drain(&mut self, each: &mut dyn FnMut(&ListenerEvent)) -> Drained {
        // As many as there can have been at the beginning; what comes after that is not asked for.
        let mut left = limits::EVENT_RING_BYTES as usize / size_of::<ListenerEvent>();
        let give_up = clock::now() + limits::RECORD_WAIT_MAX;
        let is_empty = loop {
            let taken = self.take(left, &mut |event, _| each(event));
            left -= taken;
            if left == 0 || !self.has_more() {
                break true;
            }
            if taken == 0 {
                if clock::now() >= give_up {
                    break false;
                }
                thread::yield_now();
            }
        };
        Drained { is_empty, drops: self.drops.load() }
    }
}

fn accept_queue_full(queued: &Queued) -> NewEvent {
    let Queued { listener, len, max, .. } = queued;
    let message = format!("Accept queue full: {len} connections wait at {listener}, whose backlog is {max}");
    event(&queued.target, "AcceptQueueFull", message)
}

fn accept_stalled(queued: &Queued) -> NewEvent {
    let Queued { listener, len, max, .. } = queued;
    let message = format!("Accept stalled: {len} connections wait at {listener} (backlog {max}), and none is accepted");
    event(&queued.target, "AcceptStalled", message)
}

fn contradicted(target: &super::Target, everywhere: bool) -> NewEvent {
    let whose =
        if everywhere { "all tcpSocket probes of the node" } else { "tcpSocket probes of its network namespace" };
    let message = format!(
        "A connect to {} failed though the kernel reported no change of its listeners: {whose} connect for real again",
        target.addr()
    );
    event(target, "PassiveContradicted", message)
}

fn event(target: &super::Target, reason: &'static str, message: String) -> NewEvent {
    NewEvent {
        pod: Arc::clone(&target.pod),
        container: target.container().cloned(),
        event_type: EventType::Warning,
        reason,
        message,
        probe_type: None,
        run: 0,
        threshold: 0,
        cause: None,
        at: clock::now(),
    }
}

/// The program may be preempted, and then miss events of listeners: PREEMPT_RT, or a kernel newer than was measured.
pub(crate) fn is_preemptible() -> bool {
    let realtime = std::fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    realtime || kernel_version(&release).is_none_or(|version| version > KERNEL_MEASURED)
}

/// Major and minor.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
