//! One histogram since the start, and of the last minute, five minutes, hour and day.
//!
//! A window is a ring of slots on a grid of the monotonic clock, the newest being filled. What it tells is never older than the
//! window is long; how much of the oldest slot's time is missing depends on where the grid stands: one slot at most. Slots in
//! which nothing was recorded take no memory, so an idle period shows as empty.
//!
//! Bound: four rings of `slots_len` slots, of [`super::recorded::BUCKETS_LEN_MAX`] buckets each.

use std::collections::VecDeque;
use std::time::Duration;

use probe_core::time::Instant;

use super::Recorded;

/// How far back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// One minute.
    Minute,
    /// Five minutes.
    FiveMinutes,
    /// One hour.
    Hour,
    /// 24 hours.
    Day,
    /// Since the daemon's start, or since it was begun to record.
    Start,
}

impl Window {
    /// Every one.
    pub const ALL: [Window; 5] = [Window::Minute, Window::FiveMinutes, Window::Hour, Window::Day, Window::Start];

    /// `1m`, `5m`, `1h`, `24h`, `start`
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Window::Minute => "1m",
            Window::FiveMinutes => "5m",
            Window::Hour => "1h",
            Window::Day => "24h",
            Window::Start => "start",
        }
    }

    /// How far back it reaches; `None` = to the start.
    #[must_use]
    pub fn length(self) -> Option<Duration> {
        Self::LENGTHS.get(self as usize).copied()
    }

    /// From such a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|window| window.as_str() == word)
    }

    /// Of those that have a ring.
    const LENGTHS: [Duration; 4] =
        [Duration::from_mins(1), Duration::from_mins(5), Duration::from_hours(1), Duration::from_hours(24)];
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Windows {
    start: Recorded,
    /// Slots of each ring.
    slots_len: u8,
    /// In the order of [`Window::ALL`].
    rings: [VecDeque<Slot>; Window::LENGTHS.len()],
}

#[derive(Clone, Debug)]
struct Slot {
    /// Counts the slots since the clock's beginning.
    number: u64,
    recorded: Recorded,
}

impl Windows {
    /// Nothing recorded; a window of so many slots, 1 at least.
    #[must_use]
    pub fn new(slots_len: u8) -> Self {
        Self { start: Recorded::default(), slots_len: slots_len.max(1), rings: Default::default() }
    }

    /// Adds what was recorded until `now`, which does not go back.
    pub fn add(&mut self, recorded: &Recorded, now: Instant) {
        if recorded.is_empty() {
            return;
        }
        self.start.add(recorded);
        for (ring, length) in self.rings.iter_mut().zip(Window::LENGTHS) {
            let number = number(length, self.slots_len, now);
            newest(ring, self.slots_len, number).add(recorded);
        }
    }

    /// Adds one value.
    pub fn record(&mut self, value_us: u64, now: Instant) {
        self.start.record(value_us, 1);
        for (ring, length) in self.rings.iter_mut().zip(Window::LENGTHS) {
            let number = number(length, self.slots_len, now);
            newest(ring, self.slots_len, number).record(value_us, 1);
        }
    }

    /// What a window tells at `now`.
    #[must_use]
    pub fn of(&self, window: Window, now: Instant) -> Recorded {
        let (Some(ring), Some(length)) = (self.rings.get(window as usize), window.length()) else {
            return self.start.clone();
        };
        let end = number(length, self.slots_len, now);
        let mut sum = Recorded::default();
        let within = ring.iter().filter(|slot| slot.number + u64::from(self.slots_len) > end);
        within.for_each(|slot| sum.add(&slot.recorded));
        sum
    }

    /// All that was recorded.
    #[must_use]
    pub fn since_start(&self) -> &Recorded {
        &self.start
    }

    /// Heap in use, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let rings = self.rings.iter().map(|ring| ring.capacity() * size_of::<Slot>());
        let slots = self.rings.iter().flatten().map(|slot| slot.recorded.size());
        self.start.size() + rings.sum::<usize>() + slots.sum::<usize>()
    }
}

fn number(length: Duration, slots_len: u8, now: Instant) -> u64 {
    now.as_nanos() / (length.as_nanos() as u64 / u64::from(slots_len))
}

/// The slot of this number, which is not below the newest. A new one takes over the memory of one that is out of the window.
fn newest(ring: &mut VecDeque<Slot>, slots_len: u8, number: u64) -> &mut Recorded {
    let is_out = |slot: &Slot| slot.number + u64::from(slots_len) <= number;
    if ring.back().is_none_or(|newest| newest.number < number) {
        let mut recorded = Recorded::default();
        while let Some(out) = ring.pop_front_if(|oldest| is_out(oldest)) {
            recorded = out.recorded;
            recorded.clear();
        }
        // It is full now: what it does not need goes.
        ring.back_mut().into_iter().for_each(|full| full.recorded.shrink());
        ring.push_back(Slot { number, recorded });
    }
    &mut ring.back_mut().expect("it has one by now").recorded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain reading: every value with its time, and those whose slot is among the newest so many.
    fn plain(values: &[(u64, u64)], length: Duration, slots_len: u64, now_s: u64) -> Recorded {
        let slot_ns = length.as_nanos() as u64 / slots_len;
        let end = now_s * 1_000_000_000 / slot_ns;
        let mut sum = Recorded::default();
        for (at_s, value_us) in values {
            if at_s * 1_000_000_000 / slot_ns + slots_len > end {
                sum.record(*value_us, 1);
            }
        }
        sum
    }

    proptest! {
        #[test]
        fn windows_tell_what_a_list_of_everything_tells(
            steps in prop::collection::vec((prop_oneof![0_u64..20, 0_u64..400, 0_u64..90_000], 1_u64..10_000), 1..200),
            idle_s in prop_oneof![0_u64..100, 0_u64..100_000],
            slots_len in prop_oneof![Just(6_u8), Just(12_u8)],
        ) {
            let (mut windows, mut values, mut now_s) = (Windows::new(slots_len), Vec::new(), 0);
            for (step_s, value_us) in steps {
                now_s += step_s;
                windows.record(value_us, Instant::from_secs(now_s));
                values.push((now_s, value_us));
            }
            now_s += idle_s;
            for (window, length) in Window::ALL.into_iter().zip(Window::LENGTHS) {
                let told = windows.of(window, Instant::from_secs(now_s));
                prop_assert_eq!(&told, &plain(&values, length, slots_len.into(), now_s));
                let (length_s, slot_s) = (length.as_secs(), length.as_secs() / u64::from(slots_len));
                let young = values.iter().filter(|(at_s, _)| at_s + length_s - slot_s > now_s).count() as u64;
                let not_too_old = values.iter().filter(|(at_s, _)| at_s + length_s > now_s).count() as u64;
                prop_assert!((young..=not_too_old).contains(&told.count()));
            }
            prop_assert_eq!(windows.since_start().count(), values.len() as u64);
        }
    }

    #[test]
    fn rings_stay_bounded_and_an_idle_period_is_empty() {
        let mut windows = Windows::new(12);
        let mut sum = Recorded::default();
        sum.record(100, 3);
        for second in 0..200_000 {
            windows.add(&sum, Instant::from_secs(second));
        }
        assert!(windows.rings.iter().all(|ring| ring.len() <= 12));
        let now = Instant::from_secs(199_999);
        let counts = Window::ALL.map(|window| windows.of(window, now).count() / 3);
        assert_eq!(counts, [60, 300, 3_500, 85_400 - 600, 200_000].map(|count| count), "{counts:?}");
        let later = now + Duration::from_secs(61);
        assert_eq!(Window::ALL.map(|window| windows.of(window, later).is_empty()), [true, false, false, false, false]);
    }

    #[test]
    fn a_windows_word_is_read_as_it_is_written() {
        assert!(Window::ALL.iter().all(|window| Window::parse(window.as_str()) == Some(*window)));
        assert_eq!(Window::parse("2m"), None);
    }
}
