//! The daemon killed with SIGKILL, again and again, at moments that nobody chose: what it goes on with afterwards.
#![cfg(feature = "engine")]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use probe_tests::daemon::{Daemon, condition, processes};
use serde_json::Value;

/// Kills of each of the two tests.
const KILLS: usize = 50;

/// `--state-interval-seconds`, so that a kill comes in all its phases.
const STATE_INTERVAL_S: u64 = 1;

/// Pods that are well.
const WELL: usize = 40;

/// Moments from a seed that a failure names: splitmix64.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = u64::from(std::process::id());
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn next_below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        limit.mul_f64((z >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Accepts on a port and counts, until it is dropped.
struct Target {
    port: u16,
    accepted: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
}

impl Target {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (accepted, ending): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (count, end) = (Arc::clone(&accepted), Arc::clone(&ending));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                drop(stream);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, accepted, ending }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pod(name: &str, probes: &str, command: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nstatus: {{podIP: 127.0.0.1}}\nspec:\n{rest}  containers:\n  - name: app\n    \
         image: none\n    command: [/bin/sh, -c, '{command}']\n{probes}"
    )
}

fn tcp(probe: &str, port: u16, failure_threshold: u32) -> String {
    format!("    {probe}: {{tcpSocket: {{port: {port}}}, periodSeconds: 1, failureThreshold: {failure_threshold}}}\n")
}

fn flags() -> [String; 2] {
    ["--state-interval-seconds".to_owned(), STATE_INTERVAL_S.to_string()]
}

fn start_in(folder: tempfile::TempDir, runtime: &str, more: &[&str]) -> Daemon {
    let flags = flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Daemon::start_in(folder, runtime, &flags)
}

/// The probe of this pod and type, as `get probes` gives it.
fn probe(probes: &Value, pod: &str, probe_type: &str) -> Value {
    let items = probes["items"].as_array().expect("a list");
    let found = items.iter().find(|item| item["pod"] == pod && item["type"] == probe_type);
    found.unwrap_or_else(|| panic!("no {probe_type} of {pod}: {probes}")).clone()
}

fn probes(daemon: &Daemon) -> Value {
    serde_json::from_str(&daemon.says(&["get", "probes", "-A", "-o", "json"])).expect("JSON")
}

fn pods(daemon: &Daemon) -> Vec<Value> {
    let list: Value = serde_json::from_str(&daemon.says(&["get", "pods", "-A", "-o", "json"])).expect("JSON");
    list["items"].as_array().expect("a list").clone()
}

/// Name, status and last flip of each pod's Ready.
fn ready(daemon: &Daemon) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = pods(daemon).into_iter().map(|pod| {
        let ready = condition(&pod, "Ready").expect("every pod has it").clone();
        (text(&pod["metadata"]["name"]), text(&ready["status"]), text(&ready["lastTransitionTime"]))
    });
    all.collect()
}

#[test]
fn without_a_runtime_nothing_flaps_and_every_count_goes_on() {
    let target = Target::start();
    let mut daemon = Daemon::start("none", &flags().each_ref().map(String::as_str));
    for number in 0..WELL {
        let probes = [tcp("livenessProbe", target.port, 3), tcp("readinessProbe", target.port, 3)].concat();
        daemon.manifest(&format!("well-{number}.yaml"), &pod(&format!("well-{number}"), &probes, "", ""));
    }
    // Port 1 refuses; once it has failed three times the liveness probe is on hold.
    daemon.manifest("held.yaml", &pod("held", &tcp("livenessProbe", 1, 3), "", ""));
    daemon.manifest("counting.yaml", &pod("counting", &tcp("readinessProbe", 1, 1_000_000), "", ""));
    daemon.wait_for("all that is well is ready, and what is not is on hold", |daemon| {
        let ready = ready(daemon);
        let well = ready.iter().filter(|(name, status, _)| name.starts_with("well") && status == "True").count();
        let held = ready.iter().any(|(name, ..)| name == "held")
            && probe(&probes(daemon), "held", "Liveness")["verdict"] == "Failure";
        (well == WELL && held).then_some(())
    });
    // So that all this is in the file.
    let written = Duration::from_secs(STATE_INTERVAL_S) + Duration::from_millis(500);
    thread::sleep(written); // tidy: the file is written without a word
    let before = ready(&daemon);
    let mut moments = Moments::new();
    let first_run = probe(&probes(&daemon), "counting", "Readiness")["run"].as_u64().expect("a number");
    let mut run = 0;
    for kill in 0..KILLS {
        thread::sleep(moments.next_below(Duration::from_millis(1_200))); // tidy: the moment of the kill is the test's subject
        let last = probe(&probes(&daemon), "counting", "Readiness")["run"].as_u64().expect("a number");
        let folder = daemon.kill();
        daemon = start_in(folder, "none", &[]);
        daemon.wait_for("the manifests", |daemon| (pods(daemon).len() == before.len()).then_some(()));
        assert_eq!(ready(&daemon), before, "kill {kill}: a flap, or a time of one");
        let now = probes(&daemon);
        let counting = probe(&now, "counting", "Readiness");
        let goes_on = counting["run"].as_u64().expect("a number");
        // What was counted in the last interval, the attempt at its edge, and the time that writing took on a busy machine.
        assert!(goes_on + STATE_INTERVAL_S + 2 >= last, "kill {kill}: {goes_on} in a row after {last}");
        run = run.max(goes_on);
        let held = probe(&now, "held", "Liveness");
        assert_eq!(
            (&held["verdict"], &held["last"]),
            (&"Failure".into(), &Value::Null),
            "kill {kill}: on hold, not asked"
        );
        assert!(!daemon.log().contains("panicked"), "kill {kill}:\n{}", daemon.log());
    }
    let restarts: u64 = pods(&daemon).iter().map(restart_count).sum();
    assert_eq!(restarts, 0);
    assert!(run > first_run, "it counted on: {run} in a row, {first_run} before the first kill");
    assert!(target.accepted.load(Ordering::SeqCst) > 0);
}

fn restart_count(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
}

/// Restarts of a pod, and the seconds of the back-off that it waits for, if it does.
fn life(daemon: &Daemon, name: &str) -> (u64, Option<u64>) {
    let pod = daemon.pod(name).expect("the pod");
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let message = waiting["message"].as_str().unwrap_or_default();
    let wait = message.strip_prefix("back-off ").and_then(|rest| rest.split_once("s ")?.0.parse().ok());
    (restart_count(&pod), wait)
}

#[test]
fn containers_start_again_with_the_counts_and_the_back_off_that_they_had() {
    let mut daemon = Daemon::start("process", &flags().each_ref().map(String::as_str));
    // As many seconds as nobody else sleeps.
    let mark = format!("sleep 1{:07}", std::process::id());
    daemon.manifest("steady.yaml", &pod("steady", "", &format!("exec {mark}"), ""));
    daemon.manifest("crashing.yaml", &pod("crashing", "", "exit 1", ""));
    daemon.manifest("done.yaml", &pod("done", "", "exit 0", "  restartPolicy: OnFailure\n"));
    let init = "  initContainers:\n  - name: before\n    image: none\n    command: [/bin/true]\n";
    daemon.manifest("prepared.yaml", &pod("prepared", "", "exec sleep 3600", init));
    daemon.wait_for("a back-off", |daemon| {
        let is_done = daemon.pod("done").is_some_and(|pod| pod["status"]["phase"] == "Succeeded");
        let waits = daemon.pod("crashing").is_some() && life(daemon, "crashing").1 == Some(10);
        (is_done && waits).then_some(())
    });
    let written = Duration::from_secs(STATE_INTERVAL_S) + Duration::from_millis(500);
    thread::sleep(written); // tidy: the file is written without a word
    let mut moments = Moments::new();
    let mut longest = 0;
    for kill in 0..KILLS {
        thread::sleep(moments.next_below(Duration::from_millis(1_200))); // tidy: the moment of the kill is the test's subject
        let (count, wait) = life(&daemon, "crashing");
        let folder = daemon.kill();
        daemon = start_in(folder, "process", &[]);
        daemon.wait_for("the containers", |daemon| {
            let runs = |name: &str| {
                let pod = daemon.pod(name)?;
                pod["status"]["containerStatuses"][0]["state"]["running"].is_object().then_some(())
            };
            (runs("steady").is_some()
                && runs("prepared").is_some()
                && daemon.pod("crashing").is_some()
                && daemon.pod("done").is_some())
            .then_some(())
        });
        let (count_now, wait_now) = life(&daemon, "crashing");
        // One instance may have ended within the last interval, or since the start.
        assert!(
            (count.saturating_sub(1)..=count + 1).contains(&count_now),
            "kill {kill}: {count_now} restarts after {count}"
        );
        if let (Some(wait), Some(wait_now)) = (wait, wait_now) {
            assert!(wait_now * 2 >= wait, "kill {kill}: a back-off of {wait_now} s after one of {wait} s");
            longest = longest.max(wait_now);
        }
        assert_eq!(life(&daemon, "steady").0, 0, "kill {kill}: what ran starts in its own place");
        assert_eq!(daemon.pod("done").expect("the pod")["status"]["phase"], "Succeeded", "kill {kill}: done is done");
        assert_eq!(processes(&mark).len(), 1, "kill {kill}: the instance before is gone");
        assert!(!daemon.log().contains("panicked"), "kill {kill}:\n{}", daemon.log());
    }
    assert!(longest >= 20, "the back-off grew across the kills: {longest} s");
}
