//! Watching pods of the real daemon: what a stream tells over its life, and `get -w`.
#![cfg(feature = "engine")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use nix::sys::socket::{Shutdown, shutdown};
use probe_engine::api::v1::watch_pods_response::Item;
use probe_engine::api::v1::{self, Place};
use probe_engine::cli::client;
use probe_tests::daemon::{Daemon, PATIENCE, binary, free_port};

/// A pod with two probes of this port.
fn pod(name: &str, port: u16) -> String {
    let probe = format!("{{tcpSocket: {{port: {port}}}, periodSeconds: 1, failureThreshold: 2}}");
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{containers: \
         [{{name: a, readinessProbe: {probe}, livenessProbe: {probe}}}]}}}}\n"
    )
}

/// A server that takes connections until it is dropped.
struct Target {
    listener: Arc<TcpListener>,
    taking: Option<JoinHandle<()>>,
}

impl Target {
    fn open(port: u16) -> Target {
        let listener = Arc::new(TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
        let of_thread = Arc::clone(&listener);
        let taking = std::thread::spawn(move || while of_thread.accept().is_ok() {});
        Target { listener, taking: Some(taking) }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("its address").port()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Ends the accept(2) that waits.
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).expect("it listens");
        self.taking.take().map(JoinHandle::join);
    }
}

/// What of a pod a watcher is told of; counts and times are no change.
fn state(pod: &v1::Pod) -> String {
    let conditions: Vec<_> = pod.conditions.iter().map(|c| (c.r#type.clone(), c.status)).collect();
    let container = |c: &v1::Container| {
        let probe = |p: &v1::Probe| (p.r#type, p.verdict, p.run.min(p.threshold), p.last, p.last_message.clone());
        (c.name.clone(), c.id.clone(), c.started, c.ready, c.probes.iter().map(probe).collect::<Vec<_>>())
    };
    let containers: Vec<_> = pod.containers.iter().map(container).collect();
    format!("{} {} {} {conditions:?} {containers:?}", pod.name, pod.phase, pod.deleting)
}

fn ready(pod: &v1::Pod) -> bool {
    pod.conditions.iter().any(|c| c.r#type == "Ready" && c.status() == v1::ConditionStatus::True)
}

/// A program that watches, and what it knows by it.
struct Watcher {
    runtime: tokio::runtime::Runtime,
    stream: Box<dyn Stream>,
    pods: BTreeMap<String, v1::Pod>,
    fresh: Option<BTreeMap<String, v1::Pod>>,
    place: Option<Place>,
    restarts: Vec<bool>,
    synced: bool,
}

/// A stream of tonic's, whose type this package does not name.
trait Stream {
    fn next(&mut self, runtime: &tokio::runtime::Runtime) -> v1::WatchPodsResponse;
}

struct Of<F>(F);

impl<F: AsyncFnMut() -> v1::WatchPodsResponse> Stream for Of<F> {
    fn next(&mut self, runtime: &tokio::runtime::Runtime) -> v1::WatchPodsResponse {
        let next = (self.0)();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, next).await.expect("a message in time") })
    }
}

impl Watcher {
    fn start(socket: &Path, since: Option<Place>) -> Watcher {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut stream = runtime.block_on(async {
            let mut client = client::connect(socket).await.expect("connected");
            let request = v1::WatchPodsRequest { filter: None, since };
            client.watch_pods(request).await.expect("served").into_inner()
        });
        let next = async move || stream.message().await.expect("no error").expect("it goes on");
        Watcher {
            runtime,
            stream: Box::new(Of(next)),
            pods: BTreeMap::new(),
            fresh: None,
            place: None,
            restarts: Vec::new(),
            synced: false,
        }
    }

    fn of(daemon: &Daemon, since: Option<Place>) -> Watcher {
        let mut watcher = Watcher::start(&daemon.folder.path().join("api.sock"), since);
        watcher.until(|watcher| watcher.synced);
        watcher
    }

    /// Takes in what comes until it is as it should be.
    fn until(&mut self, is_so: impl Fn(&Watcher) -> bool) {
        while !is_so(self) {
            let response = self.stream.next(&self.runtime);
            match response.item.expect("an item") {
                Item::Restart(restart) => {
                    self.restarts.push(restart.place_lost);
                    (self.fresh, self.synced) = (Some(BTreeMap::new()), false);
                }
                Item::Pod(pod) => {
                    self.fresh.as_mut().unwrap_or(&mut self.pods).insert(pod.uid.clone(), pod);
                }
                Item::Gone(gone) => {
                    self.fresh.as_mut().unwrap_or(&mut self.pods).remove(&gone.uid);
                }
                Item::Synced(_) => {
                    self.pods = self.fresh.take().unwrap_or_else(|| std::mem::take(&mut self.pods));
                    self.synced = true;
                }
            }
            self.place = response.place.or(self.place.take());
        }
    }

    fn named(&self, name: &str) -> Option<&v1::Pod> {
        self.pods.values().find(|pod| pod.name == name)
    }

    fn states(&self) -> Vec<String> {
        self.pods.values().map(state).collect()
    }
}

#[test]
fn a_watcher_sees_a_pod_come_turn_ready_fail_and_go_and_another_goes_on_from_its_place() {
    let open = Target::open(0);
    let port = open.port();
    let daemon = Daemon::start("none", &["--ebpf", "off"]);
    let mut watcher = Watcher::of(&daemon, None);
    assert_eq!((watcher.restarts.as_slice(), watcher.pods.len()), (&[false][..], 0));
    daemon.manifest("web.yaml", &pod("web", port));
    watcher.until(|w| w.named("web").is_some_and(ready));
    let place = watcher.place.clone();
    drop(open);
    watcher.until(|w| w.named("web").is_some_and(|pod| !ready(pod)));
    let probes = &watcher.named("web").expect("there").containers[0].probes;
    assert_eq!(probes[0].verdict(), v1::Verdict::Failure);
    // What the first one saw before, and what it has missed since: one message.
    let later = Watcher::of(&daemon, place.clone());
    assert_eq!((later.restarts.len(), later.states()), (0, watcher.states()));
    daemon.remove_manifest("web.yaml");
    watcher.until(|w| w.pods.is_empty());
    assert_eq!(watcher.restarts, [false]);

    // Another run of the daemon knows nothing of this one's places.
    daemon.manifest("next.yaml", &pod("next", port));
    watcher.until(|w| w.named("next").is_some());
    let place = watcher.place.clone();
    let daemon = Daemon::start_in(daemon.kill(), "none", &["--ebpf", "off"]);
    let mut watcher = Watcher::of(&daemon, place);
    assert_eq!(watcher.restarts, [true]);
    watcher.until(|w| w.named("next").is_some());
}

#[test]
fn a_watcher_that_stops_reading_for_a_while_ends_with_the_picture_of_a_fresh_one() {
    let open = Target::open(0);
    let port = open.port();
    let mut daemon = Daemon::start("none", &["--ebpf", "off"]);
    let count = 150;
    let pods = |from: usize| (from..from + count).map(|n| format!("---\n{}", pod(&format!("p{n}"), port)));
    daemon.manifest("pods.yaml", &pods(0).collect::<String>());
    let mut slow = Watcher::of(&daemon, None);
    slow.until(|w| w.pods.len() == count && w.pods.values().all(ready));
    // From here on it reads nothing: half of the pods are others, and all of their targets die and come back.
    daemon.manifest("pods.yaml", &pods(count / 2).collect::<String>());
    let mut other = Watcher::of(&daemon, None);
    let all_there = |w: &Watcher| w.pods.len() == count && w.named(&format!("p{}", count + count / 2 - 1)).is_some();
    other.until(|w| all_there(w) && w.pods.values().all(ready));
    drop(open);
    other.until(|w| !w.pods.values().any(ready));
    let open = Target::open(port);
    other.until(|w| w.pods.values().all(ready));
    // Readiness is back; liveness probes wait for a restart that does not come. Nothing changes any more.
    let settled = daemon.wait_for("no probe changes", |daemon| {
        let fresh = Watcher::of(daemon, None);
        (Watcher::of(daemon, fresh.place.clone()).pods.is_empty()).then_some(fresh)
    });
    slow.until(|w| w.place.as_ref().is_some_and(|p| p.revision >= settled.place.as_ref().expect("synced").revision));
    assert_eq!(slow.states(), settled.states());
    assert_eq!(slow.restarts, [false], "it has not even lost its place");
    drop(open);
}

/// A command that goes on, and the lines that it writes.
struct Shown {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (to, from) = channel();
    std::thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
    from
}

impl Shown {
    fn start(daemon: &Daemon, words: &[&str]) -> Shown {
        let mut child = Command::new(binary())
            .arg("--socket")
            .arg(daemon.folder.path().join("api.sock"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command line runs");
        let lines = lines_of(child.stdout.take().expect("a pipe"));
        let errors = lines_of(child.stderr.take().expect("a pipe"));
        Shown { child, lines, errors }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// The first line to come with all of these.
    fn line_with(&self, parts: &[&str]) -> String {
        loop {
            let line = self.line();
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    fn error_with(&self, part: &str) {
        while !self.errors.recv_timeout(PATIENCE).expect("a line in time").contains(part) {}
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watching_get_shows_what_is_there_and_a_line_for_each_change_and_goes_on_with_the_next_daemon() {
    let open = Target::open(0);
    let port = open.port();
    let mut daemon = Daemon::start("none", &["--ebpf", "off"]);
    daemon.manifest("web.yaml", &pod("web", port));
    daemon.wait_ready("web", "True");
    let pods = Shown::start(&daemon, &["get", "pods", "-w"]);
    let events = Shown::start(&daemon, &["get", "pods", "-w", "--output-watch-events"]);
    let json = Shown::start(&daemon, &["get", "pod", "web", "--watch-only", "-o", "json"]);
    let probes = Shown::start(&daemon, &["get", "probes", "-w", "-n", "default"]);
    assert!(pods.line().starts_with("NAME   READY   STATUS    RESTARTS   AGE"), "the names first");
    let first = pods.line();
    assert!(first.starts_with("web    1/1     Running   0          "), "{first}");
    assert!(events.line_with(&["ADDED", "web"]).starts_with("ADDED   web"));
    probes.line_with(&["web", "Readiness", "Success", "1 of 1"]);
    drop(open);
    let changed = pods.line();
    assert!(changed.starts_with("web    0/1     Running"), "{changed}");
    events.line_with(&["MODIFIED", "0/1"]);
    probes.line_with(&["web", "Readiness", "1 of 2", "failure"]);
    probes.line_with(&["web", "Readiness", "Failure", "2 of 2"]);
    let object: serde_json::Value = serde_json::from_str(&json.line()).expect("an object a line");
    assert_eq!((object["kind"].as_str(), object["metadata"]["name"].as_str()), (Some("Pod"), Some("web")));
    daemon.remove_manifest("web.yaml");
    events.line_with(&["DELETED", "web"]);

    let pid = daemon.pid();
    daemon = Daemon::start_in(daemon.kill(), "none", &["--ebpf", "off"]);
    assert_ne!(pid, daemon.pid());
    pods.error_with("lost the daemon");
    pods.error_with("found the daemon (it was started again)");
    daemon.manifest("later.yaml", &pod("later", port));
    pods.line_with(&["later", "0/1"]);
    assert!(events.line_with(&["ADDED", "later"]).starts_with("ADDED"));
}

#[test]
fn a_watching_get_ends_when_nobody_reads_it_any_more_and_names_what_is_not_there() {
    let daemon = Daemon::start("none", &["--ebpf", "off"]);
    daemon.manifest("web.yaml", &pod("web", free_port().port()));
    let mut shown = Command::new(binary())
        .arg("--socket")
        .arg(daemon.folder.path().join("api.sock"))
        .args(["get", "pods", "-w"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command line runs");
    // `| head -1`, and then nothing changes.
    let mut first = String::new();
    BufReader::new(shown.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    let mut daemon = daemon;
    let status = daemon.wait_for("its end", |_| shown.try_wait().expect("a child"));
    assert_eq!((status.code(), first.split_whitespace().next()), (Some(0), Some("NAME")));
    let missing = daemon.cli(&["get", "pod", "wbe", "-w"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("\"wbe\" not found"), "{missing:?}");
}
