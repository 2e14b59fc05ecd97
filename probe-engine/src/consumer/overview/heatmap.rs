//! Latency over time: what the heatmap shows, a column a second.
//!
//! Bound: [`limits::HEATMAP_COLUMNS_MAX`] columns of at most one count per handler and bucket.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use crate::limits;
use crate::results::Node;
use crate::results::latency::{Recorded, Series};
use crate::shard::metrics::{HandlerKind, OutcomeKind};

/// Buckets of a decade; the factor between two bounds is 1.39.
const PER_DECADE: usize = 7;

/// Upper bound of the first bucket, in nanoseconds.
const FIRST_NS: f64 = 10_000.0;

/// From 10 us to 60 s and what is beyond.
pub const BUCKETS_LEN: usize = 49;

/// Upper bounds of all buckets but the last, in nanoseconds, rising.
#[must_use]
pub fn bounds_ns() -> [u64; BUCKETS_LEN - 1] {
    std::array::from_fn(bound_ns)
}

/// `FIRST_NS` times ten to the power of `bucket / PER_DECADE`.
fn bound_ns(bucket: usize) -> u64 {
    let exponent = u32::try_from(bucket).unwrap_or(u32::MAX);
    let decades = f64::from(exponent) / PER_DECADE as f64;
    (FIRST_NS * 10_f64.powf(decades)).round() as u64
}

/// Attempts that were told within one second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// The second, since 1970; the newest column grows until it is over.
    pub at_s: i64,
    /// By handler, those with attempts.
    pub handlers: Vec<HandlerColumn>,
}

/// The same of one handler.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandlerColumn {
    /// `tcp`, `http`, `https`, `grpc`, `exec`.
    pub handler: &'static str,
    /// Bucket and count, by rising bucket, those that are not 0. Discarded attempts are left out.
    pub real: Vec<(u8, u64)>,
    /// Of the real ones, how many ended badly.
    pub failed: u64,
    /// Answered from kernel state: they have no duration.
    pub passive: u64,
}

/// Handlers that there are.
const HANDLERS_LEN: usize = HandlerKind::ALL.len();

/// What has been counted since the shards started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    real: [[u64; BUCKETS_LEN]; HANDLERS_LEN],
    failed: [u64; HANDLERS_LEN],
    passive: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self { real: [[0; BUCKETS_LEN]; HANDLERS_LEN], failed: [0; HANDLERS_LEN], passive: 0 }
    }
}

impl Sums {
    pub(super) fn of(node: &Node) -> Self {
        let bounds = bounds_ns();
        let mut sums = Self::default();
        let counts = node.shards.iter().filter_map(|shard| shard.counts.as_deref());
        sums.passive = counts.map(|counts| counts.passive.passive).sum();
        for handler in HandlerKind::ALL {
            for outcome in [OutcomeKind::Success, OutcomeKind::Warning, OutcomeKind::Failure] {
                let Some(recorded) = node.latency.since_start(Series::Latency(handler, outcome)) else { continue };
                add(&mut sums.real[handler.index()], &bounds, recorded);
                if outcome == OutcomeKind::Failure {
                    sums.failed[handler.index()] = recorded.count();
                }
            }
        }
        sums
    }

    fn since(&self, earlier: &Self) -> Vec<HandlerColumn> {
        let of = HandlerKind::ALL.into_iter().map(|handler| {
            let index = handler.index();
            let counts =
                self.real[index].iter().zip(earlier.real[index]).map(|(now, before)| now.saturating_sub(before));
            let real = (0..).zip(counts).filter(|(_, count)| *count > 0).collect();
            let passive = if handler == HandlerKind::Tcp { self.passive.saturating_sub(earlier.passive) } else { 0 };
            let failed = self.failed[index].saturating_sub(earlier.failed[index]);
            HandlerColumn { handler: handler.as_str(), real, failed, passive }
        });
        of.filter(|column| !column.real.is_empty() || column.passive > 0).collect()
    }
}

/// A value counts as the lowest that it cannot be told from, so that one on a bound stays below it.
fn add(buckets: &mut [u64; BUCKETS_LEN], bounds: &[u64; BUCKETS_LEN - 1], recorded: &Recorded) {
    for (value_us, count) in recorded.pairs_from() {
        buckets[bounds.partition_point(|bound| *bound < value_us * 1_000)] += count;
    }
}

/// Seconds that the clock may be set back by before the columns begin anew.
const BACK_S_MAX: i64 = 5;

/// The columns of the last minutes, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    columns: VecDeque<Arc<Column>>,
    /// At the beginning of the newest column.
    before: Sums,
}

impl History {
    /// Takes in what has been counted by now; `at_s`: the second that it is. A clock that was set back a little goes on with the
    /// column that there is; one that was set back further begins anew, as nothing would be new until it had caught up.
    pub(super) fn push(&mut self, at_s: i64, sums: &Sums, newest: &Sums) {
        if self.columns.back().is_some_and(|column| column.at_s.saturating_sub(at_s) > BACK_S_MAX) {
            self.columns.clear();
        }
        let is_new = self.columns.back().is_none_or(|column| column.at_s < at_s);
        if is_new {
            // What was counted up to the last look is in the columns before.
            self.before = newest.clone();
            if self.columns.len() == limits::HEATMAP_COLUMNS_MAX {
                self.columns.pop_front();
            }
        } else {
            self.columns.pop_back();
        }
        let at_s = self.columns.back().map_or(at_s, |before| at_s.max(before.at_s + 1));
        self.columns.push_back(Arc::new(Column { at_s, handlers: sums.since(&self.before) }));
    }

    pub(super) fn columns(&self) -> Arc<[Arc<Column>]> {
        self.columns.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use probe_core::outcome::Outcome;
    use probe_core::time::Instant;

    use super::*;
    use crate::results::ShardTotals;
    use crate::shard::metrics::ShardMetrics;

    fn node(latencies_us: &[u64], passive: u64) -> Node {
        let mut counts = ShardMetrics::new();
        for us in latencies_us {
            counts.attempt(HandlerKind::Http, &Outcome::Success("".into()), Duration::from_micros(*us));
        }
        counts.passive.passive = passive;
        let mut node = Node::default();
        node.latency.add(&counts, Instant::from_secs(1));
        node.shards.push(ShardTotals { counts: Some(Box::new(counts)) });
        node
    }

    #[test]
    fn the_bounds_rise_from_10_microseconds_to_a_minute() {
        let bounds = bounds_ns();
        assert_eq!((bounds[0], bounds[7], bounds[14]), (10_000, 100_000, 1_000_000));
        assert!(
            bounds.is_sorted() && bounds[BUCKETS_LEN - 2] > 50_000_000_000 && bounds[BUCKETS_LEN - 2] < 60_000_000_000
        );
    }

    #[test]
    fn a_second_shows_what_came_in_it_and_grows_until_it_is_over() {
        let mut history = History::default();
        let sums = [node(&[], 0), node(&[200_000], 3), node(&[200_000, 9], 5), node(&[200_000, 9, 9], 5)]
            .map(|n| Sums::of(&n));
        history.push(100, &sums[1], &sums[0]);
        history.push(100, &sums[2], &sums[1]);
        history.push(101, &sums[3], &sums[2]);
        let columns = history.columns();
        let (first, second) = (&columns[0], &columns[1]);
        let of = |column: &Column, handler: &str| column.handlers.iter().find(|of| of.handler == handler).cloned();
        let http = of(first, "http").expect("it made attempts");
        assert_eq!(http.real.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 1]);
        let slow = usize::from(http.real[1].0);
        assert!(bounds_ns()[slow - 1] < 200_000_000 && 200_000_000 <= bounds_ns()[slow]);
        assert_eq!(of(first, "tcp").map(|tcp| tcp.passive), Some(5));
        assert_eq!((second.at_s, of(second, "http").map(|http| http.real)), (101, Some(vec![(0, 1)])));
        assert_eq!(of(second, "tcp"), None);
    }

    #[test]
    fn the_history_is_bounded_and_begins_anew_where_the_clock_goes_far_back() {
        let mut history = History::default();
        let sums = Sums::default();
        for at_s in 0..700 {
            history.push(at_s, &sums, &sums);
        }
        history.push(699 - BACK_S_MAX, &sums, &sums);
        let columns = history.columns();
        assert_eq!((columns.len(), columns.last().map(|column| column.at_s)), (limits::HEATMAP_COLUMNS_MAX, Some(699)));
        assert!(columns.is_sorted_by(|a, b| a.at_s < b.at_s));
        for at_s in [698 - BACK_S_MAX, 699 - BACK_S_MAX] {
            history.push(at_s, &sums, &sums);
        }
        assert_eq!(history.columns().iter().map(|column| column.at_s).collect::<Vec<_>>(), [693, 694]);
    }
}
