//! The real daemon: pods from manifests as processes, probed, restarted, ended; and its command line.
#![cfg(feature = "engine")]

use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use probe_tests::daemon::{Daemon, binary, condition, free_port, processes};

/// A pod with one container that runs a shell script; `mark` finds its processes.
fn shell_pod(name: &str, script: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: none
    command: [/bin/sh, -c, {script:?}]
{rest}"
    )
}

/// A mark that no other process of this machine has on its command line.
fn mark(test: &str) -> String {
    format!("pe-{test}-{}", std::process::id())
}

fn gone(daemon: &mut Daemon, mark: &str) {
    daemon.wait_for(&format!("no process with {mark}"), |_| processes(mark).is_empty().then_some(()));
}

#[test]
fn without_a_runtime_nothing_runs_and_both_are_explained() {
    let output = Command::new(binary())
        .args(["run", "--manifests", "/nonexistent"])
        .env_remove("PROBE_ENGINE_RUNTIME")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--runtime process") && text.contains("--runtime none"), "{text}");
}

#[test]
fn flags_lie_over_variables_wherever_they_stand_and_config_show_tells_which_it_was() {
    let shown = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(words).env("PROBE_ENGINE_SOCKET", "/of/variable").env("PROBE_ENGINE_LOG_FORMAT", "json");
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |key: &str| {
            let words = text.lines().find(|line| line.starts_with(key)).expect("every key").split_whitespace();
            words.skip(1).collect::<Vec<_>>().join(" ")
        };
        [line("socket:"), line("logFormat:")]
    };
    let of_variables = ["/of/variable # PROBE_ENGINE_SOCKET", "json # PROBE_ENGINE_LOG_FORMAT"];
    assert_eq!(shown(&["config", "show"]), of_variables);
    let of_flags = ["/of/flag # flag", "text # flag"];
    assert_eq!(shown(&["--socket", "/of/flag", "--log-format", "text", "config", "show"]), of_flags);
    assert_eq!(shown(&["config", "show", "--log-format", "text", "--socket", "/of/flag"]), of_flags);
}

#[test]
fn a_pod_appears_is_replaced_and_goes_with_its_manifest() {
    let mark = mark("replace");
    let mut daemon = Daemon::start("process", &[]);
    let pod = |n: u32| shell_pod("web", &format!("sleep 600; : {mark}{n}"), "");
    daemon.manifest("web.yaml", &pod(1));
    daemon.wait_for("the first one's process", |_| (processes(&format!("{mark}1")).len() == 1).then_some(()));
    let first = daemon.wait_ready("web", "True");
    daemon.manifest("web.yaml", &pod(2));
    daemon.wait_for("the second one's process", |_| (processes(&format!("{mark}2")).len() == 1).then_some(()));
    gone(&mut daemon, &format!("{mark}1"));
    let second = daemon.wait_ready("web", "True");
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"], "another spec, another pod");
    daemon.remove_manifest("web.yaml");
    gone(&mut daemon, &mark);
    daemon.wait_for("the pod is forgotten", |daemon| daemon.pod("web").is_none().then_some(()));
}

#[test]
fn a_failing_liveness_probe_restarts_its_container_with_the_kubelets_words() {
    let mut daemon = Daemon::start("process", &[]);
    let probes = "    livenessProbe:
      exec: {command: [test, -e, alive]}
      periodSeconds: 1
      failureThreshold: 2
";
    daemon.manifest("web.yaml", &shell_pod("web", "touch alive; sleep 3 & wait; rm alive; sleep 600 & wait", probes));
    daemon.wait_event(&["Started", "pod/web", "Started container main"]);
    daemon.wait_event(&["Warning", "Unhealthy", "1 of 2", "Liveness probe failed"]);
    daemon.wait_event(&["Unhealthy", "2 of 2"]);
    daemon.wait_event(&["Killing", "Container main failed liveness probe, will be restarted"]);
    let restarted = daemon.wait_for("a restart", |daemon| {
        daemon.pod("web").filter(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    });
    let last = &restarted["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert!(last["exitCode"].is_i64(), "{restarted}");
    let metrics = daemon.page("/metrics/probes").expect("metrics");
    let failed = metrics.lines().find(|l| l.starts_with("prober_probe_total{") && l.contains("result=\"failed\""));
    assert!(failed.is_some_and(|line| line.contains("probe_type=\"Liveness\"")), "{metrics}");
    let restarts = daemon.page("/metrics").expect("metrics");
    assert!(restarts.contains("kube_pod_container_status_restarts_total{"), "{restarts}");
}

#[test]
fn a_startup_probe_holds_the_others_back_and_readiness_follows_at_once() {
    let mut daemon = Daemon::start("process", &[]);
    let probes = "    startupProbe:
      exec: {command: [test, -e, started]}
      periodSeconds: 1
      failureThreshold: 30
    readinessProbe:
      exec: {command: [test, -e, started]}
      periodSeconds: 8
    livenessProbe:
      exec: {command: [test, -e, started]}
      periodSeconds: 1
      failureThreshold: 1
";
    daemon.manifest("slow.yaml", &shell_pod("slow", "sleep 3; touch started; sleep 600 & wait", probes));
    daemon.wait_event(&["Unhealthy", "Startup probe failed"]);
    let pod = daemon.wait_ready("slow", "True");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "liveness was held back");
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], true);
    let events = daemon.says(&["events", "-A"]);
    assert!(!events.contains("Readiness probe failed"), "{events}");
}

#[test]
fn a_crashing_container_waits_in_crash_loop_back_off() {
    let mut daemon = Daemon::start("process", &[]);
    daemon.manifest("crash.yaml", &shell_pod("crash", "exit 3", ""));
    daemon.wait_event(&["Warning", "BackOff", "Back-off restarting failed container main in pod crash_default("]);
    let table = daemon.wait_for("its status in the table", |daemon| {
        let table = daemon.says(&["get", "pods"]);
        table.contains("CrashLoopBackOff").then_some(table)
    });
    assert!(table.lines().next().is_some_and(|header| {
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "GATES"].iter().all(|column| header.contains(column))
    }));
    let pod = daemon.pod("crash").expect("there");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{pod}");
    assert_eq!(condition(&pod, "Ready").expect("Ready")["reason"], "ContainersNotReady");
}

#[test]
fn sigterm_ends_all_pods_gracefully_and_leaves_nothing() {
    let mark = mark("term");
    let mut daemon = Daemon::start("process", &[]);
    let polite = format!("trap 'echo bye > said; exit 0' TERM; : {mark}; touch up; while true; do sleep 0.1; done");
    let probes = "    readinessProbe:\n      exec: {command: [test, -e, up]}\n      periodSeconds: 1\n";
    daemon.manifest("polite.yaml", &shell_pod("polite", &polite, probes));
    let stubborn = format!("trap '' TERM; : {mark}; touch up; while true; do sleep 0.1; done");
    daemon.manifest("stubborn.yaml", &shell_pod("stubborn", &stubborn, probes));
    daemon.wait_ready("polite", "True");
    daemon.wait_ready("stubborn", "True");
    let socket = daemon.folder.path().join("api.sock");
    assert!(socket.exists());
    daemon.signal(Signal::SIGTERM);
    let status = daemon.wait_end();
    assert!(status.success(), "{status}\n{}", daemon.log());
    assert_eq!(processes(&mark), []);
    assert!(!socket.exists(), "the socket is removed");
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace_period() {
    let mark = mark("hurry");
    let mut daemon = Daemon::start("process", &[]);
    let pod = shell_pod("stubborn", &format!("trap '' TERM; : {mark}; while true; do sleep 0.1; done"), "");
    daemon.manifest(
        "stubborn.yaml",
        &pod.replace("terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 600"),
    );
    daemon.wait_ready("stubborn", "True");
    daemon.signal(Signal::SIGINT);
    daemon.wait_for("the first signal is heard", |daemon| daemon.log().contains("second signal").then_some(()));
    daemon.signal(Signal::SIGINT);
    assert!(daemon.wait_end().success());
    assert_eq!(processes(&mark), []);
}

#[test]
fn a_killed_daemon_leaves_no_orphan_not_even_a_daemonised_one() {
    let mark = mark("orphan");
    let mut daemon = Daemon::start("process", &[]);
    // A grandchild in a session of its own whose parent has gone.
    let script = format!("setsid sh -c 'sleep 600; : {mark}' </dev/null >/dev/null 2>&1 & sleep 600; : {mark}");
    daemon.manifest("fork.yaml", &shell_pod("fork", &script, ""));
    daemon.wait_for("both processes", |_| (processes(&mark).len() >= 2).then_some(()));
    daemon.signal(Signal::SIGKILL);
    let _ = daemon.wait_end();
    gone(&mut daemon, &mark);
}

#[test]
fn fields_that_the_runtime_cannot_honour_are_refused_or_ignored_on_demand() {
    let pod = shell_pod("unsafe", "sleep 600", "    securityContext: {privileged: true}\n");
    let mut daemon = Daemon::start("process", &[]);
    daemon.manifest("unsafe.yaml", &pod);
    daemon.wait_for("the refusal in the log", |daemon| {
        daemon.log().contains("spec.containers[0].securityContext.privileged").then_some(())
    });
    assert!(daemon.pod("unsafe").is_none());
    drop(daemon);
    let mut daemon = Daemon::start("process", &["--ignore-unsupported"]);
    daemon.manifest("unsafe.yaml", &pod);
    daemon.wait_ready("unsafe", "True");
    let text = daemon.says(&["describe", "pod", "unsafe"]);
    assert!(text.contains("securityContext.privileged"), "{text}");
}

#[test]
fn the_runtime_none_only_watches() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let open = listener.local_addr().expect("its address").port();
    let closed = free_port().port();
    let mut daemon = Daemon::start("none", &[]);
    daemon.manifest(
        "watched.yaml",
        &format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: open}}, spec: {{containers: [{{name: a, livenessProbe: {{tcpSocket: {{port: {open}}}, periodSeconds: 1}}, readinessProbe: {{tcpSocket: {{port: {open}}}, periodSeconds: 1}}}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: closed}}, spec: {{containers: [{{name: a, livenessProbe: {{tcpSocket: {{port: {closed}}}, periodSeconds: 1, failureThreshold: 1}}, readinessProbe: {{tcpSocket: {{port: {closed}}}, periodSeconds: 1}}}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: shell}}, spec: {{containers: [{{name: a, livenessProbe: {{exec: {{command: [\"true\"]}}}}}}]}}}}
"
        ),
    );
    daemon.wait_ready("open", "True");
    daemon.wait_event(&["pod/closed", "Liveness probe failed", "connection refused"]);
    let closed = daemon.wait_ready("closed", "False");
    assert_eq!(closed["status"]["containerStatuses"][0]["restartCount"], 0, "nothing is killed");
    assert!(daemon.pod("shell").is_none(), "an exec probe has nothing to run in");
    assert!(daemon.log().contains("exec"), "{}", daemon.log());
    let failing = daemon.says(&["get", "probes", "-A", "--failing"]);
    assert!(failing.contains("closed") && !failing.contains("open "), "{failing}");
}

#[test]
fn a_probe_of_a_running_pod_can_be_made_now() {
    let mut daemon = Daemon::start("process", &[]);
    let probes = "    readinessProbe:\n      exec: {command: [test, -e, up]}\n      periodSeconds: 2\n";
    daemon.manifest("web.yaml", &shell_pod("web", "touch up; sleep 600 & wait", probes));
    daemon.wait_ready("web", "True");
    let text = daemon.says(&["probe", "pod/web", "-c", "main", "--type", "readiness"]);
    assert!(text.to_lowercase().contains("success"), "{text}");
}

#[test]
fn a_container_s_output_can_be_read_and_followed() {
    let mut daemon = Daemon::start("process", &[]);
    daemon.manifest("talk.yaml", &shell_pod("talk", "echo to-stdout; echo to-stderr >&2; sleep 600 & wait", ""));
    daemon.wait_ready("talk", "True");
    daemon.wait_for("its output", |daemon| {
        let logs = daemon.says(&["logs", "talk"]);
        (logs.contains("to-stdout") && logs.contains("to-stderr")).then_some(())
    });
}

#[test]
fn a_daemon_whose_log_nobody_reads_any_more_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut daemon = Daemon::start_unheard(folder, "none");
    assert!(daemon.page("/healthz").is_some());
    daemon.signal(Signal::SIGTERM);
    let status = daemon.wait_end();
    assert!(status.success(), "{status}");
}

#[test]
fn probes_of_a_pod_that_is_not_there_are_an_error() {
    let daemon = Daemon::start("none", &[]);
    let output = daemon.cli(&["get", "probes", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"nobody\" not found"), "{output:?}");
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let daemon = Daemon::start("none", &[]);
    let output = Command::new(binary())
        .args(["run", "--runtime", "none", "--metrics-listen", "off", "--manifests"])
        .arg(daemon.folder.path().join("manifests"))
        .arg("--socket")
        .arg(daemon.folder.path().join("api.sock"))
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("already listens"), "{text}");
    assert!(daemon.page("/healthz").is_some(), "the first one is well");
}

#[test]
fn one_attempt_from_the_command_line_says_what_the_daemon_would_see() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let open = listener.local_addr().expect("its address").to_string();
    let run = |words: &[&str]| Command::new(binary()).args(words).stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(run(&["probe", "tcp", &open]).status.code(), Some(0));
    let refused = run(&["probe", "tcp", &free_port().to_string()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("connection refused"));
    assert_eq!(run(&["probe", "exec", "--", "true"]).status.code(), Some(0));
    assert_eq!(run(&["probe", "exec", "--", "false"]).status.code(), Some(1));
}

#[test]
fn validate_reports_every_error_with_its_place_and_fails() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/manifests/broken");
    let output = Command::new(binary()).arg("validate").arg(&data).stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("livenessProbe") && text.contains(".yaml:"), "{text}");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout").join("examples");
    let output = Command::new(binary()).arg("validate").arg(&examples).stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}
