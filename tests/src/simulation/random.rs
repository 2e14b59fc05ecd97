//! Every choice of a simulation, from one seed.

use std::time::Duration;

/// splitmix64: small, fast, and the same on every machine and with every version of every crate.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end`, without it; 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.draw() % end }
    }

    /// `first` to `last`, with both.
    pub fn range(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True this often in ten thousand. Draws nothing for 0, so that a fault that is off costs nothing.
    pub fn chance(&mut self, of_10_000: u64) -> bool {
        of_10_000 > 0 && self.below(10_000) < of_10_000
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A time between these, with both.
    pub fn duration(&mut self, first: Duration, last: Duration) -> Duration {
        Duration::from_nanos(self.range(first.as_nanos() as u64, last.as_nanos() as u64))
    }

    /// A time between so many milliseconds.
    pub fn millis(&mut self, first: u64, last: u64) -> Duration {
        self.duration(Duration::from_millis(first), Duration::from_millis(last))
    }
}
