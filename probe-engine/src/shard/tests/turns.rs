//! Whole turns over the scripted kernel: starts, bounds, local trouble, the pool, shutdown.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use probe_core::outcome::{LocalCause, Outcome, Verdict};
use probe_core::spec::{Exec, Handler, ProbeSpec};
use tokio::sync::Notify;

use super::fake::{Fake, Target, World, ms};
use super::{CONTAINER, READINESS, http_get, pod, running, spec, tcp_socket};
use crate::ebpf::Why;
use crate::ebpf::passive::Passive;
use crate::limits;
use crate::prober::pool::Job;
use crate::results::{ProbeStats, Update, UpdateQueue};
use crate::shard::inbox::{Command, PoolReply, ProbeSlot, ShardSender, inbox};
use crate::shard::kernel::Waker;
use crate::shard::metrics::{HandlerKind, OutcomeKind, Phase, PhasesUs, ShardMetrics};
use crate::shard::pace::Pace;
use crate::shard::{JobSink, Shard, ShardConfig, Turn};

/// A pool that keeps the jobs, up to a number.
#[derive(Clone, Default)]
struct Pool {
    jobs: Rc<RefCell<Vec<Job>>>,
    room: Rc<Cell<usize>>,
}

impl JobSink for Pool {
    fn try_submit(&self, job: Job) -> Result<(), Job> {
        if self.room.get() == 0 {
            return Err(job);
        }
        self.room.set(self.room.get() - 1);
        self.jobs.borrow_mut().push(job);
        Ok(())
    }
}

pub(super) struct Bench {
    pub(super) world: Rc<World>,
    shard: Shard<Fake>,
    pub(super) sender: ShardSender,
    updates: Arc<UpdateQueue>,
    pool: Pool,
    told: Vec<Update>,
}

impl Bench {
    /// The manager was started long ago, so nothing is staggered.
    fn new() -> Self {
        Self::since(probe_core::time::Instant::ZERO)
    }

    /// As [`Bench::new`], with few descriptors.
    fn bounded(flights_max: usize) -> Self {
        Self::made(probe_core::time::Instant::ZERO, Err(Why::Off), flights_max)
    }

    pub(super) fn with(passive: Result<Passive, Why>) -> Self {
        Self::made(probe_core::time::Instant::ZERO, passive, limits::FLIGHTS_PER_SHARD_MAX)
    }

    fn since(manager_start: probe_core::time::Instant) -> Self {
        Self::made(manager_start, Err(Why::Off), limits::FLIGHTS_PER_SHARD_MAX)
    }

    fn made(manager_start: probe_core::time::Instant, passive: Result<Passive, Why>, flights_max: usize) -> Self {
        let world = World::new();
        let (sender, inbox) = inbox(Waker::new().expect("an eventfd"));
        let updates = Arc::new(UpdateQueue::new(Arc::new(Notify::new())));
        let pool = Pool::default();
        let mut config = ShardConfig::new(3, 1, manager_start);
        config.local_ports = 1..=1;
        config.passive = passive;
        config.flights_max = flights_max;
        let sink = Box::new(pool.clone());
        let shard = Shard::new(config, Fake::new(&world), inbox, Arc::clone(&updates), Some(sink), world.now());
        Self { world, shard, sender, updates, pool, told: Vec::new() }
    }

    fn add(&self, uid: &str, handler: Handler) -> Arc<ProbeStats> {
        self.add_spec(uid, spec(handler))
    }

    pub(super) fn add_spec(&self, uid: &str, spec: ProbeSpec) -> Arc<ProbeStats> {
        let stats = Arc::new(ProbeStats::default());
        let slot = ProbeSlot {
            container: CONTAINER.into(),
            probe_type: READINESS,
            stats: Arc::clone(&stats),
            past: None,
            paused: None,
        };
        let status = Some(running(self.world.now()));
        let command = Command::AddPod { pod: pod(uid, spec), slots: Box::new([slot]), status };
        self.sender.send(command).expect("room");
        stats
    }

    pub(super) fn turn(&mut self) -> Turn {
        let world = Rc::clone(&self.world);
        let turn = self.shard.turn(&mut || world.now());
        self.told.extend(std::iter::from_fn(|| self.updates.pop()));
        turn
    }

    /// Turns until so much time has passed.
    pub(super) fn run(&mut self, duration: std::time::Duration) {
        let end = self.world.now() + duration;
        self.world.end.set(Some(end));
        while self.world.now() < end {
            assert_eq!(self.turn(), Turn::Again);
        }
        self.world.end.set(None);
    }

    pub(super) fn verdicts(&self) -> Vec<Option<Verdict>> {
        let verdict = |update: &Update| match update {
            Update::Publish(publish) => Some(publish.verdict),
            _ => None,
        };
        self.told.iter().filter_map(verdict).collect()
    }

    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |update: &Update| match update {
            Update::Report(report) => Some(report.outcome.clone()),
            _ => None,
        };
        self.told.iter().filter_map(outcome).collect()
    }

    pub(super) fn count(&self, of: impl Fn(&ShardMetrics) -> u64) -> u64 {
        let metrics = |update: &Update| match update {
            Update::Metrics(metrics) => Some(of(metrics)),
            _ => None,
        };
        self.told.iter().filter_map(metrics).sum()
    }
}

#[test]
fn r07_a_worker_tells_its_initial_value_and_then_what_it_saw() {
    let mut bench = Bench::new();
    let stats = bench.add("pod", tcp_socket(80));
    bench.run(ms(100));
    assert_eq!(bench.verdicts(), [Some(Verdict::Failure), Some(Verdict::Success)]);
    assert_eq!(stats.successful(), 1);
    assert!(stats.due_ns() > bench.world.now().as_nanos());
}

#[test]
fn steady_successes_are_counted_and_not_told() {
    let mut bench = Bench::new();
    let stats = bench.add("pod", tcp_socket(80));
    bench.run(ms(58_000));
    assert_eq!(stats.successful(), 6);
    assert_eq!(bench.outcomes().len(), 1);
    assert_eq!(bench.count(|metrics| metrics.lateness().map(hdrhistogram::Histogram::len).sum()), 6);
}

#[test]
fn a_staggered_first_attempt_is_not_late() {
    let mut bench = Bench::since(World::new().now());
    for index in 0..50 {
        bench.add(&format!("pod-{index}"), tcp_socket(80));
    }
    bench.run(ms(15_000));
    assert!(bench.count(|metrics| metrics.lateness().map(hdrhistogram::Histogram::len).sum()) >= 50);
    let latest = |update: &Update| match update {
        Update::Metrics(metrics) => metrics.lateness().map(hdrhistogram::Histogram::max).max(),
        _ => None,
    };
    let latest_us = bench.told.iter().filter_map(latest).max();
    assert!(latest_us <= Some(2_000), "{latest_us:?} us");
}

#[test]
fn a_triggered_success_is_told() {
    let mut bench = Bench::new();
    bench.add("pod", tcp_socket(80));
    bench.run(ms(15_000));
    bench.told.clear();
    let (uid, container) = ("pod".into(), CONTAINER.into());
    bench.sender.send(Command::Trigger { uid, container, probe_type: READINESS }).expect("room");
    bench.run(ms(100));
    assert_eq!(bench.outcomes(), [Outcome::Success("".into())]);
}

#[test]
fn every_failure_is_told() {
    let mut bench = Bench::new();
    bench.world.target(80, Target { errno: Some(libc::ECONNREFUSED), ..Target::default() });
    let stats = bench.add("pod", tcp_socket(80));
    bench.run(ms(35_000));
    assert_eq!(bench.outcomes().len(), 4);
    assert_eq!(stats.failed(), 4);
    assert_eq!(stats.threshold(&super::spec(tcp_socket(80))), 3);
}

#[test]
fn a_timed_out_attempt_leaves_nothing_open() {
    let mut bench = Bench::new();
    bench.world.target(80, Target { connect: None, ..Target::default() });
    bench.add("pod", tcp_socket(80));
    bench.run(ms(900));
    assert_eq!(bench.world.open.get(), 1);
    bench.run(ms(200));
    assert_eq!((bench.world.open.get(), bench.shard.flights_len()), (0, 0));
    assert!(matches!(bench.outcomes().as_slice(), [Outcome::Failure(_)]));
}

#[test]
fn local_trouble_is_never_a_verdict_and_the_reserve_ends_it() {
    let mut bench = Bench::new();
    bench.world.socket_errno.set(Some(libc::EMFILE));
    let stats = bench.add("pod", tcp_socket(80));
    bench.run(ms(20_000));
    assert_eq!(bench.verdicts(), [Some(Verdict::Failure)], "the initial value alone");
    assert!(bench.outcomes().iter().all(|outcome| *outcome == Outcome::Local(LocalCause::ProcessFiles)));
    assert!(bench.count(|metrics| metrics.local[LocalCause::ProcessFiles as usize]) > 3);
    assert_eq!(bench.world.opened.get(), 0);
    bench.run(ms(60_000));
    assert!(bench.told.iter().any(|update| matches!(update, Update::LocalTooLong(_))));
    assert_eq!(bench.verdicts().last(), Some(&Some(Verdict::Success)), "by the reserve");
    assert!(stats.successful() > 0);
    assert_eq!(stats.failed(), 0);
    assert!(!bench.world.reserve_given.get());
}

#[test]
fn more_attempts_than_places_wait_in_due_order_and_all_are_made() {
    let flights_max = 1_000;
    let mut bench = Bench::bounded(flights_max);
    let pods = flights_max + 500;
    bench.world.target(80, Target { connect: Some(ms(500)), ..Target::default() });
    for index in 0..pods {
        while bench.sender.commands_len() >= limits::SHARD_INBOX_LEN_MAX {
            bench.turn();
        }
        bench.add(&format!("pod-{index}"), tcp_socket(80));
    }
    let mut most = 0;
    while bench.world.opened.get() < pods {
        bench.turn();
        most = most.max(bench.shard.flights_len());
        assert!(bench.shard.flights_len() <= flights_max);
    }
    assert_eq!(most, flights_max);
    bench.run(ms(2_000));
    assert_eq!(bench.shard.waiting_len(), 0);
    assert_eq!(bench.count(|metrics| metrics.rescheduled[0]), 500);
}

#[test]
fn http_attempts_have_a_bound_of_their_own() {
    let mut bench = Bench::new();
    bench.world.target(80, Target { connect: Some(ms(500)), ..Target::default() });
    for index in 0..limits::HTTP_FLIGHTS_PER_SHARD_MAX + 10 {
        bench.add(&format!("pod-{index}"), http_get(80, "/"));
    }
    bench.add("tcp", tcp_socket(81));
    while bench.sender.commands_len() > 0 || bench.shard.flights_len() < limits::HTTP_FLIGHTS_PER_SHARD_MAX {
        bench.turn();
    }
    bench.run(ms(20));
    assert_eq!(bench.shard.flights_len(), limits::HTTP_FLIGHTS_PER_SHARD_MAX);
    assert_eq!(bench.shard.waiting_len(), 10);
    assert!(bench.verdicts().contains(&Some(Verdict::Success)), "tcpSocket does not wait behind them");
}

fn exec() -> Handler {
    Handler::Exec(Exec { command: Box::new(["true".into()]) })
}

#[test]
fn a_full_pool_makes_attempts_wait_and_misses_their_due_times() {
    let mut bench = Bench::new();
    bench.add("pod", exec());
    bench.run(ms(25_000));
    assert_eq!(bench.count(|metrics| metrics.rescheduled[4]), 1);
    assert_eq!(bench.count(|metrics| metrics.missed), 2);
    assert_eq!(bench.outcomes(), [], "waiting is no outcome");
    bench.pool.room.set(1);
    bench.run(ms(20));
    let job = bench.pool.jobs.borrow_mut().pop().expect("a job");
    assert_eq!(job.shard, 3);
    let at = bench.world.now();
    bench.sender.reply(PoolReply::Started { attempt: job.attempt, at }, at);
    let outcome = Outcome::Success("".into());
    bench.sender.reply(
        PoolReply::Done { attempt: job.attempt, outcome, latency_ns: 5_000_000, phases: PhasesUs::default() },
        bench.world.now(),
    );
    bench.run(ms(20));
    assert_eq!(bench.verdicts().last(), Some(&Some(Verdict::Success)));
}

#[test]
fn a_shard_may_be_left_alone_until_something_is_due_and_not_while_an_attempt_is_under_way() {
    let mut bench = Bench::new();
    assert_eq!(bench.shard.pace(), Pace::Idle);
    bench.world.target(80, Target { connect: Some(ms(500)), ..Target::default() });
    let added_at = bench.world.now();
    bench.add("ring", tcp_socket(80));
    assert_eq!(bench.shard.pace(), Pace::UnderWay, "a command waits");
    bench.run(ms(20));
    assert_eq!(bench.shard.pace(), Pace::UnderWay, "a connect is in flight");
    bench.run(ms(1_000));
    let Pace::Until(due) = bench.shard.pace() else { panic!("{:?}", bench.shard.pace()) };
    assert!(due > bench.world.now() && due - added_at <= ms(10_010), "{due:?}");
    bench.add("pool", exec());
    bench.run(ms(100));
    assert_eq!(bench.shard.pace(), Pace::UnderWay, "an attempt waits for a place in the pool");
    bench.pool.room.set(1);
    bench.run(ms(20));
    let job = bench.pool.jobs.borrow_mut().pop().expect("a job");
    assert_eq!(bench.shard.pace(), Pace::UnderWay, "the pool makes it");
    let outcome = Outcome::Success("".into());
    bench.sender.reply(
        PoolReply::Done { attempt: job.attempt, outcome, latency_ns: 1, phases: PhasesUs::default() },
        bench.world.now(),
    );
    bench.run(ms(20));
    assert_eq!(bench.shard.pace(), Pace::Until(due));
}

#[test]
fn an_attempt_that_began_in_time_is_not_late_because_its_shard_slept() {
    let mut bench = Bench::new();
    bench.pool.room.set(1);
    bench.add("pod", exec());
    bench.run(ms(20));
    let job = bench.pool.jobs.borrow_mut().pop().expect("a job");
    let at = bench.world.now();
    bench.sender.reply(PoolReply::Started { attempt: job.attempt, at }, at);
    // Nothing wakes it, and its next due time comes and goes.
    bench.world.pass(ms(10_500));
    bench.run(ms(2_000));
    let outcome = Outcome::Success("".into());
    bench.sender.reply(
        PoolReply::Done { attempt: job.attempt, outcome, latency_ns: 5_000_000, phases: PhasesUs::default() },
        bench.world.now(),
    );
    bench.run(ms(2_000));
    assert_eq!(bench.verdicts().last(), Some(&Some(Verdict::Success)));
    assert_eq!(bench.count(|metrics| metrics.missed), 0);
    let lateness = |metrics: &ShardMetrics| metrics.lateness().map(hdrhistogram::Histogram::max).max().unwrap_or(0);
    assert!((15_000..25_000).contains(&bench.count(lateness)), "{} us", bench.count(lateness));
}

#[test]
fn a_followed_redirect_goes_to_the_pool_with_its_deadline() {
    let mut bench = Bench::new();
    let answer = b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n".to_vec();
    bench.world.target(80, Target { pieces: vec![(ms(20), answer)], ..Target::default() });
    bench.pool.room.set(1);
    bench.add("pod", http_get(80, "/"));
    let begun = bench.world.now();
    bench.run(ms(50));
    let job = bench.pool.jobs.borrow_mut().pop().expect("a job");
    assert_eq!((job.requests_made, job.deadline_from), (1, Some(begun)));
    assert!(job.resume.is_some());
    assert_eq!(bench.outcomes(), []);
    let outcome = Outcome::Failure("HTTP probe failed with statuscode: 500".into());
    bench.sender.reply(
        PoolReply::Done { attempt: job.attempt, outcome: outcome.clone(), latency_ns: 1, phases: PhasesUs::default() },
        bench.world.now(),
    );
    bench.run(ms(20));
    assert_eq!(bench.outcomes(), [outcome]);
}

#[test]
fn a_redirect_that_the_pool_never_takes_is_local_trouble() {
    let mut bench = Bench::new();
    let answer = b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n".to_vec();
    bench.world.target(80, Target { pieces: vec![(ms(20), answer)], ..Target::default() });
    bench.add("pod", http_get(80, "/"));
    bench.run(ms(1_050));
    assert_eq!(bench.outcomes(), [Outcome::Local(LocalCause::Pool)]);
}

#[test]
fn a_failed_body_is_tried_three_times_and_then_discarded() {
    let mut bench = Bench::new();
    let broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx".to_vec();
    bench.world.target(80, Target { pieces: vec![(ms(1), broken), (ms(1), b"y\r\n".to_vec())], ..Target::default() });
    let stats = bench.add("pod", http_get(80, "/"));
    bench.run(ms(500));
    assert_eq!(bench.world.opened.get(), 3);
    assert!(matches!(bench.outcomes().as_slice(), [Outcome::Error(_)]));
    assert_eq!(stats.failed() + stats.successful(), 0);
}

#[test]
fn late_completions_of_a_removed_pod_change_nothing() {
    let mut bench = Bench::new();
    bench.world.target(80, Target { connect: Some(ms(300)), ..Target::default() });
    let removed = bench.add("pod", tcp_socket(80));
    bench.run(ms(100));
    bench.sender.send(Command::RemovePod { uid: "pod".into() }).expect("room");
    let added = bench.add("pod", tcp_socket(81));
    bench.run(ms(500));
    assert!(!removed.is_live() && added.is_live());
    assert_eq!(bench.world.open.get(), 0);
    assert_eq!(bench.shard.scheduler().workers_len(), 1);
}

#[test]
fn shutdown_closes_everything_and_says_so_last() {
    let mut bench = Bench::new();
    bench.world.target(80, Target { connect: None, ..Target::default() });
    for index in 0..50 {
        bench.add(&format!("pod-{index}"), tcp_socket(80));
    }
    bench.run(ms(50));
    assert_eq!(bench.world.open.get(), 50);
    bench.sender.send(Command::Shutdown).expect("room");
    while bench.turn() == Turn::Again {}
    assert_eq!(bench.world.open.get(), 0);
    assert!(matches!(bench.told.last(), Some(Update::ShardEnded { shard: 3 })));
    assert_eq!(bench.outcomes(), [], "what was cut off is no outcome");
}

#[test]
fn a_shard_that_cannot_tell_its_end_waits_without_spinning() {
    let mut bench = Bench::new();
    while bench.updates.push(Update::ShardEnded { shard: 0 }).is_ok() {}
    bench.sender.send(Command::Shutdown).expect("room");
    let world = Rc::clone(&bench.world);
    let mut turn = || bench.shard.turn(&mut || world.now());
    assert_eq!(turn(), Turn::Again);
    // Longer than the shard's counts wait to be told.
    world.pass(ms(2_000));
    let before = world.now();
    for _ in 0..10 {
        assert_eq!(turn(), Turn::Again);
    }
    assert!(world.now() - before >= ms(9), "it looked again at once");
}

#[test]
fn each_attempt_of_a_probe_that_is_looked_at_closely_is_told_and_of_others_none() {
    let mut bench = Bench::new();
    let stats = bench.add("watched", tcp_socket(80));
    bench.add("other", tcp_socket(81));
    stats.set_detail(7);
    bench.run(ms(25_000));
    let told = bench.told.iter().filter_map(|update| match update {
        Update::Attempt { token, outcome, latency_us, lateness_us } => {
            Some((token.get(), *outcome, *latency_us, lateness_us.is_some()))
        }
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(7, OutcomeKind::Success, 1_000, true); 3]);
    stats.set_detail(0);
    bench.told.clear();
    bench.run(ms(10_000));
    assert!(!bench.told.iter().any(|update| matches!(update, Update::Attempt { .. })));
    assert_eq!(bench.count(|metrics| metrics.details_dropped), 0);
}

#[test]
fn a_success_that_took_nearly_all_of_its_time_is_a_near_miss() {
    let mut bench = Bench::new();
    bench.world.target(80, Target { connect: Some(ms(799)), ..Target::default() });
    bench.world.target(81, Target { connect: Some(ms(800)), ..Target::default() });
    bench.world.target(82, Target { connect: None, ..Target::default() });
    let stats = [80, 81, 82].map(|port| bench.add(&format!("pod-{port}"), tcp_socket(port)));
    bench.run(ms(15_000));
    assert_eq!(stats.each_ref().map(|stats| stats.near_misses()), [0, 2, 0]);
    assert!(stats[1].near_at_ns() > 0);
    assert_eq!(bench.count(|metrics| metrics.near[HandlerKind::Tcp.index()]), 2);
}

#[test]
fn a_success_over_http_tells_its_phases_and_a_failure_none() {
    let mut bench = Bench::new();
    let answer = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n");
        vec![(ms(20), head.into_bytes()), (ms(300), b"ok".to_vec())]
    };
    bench.world.target(80, Target { connect: Some(ms(3)), pieces: answer("200 OK"), ..Target::default() });
    bench.world.target(81, Target { connect: Some(ms(3)), pieces: answer("500 No"), ..Target::default() });
    bench.add("well", http_get(80, "/"));
    bench.add("ill", http_get(81, "/"));
    bench.run(ms(9_000));
    let phase = |of: Phase, within: std::ops::Range<u64>| {
        bench.count(|metrics| {
            let histogram = metrics.phase_us[HandlerKind::Http.index()][of as usize].as_ref();
            histogram.map_or(0, |histogram| histogram.count_between(within.start, within.end))
        })
    };
    assert_eq!(phase(Phase::Connect, 3_000..4_000), 1);
    assert_eq!(phase(Phase::FirstByte, 20_000..22_000), 1);
    assert_eq!(phase(Phase::Body, 300_000..310_000), 1);
    let all = |metrics: &ShardMetrics| metrics.phase_us.iter().flatten().flatten().map(|of| of.len()).sum();
    assert_eq!(bench.count(all), 3);
}

#[test]
fn a_bounded_number_of_handshakes_is_measured_each_second() {
    let mut bench = Bench::new();
    // So that the bound has been set.
    bench.run(ms(1_500));
    bench.world.target(80, Target { connect: Some(ms(2)), ..Target::default() });
    let pods = u64::from(limits::HANDSHAKE_SAMPLES_MAX) * 2;
    for pod in 0..pods {
        bench.add(&format!("pod-{pod}"), tcp_socket(80));
    }
    bench.run(ms(3_000));
    let measured = |metrics: &ShardMetrics| {
        let histogram = metrics.handshake_us[HandlerKind::Tcp.index()].as_ref();
        histogram.map_or(0, |histogram| histogram.count_between(2_000, 2_010))
    };
    assert_eq!(bench.count(measured), u64::from(limits::HANDSHAKE_SAMPLES_MAX));
}
