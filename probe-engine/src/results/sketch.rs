//! Durations of one probe's real successes, in few buckets: an estimate of their quantiles that every probe can afford.
//!
//! It takes 26 bytes of a probe (count, sum, longest, and buckets of 16 bits up to 5 ms); above that the kubelet's own
//! buckets are there already, in a box that a probe gets with the second of such durations. A bucket ends at 2.5 times the end of the one
//! before, at most; what is above the last, 10 s, has the longest as its estimate.
//!
//! **Invariant:** an estimate is never below the quantile of what was recorded, and at most 2.5 times it (or 128 us, where it is
//! below that; up to 10 s), as long as no bucket has been halved; from then on the shares up to 5 ms are those of the newest attempts, more
//! than of the older ones.

use super::stats::DURATION_BUCKETS_S;

/// Upper bounds, in microseconds, of the buckets below those of [`DURATION_BUCKETS_S`] but the first.
pub(super) const FAST_BUCKETS_US: [u32; 5] = [128, 320, 800, 2_000, 5_000];

/// See the module. Made by [`super::ProbeStats::sketch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// How many.
    pub count: u64,
    /// Their sum, in nanoseconds.
    pub sum_ns: u64,
    /// The longest, in nanoseconds, rounded up to microseconds; at most 71 minutes.
    pub max_ns: u64,
    /// Shares of what is not in `slow`.
    pub(super) fast: [u16; FAST_BUCKETS_US.len()],
    /// How many per bucket of [`DURATION_BUCKETS_S`] but the first, the last for what is longer.
    pub(super) slow: [u64; DURATION_BUCKETS_S.len()],
}

impl Sketch {
    /// So large a part of them, 0 to 1, took at most this long, in nanoseconds. `None` where fewer were counted than the
    /// quantile needs: see [`super::latency::is_told`].
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        if !super::latency::is_told(quantile, self.count) {
            return None;
        }
        let slow: u64 = self.slow.iter().sum();
        let shares: f64 = self.fast.iter().map(|share| f64::from(*share)).sum();
        let weight = self.count.saturating_sub(slow) as f64 / shares.max(1.0);
        let fast = FAST_BUCKETS_US.iter().zip(self.fast);
        let fast = fast.map(|(upper_us, share)| (u64::from(*upper_us) * 1_000, f64::from(share) * weight));
        let upper_ns = DURATION_BUCKETS_S[1..].iter().map(|seconds| (seconds * 1e9) as u64).chain([u64::MAX]);
        let slow = upper_ns.zip(self.slow).map(|(upper_ns, count)| (upper_ns, count as f64));
        // Half a count of slack: what shares add up to is not exact.
        let rank = (quantile * self.count as f64).ceil().max(1.0) - 0.5;
        let mut sum = 0.0;
        let reached = fast.chain(slow).find(|(_, count)| {
            sum += count;
            sum >= rank
        });
        Some(reached.map_or(self.max_ns, |(upper_ns, _)| upper_ns.min(self.max_ns)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ProbeStats;

    /// The smallest value that so large a part is not above.
    fn exact(sorted: &[u64], quantile: f64) -> u64 {
        let rank = (quantile * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted[rank - 1]
    }

    proptest! {
        #[test]
        fn an_estimate_is_not_below_the_quantile_and_at_most_two_and_a_half_times_it(
            durations_us in prop::collection::vec(prop_oneof![1_u64..10_000, 1_u64..3_000_000, Just(5_000), Just(128)], 1..400),
            quantile in prop_oneof![Just(0.5), Just(0.9), Just(0.99)],
        ) {
            let stats = ProbeStats::default();
            durations_us.iter().for_each(|us| stats.record(true, us * 1_000, 1, 1));
            let mut sorted = durations_us;
            sorted.sort_unstable();
            let (exact_us, sketch) = (exact(&sorted, quantile), stats.sketch());
            prop_assert_eq!(sketch.max_ns, sorted[sorted.len() - 1] * 1_000);
            if let Some(estimate_ns) = sketch.quantile_ns(quantile) {
                prop_assert!(estimate_ns >= exact_us * 1_000, "{} {}", estimate_ns, exact_us);
                prop_assert!(estimate_ns as f64 <= (exact_us as f64 * 2.5).max(128.0) * 1_000.0, "{} {}", estimate_ns, exact_us);
            }
        }
    }

    #[test]
    fn a_bucket_that_is_full_halves_all_and_keeps_the_shares_and_what_was_seen_once() {
        let stats = ProbeStats::default();
        stats.record(true, 4_000_000, 1, 1);
        for _ in 0..300_000 {
            stats.record(true, 100_000, 1, 1);
            stats.record(true, 300_000, 1, 1);
        }
        let sketch = stats.sketch();
        assert_eq!((sketch.count, sketch.fast[4]), (600_001, 1));
        let [first, second] = [f64::from(sketch.fast[0]), f64::from(sketch.fast[1])];
        assert!((0.9..1.1).contains(&(first / second)), "{first} {second}");
        assert_eq!(sketch.quantile_ns(0.4), Some(128_000));
        assert_eq!(sketch.quantile_ns(0.9), Some(320_000));
        assert_eq!(sketch.quantile_ns(0.999), Some(320_000));
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(ProbeStats::default().sketch().quantile_ns(0.5), None);
    }
}
