//! What the watch counts, read at every scrape and by `GetInfo`. Relaxed throughout: each number stands for itself.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// See the module. Counters unless said otherwise.
#[derive(Debug, Default)]
pub struct EbpfStats {
    /// Listener events taken from the ring buffer.
    pub events: AtomicU64,
    /// Listener events for which the ring buffer had no room (the program's count).
    pub events_dropped: AtomicU64,
    /// Dumps that made the listener table true again after a loss.
    pub reconciles: AtomicU64,
    /// Sweeps over the listeners that probes depend on.
    pub sweeps: AtomicU64,
    /// How long the last one took, nanoseconds (gauge).
    pub sweep_ns: AtomicU64,
    /// Self-tests that failed.
    pub self_tests_failed: AtomicU64,
    /// The last self-test passed: 1, else 0 (gauge).
    pub feed_healthy: AtomicU64,
    /// Listeners in the table (gauge).
    pub listeners: AtomicU64,
    /// Targets watched (gauge).
    pub targets: AtomicU64,
    /// Network namespaces held (gauge).
    pub namespaces: AtomicU64,
    /// Targets one of whose listeners has a full accept queue (gauge).
    pub accept_queues_full: AtomicU64,
    /// Targets one of whose listeners is not accepting (gauge).
    pub accept_queues_stalled: AtomicU64,
    /// Changes on the way to targets that were heard of (links, addresses, routes, rules, nftables).
    pub path_events: AtomicU64,
    /// Leases ended by them.
    pub path_voids: AtomicU64,
    /// Leases cut by them.
    pub path_cuts: AtomicU64,
    /// Losses on the sockets that announce them (ENOBUFS).
    pub path_losses: AtomicU64,
    /// Audits that contradicted passive answers.
    pub contradictions: AtomicU64,
    /// Leases that the watch ended (self-test, contradictions, missed events).
    pub voids: AtomicU64,
    /// Looks that were judged.
    pub looks: AtomicU64,
    /// Looks from which nothing could be concluded: the dump was cut short or took too long.
    pub looks_spoiled: AtomicU64,
    /// Times that a listener had new drops, none of them of a connection request.
    pub stray_drops: AtomicU64,
    /// Listeners that a dump showed where the counter had not moved: events that the program missed.
    pub unannounced: AtomicU64,
    /// Listeners for which the table had no room.
    pub table_full: AtomicU64,
    /// Events and triggers for which there was no room.
    pub notices_dropped: AtomicU64,
    /// From an event's time to when it is in the listener table.
    pub event_lag: EventLag,
    /// `run_cnt` of the program (bpf stats; 0 where they are off).
    pub program_runs: AtomicU64,
    /// `run_time_ns` of the program.
    pub program_run_ns: AtomicU64,
    /// `recursion_misses` of the program.
    pub program_misses: AtomicU64,
}

/// Buckets of [`EventLag`] per power of two: a quantile is at most 1/8 too high.
const LAG_PARTS: usize = 8;
/// Powers of two that it tells apart: 2^40 ns are 18 minutes.
const LAG_POWERS: usize = 40;

/// A histogram of nanoseconds, written by one thread and read by any. Fixed size: 321 numbers.
#[derive(Debug)]
pub struct EventLag {
    buckets: Box<[AtomicU64]>,
    max_ns: AtomicU64,
}

impl Default for EventLag {
    fn default() -> Self {
        let buckets = (0..=LAG_POWERS * LAG_PARTS).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, max_ns: AtomicU64::new(0) }
    }
}

impl EventLag {
    /// One more.
    pub fn record(&self, lag_ns: u64) {
        self.buckets[bucket_of(lag_ns)].fetch_add(1, Relaxed);
        self.max_ns.fetch_max(lag_ns, Relaxed);
    }

    /// The longest.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns.load(Relaxed)
    }

    /// As it is now; two of them tell of the time between.
    #[must_use]
    pub fn snapshot(&self) -> LagSnapshot {
        LagSnapshot { counts: self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect() }
    }
}

/// See [`EventLag::snapshot`].
#[derive(Clone, Debug)]
pub struct LagSnapshot {
    counts: Box<[u64]>,
}

impl LagSnapshot {
    /// What was recorded after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &LagSnapshot) -> LagSnapshot {
        let pairs = self.counts.iter().zip(&earlier.counts);
        LagSnapshot { counts: pairs.map(|(now, before)| now.saturating_sub(*before)).collect() }
    }

    /// How many were recorded.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Every bucket that holds some: its end, in nanoseconds, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        held.map(|(bucket, count)| (end_of(bucket), *count))
    }

    /// None were.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lag, in nanoseconds, that this part (0..=1) of them does not exceed, rounded up to a bucket's end; 0 = none.
    #[must_use]
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let wanted = ((self.len() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return end_of(bucket);
            }
        }
        0
    }
}

/// The first [`LAG_PARTS`] buckets hold one value each; then each power of two is cut in [`LAG_PARTS`].
fn bucket_of(lag_ns: u64) -> usize {
    if lag_ns < LAG_PARTS as u64 {
        return lag_ns as usize;
    }
    let power = lag_ns.ilog2() as usize;
    let part = (lag_ns >> (power - LAG_PARTS.ilog2() as usize)) as usize % LAG_PARTS;
    let bucket = (power - LAG_PARTS.ilog2() as usize + 1) * LAG_PARTS + part;
    bucket.min(LAG_POWERS * LAG_PARTS)
}

/// The largest value of a bucket.
fn end_of(bucket: usize) -> u64 {
    if bucket < LAG_PARTS {
        return bucket as u64;
    }
    let (power, part) = (bucket / LAG_PARTS - 1, bucket % LAG_PARTS);
    (((LAG_PARTS + part + 1) as u64) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_an_eighth_too_high() {
        for lag_ns in (0..200).chain((1..38).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 7])) {
            let lag = EventLag::default();
            lag.record(lag_ns);
            let told = lag.snapshot().quantile_ns(0.99);
            assert!(told >= lag_ns && told <= lag_ns + lag_ns / 8, "{lag_ns} told as {told}");
        }
    }

    #[test]
    fn what_came_before_a_snapshot_is_not_in_the_difference() {
        let lag = EventLag::default();
        lag.record(1_000_000);
        let before = lag.snapshot();
        for _ in 0..99 {
            lag.record(10);
        }
        let since = lag.snapshot().since(&before);
        assert_eq!((since.len(), since.quantile_ns(1.0)), (99, 10));
        assert_eq!(lag.max_ns(), 1_000_000);
    }
}
