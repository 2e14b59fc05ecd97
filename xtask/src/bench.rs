//! `cargo xtask bench`: load scenarios against the release build. The scenarios are `probe-load`'s (package `benches`).

use std::path::PathBuf;
use std::process::Command;

use crate::shell::{self, Profile};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// The same as --scenario
    #[arg(value_name = "SCENARIO")]
    named: Vec<String>,
    /// Which (repeatable): tcp-passive, tcp-active, http, https, grpc, exec, mixed, million, memory, churn, cold-start, storm,
    /// storm-watched, starved, passive, ebpf [default: a short run of all but the last two]
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Probes in all [default: the scenario's]
    #[arg(long)]
    probes: Option<usize>,
    /// Period of every probe in milliseconds, whole seconds [default: the scenario's]
    #[arg(long, value_name = "MS")]
    period: Option<u64>,
    /// Seconds that are measured [default: the scenario's]
    #[arg(long, value_name = "S")]
    duration: Option<u64>,
    /// Seconds before that [default: the scenario's]
    #[arg(long, value_name = "S")]
    warmup: Option<u64>,
    /// The daemon's shard threads [default: the daemon's]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// How shards do their I/O
    #[arg(long, value_parser = ["uring", "epoll"])]
    io: Option<String>,
    /// off: no passive answers, in no scenario
    #[arg(long, value_parser = ["auto", "off"])]
    ebpf: Option<String>,
    /// How connections are closed, by the daemon and by what it is compared with
    #[arg(long, value_parser = ["fin", "rst"])]
    close: Option<String>,
    /// The daemon's `--passive-max-age-seconds` [default: 60]
    #[arg(long, value_name = "S")]
    passive_max_age: Option<u64>,
    /// Measure this program on the same targets and period (package haproxy)
    #[arg(long, value_parser = ["haproxy"])]
    peer: Option<String>,
    /// Write the figures here as JSON
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Figures of an earlier run: what is better, what is worse
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Small numbers, no floors and baselines: does everything work, is everything true?
    #[arg(long)]
    smoke: bool,
    /// No floors, baselines and peers
    #[arg(long)]
    alone: bool,
    /// Another daemon's binary: each scenario with it and with this one in turn, --repeat times, and the ratios
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Busy loops beside the daemon, in scenarios at a steady rate [default: 0]
    #[arg(long, value_name = "N")]
    busy_loops: Option<usize>,
    /// Run each so many times (1, 3, 5 ..), and show the median of every figure [default: 1]
    #[arg(long, value_name = "N")]
    repeat: Option<u16>,
    /// Seed of what is closed when
    #[arg(long)]
    seed: Option<u64>,
    /// More flags of `probe-engine run`
    #[arg(long = "daemon-flag", value_name = "FLAG", allow_hyphen_values = true)]
    daemon_flags: Vec<String>,
    /// ebpf: attach to the raw tracepoint, as where BTF attach is refused
    #[arg(long)]
    raw: bool,
}

/// Builds release and runs the scenarios; fails when one of them fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    run_built(args, Profile::Release)
}

fn run_built(args: &Args, profile: Profile) -> anyhow::Result<()> {
    let built = shell::build(profile, &["probe-benches", "probe-engine"])?;
    let mut load = Command::new(built.join("probe-load"));
    load.arg("run").arg("--daemon").arg(built.join("probe-engine"));
    let mut option = |name: &str, value: Option<String>| {
        load.args(value.map(|value| format!("--{name}={value}")));
    };
    for scenario in args.named.iter().chain(&args.scenarios) {
        option("scenario", Some(scenario.clone()));
    }
    for flag in &args.daemon_flags {
        option("daemon-flag", Some(flag.clone()));
    }
    option("probes", args.probes.map(|value| value.to_string()));
    option("period", args.period.map(|value| value.to_string()));
    option("duration", args.duration.map(|value| value.to_string()));
    option("warmup", args.warmup.map(|value| value.to_string()));
    option("shards", args.shards.map(|value| value.to_string()));
    option("passive-max-age", args.passive_max_age.map(|value| value.to_string()));
    option("busy-loops", args.busy_loops.map(|value| value.to_string()));
    option("repeat", args.repeat.map(|value| value.to_string()));
    option("seed", args.seed.map(|value| value.to_string()));
    option("io", args.io.clone());
    option("ebpf", args.ebpf.clone());
    option("close", args.close.clone());
    option("peer", args.peer.clone());
    option("json", args.json.as_ref().map(|path| path.display().to_string()));
    option("compare", args.compare.as_ref().map(|path| path.display().to_string()));
    option("against", args.against.as_ref().map(|path| path.display().to_string()));
    load.args(args.smoke.then_some("--smoke"));
    load.args(args.alone.then_some("--alone"));
    load.args(args.raw.then_some("--raw"));
    shell::run(&mut load)
}

/// Seconds that CI measures: twice the longest time between two real connects to a target.
const PASSIVE_CI_S: u64 = 120;

/// For CI: the scenario `passive` where it can be run.
pub(crate) fn passive() -> anyhow::Result<()> {
    let is_root = shell::output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    if !is_root || !shell::has("ip", "-V") || !shell::has("nsenter", "--version") {
        shell::skipped("bench passive needs root, iproute2 and util-linux");
        return Ok(());
    }
    let args = Args { scenarios: vec!["passive".to_owned()], duration: Some(PASSIVE_CI_S), ..Args::default() };
    run_built(&args, Profile::Smoke)
}

/// For CI: all scenarios with small numbers; those that need root skip themselves.
pub(crate) fn smoke() -> anyhow::Result<()> {
    if !shell::has("ip", "-V") || !shell::has("ss", "-V") {
        shell::skipped("bench --smoke needs iproute2");
        return Ok(());
    }
    run_built(&Args { smoke: true, ..Args::default() }, Profile::Smoke)
}
