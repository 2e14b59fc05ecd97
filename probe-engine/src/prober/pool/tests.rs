use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use probe_core::action::WorkerIndex;
use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::spec::{Exec, Grpc, Pod, ProbeSpec};

use super::*;
use crate::runtime::{BoxFuture, Instance, RuntimeError, RuntimeEvent, Started};

const PATIENCE: Duration = Duration::from_secs(30);

/// Collects replies and lets tests wait for them.
#[derive(Default)]
struct Sink {
    seen: Mutex<Vec<PoolReply>>,
    arrived: Condvar,
}

impl ReplySink for Sink {
    fn reply(&self, shard: usize, reply: PoolReply) {
        assert_eq!(shard, 3);
        self.seen.lock().expect("the sink").push(reply);
        self.arrived.notify_all();
    }
}

impl Sink {
    /// Waits until `enough` of what came holds.
    fn wait(&self, enough: impl Fn(&[PoolReply]) -> bool) {
        let seen = self.seen.lock().expect("the sink");
        let (seen, timeout) = self.arrived.wait_timeout_while(seen, PATIENCE, |seen| !enough(seen)).expect("the sink");
        assert!(!timeout.timed_out(), "only {seen:?}");
    }

    fn wait_done(&self, count: usize) {
        self.wait(|seen| seen.iter().filter(|reply| is_done(reply)).count() >= count);
    }

    fn wait_started(&self, count: usize) {
        self.wait(|seen| seen.iter().filter(|reply| !is_done(reply)).count() >= count);
    }

    /// Outcomes by attempt; asserts that none was answered twice.
    fn outcomes(&self) -> HashMap<u32, Outcome> {
        let mut outcomes = HashMap::new();
        for reply in &*self.seen.lock().expect("the sink") {
            if let PoolReply::Done { attempt, outcome, .. } = reply {
                let before = outcomes.insert(attempt.worker.0, outcome.clone());
                assert!(before.is_none(), "attempt {attempt:?} was answered twice");
            }
        }
        outcomes
    }
}

fn is_done(reply: &PoolReply) -> bool {
    matches!(reply, PoolReply::Done { .. })
}

/// Runs exec probes on this host; the command `panic` panics.
struct HostRuntime;

impl ContainerRuntime for HostRuntime {
    fn name(&self) -> &'static str {
        "host"
    }

    fn manages_containers(&self) -> bool {
        false
    }

    fn pod_ip(&self, _pod: &Pod) -> Option<IpAddr> {
        None
    }

    fn start<'a>(
        &'a self,
        _pod: &'a Arc<Pod>,
        _container: &'a ContainerName,
        _restart_count: u32,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        unreachable!("the pool starts nothing")
    }

    fn stop<'a>(&'a self, _id: &'a ContainerId, _grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        unreachable!("the pool stops nothing")
    }

    fn exec<'a>(
        &'a self,
        _id: &'a ContainerId,
        command: &'a [Box<str>],
        limit: Option<Duration>,
    ) -> BoxFuture<'a, exec::Execution> {
        Box::pin(async move {
            assert_ne!(&*command[0], "panic", "as asked for");
            exec::run(exec::host_command(command), limit).await
        })
    }

    fn remove_pod<'a>(&'a self, _uid: &'a PodUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        unreachable!("the pool removes nothing")
    }

    fn log_files(&self, _pod: &Pod, _container: &ContainerName, _previous: bool) -> Result<Vec<PathBuf>, RuntimeError> {
        Ok(Vec::new())
    }

    fn take_events(&self) -> Option<tokio::sync::mpsc::Receiver<RuntimeEvent>> {
        None
    }

    fn shutdown<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn pool(config: PoolConfig) -> (Pool, Arc<Sink>) {
    let sink = Arc::new(Sink::default());
    let runtime: Arc<dyn ContainerRuntime> = Arc::new(HostRuntime);
    let pool = Pool::start(config, Some(runtime), Arc::clone(&sink) as Arc<dyn ReplySink>);
    (pool.expect("a pool"), sink)
}

fn request(handler: Handler, timeout_seconds: u32) -> Request {
    Request {
        spec: Arc::new(ProbeSpec {
            handler,
            initial_delay_seconds: 0,
            timeout_seconds,
            period_seconds: 10,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        }),
        pod_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        instance: Some(Instance { pod: "uid".into(), container: "c".into(), id: ContainerId::from("host://1") }),
        label: "default/pod/container".into(),
    }
}

fn job(number: u32, handler: HandlerKind, request: Request) -> Job {
    Job {
        shard: 3,
        attempt: AttemptId { worker: WorkerIndex(number), generation: 0 },
        handler,
        request,
        deadline_from: None,
        resume: None,
        requests_made: 0,
    }
}

fn exec_job(number: u32, script: &str, timeout_seconds: u32) -> Job {
    let command = ["/bin/sh", "-c", script].map(Box::from);
    let handler = Handler::Exec(Exec { command: Box::new(command) });
    job(number, HandlerKind::Exec, request(handler, timeout_seconds))
}

fn grpc_job(number: u32, port: u16, timeout_seconds: u32) -> Job {
    let handler = Handler::Grpc(Grpc { port, service: "".into() });
    job(number, HandlerKind::Grpc, request(handler, timeout_seconds))
}

/// A gRPC health server on a thread of its own; ends with the returned sender.
fn health_server() -> (u16, tokio::sync::oneshot::Sender<()>) {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (tell, port) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            tell.send(listener.local_addr().expect("its address").port()).expect("the test waits");
            let (reporter, service) = tonic_health::server::health_reporter();
            reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
            let server = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
            tokio::select! {
                served = server => served.expect("the server"),
                _ = ended => {}
            }
        });
    });
    (port.recv().expect("the server's port"), end)
}

fn submit(handle: &PoolHandle, job: Job) {
    assert!(handle.try_submit(job).is_ok(), "the queue is full");
}

#[test]
fn each_handler_answers() {
    let config = PoolConfig::default();
    let (port, _end) = health_server();
    let (pool, sink) = pool(config);
    let handle = pool.handle();
    submit(&handle, exec_job(1, "echo well", 10));
    submit(&handle, grpc_job(2, port, 10));
    sink.wait_done(2);
    let outcomes = sink.outcomes();
    assert_eq!(outcomes[&1], Outcome::Success("well\n".into()));
    assert_eq!(outcomes[&2], Outcome::Success("service healthy".into()));
    pool.shutdown();
}

#[test]
fn started_comes_before_done_and_latency_counts_from_there() {
    let (pool, sink) = pool(PoolConfig::default());
    submit(&pool.handle(), exec_job(1, "true", 10));
    sink.wait_done(1);
    let seen = sink.seen.lock().expect("the sink");
    let [PoolReply::Started { attempt, at }, PoolReply::Done { attempt: done, latency_ns, .. }] = seen.as_slice()
    else {
        panic!("{seen:?}");
    };
    assert_eq!(attempt, done);
    assert!(*latency_ns > 0 && Duration::from_nanos(*latency_ns) <= clock::now() - *at);
}

#[test]
fn a_full_queue_gives_the_job_back_and_bounds_hold() {
    let (pool, sink) = pool(PoolConfig { queue_len_max: 2, exec_concurrent_max: 1, ..PoolConfig::default() });
    let handle = pool.handle();
    let gate = tempfile::tempdir().expect("a directory");
    let open = gate.path().join("open");
    let wait = format!("until [ -e {} ]; do sleep 0.01; done", open.display());
    submit(&handle, exec_job(1, &wait, 20));
    sink.wait_started(1);
    submit(&handle, exec_job(2, "true", 20));
    submit(&handle, exec_job(3, "true", 20));
    assert_eq!((handle.queue_len(HandlerKind::Exec), handle.in_flight(HandlerKind::Exec)), (2, 1));
    let back = handle.try_submit(exec_job(4, "true", 20)).expect_err("a full queue");
    assert_eq!(back.attempt.worker, WorkerIndex(4));
    assert_eq!(handle.in_flight(HandlerKind::Grpc), 0);

    fs::write(open, "").expect("a file");
    sink.wait_done(3);
    assert_eq!((handle.queue_len(HandlerKind::Exec), handle.in_flight(HandlerKind::Exec)), (0, 0));
    // One at a time: each start comes after the end before it.
    let seen = sink.seen.lock().expect("the sink");
    assert!(seen.iter().map(is_done).eq([false, true, false, true, false, true]), "{seen:?}");
}

#[test]
fn a_stuck_exec_delays_no_grpc() {
    let config = PoolConfig::default();
    let (port, _end) = health_server();
    let (pool, sink) = pool(PoolConfig { threads: 1, exec_concurrent_max: 2, ..config });
    let handle = pool.handle();
    for number in 0..10 {
        submit(&handle, exec_job(number, "sleep 60", 60));
    }
    sink.wait_started(2);
    for number in 10..30 {
        submit(&handle, grpc_job(number, port, 10));
    }
    sink.wait_done(20);
    let outcomes = sink.outcomes();
    assert!((10..30).all(|number| matches!(outcomes[&number], Outcome::Success(_))));
    assert_eq!(handle.in_flight(HandlerKind::Exec), 2);
    pool.shutdown();
    assert_eq!(sink.outcomes().len(), 30);
}

#[test]
fn shutdown_answers_what_waits_and_what_is_at_work() {
    let config = PoolConfig::default();
    let (pool, sink) = pool(PoolConfig { exec_concurrent_max: 2, ..config });
    let handle = pool.handle();
    for number in 0..6 {
        submit(&handle, exec_job(number, "sleep 60", 60));
    }
    sink.wait_started(2);
    pool.shutdown();
    let outcomes = sink.outcomes();
    assert_eq!(outcomes.len(), 6);
    assert!(outcomes.values().all(|outcome| *outcome == Outcome::Local(LocalCause::Pool)));
    assert!(handle.try_submit(exec_job(7, "true", 1)).is_err());
    assert_eq!(handle.in_flight(HandlerKind::Exec), 0);
}

#[test]
fn submitting_while_the_pool_ends_loses_no_job() {
    for _ in 0..20 {
        let (pool, sink) = pool(PoolConfig::default());
        let handle = pool.handle();
        let submitter = std::thread::spawn(move || {
            // Refused at once: no container. A full queue gives jobs back too, so the end is asked for.
            let mut refused = exec_job(0, "true", 1);
            refused.request.instance = None;
            let mut accepted = 0;
            while !handle.shared.closed.load(Ordering::SeqCst) {
                refused.attempt.worker = WorkerIndex(accepted);
                accepted += u32::from(handle.try_submit(refused.clone()).is_ok());
            }
            accepted
        });
        sink.wait_started(1);
        pool.shutdown();
        let accepted = submitter.join().expect("no panic");
        sink.wait_done(accepted as usize);
        assert_eq!(sink.outcomes().len(), accepted as usize);
    }
}

#[test]
fn a_panic_in_an_attempt_is_answered_and_the_pool_goes_on() {
    let (pool, sink) = pool(PoolConfig::default());
    let handle = pool.handle();
    let handler = Handler::Exec(Exec { command: Box::new(["panic".into()]) });
    submit(&handle, job(1, HandlerKind::Exec, request(handler, 1)));
    sink.wait_done(1);
    assert_eq!(sink.outcomes()[&1], Outcome::Local(LocalCause::Pool));
    submit(&handle, exec_job(2, "true", 10));
    sink.wait_done(2);
    assert_eq!(sink.outcomes()[&2], Outcome::Success("".into()));
}

#[test]
fn x07_with_exec_probe_timeout_off_a_timeout_is_an_error() {
    let text: Box<str> = "command timed out: \"/bin/sh -c sleep 60\" timed out after 1s".into();
    for (exec_probe_timeout, expected) in
        [(false, Outcome::Error(text.clone())), (true, Outcome::Failure(text.clone()))]
    {
        let (pool, sink) = pool(PoolConfig { exec_probe_timeout, ..PoolConfig::default() });
        submit(&pool.handle(), exec_job(1, "sleep 60", 1));
        sink.wait_done(1);
        assert_eq!(sink.outcomes()[&1], expected);
    }
}

#[test]
fn exec_without_a_runtime_or_a_container_is_an_error() {
    let sink = Arc::new(Sink::default());
    let pool = Pool::start(PoolConfig::default(), None, Arc::clone(&sink) as Arc<dyn ReplySink>);
    let pool = pool.expect("a pool");
    submit(&pool.handle(), exec_job(1, "true", 1));
    sink.wait_done(1);
    assert!(matches!(&sink.outcomes()[&1], Outcome::Error(text) if text.contains("runtime")));
    drop(pool);

    let (pool, sink) = self::pool(PoolConfig::default());
    let mut job = exec_job(1, "true", 1);
    job.request.instance = None;
    submit(&pool.handle(), job);
    sink.wait_done(1);
    assert!(matches!(&sink.outcomes()[&1], Outcome::Error(text) if text.contains("not running")));
}

#[test]
fn time_in_the_queue_is_given_back_to_an_attempt_that_a_shard_began() {
    let (pool, sink) = pool(PoolConfig { grpc_concurrent_max: 1, threads: 1, ..PoolConfig::default() });
    let (port, _end) = health_server();
    let stalls = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let stalls_port = stalls.local_addr().expect("its address").port();
    // The second waits for 2 s behind the first, which is longer than its own timeout.
    submit(&pool.handle(), grpc_job(1, stalls_port, 2));
    let mut second = grpc_job(2, port, 1);
    second.deadline_from = Some(clock::now());
    submit(&pool.handle(), second);
    sink.wait_done(2);
    assert_eq!(sink.outcomes()[&2], Outcome::Success("service healthy".into()));
}

#[test]
fn a_size_of_nothing_is_refused_with_its_name() {
    let config = PoolConfig { exec_concurrent_max: 0, ..PoolConfig::default() };
    let error = Pool::start(config, None, Arc::new(Sink::default())).err();
    let text = error.map(|error| error.to_string());
    assert_eq!(text.as_deref(), Some("pool exec_concurrent_max is 0; it must be 1 or more"));
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// Processes whose parent is this one, zombies included.
fn children() -> usize {
    let ours = format!(" {} ", std::process::id());
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| {
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            rest.get(1..).is_some_and(|rest| rest.starts_with(&ours))
        })
        .count()
}

/// Needs a process of its own, as cargo-nextest gives every test: it counts descriptors and children.
#[test]
fn two_hundred_attempts_leave_no_descriptor_and_no_zombie() {
    if std::env::var_os("NEXTEST").is_none() {
        return;
    }
    let config = PoolConfig::default();
    let (port, _end) = health_server();
    let refusing = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let (pool, sink) = pool(config);
    let handle = pool.handle();
    let round = |from: u32, count: u32| {
        for number in from..from + count {
            submit(
                &handle,
                match number % 4 {
                    0 | 1 => grpc_job(number, port, 10),
                    2 => exec_job(number, "sleep 0.01 & exit 1", 10),
                    _ => exec_job(number, "exit 0", 10),
                },
            );
        }
        sink.wait_done((from + count) as usize);
    };
    round(0, 20);
    let before = descriptors();
    round(20, 200);
    submit(&handle, exec_job(220, "sleep 60", 1));
    submit(&handle, grpc_job(221, 1, 1));
    sink.wait_done(222);
    // The server's ends of the connections close after ours.
    let start = clock::now();
    while descriptors() > before {
        assert!(clock::now() - start < PATIENCE, "{} > {before}", descriptors());
        std::thread::yield_now();
    }
    assert_eq!(children(), 0);
    drop(refusing);
}
