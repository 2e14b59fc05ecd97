//! `probe-engine guardian` (hidden): see `runtime::process`, which starts it. Needs nothing but stdin.

use std::process::ExitCode;

/// The subcommand's name: `main` looks for it before anything else is set up.
pub const NAME: &str = "guardian";

/// Guards until the daemon is gone.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::from(crate::runtime::process::guard(std::io::stdin().lock()))
}
