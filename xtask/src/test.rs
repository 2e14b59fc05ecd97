//! `cargo xtask test`: all tests, and a line that counts what was skipped.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::shell;

/// The file to which a skipped test appends one line (`tests/src/skip.rs`).
const SKIPS_ENV: &str = "PROBE_ENGINE_TEST_SKIPS";

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Runs every test of the workspace with cargo-nextest where it is installed, with cargo test otherwise.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // Some suites run the real daemon.
    shell::run(shell::cargo().args(["build", "--package", "probe-engine", "--bins"]))?;
    let skips = skips_file()?;
    let mut command = shell::cargo();
    if shell::has("cargo-nextest", "--version") {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
        if std::env::var_os("CI").is_some() {
            // A test that fails once of two times is a bug, and the summary calls it flaky; it does not stop a change
            // that has nothing to do with it.
            command.args(["--retries", "1"]);
        }
    } else {
        eprintln!("cargo-nextest is not installed; cargo test does the same more slowly.");
        eprintln!("To install it: cargo install cargo-nextest --locked");
        command.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
    }
    command.args(&args.filter).env(SKIPS_ENV, &skips);
    let status = shell::status(&mut command)?;
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let _ = fs::remove_file(&skips);
    for line in skipped.lines() {
        eprintln!("SKIPPED {line}");
    }
    eprintln!("{} test(s) skipped for a missing privilege or program", skipped.lines().count());
    if !status.success() {
        bail!("tests failed");
    }
    Ok(())
}

/// The features that each take one of the conditions of a passive answer away.
const BITES: [&str; 3] = ["bite-counter", "bite-candidates", "bite-queue"];

/// The equivalence test, built three times without one of its conditions: it must find a false success.
pub(crate) fn bites() -> anyhow::Result<()> {
    for feature in BITES {
        eprintln!("--- {feature}: a false success must be found");
        let mut command = shell::cargo();
        if shell::has("cargo-nextest", "--version") {
            command.args(["nextest", "run", "--no-capture"]);
        } else {
            command.arg("test");
        }
        let skips = skips_file()?;
        command.args(["--package", "probe-tests", "--features", feature, "--test", "passive_equivalence"]);
        let status = shell::status(command.env(SKIPS_ENV, &skips))?;
        for line in fs::read_to_string(&skips).unwrap_or_default().lines() {
            shell::skipped(&format!("{feature}: {line}"));
        }
        let _ = fs::remove_file(&skips);
        if !status.success() {
            bail!("built with {feature}, the equivalence test does not notice");
        }
    }
    Ok(())
}

fn skips_file() -> anyhow::Result<PathBuf> {
    let file =
        tempfile::Builder::new().prefix("probe-engine-skips-").tempfile().context("cannot make a temporary file")?;
    let (_, path) = file.keep().context("cannot keep a temporary file")?;
    Ok(path)
}
