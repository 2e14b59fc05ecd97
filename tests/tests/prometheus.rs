//! What operators see in their Prometheus and Grafana: a real Prometheus scrapes the real daemon, evaluates the rules of
//! deploy/prometheus, and answers the queries of every panel of deploy/grafana with what the daemon's own JSON says.
#![cfg(feature = "engine")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use probe_tests::daemon::{Daemon, PATIENCE, free_port};
use probe_tests::prometheus::{INSTALL, Prometheus, promtool};
use probe_tests::skip::skip;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout").to_path_buf()
}

fn deployed(file: &str) -> String {
    let path = root().join("deploy").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Answers every request with 200.
fn http_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    let answer = |stream: TcpStream| -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A probe that has gone wants no answer.
            let _ = answer(stream);
        }
    });
    address
}

/// A watched pod with one probe a second.
fn pod(name: &str, probe: &str, handler: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, {probe}: {{{handler}, \
         periodSeconds: 1, failureThreshold: 3}}}}]}}}}\n---\n"
    )
}

#[test]
fn promtool_finds_nothing_in_rules_configuration_and_metrics() {
    let test = "promtool_finds_nothing_in_rules_configuration_and_metrics";
    let folder = root().join("deploy/prometheus");
    let daemon = Daemon::start("none", &[]);
    let metrics = daemon.page("/metrics").expect("metrics");
    for words in [
        &["check", "rules", "probe-engine.rules.yaml"][..],
        &["check", "config", "scrape.example.yaml"],
        &["test", "rules", "probe-engine.rules.test.yaml"],
        &["check", "metrics"],
    ] {
        let Some((is_content, said)) = promtool(&folder, words, &metrics) else {
            return skip(test, &format!("promtool is not installed; to install it: {INSTALL}"));
        };
        assert!(is_content, "promtool {words:?}: {said}");
        assert!(words[1] != "metrics" || said.trim().is_empty(), "{said}");
    }
}

/// Names of metrics in a text.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| ["probe_engine_", "prober_", "process_", "kube_"].iter().any(|start| word.starts_with(start)))
}

#[test]
fn what_is_served_and_what_is_asked_for_is_in_the_reference() {
    let reference = fs::read_to_string(root().join("probe-engine/docs/METRICS.md")).expect("the reference");
    let is_known = |name: &str| {
        let of = |name: &str| reference.contains(&format!("| `{name}` |"));
        of(name) || ["_bucket", "_sum", "_count"].iter().any(|part| name.strip_suffix(part).is_some_and(of))
    };
    let daemon = Daemon::start("none", &[]);
    let metrics = daemon.page("/metrics").expect("metrics");
    let served = metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| names(line).next());
    let asked = ["prometheus/probe-engine.rules.yaml", "grafana/probe-engine.json"].map(deployed);
    // Labels, their values and fields of the same prefix.
    let others = ["probe_engine", "probe_type", "kube_pod"];
    for name in served.chain(asked.iter().flat_map(|text| names(text))).filter(|name| !others.contains(name)) {
        assert!(is_record(name) || is_known(name), "{name} is not in docs/METRICS.md");
    }
}

/// What follows the colon of a recording rule's name does not begin so; what stands before it does.
fn is_record(name: &str) -> bool {
    deployed("prometheus/probe-engine.rules.yaml").contains(&format!(":{name}:"))
}

/// As the rules are, but an alert does not wait.
fn hasty_rules() -> String {
    let rules = deployed("prometheus/probe-engine.rules.yaml");
    let lines = rules.lines().map(|line| if line.trim_start().starts_with("for: ") { "        for: 0s" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_rules_are_evaluated_and_alerts_fire() {
    let test = "the_rules_are_evaluated_and_alerts_fire";
    let mut daemon = Daemon::start("none", &["--io", "epoll", "--shards", "2"]);
    let prometheus = match Prometheus::start(daemon.metrics, &hasty_rules()) {
        Ok(prometheus) => prometheus,
        Err(error) => return skip(test, &format!("prometheus cannot be started ({error}); {INSTALL}")),
    };
    let firing = |prometheus: &Prometheus, alert: &str| {
        let alerts = prometheus.api("alerts")?;
        let of = |one: &&Value| one["labels"]["alertname"] == alert && one["state"] == "firing";
        alerts["alerts"].as_array()?.iter().find(of).cloned()
    };
    let epoll = prometheus.wait_for("FallbackEpoll", PATIENCE, |prometheus| firing(prometheus, "FallbackEpoll"));
    assert!(epoll["annotations"]["description"].as_str().is_some_and(|text| text.contains("epoll: 2.")), "{epoll}");
    assert!(firing(&prometheus, "ConfigReloadFailed").is_none() && firing(&prometheus, "EngineDown").is_none());
    daemon.manifest("broken.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: 1}}\n");
    prometheus.wait_for("ConfigReloadFailed", PATIENCE, |prometheus| firing(prometheus, "ConfigReloadFailed"));
    daemon.manifest("broken.yaml", "");
    prometheus.wait_for("its end", PATIENCE, |prometheus| match firing(prometheus, "ConfigReloadFailed") {
        Some(_) => None,
        None => Some(()),
    });
    let groups = prometheus.api("rules").expect("Prometheus answers");
    let rules = groups["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array());
    let rules: Vec<&Value> = rules.flatten().collect();
    assert!(rules.len() >= 19, "{groups}");
    for rule in rules {
        assert!(rule["health"] == "ok" && rule["lastError"].is_null(), "{rule}");
    }
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    let _ = daemon.wait_end();
    prometheus.wait_for("EngineDown", PATIENCE, |prometheus| firing(prometheus, "EngineDown"));
}

/// Fields of a handler's overview.
const EVERY: [&str; 4] = ["successful", "failed", "discarded", "passive"];

/// Pairs of a duration in microseconds and how often it was seen.
type Counts = Vec<(u64, u64)>;

/// What the daemon says of itself, when nothing happens any more.
struct Told {
    overview: Value,
    latency: Value,
    /// For what no JSON has: causes, mostly.
    metrics: String,
}

impl Told {
    fn of(daemon: &Daemon) -> Option<Self> {
        let json = |path: &str| serde_json::from_str(&daemon.page(path)?).ok();
        Some(Self {
            overview: json("/api/v1/overview")?,
            latency: json("/api/v1/latency")?["sinceStart"].take(),
            metrics: daemon.page("/metrics")?,
        })
    }

    fn number(&self, name: &str) -> f64 {
        self.overview[name].as_f64().unwrap_or_else(|| panic!("{name} in {}", self.overview))
    }

    /// Of all handlers.
    fn attempts(&self, names: &[&str]) -> f64 {
        let handlers = self.overview["handlers"].as_array().expect("a list");
        handlers.iter().flat_map(|handler| names.iter().map(|name| handler[*name].as_f64().expect("a count"))).sum()
    }

    /// Of one handler or all, of one outcome or all.
    fn latencies(&self, handler: Option<&str>, outcome: Option<&str>) -> Counts {
        let handlers = self.latency["latency"].as_object().expect("handlers").iter();
        let outcomes = handlers.filter(|(name, _)| handler.is_none_or(|wanted| wanted == *name));
        let counts = outcomes.flat_map(|(_, outcomes)| outcomes.as_object().expect("outcomes"));
        counts.filter(|(name, _)| outcome.is_none_or(|wanted| wanted == *name)).flat_map(|(_, c)| pairs(c)).collect()
    }

    fn lateness(&self) -> Counts {
        self.latency["lateness"].as_object().expect("handlers").values().flat_map(pairs).collect()
    }

    /// The sum of a family's series with these labels.
    fn metric(&self, name: &str, labels: &Value) -> Option<f64> {
        let has = |line: &str| {
            let mut labels = labels.as_object().into_iter().flatten().filter(|(label, _)| *label != "instance");
            labels.all(|(label, value)| line.contains(&format!("{label}={value}")))
        };
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && has(line);
        let values =
            self.metrics.lines().filter(of).map(|line| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok()));
        values.collect::<Option<Vec<f64>>>().filter(|values| !values.is_empty()).map(|values| values.iter().sum())
    }
}

fn pairs(counts: &Value) -> Counts {
    serde_json::from_value(counts.clone()).expect("pairs of numbers")
}

/// Bounds of the buckets of durations, in seconds.
const BOUNDS_S: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A value of the JSON stands for all that its histogram (two digits) cannot tell from it, the largest; buckets go by the smallest.
fn smallest_us(value_us: u64) -> u64 {
    let width = 1 << value_us.checked_ilog2().unwrap_or_default().saturating_sub(7);
    value_us - (width - 1)
}

/// How many took no longer.
fn up_to(counts: &Counts, bound_s: f64) -> f64 {
    let within = counts.iter().filter(|(value_us, _)| smallest_us(*value_us) as f64 / 1e6 <= bound_s);
    within.map(|(_, count)| count).sum::<u64>() as f64
}

/// As Prometheus estimates it from buckets: linear within the one that holds it (`promql/quantile.go`).
fn quantile(q: f64, counts: &Counts) -> Option<f64> {
    let all = up_to(counts, f64::INFINITY);
    let rank = q * all;
    let (mut below, mut before) = (0.0, 0.0);
    for bound in BOUNDS_S {
        let within = up_to(counts, bound);
        if within >= rank && within > below {
            return Some(before + (bound - before) * (rank - below) / (within - below));
        }
        (below, before) = (within, bound);
    }
    (all > 0.0).then_some(before)
}

/// What a panel must show of a series: the value, and how far off it may be.
fn expected(title: &str, id: &str, labels: &Value, told: &Told) -> Option<(f64, f64)> {
    let label = |name: &str| labels[name].as_str();
    let exactly = |value: f64| Some((value, 1e-9));
    let metric = |name: &str| told.metric(name, labels).and_then(exactly);
    match (title, id) {
        ("Nodes", _) => exactly(1.0),
        ("Probes", _) => exactly(told.number("probes")),
        ("Pods", "A") => exactly(told.number("podsReady")),
        ("Pods", _) => exactly(told.overview["podsByPhase"].as_array()?.iter().filter_map(Value::as_f64).sum()),
        ("Pods that are not ready", _) => {
            let phases = told.overview["podsByPhase"].as_array()?;
            exactly(phases[0].as_f64()? + phases[1].as_f64()? - told.number("podsReady"))
        }
        ("Attempts per second", _) => exactly(told.attempts(&EVERY)),
        ("Answered passively", _) => exactly(told.attempts(&["passive"]) / told.attempts(&EVERY)),
        ("Failures per second", _) => exactly(told.attempts(&["failed"])),
        ("Lateness p99", _) => quantile(0.99, &told.lateness()).and_then(exactly),
        // It goes on while it is looked at.
        ("CPU" | "CPU by node", _) => Some((told.number("cpuNs") / 1e9, 0.5)),
        ("Resident memory by node", _) => Some((told.number("memoryBytes"), 32e6)),
        ("Latency over time", _) => exactly(up_to(&told.latencies(None, None), label("le")?.parse().ok()?)),
        ("Lateness over time", _) => exactly(up_to(&told.lateness(), label("le")?.parse().ok()?)),
        ("Latency quantiles", id) => {
            quantile(of_id(id, [0.5, 0.9, 0.99])?, &told.latencies(None, None)).and_then(exactly)
        }
        ("Lateness quantiles", id) => quantile(of_id(id, [0.5, 0.99, 0.999])?, &told.lateness()).and_then(exactly),
        ("Latency p99 by kind", _) => quantile(0.99, &told.latencies(label("handler"), None)).and_then(exactly),
        ("Attempts by outcome", _) => exactly(up_to(&told.latencies(None, label("outcome")), f64::INFINITY)),
        ("Answers to tcpSocket probes", "A") => exactly(told.attempts(&["passive"])),
        ("Only just in time", _) => metric("probe_engine_attempts_near_timeout_total"),
        ("Missed and waiting", "A") => exactly(told.number("missed")),
        ("Missed and waiting", _) => metric("probe_engine_attempts_rescheduled_total"),
        ("Answers to tcpSocket probes", _) => metric("probe_engine_real_answers_total"),
        ("Targets answered passively", "A") => metric("probe_engine_passive_held"),
        ("Targets answered passively", _) => metric("probe_engine_ebpf_targets"),
        ("Why passive answers ended", _) => metric("probe_engine_passive_ended_total"),
        ("Audits", _) => metric("probe_engine_passive_audits_total"),
        ("Accept queues", "A") => metric("probe_engine_accept_queues_full"),
        ("Accept queues", _) => metric("probe_engine_accept_queues_stalled"),
        ("Kernel feed", _) => metric("probe_engine_ebpf_feed_healthy"),
        ("Failing most", _) => told.metric("prober_probe_total", &with(labels, "result", "failed")).and_then(exactly),
        ("Restarts", "A") => metric("probe_engine_restarts_asked_total"),
        ("Restarts", _) => exactly(told.number("restarts")),
        ("Probes that watch nothing", "A") => exactly(told.number("probesPaused")),
        ("Probes that watch nothing", "B") => metric("probe_engine_probes_held"),
        ("Probes that watch nothing", _) => exactly(told.number("probesStuck")),
        ("On the rings", "A") => exactly(told.number("inFlight")),
        ("On the rings", _) => exactly(told.number("inFlightMax")),
        ("In the pool", "A") => pool(told, label("handler")?, "inFlight").and_then(exactly),
        ("In the pool", _) => pool(told, label("handler")?, "inFlightMax").and_then(exactly),
        ("Waiting for the pool", _) => pool(told, label("handler")?, "queued").and_then(exactly),
        ("Open files by node", _) => {
            let open = told.metric("process_open_fds", &Value::Null)?;
            let max = told.metric("process_max_fds", &Value::Null)?;
            // Connections come and go.
            Some((open / max, 32.0 / max))
        }
        ("Trouble of the daemon's own", _) => metric("probe_engine_attempts_local_total"),
        // Turns and the state file go on while they are looked at.
        ("Shards", "A") => Some((0.0, 10.0)),
        ("Shards", _) => Some((0.0, 1.0)),
        ("State file", _) => Some((0.0, 60.0)),
        ("Sources with errors", _) => metric("probe_engine_source_problems"),
        ("Scrapes", _) => Some((told.metrics.len() as f64, 4_096.0)),
        ("Lost for want of room", "A") => metric("probe_engine_events_dropped_total"),
        ("Lost for want of room", _) => metric("probe_engine_reports_dropped_total"),
        _ => None,
    }
}

fn with(labels: &Value, name: &str, value: &str) -> Value {
    let mut labels = labels.clone();
    labels[name] = value.into();
    labels
}

fn of_id<const N: usize>(id: &str, values: [f64; N]) -> Option<f64> {
    ["A", "B", "C"].iter().zip(values).find(|(of, _)| **of == id).map(|(_, value)| value)
}

fn pool(told: &Told, handler: &str, field: &str) -> Option<f64> {
    told.overview["pool"].as_array()?.iter().find(|lane| lane["handler"] == handler)?[field].as_f64()
}

/// Title, id and expression of every query of a dashboard, with its variables filled in.
fn queries(file: &str) -> Vec<(String, String, String)> {
    let dashboard: Value = serde_json::from_str(&deployed(file)).expect("JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().expect("an expression");
            let expr = ["$instance", "$namespace", "$handler"].iter().fold(expr.to_owned(), |e, v| e.replace(v, ".*"));
            let expr = expr.replace("$job", "probe-engine").replace("$__rate_interval", "1m");
            assert!(!expr.contains('$'), "a variable that is not known: {expr}");
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            queries.push((text(&panel["title"]), text(&target["refId"]), expr));
        }
    }
    queries
}

/// Attempts of three handlers, and failures that ask for a restart. When this returns all probes are paused.
fn make_attempts(daemon: &mut Daemon) -> Told {
    let (good, closed) = (http_server().port(), free_port().port());
    let manifest = [
        pod("tcp", "readinessProbe", &format!("tcpSocket: {{port: {good}}}")),
        pod("http", "readinessProbe", &format!("httpGet: {{port: {good}}}")),
        pod("exec", "readinessProbe", "exec: {command: ['true']}"),
        pod("broken", "readinessProbe", &format!("httpGet: {{port: {closed}}}")),
        pod("dead", "livenessProbe", &format!("tcpSocket: {{port: {closed}}}")),
    ];
    daemon.manifest("pods.yaml", &manifest.concat());
    daemon.wait_for("attempts of all", |daemon| {
        let told = Told::of(daemon)?;
        let asked = told.metric("probe_engine_restarts_asked_total", &Value::Null)?;
        (asked == 1.0 && told.attempts(&EVERY) > 20.0 && told.overview["handlers"].as_array()?.len() == 3).then_some(())
    });
    let _ = daemon.says(&["pause", "pods", "--all", "--for", "1h"]);
    let mut before = Told::of(daemon).expect("the daemon answers");
    daemon.wait_for("a second in which nothing happens", |daemon| {
        // Shards tell of their counts once a second.
        let now = Told::of(daemon)?;
        let at = |told: &Told| told.number("atMs");
        if now.attempts(&EVERY) > before.attempts(&EVERY) || now.number("inFlight") > 0.0 {
            before = now;
            return None;
        }
        (at(&now) - at(&before) > 2_000.0).then_some(now)
    })
}

#[test]
fn every_panel_gives_what_the_daemons_own_json_says() {
    let test = "every_panel_gives_what_the_daemons_own_json_says";
    let mut daemon = Daemon::start("none", &["--host-exec=true", "--state-interval-seconds=1"]);
    let prometheus = match Prometheus::start(daemon.metrics, &deployed("prometheus/probe-engine.rules.yaml")) {
        Ok(prometheus) => prometheus,
        Err(error) => return skip(test, &format!("prometheus cannot be started ({error}); {INSTALL}")),
    };
    // A rate needs a sample from before the attempts.
    prometheus.wait_for("a scrape", PATIENCE, |prometheus| {
        prometheus.api("query?query=up").filter(|up| up["result"][0]["value"][1] == "1")
    });
    let told = make_attempts(&mut daemon);
    let scrapes = || prometheus.query("probe_engine_scrapes_total").first().map_or(0.0, |(_, count)| *count);
    let so_far = scrapes();
    prometheus.wait_for("two more scrapes", PATIENCE, |_| (scrapes() >= so_far + 2.0).then_some(()));
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    for (title, id, expr) in queries("grafana/probe-engine.json") {
        let panel = format!("panel {title:?} {id}: {expr}");
        // Since the daemon started, so that there is a number to compare; then as it is.
        let total = expr.replace("increase(", "last_over_time(").replace("rate(", "last_over_time(");
        let series = prometheus.query(&total);
        let (as_it_is, absent) = (prometheus.query(&expr), names(&expr).find(|name| !told.metrics.contains(*name)));
        assert_eq!(as_it_is.is_empty(), series.is_empty(), "{panel}");
        assert_eq!(series.is_empty(), absent.is_some(), "{panel}: {absent:?} is what the daemon does not serve");
        for (labels, value) in &series {
            let Some((wanted, tolerance)) = expected(&title, &id, labels, &told) else {
                panic!("{panel} gives {labels} {value}, of which this test knows nothing");
            };
            assert!((value - wanted).abs() <= tolerance, "{panel} gives {labels} {value}, the daemon says {wanted}");
        }
        *shown.entry(title).or_default() += series.len();
    }
    assert_eq!((shown["Attempts by outcome"], shown["Latency p99 by kind"], shown["Failing most"]), (2, 3, 2));
    // The daemon serves the kubelet's metrics of probes too: what is asked of those gives the same.
    for (title, id, expr) in queries("grafana/kubelet-probes.json") {
        let series = prometheus.query(&expr);
        let absent = names(&expr).chain(expr.split(['(', '{'])).find(|name| name.starts_with("kubelet_"));
        assert_eq!(series.is_empty(), absent.is_some(), "panel {title:?} {id}: {expr}");
        if title == "Attempts per second" {
            let attempts = prometheus.query(&expr.replace("rate(", "last_over_time("));
            assert_eq!(attempts[0].1, told.attempts(&["successful", "failed", "passive"]), "{expr}");
        }
    }
}
