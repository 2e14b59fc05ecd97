//! Runs scenarios one after the other, each in a process of its own, and shows what they gave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::options::Options;
use crate::scenario::Scenario;
use crate::scenarios;
use crate::{against, compare, netns, repeat, table};

/// What to run.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Which (repeatable) [default: a short run of all]
    #[arg(long = "scenario", value_name = "NAME", value_enum)]
    pub scenarios: Vec<Scenario>,
    #[command(flatten)]
    /// Of each.
    pub options: Options,
    /// Run each so many times (1, 3, 5 ..), and show the median of every figure
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = odd)]
    pub repeat: u16,
    /// Write the figures here as JSON
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Figures of an earlier run (its --json): what is better, what is worse
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
    /// Another daemon's binary: run each scenario with it and with --daemon in turn, --repeat times, and show the ratios
    #[arg(long, value_name = "PATH")]
    pub against: Option<PathBuf>,
    /// ebpf: attach to the raw tracepoint, as where BTF attach is refused
    #[arg(long)]
    pub raw: bool,
}

/// One scenario in a process of its own.
#[derive(clap::Args, Clone, Debug)]
pub struct Child {
    /// Which
    #[arg(long, value_enum)]
    scenario: Scenario,
    #[command(flatten)]
    options: Options,
    /// With the numbers of a run of all
    #[arg(long)]
    short: bool,
    /// Write the figures here
    #[arg(long)]
    json: PathBuf,
}

/// Runs them; fails when one of them fails.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // Before anything runs: a wrong path is told now, not in ten minutes.
    let old = args.compare.as_deref().map(compare::read).transpose()?;
    let short = args.scenarios.is_empty();
    let chosen = if short { &Scenario::ALL[..] } else { &args.scenarios[..] };
    if let Some(against) = &args.against {
        return compare_daemons(chosen, args, against, short);
    }
    let mut results = Vec::new();
    for scenario in chosen {
        let mut result = several(*scenario, args, short)?;
        if args.options.smoke
            && let Some(failed) = result.get("failed")
        {
            // On a machine that others use, too; a run that measures says what it saw.
            println!("{}: {failed}; once more", scenario.name());
            result = several(*scenario, args, short)?;
        }
        // The old scenarios print their own claims.
        if !matches!(scenario, Scenario::Passive | Scenario::Ebpf) {
            table::print(&result);
        }
        results.push(result);
    }
    let failed: Vec<&str> = results.iter().filter(|result| result.get("failed").is_some()).map(name).collect();
    let skipped = results.iter().filter(|result| result.get("skipped").is_some()).count();
    if results.len() > 1 {
        table::print_all(&results);
    }
    if let Some(old) = old {
        compare::print(&old, &results);
    }
    if let Some(path) = &args.json {
        let all = json!({"cores": cores(), "kernel": kernel_release(), "scenarios": results});
        fs::write(path, format!("{all:#}\n")).with_context(|| path.display().to_string())?;
    }
    if skipped > 0 {
        println!("{skipped} scenario(s) SKIPPED");
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Both daemons in turn, so that what else the machine does meets both; who is first changes from pair to pair. A pair of which one
/// run failed is left out, and is an error at the end.
fn compare_daemons(chosen: &[Scenario], args: &Args, against: &Path, short: bool) -> anyhow::Result<()> {
    let mut other = args.clone();
    other.options.daemon = against.to_owned();
    let mut all = Vec::new();
    let mut spoilt = Vec::new();
    for scenario in chosen {
        let mut pairs = Vec::new();
        for number in 0..args.repeat {
            let ours_first = number % 2 == 0;
            let first = one(*scenario, if ours_first { args } else { &other }, short)?;
            let second = one(*scenario, if ours_first { &other } else { args }, short)?;
            let failed: Vec<_> = [&first, &second].into_iter().filter_map(without_figures).collect();
            for why in &failed {
                println!("{}, pair {}: {why}", scenario.name(), number + 1);
            }
            if !failed.is_empty() {
                spoilt.push(scenario.name());
                // One may be chance; two that are all there is are not.
                if pairs.is_empty() && number > 0 {
                    break;
                }
                continue;
            }
            pairs.push(if ours_first { (second, first) } else { (first, second) });
        }
        let ratios = against::ratios(&pairs);
        against::print(*scenario, &ratios, pairs.len());
        all.push(json!({"scenario": scenario.name(), "pairs": pairs, "ratios": against::to_json(&ratios)}));
    }
    if let Some(path) = &args.json {
        fs::write(path, format!("{:#}\n", json!({"against": all}))).with_context(|| path.display().to_string())?;
    }
    if !spoilt.is_empty() {
        bail!("pairs left out: {}", spoilt.join(", "));
    }
    Ok(())
}

/// Why it has none; `None` where it has.
fn without_figures(report: &Value) -> Option<&Value> {
    report.get("failed").or_else(|| report.get("skipped"))
}

fn name(result: &Value) -> &str {
    result["scenario"].as_str().unwrap_or_default()
}

/// So that the median is a figure that was measured.
fn odd(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(runs) if runs % 2 == 1 => Ok(runs),
        _ => Err("must be an odd number: 1, 3, 5 ..".to_owned()),
    }
}

/// As often as asked for; a run that gives no figures is the last.
fn several(scenario: Scenario, args: &Args, short: bool) -> anyhow::Result<Value> {
    let mut reports = Vec::new();
    for _ in 0..args.repeat {
        let report = one(scenario, args, short)?;
        let is_last = without_figures(&report).is_some();
        reports.push(report);
        if is_last {
            break;
        }
    }
    Ok(repeat::merge(reports))
}

fn one(scenario: Scenario, args: &Args, short: bool) -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("report.json");
    let mut command = Command::new(std::env::current_exe()?);
    match scenario {
        Scenario::Passive => {
            command.arg("passive").arg("--daemon").arg(&args.options.daemon);
            command.arg(format!("--passive-max-age={}", args.options.passive_max_age));
            command.args(args.options.probes.map(|probes| format!("--probes={probes}")));
            command.args(args.options.duration.map(|duration| format!("--duration={duration}")));
        }
        Scenario::Ebpf => {
            command.arg("ebpf").args(args.raw.then_some("--raw"));
        }
        _ => {
            command.args(["scenario", "--scenario", &scenario.name()]).args(args.options.to_args());
            command.args(short.then_some("--short"));
        }
    }
    let status = command.arg("--json").arg(&json).status().context("cannot start the scenario")?;
    let result = fs::read_to_string(&json).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    match result {
        Some(mut result) => {
            if !status.success() && result.get("failed").is_none() {
                result["failed"] = json!([status.to_string()]);
            }
            Ok(result)
        }
        None => Ok(json!({"scenario": scenario.name(), "valid": false, "failed": [format!("no report: {status}")]})),
    }
}

/// The child's side.
pub fn child(args: &Child) -> anyhow::Result<()> {
    let scenario = args.scenario;
    if args.options.is_passive(scenario) && !Uid::effective().is_root() {
        return skip(scenario, "passive answers need root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN)", &args.json);
    }
    if scenario == Scenario::Starved && !Uid::effective().is_root() {
        return skip(scenario, "targets that go before the daemon need root (CAP_SYS_NICE)", &args.json);
    }
    // Before any thread is started: from here on we, and all that we start, are in a namespace of our own.
    if let Err(error) = netns::enter() {
        return skip(scenario, &format!("no network namespace: {error:#}"), &args.json);
    }
    crate::kernel::raise_descriptor_limit()?;
    let report = scenarios::run(scenario, &args.options, args.short)
        .unwrap_or_else(|error| json!({"scenario": scenario.name(), "valid": false, "failed": [format!("{error:#}")]}));
    write(&report, &args.json)
}

fn skip(scenario: Scenario, why: &str, json: &Path) -> anyhow::Result<()> {
    eprintln!("SKIPPED: {}: {why}", scenario.name());
    write(&json!({"scenario": scenario.name(), "valid": false, "skipped": why}), json)
}

fn write(report: &Value, path: &Path) -> anyhow::Result<()> {
    fs::write(path, format!("{report:#}\n")).with_context(|| path.display().to_string())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
