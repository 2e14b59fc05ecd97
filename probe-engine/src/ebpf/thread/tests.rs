use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use probe_core::id::{ContainerId, ContainerName};
use probe_core::spec::ContainerKind;

use super::*;
use crate::ebpf::answer::Why;
use crate::ebpf::load;
use crate::ebpf::netns::NetnsRef;
use crate::ebpf::target::{Group, Target};
use crate::results::fixture::{container, pod};
use crate::shard::inbox::{Inbox, inbox};

/// Longest wait for what should take milliseconds (a second for the first look).
const SOON: Duration = Duration::from_secs(20);

struct Running {
    threads: EbpfThreads,
    stats: Arc<EbpfStats>,
    shard: Inbox,
    events: mpsc::Receiver<NewEvent>,
}

/// The real thing; `None` = the kernel refuses, and the test said so.
fn running(test: &str, settings: PassiveSettings) -> Option<Running> {
    let loaded = match load::load(false) {
        Ok(loaded) => loaded,
        Err(error) => {
            crate::skip::skip(test, &error.to_string());
            return None;
        }
    };
    let (sender, shard) = inbox(Waker::new().expect("an eventfd"));
    let (events, told) = mpsc::channel(16);
    let stats = Arc::new(EbpfStats::default());
    let outputs = Outputs { events, shards: vec![sender] };
    let threads = spawn(loaded, settings, 1, outputs, Arc::clone(&stats)).expect("both threads");
    Some(Running { threads, stats, shard, events: told })
}

impl Running {
    fn target(&self, addr: SocketAddr) -> Arc<Target> {
        let passive = self.threads.passive();
        let target = Arc::new(Target::new(
            1,
            0,
            pod("uid", "web", [container("c", ContainerKind::Regular, &[])]),
            &ContainerName::from("c"),
            ContainerId::from("c-1"),
            NetnsRef::Own,
            addr,
        ));
        passive.watch.send(ToWatch::Register(Arc::clone(&target))).expect("room");
        target
    }

    /// A connect that works, until it earns a lease: group and value of it.
    fn lease(&self, target: &Target) -> (Arc<Group>, u64) {
        let counters = &self.threads.passive().counters;
        let mut last = None;
        until(|| {
            target.forget_end();
            let before = target.before(counters)?;
            let _stream = TcpStream::connect(target.addr()).expect("it listens");
            let now = clock::now();
            match target.grant(counters, before, now + Duration::from_secs(60), now) {
                Ok(group) => Some((group, before.value())),
                Err(why) => {
                    last = Some(why);
                    None
                }
            }
        })
        .unwrap_or_else(|| panic!("no lease: {last:?}"))
    }

    fn held(&self, target: &Target, (group, value): &(Arc<Group>, u64)) -> Result<(), Why> {
        target.held(&self.threads.passive().counters, group, *value, clock::now())
    }
}

fn until<T>(mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = clock::now() + SOON;
    while clock::now() < deadline {
        if let Some(found) = condition() {
            return Some(found);
        }
        // tidy: the condition is in memory that another thread writes, with no event to wait for
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Accepts and closes, as a server does.
fn serve(listener: TcpListener) -> JoinHandle<()> {
    thread::spawn(move || {
        // The first byte ends it, and with it the listener.
        while let Ok((mut stream, _)) = listener.accept() {
            let mut byte = [0];
            if matches!(io::Read::read(&mut stream, &mut byte), Ok(1)) {
                return;
            }
        }
    })
}

/// When it returns, the listener is closed.
fn stop(target: &Target, server: JoinHandle<()>) {
    io::Write::write_all(&mut TcpStream::connect(target.addr()).expect("it listens"), b"x").expect("sent");
    server.join().expect("it closed its listener");
}

#[test]
fn a_lease_is_earned_on_the_real_kernel_and_ends_with_the_close_of_its_listener() {
    let name = "a_lease_is_earned_on_the_real_kernel_and_ends_with_the_close_of_its_listener";
    let settings = PassiveSettings { early_detection: true, ..PassiveSettings::default() };
    let Some(running) = running(name, settings) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = running.target(listener.local_addr().expect("its address"));
    let server = serve(listener);
    let lease = running.lease(&target);
    assert_eq!(running.held(&target, &lease), Ok(()));
    // Looks go on: it outlives the first one.
    let looks = running.stats.looks.load(Relaxed);
    until(|| (running.stats.looks.load(Relaxed) >= looks + 3).then_some(())).expect("looks");
    assert_eq!(running.held(&target, &lease), Ok(()));
    stop(&target, server);
    assert_eq!(running.held(&target, &lease), Err(Why::Changed));
    let touched = until(|| running.shard.pop_command()).expect("early detection");
    assert!(matches!(touched, Command::Detect { target: id } if id == target.id), "{touched:?}");
    until(|| (target.look_found() == Some(Why::NoListener)).then_some(())).expect("a look without the listener");
    assert!(running.stats.events.load(Relaxed) > 0);
    assert_eq!(running.stats.self_tests_failed.load(Relaxed), 0);
    assert_eq!(running.stats.unannounced.load(Relaxed), 0);
}

#[test]
fn all_leases_end_with_the_threads() {
    let Some(running) = running("all_leases_end_with_the_threads", PassiveSettings::default()) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = running.target(listener.local_addr().expect("its address"));
    let server = serve(listener);
    let (group, value) = running.lease(&target);
    let counters = Arc::clone(&running.threads.passive().counters);
    drop(running.threads);
    assert_eq!(target.held(&counters, &group, value, clock::now()), Err(Why::Unavailable));
    stop(&target, server);
}

#[test]
fn a_listener_that_never_accepts_is_told_as_an_event_on_the_pod() {
    let name = "a_listener_that_never_accepts_is_told_as_an_event_on_the_pod";
    let Some(mut running) = running(name, PassiveSettings::default()) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = running.target(listener.local_addr().expect("its address"));
    let _waiting = TcpStream::connect(target.addr()).expect("it listens");
    let event = until(|| running.events.try_recv().ok()).expect("an event");
    assert_eq!((event.reason, event.event_type), ("AcceptStalled", EventType::Warning));
    assert_eq!(running.stats.accept_queues_stalled.load(Relaxed), 1);
    assert!(event.message.starts_with("Accept stalled: 1 connections wait at 127.0.0.1:"), "{}", event.message);
}

#[test]
fn events_of_listeners_reach_the_table_soon() {
    let Some(running) = running("events_of_listeners_reach_the_table_soon", PassiveSettings::default()) else { return };
    until(|| (running.stats.events.load(Relaxed) > 0).then_some(())).expect("the self-test's");
    let before = running.stats.event_lag.snapshot();
    for _ in 0..100 {
        let seen = running.stats.events.load(Relaxed);
        drop(TcpListener::bind("127.0.0.1:0").expect("a port"));
        until(|| (running.stats.events.load(Relaxed) >= seen + 2).then_some(())).expect("an event for each");
    }
    let lag = running.stats.event_lag.snapshot().since(&before);
    assert!(lag.len() >= 199, "{} events", lag.len());
    // The machine may be busy with other tests: the figures for idle and busy ones are the suite's and the bench's.
    assert!(lag.quantile_ns(0.5) < 1_000_000_000, "median {} ns", lag.quantile_ns(0.5));
    eprintln!("event lag: p50 {} ns, p99 {} ns", lag.quantile_ns(0.5), lag.quantile_ns(0.99));
}

#[test]
fn a_kernel_version_is_read_from_its_release() {
    assert_eq!(kernel_version("6.18.3-cloud-amd64\n"), Some((6, 18)));
    assert_eq!(kernel_version("7.0.0-rc1"), Some((7, 0)));
    assert_eq!(kernel_version(""), None);
}
