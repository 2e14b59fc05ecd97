//! `probe-engine demo`
use std::process::ExitCode;

/// Placeholder: another file replaces it.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}

/// Placeholder.
#[must_use]
pub fn run(_args: &DemoArgs) -> ExitCode {
    ExitCode::FAILURE
}
