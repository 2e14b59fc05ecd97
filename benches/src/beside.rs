//! What a scenario's figures are compared with: floors, the task-per-probe baseline and a peer, each a process of its own
//! (`probe-load floor`, `task-per-probe`, `haproxy`) in the scenario's network namespace, after the daemon has ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::handler::Handler;
use crate::load::Load;
use crate::options::{Close, Options, Peer, value_name};
use crate::scenario::Numbers;

/// Starts per second of a paced floor, and attempts per second of a baseline, at most: more keeps two cores busy. What an
/// attempt costs is not what it costs a machine that cannot keep up.
const RATE_MAX: f64 = 5_000.0;

/// Targets of a floor or baseline at most: a million tasks do not fit a small machine's memory, and each costs the same.
const TARGETS_MAX: usize = 100_000;

/// Time between two looks of a paced floor at what is due: the grid of the engine's due times.
const TICK: Duration = probe_core::schedule::GRID;

/// How often each handler makes real attempts, per second.
pub type Rates = BTreeMap<Handler, f64>;

/// What was measured beside the daemon, each `None` where it could not be.
#[derive(Default)]
pub struct Beside {
    /// Means over the handlers, weighted with their rates.
    pub floor: Option<Value>,
    /// The same.
    pub task_per_probe: Option<Value>,
    /// By name.
    pub peer: Option<Value>,
    /// Why something is missing.
    pub missing: Vec<String>,
}

/// Where and how things are measured.
pub struct Bench<'a> {
    /// Its targets are probed.
    pub load: &'a Load,
    /// Of the scenario.
    pub numbers: Numbers,
    /// Of the run.
    pub options: &'a Options,
    /// For lists of targets.
    pub folder: &'a Path,
}

impl Bench<'_> {
    /// Measures everything, at these rates.
    #[must_use]
    pub fn run(&self, rates: &Rates) -> Beside {
        let mut beside = Beside::default();
        let floor = weighted(rates, |handler, rate| self.floor(handler, rate));
        beside.floor = or_missing(floor, "floor", &mut beside.missing);
        let baseline = weighted(rates, |handler, _| self.task_per_probe(handler));
        beside.task_per_probe = or_missing(baseline, "task-per-probe", &mut beside.missing);
        let handlers: Vec<Handler> = rates.keys().copied().collect();
        if let (Some(Peer::Haproxy), [handler @ (Handler::Tcp | Handler::Http)]) = (self.options.peer, &handlers[..]) {
            beside.peer = or_missing(self.haproxy(*handler), "haproxy", &mut beside.missing);
        }
        beside
    }

    fn floor(&self, handler: Handler, rate: f64) -> anyhow::Result<BTreeMap<&'static str, f64>> {
        let seconds = self.numbers.compared_s;
        let close = if self.options.close == Close::Rst { "rst" } else { "fin" };
        let common = |seconds: u64| -> anyhow::Result<Vec<String>> {
            Ok(vec![
                "floor".to_owned(),
                format!("--handler={}", handler.as_str()),
                format!("--targets={}", self.list(handler)?.display()),
                format!("--seconds={seconds}"),
                format!("--close={close}"),
            ])
        };
        let rate = rate.clamp(1.0, RATE_MAX).round();
        let paced =
            [common(seconds)?, vec![format!("--rate={rate}"), format!("--tick-us={}", TICK.as_micros())]].concat();
        let paced = child(&paced)?;
        let closed = child(&[common(seconds.div_ceil(2))?, vec!["--closed".to_owned()]].concat())?;
        let cpu = |value: &Value| value["cpu_us_per_attempt"].as_f64().context("no cpu_us_per_attempt");
        Ok(BTreeMap::from([
            ("paced_cpu_us_per_attempt", cpu(&paced)?),
            ("closed_loop_cpu_us_per_attempt", cpu(&closed)?),
            ("paced_per_s", rate),
        ]))
    }

    fn task_per_probe(&self, handler: Handler) -> anyhow::Result<BTreeMap<&'static str, f64>> {
        let (period_ms, seconds) = self.pace(handler);
        let value = child(&[
            "task-per-probe".to_owned(),
            format!("--handler={}", handler.as_str()),
            format!("--targets={}", self.list(handler)?.display()),
            format!("--period-ms={period_ms}"),
            format!("--seconds={seconds}"),
        ])?;
        let mut figures = BTreeMap::from([("period_ms", period_ms)]);
        for key in ["cpu_us_per_attempt", "rss_bytes_per_probe"] {
            figures.insert(key, value[key].as_f64().with_context(|| format!("no {key}"))?);
        }
        Ok(figures)
    }

    fn haproxy(&self, handler: Handler) -> anyhow::Result<Value> {
        let mut peers = serde_json::Map::new();
        let (period_ms, seconds) = self.pace(handler);
        for close in ["rst", "linger"] {
            let value = child(&[
                "haproxy".to_owned(),
                format!("--handler={}", handler.as_str()),
                format!("--targets={}", self.list(handler)?.display()),
                format!("--period-ms={period_ms}"),
                format!("--seconds={seconds}"),
                format!("--close={close}"),
            ])?;
            peers.insert(format!("{}_{close}", value_name(Peer::Haproxy)), value);
        }
        Ok(Value::Object(peers))
    }

    /// The scenario's period in milliseconds, longer where that would be more than [`RATE_MAX`] attempts a second, and for how many
    /// seconds to measure at it.
    fn pace(&self, handler: Handler) -> (f64, u64) {
        let probes = self.lines(handler).lines().count() as f64;
        let period_ms = (self.numbers.period_s as f64 * 1e3).max(probes / RATE_MAX * 1e3).ceil();
        (period_ms, self.numbers.compared_s.max((period_ms / 1e3).ceil() as u64))
    }

    fn lines(&self, handler: Handler) -> String {
        let lines = self.load.lines(handler);
        lines.split_inclusive('\n').take(TARGETS_MAX).collect()
    }

    fn list(&self, handler: Handler) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("list-{}", handler.as_str()));
        fs::write(&path, self.lines(handler))?;
        Ok(path)
    }
}

/// Means over the handlers; `null` figures where one of them could not be measured.
fn weighted(
    rates: &Rates,
    mut measure: impl FnMut(Handler, f64) -> anyhow::Result<BTreeMap<&'static str, f64>>,
) -> anyhow::Result<Value> {
    let total: f64 = rates.values().sum();
    let mut means: BTreeMap<&'static str, f64> = BTreeMap::new();
    let mut each = serde_json::Map::new();
    for (handler, rate) in rates {
        let figures = measure(*handler, *rate).with_context(|| handler.as_str())?;
        for (key, figure) in &figures {
            *means.entry(key).or_default() += figure * rate / total;
        }
        each.insert(handler.as_str().to_owned(), json!(figures));
    }
    let mut value = json!(means);
    if rates.len() > 1 {
        value["handlers"] = Value::Object(each);
    }
    Ok(value)
}

fn or_missing(value: anyhow::Result<Value>, what: &str, missing: &mut Vec<String>) -> Option<Value> {
    value.map_err(|error| missing.push(format!("no {what}: {error:#}"))).ok()
}

/// Runs this program with these arguments, to its end; what it prints is one line of JSON.
fn child(args: &[String]) -> anyhow::Result<Value> {
    let output = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {args:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or_default());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{}: no JSON", args[0]))
}
