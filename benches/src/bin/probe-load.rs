//! `cargo xtask bench` runs this: scenarios, and (as its children) one scenario, or the targets of one.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use probe_benches::{ebpf, floor, haproxy, listeners, passive, strangers, suite, targets, task_per_probe};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios
    Run(suite::Args),
    /// Run one scenario, in a network namespace of its own
    Scenario(suite::Child),
    /// Serve a scenario's targets until standard input ends
    Targets(targets::Args),
    /// Serve many listeners until standard input ends
    Listeners(listeners::Args),
    /// tcpSocket probes answered from kernel state while listeners come and go
    Passive {
        #[command(flatten)]
        scenario: passive::Scenario,
        /// The daemon's binary
        #[arg(long)]
        daemon: PathBuf,
        /// Write the figures here as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Be a process whose TCP traffic is none of the engine's
    Strangers(strangers::Traffic),
    /// What the kernel program costs per event of the node
    Ebpf {
        #[command(flatten)]
        scenario: ebpf::Scenario,
        /// Write the figures here as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// What attempts cost without an engine: a bare loop
    Floor(floor::Args),
    /// What they cost with one tokio task per probe
    TaskPerProbe(task_per_probe::Args),
    /// What HAProxy's checks of the same targets cost
    Haproxy(haproxy::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => suite::run(&args),
        Command::Scenario(args) => suite::child(&args),
        Command::Targets(args) => targets::serve(&args),
        Command::Listeners(args) => listeners::serve(&args),
        Command::Passive { scenario, daemon, json } => passive::run(&scenario, &daemon, json.as_deref()),
        Command::Strangers(traffic) => strangers::run(&traffic),
        Command::Ebpf { scenario, json } => ebpf::run(&scenario, json.as_deref()),
        Command::Floor(args) => floor::run(&args),
        Command::TaskPerProbe(args) => task_per_probe::run(&args),
        Command::Haproxy(args) => haproxy::run(&args),
    }
}
