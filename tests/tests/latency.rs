//! Latency data of the real daemon: the pages, and what a real Prometheus makes of native histograms.
#![cfg(feature = "engine")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use probe_tests::daemon::{Daemon, PATIENCE, free_port};
use probe_tests::skip::skip;
use serde_json::Value;

/// Answers every request well, until the test ends.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1_024];
            // A probe that only connects sends nothing.
            if stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            }
        }
    });
    address
}

fn pod(port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  containers:
  - name: main
    image: none
    readinessProbe: {{httpGet: {{port: {port}}}, periodSeconds: 1}}
    livenessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"
    )
}

fn page(daemon: &Daemon, path: &str) -> Value {
    serde_json::from_str(&daemon.page(path).unwrap_or_default()).unwrap_or_default()
}

#[test]
fn pages_and_the_command_line_tell_what_a_pods_probes_took() {
    let mut daemon = Daemon::start("none", &["--ebpf", "off"]);
    daemon.manifest("web.yaml", &pod(server().port()));
    daemon.wait_ready("web", "True");
    let counted = |of: &Value| of["count"].as_u64().unwrap_or(0);
    let pod = daemon.wait_for("three attempts of each probe, from the first look on", |daemon| {
        let pod = page(daemon, "/api/v1/latency?pod=default/web");
        let probes = pod["probes"].as_array()?;
        let all = probes.iter().all(|probe| counted(&probe["detail"]["latency"]["success"]) >= 3);
        all.then(|| pod.clone())
    });
    for probe in pod["probes"].as_array().expect("probes") {
        let (detail, sketch) = (&probe["detail"], &probe["sketch"]);
        assert!(counted(sketch) >= counted(&detail["latency"]["success"]), "{probe}");
        assert!(sketch["p50"].as_u64() <= sketch["max"].as_u64() && counted(&detail["lateness"]) >= 3, "{probe}");
    }
    let minute = page(&daemon, "/api/v1/latency?window=1m");
    let http = &minute["phase"]["http"];
    assert_eq!(counted(&http["connect"]), counted(&minute["latency"]["http"]["success"]), "{minute}");
    assert!(counted(&http["first_byte"]) > 0 && counted(&http["body"]) > 0 && http["tls"].is_null(), "{minute}");
    assert!(counted(&minute["handshake"]["tcp"]) > 0, "sampled: {minute}");
    assert!(daemon.says(&["describe", "pod", "web"]).contains("Durations:"));
    let probes: Value = serde_json::from_str(&daemon.says(&["get", "probes", "-o", "json"])).expect("JSON");
    assert!(probes.to_string().contains("\"p50Ns\":"), "{probes}");
    assert!(daemon.says(&["get", "probes", "--near-miss", "-o", "name"]).is_empty());
}

/// A running Prometheus; killed on drop.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// That scrapes this address each second, with native histograms. `None` where the program is not there.
    fn start(folder: &Path, scraped: SocketAddr) -> Option<Self> {
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- {{job_name: engine, static_configs: [{{targets: ['{scraped}']}}]}}\n"
        );
        fs::write(&config, text).expect("a file");
        let address = free_port();
        let log = fs::File::create(folder.join("prometheus.log")).expect("a file");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=native-histograms")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Some(Self { child: child.ok()?, address })
    }

    /// The value of an expression that gives one series; `None` before there is one.
    fn value(&self, expression: &str) -> Option<f64> {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET /api/v1/query?query={query} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let [one] = answer["data"]["result"].as_array()?.as_slice() else { return None };
        one["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It has ended by itself: nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_reads_native_histograms_that_say_what_the_daemons_json_says() {
    let mut daemon = Daemon::start("none", &["--ebpf", "off"]);
    let folder = tempfile::tempdir().expect("a folder");
    let Some(prometheus) = Prometheus::start(folder.path(), daemon.metrics) else {
        let reason = "prometheus cannot be started; to install it: apt-get install prometheus";
        return skip("a_real_prometheus_reads_native_histograms_that_say_what_the_daemons_json_says", reason);
    };
    daemon.manifest("web.yaml", &pod(server().port()));
    daemon.wait_ready("web", "True");
    daemon.wait_for("the kubelet's histogram, whose buckets are classic", |_| {
        prometheus
            .value("sum(prober_probe_duration_seconds_bucket{probe_type=\"Readiness\",le=\"+Inf\"})")
            .filter(|count| *count >= 3.0)
    });
    // From here on nothing is counted any more.
    daemon.remove_manifest("web.yaml");
    daemon.wait_for("the pod is forgotten", |daemon| daemon.pod("web").is_none().then_some(()));
    let series = "probe_engine_attempt_duration_seconds{handler=\"http\",outcome=\"success\"}";
    let of_json = |daemon: &Daemon| page(daemon, "/api/v1/latency?window=start")["latency"]["http"]["success"].clone();
    let json = daemon.wait_for("Prometheus has counted what the daemon has", |daemon| {
        let json = of_json(daemon);
        let count = prometheus.value(&format!("histogram_count({series})"))?;
        (json["count"].as_u64()? as f64 == count && count >= 3.0).then_some(json)
    });
    for (quantile, key) in [(0.5, "p50"), (1.0, "max")] {
        let told = prometheus.value(&format!("histogram_quantile({quantile}, {series})")).expect("a native histogram");
        let exact = json[key].as_f64().expect("a number") / 1e6;
        // A native bucket is 9 % wide, one of the daemon's 1 %.
        assert!((exact * 0.89..exact * 1.1).contains(&told), "{key}: {told} {exact} {json}");
    }
    assert!(prometheus.value("probe_engine_attempts_near_timeout_total{handler=\"http\"}") == Some(0.0));
}
