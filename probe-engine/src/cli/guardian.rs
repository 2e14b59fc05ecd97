//! `probe-engine guardian` (hidden). Placeholder: the runtime engineer's file replaces it.

use std::process::ExitCode;

/// The subcommand's name: `main` looks for it before anything else is set up.
pub const NAME: &str = "guardian";

/// Guards until the daemon is gone.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
