//! Faults around passive answers: a ring buffer that overflows, a daemon that is stopped or killed, listeners that die, are
//! handed on, or never accept. On the real kernel.
#![cfg(feature = "engine")]

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use probe_core::id::ProbeType;
use probe_core::time::Instant;
use probe_engine::clock;
use probe_engine::ebpf::PassiveSettings;
use probe_engine::ebpf::load;
use probe_engine::ebpf::stats::EbpfStats;
use probe_engine::ebpf::thread::{self as ebpf_threads, Outputs};
use probe_engine::results::{ProbeStats, UpdateQueue};
use probe_engine::shard::inbox::{Command as ShardCommand, ProbeSlot, inbox};
use probe_engine::shard::kernel::Waker;
use probe_engine::shard::ring::Ring;
use probe_engine::shard::{ShardConfig, spawn};
use probe_tests::daemon::Daemon;
use probe_tests::netns::TestNetns;
use probe_tests::passive::feed::{self, Feed};
use probe_tests::passive::listener::{Form, Listener};
use probe_tests::passive::pod::{CONTAINER, Times, pod, running};
use probe_tests::passive::rig::Rig;

const TIMES: Times = Times { period_seconds: 2, timeout_seconds: 1 };

/// Longest wait for what should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A namespace that plays the host; `None` = there can be no passive answers here, which was said.
fn host(test: &str) -> Option<Arc<TestNetns>> {
    if !feed::usable(test, &[]) {
        return None;
    }
    Some(Arc::new(TestNetns::new()))
}

fn quiet(settings: PassiveSettings) -> PassiveSettings {
    PassiveSettings { passive_audit_per_second: 0, ..settings }
}

fn rig(settings: PassiveSettings) -> Rig<Ring> {
    Rig::new(quiet(settings), TIMES, 7, |waker| Ring::new(waker).expect("io_uring")).expect("the program loads")
}

#[test]
fn a_ring_buffer_that_overflows_costs_passive_answers_and_never_gives_a_wrong_one() {
    let test = "a_ring_buffer_that_overflows_costs_passive_answers_and_never_gives_a_wrong_one";
    let Some(host) = host(test) else { return };
    let netns = Arc::clone(&host);
    host.run(move || {
        let start = clock::now();
        // One page: 64 records.
        let feed = Feed::with_ring(quiet(PassiveSettings::default()), 7, start, 4_096).expect("the program loads");
        let mut rig = Rig::with_feed(feed, TIMES, 7, start, |waker| Ring::new(waker).expect("io_uring"));
        let mut listeners: Vec<Option<Listener>> =
            (0..20).map(|port| Some(Listener::open(&netns, Form::tcp(local(8_000 + port))).expect("listen"))).collect();
        for port in 0..20 {
            rig.add(local(8_000 + port), None);
        }
        let accept = |listeners: &mut Vec<Option<Listener>>| {
            listeners.iter_mut().flatten().for_each(Listener::drain);
        };
        rig.lease_all(|| accept(&mut listeners));
        rig.take_all();
        rig.feed.set_slow(true);
        // The last change comes when the ring buffer has long been full.
        for round in 0..200 {
            let other = Listener::open(&netns, Form::tcp(local(9_000 + round))).expect("listen");
            drop(other);
        }
        listeners[..10].iter_mut().for_each(|listener| *listener = None);
        rig.period(|| accept(&mut listeners));
        for probe in 0..10 {
            let counts = rig.take(probe);
            assert_eq!((counts.passive, counts.failures), (0, 1), "its listener closed: {:?}", rig.answer(probe));
        }
        assert!(rig.feed.stats.events_dropped.load(SeqCst) > 100, "it overflowed");
        rig.feed.set_slow(false);
        for (port, listener) in listeners.iter_mut().enumerate().take(10) {
            *listener = Some(Listener::open(&netns, Form::tcp(local(8_000 + port as u16))).expect("listen"));
        }
        rig.lease_all(|| accept(&mut listeners));
        assert!(rig.feed.stats.reconciles.load(SeqCst) > 0, "the table was made anew");
    });
}

/// Of [`a_listener_that_never_accepts_is_seen_and_fails_at_most_one_max_age_later`].
const BACKLOG: i32 = 5;

/// Attempts, and time on the test's clock, until the first failure at a listener that stopped accepting just before.
fn first_failure(netns: &TestNetns, settings: PassiveSettings, port: u16) -> (u64, Duration) {
    let is_passive = settings.passive;
    let mut rig = rig(settings);
    let mut listener = Listener::open(netns, Form::tcp(local(port))).expect("listen");
    listener.listen(BACKLOG).expect("a shorter backlog");
    rig.add(local(port), None);
    if is_passive {
        rig.lease_all(|| listener.drain());
    } else {
        rig.period(|| listener.drain());
    }
    rig.take(0);
    let start = rig.now();
    let (mut real, mut was_stalled, mut was_full) = (0, false, false);
    loop {
        let queue_len = listener.queue_len();
        rig.period(|| {});
        let counts = rig.take(0);
        real += counts.real;
        let stats = &rig.feed.stats;
        if is_passive {
            // Two sweeps of this period came after the connection that stayed in the queue.
            let stalled = stats.accept_queues_stalled.load(SeqCst) + stats.accept_queues_full.load(SeqCst);
            assert!(queue_len == 0 || stalled == 1, "stalled is told within two sweeps");
            was_stalled |= stats.accept_queues_stalled.load(SeqCst) == 1;
            assert_eq!(listener.is_full(), stats.accept_queues_full.load(SeqCst) == 1, "full within one");
            was_full |= listener.is_full();
        }
        if counts.failures > 0 {
            assert!(!is_passive || (was_stalled && was_full));
            return (real, rig.now() - start);
        }
        assert!(rig.now() - start < Duration::from_secs(300), "no failure");
    }
}

#[test]
fn a_listener_that_never_accepts_is_seen_and_fails_at_most_one_max_age_later() {
    let test = "a_listener_that_never_accepts_is_seen_and_fails_at_most_one_max_age_later";
    let Some(host) = host(test) else { return };
    let netns = Arc::clone(&host);
    host.run(move || {
        let max_age = Duration::from_secs(20);
        let settings = PassiveSettings { passive_max_age: max_age, ..PassiveSettings::default() };
        let off = PassiveSettings { passive: false, ..settings.clone() };
        let (attempts_off, off) = first_failure(&netns, off, 8_000);
        let (attempts_on, on) = first_failure(&netns, settings, 8_001);
        println!("{test}: off: {off:?}, {attempts_off} attempts; passive: {on:?}, {attempts_on} real ones");
        // backlog + 1 connections have room, the next one none.
        assert_eq!(attempts_off, BACKLOG as u64 + 2);
        assert!(on <= off + max_age, "{on:?}, {off:?} without passive answers");
    });
}

#[test]
fn a_listener_handed_to_another_process_outlives_its_maker() {
    let test = "a_listener_handed_to_another_process_outlives_its_maker";
    let Some(host) = host(test) else { return };
    let netns = Arc::clone(&host);
    host.run(move || {
        let mut rig = rig(PassiveSettings::default());
        let mut listener = Listener::open(&netns, Form::tcp(local(8_000))).expect("listen");
        rig.add(local(8_000), None);
        rig.lease_all(|| listener.drain());
        rig.take(0);
        // Another process has it as its standard input, and is all that has it from now on.
        let handed: OwnedFd = listener.socket.try_clone().expect("dup").into();
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::from(handed)).spawn().expect("sleep");
        drop(listener);
        rig.period(|| {});
        let counts = rig.take(0);
        assert_eq!((counts.passive, counts.successes), (1, 1), "it is open still, and nothing has changed");
        child.kill().expect("a child");
        child.wait().expect("a child");
        rig.period(|| {});
        let counts = rig.take(0);
        assert_eq!((counts.passive, counts.failures), (0, 1), "its last holder is gone");
    });
}

/// Latencies of one kind, in order.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

/// Threads that do nothing, for all they are worth, until dropped.
struct BusyLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl BusyLoops {
    fn start(len: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..len).map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || while !stop.load(SeqCst) {})
        });
        Self { threads: threads.collect(), stop }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// How long after close(2) returned the listener was gone from the table of a thread that waits for events.
fn close_to_table(netns: &TestNetns, rounds: u16) -> Latencies {
    let gone = Arc::new(AtomicU64::new(0));
    let (asked, ask) = std::sync::mpsc::sync_channel::<Option<SocketAddr>>(0);
    let cookie = netns.cookie();
    let reader = netns.spawn({
        let gone = Arc::clone(&gone);
        move || {
            let mut feed = Feed::new(PassiveSettings::default(), 7, clock::now()).expect("the program loads");
            while let Ok(Some(addr)) = ask.recv() {
                // It is told when the table has the listener, and then when it has not.
                for has in [true, false] {
                    while feed.has_listener(cookie, addr) != has {
                        let mut fds = [PollFd::new(feed.fd(), PollFlags::POLLIN)];
                        // As the watch does: a burst wakes once, so who took something looks again a little later.
                        let again = TimeSpec::from_duration(Duration::from_nanos(probe_ebpf::WAKE_PAUSE_NS));
                        let _ = ppoll(&mut fds, Some(again), None);
                        feed.watch(clock::now());
                    }
                    gone.store(clock::now().as_nanos(), SeqCst);
                }
            }
        }
    });
    let mut all = Vec::new();
    for round in 0..rounds {
        let addr = local(10_000 + round);
        gone.store(0, SeqCst);
        asked.send(Some(addr)).expect("the reader lives");
        let listener = Listener::open(netns, Form::tcp(addr)).expect("listen");
        wait(|| gone.load(SeqCst) > 0);
        gone.store(0, SeqCst);
        drop(listener);
        let closed = clock::now();
        wait(|| gone.load(SeqCst) > 0);
        all.push(Instant::from_nanos(gone.load(SeqCst)) - closed);
    }
    asked.send(None).expect("the reader lives");
    reader.join().expect("no panic");
    Latencies::of(all)
}

fn wait(mut until: impl FnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !until() {
        assert!(clock::now() < deadline, "waited in vain");
        thread::yield_now();
    }
}

#[test]
fn a_listener_that_closes_leaves_the_table_within_milliseconds() {
    let test = "a_listener_that_closes_leaves_the_table_within_milliseconds";
    let Some(host) = host(test) else { return };
    let idle = close_to_table(&host, 200);
    let busy = {
        let _loops = BusyLoops::start(8);
        close_to_table(&host, 200)
    };
    println!(
        "{test}: idle p50 {:?} p99 {:?}; busy p50 {:?} p99 {:?}",
        idle.at(50),
        idle.at(99),
        busy.at(50),
        busy.at(99)
    );
    // 1 ms and 10 ms where nothing else runs; tests run beside others.
    assert!(idle.at(50) <= Duration::from_millis(10) && busy.at(50) <= Duration::from_millis(100));
}

/// The whole pipeline on its own threads: how long after the close of one of two listeners the other got the attempt that
/// early detection makes; and how long the events of that time took to reach the table.
fn close_to_attempt(netns: &Arc<TestNetns>, busy_loops: [usize; 2], rounds: u16) -> Vec<(Latencies, Latencies)> {
    let inside = Arc::clone(netns);
    netns.run(move || {
        let settings = PassiveSettings { early_detection: true, ..quiet(PassiveSettings::default()) };
        let waker = Waker::new().expect("an eventfd");
        let (sender, inbox) = inbox(waker.clone());
        let (events, _told) = tokio::sync::mpsc::channel(64);
        let outputs = Outputs { events, shards: vec![sender.clone()] };
        let loaded = load::load(false).expect("the program loads");
        let ebpf_stats = Arc::new(EbpfStats::default());
        let threads = ebpf_threads::spawn(loaded, settings, 7, outputs, Arc::clone(&ebpf_stats)).expect("threads");
        let mut config = ShardConfig::new(0, 7, clock::now().saturating_sub(Duration::from_secs(600)));
        config.passive = Ok(threads.passive().clone());
        let updates = Arc::new(UpdateQueue::new(Arc::new(tokio::sync::Notify::new())));
        let shard = spawn(config, waker, inbox, Arc::clone(&updates), None).expect("a shard");
        // So long that an attempt soon after a close is not that of the next due time.
        let times = Times { period_seconds: 5, timeout_seconds: 1 };
        let mut scenes: Vec<(Listener, Option<Listener>, Arc<ProbeStats>)> = Vec::new();
        for port in 12_000..12_000 + rounds * busy_loops.len() as u16 {
            let wildcard = Form::tcp(SocketAddr::from(([0, 0, 0, 0], port)));
            let open = |form| Listener::open(&inside, form).expect("listen");
            let (remaining, dying) = (open(wildcard), open(Form::tcp(local(port))));
            let pod = pod(&format!("pod-{port}"), local(port), times);
            let stats = Arc::new(ProbeStats::default());
            let (container, probe_type) = (CONTAINER.into(), ProbeType::Readiness);
            let slots =
                Box::new([ProbeSlot { container, probe_type, stats: Arc::clone(&stats), past: None, paused: None }]);
            let status = Some(running(local(port), None, 1, clock::now()));
            sender.send(ShardCommand::AddPod { pod, slots, status }).expect("room");
            scenes.push((remaining, Some(dying), stats));
        }
        wait(|| {
            while updates.pop().is_some() {}
            scenes.iter_mut().for_each(|(_, dying, _)| dying.iter_mut().for_each(Listener::drain));
            scenes.iter().all(|(.., stats)| stats.passive() > 0)
        });
        let latencies = scenes.chunks_mut(rounds.into()).zip(busy_loops).map(|(scenes, busy_loops)| {
            let _loops = BusyLoops::start(busy_loops);
            let before = ebpf_stats.event_lag.snapshot();
            let all = scenes.iter_mut().map(|(remaining, dying, _)| {
                *dying = None;
                let closed = clock::now();
                let mut fds = [PollFd::new(remaining.socket.as_fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)), Ok(1), "no attempt after the close");
                clock::now() - closed
            });
            let all: Vec<Duration> = all.collect();
            let lag = ebpf_stats.event_lag.snapshot().since(&before);
            let lags = lag.iter().flat_map(|(end_ns, len)| (0..len).map(move |_| Duration::from_nanos(end_ns)));
            (Latencies::of(all), Latencies::of(lags.collect()))
        });
        let latencies = latencies.collect();
        sender.send(ShardCommand::Shutdown).expect("room");
        while updates.pop().is_some() {}
        assert!(shard.join());
        drop(threads);
        latencies
    })
}

#[test]
fn early_detection_attempts_within_milliseconds_of_a_close() {
    let test = "early_detection_attempts_within_milliseconds_of_a_close";
    let Some(host) = host(test) else { return };
    let all = close_to_attempt(&host, [0, 8], 100);
    for (what, (attempt, event)) in ["idle", "busy"].iter().zip(&all) {
        let [attempt, event] = [attempt, event].map(|all| format!("p50 {:?} p99 {:?}", all.at(50), all.at(99)));
        println!("{test}: {what}: attempt {attempt}; event in the table {event}");
    }
    let [(idle, _), (busy, _)] = &all[..] else { panic!("two") };
    // 20 ms and 50 ms where nothing else runs; tests run beside others.
    assert!(idle.at(50) <= Duration::from_millis(200) && busy.at(50) <= Duration::from_millis(500));
}

/// A daemon with one pod at a port of loopback that is answered passively; what it takes to say so.
fn daemon_with_a_passive_probe(listener: &TcpListener) -> Daemon {
    let port = listener.local_addr().expect("bound").port();
    let mut daemon = Daemon::start("none", &["--ebpf", "require", "--passive-audit-per-second", "0"]);
    daemon.manifest("web.yaml", &manifest(port));
    daemon.wait_ready("web", "True");
    daemon.wait_for("a passive answer", |daemon| passive_answers(daemon).filter(|passive| *passive > 2));
    daemon
}

fn manifest(port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  containers:
  - name: main
    image: none
    readinessProbe:
      tcpSocket: {{port: {port}}}
      periodSeconds: 1
      failureThreshold: 1
status: {{podIP: 127.0.0.1}}
"
    )
}

/// Answers from kernel state, as /metrics counts them.
fn passive_answers(daemon: &Daemon) -> Option<u64> {
    let page = daemon.page("/metrics")?;
    let line =
        page.lines().find(|line| line.starts_with("probe_engine_passive_answers_total") && line.contains("passive"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Accepts and closes until the test's end.
fn serve(listener: &TcpListener) {
    let listener = listener.try_clone().expect("dup");
    thread::spawn(move || listener.incoming().for_each(drop));
}

/// What fdinfo tells of the programs and links of a process.
fn kernel_objects(pid: u32, field: &str) -> Vec<u32> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a live process");
    let texts = folder.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let mut all: Vec<u32> = texts
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn nothing_of_a_killed_daemon_stays_attached() {
    let test = "nothing_of_a_killed_daemon_stays_attached";
    if host(test).is_none() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    serve(&listener);
    let mut daemon = daemon_with_a_passive_probe(&listener);
    let (programs, links) = (kernel_objects(daemon.pid(), "prog_id"), kernel_objects(daemon.pid(), "link_id"));
    let loaded = || aya::programs::loaded_programs().flatten().map(|program| program.id()).collect::<Vec<_>>();
    let attached = || aya::programs::loaded_links().flatten().map(|link| link.id()).collect::<Vec<_>>();
    assert!(!programs.is_empty() && programs.iter().all(|id| loaded().contains(id)), "{programs:?}");
    assert!(links.iter().all(|id| attached().contains(id)), "{links:?}");
    daemon.signal(Signal::SIGKILL);
    daemon.wait_end();
    // The kernel frees a program after a grace period of RCU.
    wait(|| !programs.iter().any(|id| loaded().contains(id)) && !links.iter().any(|id| attached().contains(id)));
}

#[test]
fn a_daemon_that_was_stopped_for_thirty_seconds_gives_no_false_verdict() {
    let test = "a_daemon_that_was_stopped_for_thirty_seconds_gives_no_false_verdict";
    if host(test).is_none() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("bound").port();
    serve(&listener);
    let mut daemon = daemon_with_a_passive_probe(&listener);
    let before = passive_answers(&daemon).expect("counted");
    daemon.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(30)); // tidy: how long it is stopped is what is tested
    daemon.signal(Signal::SIGCONT);
    daemon.wait_for("passive answers again", |daemon| passive_answers(daemon).filter(|now| *now > before + 3));
    assert!(!daemon.says(&["events", "-A"]).contains("Unhealthy"), "{}", daemon.says(&["events", "-A"]));
    // And what happens while it is stopped is seen afterwards.
    daemon.signal(Signal::SIGSTOP);
    let target = local(port);
    // The serving thread's duplicate keeps the socket: shut down, it listens no more.
    socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Read).expect("shutdown");
    assert!(std::net::TcpStream::connect(target).is_err(), "closed");
    daemon.signal(Signal::SIGCONT);
    daemon.wait_ready("web", "False");
}

#[test]
fn without_the_program_the_daemon_connects_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    serve(&listener);
    let mut daemon = Daemon::start("none", &["--ebpf", "off"]);
    daemon.manifest("web.yaml", &manifest(listener.local_addr().expect("bound").port()));
    daemon.wait_ready("web", "True");
    let described = daemon.says(&["describe", "pod", "web"]);
    assert!(described.contains("real: off"), "{described}");
}
