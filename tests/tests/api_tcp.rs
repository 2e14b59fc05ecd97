//! The daemon's API over TCP as its operator sees it. Who is let in is tested beside the code; `python.rs` has a client.
#![cfg(feature = "engine")]

use std::process::{Command, Output, Stdio};

use probe_tests::certificates::Ca;
use probe_tests::daemon::{Daemon, binary, free_port};

/// Starts a daemon that must not start.
fn refused(folder: &tempfile::TempDir, words: &[&str]) -> (Option<i32>, String) {
    let output: Output = Command::new(binary())
        .args(["run", "--runtime", "none", "--metrics-listen", "off", "--manifests"])
        .arg(folder.path())
        .arg("--socket")
        .arg(folder.path().join("api.sock"))
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn without_good_certificates_the_daemon_does_not_start() {
    let folder = tempfile::tempdir().expect("a directory");
    let ca = Ca::in_folder(folder.path());
    ca.sign_server();
    let listen = ["--api-listen", "127.0.0.1:0"];
    let (cert, key, ca_file) = (ca.path("server.pem"), ca.path("server.key"), ca.path("ca.pem"));
    let (code, text) = refused(&folder, &[&listen[..], &["--api-tls-cert", &cert]].concat());
    assert!(code == Some(2) && text.contains("needs --api-tls-key and --api-client-ca too"), "{code:?} {text}");
    let files = ["--api-tls-cert", &cert, "--api-tls-key", &key, "--api-client-ca", "/no/such.pem"];
    let (code, text) = refused(&folder, &[&listen[..], &files].concat());
    assert!(code == Some(1) && text.contains("--api-client-ca /no/such.pem: cannot be read"), "{code:?} {text}");
    let files = ["--api-tls-cert", &cert, "--api-tls-key", &cert, "--api-client-ca", &ca_file];
    let (code, text) = refused(&folder, &[&listen[..], &files].concat());
    assert!(code == Some(1) && text.contains("--api-tls-key") && text.contains("private key"), "{code:?} {text}");
    assert!(!folder.path().join("api.sock").exists(), "nothing is left");
}

#[test]
fn certificates_that_were_replaced_are_in_use_without_a_restart() {
    let folder = tempfile::tempdir().expect("a directory");
    let ca = Ca::in_folder(folder.path());
    ca.sign_server();
    let address = free_port().to_string();
    let (cert, key, ca_file) = (ca.path("server.pem"), ca.path("server.key"), ca.path("ca.pem"));
    let files = ["--api-tls-cert", &cert, "--api-tls-key", &key, "--api-client-ca", &ca_file];
    let mut daemon = Daemon::start("none", &[&["--api-listen", &address][..], &files].concat());
    assert!(daemon.says(&["version"]).contains(&format!("API:      {address} over TLS")));
    let has = |daemon: &Daemon, line: &str| daemon.page("/metrics").is_some_and(|page| page.contains(line));
    assert!(has(&daemon, "probe_engine_api_certificate_loads_total 1\n"));
    ca.sign_server();
    daemon.wait_for("the new certificate", |daemon| {
        has(daemon, "probe_engine_api_certificate_loads_total 2\n").then_some(())
    });
    assert!(has(&daemon, "probe_engine_api_certificate_load_failed 0\n"));
}
