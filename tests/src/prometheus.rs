//! A real Prometheus (Debian's package) in a temporary directory, on loopback.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{PATIENCE, free_port};

/// How to get the two programs.
pub const INSTALL: &str = "apt-get install prometheus";

/// A running Prometheus; killed on drop.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes `target` as job `probe-engine` each second, and evaluates `rules` as often. An error says why it cannot be started.
    ///
    /// # Errors
    /// It is not installed, or not allowed to run.
    ///
    /// # Panics
    /// Where its directory cannot be written.
    pub fn start(target: SocketAddr, rules: &str) -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("probe-engine-prometheus-").tempdir().expect("a directory");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yaml]\n\
             scrape_configs: [{{job_name: probe-engine, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(folder.path().join("rules.yaml"), rules).expect("the rules are written");
        fs::write(folder.path().join("prometheus.yaml"), config).expect("the configuration is written");
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        let address = free_port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { child, address, folder })
    }

    /// What it has logged: warnings and errors.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// `data` of an endpoint of its HTTP API; `None` while it does not answer.
    ///
    /// # Panics
    /// Where it refuses: the query is wrong.
    #[must_use]
    pub fn api(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // HTTP/1.0: nothing comes in chunks.
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        if head.contains(" 503 ") {
            // It is still starting.
            return None;
        }
        let answer: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        Some(answer["data"].clone())
    }

    /// Labels and value of each series that an expression gives now.
    ///
    /// # Panics
    /// Where it cannot be evaluated, or Prometheus has gone.
    #[must_use]
    pub fn query(&self, expr: &str) -> Vec<(Value, f64)> {
        let data = self.api(&format!("query?query={}", encoded(expr))).expect("Prometheus answers");
        let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("a number");
        let series = |one: &Value| (one["metric"].clone(), number(&one["value"][1]));
        match data["resultType"].as_str() {
            Some("vector") => data["result"].as_array().expect("a list").iter().map(series).collect(),
            _ => panic!("{expr}: {data}"),
        }
    }

    /// Looks until there is something to see.
    ///
    /// # Panics
    /// After `patience`, with its log.
    pub fn wait_for<T>(&self, what: &str, patience: Duration, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        #[expect(clippy::disallowed_methods, reason = "a bound of the test, not the engine's clock")]
        let start = std::time::Instant::now();
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(start.elapsed() < patience, "waited in vain for: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100)); // tidy: between two looks at a state without an event
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs promtool in a folder: whether it was content, and what it said. `None` where it is not installed.
///
/// # Panics
/// Where it cannot be fed.
#[must_use]
pub fn promtool(folder: &Path, words: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command.current_dir(folder).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    // One that has its files does not read.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// For a query string (RFC 3986).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    encoded
}
