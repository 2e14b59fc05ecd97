//! Passive answers as an operator sees them: the real daemon, the real kernel program, listeners of this process.
#![cfg(feature = "engine")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use probe_tests::daemon::{Daemon, binary};
use probe_tests::skip::skip;

/// Renewals and audits would be right, but are not what is looked at.
const QUIET: [&str; 2] = ["--passive-audit-per-second=0", "--passive-max-age-seconds=3600"];

/// A listener that accepts until it is closed.
struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let accepting = listener.try_clone().expect("it twice");
        let thread = std::thread::spawn(move || while accepting.accept().is_ok() {});
        Self { listener, addr, thread: Some(thread) }
    }

    /// LISTEN -> CLOSE, when this returns.
    fn close(&mut self) {
        nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("it listens");
        if let Some(thread) = self.thread.take() {
            thread.join().expect("accept(2) ends");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.close();
        }
    }
}

/// A watched pod with one tcpSocket probe a second.
fn pod(name: &str, port: u16, annotations: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, annotations: {{{annotations}}}}}, spec: {{containers: [{{name: a, \
         readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1, failureThreshold: 1}}}}]}}}}\n---\n"
    )
}

/// The pod's probe, as `get probes -o json` has it.
fn probe(daemon: &Daemon, name: &str) -> Option<serde_json::Value> {
    let output = daemon.cli(&["get", "probes", name, "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    list["items"].get(0).cloned()
}

fn metric(daemon: &Daemon, series: &str) -> Option<f64> {
    let text = daemon.page("/metrics")?;
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// A daemon with its kernel program; `None` where this machine does not allow it, which is said.
fn passive_daemon(test: &str, flags: &[&str]) -> Option<Daemon> {
    let flags: Vec<&str> = QUIET.iter().chain(flags).copied().collect();
    let daemon = Daemon::start("none", &flags);
    let version = daemon.says(&["version"]);
    let ebpf = version.lines().find(|line| line.contains("eBPF:")).expect("a line on eBPF");
    if ebpf.contains("not loaded") {
        skip(test, ebpf.trim());
        return None;
    }
    Some(daemon)
}

/// The daemon without CAP_PERFMON, CAP_BPF and CAP_SYS_ADMIN: with such a bounding set even root gets none of them.
fn unprivileged(folder: &Path, ebpf: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-cap_38,-cap_39,-sys_admin").arg("--inh-caps=-all").arg(binary());
    command.args(["run", "--runtime", "none", "--ebpf", ebpf, "--metrics-listen", "off", "--manifests"]);
    command.arg(folder).arg("--socket").arg(folder.join("api.sock"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn with_ebpf_off_every_attempt_connects_and_says_why() {
    let server = Server::start();
    let mut daemon = Daemon::start("none", &["--ebpf", "off"]);
    daemon.manifest("web.yaml", &pod("web", server.addr.port(), ""));
    let probe = daemon.wait_for("a second attempt", |daemon| {
        probe(daemon, "web").filter(|probe| probe["realCount"].as_u64().is_some_and(|count| count > 1))
    });
    assert_eq!((&probe["answer"], &probe["passiveCount"]), (&"real: off".into(), &0.into()));
    assert_eq!(probe["worstCaseDetectionSeconds"], 1, "1 x 1 s");
    let text = daemon.says(&["describe", "pod", "web"]);
    assert!(text.contains("Detection:    1s at worst (1 x 1s)"), "{text}");
    assert!(daemon.says(&["version"]).contains("not loaded: turned off (--ebpf off)"));
    let metrics = daemon.page("/metrics").expect("metrics");
    assert!(!metrics.contains("probe_engine_ebpf_"), "{metrics}");
    assert!(!daemon.log().contains("kernel program"), "asked for, so nothing to tell: {}", daemon.log());
}

#[test]
fn ebpf_that_is_required_and_not_allowed_keeps_the_daemon_from_starting() {
    let test = "ebpf_that_is_required_and_not_allowed_keeps_the_daemon_from_starting";
    let folder = tempfile::tempdir().expect("a temporary directory");
    let output = match unprivileged(folder.path(), "require").output() {
        Ok(output) => output,
        Err(error) => return skip(test, &format!("setpriv cannot be started ({error}); apt-get install util-linux")),
    };
    let text = String::from_utf8_lossy(&output.stderr);
    if text.starts_with("setpriv:") {
        return skip(test, &format!("capabilities cannot be taken away: {}", text.trim()));
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--ebpf require") && text.contains("CAP_BPF") && text.contains("CAP_PERFMON"), "{text}");
}

#[test]
fn ebpf_that_is_not_allowed_is_told_in_one_line_and_the_daemon_goes_on() {
    let test = "ebpf_that_is_not_allowed_is_told_in_one_line_and_the_daemon_goes_on";
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut child = match unprivileged(folder.path(), "auto").spawn() {
        Ok(child) => child,
        Err(error) => return skip(test, &format!("setpriv cannot be started ({error}); apt-get install util-linux")),
    };
    let mut told = Vec::new();
    let mut has_started = false;
    // Logged to standard error, the start last; an end of it ends the lines.
    for line in BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok) {
        has_started = line.contains("runtime=\"none\"") || line.contains("runtime=none");
        told.push(line);
        if has_started {
            break;
        }
    }
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    let text = told.join("\n");
    if text.starts_with("setpriv:") {
        return skip(test, &format!("capabilities cannot be taken away: {}", text.trim()));
    }
    assert!(has_started, "{text}");
    let lines: Vec<&String> = told.iter().filter(|line| line.contains("no passive answers")).collect();
    assert!(lines.len() == 1 && lines[0].contains("CAP_BPF and CAP_PERFMON"), "{text}");
}

#[test]
fn a_tcp_probe_is_answered_from_kernel_state_until_its_listener_closes() {
    let test = "a_tcp_probe_is_answered_from_kernel_state_until_its_listener_closes";
    let Some(mut daemon) = passive_daemon(test, &[]) else { return };
    let mut server = Server::start();
    daemon.manifest("web.yaml", &pod("web", server.addr.port(), ""));
    let probe_of = |daemon: &mut Daemon| probe(daemon, "web");
    let answered = daemon.wait_for("three passive answers", |daemon| {
        probe_of(daemon).filter(|probe| probe["passiveCount"].as_u64().is_some_and(|count| count >= 3))
    });
    assert_eq!(answered["worstCaseDetectionSeconds"], 3_601, "{answered}");
    let text = daemon.says(&["describe", "pod", "web"]);
    assert!(text.contains("Detection:    3601s at worst (passiveMaxAge 3600s + 1 x 1s)"), "{text}");
    assert!(text.lines().any(|line| line.trim_start().starts_with("Answered:     passive (")), "{text}");
    daemon.wait_for("its metrics", |daemon| {
        let passive = metric(daemon, "probe_engine_passive_answers_total")? >= 3.0;
        let held = metric(daemon, "probe_engine_passive_held")? == 1.0;
        let healthy = metric(daemon, "probe_engine_ebpf_feed_healthy")? == 1.0;
        (passive && held && healthy && metric(daemon, "probe_engine_ebpf_targets")? == 1.0).then_some(())
    });
    assert!(daemon.page("/metrics").expect("metrics").contains("probe_engine_ebpf_info{hook=\""));
    server.close();
    daemon.wait_event(&["Unhealthy", "Readiness probe failed", "connection refused"]);
    let failing = daemon
        .wait_for("another failure", |daemon| probe_of(daemon).filter(|probe| probe["answer"] == "real: failing"));
    assert_eq!(failing["verdict"], "Failure", "{failing}");
}

#[test]
fn a_pod_may_opt_out_of_passive_answers_and_another_may_opt_in() {
    let test = "a_pod_may_opt_out_of_passive_answers_and_another_may_opt_in";
    let (one, other) = (Server::start(), Server::start());
    for (default, out, into) in [("on", "off", ""), ("off", "", "on")] {
        let Some(mut daemon) = passive_daemon(test, &["--passive", default]) else { return };
        let annotation = |value: &str| match value {
            "" => String::new(),
            value => format!("probe-engine.io/passive: {value:?}"),
        };
        let pods = pod("out", one.addr.port(), &annotation(out)) + &pod("in", other.addr.port(), &annotation(into));
        daemon.manifest("pods.yaml", &pods);
        daemon.wait_for("passive answers of the one", |daemon| {
            probe(daemon, "in").filter(|probe| probe["passiveCount"].as_u64().is_some_and(|count| count >= 2))
        });
        let out = probe(&daemon, "out").expect("it is there");
        assert_eq!((&out["answer"], &out["passiveCount"]), (&"real: off".into(), &0.into()), "--passive {default}");
        assert_eq!(out["worstCaseDetectionSeconds"], 1);
    }
}
