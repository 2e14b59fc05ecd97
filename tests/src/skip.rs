//! Skipping loudly: a test that lacks a privilege or a program says so, and the summary of `cargo xtask test` counts it.

use std::fs::OpenOptions;
use std::io::Write;

/// Set by `cargo xtask test` to the file that collects skips.
const SKIPS_ENV: &str = "PROBE_ENGINE_TEST_SKIPS";

/// Says that `test` did not run, and the one command or step that would let it.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os(SKIPS_ENV)
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{test}: {reason}");
    }
}
