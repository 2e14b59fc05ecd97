//! The steady window: everything is read at its two edges, little in between, so that watching costs nobody anything.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::daemon::Daemon;
use crate::flips::Flips;
use crate::kernel::{self, Cpu, Tcp};
use crate::latency::Histograms;
use crate::listeners::wall_ns;
use crate::targets::Targets;

/// Before the end, what was spent is read, so that the counts are read at the end itself.
const SPENT_BEFORE_END: Duration = Duration::from_millis(50);

/// Seconds between two looks at sockets and descriptors.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the daemon has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Attempts with a result, by result.
    pub successful: f64,
    /// See `successful`.
    pub failed: f64,
    /// See `successful`.
    pub unknown: f64,
    /// Due times without an attempt.
    pub missed: f64,
    /// Attempts that trouble of its own spoiled.
    pub local: f64,
    /// Attempts that waited for a place.
    pub rescheduled: f64,
    /// Answers from kernel state.
    pub passive: f64,
    /// Successes for which a connection was made.
    pub connected: f64,
    /// Restarts that liveness and startup probes asked for; `None` where this daemon does not count them.
    pub restarts_asked: Option<f64>,
    /// Gauge: probes.
    pub workers: f64,
}

impl Counts {
    /// Of the page `/metrics`.
    #[must_use]
    pub fn of(page: &str) -> Counts {
        let mut counts = Counts::default();
        for line in page.lines().filter(|line| line.starts_with("prob")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "prober_probe_total" if labels.contains("result=\"successful\"") => counts.successful += value,
                "prober_probe_total" if labels.contains("result=\"failed\"") => counts.failed += value,
                "prober_probe_total" => counts.unknown += value,
                "probe_engine_attempts_missed_total" => counts.missed += value,
                "probe_engine_attempts_local_total" => counts.local += value,
                "probe_engine_attempts_rescheduled_total" => counts.rescheduled += value,
                "probe_engine_passive_answers_total" => counts.passive += value,
                "probe_engine_restarts_asked_total" => *counts.restarts_asked.get_or_insert(0.0) += value,
                "probe_engine_shard_workers" => counts.workers += value,
                "probe_engine_attempt_duration_seconds_count" => {
                    let succeeded = ["outcome=\"success\"", "outcome=\"warning\""];
                    let is_exec = labels.contains("handler=\"exec\"");
                    if !is_exec && succeeded.iter().any(|outcome| labels.contains(outcome)) {
                        counts.connected += value;
                    }
                }
                _ => {}
            }
        }
        counts
    }

    /// What was added since an earlier reading; gauges as they are.
    #[must_use]
    pub fn since(&self, before: &Counts) -> Counts {
        Counts {
            successful: self.successful - before.successful,
            failed: self.failed - before.failed,
            unknown: self.unknown - before.unknown,
            missed: self.missed - before.missed,
            local: self.local - before.local,
            rescheduled: self.rescheduled - before.rescheduled,
            passive: self.passive - before.passive,
            connected: self.connected - before.connected,
            restarts_asked: self.restarts_asked.map(|asked| asked - before.restarts_asked.unwrap_or(0.0)),
            workers: self.workers,
        }
    }
}

/// What was spent until a moment.
pub struct Spent {
    at: Instant,
    /// By the daemon.
    daemon: Cpu,
    /// By the target processes.
    targets_ns: Vec<Cpu>,
    /// By this process and what it starts.
    own: Cpu,
    idle_s: f64,
}

impl Spent {
    /// Reads it all.
    pub fn read(daemon: u32, targets: &Targets) -> anyhow::Result<Spent> {
        Ok(Spent {
            at: now(),
            daemon: Cpu::read(daemon)?,
            targets_ns: targets.pids().into_iter().map(Cpu::read).collect::<Result<_, _>>()?,
            own: Cpu::read(std::process::id())?,
            idle_s: kernel::idle_s()?,
        })
    }
}

/// One edge of the window.
pub struct Edge {
    /// CLOCK_REALTIME.
    pub wall_ns: u128,
    /// Connections that reading pages has made.
    pub pages: u64,
    /// The kernel's counts.
    pub tcp: Tcp,
    /// Sockets in TIME_WAIT.
    pub time_wait: u64,
    /// The daemon's counts.
    pub counts: Counts,
    /// What it has recorded; `None` where it has no such page.
    pub histograms: Option<Histograms>,
}

impl Edge {
    /// Reads it all.
    pub fn read(daemon: &Daemon) -> anyhow::Result<Edge> {
        // The kernel's counts first: reading a page makes a connection.
        let (pages, tcp, time_wait) = (daemon.pages(), Tcp::read()?, kernel::time_wait()?);
        let page = daemon.page("/metrics")?;
        // Attempts are counted as they end, and their series are the last of a page that takes a while to make.
        let wall_ns = wall_ns();
        let counts = Counts::of(&page);
        let histograms = match daemon.page("/api/v1/latency") {
            Ok(page) => Some(Histograms::parse(&page)?),
            Err(error) if error.to_string().contains("404") => None,
            Err(error) => return Err(error),
        };
        Ok(Edge { wall_ns, pages, tcp, time_wait, counts, histograms })
    }
}

/// What a window showed.
pub struct Window {
    /// Between the readings of the counts.
    pub seconds: f64,
    /// CLOCK_REALTIME at its end.
    pub end_ns: u128,
    /// What the daemon counted.
    pub counts: Counts,
    /// What the daemon recorded; `None` where it has no such page.
    pub histograms: Option<Histograms>,
    /// Connects that all of the namespace made, ours apart.
    pub active_opens: f64,
    /// Connections that the targets' kernel took, ours apart.
    pub passive_opens: f64,
    /// More, or fewer, sockets in TIME_WAIT than at its start.
    pub time_wait_delta: i64,
    /// Sockets closed without TIME_WAIT because there were too many.
    pub time_wait_overflow: u64,
    /// Connections that the targets had no place for.
    pub listen_overflows: u64,
    /// Cost, per second.
    pub rates: Rates,
    /// The daemon's resident memory at its end.
    pub rss_bytes: u64,
    /// Most descriptors at a look.
    pub fds_max: usize,
    /// Most sockets in SYN_SENT at a look.
    pub syn_sent_max: usize,
}

/// What was spent per second.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Seconds of CPU per second: by the daemon, its children apart.
    pub daemon: f64,
    /// By its children.
    pub children: f64,
    /// By the busiest target process.
    pub busiest_target: f64,
    /// By all target processes.
    pub targets: f64,
    /// By this process and what it starts.
    pub own: f64,
    /// By everybody, interrupts included.
    pub machine: f64,
    /// By the daemon's threads, by name.
    pub threads: std::collections::BTreeMap<String, f64>,
}

impl Rates {
    /// Between two readings.
    #[must_use]
    pub fn between(before: &Spent, after: &Spent) -> Rates {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let rate = |ns: u64| ns as f64 / 1e9 / seconds;
        let targets: Vec<f64> =
            after.targets_ns.iter().zip(&before.targets_ns).map(|(after, before)| rate(after.since(before))).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let children = |cpu: &Cpu, before: &Cpu| rate(cpu.children_ns.saturating_sub(before.children_ns));
        Rates {
            daemon: rate(after.daemon.since(&before.daemon)),
            children: children(&after.daemon, &before.daemon),
            busiest_target: targets.iter().copied().fold(0.0, f64::max),
            targets: targets.iter().sum(),
            own: rate(after.own.since(&before.own)) + children(&after.own, &before.own),
            machine: (cores - (after.idle_s - before.idle_s) / seconds).max(0.0),
            threads: after.daemon.by_name(&before.daemon).into_iter().map(|(name, ns)| (name, rate(ns))).collect(),
        }
    }
}

/// Measures: `seconds` from now, which is to be a multiple of the period, so that every probe has the same number of due
/// times in it, and of a second, in which shards hand on what they have counted.
pub fn measure(daemon: &Daemon, targets: &mut Targets, seconds: u64, flips: &mut Flips) -> anyhow::Result<Window> {
    let start = now();
    let before = Edge::read(daemon)?;
    let spent_before = Spent::read(daemon.pid(), targets)?;
    let end = start + Duration::from_secs(seconds);
    let last = end - SPENT_BEFORE_END;
    let (mut fds_max, mut syn_sent_max) = (0, 0);
    let mut look_at = start + LOOK_EVERY.min(Duration::from_secs(seconds) / 2);
    loop {
        let flip_at = flips.next_at().map_or(last, |at| start + at);
        let next = flip_at.min(look_at).min(last);
        std::thread::sleep(next.saturating_duration_since(now()));
        if next == last {
            break;
        }
        if next == flip_at {
            flips.step(targets)?;
        } else {
            fds_max = fds_max.max(kernel::process(daemon.pid())?.fds);
            syn_sent_max = syn_sent_max.max(kernel::syn_sent()?);
            look_at += LOOK_EVERY;
        }
    }
    let spent_after = Spent::read(daemon.pid(), targets)?;
    std::thread::sleep(end.saturating_duration_since(now()));
    let after = Edge::read(daemon)?;
    let process = kernel::process(daemon.pid()).context("the daemon has ended")?;
    let own_opens = (after.pages - before.pages) as f64 + flips.dropping() as f64;
    Ok(Window {
        seconds: (after.wall_ns - before.wall_ns) as f64 / 1e9,
        end_ns: after.wall_ns,
        active_opens: (after.tcp.active_opens - before.tcp.active_opens) as f64 - own_opens,
        passive_opens: (after.tcp.passive_opens - before.tcp.passive_opens) as f64 - own_opens,
        time_wait_delta: after.time_wait as i64 - before.time_wait as i64,
        time_wait_overflow: after.tcp.time_wait_overflow - before.tcp.time_wait_overflow,
        listen_overflows: after.tcp.listen_overflows - before.tcp.listen_overflows,
        counts: after.counts.since(&before.counts),
        histograms: after
            .histograms
            .as_ref()
            .zip(before.histograms.as_ref())
            .map(|(after, before)| after.since(before)),
        rates: Rates::between(&spent_before, &spent_after),
        rss_bytes: process.rss_bytes,
        fds_max: fds_max.max(process.fds),
        syn_sent_max,
    })
}

/// The scenario's own clock.
#[must_use]
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "not engine code: the scenario's own clock")]
    let now = Instant::now();
    now
}
