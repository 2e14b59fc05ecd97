//! The engine's side of a stepped clock: when something is due next, and hops that reach every shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_core::time::Instant;

use crate::clock::{self, Stepper};
use crate::shard::inbox::ShardSender;
use crate::shard::pace::Pace;

/// See the module.
#[derive(Debug)]
pub struct Stepping {
    stepper: Stepper,
    shards: Vec<(ShardSender, Arc<AtomicU64>)>,
}

impl Stepping {
    pub(super) fn new(stepper: Stepper, shards: Vec<(ShardSender, Arc<AtomicU64>)>) -> Self {
        Self { stepper, shards }
    }

    /// What the engine as a whole waits for. True of a moment at which none of its threads ran: it is for the caller to
    /// find one.
    #[must_use]
    pub fn pace(&self) -> Pace {
        if self.stepper.is_held() {
            return Pace::UnderWay;
        }
        let paces = self.shards.iter().map(|(_, pace)| Pace::of_word(pace.load(Ordering::Acquire)));
        let sleepers = self.stepper.next_due().map_or(Pace::Idle, Pace::Until);
        earliest(paces.chain([sleepers]), clock::now())
    }

    /// Moves the clock. Only while nothing is under way.
    pub fn hop_to(&self, at: Instant) {
        self.stepper.hop_to(at);
        self.shards.iter().for_each(|(sender, _)| sender.wake());
    }
}

/// What is due by now is under way.
fn earliest(paces: impl Iterator<Item = Pace>, now: Instant) -> Pace {
    paces.fold(Pace::Idle, |before, pace| match (before, pace) {
        (_, Pace::Until(at)) if at <= now => Pace::UnderWay,
        (Pace::UnderWay, _) | (_, Pace::UnderWay) => Pace::UnderWay,
        (Pace::Until(one), Pace::Until(other)) => Pace::Until(one.min(other)),
        (Pace::Idle, pace) | (pace, Pace::Idle) => pace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_due_time_counts_and_what_is_under_way_before_all() {
        let at = Instant::from_secs;
        let of = |paces: &[Pace]| earliest(paces.iter().copied(), at(10));
        assert_eq!(of(&[]), Pace::Idle);
        assert_eq!(of(&[Pace::Idle, Pace::Until(at(30)), Pace::Until(at(20)), Pace::Idle]), Pace::Until(at(20)));
        assert_eq!(of(&[Pace::Until(at(20)), Pace::UnderWay, Pace::Idle]), Pace::UnderWay);
        assert_eq!(of(&[Pace::Until(at(20)), Pace::Until(at(10))]), Pace::UnderWay, "its time has come");
    }
}
