//! Histograms of the node, by handler, and of the few probes that are looked at closely: since the start, and of windows.
//!
//! What the shards recorded comes once a second with their counts, so a window's end is a second old at most. Bounds: [`Series`]
//! has 56 values, of which a node shows those that it has; [`Details`] has [`crate::limits::DETAILED_PROBES_MAX`] probes.

mod detail;
mod recorded;
mod windows;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use probe_core::time::Instant;

pub use detail::{Detail, DetailCounts, Details, TooMany};
pub use recorded::{BUCKETS_LEN_MAX, LONGEST_US, Recorded, is_told};
pub use windows::{Window, Windows};

use crate::shard::metrics::{HandlerKind, OutcomeKind, Phase, ShardMetrics};

/// Slots of each window of the node: what it tells is a twelfth short at most.
const SLOTS_LEN: u8 = 12;

/// Bytes that a series takes whose values lie within a factor of eight of each other, each bucket hit; 56 such are 9 MiB.
#[cfg(test)]
const SERIES_BYTES: usize = 160 * 1024;

/// What a histogram of the node is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Series {
    /// Duration of attempts, passive ones not included.
    Latency(HandlerKind, OutcomeKind),
    /// Actual start minus due time, passive answers and missed due times included.
    Lateness(HandlerKind),
    /// Duration of one phase of attempts that succeeded.
    Phase(HandlerKind, Phase),
    /// TCP handshakes as the kernel measured them: of some attempts.
    Handshake(HandlerKind),
    /// Turns of the shards, waiting apart.
    Turn,
}

/// See the module. Part of [`super::Node`].
#[derive(Debug, Default)]
pub struct Latencies {
    since: Option<Instant>,
    series: BTreeMap<Series, Windows>,
    /// Probes that are watched or failing.
    pub details: Details,
}

impl Latencies {
    /// What a window of one series tells at `now`; empty where nothing was recorded.
    #[must_use]
    pub fn of(&self, series: Series, window: Window, now: Instant) -> Recorded {
        self.series.get(&series).map(|windows| windows.of(window, now)).unwrap_or_default()
    }

    /// All of one series; `None` where nothing was recorded.
    #[must_use]
    pub fn since_start(&self, series: Series) -> Option<&Recorded> {
        self.series.get(&series).map(Windows::since_start)
    }

    /// When a window began at `now`: not before the shards' first word.
    #[must_use]
    pub fn begin(&self, window: Window, now: Instant) -> Instant {
        let first = self.since.unwrap_or(now);
        window.length().map_or(first, |length| first.max(now.saturating_sub(length)))
    }

    /// All series that a window tells something of at `now`.
    pub fn all(&self, window: Window, now: Instant) -> impl Iterator<Item = (Series, Recorded)> {
        let all = self.series.iter().map(move |(series, windows)| (*series, windows.of(window, now)));
        all.filter(|(_, recorded)| !recorded.is_empty())
    }

    /// Adds what a shard recorded until `now`.
    pub(crate) fn add(&mut self, delta: &ShardMetrics, now: Instant) {
        self.since.get_or_insert(now);
        let mut add = |series, histogram: &Histogram<u64>| {
            if histogram.is_empty() {
                return;
            }
            let mut recorded = Recorded::default();
            recorded.add_histogram(histogram);
            self.series.entry(series).or_insert_with(|| Windows::new(SLOTS_LEN)).add(&recorded, now);
        };
        add(Series::Turn, &delta.turn_us);
        for handler in HandlerKind::ALL {
            let of = handler.index();
            delta.lateness_us[of].iter().for_each(|histogram| add(Series::Lateness(handler), histogram));
            delta.handshake_us[of].iter().for_each(|histogram| add(Series::Handshake(handler), histogram));
            for (outcome, histogram) in OutcomeKind::ALL.into_iter().zip(&delta.latency_us[of]) {
                histogram.iter().for_each(|histogram| add(Series::Latency(handler, outcome), histogram));
            }
            for (phase, histogram) in Phase::ALL.into_iter().zip(&delta.phase_us[of]) {
                histogram.iter().for_each(|histogram| add(Series::Phase(handler, phase), histogram));
            }
        }
        self.details.expire(now);
    }

    /// Heap in use for histograms, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.series.values().map(Windows::size).sum::<usize>() + self.details.size()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use probe_core::outcome::Outcome;

    use super::*;

    #[test]
    fn what_a_shard_recorded_is_in_every_window_until_it_is_too_old() {
        let mut delta = ShardMetrics::new();
        delta.attempt(HandlerKind::Tcp, &Outcome::Success("".into()), Duration::from_micros(100));
        delta.started_n(HandlerKind::Tcp, Duration::from_millis(1), 7);
        delta.turned(Duration::from_micros(20));
        let mut latencies = Latencies::default();
        let at = Instant::from_secs(100);
        latencies.add(&delta, at);
        latencies.add(&ShardMetrics::new(), at);
        for window in Window::ALL {
            let all: Vec<_> = latencies.all(window, at).map(|(series, recorded)| (series, recorded.count())).collect();
            let success = Series::Latency(HandlerKind::Tcp, OutcomeKind::Success);
            assert_eq!(all, [(success, 1), (Series::Lateness(HandlerKind::Tcp), 7), (Series::Turn, 1)]);
        }
        let later = at + Duration::from_mins(10);
        assert_eq!(latencies.all(Window::Minute, later).count() + latencies.all(Window::FiveMinutes, later).count(), 0);
        assert_eq!(latencies.of(Series::Turn, Window::Hour, later).count(), 1);
    }

    #[test]
    fn a_series_that_is_wide_takes_a_bounded_memory() {
        let mut delta = ShardMetrics::new();
        // Three octaves, each bucket hit.
        (400..3_200).for_each(|us| delta.started(HandlerKind::Tcp, Duration::from_micros(us)));
        let mut latencies = Latencies::default();
        let day = (0..25 * 12).map(|five_minutes| five_minutes * 300);
        let end = 25 * 3_600;
        let newest = (0..60).map(|five_seconds| end + five_seconds * 5);
        day.chain(newest).for_each(|second| latencies.add(&delta, Instant::from_secs(second)));
        let size = latencies.size();
        assert!((SERIES_BYTES / 2..=SERIES_BYTES).contains(&size), "{size}");
    }
}
