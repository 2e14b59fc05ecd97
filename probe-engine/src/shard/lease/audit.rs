//! When a passive answer is checked by a connect.

use std::time::Duration;

use probe_core::time::Instant;

use super::draw::Draw;
use crate::limits;

/// How far audits may lag behind: attempts come in clusters, and a cluster makes those that fell due since the one before.
const LAG_MAX: Duration = Duration::from_secs(1);

/// One shard's share of the node's audits. They fall due at random, so that no rhythm of the probes' own hides from them;
/// the first attempt after that makes it which a lease would answer. Between two of them lie at least
/// [`limits::AUDIT_ATTEMPTS_APART_MIN`] passive answers: the rate is the node's, and on a node with few probes it would leave
/// none of them unaudited.
pub(super) struct Audits {
    draw: Draw,
    /// 0 = none.
    per_second: f64,
    next: Instant,
    /// Passive answers still to come before another one.
    apart: u32,
}

impl Audits {
    pub(super) fn new(per_second: f64, seed: u64, now: Instant) -> Self {
        let mut audits = Self { draw: Draw::new(seed), per_second, next: now, apart: 0 };
        audits.next = now + audits.gap();
        audits.apart = audits.distance();
        audits
    }

    /// The next attempt makes one.
    pub(super) fn is_due_next(&self, now: Instant) -> bool {
        self.per_second > 0.0 && self.apart <= 1 && now >= self.next
    }

    /// An attempt was answered passively.
    pub(super) fn pass(&mut self) {
        self.apart = self.apart.saturating_sub(1);
    }

    /// One is due, and the attempt that is being decided makes it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.is_due_next(now);
        self.pass();
        if is_due {
            self.apart = self.distance();
            self.next = self.next.max(now.saturating_sub(LAG_MAX)) + self.gap();
        }
        is_due
    }

    /// At random as well: where this is what holds audits back, the same number each time would always meet the same probes.
    fn distance(&mut self) -> u32 {
        let min = f64::from(limits::AUDIT_ATTEMPTS_APART_MIN);
        (min + self.draw.share() * min) as u32
    }

    fn gap(&mut self) -> Duration {
        if self.per_second > 0.0 { self.draw.gap(self.per_second) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_few_probes_is_not_audited_out_of_passive_answers() {
        let mut audits = Audits::new(10.0, 1, Instant::ZERO);
        // Five attempts a second for an hour.
        let taken = (0..18_000_u64).filter(|attempt| audits.take(Instant::from_nanos(attempt * 200_000_000))).count();
        assert!((180..=360).contains(&taken), "{taken} of 18,000");
    }
}
