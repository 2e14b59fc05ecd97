//! Paused probes of the real daemon: nothing comes of a broken target until they are resumed.
#![cfg(feature = "engine")]

use std::fs;
use std::path::Path;

use probe_tests::daemon::Daemon;
use serde_json::Value;

/// Asked once a second whether a file is there; twice not, and the container is killed.
fn pod(name: &str, alive: &Path) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: none
    command: [/bin/sh, -c, sleep 600]
    livenessProbe:
      exec: {{command: [test, -e, {alive:?}]}}
      periodSeconds: 1
      failureThreshold: 2
",
    )
}

fn probe_of(daemon: &Daemon, name: &str) -> Option<Value> {
    let shown = daemon.says(&["get", "probes", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown["items"].as_array()?.iter().find(|probe| probe["pod"] == name).cloned()
}

fn restarts(daemon: &Daemon, name: &str) -> Option<u64> {
    daemon.pod(name)?["status"]["containerStatuses"][0]["restartCount"].as_u64()
}

fn wait_for_success(daemon: &mut Daemon, name: &str) {
    daemon.wait_for(&format!("a success of {name}"), |daemon| {
        probe_of(daemon, name).filter(|probe| probe["successfulCount"].as_u64() > Some(0))
    });
}

fn wait_for_restart(daemon: &mut Daemon, name: &str) {
    let before = restarts(daemon, name).unwrap_or_default();
    daemon.wait_for(&format!("a restart of {name}"), |daemon| restarts(daemon, name).filter(|now| *now > before));
}

fn counts(probe: &Value) -> [&Value; 4] {
    ["verdict", "successfulCount", "failedCount", "pausedUntil"].map(|key| &probe[key])
}

fn gauge(daemon: &Daemon, name: &str) -> Option<String> {
    let page = daemon.page("/metrics")?;
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
}

#[test]
fn nothing_is_killed_while_liveness_is_paused_and_it_is_when_it_goes_on_over_a_restart_of_the_daemon_too() {
    let flags = ["--state-interval-seconds", "1"];
    let mut daemon = Daemon::start("process", &flags);
    let alive = daemon.folder.path().join("alive");
    fs::write(&alive, "").expect("a file");
    daemon.manifest("web.yaml", &pod("web", &alive));
    daemon.manifest("witness.yaml", &pod("witness", &alive));
    wait_for_success(&mut daemon, "web");
    wait_for_success(&mut daemon, "witness");

    let said = daemon.says(&["pause", "pod", "web", "--type", "liveness", "--for", "1h"]);
    assert!(said.starts_with("pod/web: 1 probe paused until 20") && said.ends_with("Z (60m)\n"), "{said}");
    let table = daemon.says(&["get", "probes"]);
    assert!(table.lines().any(|line| line.contains("web") && line.contains("paused until 20")), "{table}");
    assert!(daemon.says(&["describe", "pod", "web"]).contains("Paused:       until 20"));
    daemon.wait_event(&["Normal", "ProbesPaused", "pod/web", "Paused until 20", "app Liveness"]);
    assert_eq!(gauge(&daemon, "probe_engine_probes_paused").as_deref(), Some("1"));
    // An attempt that was being made has ended by the time that the other pod's next ones have failed.
    fs::remove_file(&alive).expect("it is there");
    wait_for_restart(&mut daemon, "witness");
    let paused = probe_of(&daemon, "web").expect("a probe");
    wait_for_restart(&mut daemon, "witness");
    let later = probe_of(&daemon, "web").expect("a probe");
    assert_eq!((counts(&later), &later["verdict"]), (counts(&paused), &"Success".into()));
    assert_eq!(restarts(&daemon, "web"), Some(0), "{}", daemon.log());
    let refused = daemon.cli(&["probe", "pod/web", "--type", "liveness"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("is paused until 20") && text.contains(": resume it first"), "{text}");

    // Killed once the state file knows of it.
    let state = daemon.folder.path().join("state/state");
    daemon.wait_for("the pause in the state file", |_| {
        let bytes = fs::read(&state).ok()?;
        // Field 7 of the pod's message, 25 bytes long, that begin with the container's name.
        bytes.windows(7).any(|part| part == b"\x3a\x19\x0a\x03app").then_some(())
    });
    let mut daemon = Daemon::start_in(daemon.kill(), "process", &flags);
    wait_for_restart(&mut daemon, "witness");
    let after = probe_of(&daemon, "web").expect("a probe");
    assert_eq!((&after["pausedUntil"], &after["failedCount"]), (&paused["pausedUntil"], &0.into()));
    assert_eq!(restarts(&daemon, "web"), Some(0));

    assert_eq!(daemon.says(&["resume", "pods", "-l", "app=web"]), "1 probe of 1 pod resumed\n");
    daemon.wait_event(&["Normal", "ProbesResumed", "pod/web", "Resumed by uid", "app Liveness"]);
    daemon.wait_event(&["Unhealthy", "pod/web", "2 of 2"]);
    wait_for_restart(&mut daemon, "web");
    let resumed = daemon.cli(&["resume", "--all"]);
    assert!(resumed.status.success() && resumed.stdout.is_empty(), "{resumed:?}");
    assert_eq!(String::from_utf8_lossy(&resumed.stderr), "No paused probes found\n");
    let unsaid = daemon.cli(&["pause", "pods", "--for", "1h"]);
    assert_eq!(unsaid.status.code(), Some(2), "never all by accident: {unsaid:?}");
    assert_eq!(gauge(&daemon, "probe_engine_probes_paused").as_deref(), Some("0"));
    assert_eq!(gauge(&daemon, "probe_engine_probes_paused_oldest_timestamp_seconds").as_deref(), Some("0"));
}
