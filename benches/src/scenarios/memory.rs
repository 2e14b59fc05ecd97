//! `memory`: what one more probe costs in resident memory. The same daemon is loaded twice, with few probes and with many,
//! and read after every probe has had a result; the difference over the number of probes between the two leaves out what a
//! daemon costs anyway.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::unistd::Uid;
use serde_json::{Value, json};

use super::life;
use crate::daemon::Daemon;
use crate::handler::Handler;
use crate::kernel;
use crate::load::{Load, Mix};
use crate::options::Options;
use crate::scenario::{Numbers, Scenario};
use crate::table::number;
use crate::targets::Targets;
use crate::truth::Log;
use crate::window::{Counts, now};

/// Probes of which kind, how many, and what one more may cost.
struct Kind {
    name: &'static str,
    handler: Handler,
    is_passive: bool,
    /// The larger load is the scenario's number of probes over this.
    share: usize,
    /// The smaller load is the larger over this.
    ratio: usize,
    /// Bytes per additional probe.
    allowed: u64,
}

const KINDS: [Kind; 3] = [
    Kind { name: "tcpSocket", handler: Handler::Tcp, is_passive: false, share: 1, ratio: 10, allowed: 600 },
    Kind { name: "tcpSocket, passive", handler: Handler::Tcp, is_passive: true, share: 1, ratio: 10, allowed: 600 },
    Kind { name: "httpGet", handler: Handler::Http, is_passive: false, share: 3, ratio: 3, allowed: 1_200 },
];

/// What first results get beyond one period.
const LATE_MAX: Duration = Duration::from_secs(30);

/// A daemon that has had a result of every probe.
struct Reading {
    probes: usize,
    load_s: f64,
    rss_bytes: u64,
    rss_max_bytes: u64,
    failed: Option<String>,
}

/// Runs the scenario; the process is in its network namespace already.
pub fn run(options: &Options, short: bool) -> anyhow::Result<Value> {
    let numbers = options.numbers(Scenario::Memory, short)?;
    let mut additional = Vec::new();
    let mut failed = Vec::new();
    for kind in &KINDS {
        if kind.is_passive && !(options.is_passive(Scenario::Million) && Uid::effective().is_root()) {
            additional.push(json!({"kind": kind.name, "skipped": "no eBPF, or not root"}));
            continue;
        }
        let many = numbers.probes / kind.share;
        let few = read(kind, many / kind.ratio, numbers, options)?;
        let many = read(kind, many, numbers, options)?;
        let bytes = (many.rss_bytes as f64 - few.rss_bytes as f64) / (many.probes - few.probes) as f64;
        failed.extend([&few, &many].into_iter().filter_map(|reading| reading.failed.clone()));
        let readings = [few, many].map(|reading| {
            json!({
                "probes": reading.probes, "load_s": reading.load_s, "rss_bytes": reading.rss_bytes,
                "rss_max_bytes": reading.rss_max_bytes,
                "rss_bytes_per_probe": reading.rss_bytes as f64 / reading.probes as f64,
            })
        });
        additional.push(json!({
            "kind": kind.name, "rss_bytes_per_additional_probe": bytes, "allowed": kind.allowed,
            "is_within": bytes <= kind.allowed as f64, "readings": readings,
        }));
    }
    let name = Scenario::Memory.name();
    let mut report = json!({
        "scenario": name, "valid": failed.is_empty(), "period_ms": numbers.period_s * 1_000, "shards": options.shards,
        "additional": additional,
    });
    if !failed.is_empty() {
        report["failed"] = json!(failed);
    }
    Ok(report)
}

/// Loads so many probes of this kind, and reads the daemon's memory once each has had a result.
fn read(kind: &Kind, probes: usize, numbers: Numbers, options: &Options) -> anyhow::Result<Reading> {
    let folder = tempfile::tempdir()?;
    let percent: &[(Handler, u32)] = match kind.handler {
        Handler::Http => &[(Handler::Http, 100)],
        _ => &[(Handler::Tcp, 100)],
    };
    let mix = Mix { percent, ..Scenario::Memory.mix() };
    let load = Load::plan(mix, probes, numbers.period_s, folder.path());
    let _targets = Targets::start(&load, folder.path(), 0)?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests)?;
    load.write(&manifests, "pods", 0..load.pods.len())?;
    let args = options.daemon_args(if kind.is_passive { Scenario::Million } else { Scenario::Memory });
    let started = now();
    let daemon = Daemon::start(&options.daemon, folder.path(), &manifests, &args)?;
    life::wait_until_scheduled(&daemon, load.probes())?;
    let load_s = started.elapsed().as_secs_f64();
    let counts = wait_for_results(&daemon, load.probes(), Duration::from_secs(numbers.period_s))?;
    let reading = Reading {
        probes: load.probes(),
        load_s,
        rss_bytes: kernel::process(daemon.pid())?.rss_bytes,
        rss_max_bytes: rss_max_bytes(daemon.pid())?,
        failed: complaint(kind, &load, &counts),
    };
    eprintln!("memory: {}: {probes} probes, {:.1} MB", kind.name, reading.rss_bytes as f64 / 1e6);
    Ok(reading)
}

/// First attempts are spread over one period (from when the daemon heard of the pod).
fn wait_for_results(daemon: &Daemon, probes: usize, period: Duration) -> anyhow::Result<Counts> {
    // That of the last one, whenever it was loaded; second attempts of the first ones do no harm.
    std::thread::sleep(period + Duration::from_secs(1));
    let latest = now() + LATE_MAX;
    loop {
        let counts = Counts::of(&daemon.page("/metrics")?);
        if counts.successful + counts.failed >= probes as f64 {
            return Ok(counts);
        }
        if now() > latest {
            let warnings = Log::read(daemon.log())?.warnings;
            bail!("{counts:?} of {probes} probes, {LATE_MAX:?} after a period; {:?}", warnings.first());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A probe that failed keeps the text of its failure: its memory is not what is measured here.
fn complaint(kind: &Kind, load: &Load, counts: &Counts) -> Option<String> {
    let is_well = counts.failed == 0.0 && counts.local == 0.0;
    (!is_well).then(|| {
        format!(
            "{}, {} probes: {} attempts failed, {} had local trouble; all targets live",
            kind.name,
            load.probes(),
            counts.failed,
            counts.local
        )
    })
}

/// Most resident memory that the process has had.
fn rss_max_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(Path::new(&path)).with_context(|| path.clone())?;
    let max = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(max.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// The report as people read it.
pub fn print(report: &Value) {
    println!("memory: resident bytes, first results included, period {} s", number(&report["period_ms"]) / 1e3);
    for kind in report["additional"].as_array().into_iter().flatten() {
        let name = kind["kind"].as_str().unwrap_or_default();
        if let Some(why) = kind["skipped"].as_str() {
            println!("    {name}: SKIPPED: {why}");
            continue;
        }
        println!(
            "    {name}: {:.0} bytes per additional probe ({} allowed)",
            number(&kind["rss_bytes_per_additional_probe"]),
            kind["allowed"]
        );
        for reading in kind["readings"].as_array().into_iter().flatten() {
            println!(
                "        {} probes: {:.1} MB, {:.0} bytes per probe; at most {:.1} MB; loaded in {:.1} s",
                reading["probes"],
                number(&reading["rss_bytes"]) / 1e6,
                number(&reading["rss_bytes_per_probe"]),
                number(&reading["rss_max_bytes"]) / 1e6,
                number(&reading["load_s"])
            );
        }
    }
}
