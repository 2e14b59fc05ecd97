//! What a storm must show, and its figures.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::form::Seen;
use crate::due;
use crate::latency::{Histograms, Quantiles};
use crate::load::{CONTAINERS, Load, PROBES_PER_POD, TIMEOUT};
use crate::quantile;
use crate::report::differs;
use crate::scenario::Numbers;
use crate::scenarios::life::WholeLife;
use crate::targets::Order;
use crate::truth::{Change, Probe, Truth};
use crate::window::{Counts, Edge};

/// One period after the death, attempts are late by less than this again (p99).
const LATENESS_MAX: Duration = Duration::from_millis(10);

/// Where attempts wait for their turn for longer than this, they are late by it, and more than one reason for an attempt comes together.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Steps in which the queue of attempts that wait is followed through a period.
const STEPS: u32 = 1_000;

/// One storm's verdict and figures.
pub(super) struct Judged {
    /// Why it failed.
    pub complaints: Vec<String>,
    /// Its figures, with the report's names.
    pub figures: Value,
    /// What the daemon warned of.
    pub warnings: Vec<String>,
}

/// When the first failing attempts came, in milliseconds after the death, ascending.
struct Noticed {
    /// Of each target's first probe.
    targets: Vec<f64>,
    /// Of each probe.
    probes: Vec<f64>,
    /// Of each readiness probe, its first success after the return.
    recovered: Vec<f64>,
}

impl Judged {
    /// Judges; `is_timed`: lateness too.
    pub(super) fn of(mut seen: Seen, load: &Load, numbers: Numbers, is_timed: bool) -> Judged {
        let period = Duration::from_secs(numbers.period_s);
        let dropping = seen.flips.iter().filter(|flip| flip.manner == Order::Drop).count() * PROBES_PER_POD;
        let wait = waits(dropping, seen.in_flight_max, period);
        let is_queueing = wait > WAIT_MIN;
        let truth = Truth::of(&seen.flips, &seen.log, period + wait);
        let by_pod = changes_by_pod(&seen);
        let noticed = Noticed::of(&seen, &by_pod);
        let counts = seen.end.counts.since(&seen.start.counts);
        let attempts = counts.successful + counts.failed + counts.unknown;
        let window_ns = seen.start.wall_ns..=seen.end.wall_ns;
        let due = seen.flips.iter().map(|flip| {
            let changes = by_pod.get(&flip.pod).map_or(&[][..], Vec::as_slice);
            due::attempts(flip, changes, &window_ns, period)
        });
        let expected = due.sum::<u64>() as f64;
        let seconds = (seen.end.wall_ns - seen.start.wall_ns) as f64 / 1e9;
        let between = |before: Option<&Edge>, after: Option<&Edge>| lateness(before?, after?);
        let after = between(seen.dead.get(1), seen.dead.get(2));

        let mut complaints = Vec::new();
        // What is tried again at a change of its pod while it waits for its turn is tried once for both.
        if !is_queueing || attempts > expected {
            complaints.extend(differs("attempts", attempts, expected, seconds));
        }
        let WholeLife { taken, connected } = seen.whole_life;
        // The kernel has made some after their attempt's deadline.
        let late_connects = (taken - connected).clamp(0.0, seen.late_syns as f64);
        complaints.extend(WholeLife { taken: taken - late_connects, connected }.complaint(seconds));
        let targets_late = late(&noticed.targets, period + TIMEOUT + wait, seen.flips.len());
        if targets_late > 0 {
            let within = period + TIMEOUT + wait;
            complaints.push(format!("{targets_late} targets without a failing attempt within {within:?}"));
        }
        complaints.extend(restarts(&counts, &by_pod, load.pods.len()));
        for (what, count) in [("missed", counts.missed), ("local", counts.local)] {
            if count > 0.0 {
                complaints.push(format!("{count} attempts {what}"));
            }
        }
        if is_timed && !is_queueing && after.is_none_or(|after| u128::from(after.p99) > LATENESS_MAX.as_micros()) {
            complaints.push(format!("lateness one period after the death: {after:?}, want p99 <= {LATENESS_MAX:?}"));
        }
        if seen.in_flight_max as u64 >= seen.descriptors_max || seen.fds_max as u64 >= seen.descriptors_max {
            complaints.push(format!(
                "{} attempts in flight at most, {} descriptors open, of {}",
                seen.in_flight_max, seen.fds_max, seen.descriptors_max
            ));
        }
        complaints.extend(truth.complaints());
        complaints.extend(seen.watched.iter().flat_map(|watched| watched.complaints.clone()));

        let attempts_cpu_us = seen.window.daemon * seconds / attempts * 1e6;
        let died = seen.flips.iter().filter_map(|flip| flip.closed);
        let (first, last) = (died.clone().map(|done| done.before_ns).min(), died.map(|done| done.after_ns).max());
        let died_within_ms = last.zip(first).map(|(last, first)| (last - first) as f64 / 1e6);
        let detection = period + TIMEOUT + wait;
        let figures = json!({
            "duration_s": seconds,
            "load_s": seen.load_s,
            "targets": seen.flips.len(),
            "died_within_ms": died_within_ms,
            "attempts_expected": expected as u64,
            "attempts": attempts as u64,
            "missed": counts.missed as u64,
            "passive": counts.passive as u64,
            "successes": counts.successful as u64,
            "failures": counts.failed as u64,
            "local": counts.local as u64,
            "rescheduled": counts.rescheduled as u64,
            "connections_opened": seen.end.tcp.active_opens - seen.start.tcp.active_opens,
            "late_connects": late_connects,
            "in_flight_max": seen.in_flight_max,
            "descriptors_max": seen.descriptors_max,
            "fds_max": seen.fds_max,
            "syn_sent_max": seen.syn_sent_max,
            "detection_ms": detection.as_millis() as u64,
            "targets_noticed": seen.flips.len() - targets_late,
            "target_noticed_ms": quantile::json(&noticed.targets),
            "noticed_ms": quantile::json(&noticed.probes),
            "recovered_ms": quantile::json(&noticed.recovered),
            "restarts_asked": counts.restarts_asked.map(|asked| asked as u64),
            "wrong_verdicts": truth.wrong_verdicts.len(),
            "lateness_before_us": between(Some(&seen.start), seen.dead.first()),
            "lateness_storm_us": between(seen.dead.first(), seen.dead.get(1)),
            "lateness_us": after,
            "lateness_all_us": between(Some(&seen.start), Some(&seen.end)),
            "watchers": seen.watched.as_ref().map(|watched| &watched.figures),
            "daemon_cores_storm": seen.storm.daemon,
            "daemon_cores": seen.window.daemon,
            "threads_cores_storm": seen.storm.threads,
            "cpu_us_per_attempt": attempts_cpu_us,
            "rss_bytes": seen.rss_bytes,
            "time_wait_delta": seen.end.time_wait as i64 - seen.start.time_wait as i64,
        });
        Judged { complaints, figures, warnings: std::mem::take(&mut seen.log.warnings) }
    }
}

impl Noticed {
    fn of(seen: &Seen, by_pod: &HashMap<usize, Vec<&Change>>) -> Noticed {
        let mut noticed = Noticed { targets: Vec::new(), probes: Vec::new(), recovered: Vec::new() };
        for flip in &seen.flips {
            let (Some(closed), Some(opened)) = (flip.closed, flip.opened) else { continue };
            let changes = by_pod.get(&flip.pod).map_or(&[][..], Vec::as_slice);
            let mut known = Vec::with_capacity(PROBES_PER_POD);
            for change in changes {
                let key = (&change.probe, change.is_failure);
                if known.contains(&key) {
                    continue;
                }
                let since = |ns: u128| change.at_ns.saturating_sub(ns) as f64 / 1e6;
                // A first success may be in the window, too.
                if change.is_failure && !known.iter().any(|(_, is_failure)| *is_failure) {
                    noticed.targets.push(since(closed.after_ns));
                }
                if change.is_failure {
                    noticed.probes.push(since(closed.after_ns));
                } else if change.probe.1 == Probe::Readiness && change.at_ns >= opened.before_ns {
                    noticed.recovered.push(since(opened.after_ns));
                }
                known.push(key);
            }
        }
        for all in [&mut noticed.targets, &mut noticed.probes, &mut noticed.recovered] {
            all.sort_by(f64::total_cmp);
        }
        noticed
    }
}

fn changes_by_pod(seen: &Seen) -> HashMap<usize, Vec<&Change>> {
    let mut by_pod: HashMap<usize, Vec<&Change>> = HashMap::new();
    for change in seen.log.changes.iter().filter(|change| change.at_ns >= seen.start.wall_ns) {
        by_pod.entry(change.pod).or_default().push(change);
    }
    by_pod
}

/// How many of `all` were not noticed within `most`.
fn late(noticed_ms: &[f64], most: Duration, all: usize) -> usize {
    let most_ms = most.as_secs_f64() * 1e3;
    all - noticed_ms.iter().filter(|ms| **ms <= most_ms).count()
}

/// Each liveness probe fails once, and asks for one restart.
fn restarts(counts: &Counts, by_pod: &HashMap<usize, Vec<&Change>>, pods: usize) -> Vec<String> {
    let mut complaints = Vec::new();
    let wanted = pods * CONTAINERS;
    let mut failed: HashMap<(usize, &str), usize> = HashMap::new();
    let liveness = |change: &&&Change| change.is_failure && change.probe.1 == Probe::Liveness;
    for change in by_pod.values().flatten().filter(liveness) {
        *failed.entry((change.pod, change.probe.0.as_str())).or_default() += 1;
    }
    let once = failed.values().filter(|times| **times == 1).count();
    if once != wanted {
        complaints.push(format!("{once} of {wanted} liveness probes failed exactly once"));
    }
    let asked = counts.restarts_asked.unwrap_or_default();
    if asked as usize != wanted {
        complaints.push(format!("{asked} restarts asked for by {wanted} liveness probes"));
    }
    complaints
}

/// How long the last of the first failing attempts waits for its turn, where more attempts run into their deadline at once than
/// may be in flight: the longest that the queue gets in a period after the death.
///
/// Probes are due evenly over the period. With a part x of it over, a part x of a pod's probes has failed; each failure is a
/// change of the pod, at which those of its readiness probes that are failing are tried again: of k failed probes half.
fn waits(dropping_probes: usize, in_flight_max: usize, period: Duration) -> Duration {
    let (probes, per_pod) = (dropping_probes as f64, PROBES_PER_POD as f64);
    let capacity = in_flight_max as f64 / TIMEOUT.as_secs_f64();
    // Of a pod until x: its probes, and for each of its failures one half for the failed probe itself, and for each other one
    // that has failed before.
    let demanded = |x: f64| probes * (x + x / 2.0 + (per_pod - 1.0) * x * x / 4.0);
    let served_in_step = capacity * period.as_secs_f64() / f64::from(STEPS);
    let (mut queued, mut longest) = (0.0_f64, 0.0_f64);
    for step in 1..=STEPS {
        let part = |step: u32| f64::from(step) / f64::from(STEPS);
        queued = (queued + demanded(part(step)) - demanded(part(step - 1)) - served_in_step).max(0.0);
        longest = longest.max(queued);
    }
    Duration::from_secs_f64(longest / capacity.max(1.0))
}

fn lateness(before: &Edge, after: &Edge) -> Option<Quantiles> {
    let (before, after): (&Histograms, &Histograms) = (before.histograms.as_ref()?, after.histograms.as_ref()?);
    Quantiles::of(&after.since(before).all_lateness())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    #[test]
    fn attempts_wait_where_more_run_into_their_deadline_than_may_be_in_flight() {
        // 50,000 probes at 10 s, with the tries at changes of their pods: 7,500 a second at first, 15,000 at the period's end.
        assert_eq!(waits(50_000, 15_000, PERIOD), Duration::ZERO);
        // 750 a second per second too many from the moment on at which 12,000 are reached.
        let wait = waits(50_000, 12_000, PERIOD).as_secs_f64();
        assert!((wait - 750.0 * 4.0 * 4.0 / 2.0 / 12_000.0).abs() < 0.001, "{wait}");
        assert!(waits(50_000, 4_096, PERIOD) > PERIOD);
        assert_eq!(waits(0, 1, PERIOD), Duration::ZERO);
    }

    #[test]
    fn a_target_without_a_failing_attempt_in_time_is_late() {
        assert_eq!(late(&[5.0, 11_000.0, 11_001.0], PERIOD + TIMEOUT, 4), 2);
    }
}
