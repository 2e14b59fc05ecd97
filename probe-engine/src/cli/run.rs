//! `probe-engine run`
use std::process::ExitCode;

/// Placeholder: another file replaces it.
#[derive(Debug, clap::Args)]
pub struct RunArgs {}

/// Placeholder.
#[must_use]
pub fn run(_args: &RunArgs) -> ExitCode {
    ExitCode::FAILURE
}
