//! Passive answers in whole turns: over the scripted kernel, and over both real ones with counters that the test moves.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use probe_core::id::ProbeTypes;
use probe_core::outcome::{Outcome, Verdict};
use probe_core::spec::ProbeSpec;
use probe_core::time::Instant;
use tokio::sync::Notify;

use super::fake::{Target as Door, ms};
use super::turns::Bench;
use super::{CONTAINER, READINESS, pod, running, spec, tcp_socket};
use crate::clock;
use crate::ebpf::passive::{Passive, ToWatch};
use crate::ebpf::target::{Group, Place};
use crate::ebpf::{Answer, PassiveSettings, Target, Why};
use crate::limits;
use crate::results::{Paused, ProbeStats, Update, UpdateQueue, WallNs};
use crate::shard::epoll::Epoll;
use crate::shard::inbox::{Command, ProbeSlot, ShardSender, inbox};
use crate::shard::kernel::{Kernel, Waker};
use crate::shard::lease::tests::{Everybody, passive};
use crate::shard::ring::Ring;
use crate::shard::{Shard, ShardConfig, Turn};
use crate::source::Pause;

const SECOND: Duration = Duration::from_secs(1);
const SLOT: u32 = 80;

/// A watch that does what a test says.
struct Watch {
    passive: Passive,
    queue: Arc<ArrayQueue<ToWatch>>,
    targets: Vec<Arc<Target>>,
    group: Arc<Group>,
}

impl Watch {
    fn new(audits_per_second: u32) -> Self {
        let settings = PassiveSettings { passive_audit_per_second: audits_per_second, ..PassiveSettings::default() };
        let (passive, queue) = passive(settings);
        let place = Place { netns_cookie: 1, slot: SLOT, lookup: Arc::new(Everybody) };
        Self { passive, queue, targets: Vec::new(), group: Arc::new(Group::new(place)) }
    }

    /// A sweep that finds all well.
    fn sweep(&mut self, now: Instant) {
        while let Some(message) = self.queue.pop() {
            let ToWatch::Register(target) = message else { continue };
            target.join(&self.group, Why::Changed);
            self.targets.push(target);
        }
        self.group.settle(self.passive.counters.load(SLOT));
        self.group.look_healthy(now + limits::LOOK_AGE_MAX);
    }

    fn bump(&self) {
        self.passive.counters.bump(SLOT);
    }
}

fn every_second(port: u16) -> ProbeSpec {
    ProbeSpec { period_seconds: 1, ..spec(tcp_socket(port)) }
}

fn answer(stats: &ProbeStats) -> Answer {
    stats.answer()
}

fn counts(stats: &ProbeStats) -> (u64, u64) {
    (stats.passive(), stats.real())
}

/// Runs so many periods with a sweep before each.
fn periods(bench: &mut Bench, watch: &mut Watch, number: usize) {
    for _ in 0..number {
        watch.sweep(bench.world.now());
        bench.run(SECOND);
    }
}

/// A probe every second of a target that has its lease, which is as long as any.
fn leased() -> (Bench, Watch, Arc<ProbeStats>) {
    let mut watch = Watch::new(0);
    let mut bench = Bench::with(Ok(watch.passive.clone()));
    let stats = bench.add_spec("pod", every_second(80));
    bench.run(ms(500));
    assert_eq!(answer(&stats), Answer::Real(Why::First));
    // A fresh lease may be short; the next ones are renewals.
    periods(&mut bench, &mut watch, 60);
    while answer(&stats) != Answer::Real(Why::Renewed) {
        periods(&mut bench, &mut watch, 1);
    }
    (bench, watch, stats)
}

#[test]
fn a_passive_answer_opens_no_socket_and_counts_as_a_success() {
    let (mut bench, mut watch, stats) = leased();
    let (opened, before) = (bench.world.opened.get(), counts(&stats));
    let successful = stats.successful();
    periods(&mut bench, &mut watch, 40);
    assert_eq!(bench.world.opened.get(), opened);
    assert_eq!(counts(&stats), (before.0 + 40, before.1));
    assert_eq!(stats.successful(), successful + 40);
    assert_eq!(answer(&stats), Answer::Passive);
    assert_eq!(bench.count(|metrics| metrics.passive.passive), counts(&stats).0);
    let real = bench.count(|metrics| metrics.passive.real.iter().sum());
    assert_eq!(real, counts(&stats).1);
    let measured = bench.count(|metrics| metrics.latency_us[0][0].as_ref().map_or(0, |latency| latency.len()));
    assert_eq!(measured, real, "only real attempts have a latency");
    assert_eq!(bench.verdicts().last(), Some(&Some(Verdict::Success)));
}

#[test]
fn a_paused_probe_is_not_answered_passively_nor_by_early_detection_or_a_trigger() {
    let (mut bench, mut watch, stats) = leased();
    periods(&mut bench, &mut watch, 2);
    assert_eq!(answer(&stats), Answer::Passive);
    let (opened, before, verdicts) = (bench.world.opened.get(), counts(&stats), bench.verdicts().len());
    let send = |bench: &Bench, command| bench.sender.send(command).expect("room");
    let pause = |until_at| {
        let paused = Paused { since: WallNs::default(), until: WallNs::default(), until_at };
        let types = ProbeTypes::ALL;
        let pause = Pause { container: None, types, paused: Some(paused), by: "".into(), is_each_told: false };
        Command::Pause { uid: "pod".into(), pause: Arc::new(pause) }
    };
    let until = bench.world.now() + 20 * SECOND;
    send(&bench, pause(until));
    periods(&mut bench, &mut watch, 5);
    assert!(stats.due_ns() >= until.as_nanos() && stats.due_ns() < (until + SECOND).as_nanos());
    send(&bench, Command::Trigger { uid: "pod".into(), container: CONTAINER.into(), probe_type: READINESS });
    watch.bump();
    send(&bench, Command::Detect { target: watch.targets[0].id });
    periods(&mut bench, &mut watch, 14);
    assert_eq!((bench.world.opened.get(), counts(&stats), bench.verdicts().len()), (opened, before, verdicts));
    let reports = bench.outcomes().len();
    periods(&mut bench, &mut watch, 2);
    assert_eq!(answer(&stats), Answer::Real(Why::Changed));
    assert_eq!(bench.outcomes().len(), reports + 1, "the first one after it is told");
    assert_eq!(bench.count(|metrics| metrics.missed), 0);
}

#[test]
fn a_change_makes_the_next_attempt_real_and_its_failure_the_ones_after() {
    let (mut bench, mut watch, stats) = leased();
    periods(&mut bench, &mut watch, 2);
    assert_eq!(answer(&stats), Answer::Passive);
    let (passive, real) = counts(&stats);
    bench.world.target(80, Door { errno: Some(libc::ECONNREFUSED), ..Door::default() });
    watch.bump();
    periods(&mut bench, &mut watch, 1);
    assert_eq!(answer(&stats), Answer::Real(Why::Changed));
    assert!(matches!(bench.outcomes().last(), Some(Outcome::Failure(_))));
    periods(&mut bench, &mut watch, 3);
    assert_eq!(answer(&stats), Answer::Real(Why::Failing));
    // A readiness probe that fails is asked out of turn as well (rule 2.8).
    assert_eq!(counts(&stats).0, passive);
    assert!(counts(&stats).1 >= real + 4);
    assert_eq!(bench.verdicts().last(), Some(&Some(Verdict::Failure)));
    bench.world.target(80, Door::default());
    watch.bump();
    periods(&mut bench, &mut watch, 1);
    assert_eq!(answer(&stats), Answer::Real(Why::Failing));
    periods(&mut bench, &mut watch, 1);
    assert_eq!(answer(&stats), Answer::Passive);
}

#[test]
fn a_listener_that_comes_and_goes_during_a_connect_leaves_no_lease() {
    let (mut bench, mut watch, stats) = leased();
    bench.world.target(80, Door { connect: Some(ms(700)), ..Door::default() });
    watch.bump();
    watch.sweep(bench.world.now());
    let opened = bench.world.opened.get();
    while bench.world.opened.get() == opened {
        bench.run(ms(10));
    }
    watch.bump();
    bench.run(ms(900));
    assert_eq!(bench.world.open.get(), 0, "it has landed");
    watch.sweep(bench.world.now());
    bench.world.target(80, Door::default());
    bench.run(SECOND);
    assert_eq!(answer(&stats), Answer::Real(Why::Changed));
}

#[test]
fn without_a_sweep_attempts_are_real_after_the_age_of_a_look() {
    let (mut bench, mut watch, stats) = leased();
    periods(&mut bench, &mut watch, 1);
    assert_eq!(answer(&stats), Answer::Passive);
    bench.run(limits::LOOK_AGE_MAX);
    assert_eq!(answer(&stats), Answer::Real(Why::LookOld));
}

#[test]
fn a_trigger_and_early_detection_connect_at_once() {
    let (mut bench, mut watch, stats) = leased();
    periods(&mut bench, &mut watch, 1);
    let (_, real) = counts(&stats);
    let trigger = Command::Trigger { uid: "pod".into(), container: CONTAINER.into(), probe_type: READINESS };
    let detect = Command::Detect { target: watch.targets[0].id };
    for (number, command) in [(1, trigger), (2, detect)] {
        bench.sender.send(command).expect("room");
        bench.run(ms(20));
        assert_eq!(counts(&stats).1, real + number);
        assert_eq!(answer(&stats), Answer::Real(Why::Triggered));
    }
    bench.sender.send(Command::Detect { target: u64::MAX }).expect("room");
    bench.run(ms(20));
    assert_eq!(counts(&stats).1, real + 2, "of a target that nobody knows");
}

#[test]
fn audits_are_connects_whose_outcome_counts() {
    let mut watch = Watch::new(5);
    let mut bench = Bench::with(Ok(watch.passive.clone()));
    let all: Vec<_> = (0..600).map(|pod| bench.add_spec(&format!("pod-{pod}"), every_second(80))).collect();
    bench.run(ms(500));
    periods(&mut bench, &mut watch, 100);
    let audits = bench.count(|metrics| metrics.passive.audits[0]);
    assert!((400..600).contains(&audits), "{audits} in 100 s, at 5 a second");
    let real: u64 = all.iter().map(|stats| counts(stats).1).sum();
    assert_eq!(bench.world.opened.get() as u64, real);
    // They fail, and nothing has changed as far as anybody knows.
    bench.world.target(80, Door { errno: Some(libc::ECONNREFUSED), ..Door::default() });
    periods(&mut bench, &mut watch, 2);
    assert!(bench.count(|metrics| metrics.passive.audits[1]) > 0);
    assert!(bench.outcomes().iter().any(|outcome| matches!(outcome, Outcome::Failure(_))));
    let failing = all.iter().filter(|stats| stats.failed() > 0).count();
    assert!(failing < all.len(), "the others still rest on their leases");
}

#[test]
fn passive_answers_take_no_place_among_the_attempts_that_a_turn_starts() {
    let mut watch = Watch::new(0);
    let mut bench = Bench::with(Ok(watch.passive.clone()));
    let pods = 2 * limits::STARTS_PER_TURN_MAX;
    let all: Vec<_> = (0..pods).map(|pod| bench.add_spec(&format!("pod-{pod}"), every_second(80))).collect();
    let passive = || all.iter().map(|stats| counts(stats).0).sum::<u64>();
    let mut most = 0;
    for _ in 0..5 {
        watch.sweep(bench.world.now());
        let end = bench.world.now() + SECOND;
        while bench.world.now() < end {
            let before = passive();
            bench.turn();
            most = most.max(passive() - before);
        }
    }
    // But for those that connect again meanwhile.
    assert!(most > limits::STARTS_PER_TURN_MAX as u64 + 100, "{most} of {pods} in a turn");
}

#[test]
fn a_shard_that_ends_lets_go_of_its_targets() {
    let (mut bench, mut watch, _) = leased();
    let target = watch.targets.remove(0);
    bench.sender.send(Command::RemovePod { uid: "pod".into() }).expect("room");
    bench.run(ms(20));
    assert!(matches!(watch.queue.pop(), Some(ToWatch::LetGo(gone)) if gone.id == target.id), "the watch is told");
    assert_eq!(Arc::strong_count(&target), 1);
    bench.add_spec("another", every_second(80));
    periods(&mut bench, &mut watch, 3);
    let target = watch.targets.remove(0);
    bench.sender.send(Command::Shutdown).expect("room");
    while bench.turn() == Turn::Again {}
    drop(bench);
    assert_eq!(Arc::strong_count(&target), 1);
}

#[test]
fn without_passive_answers_every_attempt_connects_and_says_why() {
    let mut bench = Bench::with(Err(Why::Unavailable));
    let stats = bench.add_spec("pod", every_second(80));
    bench.run(ms(9_500));
    assert_eq!(answer(&stats), Answer::Real(Why::Unavailable));
    assert_eq!(counts(&stats), (0, bench.world.opened.get() as u64));
}

/// The shard over a real kernel and a real listener; time is the test's.
struct Real<K: Kernel> {
    shard: Shard<K>,
    sender: ShardSender,
    waker: Waker,
    updates: Arc<UpdateQueue>,
    watch: Watch,
    now: Instant,
}

impl<K: Kernel> Real<K> {
    fn new(kernel: K, waker: &Waker) -> Self {
        let watch = Watch::new(0);
        let (sender, inbox) = inbox(waker.clone());
        let updates = Arc::new(UpdateQueue::new(Arc::new(Notify::new())));
        let now = clock::now();
        let mut config = ShardConfig::new(0, 1, Instant::ZERO);
        config.passive = Ok(watch.passive.clone());
        let shard = Shard::new(config, kernel, inbox, Arc::clone(&updates), None, now);
        Self { shard, sender, waker: waker.clone(), updates, watch, now }
    }

    /// A probe of this address every second, and what it counts.
    fn add(&self, addr: SocketAddr) -> Arc<ProbeStats> {
        let stats = Arc::new(ProbeStats::default());
        let slot = ProbeSlot {
            container: CONTAINER.into(),
            probe_type: READINESS,
            stats: Arc::clone(&stats),
            past: None,
            paused: None,
        };
        let status = Some(running(self.now));
        let command = Command::AddPod { pod: pod("pod", every_second(addr.port())), slots: Box::new([slot]), status };
        self.sender.send(command).expect("room");
        stats
    }

    /// About a second of the test's, with a sweep at its beginning; until its attempt has ended.
    fn second(&mut self, stats: &ProbeStats) {
        self.watch.sweep(self.now);
        let before = counts(stats);
        let deadline = clock::now() + 10 * SECOND;
        while counts(stats) == before {
            assert!(clock::now() < deadline, "no attempt");
            self.waker.wake();
            // Timers are exact to a millisecond.
            self.now = self.now + ms(1);
            let now = self.now;
            assert_eq!(self.shard.turn(&mut || now), Turn::Again);
            while self.updates.pop().is_some() {}
        }
        self.now = self.now + ms(990);
    }
}

fn a_real_listener_is_connected_to_only_when_it_must_be<K: Kernel>(kernel: K, waker: &Waker) {
    let mut real = Real::new(kernel, waker);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("fcntl");
    let addr = listener.local_addr().expect("addr");
    let stats = real.add(addr);
    let accepted = || std::iter::from_fn(|| listener.accept().ok()).count() as u64;
    let mut answers = BTreeSet::new();
    for _ in 0..120 {
        real.second(&stats);
        answers.insert(answer(&stats).to_string());
        let is_real = answer(&stats) != Answer::Passive;
        assert_eq!(accepted(), u64::from(is_real), "{}", answer(&stats));
    }
    assert!(counts(&stats).0 > 100, "{:?}", counts(&stats));
    let expected = ["passive", "real: first", "real: look old", "real: renewed"];
    assert_eq!(answers, expected.map(str::to_owned).into());
    // It closes: the kernel program would move the counter before close(2) returns.
    drop(listener);
    real.watch.bump();
    real.second(&stats);
    assert_eq!(answer(&stats), Answer::Real(Why::Changed));
    assert_eq!(stats.failed(), 1);
    // The next test's shutdown is this one's: leases stand, or do not, and no socket stays.
    real.sender.send(Command::Shutdown).expect("room");
    let now = real.now;
    while real.shard.turn(&mut || now) == Turn::Again {
        real.waker.wake();
    }
    assert_eq!(real.shard.kernel().pending(), 0);
    assert!(TcpStream::connect(addr).is_err());
    assert!(std::iter::from_fn(|| real.updates.pop()).any(|update| matches!(update, Update::ShardEnded { .. })));
}

#[test]
fn on_io_uring_a_real_listener_is_connected_to_only_when_it_must_be() {
    let waker = Waker::new().expect("an eventfd");
    match Ring::new(&waker) {
        Ok(ring) => a_real_listener_is_connected_to_only_when_it_must_be(ring, &waker),
        Err(error) => {
            crate::skip::skip("on_io_uring_a_real_listener_is_connected_to_only_when_it_must_be", &error.to_string())
        }
    }
}

#[test]
fn on_epoll_a_real_listener_is_connected_to_only_when_it_must_be() {
    let waker = Waker::new().expect("an eventfd");
    a_real_listener_is_connected_to_only_when_it_must_be(Epoll::new(&waker).expect("epoll"), &waker);
}

#[test]
fn both_kernels_know_a_sockets_cookie() {
    fn cookies(kernel: &mut impl Kernel) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 80));
        let socket = |kernel: &mut _| Kernel::socket(kernel, &peer, Default::default()).expect("socket");
        let (one, two) = (socket(kernel), socket(kernel));
        let cookie = |socket| kernel.cookie(socket).expect("SO_COOKIE");
        assert_ne!(cookie(one), 0);
        assert_eq!(cookie(one), cookie(one));
        assert_ne!(cookie(one), cookie(two));
        kernel.close(one);
        assert!(kernel.cookie(one).is_err());
        kernel.close(two);
    }
    let waker = Waker::new().expect("an eventfd");
    cookies(&mut Epoll::new(&waker).expect("epoll"));
    if let Ok(mut ring) = Ring::new(&waker) {
        cookies(&mut ring);
    }
}
