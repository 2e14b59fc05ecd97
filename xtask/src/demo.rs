//! `cargo xtask demo`: builds release and hands over to `probe-engine demo`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::shell::{self, Profile};

/// Passed on to `probe-engine demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Exit 1 when a milestone is missing or out of order
    #[arg(long)]
    check: bool,
    /// More arguments of `probe-engine demo`
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Does not return where the demo could be started: it takes this process's place, so that Ctrl-C reaches it alone.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let mut demo = command(Profile::Release)?;
    if args.check {
        demo.arg("--check");
    }
    demo.args(args.rest);
    Err(anyhow::Error::from(demo.exec()).context("cannot start the demo"))
}

/// Builds the daemon and gives the demo's command.
pub(crate) fn command(profile: Profile) -> anyhow::Result<Command> {
    let mut demo = Command::new(shell::build(profile, &["probe-engine"])?.join("probe-engine"));
    demo.arg("demo");
    Ok(demo)
}
