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

/// Seconds between two looks at sockets and descriptors: /proc/net/tcp with a full TIME_WAIT table costs the machine
/// half a second of CPU, which is not to be blamed on the daemon.
const LOOK_EVERY: u64 = 5;

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
    // Every attempt connects: what passive answers cost is another scenario's.
    let flags = [&["--ebpf=off".to_owned()], scenario.daemon_flags.as_slice()].concat();
    let daemon = Daemon::start(daemon, folder.path(), &manifests, &flags)?;
    let mut sampled = Samples::default();
    watch(scenario.warmup, daemon.pid(), &targets, &mut sampled)?;
    let before = reading(&daemon, &mut targets)?;
    sampled = Samples::default();
    watch(scenario.duration, daemon.pid(), &targets, &mut sampled)?;
    let after = reading(&daemon, &mut targets)?;
    let dropping = Dropping::read(&daemon.page("/metrics/probes")?);
    let figures = Figures::new(scenario, &before, &after, &sampled, dropping);
    if let Some(path) = json_path {
        fs::write(path, format!("{:#}\n", figures.json(scenario)))?;
    }
    figures.judge(scenario)
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

/// What was seen at the looks.
#[derive(Default)]
struct Samples {
    fds: Vec<usize>,
    sockets: Vec<Sockets>,
}

fn watch(seconds: u64, pid: u32, targets: &Targets, samples: &mut Samples) -> anyhow::Result<()> {
    for _ in 0..seconds.div_ceil(LOOK_EVERY) {
        std::thread::sleep(Duration::from_secs(LOOK_EVERY));
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
        let Some(rest) = series.strip_prefix("probe_engine_attempt_lateness_seconds_bucket{") else {
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
        missed: sum(&samples, "probe_engine_attempts_missed_total", &[]),
        local: sum(&samples, "probe_engine_attempts_local_total", &[]),
        accepts,
        process: kernel::process(daemon.pid())?,
        lateness,
    })
}

/// The probes of dropping targets, since the daemon started.
struct Dropping {
    /// Those that failed at least once.
    failing: usize,
    /// Those that succeeded at least once: must be none.
    succeeding: usize,
}

impl Dropping {
    fn read(page: &str) -> Self {
        let samples = samples(page);
        let count = |result: &str| {
            let of = |series: &str| {
                series.starts_with("prober_probe_total{")
                    && series.contains("container=\"dropping-")
                    && series.contains(result)
            };
            samples.iter().filter(|(series, value)| of(series) && **value > 0.0).count()
        };
        Self { failing: count("result=\"failed\""), succeeding: count("result=\"successful\"") }
    }
}

/// What came out.
struct Figures {
    seconds: f64,
    expected: f64,
    attempts: f64,
    successes: f64,
    accepts: f64,
    missed: f64,
    local: f64,
    dropping: Dropping,
    lateness_p99_us: u64,
    cpu_s: f64,
    rss_bytes: u64,
    fds: Vec<usize>,
    syn_sent: Vec<usize>,
    time_wait_max: usize,
}

impl Figures {
    fn new(scenario: &Scenario, before: &Reading, after: &Reading, sampled: &Samples, dropping: Dropping) -> Self {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let successes = after.successful - before.successful;
        Self {
            seconds,
            expected: scenario.probes as f64 * seconds / scenario.period as f64,
            attempts: successes + after.failed - before.failed,
            successes,
            accepts: (after.accepts - before.accepts) as f64,
            missed: after.missed - before.missed,
            local: after.local - before.local,
            dropping,
            lateness_p99_us: quantile(&before.lateness, &after.lateness, 0.99),
            cpu_s: after.process.cpu_s - before.process.cpu_s,
            rss_bytes: after.process.rss_bytes,
            fds: sampled.fds.clone(),
            syn_sent: sampled.sockets.iter().map(|sockets| sockets.syn_sent).collect(),
            time_wait_max: sampled.sockets.iter().map(|sockets| sockets.time_wait).max().unwrap_or(0),
        }
    }

    /// Prints each claim with whether it holds; fails when one does not.
    fn judge(&self, scenario: &Scenario) -> anyhow::Result<()> {
        let Scenario { probes, dropping, period, .. } = scenario;
        println!("{probes} probes, {dropping} of them dropping SYNs, period {period} s, {:.1} s", self.seconds);
        let mut wrong = 0;
        for (holds, text) in self.claims(*dropping) {
            println!("{} {text}", if holds { "ok  " } else { "FAIL" });
            wrong += usize::from(!holds);
        }
        let Self { cpu_s, attempts, seconds, .. } = self;
        println!("     TIME_WAIT: at most {}", self.time_wait_max);
        println!("     CPU {:.1} us per attempt ({:.3} of a core)", cpu_s * 1e6 / attempts, cpu_s / seconds);
        println!("     memory {:.1} MB", self.rss_bytes as f64 / 1e6);
        if wrong > 0 {
            bail!("{wrong} claim(s) do not hold");
        }
        Ok(())
    }

    fn claims(&self, dropping: usize) -> Vec<(bool, String)> {
        let off = |a: f64, b: f64| (a - b).abs() / b.max(1.0) * 100.0;
        let (off_expected, off_accepts) = (off(self.attempts, self.expected), off(self.successes, self.accepts));
        let (fds_early, fds_late) = halves(&self.fds);
        let (syn_early, syn_late) = halves(&self.syn_sent);
        let fds_max = self.fds.iter().copied().max().unwrap_or(0);
        let syn_max = self.syn_sent.iter().copied().max().unwrap_or(0);
        let lateness_ms = self.lateness_p99_us as f64 / 1e3;
        vec![
            (
                off_expected <= 0.1,
                format!("attempts {:.0}, expected {:.0}: off by {off_expected:.3} %", self.attempts, self.expected),
            ),
            (
                off_accepts <= 0.1,
                format!("successes {:.0}, accepted {:.0}: off by {off_accepts:.3} %", self.successes, self.accepts),
            ),
            (
                self.dropping.failing == dropping && self.dropping.succeeding == 0,
                format!(
                    "dropping targets: {} of {dropping} failed, {} ever succeeded",
                    self.dropping.failing, self.dropping.succeeding
                ),
            ),
            (self.missed == 0.0, format!("missed {:.0}, local outcomes {:.0}", self.missed, self.local)),
            (self.lateness_p99_us <= 10_000, format!("lateness p99 at most {lateness_ms} ms (bucket bound)")),
            (
                fds_late <= fds_early * 1.05 + 8.0,
                format!("descriptors: at most {fds_max}, mean {fds_early:.0} in the first half, {fds_late:.0} after"),
            ),
            (
                syn_max <= dropping + 16 && syn_late <= syn_early * 1.1 + 8.0,
                format!("SYN_SENT: at most {syn_max}, mean {syn_early:.0} in the first half, {syn_late:.0} after"),
            ),
        ]
    }

    fn json(&self, scenario: &Scenario) -> serde_json::Value {
        json!({
            "scenario": "steady",
            "valid": self.claims(scenario.dropping).iter().all(|(holds, _)| *holds),
            "probes": scenario.probes,
            "dropping": scenario.dropping,
            "period_ms": scenario.period * 1000,
            "duration_s": self.seconds,
            "attempts_expected": self.expected,
            "attempts": self.attempts,
            "missed": self.missed,
            "successes": self.successes,
            "failures": self.attempts - self.successes,
            "local": self.local,
            "target_accepts": self.accepts,
            "cpu_us_per_attempt": self.cpu_s * 1e6 / self.attempts,
            "rss_bytes": self.rss_bytes,
            "lateness_p99_us_at_most": self.lateness_p99_us,
            "fds_max": self.fds.iter().max(),
            "syn_sent_max": self.syn_sent.iter().max(),
            "time_wait_max": self.time_wait_max,
        })
    }
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
