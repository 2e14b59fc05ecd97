//! `cargo xtask bench` runs this: one load scenario, or (as its child) the targets of one.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use probe_benches::{ebpf, floor, haproxy, listeners, passive, steady, strangers, targets, task_per_probe};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve targets until standard input ends; prints its ports, then its accept count for every line read
    Targets,
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
    /// tcpSocket probes at a steady rate, some of whose targets drop SYNs
    Steady {
        #[command(flatten)]
        scenario: steady::Scenario,
        /// The daemon's binary
        #[arg(long)]
        daemon: PathBuf,
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
        Command::Targets => targets::serve(),
        Command::Listeners(args) => listeners::serve(&args),
        Command::Passive { scenario, daemon, json } => passive::run(&scenario, &daemon, json.as_deref()),
        Command::Strangers(traffic) => strangers::run(&traffic),
        Command::Ebpf { scenario, json } => ebpf::run(&scenario, json.as_deref()),
        Command::Steady { scenario, daemon, json } => steady::run(&scenario, &daemon, json.as_deref()),
        Command::Floor(args) => floor::run(&args),
        Command::TaskPerProbe(args) => task_per_probe::run(&args),
        Command::Haproxy(args) => haproxy::run(&args),
    }
}
