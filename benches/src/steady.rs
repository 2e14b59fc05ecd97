//! The scenario `steady`: tcpSocket probes at their pace, some of whose targets drop SYNs. Does every due time get
//! its attempt, does every success have an accept behind it, and does anything grow?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use crate::daemon::{Daemon, samples, sum};
use crate::kernel::{self, Process, Sockets};
use crate::targets::Targets;

/// Probes of one pod.
const PROBES_PER_POD: usize = 4;

/// What to run.
#[derive(clap::Args, Clone, Debug)]
pub struct Scenario {
    /// Probes in all
    #[arg(long, default_value_t = 10_000)]
    pub probes: usize,
    /// Probes whose target drops SYNs
    #[arg(long, default_value_t = 500)]
    pub dropping: usize,
    /// periodSeconds of every probe
    #[arg(long, default_value_t = 2)]
    pub period: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 180)]
    pub duration: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 10)]
    pub warmup: u64,
    /// More flags of `probe-engine run`
    #[arg(long = "daemon-flag", allow_hyphen_values = true)]
    pub daemon_flags: Vec<String>,
}

/// One reading of everything.
struct Reading {
    at: Instant,
    successful: f64,
    failed: f64,
    missed: f64,
    local: f64,
    accepts: u64,
    process: Process,
    lateness: BTreeMap<u64, f64>,
}

/// Runs the scenario; fails when a claim does not hold.
pub fn run(scenario: &Scenario, daemon: &Path, json_path: Option<&Path>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut targets = Targets::start()?;
    let manifests = folder.path().join("pods.yaml");
    fs::write(&manifests, pods(scenario, &targets).join("\n---\n"))?;
    let daemon = Daemon::start(daemon, folder.path(), &manifests, &scenario.daemon_flags)?;
    let mut sampled = Samples::default();
    watch(scenario.warmup, daemon.pid(), &targets, &mut sampled)?;
    let before = reading(&daemon, &mut targets)?;
    sampled = Samples::default();
    watch(scenario.duration, daemon.pid(), &targets, &mut sampled)?;
    let after = reading(&daemon, &mut targets)?;
    let dropping_ready = dropping_with_success(&daemon.page("/metrics/probes")?);
    report(scenario, &before, &after, &sampled, dropping_ready, json_path)
}

/// One document per pod (JSON is YAML): four containers each, every probe on an address of its own.
fn pods(scenario: &Scenario, targets: &Targets) -> Vec<String> {
    let probe = |index: usize| {
        let dropping = index < scenario.dropping;
        let port = if dropping { targets.dropping_port } else { targets.open_port };
        let host = format!("127.{}.{}.{}", 1 + index / 62_500, index / 250 % 250, 1 + index % 250);
        json!({
            "name": format!("{}-{index}", if dropping { "dropping" } else { "open" }),
            "readinessProbe": {"tcpSocket": {"host": host, "port": port}, "periodSeconds": scenario.period},
        })
    };
    let pod = |pod: usize| {
        let first = pod * PROBES_PER_POD;
        let last = (first + PROBES_PER_POD).min(scenario.probes);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("load-{pod}"), "namespace": "load", "labels": {"app": "load"}},
            "spec": {"containers": (first..last).map(probe).collect::<Vec<_>>()},
        })
        .to_string()
    };
    (0..scenario.probes.div_ceil(PROBES_PER_POD)).map(pod).collect()
}

/// What was seen once a second.
#[derive(Default)]
struct Samples {
    fds: Vec<usize>,
    sockets: Vec<Sockets>,
}

fn watch(seconds: u64, pid: u32, targets: &Targets, samples: &mut Samples) -> anyhow::Result<()> {
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        samples.fds.push(kernel::process(pid)?.fds);
        samples.sockets.push(kernel::sockets(&[targets.open_port, targets.dropping_port])?);
    }
    Ok(())
}

fn reading(daemon: &Daemon, targets: &mut Targets) -> anyhow::Result<Reading> {
    let page = daemon.page("/metrics")?;
    #[expect(clippy::disallowed_methods, reason = "not engine code: the scenario's own clock")]
    let at = Instant::now();
    let accepts = targets.accepts()?;
    let samples = samples(&page);
    let mut lateness = BTreeMap::new();
    for (series, value) in &samples {
        let Some(rest) = series.strip_prefix("probe_engine_lateness_seconds_bucket{") else {
            continue;
        };
        let le = rest.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).context("no le")?;
        let micros = if le == "+Inf" { u64::MAX } else { (le.parse::<f64>()? * 1e6) as u64 };
        *lateness.entry(micros).or_insert(0.0) += value;
    }
    Ok(Reading {
        at,
        successful: sum(&samples, "prober_probe_total", &["result=\"successful\""]),
        failed: sum(&samples, "prober_probe_total", &["result=\"failed\""]),
        missed: sum(&samples, "probe_engine_missed_total", &[]),
        local: sum(&samples, "probe_engine_local_outcomes_total", &[]),
        accepts,
        process: kernel::process(daemon.pid())?,
        lateness,
    })
}

/// Probes of dropping targets that ever succeeded: must be none.
fn dropping_with_success(page: &str) -> usize {
    samples(page)
        .iter()
        .filter(|(series, value)| {
            series.starts_with("prober_probe_total{")
                && series.contains("container=\"dropping-")
                && series.contains("result=\"successful\"")
                && **value > 0.0
        })
        .count()
}

fn report(
    scenario: &Scenario,
    before: &Reading,
    after: &Reading,
    sampled: &Samples,
    dropping_ready: usize,
    json_path: Option<&Path>,
) -> anyhow::Result<()> {
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let expected = scenario.probes as f64 * seconds / scenario.period as f64;
    let successes = after.successful - before.successful;
    let failures = after.failed - before.failed;
    let attempts = successes + failures;
    let accepts = (after.accepts - before.accepts) as f64;
    let cpu_s = after.process.cpu_s - before.process.cpu_s;
    let lateness_p99_us = quantile(&before.lateness, &after.lateness, 0.99);
    let fds_max = sampled.fds.iter().copied().max().unwrap_or(0);
    let (fds_early, fds_late) = halves(&sampled.fds);
    let syn_sent: Vec<usize> = sampled.sockets.iter().map(|sockets| sockets.syn_sent).collect();
    let (syn_early, syn_late) = halves(&syn_sent);
    let syn_max = syn_sent.iter().copied().max().unwrap_or(0);
    let time_wait = sampled.sockets.iter().map(|sockets| sockets.time_wait).max().unwrap_or(0);
    let mut wrong = Vec::new();
    let mut claim = |holds: bool, text: String| {
        println!("{} {text}", if holds { "ok  " } else { "FAIL" });
        if !holds {
            wrong.push(text);
        }
    };
    let off = |a: f64, b: f64| (a - b).abs() / b.max(1.0) * 100.0;
    println!(
        "{} probes, {} of them dropping SYNs, period {} s, {seconds:.1} s",
        scenario.probes, scenario.dropping, scenario.period
    );
    claim(
        off(attempts, expected) <= 0.1,
        format!("attempts {attempts:.0}, expected {expected:.0}: off by {:.3} %", off(attempts, expected)),
    );
    claim(
        off(successes, accepts) <= 0.1,
        format!(
            "successes {successes:.0}, accepted by the targets {accepts:.0}: off by {:.3} %",
            off(successes, accepts)
        ),
    );
    claim(
        failures > 0.0 || scenario.dropping == 0,
        format!("failures {failures:.0}, all of the {} dropping targets", scenario.dropping),
    );
    claim(dropping_ready == 0, format!("dropping targets with a success: {dropping_ready}"));
    claim(
        after.missed == before.missed,
        format!("missed {:.0}, local outcomes {:.0}", after.missed - before.missed, after.local - before.local),
    );
    claim(lateness_p99_us <= 10_000, format!("lateness p99 at most {} ms", lateness_p99_us as f64 / 1e3));
    claim(
        fds_late <= fds_early * 1.05 + 8.0,
        format!("descriptors: at most {fds_max}, mean {fds_early:.0} in the first half, {fds_late:.0} in the second"),
    );
    let in_flight = scenario.dropping;
    claim(
        syn_max <= in_flight + 16 && syn_late <= syn_early * 1.1 + 8.0,
        format!("SYN_SENT: at most {syn_max} (up to {in_flight} in flight), mean {syn_early:.0}, then {syn_late:.0}"),
    );
    println!("     TIME_WAIT: at most {time_wait}");
    println!(
        "     CPU {:.1} us per attempt ({:.3} of a core), memory {:.1} MB",
        cpu_s * 1e6 / attempts,
        cpu_s / seconds,
        after.process.rss_bytes as f64 / 1e6
    );
    if let Some(path) = json_path {
        let figures = json!({
            "scenario": "steady", "valid": wrong.is_empty(), "probes": scenario.probes, "dropping": scenario.dropping,
            "period_ms": scenario.period * 1000, "duration_s": seconds, "attempts_expected": expected, "attempts": attempts,
            "missed": after.missed - before.missed, "successes": successes, "failures": failures, "local": after.local - before.local,
            "target_accepts": accepts, "cpu_us_per_attempt": cpu_s * 1e6 / attempts, "rss_bytes": after.process.rss_bytes,
            "lateness_p99_us_at_most": lateness_p99_us, "fds_max": fds_max, "syn_sent_max": syn_max, "time_wait_max": time_wait,
        });
        fs::write(path, format!("{figures:#}\n"))?;
    }
    if !wrong.is_empty() {
        bail!("{} claim(s) do not hold", wrong.len());
    }
    Ok(())
}

fn halves(values: &[usize]) -> (f64, f64) {
    let mean = |values: &[usize]| values.iter().sum::<usize>() as f64 / values.len().max(1) as f64;
    let (early, late) = values.split_at(values.len() / 2);
    (mean(early), mean(late))
}

/// The upper bound of the bucket that holds the quantile, in microseconds.
fn quantile(before: &BTreeMap<u64, f64>, after: &BTreeMap<u64, f64>, quantile: f64) -> u64 {
    let count = |le: &u64| after.get(le).unwrap_or(&0.0) - before.get(le).unwrap_or(&0.0);
    let total = count(&u64::MAX);
    after.keys().copied().find(|le| count(le) >= total * quantile).unwrap_or(u64::MAX)
}
