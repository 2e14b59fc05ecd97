//! `cargo xtask ci`: everything that must hold before a change lands, cheapest first.

use std::process::Command;
use std::time::Instant;

use anyhow::Context;

use crate::{bench, demo, ebpf, planted, shell, test, tidy};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing (Debian packages, cargo tools) instead of skipping the step
    #[arg(long)]
    install: bool,
}

/// Stops at the first step that fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.install {
        install();
    }
    step("tidy", tidy::run)?;
    step("fmt", || shell::run(shell::cargo().args(["fmt", "--all", "--check"])))?;
    step("clippy", || {
        shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("docs", || {
        shell::run(
            shell::cargo()
                .args(["doc", "--workspace", "--no-deps", "--document-private-items"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    })?;
    step("purity", purity)?;
    step("deny", deny)?;
    step("ebpf --check", || ebpf::run(&ebpf::Args { check: true, install: args.install }))?;
    step("test", || test::run(&test::Args::default()))?;
    step("bites", test::bites)?;
    step("planted", || planted::run(&planted::Args::default()))?;
    step("benches (smoke)", || {
        // In the test profile: criterion runs each once, and nothing is optimised that nobody times.
        shell::run(shell::cargo().args(["test", "--package", "probe-benches", "--benches"]))
    })?;
    step("bench passive", bench::passive)?;
    step("bench --smoke", bench::smoke)?;
    step("demo --check", || shell::run(demo::command(shell::Profile::Smoke)?.arg("--check")))?;
    eprintln!("\n{} thing(s) skipped for a missing tool", shell::skipped_count());
    Ok(())
}

fn step(name: &str, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "times a step of CI; the engine's clock is the engine's")]
    let start = Instant::now();
    eprintln!("\n=== {name}");
    run().with_context(|| format!("step `{name}`"))?;
    eprintln!("=== {name}: ok, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The core for a target without std, where rustup has one; its manifest is checked by `tidy` in any case.
fn purity() -> anyhow::Result<()> {
    let installed = shell::output(Command::new("rustup").args(["target", "list", "--installed"]));
    let bare = ["thumbv7em-none-eabi", "wasm32v1-none", "wasm32-unknown-unknown"];
    match bare.iter().find(|target| installed.as_deref().unwrap_or_default().contains(**target)) {
        Some(target) => shell::run(shell::cargo().args(["check", "--package", "probe-core", "--target", target])),
        None => {
            shell::skipped("no target without std is installed; to install one: rustup target add wasm32v1-none");
            shell::run(shell::cargo().args(["check", "--package", "probe-core"]))
        }
    }
}

fn deny() -> anyhow::Result<()> {
    if !shell::has("cargo-deny", "--version") {
        shell::skipped("cargo-deny is not installed; to install it: cargo install cargo-deny --locked");
        return Ok(());
    }
    shell::run(shell::cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))
}

/// What tests and benches use if it is there: the program, and the Debian package it comes with.
const PROGRAMS: [(&str, &str); 8] = [
    ("promtool", "prometheus"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nsenter", "util-linux"),
    ("python3", "python3-venv"),
    ("tmux", "tmux"),
    ("chromium", "chromium"),
    ("npm", "npm"),
];

/// Best effort: a step that misses its tool says so itself.
fn install() {
    let version = |program: &str| match program {
        "ip" | "tmux" => "-V",
        // What `python3 -m venv` needs, and Debian's python3 comes without.
        "python3" => "-cimport ensurepip",
        _ => "--version",
    };
    let lacking = PROGRAMS.iter().filter(|(program, _)| !shell::has(program, version(program)));
    let packages: Vec<&str> = lacking.map(|(_, package)| *package).collect();
    if packages.is_empty() || !shell::has("apt-get", "--version") {
        return;
    }
    let _ = shell::status(Command::new("apt-get").args(["update", "-qq"]));
    let _ = shell::status(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
}
