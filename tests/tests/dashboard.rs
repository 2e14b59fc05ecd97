//! The dashboard: where it is served, and how it behaves in a real browser (`tests/browser/dashboard.test.mjs`: Debian's
//! Chromium without a screen, driven by playwright-core). Screenshots are left in `target/screenshots`.
#![cfg(feature = "engine")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use probe_tests::daemon::{Daemon, PATIENCE, binary};
use probe_tests::skip::skip;
use serde_json::Value;

/// What node runs, and what of it says which packages that needs.
const SCRIPT: &str = "dashboard.test.mjs";
const PACKAGES: [&str; 2] = ["package.json", "package-lock.json"];

/// Where distributions put it.
const CHROMIUMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Status line and body of a request.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// What `version` says after `label`.
fn told(daemon: &Daemon, label: &str) -> Option<String> {
    let text = daemon.says(&["version"]);
    text.lines().find_map(|line| line.trim().strip_prefix(label).map(|rest| rest.trim().to_owned()))
}

#[test]
fn the_dashboard_is_with_the_metrics_and_the_daemon_says_where() {
    let daemon = Daemon::start("none", &[]);
    let address = daemon.metrics;
    assert_eq!(told(&daemon, "Dashboard:"), Some(format!("http://{address}/")));
    assert!(get(address, "/").1.contains("<title>probe-engine</title>"));
    assert!(get(address, "/metrics").0.contains("200"));
}

#[test]
fn a_dashboard_of_its_own_address_leaves_the_metrics_without_names_of_pods() {
    let daemon = Daemon::start("none", &["--dashboard-listen", "127.0.0.1:0"]);
    let url = told(&daemon, "Dashboard:").expect("it is told");
    let address: SocketAddr = url.trim_start_matches("http://").trim_end_matches('/').parse().expect("an address");
    assert_ne!(address, daemon.metrics);
    for path in ["/", "/api/v1/pods", "/api/v1/overview", "/api/v1/events/stream"] {
        assert!(get(daemon.metrics, path).0.contains("404"), "{path}");
    }
    for path in ["/", "/api/v1/pods", "/api/v1/overview", "/api/v1/latency", "/api/v1/heatmap"] {
        assert!(get(address, path).0.contains("200"), "{path}");
    }
    for path in ["/metrics", "/livez"] {
        assert!(get(address, path).0.contains("404"), "{path}");
    }
}

#[test]
fn a_dashboard_that_is_off_is_nowhere() {
    let daemon = Daemon::start("none", &["--dashboard-listen", "off"]);
    assert_eq!(told(&daemon, "Dashboard:"), None);
    assert!(get(daemon.metrics, "/").0.contains("404"));
    assert!(get(daemon.metrics, "/api/v1/latency").0.contains("200"));
}

#[test]
fn the_dashboard_in_a_real_browser() {
    let test = "the_dashboard_in_a_real_browser";
    let install = "apt-get install --no-install-recommends nodejs npm chromium";
    if !["node", "npm"].iter().all(|program| runs(program)) {
        return skip(test, &format!("node or npm is missing; {install}"));
    }
    let Some(chromium) = CHROMIUMS.iter().find_map(|name| on_path(name)) else {
        return skip(test, &format!("no Chromium; {install}"));
    };
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    if let Err(why) = install_packages(&work) {
        return skip(test, &format!("npm cannot install playwright-core ({why}); give it access to a registry once"));
    }
    let folder = tempfile::Builder::new().prefix("probe-engine-dashboard-").tempdir().expect("a temporary directory");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let mut child = Command::new("node")
        .arg(SCRIPT)
        .current_dir(&work)
        .env("DAEMON", binary())
        .env("FOLDER", folder.path())
        .env("SCREENSHOTS", target.join("screenshots"))
        .env("CHROMIUM", chromium)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node starts");
    let mut failed = Vec::new();
    let mut cases = 0;
    for line in BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok) {
        let Ok(told) = serde_json::from_str::<Value>(&line) else {
            eprintln!("{line}");
            continue;
        };
        let Some(case) = told["case"].as_str() else {
            eprintln!("{told}");
            continue;
        };
        cases += 1;
        let error = told["error"].as_str();
        eprintln!("{} {case} ({} ms)", if error.is_none() { "ok    " } else { "FAILED" }, told["ms"]);
        failed.extend(error.map(|error| format!("{case}: {error}")));
    }
    let status = child.wait().expect("a child");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(status.success() && cases > 0, "node: {status}, {cases} cases");
}

/// `npm ci` of the packages that the lock file pins, unless they are there already.
fn install_packages(work: &Path) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    fs::create_dir_all(work).map_err(|error| error.to_string())?;
    let bytes = |path: &Path| fs::read(path).unwrap_or_default();
    let is_current = PACKAGES.iter().all(|name| bytes(&source.join(name)) == bytes(&work.join(name)));
    let copy = |name: &str| fs::copy(source.join(name), work.join(name)).map_err(|error| format!("{name}: {error}"));
    copy(SCRIPT)?;
    if is_current && work.join("node_modules/playwright-core/package.json").exists() {
        return Ok(());
    }
    for name in PACKAGES {
        copy(name)?;
    }
    let arguments = ["ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"];
    let output = Command::new("npm").args(arguments).current_dir(work).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    // The next run must not take what is half there for whole.
    let _ = fs::remove_file(work.join(PACKAGES[1]));
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().next_back().unwrap_or("it failed").to_owned())
}

fn runs(program: &str) -> bool {
    let ran = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    ran.is_ok_and(|output| output.status.success())
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|place| place.is_file())
}
