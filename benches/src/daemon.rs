//! The daemon under load, seen from outside.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest time until a daemon is ready; a million probes from files take minutes on a slow machine.
const READY_MAX: Duration = Duration::from_secs(300);

/// A running daemon; ended with SIGTERM on drop.
pub struct Daemon {
    child: Child,
    metrics: SocketAddr,
    log: PathBuf,
    /// Connections that reading its pages made.
    pages: Cell<u64>,
}

impl Daemon {
    /// Starts `run --runtime none` on these manifests, its files in `folder`, and waits until it is ready.
    pub fn start(program: &Path, folder: &Path, manifests: &Path, extra: &[String]) -> anyhow::Result<Daemon> {
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        // Not beside the manifests, whose folder the daemon watches: it would wake up for each line.
        std::fs::create_dir_all(folder.join("log"))?;
        let state = folder.join("state");
        // What another daemon knew of these pods would be no measurement of this one.
        match std::fs::remove_dir_all(&state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let log_path = folder.join("log").join("daemon.log");
        let log = std::fs::File::create(&log_path)?;
        let child = Command::new(program)
            .args(["run", "--runtime", "none", "--manifests"])
            .arg(manifests)
            .arg("--socket")
            .arg(folder.join("api.sock"))
            .arg("--state-dir")
            .arg(&state)
            .args(["--metrics-listen", &metrics.to_string()])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut daemon = Daemon { child, metrics, log: log_path, pages: Cell::new(0) };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logs.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Connections to it that [`Daemon::page`] has made.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages.get()
    }

    /// The body of one of its pages.
    pub fn page(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.metrics, Duration::from_secs(5))?;
        self.pages.set(self.pages.get() + 1);
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.metrics)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no end of headers")?;
        if !head.lines().next().unwrap_or_default().contains(" 200") {
            bail!("{path}: {}", head.lines().next().unwrap_or_default());
        }
        Ok(body.to_owned())
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "not engine code: the scenario's own clock")]
        let start = Instant::now();
        while start.elapsed() < READY_MAX {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                bail!("the daemon ended: {status}\n{log}");
            }
            if self.page("/readyz").is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the daemon is not ready after {READY_MAX:?}")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended and was waited for has no process id any more.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// A page of metrics in the text format: value by `name{labels}` exactly as written.
#[must_use]
pub fn samples(page: &str) -> BTreeMap<&str, f64> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| value.parse().ok().map(|value| (series, value)))
        .collect()
}

/// The sum of all series of `name` whose labels hold each of `labels` (`result="failed"`).
#[must_use]
pub fn sum(samples: &BTreeMap<&str, f64>, name: &str, labels: &[&str]) -> f64 {
    samples
        .range(name..)
        .take_while(|(series, _)| series.starts_with(name))
        .filter(|(series, _)| series[name.len()..].starts_with('{') || series.len() == name.len())
        .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
        .map(|(_, value)| value)
        .sum()
}
