//! Scenarios at a steady rate: `tcp-passive`, `tcp-active`, `http`, `https`, `grpc`, `exec`, `mixed`, `million`. Pods are
//! loaded, and after a warm-up everything is measured over one window, in which some targets are closed and opened again.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use std::{fs, iter};

use super::life::{SETTLE, WholeLife, daemon_args, say, sleep_until, wait_until_scheduled};
use super::loops::Loops;
use crate::beside::{self, Beside};
use crate::daemon::Daemon;
use crate::flips::Flips;
use crate::handler::Handler;
use crate::kernel::{self, Tcp};
use crate::load::{Load, PROBES_PER_POD};
use crate::options::Options;
use crate::report::{BusyLoops, Report};
use crate::scenario::{Numbers, Scenario};
use crate::targets::Targets;
use crate::truth::{Log, Truth};
use crate::window::{self, Window, now};

/// As many probes are there when the daemon starts. A first attempt is a connect, also of probes that are answered passively
/// later, and a daemon makes all of them within the first period.
const PROBES_AT_ONCE_MAX: usize = 50_000;

/// Of more, so many come at once ...
const PROBES_LATER: usize = 10_000;

/// ... and so often: 10,000 connects a second, beside the renewals of those that are there. Two cores that also run the targets
/// make about 40,000.
const LATER_EVERY: Duration = Duration::from_secs(1);

/// What the machine is like while a scenario runs.
pub struct Conditions {
    /// Nice value of the targets, relative to ours and the daemon's.
    pub targets_nice: i32,
    /// A change of a target is noticed within so many periods, and the timeout.
    pub noticed_periods: u32,
    /// Processes that take what they can of the cores, from the daemon's start until it has been measured.
    pub busy_loops: usize,
}

/// Runs a scenario; the process is in its network namespace already.
pub fn run(scenario: Scenario, options: &Options, short: bool) -> anyhow::Result<Report> {
    let conditions = Conditions { targets_nice: 0, noticed_periods: 1, busy_loops: options.busy_loops };
    run_under(&conditions, scenario, options, short)
}

/// The same, elsewhere than on a machine of its own.
pub fn run_under(
    conditions: &Conditions,
    scenario: Scenario,
    options: &Options,
    short: bool,
) -> anyhow::Result<Report> {
    let numbers = options.numbers(scenario, short)?;
    let folder = tempfile::tempdir()?;
    let load = Load::plan(scenario.mix(), numbers.probes, numbers.period_s, folder.path());
    let mut targets = Targets::start(&load, folder.path(), conditions.targets_nice)?;
    let rss_empty_bytes = rss_of_an_empty_daemon(scenario, options, folder.path())?;
    let idle = idle_machine(numbers)?;
    let manifests = folder.path().join("manifests");
    fs::create_dir(&manifests)?;
    let mut rest = parts(load.pods.len());
    load.write(&manifests, "pods", rest.next().unwrap_or_default())?;
    let loops = Loops::start(conditions.busy_loops)?;
    let taken_before = Tcp::read()?.passive_opens;
    let started = now();
    let daemon = Daemon::start(&options.daemon, folder.path(), &manifests, &daemon_args(scenario, options))?;
    wait_until_scheduled(&daemon, load.probes().min(PROBES_AT_ONCE_MAX))?;
    let mut load_s = started.elapsed().as_secs_f64();
    for pods in rest {
        load_s += add(&daemon, &load, &manifests, pods)?;
    }
    say(&format!("{}: {} probes loaded in {load_s:.1} s", scenario.name(), load.probes()));
    sleep_until(now() + Duration::from_secs(numbers.warmup_s));
    let period = Duration::from_secs(numbers.period_s);
    let duration = Duration::from_secs(numbers.duration_s);
    let with_dropping = scenario == Scenario::TcpActive;
    // Every flip is to be noticed before the window ends, however many periods that may take.
    let noticed_later = period * (conditions.noticed_periods - 1);
    let flipping = duration.saturating_sub(noticed_later);
    let mut flips = Flips::plan(&load, &targets, flipping, period, with_dropping, options.seed)?;
    let window = window::measure(&daemon, &mut targets, numbers.duration_s, &mut flips)?;
    let busy_loops = (conditions.busy_loops > 0).then(|| loops.cores()).transpose()?;
    let busy_loops = busy_loops.map(|cores| BusyLoops { count: conditions.busy_loops, cores });
    drop(loops);
    std::thread::sleep(SETTLE);
    let log = Log::read(daemon.log())?;
    let truth = Truth::of(flips.done(), &log, period + noticed_later);
    let whole_life = WholeLife::of(&daemon, &manifests, taken_before, flips.dropping())?;
    drop(daemon);
    let beside = if options.smoke || options.alone {
        Beside::default()
    } else {
        let bench = beside::Bench { load: &load, numbers, options, folder: folder.path() };
        bench.run(&rates(&load, numbers, &window, options.is_passive(scenario)))
    };
    Ok(Report {
        scenario,
        numbers,
        probes: load.probes(),
        listeners: targets.listeners,
        is_passive: options.is_passive(scenario),
        passive_max_age_s: options.passive_max_age,
        shards: options.shards,
        load_s,
        idle,
        rss_empty_bytes,
        dropping_probes: flips.dropping() * PROBES_PER_POD,
        window,
        truth,
        whole_life,
        warnings: log.warnings,
        busy_loops,
        beside,
        complaints: Vec::new(),
    }
    .judged())
}

/// The pods that are there when the daemon starts, and those that come later.
fn parts(pods: usize) -> impl Iterator<Item = Range<usize>> {
    const FIRST: usize = PROBES_AT_ONCE_MAX / PROBES_PER_POD;
    const STEP: usize = PROBES_LATER / PROBES_PER_POD;
    let later = (FIRST..pods).step_by(STEP).map(move |first| first..pods.min(first + STEP));
    iter::once(0..pods.min(FIRST)).chain(later)
}

/// Adds pods to those that are there, not faster than their first attempts can be made. Seconds until they were scheduled.
fn add(daemon: &Daemon, load: &Load, manifests: &Path, pods: Range<usize>) -> anyhow::Result<f64> {
    let all = pods.end * PROBES_PER_POD;
    load.write(manifests, &format!("pods-{:06}", pods.start), pods)?;
    let came = now();
    wait_until_scheduled(daemon, all)?;
    let scheduled_s = came.elapsed().as_secs_f64();
    sleep_until(came + LATER_EVERY);
    Ok(scheduled_s)
}

/// Resident memory of the same daemon without pods.
fn rss_of_an_empty_daemon(scenario: Scenario, options: &Options, folder: &Path) -> anyhow::Result<u64> {
    let manifests = folder.join("no-manifests");
    fs::create_dir(&manifests)?;
    let daemon = Daemon::start(&options.daemon, folder, &manifests, &daemon_args(scenario, options))?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(kernel::process(daemon.pid())?.rss_bytes)
}

/// Cores that are busy while the targets wait and no daemon runs.
fn idle_machine(numbers: Numbers) -> anyhow::Result<f64> {
    let seconds = numbers.compared_s.min(3);
    let before = kernel::idle_s()?;
    let start = now();
    std::thread::sleep(Duration::from_secs(seconds));
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    Ok((cores - (kernel::idle_s()? - before) / start.elapsed().as_secs_f64()).max(0.0))
}

/// Real attempts per second by handler.
fn rates(load: &Load, numbers: Numbers, window: &Window, is_passive: bool) -> beside::Rates {
    let per_period = load.probes_by_handler().into_iter();
    per_period
        .map(|(handler, probes)| {
            let rate = probes as f64 / numbers.period_s as f64;
            let passive = window.counts.passive / window.seconds;
            let is_tcp = is_passive && handler == Handler::Tcp;
            (handler, if is_tcp { (rate - passive).max(1.0) } else { rate })
        })
        .collect()
}
