//! `probe-engine serve`
use std::process::ExitCode;

/// Placeholder: another file replaces it.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {}

/// Placeholder.
#[must_use]
pub fn run(_args: &ServeArgs) -> ExitCode {
    ExitCode::FAILURE
}
