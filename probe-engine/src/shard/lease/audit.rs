//! When a passive answer is checked by a connect.

use std::time::Duration;

use probe_core::time::Instant;

use super::draw::Draw;

/// How far audits may lag behind: attempts come in clusters, and a cluster makes those that fell due since the one before.
const LAG_MAX: Duration = Duration::from_secs(1);

/// One shard's share of the node's audits. They fall due at random, so that no rhythm of the probes' own hides from them;
/// the first attempt after that makes it which a lease would answer.
pub(super) struct Audits {
    draw: Draw,
    /// 0 = none.
    per_second: f64,
    next: Instant,
}

impl Audits {
    pub(super) fn new(per_second: f64, seed: u64, now: Instant) -> Self {
        let mut audits = Self { draw: Draw::new(seed), per_second, next: now };
        audits.next = now + audits.gap();
        audits
    }

    /// One is due, and the attempt that is being decided makes it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.per_second > 0.0 && now >= self.next;
        if is_due {
            self.next = self.next.max(now.saturating_sub(LAG_MAX)) + self.gap();
        }
        is_due
    }

    fn gap(&mut self) -> Duration {
        if self.per_second > 0.0 { self.draw.gap(self.per_second) } else { Duration::ZERO }
    }
}
