//! Seeded randomness of a shard's leases and audits.

use std::time::Duration;

use probe_core::schedule::mix;

/// splitmix64: the same seed gives the same numbers, and nothing is allocated.
#[derive(Clone, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 0 to 1, without 1.
    pub(super) fn share(&mut self) -> f64 {
        // The 53 bits that a double keeps.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The time to the next of events that come independently of each other, `per_second` on average (above 0).
    pub(super) fn gap(&mut self, per_second: f64) -> Duration {
        // 1 - share is above 0, so the logarithm is finite.
        Duration::from_secs_f64(-(1.0 - self.share()).ln() / per_second)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}
