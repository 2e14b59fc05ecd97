//! What the daemon should have said of targets that were closed and opened, against what it said: its own log of verdict
//! changes, which it writes anyway.
//!
//! Every probe has `failureThreshold: 1`, so each change of a target is a change of a verdict. A liveness probe that
//! failed waits for a restart, which nobody makes under `--runtime none`: it makes no further attempt.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::flips::Flip;
use crate::load::{PROBES_PER_POD, TIMEOUT, pod_index};
use crate::quantile;
use crate::targets::Done;

/// How long the daemon may take from an outcome to its log, and, where an attempt fails at its deadline only, from that to
/// the outcome.
const MARGIN: Duration = Duration::from_millis(100);

/// Wrong verdicts that are shown.
const SHOWN_MAX: usize = 10;

/// `verdict changed`, by an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// CLOCK_REALTIME, nanoseconds.
    pub at_ns: u128,
    /// Index of the pod.
    pub pod: usize,
    /// Container and type.
    pub probe: (String, Probe),
    /// Else a success.
    pub is_failure: bool,
}

/// A probe's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// Liveness
    Liveness,
    /// Readiness
    Readiness,
}

/// What a daemon has logged.
#[derive(Default)]
pub struct Log {
    /// In its order.
    pub changes: Vec<Change>,
    /// Lines of level WARN or ERROR.
    pub warnings: Vec<String>,
}

impl Log {
    /// Reads a log of `--log-format json`.
    pub fn read(path: &Path) -> anyhow::Result<Log> {
        let mut log = Log::default();
        for line in BufReader::new(File::open(path).with_context(|| path.display().to_string())?).lines() {
            let line = line?;
            let Ok(value) = serde_json::from_str::<Value>(&line) else {
                // Standard error of a daemon that panics.
                log.warnings.push(line);
                continue;
            };
            if matches!(value["level"].as_str(), Some("WARN" | "ERROR")) {
                log.warnings.push(line);
            } else if value["fields"]["message"] == "verdict changed" {
                log.changes.extend(change(&value)?);
            }
        }
        Ok(log)
    }
}

/// `None` of what no attempt made.
fn change(line: &Value) -> anyhow::Result<Option<Change>> {
    let fields = &line["fields"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if fields["cause"] != "Threshold" {
        return Ok(None);
    }
    let at: jiff::Timestamp = text(&line["timestamp"]).parse().context("timestamp of a log line")?;
    let probe = if fields["probe_type"] == "Liveness" { Probe::Liveness } else { Probe::Readiness };
    Ok(Some(Change {
        at_ns: u128::try_from(at.as_nanosecond())?,
        pod: pod_index(&text(&fields["pod"]))?,
        probe: (text(&fields["container"]), probe),
        is_failure: fields["verdict"] == "Failure",
    }))
}

/// What came out.
#[derive(Debug, Default)]
pub struct Truth {
    /// Targets closed and opened again.
    pub flips_made: usize,
    /// Those that all of their probes noticed within period + timeout.
    pub flips_noticed: usize,
    /// From the return of the closing call to the verdict, per probe, ascending.
    pub noticed_ms: Vec<f64>,
    /// Each with its pod.
    pub wrong_verdicts: Vec<String>,
    /// Attempts beside the grid: whenever a pod's status changes, its readiness probes that have failed are tried at once
    /// (`UpdatePodStatus` of the kubelet's prober manager).
    pub triggered: u64,
    /// Attempts that probes of targets that fail late may not have made: while an attempt lasts a whole timeout, what
    /// triggers the next one and the due times that pass become one.
    pub may_be_missing: u64,
    /// When each liveness probe failed, which from then on waits for a restart.
    pub held_since_ns: Vec<u128>,
}

impl Truth {
    /// Compares.
    #[must_use]
    pub fn of(flips: &[Flip], log: &Log, period: Duration) -> Truth {
        let mut truth = Truth::default();
        let mut by_pod: HashMap<usize, Vec<&Change>> = HashMap::new();
        let flipped: HashMap<usize, &Flip> = flips.iter().map(|flip| (flip.pod, flip)).collect();
        for change in &log.changes {
            if change.is_failure && change.probe.1 == Probe::Liveness {
                truth.held_since_ns.push(change.at_ns);
            }
            if flipped.contains_key(&change.pod) {
                by_pod.entry(change.pod).or_default().push(change);
            } else if change.is_failure {
                truth.wrong(change, "its target was never closed");
            }
        }
        for flip in flips {
            let (Some(closed), Some(opened)) = (flip.closed, flip.opened) else { continue };
            let changes = by_pod.get(&flip.pod).map_or(&[][..], Vec::as_slice);
            truth.flips_made += 1;
            let triggered = triggered(changes);
            truth.triggered += triggered;
            if flip.fails_late {
                truth.may_be_missing += triggered + PROBES_PER_POD as u64;
            }
            truth.judge(flip, (closed, opened), changes, period);
        }
        truth.noticed_ms.sort_by(f64::total_cmp);
        truth
    }

    fn judge(&mut self, flip: &Flip, (closed, opened): (Done, Done), changes: &[&Change], period: Duration) {
        let margin = MARGIN.as_nanos();
        let within = (period + TIMEOUT).as_nanos() + if flip.fails_late { margin } else { 0 };
        let mut failures: BTreeMap<&(String, Probe), u128> = BTreeMap::new();
        let mut recovered: BTreeMap<&(String, Probe), u128> = BTreeMap::new();
        for change in changes {
            let at = change.at_ns;
            if change.is_failure && (at < closed.before_ns || at > opened.after_ns + TIMEOUT.as_nanos() + margin) {
                self.wrong(change, "its target was open");
            } else if !change.is_failure && at > closed.after_ns + margin && at < opened.before_ns {
                self.wrong(change, "its target was closed");
            } else if change.is_failure {
                failures.entry(&change.probe).or_insert(at);
            } else if at >= opened.before_ns {
                recovered.entry(&change.probe).or_insert(at);
            }
        }
        let mut in_time = 0;
        for ((container, probe), at) in &failures {
            let noticed_ms = at.saturating_sub(closed.after_ns) as f64 / 1e6;
            self.noticed_ms.push(noticed_ms);
            if *at <= closed.after_ns + within {
                in_time += 1;
            } else {
                self.wrong_verdicts.push(format!(
                    "pod {}, {container}, {probe:?}: Success of a target that is closed, until {noticed_ms:.1} ms after",
                    flip.pod
                ));
            }
        }
        self.flips_noticed += usize::from(in_time == PROBES_PER_POD);
        for _ in failures.len()..PROBES_PER_POD {
            self.wrong_verdicts.push(format!("pod {}: Success of a target that is closed, to the end", flip.pod));
        }
        let ready_again = recovered
            .iter()
            .filter(|((_, probe), at)| *probe == Probe::Readiness && **at <= opened.after_ns + within)
            .count();
        for _ in ready_again..PROBES_PER_POD / 2 {
            self.wrong_verdicts.push(format!("pod {}: Failure of a target that is open again", flip.pod));
        }
    }

    fn wrong(&mut self, change: &Change, why: &str) {
        let Change { pod, probe: (container, probe), is_failure, .. } = change;
        let verdict = if *is_failure { "Failure" } else { "Success" };
        self.wrong_verdicts.push(format!("pod {pod}, {container}, {probe:?}: {verdict}, but {why}"));
    }

    /// Due times until `end_ns` that liveness probes which wait for a restart do not have.
    #[must_use]
    pub fn held_attempts(&self, end_ns: u128, period: Duration) -> u64 {
        let held = self.held_since_ns.iter().map(|since| end_ns.saturating_sub(*since) / period.as_nanos());
        u64::try_from(held.sum::<u128>()).unwrap_or(u64::MAX)
    }

    /// A quantile of what noticing took, in milliseconds; `None` where nothing was noticed.
    #[must_use]
    pub fn noticed_ms(&self, quantile: f64) -> Option<f64> {
        quantile::quantile(&self.noticed_ms, quantile)
    }

    /// As the reports have it, with what else was counted in the window.
    #[must_use]
    pub fn json(&self, expected_attempts: f64, target_accepts: f64) -> Value {
        json!({
            "expected_attempts": expected_attempts.round() as u64,
            "target_accepts": target_accepts as u64,
            "flips_made": self.flips_made,
            "flips_noticed": self.flips_noticed,
            "noticed_ms": {"p50": self.noticed_ms(0.5), "p99": self.noticed_ms(0.99)},
            "wrong_verdicts": self.wrong_verdicts.len(),
        })
    }

    /// Why the scenario fails, if it does.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.flips_noticed < self.flips_made {
            complaints.push(format!(
                "{} of {} closed targets not noticed within period + timeout",
                self.flips_made - self.flips_noticed,
                self.flips_made
            ));
        }
        if !self.wrong_verdicts.is_empty() {
            complaints.push(format!("{} wrong verdict(s)", self.wrong_verdicts.len()));
            complaints.extend(self.wrong_verdicts.iter().take(SHOWN_MAX).cloned());
        }
        complaints
    }
}

/// For each change of a pod: its readiness probes that are not ready after it.
fn triggered(changes: &[&Change]) -> u64 {
    let mut failing: HashMap<&(String, Probe), bool> = HashMap::new();
    let mut triggered = 0;
    // A change to success is the first of its probe at the start, too; then nothing is failing yet.
    for change in changes {
        if change.probe.1 == Probe::Readiness {
            failing.insert(&change.probe, change.is_failure);
        }
        triggered += failing.values().filter(|failing| **failing).count() as u64;
    }
    triggered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::Order;

    const PERIOD: Duration = Duration::from_secs(1);
    const SECOND: u128 = 1_000_000_000;

    fn flip() -> Flip {
        let done = |at: u128| Some(Done { before_ns: at * SECOND, after_ns: at * SECOND });
        Flip { pod: 7, manner: Order::Close, fails_late: false, closed: done(10), opened: done(13) }
    }

    fn changes(at_ms: [u128; 6]) -> Log {
        let mut changes = Vec::new();
        let probes =
            [("app", Probe::Liveness), ("app", Probe::Readiness), ("b", Probe::Liveness), ("b", Probe::Readiness)];
        for (place, (container, probe)) in probes.into_iter().enumerate() {
            let at_ns = at_ms[place] * 1_000_000;
            changes.push(Change { at_ns, pod: 7, probe: (container.to_owned(), probe), is_failure: true });
        }
        for (place, container) in ["app", "b"].into_iter().enumerate() {
            let at_ns = at_ms[4 + place] * 1_000_000;
            changes.push(Change { at_ns, pod: 7, probe: (container.to_owned(), Probe::Readiness), is_failure: false });
        }
        Log { changes, warnings: Vec::new() }
    }

    #[test]
    fn a_flip_that_all_probes_notice_in_time_is_no_complaint() {
        let truth = Truth::of(&[flip()], &changes([10_100, 10_900, 10_300, 11_900, 13_000, 14_000]), PERIOD);
        assert_eq!(truth.complaints(), [""; 0]);
        assert_eq!((truth.flips_made, truth.flips_noticed, truth.noticed_ms(1.0)), (1, 1, Some(1_900.0)));
        // The four failures find 0, 1, 1, 2 failed readiness probes, the successes 1 and 0.
        assert_eq!(truth.triggered, 5);
        // Failed at 10.1 and 10.3: no attempts at 11.1 to 20.1 and 11.3 to 19.3.
        assert_eq!(truth.held_attempts(20 * SECOND + SECOND / 5, PERIOD), 10 + 9);
    }

    #[test]
    fn attempts_that_last_a_timeout_take_the_place_of_those_that_came_due_meanwhile() {
        let log = changes([11_000, 11_900, 11_300, 11_700, 13_000, 14_000]);
        assert_eq!(Truth::of(&[flip()], &log, PERIOD).may_be_missing, 0);
        let late = Truth::of(&[Flip { fails_late: true, ..flip() }], &log, PERIOD);
        assert_eq!(late.may_be_missing, late.triggered + 4);
    }

    #[test]
    fn a_probe_that_notices_late_is_a_wrong_verdict() {
        let truth = Truth::of(&[flip()], &changes([10_100, 10_900, 12_100, 11_900, 13_000, 14_000]), PERIOD);
        assert_eq!((truth.flips_noticed, truth.wrong_verdicts.len()), (0, 1));
    }

    #[test]
    fn a_failure_before_the_target_closed_is_a_wrong_verdict() {
        let truth = Truth::of(&[flip()], &changes([9_900, 10_900, 10_300, 11_900, 13_000, 14_000]), PERIOD);
        assert!(!truth.complaints().is_empty());
    }

    #[test]
    fn a_success_of_a_closed_target_is_a_wrong_verdict() {
        let truth = Truth::of(&[flip()], &changes([10_100, 10_900, 10_300, 11_900, 12_500, 14_000]), PERIOD);
        assert!(truth.wrong_verdicts.iter().any(|wrong| wrong.contains("its target was closed")));
    }

    #[test]
    fn a_target_that_stays_failed_after_it_opened_is_a_wrong_verdict() {
        let truth = Truth::of(&[flip()], &changes([10_100, 10_900, 10_300, 11_900, 13_000, 15_100]), PERIOD);
        assert_eq!(truth.wrong_verdicts, ["pod 7: Failure of a target that is open again"]);
    }

    #[test]
    fn a_failure_of_a_target_that_was_never_closed_is_a_wrong_verdict() {
        let truth = Truth::of(&[], &changes([10_100, 10_900, 10_300, 11_900, 13_000, 14_000]), PERIOD);
        assert_eq!(truth.wrong_verdicts.len(), 4);
    }
}
