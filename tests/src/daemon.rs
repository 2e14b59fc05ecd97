//! The real daemon in a temporary directory, driven and watched as an operator would.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here takes on a slow machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the stepped daemon answers when it has moved its clock.
pub const STEPPED: &str = "stepped";

/// How often a state is looked at that gives no event to wait for.
const LOOK: Duration = Duration::from_millis(20);

/// The daemon's binary, which `cargo xtask test` builds first.
///
/// # Panics
/// Where it has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    // target/debug/deps/this-test
    let binary = test.ancestors().nth(2).expect("the profile's folder").join("probe-engine");
    assert!(binary.exists(), "{} is not built: run `cargo build --package probe-engine` first", binary.display());
    binary
}

/// A running daemon; killed with its pods on drop.
pub struct Daemon {
    child: Child,
    /// Of a stepped one.
    steps: Option<(ChildStdin, BufReader<ChildStdout>)>,
    /// Its temporary directory: `manifests`, `state`, `api.sock`, `log`.
    pub folder: tempfile::TempDir,
    /// Where /metrics is.
    pub metrics: SocketAddr,
}

impl Daemon {
    /// Starts `run --runtime RUNTIME` on an empty directory of manifests and waits until it is ready.
    #[must_use]
    pub fn start(runtime: &str, flags: &[&str]) -> Daemon {
        let folder = tempfile::Builder::new().prefix("probe-engine-test-").tempdir().expect("a temporary directory");
        Self::start_in(folder, runtime, flags)
    }

    /// The same in a directory that may hold manifests already.
    #[must_use]
    pub fn start_in(folder: tempfile::TempDir, runtime: &str, flags: &[&str]) -> Daemon {
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        Self::start_logging_to(log.into(), folder, runtime, flags)
    }

    /// Starts `run --runtime external`, which is not ready before an embedder has said which pods are wanted, and waits until its
    /// API answers.
    #[must_use]
    pub fn start_external_in(folder: tempfile::TempDir, flags: &[&str]) -> Daemon {
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).expect("a log file");
        let mut command = Command::new(binary());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log twice")).stderr(log);
        let daemon = Self::launch(&mut command, folder, "external", flags);
        daemon.wait_until("answering", |daemon| daemon.cli(&["get", "pods"]).status.success())
    }

    /// Starts `stepped-daemon`, which is `program`, in the same way: its clock moves when [`Daemon::step`] says so.
    ///
    /// eBPF is off: the kernel program has a clock of its own.
    #[must_use]
    pub fn start_stepped(program: &Path, runtime: &str) -> Daemon {
        // Its containers find it on their PATH, beside the program that they are started by.
        assert_eq!(program.parent(), binary().parent(), "the daemon and its stepped sister are built in two places");
        let folder = tempfile::Builder::new().prefix("probe-engine-test-").tempdir().expect("a temporary directory");
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut daemon = Self::run(&mut command, folder, runtime, &["--ebpf", "off"]);
        let (input, output) = (daemon.child.stdin.take(), daemon.child.stdout.take());
        daemon.steps = input.zip(output.map(BufReader::new));
        daemon
    }

    /// Moves the clock of a stepped daemon, and waits until nothing is under way.
    ///
    /// # Panics
    /// Where something is under way for longer than [`PATIENCE`], with the daemon's log.
    pub fn step(&mut self, seconds: f64) {
        let (input, output) = self.steps.as_mut().expect("a stepped daemon");
        let mut answer = String::new();
        let answered = writeln!(input, "step {seconds}").and_then(|()| output.read_line(&mut answer));
        assert!(answered.is_ok() && answer.trim_end() == STEPPED, "step {seconds}: {answer}\n{}", self.log());
    }

    /// The same with a standard error that is a pipe whose reader has gone.
    #[must_use]
    pub fn start_unheard(folder: tempfile::TempDir, runtime: &str) -> Daemon {
        let (_, writer) = std::io::pipe().expect("a pipe");
        Self::start_logging_to(writer.into(), folder, runtime, &[])
    }

    fn start_logging_to(log: OwnedFd, folder: tempfile::TempDir, runtime: &str, flags: &[&str]) -> Daemon {
        let mut command = Command::new(binary());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log twice")).stderr(log);
        Self::run(&mut command, folder, runtime, flags)
    }

    fn run(command: &mut Command, folder: tempfile::TempDir, runtime: &str, flags: &[&str]) -> Daemon {
        Self::launch(command, folder, runtime, flags).wait_until("ready", |daemon| daemon.page("/readyz").is_some())
    }

    fn launch(command: &mut Command, folder: tempfile::TempDir, runtime: &str, flags: &[&str]) -> Daemon {
        let manifests = folder.path().join("manifests");
        fs::create_dir_all(&manifests).expect("a directory for manifests");
        let metrics = free_port();
        let child = command
            .args(["run", "--runtime", runtime, "--metrics-listen", &metrics.to_string()])
            .arg("--manifests")
            .arg(&manifests)
            .arg("--socket")
            .arg(folder.path().join("api.sock"))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .args(flags)
            .spawn()
            .expect("the daemon starts");
        Daemon { child, steps: None, folder, metrics }
    }

    fn wait_until(mut self, what: &str, is_so: impl Fn(&Daemon) -> bool) -> Daemon {
        self.wait_for(what, |daemon| {
            if let Some(status) = daemon.child.try_wait().expect("a child") {
                panic!("the daemon ended: {status}\n{}", daemon.log());
            }
            is_so(daemon).then_some(())
        });
        self
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Writes a manifest; in one step, as editors and deployment tools do.
    pub fn manifest(&self, name: &str, text: &str) {
        let path = self.folder.path().join("manifests").join(name);
        let new = self.folder.path().join("new");
        fs::write(&new, text).expect("a manifest");
        fs::rename(new, path).expect("a manifest in its place");
    }

    /// Takes a manifest away.
    pub fn remove_manifest(&self, name: &str) {
        fs::remove_file(self.folder.path().join("manifests").join(name)).expect("the manifest was there");
    }

    /// Runs a subcommand against it.
    #[must_use]
    pub fn cli(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().expect("the command line runs")
    }

    /// The same with this on its standard input.
    #[must_use]
    pub fn cli_reading(&self, words: &[&str], input: &str) -> Output {
        let mut command = self.command(words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command line runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        // One that has read enough closes it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("the command line ends")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--socket").arg(self.folder.path().join("api.sock")).args(words);
        command
    }

    /// Standard output of a subcommand that succeeds.
    ///
    /// # Panics
    /// Where it fails.
    #[must_use]
    pub fn says(&self, words: &[&str]) -> String {
        let output = self.cli(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// The pod as `get pod NAME -o json` gives it; `None` where there is none.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<serde_json::Value> {
        let output = self.cli(&["get", "pod", name, "-o", "json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Waits until the pod's condition Ready is `status`.
    pub fn wait_ready(&mut self, name: &str, status: &str) -> serde_json::Value {
        self.wait_for(&format!("{name} Ready={status}"), |daemon| {
            daemon.pod(name).filter(|pod| condition(pod, "Ready").is_some_and(|c| c["status"] == status))
        })
    }

    /// Waits until `events` has a line with each of `words`.
    pub fn wait_event(&mut self, words: &[&str]) -> String {
        self.wait_for(&format!("an event with {words:?}"), |daemon| {
            let events = daemon.says(&["events", "-A"]);
            events.lines().find(|line| words.iter().all(|word| line.contains(word))).map(String::from)
        })
    }

    /// The body of a page of its admin server, if that answers 200.
    #[must_use]
    pub fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.metrics, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// Looks until there is something to see.
    ///
    /// # Panics
    /// After [`PATIENCE`], with the daemon's log.
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&mut Daemon) -> Option<T>) -> T {
        #[expect(clippy::disallowed_methods, reason = "a bound of the test, not the engine's clock")]
        let start = Instant::now();
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}\n{}", self.log());
            std::thread::sleep(LOOK); // tidy: between two looks at a state without an event
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("the daemon is there");
    }

    /// Ends it with SIGKILL; its directory is for the next one.
    #[must_use]
    pub fn kill(mut self) -> tempfile::TempDir {
        self.signal(Signal::SIGKILL);
        let _ = self.wait_end();
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a temporary directory"))
    }

    /// Waits for its end.
    pub fn wait_end(&mut self) -> ExitStatus {
        self.wait_for("the daemon's end", |daemon| daemon.child.try_wait().expect("a child"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A condition of a pod.
#[must_use]
pub fn condition<'a>(pod: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

/// An address of loopback that nobody listens on.
#[must_use]
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Processes whose command line holds `mark`, as (pid, command line).
#[must_use]
pub fn processes(mark: &str) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            line.contains(mark).then_some((pid, line))
        })
        .collect()
}
