use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use probe_core::id::ContainerName;
use probe_core::spec::{ContainerKind, Pod};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Code;

mod serving;
mod tcp;

use super::*;
use crate::api::v1::watch_events_response::Item;
use crate::cli::client::{self, Client};
use crate::consumer::events::{self, EventSender, EventType, NewEvent};
use crate::consumer::overview::{HandlerOverview, Overview};
use crate::prober::exec::Execution;
use crate::results::fixture::{Bench, SOON, container, pod, publish, report, running};
use crate::results::{Input, Update};
use crate::runtime::none::NoneRuntime;
use crate::runtime::{BoxFuture, RuntimeError, RuntimeEvent, Started};
use crate::shard::metrics::{HandlerKind, OutcomeKind};
use crate::source::PodUpdate;
use crate::source::manifest::ManifestConfig;
use crate::source::parse::{RuntimeKind, Strictness};

mod watching;

/// The server over a results stage that knows two pods, on a socket of its own.
struct Daemon {
    bench: Bench,
    client: Client,
    path: PathBuf,
    events: EventSender,
    updates: mpsc::Receiver<PodUpdate>,
    end: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
    _facts: watch::Sender<Facts>,
}

impl Daemon {
    async fn start(runtime: Arc<dyn ContainerRuntime>) -> Self {
        Self::start_with(runtime, None).await
    }

    async fn start_with(runtime: Arc<dyn ContainerRuntime>, tcp: Option<Tcp>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("run/api.sock");
        let bench = Bench::start(16, 16);
        let web = pod("u1", "web", [container("c", ContainerKind::Regular, &[ProbeType::Liveness])]);
        let mut labelled = (*web).clone();
        labelled.labels = Arc::new([(Arc::from("app"), Arc::from("web"))]);
        let web = Arc::new(labelled);
        bench.add(&web, Some(running(&web, "fake://1"))).await;
        let two = [ProbeType::Startup, ProbeType::Readiness];
        let containers = ["c", "d"].map(|name| container(name, ContainerKind::Regular, &two));
        bench.add(&pod("u2", "api", containers), None).await;
        let (updates_in, updates) = mpsc::channel(4);
        let (events_in, events, inbox) = events::channel();
        tokio::spawn(events::run(inbox));
        let (facts_in, facts) = watch::channel(facts());
        let backend = Backend {
            results: bench.results.clone(),
            events,
            control: Control::new(updates_in.clone(), bench.results.clone()),
            pods: ApiSource::new(updates_in, bench.results.clone(), reading(), true),
            broker: None,
            runtime,
            facts,
            overviews: watch::channel(Arc::new(overview())).1,
        };
        let socket = Socket::bind(&path).expect("bind");
        let (end, ended) = oneshot::channel::<()>();
        let health = Health::new(Vec::new(), bench.results.clone());
        let server = tokio::spawn(serve(socket, tcp, backend, health, async {
            let _ = ended.await;
        }));
        let client = client::connect(&path).await.expect("connect");
        Self { bench, client, path, events: events_in, updates, end, server, _dir: dir, _facts: facts_in }
    }

    async fn pods(&mut self, filter: v1::PodFilter) -> Result<Vec<String>, Status> {
        let request = v1::ListPodsRequest { filter: Some(filter) };
        let mut parts = self.client.list_pods(request).await?.into_inner();
        let mut names = Vec::new();
        while let Some(part) = parts.message().await? {
            names.extend(part.pods.into_iter().map(|pod| pod.name));
        }
        Ok(names)
    }

    async fn tell(&self, reason: &'static str, message: &str) {
        let event = NewEvent {
            pod: pod("u1", "web", [container("c", ContainerKind::Regular, &[])]),
            container: Some(ContainerName::from("c")),
            event_type: EventType::Warning,
            reason,
            message: message.to_owned(),
            probe_type: Some(ProbeType::Liveness),
            run: 2,
            threshold: 3,
            cause: None,
            at: clock::now(),
        };
        self.events.send(event).await.expect("the stage runs");
    }
}

fn reading() -> ManifestConfig {
    ManifestConfig {
        paths: Vec::new(),
        strictness: Strictness::Run,
        runtime: RuntimeKind::None,
        ignore_unsupported: false,
        memory_limits: false,
    }
}

fn overview() -> Overview {
    let tcp = HandlerOverview { handler: "tcp", passive: 7, failed: 1, ..HandlerOverview::default() };
    Overview { at_ms: 1_700_000_000_500, probes: 5, handlers: vec![tcp], cpu_cores: 0.25, ..Overview::default() }
}

fn facts() -> Facts {
    Facts {
        started_at: clock::wall(),
        started: clock::now(),
        shards: vec![ShardFacts { io: "epoll", fallback_reason: Some("refused".to_owned()) }],
        sources: Vec::new(),
        ebpf: "off".to_owned(),
        passive: None,
        ebpf_stats: None,
        metrics_address: None,
        dashboard_address: None,
        api_address: None,
        node_name: "node-1".to_owned(),
        instance: "this-one".to_owned(),
    }
}

fn none() -> Arc<dyn ContainerRuntime> {
    Arc::new(NoneRuntime::default())
}

/// A runtime with one log file.
struct Logged(PathBuf);

impl ContainerRuntime for Logged {
    fn name(&self) -> &'static str {
        "logged"
    }

    fn manages_containers(&self) -> bool {
        false
    }

    fn pod_ip(&self, _: &Pod) -> Option<std::net::IpAddr> {
        None
    }

    fn start<'a>(
        &'a self,
        _: &'a Arc<Pod>,
        _: &'a ContainerName,
        _: u32,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        unreachable!("nothing is started")
    }

    fn stop<'a>(&'a self, _: &'a probe_core::id::ContainerId, _: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        unreachable!("nothing is stopped")
    }

    fn exec<'a>(
        &'a self,
        _: &'a probe_core::id::ContainerId,
        _: &'a [Box<str>],
        _: Option<Duration>,
    ) -> BoxFuture<'a, Execution> {
        unreachable!("nothing is run")
    }

    fn remove_pod<'a>(&'a self, _: &'a PodUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        unreachable!("nothing is removed")
    }

    fn log_files(&self, _: &Pod, _: &ContainerName, previous: bool) -> Result<Vec<PathBuf>, RuntimeError> {
        Ok(if previous { Vec::new() } else { vec![self.0.clone()] })
    }

    fn take_events(&self) -> Option<mpsc::Receiver<RuntimeEvent>> {
        None
    }

    fn shutdown<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_daemon_says_who_it_is() {
    let mut daemon = Daemon::start(none()).await;
    assert_eq!(mode(&daemon.path), 0o600);
    let info = daemon.client.get_info(v1::GetInfoRequest {}).await.expect("info").into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((info.pods_count, info.probes_count), (2, 5));
    assert_eq!((info.runtime.as_str(), info.node_name.as_str()), ("none", "node-1"));
    assert_eq!((info.shards[0].io.as_str(), info.shards[0].fallback_reason.as_str()), ("epoll", "refused"));
    assert_eq!(info.pid, std::process::id());
}

#[tokio::test]
async fn pods_are_listed_by_name_and_selected_by_labels() {
    let mut daemon = Daemon::start(none()).await;
    let by = |selector: &str| v1::PodFilter { label_selector: selector.to_owned(), ..v1::PodFilter::default() };
    assert_eq!(daemon.pods(v1::PodFilter::default()).await.expect("pods"), ["api", "web"]);
    assert_eq!(daemon.pods(by("app=web")).await.expect("pods"), ["web"]);
    assert_eq!(daemon.pods(by("!app")).await.expect("pods"), ["api"]);
    let elsewhere = v1::PodFilter { namespace: "other".to_owned(), ..v1::PodFilter::default() };
    assert!(daemon.pods(elsewhere).await.expect("pods").is_empty());
    let refused = daemon.pods(by("app in web")).await.expect_err("no selector");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_large_answer_comes_in_parts() {
    let mut daemon = Daemon::start(none()).await;
    for number in 0..limits::API_PODS_PER_PART {
        let name = format!("many-{number}");
        daemon.bench.add(&pod(&name, &name, [container("c", ContainerKind::Regular, &[])]), None).await;
    }
    let mut parts = daemon.client.list_pods(v1::ListPodsRequest::default()).await.expect("pods").into_inner();
    let mut sizes = Vec::new();
    while let Some(part) = parts.message().await.expect("part") {
        sizes.push(part.pods.len());
    }
    assert_eq!(sizes, [limits::API_PODS_PER_PART, 2]);
}

#[tokio::test]
async fn one_pod_is_found_or_not() {
    let mut daemon = Daemon::start(none()).await;
    let named = |name: &str| v1::GetPodRequest { namespace: String::new(), name: name.to_owned() };
    let pod = daemon.client.get_pod(named("web")).await.expect("web").into_inner().pod.expect("a pod");
    assert_eq!((pod.uid.as_str(), pod.namespace.as_str(), pod.phase()), ("u1", "default", v1::PodPhase::Running));
    let container = &pod.containers[0];
    assert_eq!((container.id.as_str(), container.probes.len()), ("fake://1", 1));
    assert_eq!(container.probes[0].spec.as_ref().expect("a spec").failure_threshold, 3);
    let missing = daemon.client.get_pod(named("wbe")).await.expect_err("no such pod");
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains("wbe"), "{missing}");
}

#[tokio::test]
async fn failing_probes_are_those_whose_verdict_or_last_attempt_is_bad() {
    let mut daemon = Daemon::start(none()).await;
    let failing = |failing| v1::ListProbesRequest { filter: None, failing, near_miss: false };
    async fn count(client: &mut Client, request: v1::ListProbesRequest) -> Vec<v1::ProbeRow> {
        let mut parts = client.list_probes(request).await.expect("probes").into_inner();
        let mut rows = Vec::new();
        while let Some(part) = parts.message().await.expect("part") {
            rows.extend(part.probes);
        }
        rows
    }
    assert_eq!(count(&mut daemon.client, failing(false)).await.len(), 5);
    assert!(count(&mut daemon.client, failing(true)).await.is_empty());
    daemon.bench.push(report("u1", ProbeType::Liveness, Outcome::Failure("no".into())));
    let rows = count(&mut daemon.client, failing(true)).await;
    let probe = rows[0].probe.as_ref().expect("a probe");
    assert_eq!((rows.len(), rows[0].pod.as_str(), probe.last()), (1, "web", v1::OutcomeKind::Failure));
    assert_eq!(probe.last_message, "no");
}

#[tokio::test]
async fn a_trigger_waits_for_the_verdict_that_its_attempt_leads_to() {
    let mut daemon = Daemon::start(none()).await;
    let queue = Arc::clone(&daemon.bench.queue);
    let mut updates = daemon.updates;
    let results = daemon.bench.results.clone();
    let shard = tokio::spawn(async move {
        let Some(PodUpdate::Trigger(uid, ..)) = updates.recv().await else { panic!("no trigger") };
        let Update::Report(mut report) = report(uid.as_str(), ProbeType::Liveness, Outcome::Failure("no".into()))
        else {
            panic!("no report")
        };
        report.run = 3;
        queue.push(Update::Report(report)).expect("room");
        // The verdict comes after the report has been read.
        results.read(|_| ()).await.expect("the stage runs");
        queue.push(publish(uid.as_str(), ProbeType::Liveness, "fake://1", Some(Verdict::Failure))).expect("room");
    });
    let request = |pod: &str, container: &str, probe_type: v1::ProbeType| v1::TriggerProbeRequest {
        namespace: String::new(),
        pod: pod.to_owned(),
        container: container.to_owned(),
        r#type: probe_type.into(),
    };
    let answer = daemon.client.trigger_probe(request("web", "", v1::ProbeType::Liveness)).await;
    let answer = answer.expect("an answer").into_inner();
    shard.await.expect("no panic");
    assert_eq!((answer.run, answer.threshold), (3, 3));
    assert_eq!((answer.outcome(), answer.message.as_str()), (v1::OutcomeKind::Failure, "no"));
    assert_eq!((answer.verdict_before(), answer.verdict()), (v1::Verdict::Unspecified, v1::Verdict::Failure));
    for (pod, container, probe_type, code) in [
        ("wbe", "", v1::ProbeType::Liveness, Code::NotFound),
        ("web", "", v1::ProbeType::Unspecified, Code::InvalidArgument),
        ("web", "x", v1::ProbeType::Liveness, Code::NotFound),
        ("web", "c", v1::ProbeType::Startup, Code::NotFound),
        ("api", "", v1::ProbeType::Startup, Code::InvalidArgument),
    ] {
        let refused = daemon.client.trigger_probe(request(pod, container, probe_type)).await.expect_err(pod);
        assert_eq!(refused.code(), code, "{pod}/{container}: {refused}");
    }
}

#[tokio::test]
async fn events_are_told_up_to_now_or_followed() {
    let mut daemon = Daemon::start(none()).await;
    daemon.tell("Unhealthy", "one").await;
    daemon.tell("Killing", "two").await;
    let request =
        |follow| v1::WatchEventsRequest { pod: "web".to_owned(), follow, ..v1::WatchEventsRequest::default() };
    let mut followed = daemon.client.watch_events(request(true)).await.expect("events").into_inner();
    let mut next = async || tokio::time::timeout(SOON, followed.message()).await.expect("in time").expect("item");
    let mut reasons = Vec::new();
    loop {
        match next().await.expect("goes on").item.expect("an item") {
            Item::Event(event) => reasons.push(event.reason),
            Item::CaughtUp(_) if reasons.len() == 2 => break,
            // The stage may take the question before the events.
            Item::CaughtUp(_) => {}
            Item::PlaceLost(lost) => panic!("{lost:?}"),
        }
        if reasons.len() == 2 {
            break;
        }
    }
    assert_eq!(reasons, ["Unhealthy", "Killing"]);
    let mut kept = daemon.client.watch_events(request(false)).await.expect("events").into_inner();
    let mut runs = Vec::new();
    while let Some(part) = kept.message().await.expect("part") {
        let Some(Item::Event(event)) = part.item else { panic!("{part:?}") };
        runs.push((event.sequence, event.run, event.threshold, event.container));
    }
    assert_eq!(runs, [(1, 2, 3, "c".to_owned()), (2, 2, 3, "c".to_owned())]);
}

#[tokio::test]
async fn logs_are_streamed_without_their_format_and_refusals_are_answers() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = dir.path().join("0.log");
    std::fs::write(&log, "2025-01-02T03:04:05Z stdout F hello\n2025-01-02T03:04:05Z stderr F again\n").expect("write");
    let mut daemon = Daemon::start(Arc::new(Logged(log))).await;
    let request = |pod: &str, previous| v1::StreamLogsRequest {
        pod: pod.to_owned(),
        previous,
        tail_lines_count: Some(1),
        ..v1::StreamLogsRequest::default()
    };
    let mut parts = daemon.client.stream_logs(request("web", false)).await.expect("logs").into_inner();
    let mut text = Vec::new();
    while let Some(part) = parts.message().await.expect("part") {
        text.extend(part.data);
    }
    assert_eq!(text, b"again\n");
    let previous = daemon.client.stream_logs(request("web", true)).await.expect_err("no previous instance");
    assert_eq!(previous.code(), Code::NotFound);
    let ambiguous = daemon.client.stream_logs(request("api", false)).await.expect_err("two containers");
    assert!(ambiguous.code() == Code::InvalidArgument && ambiguous.message().contains("c, d"), "{ambiguous}");

    let mut daemon = Daemon::start(none()).await;
    let refused = daemon.client.stream_logs(request("web", false)).await.expect_err("runtime none");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn the_end_ends_followers_and_removes_the_socket() {
    let mut daemon = Daemon::start(none()).await;
    let request = v1::WatchEventsRequest { follow: true, ..v1::WatchEventsRequest::default() };
    let mut followed = daemon.client.watch_events(request).await.expect("events").into_inner();
    let first = followed.message().await.expect("item").expect("goes on");
    assert!(matches!(first.item, Some(Item::CaughtUp(_))));
    daemon.end.send(()).expect("it serves");
    tokio::time::timeout(SOON, daemon.server).await.expect("in time").expect("no panic").expect("served");
    assert!(matches!(followed.message().await, Ok(None) | Err(_)));
    assert!(!daemon.path.exists());
}

#[tokio::test]
async fn the_end_waits_a_bounded_time_for_clients_that_only_keep_their_connections() {
    let mut daemon = Daemon::start(none()).await;
    daemon.client.get_info(v1::GetInfoRequest {}).await.expect("served");
    let silent = tokio::net::UnixStream::connect(&daemon.path).await.expect("it listens");
    daemon.end.send(()).expect("it serves");
    tokio::time::timeout(SOON, daemon.server).await.expect("in time").expect("no panic").expect("served");
    assert!(!daemon.path.exists());
    drop((silent, daemon.client));
}

#[tokio::test]
async fn a_watcher_of_the_node_gets_the_newest_overview_at_once() {
    let mut daemon = Daemon::start(none()).await;
    let mut watched = daemon.client.watch_node(v1::WatchNodeRequest {}).await.expect("served").into_inner();
    let node = watched.message().await.expect("a message").expect("one");
    assert_eq!(convert::timestamp_from(node.at.as_ref()), Timestamp::from_millisecond(1_700_000_000_500).ok());
    assert_eq!((node.probes_count, node.cpu_cores), (5, 0.25));
    assert_eq!(
        (node.handlers[0].handler.as_str(), node.handlers[0].passive_count, node.handlers[0].failed_count),
        ("tcp", 7, 1)
    );
}

fn counted(latencies_us: &[u64]) -> Update {
    let mut counts = crate::shard::metrics::ShardMetrics::new();
    for us in latencies_us {
        counts.attempt(HandlerKind::Tcp, &Outcome::Success("".into()), Duration::from_micros(*us));
    }
    Update::Metrics(Box::new(counts))
}

/// Kind, handler, whether it is of a probe, values and counts.
type Told = (v1::HistogramKind, String, bool, Vec<u64>, Vec<u64>);

async fn next_latency(watch: &mut tonic::Streaming<v1::WatchLatencyResponse>) -> (bool, Vec<Told>) {
    let message =
        tokio::time::timeout(SOON, watch.message()).await.expect("in time").expect("well").expect("a message");
    let told =
        message.histograms.into_iter().map(|of| (of.kind(), of.handler, of.probe.is_some(), of.values_us, of.counts));
    (message.whole, told.collect())
}

/// The next message in which something is told.
async fn some_latency(watch: &mut tonic::Streaming<v1::WatchLatencyResponse>) -> Vec<Told> {
    loop {
        let (whole, told) = next_latency(watch).await;
        assert!(!whole);
        if !told.is_empty() {
            return told;
        }
    }
}

#[tokio::test]
async fn a_watch_of_latency_tells_all_first_and_then_what_came_since() {
    let mut daemon = Daemon::start(none()).await;
    daemon.bench.push(counted(&[100, 100, 5_000]));
    let request = v1::WatchLatencyRequest { interval_ms: 100, pods: None };
    let mut watch = daemon.client.watch_latency(request).await.expect("a stream").into_inner();
    let of = |values: &[u64], counts: &[u64]| {
        vec![(v1::HistogramKind::Latency, "tcp".to_owned(), false, values.to_vec(), counts.to_vec())]
    };
    assert_eq!(next_latency(&mut watch).await, (true, of(&[100, 5_023], &[2, 1])));
    daemon.bench.push(counted(&[100]));
    assert_eq!(some_latency(&mut watch).await, of(&[100], &[1]));
}

#[tokio::test]
async fn the_probes_of_watched_pods_have_histograms_of_their_own_while_they_are_watched() {
    let mut daemon = Daemon::start(none()).await;
    let pods = v1::PodFilter { name: "web".to_owned(), ..v1::PodFilter::default() };
    let request = v1::WatchLatencyRequest { interval_ms: 100, pods: Some(pods) };
    let mut watch = daemon.client.watch_latency(request).await.expect("a stream").into_inner();
    assert_eq!(next_latency(&mut watch).await, (true, Vec::new()));
    let tokens = |node: &Node| -> Vec<_> {
        let of = node.pods.values().flat_map(|record| record.containers().flat_map(|(_, of)| of.probes));
        of.filter_map(|probe| probe.stats.detail()).collect()
    };
    let tokens = daemon.bench.results.read(tokens).await.expect("the stage runs");
    let [token] = tokens[..] else { panic!("{tokens:?}: the probe of web, and no other") };
    for outcome in [OutcomeKind::Success, OutcomeKind::Failure] {
        daemon.bench.push(Update::Attempt { token, outcome, latency_us: 200, lateness_us: Some(30) });
    }
    let told = some_latency(&mut watch).await;
    let kinds: Vec<_> = told.iter().map(|(kind, _, _, values, counts)| (*kind, values[0], counts[0])).collect();
    let (latency, lateness) = (v1::HistogramKind::Latency, v1::HistogramKind::Lateness);
    assert_eq!(kinds, [(latency, 200, 1), (latency, 200, 1), (lateness, 30, 2)]);
    assert!(told.iter().all(|(_, handler, is_probe, ..)| handler == "tcp" && *is_probe));
}

#[tokio::test]
async fn there_are_as_many_watches_of_latency_as_may_be_and_one_that_goes_makes_room() {
    let mut daemon = Daemon::start(none()).await;
    let request = v1::WatchLatencyRequest::default();
    let mut streams = Vec::new();
    for _ in 0..limits::API_LATENCY_WATCHERS_MAX {
        streams.push(daemon.client.watch_latency(request.clone()).await.expect("a stream").into_inner());
    }
    let refused = daemon.client.watch_latency(request.clone()).await.expect_err("no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(streams.pop());
    let again = async {
        // The server hears of it after the client has.
        while daemon.client.watch_latency(request.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("room");
}

#[tokio::test]
async fn a_watch_of_latency_that_asks_for_too_much_is_refused_with_what_is_allowed() {
    let mut daemon = Daemon::start(none()).await;
    let request = v1::WatchLatencyRequest { interval_ms: 99, pods: None };
    let refused = daemon.client.watch_latency(request).await.expect_err("too often");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "interval_ms: 99 is not within 100 to 60000, nor 0");
    let probes = [ProbeType::Liveness, ProbeType::Readiness];
    for index in 0..=limits::DETAILED_PROBES_MAX / 2 {
        let name = format!("pod-{index}");
        daemon.bench.add(&pod(&name, &name, [container("c", ContainerKind::Regular, &probes)]), None).await;
    }
    let all = v1::WatchLatencyRequest { interval_ms: 0, pods: Some(v1::PodFilter::default()) };
    let refused = daemon.client.watch_latency(all).await.expect_err("too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{}", refused.message());
    assert!(refused.message().contains("1024"), "{}", refused.message());
}

#[tokio::test]
async fn probes_are_paused_over_the_socket_by_who_says_so_and_not_triggered_then() {
    let mut daemon = Daemon::start(none()).await;
    let (inputs, mut updates) = (daemon.bench.inputs.clone(), daemon.updates);
    let (told, by) = oneshot::channel();
    tokio::spawn(async move {
        let mut told = Some(told);
        while let Some(PodUpdate::Pause(uid, pause, shown)) = updates.recv().await {
            told.take().into_iter().for_each(|told| _ = told.send(Arc::clone(&pause.by)));
            inputs.send(Input::Pause(uid, pause, shown)).await.expect("the stage runs");
        }
    });
    let now = clock::wall();
    let at = |seconds| now.checked_add(jiff::SignedDuration::from_secs(seconds)).expect("in range");
    let until = at(1_800);
    let request = |name: &str, types: &[v1::ProbeType], until: Option<Timestamp>| v1::PauseProbesRequest {
        filter: Some(v1::PodFilter { name: name.to_owned(), ..v1::PodFilter::default() }),
        container: String::new(),
        types: types.iter().map(|wanted| i32::from(*wanted)).collect(),
        until: until.map(convert::timestamp),
    };
    let count = |answer: v1::PauseProbesResponse| (answer.probes_count, answer.pods_count);
    let client = &mut daemon.client;
    let answer = client.pause_probes(request("", &[], Some(until))).await.expect("paused").into_inner();
    assert_eq!(count(answer), (5, 2));
    assert_eq!(&*by.await.expect("a pause"), format!("uid {}", nix::unistd::getuid()));
    let web = |client: &mut Client| {
        let request = v1::GetPodRequest { namespace: String::new(), name: "web".to_owned() };
        let mut client = client.clone();
        async move {
            client.get_pod(request).await.expect("web").into_inner().pod.expect("a pod").containers.remove(0).probes
        }
    };
    assert_eq!(web(client).await[0].paused_until, Some(convert::timestamp(until)), "to the nanosecond");
    let trigger = v1::TriggerProbeRequest { pod: "web".to_owned(), r#type: 3, ..v1::TriggerProbeRequest::default() };
    let refused = client.trigger_probe(trigger).await.expect_err("it is paused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&format!("is paused until {until}: resume it first")), "{refused}");
    let ends = |client: &mut Client, until| {
        let (request, mut client) = (request("web", &[v1::ProbeType::Liveness], until), client.clone());
        async move { client.pause_probes(request).await.expect("resumed").into_inner() }
    };
    assert_eq!(count(ends(client, Some(at(-1))).await), (1, 1), "a time that has passed ends it");
    assert_eq!(count(ends(client, None).await), (0, 0), "so does none");
    assert_eq!(web(client).await[0].paused_until, None);
    let too_late = at(24 * 3_600 + 60);
    for (request, code, text) in [
        (request("wbe", &[], Some(until)), Code::NotFound, "wbe not found"),
        (request("web", &[v1::ProbeType::Startup], Some(until)), Code::NotFound, "has a startupProbe"),
        (request("", &[v1::ProbeType::Unspecified], Some(until)), Code::InvalidArgument, "types[0]: 0 is no type"),
        (request("", &[], Some(too_late)), Code::InvalidArgument, "is more than 24 hours from now"),
    ] {
        let refused = client.pause_probes(request).await.expect_err(text);
        assert!(refused.code() == code && refused.message().contains(text), "{refused}");
    }
    let no_time = v1::PauseProbesRequest {
        until: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
        ..v1::PauseProbesRequest::default()
    };
    let refused = client.pause_probes(no_time).await.expect_err("no time");
    assert!(refused.code() == Code::InvalidArgument && refused.message().ends_with("are no time"), "{refused}");
}
