use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use probe_core::id::{PodUid, ProbeType};
use probe_core::outcome::{Outcome, Verdict};
use probe_core::spec::Pod;

use super::*;
use crate::ebpf::Why;
use crate::limits;
use crate::results::fixture::{Bench, container, pod, publish, running, simple_pod};
use crate::results::{Input, Node, ProbeStats, Update};
use crate::shard::metrics::ShardMetrics;

/// A daemon that runs pods, without shards, pool and eBPF.
fn facts() -> Facts {
    Facts {
        version: "0.1.0",
        started_at: Timestamp::UNIX_EPOCH,
        series: SeriesLevel::Probe,
        runtime: "process",
        runs_pods: true,
        io: Vec::new(),
        heartbeats: Vec::new(),
        in_flight_max: 8,
        sources: Vec::new(),
        lifecycle: Some(Arc::default()),
        state: Arc::default(),
        tcp: Some(Arc::default()),
        pool: None,
        ebpf: None,
    }
}

/// One ready pod with a liveness and a readiness probe, one shard, some counts.
async fn small_node() -> (Bench, Metrics) {
    let bench = Bench::start(16, 16);
    let probes = [ProbeType::Readiness, ProbeType::Liveness];
    let pod = pod("uid-1", "web", [container("c", probe_core::spec::ContainerKind::Regular, &probes)]);
    let mut status = running(&pod, "fake://1");
    status.containers[0].restart_count = 2;
    bench.add(&pod, Some(status)).await;
    bench.push(publish("uid-1", ProbeType::Readiness, "fake://1", Some(Verdict::Success)));
    let liveness = stats(&bench, ProbeType::Liveness).await;
    liveness.record(true, 4_000_000, 1, 1);
    liveness.record(true, 30_000_000, 2, 2);
    liveness.record(false, 1_000_000_000, 3, 1);
    bench.push(Update::Metrics(Box::new(shard_counts())));
    let pool: PoolView = Arc::new(|_| PoolLane { queued: 3, in_flight: 2, in_flight_max: 32 });
    // A turn that ends in centuries: its age is 0.
    let heartbeats = vec![Arc::new(AtomicU64::new(u64::MAX))];
    let facts = Facts {
        io: vec!["io_uring"],
        heartbeats,
        sources: vec![source()],
        pool: Some(pool),
        ebpf: Some(ebpf()),
        ..facts()
    };
    let metrics = Metrics::new(bench.results.clone(), facts);
    (bench, metrics)
}

/// One of two files has an error.
fn source() -> SourceView {
    let clean_at = Timestamp::from_millisecond(1_700_000_000_500).ok();
    let errors = [(PathBuf::from("web.yaml"), Vec::new())].into();
    let (_, status) = watch::channel(SourceStatus { synced: true, pods_count: 1, errors, clean_at });
    ("manifests", status)
}

fn ebpf() -> EbpfFacts {
    let stats = EbpfStats::default();
    stats.events.store(7, Ordering::Relaxed);
    stats.sweep_ns.store(1_500_000, Ordering::Relaxed);
    EbpfFacts { hook: "tp_btf", sha256: "c0ffee".into(), stats: Arc::new(stats) }
}

fn shard_counts() -> ShardMetrics {
    let mut counts = ShardMetrics::new();
    counts.attempt(HandlerKind::Tcp, &Outcome::Success("".into()), Duration::from_micros(100));
    counts.attempt(HandlerKind::Tcp, &Outcome::Failure("no".into()), Duration::from_secs(1));
    counts.attempt(HandlerKind::Http, &Outcome::Local(LocalCause::Ports), Duration::from_micros(10));
    counts.started(HandlerKind::Tcp, Duration::from_millis(1));
    counts.turned(Duration::from_micros(20));
    counts.workers = 2;
    counts.slabs[2] = Occupancy { used: 2, places: 4 };
    counts.passive.passive = 40;
    counts.passive.granted = 2;
    counts.passive.held = 1;
    counts.passive.held_ns = 61_500_000_000;
    counts.passive.cut_ns = 500_000_000;
    counts.passive.real[Why::Renewed.index()] = 2;
    counts.passive.real[Why::TakenBy(15_006).index()] = 1;
    counts.passive.ended[Why::Renewed.index()] = 1;
    counts.passive.audits = [3, 0, 1];
    counts.in_flight = 1;
    counts
}

async fn stats(bench: &Bench, probe_type: ProbeType) -> Arc<ProbeStats> {
    let read = move |node: &Node| {
        let probe =
            node.pods[&PodUid::from("uid-1")].container_at(0).and_then(|of| of.probe(probe_type)).expect("it has it");
        Arc::clone(&probe.stats)
    };
    bench.results.read(read).await.expect("the stage runs")
}

#[tokio::test]
async fn the_probes_text_is_what_a_kubelet_serves() {
    let (_bench, metrics) = small_node().await;
    let labels = r#"container="c",namespace="default",pod="web",probe_type="Liveness""#;
    let buckets: String = [
        ("0.005", 1),
        ("0.01", 1),
        ("0.025", 1),
        ("0.05", 2),
        ("0.1", 2),
        ("0.25", 2),
        ("0.5", 2),
        ("1", 2),
        ("2.5", 2),
        ("5", 2),
        ("10", 2),
        ("+Inf", 2),
    ]
    .iter()
    .map(|(le, count)| format!("prober_probe_duration_seconds_bucket{{{labels},le=\"{le}\"}} {count}\n"))
    .collect();
    let expected = format!(
        "# HELP prober_probe_duration_seconds [ALPHA] Duration in seconds for a probe response.\n\
         # TYPE prober_probe_duration_seconds histogram\n\
         {buckets}\
         prober_probe_duration_seconds_sum{{{labels}}} 0.034\n\
         prober_probe_duration_seconds_count{{{labels}}} 2\n\
         # HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.\n\
         # TYPE prober_probe_total counter\n\
         prober_probe_total{{container=\"c\",namespace=\"default\",pod=\"web\",pod_uid=\"uid-1\",probe_type=\"Liveness\",result=\"failed\"}} 1\n\
         prober_probe_total{{container=\"c\",namespace=\"default\",pod=\"web\",pod_uid=\"uid-1\",probe_type=\"Liveness\",result=\"successful\"}} 2\n"
    );
    assert_eq!(metrics.probes().await, Ok(expected));
}

#[tokio::test]
async fn the_whole_text_is_the_golden_one() {
    let (_bench, metrics) = small_node().await;
    let text = metrics.all().await.expect("the stage runs");
    let probes = metrics.probes().await.expect("the stage runs");
    let ours = text.strip_suffix(&probes).expect("the kubelet's part is the last");
    // What this process takes is another test's.
    let ours: String = ours.split_inclusive('\n').filter(|line| !line.contains("process_")).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/consumer/metrics/golden.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, &ours).expect("the golden text is written");
    }
    assert_eq!(ours, std::fs::read_to_string(&golden).expect("the golden text"));
}

#[tokio::test]
async fn the_series_of_an_ended_worker_and_of_a_removed_pod_vanish() {
    let (bench, metrics) = small_node().await;
    stats(&bench, ProbeType::Liveness).await.end();
    assert_eq!(metrics.probes().await.as_deref(), Ok(""));
    bench.input(Input::Removed(PodUid::from("uid-1"))).await;
    let text = metrics.all().await.expect("the stage runs");
    assert!(!text.contains("pod=\"web\""), "{text}");
}

#[tokio::test]
async fn pods_run_by_others_are_left_to_kube_state_metrics() {
    let (bench, _) = small_node().await;
    let facts = Facts { runtime: "none", runs_pods: false, lifecycle: None, ..facts() };
    let text = Metrics::new(bench.results.clone(), facts).all().await.expect("the stage runs");
    assert!(!text.contains("kube_pod_") && !text.contains("probe_engine_pool_"), "{text}");
}

/// A node of this many pods with these probes; the metrics of it, and the counts of pod `pod-0`'s liveness probe.
async fn many(pods: usize, probes: &[ProbeType]) -> (Bench, Metrics, Arc<ProbeStats>) {
    let bench = Bench::start(16, 16);
    for index in 0..pods {
        let pod = simple_pod(&format!("pod-{index}"), probes);
        bench.add(&pod, Some(running(&pod, "fake://1"))).await;
    }
    let read = |node: &Node| Arc::clone(&node.pods[&PodUid::from("pod-0")].probes[0].stats);
    let stats = bench.results.read(read).await.expect("the stage runs");
    let metrics = Metrics::new(bench.results.clone(), facts());
    (bench, metrics, stats)
}

#[tokio::test]
async fn beyond_the_limit_of_probes_series_are_kept_per_pod() {
    let probes = [ProbeType::Readiness, ProbeType::Liveness];
    let (_bench, metrics, stats) = many(limits::METRIC_PROBES_MAX / 2 + 1, &probes).await;
    stats.record(true, 4_000_000, 1, 1);
    stats.record(false, 1, 2, 1);
    // What has ended stays in the sum, so that it only grows.
    stats.end();
    let text = metrics.all().await.expect("the stage runs");
    let of_pod = r#"namespace="default",pod="pod-0""#;
    for line in [
        format!("prober_probe_duration_seconds_count{{{of_pod}}} 1"),
        format!(r#"prober_probe_total{{{of_pod},pod_uid="pod-0",result="failed"}} 1"#),
        format!(r#"prober_probe_total{{{of_pod},pod_uid="pod-0",result="successful"}} 1"#),
        r#"probe_engine_metric_series_level{level="pod",series="prober_probe"} 1"#.to_owned(),
        format!("probe_engine_probes_without_series {}", limits::METRIC_PROBES_MAX + 2),
        format!(r#"kube_pod_container_status_ready{{container="c",{of_pod},uid="pod-0"}} 0"#),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}

#[tokio::test]
async fn beyond_the_limit_of_pods_series_are_kept_per_handler_and_those_of_pods_end() {
    let (bench, metrics, _) = many(limits::METRIC_PODS_MAX + 1, &[ProbeType::Readiness]).await;
    bench.push(Update::Metrics(Box::new(shard_counts())));
    let text = metrics.all().await.expect("the stage runs");
    for line in [
        r#"prober_probe_duration_seconds_bucket{handler="tcp",le="0.005"} 41"#,
        r#"prober_probe_total{handler="tcp",result="failed"} 1"#,
        r#"prober_probe_total{handler="tcp",result="successful"} 41"#,
        r#"probe_engine_metric_series_level{level="handler",series="prober_probe"} 1"#,
        r#"probe_engine_metric_series_level{level="none",series="kube_pod"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    assert!(!text.contains("\nkube_pod_") && text.len() < 100_000, "{} bytes", text.len());
    bench.input(Input::Removed(PodUid::from("pod-0"))).await;
    let level = bench.results.read(|node| node.series.probes()).await;
    assert_eq!(level, Ok(SeriesLevel::Handler), "a tenth must be free first");
}

#[tokio::test]
async fn the_shards_histograms_are_given_as_they_are() {
    let (bench, metrics) = small_node().await;
    let mut more = shard_counts();
    more.started_n(HandlerKind::Exec, Duration::from_millis(1), 3);
    bench.push(Update::Metrics(Box::new(more)));
    let latency = metrics.latency().await.expect("the stage runs");
    let since = &latency.since_start;
    let (at, count) = since.lateness["tcp"][0];
    assert!((1_000..=1_010).contains(&at) && count == 2, "{at} {count}");
    assert_eq!(since.lateness["exec"], [(at, 3)]);
    let of_tcp: Vec<&str> = since.latency["tcp"].keys().copied().collect();
    assert_eq!((of_tcp, since.latency["tcp"]["success"].len()), (vec!["failure", "success"], 1));
    assert_eq!(since.turn.iter().map(|(_, count)| count).sum::<u64>(), 2);
    let json = serde_json::to_string(&latency).expect("JSON");
    assert!(json.starts_with(r#"{"unit":"us","sinceStart":{"lateness":{"exec":[[10"#), "{json}");
}

#[tokio::test]
async fn the_operator_may_want_coarser_series() {
    let (bench, _) = small_node().await;
    let text = async |series| {
        let metrics = Metrics::new(bench.results.clone(), Facts { series, ..facts() });
        metrics.all().await.expect("the stage runs")
    };
    let of_pods = text(SeriesLevel::Pod).await;
    for line in [
        r#"prober_probe_total{namespace="default",pod="web",pod_uid="uid-1",result="successful"} 2"#,
        r#"probe_engine_metric_series_level{level="pod",series="kube_pod"} 1"#,
        r#"probe_engine_metric_series_level{level="pod",series="prober_probe"} 1"#,
        "probe_engine_metric_series_capped 0",
        "probe_engine_probes_without_series 2",
    ] {
        assert!(of_pods.lines().any(|found| found == line), "{line} in {of_pods}");
    }
    let of_handlers = text(SeriesLevel::Handler).await;
    assert!(of_handlers.contains(r#"prober_probe_total{handler="tcp",result="successful"} 41"#), "{of_handlers}");
    assert!(!of_handlers.contains("pod=\"web\""), "{of_handlers}");
}

#[tokio::test]
async fn an_answer_tells_of_the_answers_before_it() {
    let (_bench, metrics) = small_node().await;
    let first = metrics.all().await.expect("the stage runs");
    let second = metrics.all().await.expect("the stage runs");
    let of = |line: String| assert!(second.lines().any(|found| found == line), "{line} in {second}");
    of(format!("probe_engine_scrape_bytes {}", first.len()));
    of("probe_engine_scrapes_total 1".to_owned());
}

#[tokio::test]
async fn label_values_of_a_manifest_cannot_forge_series() {
    let bench = Bench::start(16, 16);
    let evil: Arc<Pod> = pod("u\"} 1\nforged{x=\"", "web", []);
    bench.add(&evil, None).await;
    let text = Metrics::new(bench.results.clone(), facts()).all().await.expect("the stage runs");
    assert!(text.contains(r#"uid="u\"} 1\nforged{x=\"""#), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
}

#[tokio::test]
async fn every_line_is_of_a_family_of_the_table() {
    let (_bench, metrics) = small_node().await;
    let text = metrics.all().await.expect("the stage runs");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert_eq!(families::tests::in_table(line), Ok(()), "{line}");
    }
}

#[tokio::test]
async fn promtool_finds_nothing_to_say() {
    let (_bench, metrics) = small_node().await;
    let text = metrics.all().await.expect("the stage runs");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match promtool.spawn() {
        Ok(child) => child,
        Err(error) => {
            let reason = format!("promtool cannot be started ({error}); to install it: apt-get install prometheus");
            return crate::skip::skip("promtool_finds_nothing_to_say", &reason);
        }
    };
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
