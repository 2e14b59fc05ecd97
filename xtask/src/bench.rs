//! `cargo xtask bench`: load scenarios against the release build.

use std::path::PathBuf;
use std::process::Command;

use crate::shell;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Which scenario
    #[arg(default_value = "steady", value_parser = ["steady", "passive", "ebpf"])]
    scenario: String,
    /// The same, as an option
    #[arg(long = "scenario", value_parser = ["steady", "passive", "ebpf"], hide = true, conflicts_with = "scenario")]
    scenario_option: Option<String>,
    /// Write the figures here as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// steady, passive: probes in all [default: the scenario's]
    #[arg(long)]
    probes: Option<usize>,
    /// steady, passive: seconds that are measured [default: the scenario's]
    #[arg(long)]
    duration: Option<u64>,
    /// passive: the daemon's `--passive-max-age-seconds` [default: 60]
    #[arg(long)]
    passive_max_age: Option<u64>,
    /// steady: how shards do their I/O
    #[arg(long, value_parser = ["auto", "uring", "epoll"])]
    io: Option<String>,
    /// ebpf: attach to the raw tracepoint, as where BTF attach is refused
    #[arg(long)]
    raw: bool,
}

/// Builds release and runs the scenario; fails when one of its claims does not hold.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let scenario = args.scenario_option.as_deref().unwrap_or(&args.scenario);
    let mut build = shell::cargo();
    build.args(["build", "--release", "--package", "probe-benches"]);
    if scenario != "ebpf" {
        build.args(["--package", "probe-engine"]);
    }
    shell::run(&mut build)?;
    let release = shell::target().join("release");
    let mut load = Command::new(release.join("probe-load"));
    load.arg(scenario);
    if scenario == "ebpf" {
        load.args(args.raw.then_some("--raw"));
    } else {
        load.arg("--daemon").arg(release.join("probe-engine"));
        if let Some(probes) = args.probes {
            load.args(["--probes", &probes.to_string()]);
        }
        if let Some(duration) = args.duration {
            load.args(["--duration", &duration.to_string()]);
        }
    }
    if scenario == "steady" {
        steady(&mut load, args);
    }
    if scenario == "passive"
        && let Some(age) = args.passive_max_age
    {
        load.args(["--passive-max-age", &age.to_string()]);
    }
    if let Some(json) = &args.json {
        load.arg("--json").arg(json);
    }
    shell::run(&mut load)
}

/// For CI: the whole scenario where it can be run.
pub(crate) fn passive() -> anyhow::Result<()> {
    let is_root = shell::output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    if !is_root || !shell::has("ip", "-V") || !shell::has("nsenter", "--version") {
        shell::skipped("bench passive needs root, iproute2 and util-linux");
        return Ok(());
    }
    run(&Args { scenario: "passive".to_owned(), ..Args::default() })
}

fn steady(load: &mut Command, args: &Args) {
    if let Some(probes) = args.probes {
        load.args(["--dropping", &(probes / 20).to_string()]);
    }
    if let Some(io) = &args.io {
        load.arg(format!("--daemon-flag=--io={io}"));
    }
}
