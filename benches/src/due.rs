//! Attempts that the probes of one target make in a window in which it dies and returns: what their schedule says, from when
//! the verdicts of their pod changed.
//!
//! A probe is due once a period. A liveness probe that has failed waits for a restart. Whenever a verdict of the pod changes,
//! its readiness probes that are failing are tried at once (`UpdatePodStatus` of the kubelet's prober manager), or, where an
//! attempt is being made, right after it; their next due time is one period after that.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::flips::Flip;
use crate::load::{PROBES_PER_POD, TIMEOUT};
use crate::targets::Order;
use crate::truth::{Change, Probe};

/// Of a pod, with its changes in the window in their order. `window_ns`: CLOCK_REALTIME; an attempt counts when it ends.
#[must_use]
pub fn attempts(flip: &Flip, changes: &[&Change], window_ns: &RangeInclusive<u128>, period: Duration) -> u64 {
    let period_ns = period.as_nanos();
    let mut failures: Vec<&Change> = Vec::new();
    for change in changes.iter().filter(|change| change.is_failure) {
        if failures.iter().all(|known| known.probe != change.probe) {
            failures.push(change);
        }
    }
    // One that never failed: its schedule goes on, its phase is not known.
    let unknown = (PROBES_PER_POD - failures.len().min(PROBES_PER_POD)) as u128;
    let steady = unknown * (window_ns.end() - window_ns.start()) / period_ns;
    let of_failed = failures.into_iter().map(|failure| {
        let began = failure.at_ns - if flip.manner == Order::Drop { TIMEOUT.as_nanos() } else { 0 };
        let before = began.checked_sub(*window_ns.start()).map_or(1, |since| since / period_ns + 1);
        let after = match failure.probe.1 {
            Probe::Liveness => 0,
            Probe::Readiness => after_failure(flip, failure, began, changes, *window_ns.end(), period_ns),
        };
        u64::try_from(before).unwrap_or(u64::MAX) + after
    });
    u64::try_from(steady).unwrap_or(u64::MAX) + of_failed.sum::<u64>()
}

/// Those of a readiness probe after its first failing attempt, which began at `began_ns`.
fn after_failure(
    flip: &Flip,
    failure: &Change,
    began_ns: u128,
    changes: &[&Change],
    end_ns: u128,
    period_ns: u128,
) -> u64 {
    let mut is_failing = false;
    let mut triggers = changes.iter().filter_map(|change| {
        if change.probe == failure.probe {
            is_failing = change.is_failure;
        }
        is_failing.then_some(change.at_ns)
    });
    let mut trigger = triggers.next();
    let (mut due_ns, mut busy_until_ns) = (began_ns + period_ns, failure.at_ns);
    let (mut has_tick, mut has_trigger) = (false, false);
    let mut count = 0;
    loop {
        let waiting = (has_tick || has_trigger).then_some(busy_until_ns);
        let Some(at_ns) = [Some(due_ns), trigger, waiting].into_iter().flatten().min() else { return count };
        if at_ns > end_ns {
            return count;
        }
        if trigger == Some(at_ns) {
            has_trigger = true;
            trigger = triggers.next();
        }
        if due_ns == at_ns {
            has_tick = true;
            due_ns += period_ns;
        }
        if at_ns >= busy_until_ns && (has_tick || has_trigger) {
            if has_trigger {
                due_ns = at_ns + period_ns;
            }
            (has_tick, has_trigger) = (false, false);
            busy_until_ns = at_ns + lasts_ns(flip, at_ns);
            count += u64::from(busy_until_ns <= end_ns);
        }
    }
}

/// How long an attempt takes that begins then: a connect that is refused, or taken, nothing.
fn lasts_ns(flip: &Flip, at_ns: u128) -> u128 {
    let (Some(closed), Some(opened)) = (flip.closed, flip.opened) else { return 0 };
    let drops = flip.manner == Order::Drop && (closed.before_ns..opened.before_ns).contains(&at_ns);
    if drops { TIMEOUT.as_nanos() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::Done;

    const PERIOD: Duration = Duration::from_secs(10);
    const SECOND: u128 = 1_000_000_000;

    fn flip(manner: Order) -> Flip {
        let done = |at: u128| Some(Done { before_ns: at * SECOND, after_ns: at * SECOND });
        Flip { pod: 0, manner, fails_late: manner == Order::Drop, closed: done(10), opened: done(40) }
    }

    fn change(at_ms: u128, container: &str, probe: Probe, is_failure: bool) -> Change {
        Change { at_ns: at_ms * 1_000_000, pod: 0, probe: (container.to_owned(), probe), is_failure }
    }

    fn expected(manner: Order, changes: &[Change]) -> u64 {
        let changes: Vec<&Change> = changes.iter().collect();
        attempts(&flip(manner), &changes, &(0..=55 * SECOND), PERIOD)
    }

    #[test]
    fn a_target_that_refuses_is_asked_once_a_period_and_at_each_change_of_its_pod() {
        let changes = [
            change(11_000, "a", Probe::Liveness, true),
            change(13_000, "a", Probe::Readiness, true),
            change(15_000, "b", Probe::Liveness, true),
            change(18_000, "b", Probe::Readiness, true),
            change(48_001, "a", Probe::Readiness, false),
            change(48_002, "b", Probe::Readiness, false),
        ];
        // Liveness: 1, 11 and 5, 15. Readiness a: 3, 13, 13, 15, 18, 28, 38, 48. Readiness b: 8, 18, 18, 28, 38, 48, 48.
        assert_eq!(expected(Order::Close, &changes), 2 + 2 + 8 + 7);
    }

    #[test]
    fn a_change_during_an_attempt_leads_to_one_more_after_it() {
        let changes = [
            change(12_000, "a", Probe::Readiness, true),
            change(12_000, "a", Probe::Liveness, true),
            change(12_000, "b", Probe::Liveness, true),
            change(14_000, "b", Probe::Readiness, true),
            change(44_001, "b", Probe::Readiness, false),
            change(44_002, "a", Probe::Readiness, false),
        ];
        // Attempts take a second until 40. Readiness a: 1, 11 to 12, 12 to 13 (two more triggers), 13 to 14, 14 to 15, 24, 34,
        // 44 and at the change then, which sets its grid: 54. Readiness b: 3, 13 to 14, 14 to 15, 24, 34, 44, 54.
        assert_eq!(expected(Order::Drop, &changes), 2 + 2 + 10 + 7);
    }
}
