//! The scenario `churn`: pods come and go by the thousand a second while others stay. Does anything grow?
//!
//! Pods come as manifest files, ten to a file, and go when their file is replaced or removed; the daemon sees nothing but its
//! directory. Each lives for some periods and a half, so that the attempts of its life can be foretold.
//!
//! Flat is what differs, from the second third of the window to the last, by no more than 3 % (or a few MB, or a few of what
//! is counted): medians of one look a second. Sockets in TIME_WAIT are the kernel's, for 60 s; of those no more may be there
//! than connections were made in that time.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::life::WholeLife;
use super::life::{self, say, sleep_until};
use crate::daemon::{Daemon, samples, sum};
use crate::flips::Flips;
use crate::kernel::{self, Sockets, Tcp};
use crate::latency::{Histograms, Quantiles};
use crate::listeners::wall_ns;
use crate::load::{Load, PROBES_PER_POD};
use crate::options::Options;
use crate::report::differs;
use crate::scenario::Scenario;
use crate::table::{figure, number, quantiles};
use crate::targets::Targets;
use crate::truth::{Log, Probe, Truth};
use crate::window::{Rates, Spent, now};

/// Pods that come, and as many that go, in a second.
const PODS_PER_S: usize = 1_000;
/// The same with the numbers of a run of all.
const PODS_PER_S_SHORT: usize = 100;

/// Pods of one file.
const FILE_PODS: usize = 10;

/// A pod's life in halves of a period: odd, so that it ends halfway between two due times, whatever the reading of a file
/// takes.
const LIFE_HALF_PERIODS: usize = 11;
/// The same with the numbers of a run of all.
const LIFE_HALF_PERIODS_SHORT: usize = 3;

/// Attempts of a new pod beside those: when the readiness of one of its two containers changes, the other's readiness probe
/// is tried once more, as it has not succeeded yet (`UpdatePodStatus` of the kubelet's prober manager); and the reverse.
const TRIGGERED_PER_POD: usize = 2;

/// A listener is given to another pod this much later than its last one went.
const LISTENER_REST: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A TIME_WAIT lasts 60 s and up to 4.1 s more (`kernel/time/timer.c`, `LVL_GRAN`); and the second that a look takes.
const TIME_WAIT_MAX: Duration = Duration::from_secs(66);

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
    load.write(&manifests, 0..steady.pods.len())?;
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

/// How fast pods come and go, and which.
#[derive(Clone, Copy, Debug)]
struct Pace {
    files_per_s: usize,
    /// Files that are there at once.
    alive: usize,
    /// Files that come in all.
    files: usize,
    /// Pods that stay: the first ones of the load.
    steady_pods: usize,
    /// Pods that have listeners of their own at once.
    listeners: usize,
    life: Duration,
    /// Of each probe in that life: at once, and after every period.
    life_attempts: usize,
}

impl Pace {
    /// As long as it takes until the first pods go, and then for `duration`.
    fn new(
        pods_per_s: usize,
        life_half_periods: usize,
        steady_pods: usize,
        period: Duration,
        duration: Duration,
    ) -> Pace {
        let files_per_s = pods_per_s / FILE_PODS;
        let life = period * life_half_periods as u32 / 2;
        let files_in = |time: Duration| (files_per_s as f64 * time.as_secs_f64()).ceil() as usize;
        let alive = files_in(life);
        let listeners = files_in(life + LISTENER_REST) * FILE_PODS;
        let life_attempts = life_half_periods / 2 + 1;
        Pace { files_per_s, alive, files: alive + files_in(duration), steady_pods, listeners, life, life_attempts }
    }

    /// Those that listen: pods that stay, and as many others as are there at once; and all pods, each with the listener of
    /// one that has gone.
    fn loads(self, probes: usize, period_s: u64, folder: &Path) -> (Load, Load) {
        let plan = || {
            let all = probes.next_multiple_of(PROBES_PER_POD) + self.listeners * PROBES_PER_POD;
            Load::plan(Scenario::Churn.mix(), all, period_s, folder)
        };
        let mut load = plan();
        for pod in self.listeners..self.files * FILE_PODS {
            let place = self.steady_pods + pod % self.listeners;
            load.pods.push(load.pods[place].clone());
        }
        (plan(), load)
    }

    fn at(self, file: usize) -> Duration {
        Duration::from_secs_f64(file as f64 / self.files_per_s as f64)
    }

    fn pods(self, file: usize) -> std::ops::Range<usize> {
        let first = self.steady_pods + file * FILE_PODS;
        first..first + FILE_PODS
    }

    fn file_of(self, pod: usize) -> Option<usize> {
        Some(pod.checked_sub(self.steady_pods)? / FILE_PODS)
    }

    /// Half of the files keep their name when they get other pods; the others are removed, and new ones made.
    fn name(self, file: usize) -> String {
        let (place, round) = (file % self.alive, file / self.alive);
        if place.is_multiple_of(2) {
            format!("churn-{place:04}.json")
        } else {
            format!("churn-{place:04}-{round}.json")
        }
    }
}

/// A thread that writes and removes the files.
struct Churner(JoinHandle<anyhow::Result<Churned>>);

/// What it did.
struct Churned {
    /// When each file came, just before its rename; CLOCK_REALTIME, nanoseconds.
    came_ns: Vec<u128>,
    /// The most that it was behind its own schedule.
    behind_max: Duration,
}

impl Churner {
    fn start(pace: Pace, load: Load, manifests: &Path) -> Churner {
        let manifests = manifests.to_owned();
        Churner(std::thread::spawn(move || churn(pace, &load, &manifests)))
    }

    fn join(self) -> anyhow::Result<Churned> {
        self.0.join().map_err(|_| anyhow::anyhow!("the churn's thread panicked"))?
    }
}

fn churn(pace: Pace, load: &Load, manifests: &Path) -> anyhow::Result<Churned> {
    let start = now();
    let mut churned = Churned { came_ns: Vec::with_capacity(pace.files), behind_max: Duration::ZERO };
    for step in 0..pace.files + pace.alive {
        let due = start + pace.at(step);
        sleep_until(due);
        churned.behind_max = churned.behind_max.max(now().saturating_duration_since(due));
        let goes = step.checked_sub(pace.alive).map(|gone| pace.name(gone));
        let comes = (step < pace.files).then(|| pace.name(step));
        if let Some(goes) = goes.filter(|goes| comes.as_ref() != Some(goes)) {
            fs::remove_file(manifests.join(goes))?;
        }
        if let Some(comes) = comes {
            let path = manifests.join(comes);
            let part = write_part(load, pace.pods(step), &path)?;
            churned.came_ns.push(wall_ns());
            fs::rename(part, path)?;
        }
    }
    Ok(churned)
}

fn write_part(load: &Load, pods: std::ops::Range<usize>, path: &Path) -> anyhow::Result<PathBuf> {
    let part = path.with_extension("part");
    let mut text = Vec::new();
    for pod in pods {
        writeln!(text, "---\n{}", load.manifest(pod))?;
    }
    fs::write(&part, text)?;
    Ok(part)
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

/// What the daemon holds, by name: sums over shards.
fn gauges(samples: &BTreeMap<&str, f64>) -> BTreeMap<String, f64> {
    let mut gauges = BTreeMap::new();
    for slab in ["attempts", "leases", "workers"] {
        let label = format!("slab=\"{slab}\"");
        for (what, name) in [("used", "probe_engine_shard_slab_used"), ("places", "probe_engine_shard_slab_places")] {
            gauges.insert(format!("slab_{what}_{slab}"), sum(samples, name, &[&label]));
        }
    }
    for (name, metric) in [
        ("pods", "probe_engine_pods"),
        ("ebpf_targets", "probe_engine_ebpf_targets"),
        ("ebpf_listeners", "probe_engine_ebpf_listeners"),
        ("passive_held", "probe_engine_passive_held"),
    ] {
        gauges.insert(name.to_owned(), sum(samples, metric, &[]));
    }
    gauges
}

/// What was seen in the window.
struct Looks {
    /// By name, one value per look, all pods that come and go being there.
    series: BTreeMap<String, Vec<f64>>,
    /// The most sockets in TIME_WAIT beyond the connections of the time that they last; 0 or less = none too many.
    time_wait_excess: f64,
    rates: Rates,
    syn_sent_max: usize,
}

/// Looks once a second, and flips targets, until the window ends.
fn watch(
    daemon: &Daemon,
    targets: &mut Targets,
    flips: &mut Flips,
    pace: Pace,
    duration: Duration,
) -> anyhow::Result<Looks> {
    let mut opens: Vec<(Instant, f64)> = vec![(now(), 0.0)];
    sleep_until(now() + pace.life);
    let start = now();
    let end = start + duration;
    let spent = Spent::read(daemon.pid(), targets)?;
    let mut looks =
        Looks { series: BTreeMap::new(), time_wait_excess: f64::MIN, rates: Rates::default(), syn_sent_max: 0 };
    let mut look_at = start;
    loop {
        let flip_at = flips.next_at().map_or(end, |at| start + at);
        let next = flip_at.min(look_at).min(end);
        sleep_until(next);
        if next == end {
            break;
        }
        if next == flip_at {
            flips.step(targets)?;
            continue;
        }
        looks.look(daemon, &mut opens)?;
        look_at += LOOK_EVERY;
    }
    looks.rates = Rates::between(&spent, &Spent::read(daemon.pid(), targets)?);
    Ok(looks)
}

impl Looks {
    fn look(&mut self, daemon: &Daemon, opens: &mut Vec<(Instant, f64)>) -> anyhow::Result<()> {
        let process = kernel::process(daemon.pid()).context("the daemon has ended")?;
        let sockets = Sockets::read()?;
        let syn_sent = kernel::syn_sent()?;
        let opened = kernel::active_opens()? as f64;
        let at = now();
        let old = opens.iter().rev().find(|(then, _)| at.saturating_duration_since(*then) >= TIME_WAIT_MAX);
        let lasting = opened - old.map_or(0.0, |(_, opened)| *opened);
        self.time_wait_excess = self.time_wait_excess.max(sockets.time_wait as f64 - lasting);
        opens.push((at, opened));
        self.syn_sent_max = self.syn_sent_max.max(syn_sent);
        let page = daemon.page("/metrics")?;
        let mut values = gauges(&samples(&page));
        for (name, value) in [
            ("rss_bytes", process.rss_bytes as f64),
            ("fds", process.fds as f64),
            ("sockets_in_use", sockets.in_use as f64),
            ("sockets_orphan", sockets.orphan as f64),
            ("sockets_allocated", sockets.allocated as f64),
            ("sockets_time_wait", sockets.time_wait as f64),
            ("sockets_syn_sent", syn_sent as f64),
        ] {
            values.insert(name.to_owned(), value);
        }
        for (name, value) in values {
            self.series.entry(name).or_default().push(value);
        }
        Ok(())
    }

    /// Medians of the window's second third and of its last.
    fn thirds(&self, name: &str) -> Option<(f64, f64)> {
        let values = self.series.get(name)?;
        let third = values.len() / 3;
        Some((median(&values[third..2 * third])?, median(&values[2 * third..])?))
    }

    /// By how much a value may differ.
    fn margin(name: &str, middle: f64) -> f64 {
        let least = match name {
            "rss_bytes" => 4e6,
            // What is being made at the moment.
            "slab_used_attempts" | "slab_places_attempts" => 1_024.0,
            "fds" | "sockets_in_use" | "sockets_orphan" | "sockets_allocated" | "sockets_syn_sent" => 256.0,
            _ => 128.0,
        };
        (middle * 0.03).max(least)
    }

    fn is_flat(&self, name: &str) -> bool {
        self.thirds(name).is_none_or(|(middle, last)| last - middle <= Self::margin(name, middle))
    }

    /// What is not flat. TIME_WAIT has a rule of its own.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for name in self.series.keys().filter(|name| *name != "sockets_time_wait") {
            if let Some((middle, last)) = self.thirds(name).filter(|_| !self.is_flat(name)) {
                complaints.push(format!("{name} grows: {middle:.0} in the second third, {last:.0} in the last"));
            }
        }
        if self.time_wait_excess > 0.0 {
            let excess = self.time_wait_excess;
            complaints.push(format!("{excess:.0} sockets in TIME_WAIT more than connections in {TIME_WAIT_MAX:?}"));
        }
        complaints
    }

    fn json(&self) -> Value {
        let thirds = |name: &String| {
            let (middle, last) = self.thirds(name)?;
            Some((name.clone(), json!({"second_third": middle, "last_third": last})))
        };
        self.series.keys().filter_map(thirds).collect()
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
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

    fn quantile(&self, quantile: f64) -> Option<f64> {
        let last = self.ms.len().checked_sub(1)?;
        self.ms.get((last as f64 * quantile).ceil() as usize).copied()
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
        let WholeLife { taken, connected } = self.whole_life;
        let what = "connections that targets took, of real attempts that succeeded,";
        complaints.extend(differs(what, taken, connected, self.seconds()));
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
            return json!({
                "scenario": "churn", "valid": false, "failed": complaints, "probes": self.steady_probes,
                "warnings": self.warnings.len(), "first_warning": self.warnings.first(),
            });
        }
        let (before, after, truth) = (&self.before, &self.after, &self.truth);
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
                "added_ms": {
                    "p50": self.added.quantile(0.5), "p99": self.added.quantile(0.99), "max": self.added.quantile(1.0),
                },
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
            "truth": {
                "expected_attempts": self.attempts_expected().round() as u64,
                "target_accepts": self.whole_life.taken as u64,
                "flips_made": truth.flips_made,
                "flips_noticed": truth.flips_noticed,
                "noticed_ms": {"p50": truth.noticed_ms(0.5), "p99": truth.noticed_ms(0.99)},
                "wrong_verdicts": truth.wrong_verdicts.len(),
            },
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn looks(name: &str, values: impl Iterator<Item = f64>) -> Looks {
        let series = BTreeMap::from([(name.to_owned(), values.collect())]);
        Looks { series, time_wait_excess: 0.0, rates: Rates::default(), syn_sent_max: 0 }
    }

    #[test]
    fn memory_that_grows_with_every_pod_is_told_and_a_plateau_is_not() {
        let plateau = (0..60).map(|second| 160e6 + f64::from(second.min(20)) * 1e6 + f64::from(second % 3) * 1e6);
        assert_eq!(looks("rss_bytes", plateau).complaints(), [""; 0]);
        // 300 bytes for each of 1,000 pods a second.
        let leak = (0..60).map(|second| 100e6 + f64::from(second) * 300e3);
        assert_eq!(looks("rss_bytes", leak).complaints().len(), 1);
    }

    #[test]
    fn one_descriptor_a_file_is_told() {
        let leak = (0..60).map(|second| 53.0 + f64::from(second) * 100.0);
        assert_eq!(looks("fds", leak).complaints().len(), 1);
    }

    #[test]
    fn every_file_goes_a_life_after_it_came() {
        let pace = Pace::new(1_000, LIFE_HALF_PERIODS, 6_250, Duration::from_secs(1), Duration::from_secs(20));
        assert_eq!((pace.alive, pace.files), (550, 2_550));
        let mut there = BTreeSet::new();
        for step in 0..pace.files + pace.alive {
            let goes = step.checked_sub(pace.alive).map(|gone| pace.name(gone));
            goes.iter().for_each(|goes| assert!(there.remove(goes), "{goes}"));
            if step < pace.files {
                assert!(there.insert(pace.name(step)));
            }
        }
        assert!(there.is_empty());
        assert_eq!(pace.file_of(pace.pods(2_549).end - 1), Some(2_549));
    }
}
