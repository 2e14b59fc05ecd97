//! What a scenario gave: its claims, its JSON, its lines of the table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::beside::Beside;
use crate::latency::{Counts as Histogram, Quantiles};
use crate::scenario::{Numbers, Scenario};
use crate::scenarios::life::WholeLife;
use crate::truth::Truth;
use crate::window::Window;

/// Attempts, and connections, may differ by this part of what they should be.
const OFF_MAX: f64 = 0.001;

/// Reading an edge of the window takes time, in which attempts go on, and a shard that the machine holds up hands on its
/// counts later: what falls into it is not told apart. Less than [`OFF_MAX`] of every window of 50 s or more.
const EDGE_S: f64 = 0.05;

/// Windows of passive scenarios last so many times `passiveMaxAgeSeconds`, or no lease may have been renewed in them.
const WINDOW_AGES_MIN: f64 = 2.5;

/// A target process this busy, of one core, may be what limits the daemon.
const TARGET_BUSY_MAX: f64 = 0.8;

/// Sockets in SYN_SENT beside those of targets that drop SYNs.
const SYN_SENT_EXTRA_MAX: usize = 16;

/// Processes beside the daemon that did nothing, all the time.
pub struct BusyLoops {
    /// How many.
    pub count: usize,
    /// Cores that they have taken, all together.
    pub cores: f64,
}

/// All of it.
pub struct Report {
    /// Which.
    pub scenario: Scenario,
    /// As run.
    pub numbers: Numbers,
    /// Probes.
    pub probes: usize,
    /// Listeners of the targets.
    pub listeners: usize,
    /// Whether tcpSocket probes were answered from kernel state.
    pub is_passive: bool,
    /// The daemon's.
    pub passive_max_age_s: u64,
    /// As asked for.
    pub shards: Option<u16>,
    /// From the daemon's start until all probes were scheduled.
    pub load_s: f64,
    /// Cores that were busy before.
    pub idle: f64,
    /// Of a daemon without pods.
    pub rss_empty_bytes: u64,
    /// Probes whose target dropped SYNs for a while.
    pub dropping_probes: usize,
    /// What was seen.
    pub window: Window,
    /// What the daemon said.
    pub truth: Truth,
    /// Connections of the daemon's whole life.
    pub whole_life: WholeLife,
    /// What it warned of.
    pub warnings: Vec<String>,
    /// `None` = there were none.
    pub busy_loops: Option<BusyLoops>,
    /// What it is compared with.
    pub beside: Beside,
    /// Why it failed.
    pub complaints: Vec<String>,
}

impl Report {
    /// With its complaints.
    #[must_use]
    pub fn judged(mut self) -> Report {
        let expected = self.attempts_expected();
        let window = &self.window;
        let mut complaints = Vec::new();
        // What may be missing is: up to that, nothing is off.
        let fewest = expected - self.truth.may_be_missing as f64;
        let attempts = self.attempts();
        complaints.extend(differs("attempts", attempts, attempts.clamp(fewest, expected), window.seconds));
        complaints.extend(self.whole_life.complaint(window.seconds));
        if window.syn_sent_max > self.dropping_probes + SYN_SENT_EXTRA_MAX {
            let (most, dropping) = (window.syn_sent_max, self.dropping_probes);
            complaints.push(format!("{most} sockets in SYN_SENT, with {dropping} probes of targets that drop SYNs"));
        }
        if let Some(asked) = window.counts.restarts_asked
            && asked as usize != self.truth.held_since_ns.len()
        {
            let failed = self.truth.held_since_ns.len();
            complaints.push(format!("{asked} restarts asked for by {failed} liveness probes that failed"));
        }
        complaints.extend(self.truth.complaints());
        self.complaints = complaints;
        self
    }

    fn attempts(&self) -> f64 {
        let counts = &self.window.counts;
        counts.successful + counts.failed + counts.unknown
    }

    /// From the grid: every probe has a due time each period, but for liveness probes that wait for a restart; and
    /// readiness probes that have failed are tried when something about their pod changes.
    fn attempts_expected(&self) -> f64 {
        let period = std::time::Duration::from_secs(self.numbers.period_s);
        let held = self.truth.held_attempts(self.window.end_ns, period) as f64;
        let due = self.probes as f64 * self.window.seconds / self.numbers.period_s as f64;
        due - held + self.truth.triggered as f64
    }

    /// Why figures of a true run say nothing about what they are for.
    fn invalid(&self) -> Option<&'static str> {
        let least = WINDOW_AGES_MIN * self.passive_max_age_s as f64;
        (self.is_passive && self.window.seconds < least - EDGE_S).then_some("window")
    }

    /// With the names that the figures have everywhere. A failed scenario's has none.
    #[must_use]
    pub fn json(&self) -> Value {
        let name = self.scenario.name();
        if !self.complaints.is_empty() {
            return failed(&name, &self.complaints, self.probes, &self.warnings);
        }
        let per_second = self.attempts() / self.window.seconds;
        let us = |cores: f64| cores / per_second * 1e6;
        let cpu_us = us(self.window.rates.daemon);
        let mut figures = Map::new();
        for part in
            [self.load_json(), self.counts_json(), self.costs_json(us), self.truth_json(), self.beside_json(cpu_us)]
        {
            figures.extend(part.as_object().cloned().unwrap_or_default());
        }
        if let Some(split) = self.split(cpu_us, us) {
            figures.insert("split".to_owned(), split);
        }
        Value::Object(figures)
    }

    fn load_json(&self) -> Value {
        json!({
            "scenario": self.scenario.name(),
            "valid": self.invalid().is_none(),
            "invalid_because": self.invalid(),
            "probes": self.probes,
            "listeners": self.listeners,
            "period_ms": self.numbers.period_s * 1_000,
            "duration_s": self.window.seconds,
            "passive_max_age_s": self.is_passive.then_some(self.passive_max_age_s),
            "shards": self.shards,
            "load_s": self.load_s,
            "busy_loops": self.busy_loops.as_ref().map(|loops| json!({"count": loops.count, "cores": loops.cores})),
        })
    }

    fn counts_json(&self) -> Value {
        let counts = &self.window.counts;
        json!({
            "attempts_expected": self.attempts_expected().round() as u64,
            "attempts": self.attempts() as u64,
            "missed": counts.missed as u64,
            "passive": counts.passive as u64,
            "successes": counts.successful as u64,
            "failures": counts.failed as u64,
            "local": counts.local as u64,
            "rescheduled": counts.rescheduled as u64,
            "connections_opened": self.window.active_opens as u64,
        })
    }

    /// `us` makes microseconds per attempt of cores.
    fn costs_json(&self, us: impl Fn(f64) -> f64) -> Value {
        let (window, rates) = (&self.window, &self.window.rates);
        let machine = (rates.machine - self.idle - rates.targets - rates.own).max(0.0);
        let threads =
            rates.threads.iter().map(|(name, cores)| (name.clone(), json!(us(*cores)))).collect::<Map<_, _>>();
        json!({
            "cpu_us_per_attempt": us(rates.daemon),
            // The loops' time would be in it.
            "machine_cpu_us_per_attempt": self.busy_loops.is_none().then(|| us(machine)),
            "children_cpu_us_per_attempt": us(rates.children),
            "threads_us_per_attempt": threads,
            "daemon_cores": rates.daemon,
            "rss_bytes": window.rss_bytes,
            "rss_empty_bytes": self.rss_empty_bytes,
            "rss_bytes_per_probe": self.rss_bytes_per_probe(),
            "lateness_us": window.histograms.as_ref().and_then(|all| Quantiles::of(&all.all_lateness())),
            "lateness_us_by_handler": window.histograms.as_ref().map(|all| by_handler(&all.lateness)),
            "latency_us": window.histograms.as_ref().and_then(|all| Quantiles::of(&all.all_successes())),
            "time_wait_delta": window.time_wait_delta,
            "time_wait_overflow": window.time_wait_overflow,
            "syn_sent_max": window.syn_sent_max,
            "fds_max": window.fds_max,
            "targets": {
                "cores": rates.targets,
                "busiest_process_cores": rates.busiest_target,
                "listen_overflows": window.listen_overflows,
                "are_the_bottleneck": self.targets_are_the_bottleneck(),
            },
        })
    }

    fn truth_json(&self) -> Value {
        let mut truth = self.truth.json(self.attempts_expected(), self.window.passive_opens);
        truth["restarts_asked"] = json!(self.window.counts.restarts_asked);
        json!({"truth": truth, "warnings": self.warnings.len()})
    }

    fn beside_json(&self, cpu_us: f64) -> Value {
        json!({
            "floor": self.beside.floor,
            "task_per_probe": self.beside.task_per_probe,
            "peer": self.beside.peer,
            "missing": self.beside.missing,
            "ratios": self.ratios(cpu_us, self.rss_bytes_per_probe()),
        })
    }

    fn rss_bytes_per_probe(&self) -> f64 {
        self.window.rss_bytes.saturating_sub(self.rss_empty_bytes) as f64 / self.probes as f64
    }

    /// Where the CPU of passive answers goes, in microseconds per attempt: renewals are real connects, at what one costs in
    /// the floor.
    fn split(&self, cpu_us: f64, us: impl Fn(f64) -> f64) -> Option<Value> {
        if !self.is_passive || self.scenario == Scenario::Mixed {
            return None;
        }
        let sweep: f64 =
            ["ebpf-watch", "ebpf-sweep"].iter().filter_map(|name| self.window.rates.threads.get(*name)).sum();
        let connect_us = self.beside.floor.as_ref()?["paced_cpu_us_per_attempt"].as_f64()?;
        let renewals_us = self.window.active_opens * connect_us / self.attempts();
        Some(json!({
            "renewals_per_s": self.window.active_opens / self.window.seconds,
            "renewals_us": renewals_us, "sweep_and_watch_us": us(sweep), "rest_us": cpu_us - renewals_us - us(sweep),
        }))
    }

    fn ratios(&self, cpu_us: f64, rss_per_probe: f64) -> Value {
        let of = |value: Option<&Value>, key: &str| value.and_then(|value| value[key].as_f64()).filter(|v| *v > 0.0);
        let (floor, tasks) = (self.beside.floor.as_ref(), self.beside.task_per_probe.as_ref());
        let mut ratios = Map::new();
        let mut ratio = |name: String, ours: f64, other: Option<f64>| {
            ratios.extend(other.map(|other| (name, json!(ours / other))));
        };
        ratio("floor_paced".to_owned(), cpu_us, of(floor, "paced_cpu_us_per_attempt"));
        ratio("task_per_probe".to_owned(), cpu_us, of(tasks, "cpu_us_per_attempt"));
        ratio("task_per_probe_rss".to_owned(), rss_per_probe, of(tasks, "rss_bytes_per_probe"));
        for (name, peer) in self.beside.peer.as_ref().and_then(Value::as_object).into_iter().flatten() {
            ratio(name.clone(), cpu_us, of(Some(peer), "cpu_us_per_attempt"));
        }
        Value::Object(ratios)
    }

    fn targets_are_the_bottleneck(&self) -> bool {
        // Targets that drop SYNs overflow on purpose.
        let overflow = self.window.listen_overflows > 0 && self.dropping_probes == 0;
        overflow || self.window.rates.busiest_target > TARGET_BUSY_MAX
    }
}

/// What is left of the report of a scenario that failed: no figures.
#[must_use]
pub fn failed(scenario: &str, complaints: &[String], probes: usize, warnings: &[String]) -> Value {
    json!({
        "scenario": scenario, "valid": false, "failed": complaints, "probes": probes,
        "warnings": warnings.len(), "first_warning": warnings.first(),
    })
}

/// What to say of a number that is not what it should be.
#[must_use]
pub fn differs(what: &str, found: f64, expected: f64, seconds: f64) -> Option<String> {
    let off = (found - expected).abs();
    let most = expected * OFF_MAX.max(EDGE_S / seconds);
    (off > most.max(1.0))
        .then(|| format!("{what} {found:.0}, expected {expected:.0}: off by {:.3} %", off / expected.max(1.0) * 100.0))
}

fn by_handler(histograms: &BTreeMap<String, Histogram>) -> Value {
    histograms.iter().map(|(handler, counts)| (handler.clone(), json!(Quantiles::of(counts)))).collect()
}
