//! Every task of the project: `cargo xtask --help`.

mod bench;
mod ci;
mod dashboards;
mod demo;
mod ebpf;
mod fuzz;
mod planted;
mod shell;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load scenarios against the release build
    Bench(bench::Args),
    /// Write the Grafana dashboards of deploy/grafana
    Dashboards(dashboards::Args),
    /// Build release and run the demo: real pods, probed, failing, restarted
    Demo(demo::Args),
    /// Build the kernel programs into probe-ebpf/prebuilt, or check that it holds what their source gives
    Ebpf(ebpf::Args),
    /// Fuzz the parsers of foreign bytes (nightly and cargo-fuzz), or measure what their kept corpora cover
    Fuzz(fuzz::Args),
    /// Run all tests
    Test(test::Args),
    /// What CI runs: tidy, fmt, clippy, the kernel programs, tests, docs, planted bugs, demo, benches as a smoke test
    Ci(ci::Args),
    /// The project's own lints
    Tidy,
    /// Plant each of the known bugs in a copy of the core and see that the property tests catch it
    Planted(planted::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Dashboards(args) => dashboards::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Ebpf(args) => ebpf::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Tidy => tidy::run(),
        Command::Planted(args) => planted::run(&args),
    }
}
