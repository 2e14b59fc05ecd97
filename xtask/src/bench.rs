//! `cargo xtask bench`: load scenarios against the release build.

use std::path::PathBuf;
use std::process::Command;

use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which scenario
    #[arg(long, default_value = "steady", value_parser = ["steady"])]
    scenario: String,
    /// Probes in all [default: the scenario's]
    #[arg(long)]
    probes: Option<usize>,
    /// Seconds that are measured [default: the scenario's]
    #[arg(long)]
    duration: Option<u64>,
    /// How shards do their I/O
    #[arg(long, value_parser = ["auto", "uring", "epoll"])]
    io: Option<String>,
    /// Write the figures here as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Builds release and runs the scenario; fails when one of its claims does not hold.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    shell::run(shell::cargo().args(["build", "--release", "--package", "probe-engine", "--package", "probe-benches"]))?;
    let release = shell::target().join("release");
    let mut load = Command::new(release.join("probe-load"));
    load.arg(&args.scenario).arg("--daemon").arg(release.join("probe-engine"));
    if let Some(probes) = args.probes {
        load.args(["--probes", &probes.to_string(), "--dropping", &(probes / 20).to_string()]);
    }
    if let Some(duration) = args.duration {
        load.args(["--duration", &duration.to_string()]);
    }
    if let Some(io) = &args.io {
        load.arg(format!("--daemon-flag=--io={io}"));
    }
    if let Some(json) = &args.json {
        load.arg("--json").arg(json);
    }
    shell::run(&mut load)
}
