//! What a shard waits for, in a word: for whoever steps the clock.

use probe_core::time::Instant;

/// As of the end of its last turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Attempts are in flight or wait for a place, or there is something to take in or to tell.
    UnderWay,
    /// Nothing, until a probe is due.
    Until(Instant),
    /// Nothing at all.
    Idle,
}

impl Pace {
    /// For an atomic.
    #[must_use]
    pub fn to_word(self) -> u64 {
        match self {
            Pace::UnderWay => 0,
            Pace::Until(at) => at.as_nanos().clamp(1, u64::MAX - 1),
            Pace::Idle => u64::MAX,
        }
    }

    /// Of [`Pace::to_word`].
    #[must_use]
    pub fn of_word(word: u64) -> Self {
        match word {
            0 => Pace::UnderWay,
            u64::MAX => Pace::Idle,
            nanos => Pace::Until(Instant::from_nanos(nanos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_all_of_it() {
        for pace in [Pace::UnderWay, Pace::Until(Instant::from_secs(7)), Pace::Idle] {
            assert_eq!(Pace::of_word(pace.to_word()), pace);
        }
        assert_eq!(Pace::of_word(Pace::Until(Instant::ZERO).to_word()), Pace::Until(Instant::from_nanos(1)));
    }
}
