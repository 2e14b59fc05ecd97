use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use probe_core::id::ProbeType;
use probe_core::outcome::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock;
use crate::consumer::metrics::Facts;
use crate::results::Update;
use crate::results::fixture::{Bench, SOON, simple_pod};
use crate::results::{Input, SeriesLevel};
use crate::shard::metrics::{HandlerKind, OutcomeKind, PhasesUs, ShardMetrics};

struct Server {
    address: SocketAddr,
    heartbeat: Arc<AtomicU64>,
    bench: Bench,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let bench = Bench::start(16, 16);
        let heartbeat = Arc::new(AtomicU64::new(clock::now().as_nanos()));
        let facts = Facts {
            started_at: clock::wall(),
            series: SeriesLevel::Probe,
            heartbeats: Vec::new(),
            sources: Vec::new(),
            otlp: None,
            version: "0.1.0",
            runtime: "none",
            runs_pods: false,
            io: vec!["epoll"],
            in_flight_max: 8,
            lifecycle: None,
            state: Arc::default(),
            tcp: None,
            pool: None,
            ebpf: None,
        };
        let metrics = Metrics::new(bench.results.clone(), facts);
        let health = Health::new(vec![Arc::clone(&heartbeat)], bench.results.clone());
        let listener = bind("--metrics-listen", "127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let admin = Admin::new(metrics, health);
        let router = admin.routes().merge(admin.latency_routes());
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(serve(listener, router, stopping));
        Self { address, heartbeat, bench, stop, task }
    }

    /// Status and body of a request.
    async fn request(&self, method: &str, path: &str) -> (u16, String) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = self.exchange(head.as_bytes()).await;
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status line");
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        (status, body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path).await
    }

    async fn exchange(&self, bytes: &[u8]) -> String {
        String::from_utf8(self.exchange_bytes(bytes).await).expect("text")
    }

    async fn exchange_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let work = async {
            let mut stream = TcpStream::connect(self.address).await.expect("it listens");
            stream.write_all(bytes).await.expect("it reads");
            let mut answer = Vec::new();
            // A server that refuses may reset while we still write: what it said before counts.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        timeout(SOON, work).await.expect("in time")
    }
}

#[tokio::test]
async fn metrics_are_served_as_classic_text() {
    let server = Server::start().await;
    server.bench.add(&simple_pod("a", &[ProbeType::Liveness]), None).await;
    let answer = server.exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("probe_engine_pods{phase=\"Pending\"} 1\n"), "{answer}");
    let (status, latency) = server.get("/api/v1/latency").await;
    assert_eq!(status, 200);
    assert_eq!(latency, r#"{"unit":"us","sinceStart":{"lateness":{},"latency":{},"turn":[]}}"#);
    let (status, probes) = server.get("/metrics/probes").await;
    assert_eq!((status, probes.as_str()), (200, ""));
}

#[tokio::test]
async fn livez_fails_when_a_shard_has_not_turned_for_long() {
    let server = Server::start().await;
    assert_eq!(server.get("/livez").await, (200, "[+]shard-0 ok\nlivez check passed\n".to_owned()));
    let stalled = clock::now().saturating_sub(limits::SHARD_STALL + Duration::from_secs(1));
    server.heartbeat.store(stalled.as_nanos(), Ordering::Relaxed);
    let failed = "[-]shard-0 failed: no turn was finished for 11 s\nlivez check failed\n";
    assert_eq!(server.get("/livez").await, (500, failed.to_owned()));
}

#[tokio::test]
async fn readyz_waits_for_the_sources_and_healthz_shows_all_checks() {
    let server = Server::start().await;
    let (status, text) = server.get("/readyz").await;
    assert_eq!(status, 500);
    assert!(text.contains("[-]sources failed: not read once yet: manifests\n"), "{text}");
    server.bench.input(Input::Synced("manifests")).await;
    let healthy = "[+]shard-0 ok\n[+]sources ok\n[+]local ok\nhealthz check passed\n";
    assert_eq!(server.get("/healthz").await, (200, healthy.to_owned()));
}

#[tokio::test]
async fn livez_answers_when_results_has_ended_and_readyz_says_so() {
    let server = Server::start().await;
    server.bench.stage.abort();
    while !server.bench.stage.is_finished() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get("/livez").await.0, 200);
    let (status, text) = server.get("/readyz").await;
    assert!(status == 500 && text.contains("[-]results failed: the results stage has ended"), "{text}");
    assert_eq!(server.get("/metrics").await.0, 503);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let server = Server::start().await;
    let (status, text) = server.get("/").await;
    assert!(status == 404 && text.contains("/metrics"), "{text}");
    assert_eq!(server.request("POST", "/metrics").await.0, 405);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::start().await;
    let long = "x".repeat(2 * limits::ADMIN_HEAD_BYTES_MAX);
    let answer = server.exchange(format!("GET /livez HTTP/1.1\r\nHost: {long}\r\n\r\n").as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_the_flag_and_the_way_out() {
    let server = Server::start().await;
    let error = bind("--metrics-listen", server.address).await.expect_err("it is taken").to_string();
    for part in ["--metrics-listen", &server.address.to_string(), "ss -ltnp", "`off`"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn it_ends_when_told_and_closes_idle_connections() {
    let server = Server::start().await;
    let mut idle = TcpStream::connect(server.address).await.expect("it listens");
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it reads");
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.expect("an answer");
    server.stop.send(true).expect("it listens");
    timeout(SOON, server.task).await.expect("in time").expect("no panic");
    let mut rest = Vec::new();
    timeout(SOON, idle.read_to_end(&mut rest)).await.expect("in time").expect("closed in order");
    assert!(TcpStream::connect(server.address).await.is_err());
}

fn counted(count: u64) -> Update {
    let mut counts = ShardMetrics::new();
    for _ in 0..count {
        counts.attempt(HandlerKind::Tcp, &Outcome::Success("".into()), Duration::from_micros(100));
    }
    counts.phases(HandlerKind::Http, PhasesUs([7, 0, 9, 0]));
    counts.handshake(HandlerKind::Tcp, Duration::from_micros(20));
    Update::Metrics(Box::new(counts))
}

#[tokio::test]
async fn a_window_of_latency_has_quantiles_where_enough_was_counted() {
    let server = Server::start().await;
    server.bench.push(counted(100));
    let (status, json) = server.get("/api/v1/latency?window=1m").await;
    let page: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((status, &page["window"], &page["unit"]), (200, &"1m".into(), &"us".into()));
    let expected = serde_json::json!({
        "count": 100, "p50": 100, "p90": 100, "p99": 100, "p999": null, "p9999": null, "max": 100, "counts": [[100, 100]],
    });
    assert_eq!(page["latency"]["tcp"]["success"], expected);
    assert_eq!(page["phase"]["http"]["first_byte"]["counts"], serde_json::json!([[9, 1]]));
    assert_eq!(page["handshake"]["tcp"]["max"], 20);
    let (status, text) = server.get("/api/v1/latency?window=2m").await;
    assert_eq!((status, text.as_str()), (400, "window: \"2m\" is none of 1m, 5m, 1h, 24h, start\n"));
    let (_, log) = server.get("/api/v1/latency.hlog?window=1m").await;
    assert!(
        log.starts_with("#[Histogram log format version 1.2]\n") && log.contains("\nTag=latency/tcp/success,"),
        "{log}"
    );
}

#[tokio::test]
async fn who_looks_at_a_pods_latency_watches_its_probes() {
    let server = Server::start().await;
    server.bench.add(&simple_pod("a", &[ProbeType::Liveness]), None).await;
    let (status, text) = server.get("/api/v1/latency?pod=default/b").await;
    assert_eq!((status, text.as_str()), (404, "pods \"b\" not found in namespace \"default\"\n"));
    let (status, json) = server.get("/api/v1/latency?pod=default/a").await;
    let page: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((status, &page["podUid"], &page["refused"]), (200, &"a".into(), &serde_json::Value::Null));
    let probe = &page["probes"][0];
    assert_eq!(
        (&probe["type"], &probe["timeout"], &probe["sketch"]["count"]),
        (&"Liveness".into(), &1_000_000.into(), &0.into())
    );
    let token = |node: &crate::results::Node| {
        let probe = node.pods.values().next().and_then(|record| record.container_at(0))?.probes.first()?;
        probe.stats.detail()
    };
    let token = server.bench.results.read(token).await.expect("the stage runs").expect("it is watched");
    let outcome = OutcomeKind::Success;
    server.bench.push(Update::Attempt { token, outcome, latency_us: 150, lateness_us: Some(9) });
    let (_, json) = server.get("/api/v1/latency?pod=default/a&window=5m").await;
    let page: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let detail = &page["probes"][0]["detail"];
    assert_eq!((&detail["latency"]["success"]["p50"], &detail["lateness"]["max"]), (&150.into(), &9.into()));
}

#[tokio::test]
async fn a_scraper_that_asks_for_protobuf_gets_it() {
    let server = Server::start().await;
    server.bench.push(counted(3));
    let head = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: \
                application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,*/*;q=0.1\r\n\r\n";
    let answer = server.exchange_bytes(head.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer);
    let content_type = "content-type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited\r\n";
    assert!(answer.contains(content_type), "{answer}");
    assert!(answer.contains("probe_engine_attempt_duration_seconds") && !answer.contains("# TYPE"), "{answer}");
}

#[tokio::test]
async fn the_kernel_knows_how_long_an_answer_may_stay_unread() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let stream = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
    limit_unread(&stream);
    assert_eq!(SockRef::from(&stream).tcp_user_timeout().expect("an option"), Some(limits::ADMIN_UNREAD_MAX));
}
