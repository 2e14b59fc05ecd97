//! The scenario `churn`: pods come and go by the thousand a second while others stay. Does anything grow?
//!
//! Pods come as manifest files, ten to a file, and go when their file is replaced or removed; the daemon sees nothing but its
//! directory. Each lives for some periods and a half, so that the attempts of its life can be foretold.
//!
//! Flat is what differs, from the second third of the window to the last, by no more than 3 % (or a few MB, or a few of what
//! is counted): medians of one look a second. Sockets in TIME_WAIT are the kernel's, for 60 s; of those no more may be there
//! than connections were made in that time.

mod looks;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::looks::{Looks, gauges, watch};
use self::pace::{Churned, Churner, FILE_PODS, Pace};
use super::life::{self, WholeLife, say, sleep_until};
use crate::daemon::{Daemon, samples, sum};
use crate::flips::Flips;
use crate::kernel::{self, Tcp};
use crate::latency::{Histograms, Quantiles};
use crate::listeners::wall_ns;
use crate::load::{Load, PROBES_PER_POD};
use crate::options::Options;
use crate::quantile;
use crate::report::{differs, failed};
use crate::scenario::Scenario;
use crate::table::{figure, number, quantiles};
use crate::targets::Targets;
use crate::truth::{Log, Probe, Truth};
use crate::window::now;

/// Pods that come, and as many that go, in a second.
const PODS_PER_S: usize = 1_000;
/// The same with the numbers of a run of all.
const PODS_PER_S_SHORT: usize = 100;

/// A pod's life in halves of a period: odd, so that it ends halfway between two due times, whatever the reading of a file
/// takes.
const LIFE_HALF_PERIODS: usize = 11;
/// The same with the numbers of a run of all.
const LIFE_HALF_PERIODS_SHORT: usize = 3;

/// Attempts of a new pod beside those: when the readiness of one of its two containers changes, the other's readiness probe
/// is tried once more, as it has not succeeded yet (`UpdatePodStatus` of the kubelet's prober manager); and the reverse.
const TRIGGERED_PER_POD: usize = 2;

/// Windows shorter than this say nothing of leaks.
const WINDOW_S_MIN: u64 = 60;

/// Runs it; the process is in its network namespace already.
pub fn run(options: &Options, short: bool) -> anyhow::Result<Value> {
    let scenario = Scenario::Churn;
    let numbers = options.numbers(scenario, short)?;
    let period = Duration::from_secs(numbers.period_s);
    let duration = Duration::from_secs(numbers.duration_s);
    let folder = tempfile::tempdir()?;
    let steady = Load::plan(scenario.mix(), numbers.probes, numbers.period_s, folder.path());
    let (pods_per_s, life) = if short || options.smoke {
        (PODS_PER_S_SHORT, LIFE_HALF_PERIODS_SHORT)
    } else {
        (PODS_PER_S, LIFE_HALF_PERIODS)
    };
    let pace = Pace::new(pods_per_s, life, steady.pods.len(), period, duration);
    let (listening, load) = pace.loads(numbers.probes, numbers.period_s, folder.path());
    let mut targets = Targets::start(&listening, folder.path(), 0)?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests)?;
    load.write(&manifests, "pods", 0..steady.pods.len())?;
    let taken_before = Tcp::read()?.passive_opens;
    let daemon = Daemon::start(&options.daemon, folder.path(), &manifests, &life::daemon_args(scenario, options))?;
    life::wait_until_scheduled(&daemon, steady.probes())?;
    say(&format!("churn: {} probes stay, {pods_per_s} pods a second come and go", steady.probes()));
    // Until the daemon is older than a period: what is added from then on is tried at once.
    sleep_until(now() + Duration::from_secs(numbers.warmup_s));
    let mut flips = Flips::plan(&steady, &targets, duration, period, false, options.seed)?;
    let before = Edge::read(&daemon)?;
    let churner = Churner::start(pace, load, &manifests);
    let looks = watch(&daemon, &mut targets, &mut flips, pace, duration)?;
    let churned = churner.join()?;
    let after = Edge::read_whole_seconds_after(&before, &daemon, period)?;
    std::thread::sleep(life::SETTLE);
    let log = Log::read(daemon.log())?;
    let truth = Truth::of(flips.done(), &log, period);
    let whole_life = WholeLife::of(&daemon, &manifests, taken_before, 0)?;
    let report = Report {
        pace,
        period,
        steady_probes: steady.probes(),
        listeners: targets.listeners,
        added: Added::of(&log, &churned, pace),
        judges_leaks: numbers.duration_s >= WINDOW_S_MIN,
        is_passive: options.is_passive(scenario),
        before,
        after,
        looks,
        truth,
        whole_life,
        warnings: log.warnings,
    };
    Ok(report.json())
}

/// Counts of the daemon at one moment.
struct Edge {
    at: Instant,
    wall_ns: u128,
    attempts: f64,
    passive: f64,
    missed: f64,
    local: f64,
    rescheduled: f64,
    active_opens: u64,
    pages: u64,
    gauges: BTreeMap<String, f64>,
    histograms: Histograms,
}

impl Edge {
    fn read(daemon: &Daemon) -> anyhow::Result<Edge> {
        let at = now();
        let page = daemon.page("/metrics")?;
        let wall_ns = wall_ns();
        let samples = samples(&page);
        let all = |name: &str| sum(&samples, name, &[]);
        let ended = all("probe_engine_attempt_duration_seconds_count");
        let (passive, local) = (all("probe_engine_passive_answers_total"), all("probe_engine_attempts_local_total"));
        Ok(Edge {
            at,
            wall_ns,
            // Counted by attempt: what is counted by pod ends with it.
            attempts: ended - local + passive,
            passive,
            missed: all("probe_engine_attempts_missed_total"),
            local,
            rescheduled: all("probe_engine_attempts_rescheduled_total"),
            active_opens: kernel::active_opens()?,
            pages: daemon.pages(),
            gauges: gauges(&samples),
            histograms: Histograms::parse(&daemon.page("/api/v1/latency")?)?,
        })
    }

    /// Shards tell their counts once a second: two readings whole seconds apart have the same delay. And whole periods, so
    /// that every probe that stays has the same number of due times.
    fn read_whole_seconds_after(before: &Edge, daemon: &Daemon, period: Duration) -> anyhow::Result<Edge> {
        let step = period.as_secs().max(1);
        // What was counted last is told within a second.
        let seconds = (before.at.elapsed().as_secs() + 2).next_multiple_of(step);
        sleep_until(before.at + Duration::from_secs(seconds));
        Edge::read(daemon)
    }
}

/// How long it took from a file's rename to the first success of its pods' readiness probes.
struct Added {
    ms: Vec<f64>,
    /// Readiness probes that never said so.
    silent: usize,
    behind_max: Duration,
}

impl Added {
    fn of(log: &Log, churned: &Churned, pace: Pace) -> Added {
        let mut first: HashMap<(usize, &str), u128> = HashMap::new();
        for change in log.changes.iter().filter(|change| !change.is_failure && change.probe.1 == Probe::Readiness) {
            if pace.file_of(change.pod).is_some() {
                first.entry((change.pod, &change.probe.0)).or_insert(change.at_ns);
            }
        }
        let mut ms: Vec<f64> = first
            .iter()
            .filter_map(|((pod, _), at)| {
                let came = churned.came_ns.get(pace.file_of(*pod)?)?;
                Some(at.saturating_sub(*came) as f64 / 1e6)
            })
            .collect();
        ms.sort_by(f64::total_cmp);
        let expected = churned.came_ns.len() * FILE_PODS * PROBES_PER_POD / 2;
        Added { silent: expected.saturating_sub(ms.len()), ms, behind_max: churned.behind_max }
    }
}

struct Report {
    pace: Pace,
    period: Duration,
    steady_probes: usize,
    listeners: usize,
    added: Added,
    judges_leaks: bool,
    is_passive: bool,
    before: Edge,
    after: Edge,
    looks: Looks,
    truth: Truth,
    whole_life: WholeLife,
    warnings: Vec<String>,
}

impl Report {
    fn churned_pods(&self) -> usize {
        self.pace.files * FILE_PODS
    }

    fn seconds(&self) -> f64 {
        (self.after.wall_ns - self.before.wall_ns) as f64 / 1e9
    }

    /// Of probes that stay: a due time each period, liveness probes that wait for a restart apart. Of those that come and go:
    /// what their life holds.
    fn attempts_expected(&self) -> f64 {
        let due = self.steady_probes as f64 * self.seconds() / self.period.as_secs_f64();
        let held = self.truth.held_attempts(self.after.wall_ns, self.period) as f64;
        let churned = self.churned_pods() * (PROBES_PER_POD * self.pace.life_attempts + TRIGGERED_PER_POD);
        due - held + self.truth.triggered as f64 + churned as f64
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let attempts = self.after.attempts - self.before.attempts;
        complaints.extend(differs("attempts", attempts, self.attempts_expected(), self.seconds()));
        complaints.extend(self.whole_life.complaint(self.seconds()));
        if self.added.silent > 0 {
            let (silent, of) = (self.added.silent, self.churned_pods() * PROBES_PER_POD / 2);
            complaints.push(format!("{silent} of {of} readiness probes of pods that came never succeeded"));
        }
        for name in ["slab_used_workers", "slab_used_leases", "pods", "ebpf_targets"] {
            let (before, after) = (self.before.gauges[name], self.after.gauges[name]);
            if before != after {
                complaints.push(format!("{name} {after} after all pods that came have gone, {before} before"));
            }
        }
        if self.judges_leaks {
            complaints.extend(self.looks.complaints());
            let missed = self.after.missed - self.before.missed;
            if missed > 0.0 {
                complaints.push(format!("{missed} due times missed"));
            }
        }
        complaints.extend(self.truth.complaints());
        complaints
    }

    fn json(&self) -> Value {
        let complaints = self.complaints();
        if !complaints.is_empty() {
            return failed("churn", &complaints, self.steady_probes, &self.warnings);
        }
        let (before, after) = (&self.before, &self.after);
        let histograms = after.histograms.since(&before.histograms);
        let attempts = after.attempts - before.attempts;
        let rss = self.looks.thirds("rss_bytes").map(|(_, last)| last);
        let pages = (after.pages - before.pages) as f64;
        json!({
            "scenario": "churn",
            "valid": self.judges_leaks,
            "invalid_because": (!self.judges_leaks).then_some("window"),
            "probes": self.steady_probes,
            "listeners": self.listeners,
            "period_ms": self.period.as_millis() as u64,
            "duration_s": self.seconds(),
            "is_passive": self.is_passive,
            "churn": {
                "pods_per_s": self.pace.files_per_s * FILE_PODS,
                "files_per_s": self.pace.files_per_s,
                "pods": self.churned_pods(),
                "pods_at_once": self.pace.alive * FILE_PODS,
                "life_s": self.pace.life.as_secs_f64(),
                "behind_max_ms": self.added.behind_max.as_secs_f64() * 1e3,
                "added_ms": quantile::json(&self.added.ms),
            },
            "attempts_expected": self.attempts_expected().round() as u64,
            "attempts": attempts as u64,
            "missed": (after.missed - before.missed) as u64,
            "passive": (after.passive - before.passive) as u64,
            "local": (after.local - before.local) as u64,
            "rescheduled": (after.rescheduled - before.rescheduled) as u64,
            "connections_opened": ((after.active_opens - before.active_opens) as f64 - pages) as u64,
            "daemon_cores": self.looks.rates.daemon,
            "threads_cores": self.looks.rates.threads,
            "rss_bytes": rss,
            "rss_bytes_each_s": self.looks.series.get("rss_bytes"),
            "lateness_us": Quantiles::of(&histograms.all_lateness()),
            "latency_us": Quantiles::of(&histograms.all_successes()),
            "syn_sent_max": self.looks.syn_sent_max,
            "flat": self.looks.json(),
            "before": before.gauges,
            "after": after.gauges,
            "truth": self.truth.json(self.attempts_expected(), self.whole_life.taken),
            "warnings": self.warnings.len(),
        })
    }
}

/// Its lines.
pub fn print(report: &Value) {
    let churn = &report["churn"];
    let invalid = report["invalid_because"].as_str().map_or_else(String::new, |why| format!(", valid: false ({why})"));
    println!(
        "churn: {} probes stay; {} pods/s come and go in {} files/s, {} at once, {} in all{invalid}",
        report["probes"], churn["pods_per_s"], churn["files_per_s"], churn["pods_at_once"], churn["pods"]
    );
    println!(
        "    attempts {} (expected {}), {} passive, missed {}, local {}, rescheduled {}; connections {}",
        report["attempts"],
        report["attempts_expected"],
        report["passive"],
        report["missed"],
        report["local"],
        report["rescheduled"],
        report["connections_opened"]
    );
    let added = &churn["added_ms"];
    println!(
        "    from a file's rename to the first success of a pod's readiness probe: p50 {} ms, p99 {} ms, max {} ms",
        figure(&added["p50"]),
        figure(&added["p99"]),
        figure(&added["max"])
    );
    println!("    {} of a core; lateness {}", figure(&report["daemon_cores"]), quantiles(&report["lateness_us"]));
    for (name, thirds) in report["flat"].as_object().into_iter().flatten() {
        println!(
            "    {name}: {:.0} in the second third, {:.0} in the last",
            number(&thirds["second_third"]),
            number(&thirds["last_third"])
        );
    }
    let truth = &report["truth"];
    println!(
        "    {} targets closed and opened, {} noticed, {} wrong verdicts",
        truth["flips_made"], truth["flips_noticed"], truth["wrong_verdicts"]
    );
}
