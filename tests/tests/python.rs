//! Clients in another language, made from the proto file alone (`tests/python`): an operator, and a kubelet that embeds the engine.
#![cfg(feature = "engine")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use probe_tests::certificates::Ca;
use probe_tests::daemon::{Daemon, binary, free_port};
use probe_tests::skip::skip;
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// A Python with what `requirements.txt` names, made once for each content of that file.
fn python(test: &str) -> Option<PathBuf> {
    let requirements = folder().join("requirements.txt");
    let digest = Sha256::digest(fs::read(&requirements).expect("it is there"));
    let name = format!("python-{:.12}", format!("{digest:x}"));
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    // Two tests may want it at once.
    let lock = File::create(place.with_extension("lock")).expect("a lock file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("the lock");
    let (python, whole) = (place.join("bin/python"), place.join("whole"));
    if whole.exists() {
        return Some(python);
    }
    let succeeds = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !succeeds(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place)) {
        skip(test, "no python3 with venv; to install it: apt-get install -y python3-venv");
        return None;
    }
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    let installed = Command::new(&python).args(install).arg(&requirements).stdin(Stdio::null()).output();
    let installed = installed.expect("a Python that was just made");
    if !installed.status.success() {
        let why = String::from_utf8_lossy(&installed.stderr);
        // Without a network they are not to be had; a file that contradicts itself is a mistake of ours.
        assert!(!why.contains("ResolutionImpossible"), "{}: {why}", requirements.display());
        let (python, requirements) = (python.display(), requirements.display());
        skip(test, &format!("PyPI gave no grpcio; to see why: {python} -m pip install --requirement {requirements}"));
        return None;
    }
    fs::write(whole, "").expect("a mark");
    Some(python)
}

/// A client under way.
struct Client {
    child: Child,
    lines: BufReader<ChildStdout>,
    said: Vec<String>,
}

impl Client {
    fn start(python: &Path, script: &str, words: &[&str]) -> Self {
        let proto = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout").join("probe-engine/proto");
        let mut child = Command::new(python)
            .arg(folder().join(script))
            .arg("--proto")
            .arg(proto)
            .args(words)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines, said: Vec::new() }
    }

    /// Reads to this line, or to its end where there is none.
    fn read_to(&mut self, line: &str) {
        let mut next = String::new();
        while self.lines.read_line(&mut next).expect("text") > 0 {
            self.said.push(next.trim_end().to_owned());
            if next.trim_end() == line {
                return;
            }
            next.clear();
        }
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("it reads");
    }

    /// It has ended well, and has said these lines.
    fn has_said(mut self, lines: &[&str], daemon: &Daemon) {
        self.read_to("");
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "{status}; it had said {:#?}\nthe daemon:\n{}", self.said, daemon.log());
        assert_eq!(self.said, lines);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_operator_adds_breaks_and_removes_a_pod_over_tls() {
    let Some(python) = python("an_operator_adds_breaks_and_removes_a_pod_over_tls") else { return };
    let certificates = tempfile::tempdir().expect("a directory");
    let ca = Ca::in_folder(certificates.path());
    ca.sign_server();
    ca.sign_client();
    let (address, ca_file) = (free_port().to_string(), ca.path("ca.pem"));
    let (server, key) = (ca.path("server.pem"), ca.path("server.key"));
    let files = ["--api-tls-cert", &server, "--api-tls-key", &key, "--api-client-ca", &ca_file];
    let daemon = Daemon::start("process", &[&["--api-listen", &address][..], &files].concat());
    let (cert, key, program) = (ca.path("client.pem"), ca.path("client.key"), binary());
    let program = program.to_str().expect("UTF-8");
    let words = ["--target", &address, "--ca", &ca_file, "--cert", &cert, "--key", &key, "--server", program];
    let client = Client::start(&python, "client.py", &words);
    let connected = format!("connected to {address}");
    let lines = [
        connected.as_str(),
        "an empty snapshot, and SYNCED",
        "a bad manifest is refused by its field",
        "the pod is added, once",
        "the pod is Ready",
        "broken, it is not Ready",
        "events tell Unhealthy and Killing",
        "a new instance of the container is Ready",
        "the watch goes on where another ended",
        "the pod is removed, and gone",
    ];
    client.has_said(&lines, &daemon);
    let page = daemon.page("/metrics").expect("served");
    assert!(page.contains("probe_engine_api_handshakes_total{result=\"accepted\"} 1\n"), "one connection, over TLS");
}

#[test]
fn an_embedder_plays_the_kubelet_on_the_socket_and_survives_the_daemon() {
    let Some(python) = python("an_embedder_plays_the_kubelet_on_the_socket_and_survives_the_daemon") else { return };
    let start = |folder| Daemon::start_external_in(folder, &["--state-interval-seconds", "1"]);
    let folder = tempfile::Builder::new().prefix("probe-engine-test-").tempdir().expect("a temporary directory");
    let mut daemon = start(folder);
    let target = format!("unix:{}", daemon.folder.path().join("api.sock").display());
    let mut client = Client::start(&python, "embedder.py", &["--target", &target]);
    let restart = "kill the daemon and start it again";
    client.read_to(restart);
    if client.said.last().is_some_and(|line| line == restart) {
        let asked_at = written_at(&daemon).expect("served");
        // Two looks later all that was known then is in the file.
        daemon.wait_for("a newer state file", |daemon| (written_at(daemon)? > asked_at + 1).then_some(()));
        daemon = start(daemon.kill());
        client.go_on();
    }
    let lines = [
        "connected to an engine without a runtime",
        "one pod is taken, one is refused by its problems",
        "the app is ready by its probe",
        "a command was asked for, and answered",
        "its exit code 1 is a Failure of its container",
        "the broken app is a Failure of its container",
        "the new instance begins with its initial value",
        "and is ready by its probe",
        restart,
        "one SyncPods and the status bring back what was known",
        "commands are asked for again",
        "liveness has ended, readiness goes on",
        "the pod is gone with the next SyncPods",
    ];
    client.has_said(&lines, &daemon);
}

#[test]
fn the_reader_of_hdrhistogram_finds_what_the_daemons_json_says() {
    let Some(python) = python("the_reader_of_hdrhistogram_finds_what_the_daemons_json_says") else { return };
    let mut daemon = Daemon::start("none", &[]);
    let json = |daemon: &mut Daemon| -> Option<Vec<(u64, u64)>> {
        let page: serde_json::Value = serde_json::from_str(&daemon.page("/api/v1/latency")?).ok()?;
        serde_json::from_value(page["sinceStart"]["turn"].clone())
            .ok()
            .filter(|turns: &Vec<(u64, u64)>| !turns.is_empty())
    };
    let count = |turns: &[(u64, u64)]| turns.iter().map(|(_, count)| count).sum::<u64>();
    let before = daemon.wait_for("a turn", json);
    let log = daemon.page("/api/v1/latency.hlog?window=start").expect("served");
    let after = json(&mut daemon).expect("served");
    let file = daemon.folder.path().join("latency.hlog");
    fs::write(&file, log).expect("a file");
    let read = Command::new(&python).arg(folder().join("hlog.py")).arg(&file).output().expect("python starts");
    let said = String::from_utf8(read.stdout).expect("text");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let turns = said.lines().find_map(|line| line.strip_prefix("turn ")).expect("the turns");
    let (total, max_us) = turns.split_once(' ').expect("two numbers");
    let (total, max_us): (u64, u64) = (total.parse().expect("a number"), max_us.parse().expect("a number"));
    assert!((count(&before)..=count(&after)).contains(&total), "{said}");
    // Their largest value is the largest that cannot be told from it, as ours is.
    let largest = |turns: &[(u64, u64)]| turns.last().map_or(0, |(value_us, _)| *value_us);
    assert!((largest(&before)..=largest(&after)).contains(&max_us), "{said}");
}

/// When the state file was last up to date, in seconds since 1970.
fn written_at(daemon: &Daemon) -> Option<u64> {
    let page = daemon.page("/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix("probe_engine_state_current_timestamp_seconds "))?;
    line.parse().ok()
}
