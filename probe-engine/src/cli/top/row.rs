//! A pod as the table shows it, and the orders in which it is shown.

use std::cmp::Ordering;

use jiff::Timestamp;

use crate::api::convert::timestamp_from;
use crate::api::v1;
use crate::cli::{escape, pods};

/// What is kept of a pod, some 400 bytes. Texts are escaped.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) uid: String,
    /// As the API takes them back.
    pub(super) raw: (String, String),
    pub(super) namespace: String,
    pub(super) name: String,
    /// What a search looks in, in lower case.
    searched: String,
    pub(super) ready_count: usize,
    pub(super) containers_count: usize,
    pub(super) status: String,
    pub(super) restarts: u32,
    pub(super) last_restart: Option<Timestamp>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) probes_count: usize,
    /// Probes whose verdict is Failure.
    pub(super) failing_count: usize,
    /// Probes whose newest attempt did not end well.
    pub(super) unwell_count: usize,
    /// Of the probe that is worst off.
    pub(super) last: v1::OutcomeKind,
    /// Of the probe that is worst off.
    pub(super) last_at: Option<Timestamp>,
    /// The longest of its probes' newest attempts; 0 = none was made, or all were passive.
    pub(super) latency_ns: u64,
}

impl Row {
    pub(super) fn of(pod: &v1::Pod) -> Self {
        let summary = pods::summary(pod);
        let mut row = Self {
            uid: pod.uid.clone(),
            raw: (pod.namespace.clone(), pod.name.clone()),
            namespace: escape::line(&pod.namespace).into_owned(),
            name: escape::line(&pod.name).into_owned(),
            ready_count: summary.ready_count,
            containers_count: summary.containers_count,
            status: escape::line(&summary.status).into_owned(),
            restarts: summary.restarts,
            last_restart: summary.last_restart,
            created_at: timestamp_from(pod.created_at.as_ref()),
            ..Self::default()
        };
        row.searched = format!("{}/{} {}", row.namespace, row.name, row.status).to_lowercase();
        let mut worst = 0;
        for probe in pod.containers.iter().flat_map(|container| &container.probes) {
            let is_failing = probe.verdict() == v1::Verdict::Failure;
            let is_unwell = is_unwell(probe.last());
            row.probes_count += 1;
            row.failing_count += usize::from(is_failing);
            row.unwell_count += usize::from(is_unwell);
            row.latency_ns = row.latency_ns.max(probe.last_duration_ns);
            let last_at = timestamp_from(probe.last_at.as_ref());
            let rank = 1 + usize::from(is_unwell) + 2 * usize::from(is_failing);
            // Of those that are equally well the newest.
            if probe.last() != v1::OutcomeKind::Unspecified && (rank, last_at) > (worst, row.last_at) {
                (worst, row.last, row.last_at) = (rank, probe.last(), last_at);
            }
        }
        row
    }

    /// A verdict is Failure, an attempt has not ended well, or the pod is not what it should be.
    pub(super) fn is_failing(&self) -> bool {
        self.badness() > 0
    }

    pub(super) fn holds(&self, search: &str) -> bool {
        self.searched.contains(search)
    }

    fn badness(&self) -> u8 {
        let is_bad = crate::cli::style::status(&self.status) == crate::cli::style::Tone::Bad;
        match (self.failing_count > 0, is_bad, self.unwell_count > 0) {
            (true, _, _) => 3,
            (_, true, _) => 2,
            (_, _, true) => 1,
            _ => 0,
        }
    }
}

/// The newest attempt did not end well.
pub(super) const fn is_unwell(last: v1::OutcomeKind) -> bool {
    matches!(last, v1::OutcomeKind::Failure | v1::OutcomeKind::Error | v1::OutcomeKind::Local)
}

/// What the table is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// Failing first.
    #[default]
    Failing,
    Name,
    Ready,
    Status,
    Restarts,
    Latency,
    Age,
}

impl Sort {
    pub(super) const ALL: [Sort; 7] =
        [Sort::Failing, Sort::Name, Sort::Ready, Sort::Status, Sort::Restarts, Sort::Latency, Sort::Age];

    /// The column's name.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Sort::Failing => "FAILING",
            Sort::Name => "NAME",
            Sort::Ready => "READY",
            Sort::Status => "STATUS",
            Sort::Restarts => "RESTARTS",
            Sort::Latency => "LATENCY",
            Sort::Age => "AGE",
        }
    }

    /// The one after this (or before it) in [`Sort::ALL`], round and round.
    pub(super) fn step(self, forward: bool) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        let by = if forward { 1 } else { Self::ALL.len() - 1 };
        Self::ALL[(at + by) % Self::ALL.len()]
    }

    /// What asks for attention comes first; of equals the one whose name comes first.
    pub(super) fn compare(self, a: &Row, b: &Row) -> Ordering {
        let by_name = || (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid));
        let missing = |row: &Row| row.containers_count.saturating_sub(row.ready_count);
        let order = match self {
            Sort::Failing => (b.badness(), b.failing_count, b.unwell_count, missing(b)).cmp(&(
                a.badness(),
                a.failing_count,
                a.unwell_count,
                missing(a),
            )),
            Sort::Name => Ordering::Equal,
            Sort::Ready => missing(b).cmp(&missing(a)),
            Sort::Status => a.status.cmp(&b.status),
            Sort::Restarts => (b.restarts, b.last_restart).cmp(&(a.restarts, a.last_restart)),
            Sort::Latency => b.latency_ns.cmp(&a.latency_ns),
            // The youngest.
            Sort::Age => b.created_at.cmp(&a.created_at),
        };
        order.then_with(by_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pods::tests::{at, pod, running};

    fn probe(verdict: v1::Verdict, last: v1::OutcomeKind, ago: i64, took_ns: u64) -> v1::Probe {
        v1::Probe {
            verdict: verdict.into(),
            last: last.into(),
            last_at: at(ago),
            last_duration_ns: took_ns,
            ..v1::Probe::default()
        }
    }

    #[test]
    fn a_row_speaks_of_the_probe_that_is_worst_off() {
        use v1::{OutcomeKind as Outcome, Verdict};
        let mut app = running("app", true);
        app.probes = vec![
            probe(Verdict::Success, Outcome::Success, 1, 9_000),
            probe(Verdict::Failure, Outcome::Failure, 7, 2_000),
            probe(Verdict::Success, Outcome::Failure, 3, 1_000),
        ];
        let row = Row::of(&pod(v1::PodPhase::Running, vec![app]));
        assert_eq!((row.probes_count, row.failing_count, row.unwell_count), (3, 1, 2));
        assert_eq!((row.last, row.last_at), (Outcome::Failure, timestamp_from(at(7).as_ref())));
        assert_eq!(row.latency_ns, 9_000);
        assert!(row.is_failing() && row.holds("default/web running"));
    }

    #[test]
    fn of_probes_that_are_well_the_newest_attempt_is_told() {
        use v1::{OutcomeKind as Outcome, Verdict};
        let mut app = running("app", true);
        app.probes = vec![
            probe(Verdict::Success, Outcome::Success, 9, 0),
            probe(Verdict::Success, Outcome::Success, 2, 0),
            probe(Verdict::Success, Outcome::Unspecified, 0, 0),
        ];
        let row = Row::of(&pod(v1::PodPhase::Running, vec![app]));
        assert_eq!(row.last_at, timestamp_from(at(2).as_ref()));
        assert!(!row.is_failing());
    }

    #[test]
    fn what_is_failing_comes_first_and_names_decide_between_equals() {
        let row = |name: &str, failing_count, unwell_count, status: &str| Row {
            name: name.to_owned(),
            failing_count,
            unwell_count,
            status: status.to_owned(),
            ..Row::default()
        };
        let mut rows = [
            row("b-well", 0, 0, "Running"),
            row("a-well", 0, 0, "Running"),
            row("unwell", 0, 1, "Running"),
            row("crashing", 0, 0, "CrashLoopBackOff"),
            row("one", 1, 1, "Running"),
            row("two", 2, 2, "Running"),
        ];
        rows.sort_by(|a, b| Sort::Failing.compare(a, b));
        assert_eq!(rows.each_ref().map(|r| r.name.as_str()), ["two", "one", "crashing", "unwell", "a-well", "b-well"]);
        rows.sort_by(|a, b| Sort::Name.compare(a, b));
        assert_eq!(rows[0].name, "a-well");
    }

    #[test]
    fn every_order_is_reached_in_both_directions() {
        let mut sort = Sort::default();
        for _ in Sort::ALL {
            assert_eq!(sort.step(true).step(false), sort);
            sort = sort.step(true);
        }
        assert_eq!(sort, Sort::default());
    }

    #[test]
    fn hostile_names_are_escaped_and_given_back_as_they_are() {
        let mut of = pod(v1::PodPhase::Running, vec![running("app", true)]);
        of.name = "web\x1b[2J".to_owned();
        let row = Row::of(&of);
        assert_eq!(row.name, "web\\x1b[2J");
        assert_eq!(row.raw.1, "web\x1b[2J");
    }
}
