//! `probe-engine validate`
use std::process::ExitCode;

/// Placeholder: the source engineer's file replaces it.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {}

/// Placeholder.
#[must_use]
pub fn run(_args: &ValidateArgs) -> ExitCode {
    ExitCode::FAILURE
}
