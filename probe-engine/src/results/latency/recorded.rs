//! What was recorded in a histogram, without the buckets that are empty.
//!
//! The buckets are those of the shards' [`hdrhistogram::Histogram`]: microseconds, 2 significant digits, up to one hour. One that
//! was hit takes 8 bytes. Bound: [`BUCKETS_LEN_MAX`] of them, 26 KB; latencies that lie within a factor of eight of each other
//! take at most 384, 3 KB.

use hdrhistogram::Histogram;

/// Bits of a cell that count.
const COUNT_BITS: u32 = 52;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// Values below 256 us have a bucket each, those above 128 in each octave.
const OCTAVE_BITS: u32 = 7;
const OCTAVE_LEN: u64 = 1 << OCTAVE_BITS;

/// The longest time that is told apart, in microseconds. Longer counts as this.
pub const LONGEST_US: u64 = crate::shard::metrics::LONGEST_US;

/// Buckets up to it.
pub const BUCKETS_LEN_MAX: usize = bucket_of(LONGEST_US) as usize + 1;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// By rising bucket: its place in the upper 12 bits, its count, never 0, below.
    cells: Vec<u64>,
}

impl Recorded {
    /// Adds `count` of this many microseconds; 0 counts as 1.
    pub fn record(&mut self, value_us: u64, count: u64) {
        self.add_to(bucket_of(value_us.clamp(1, LONGEST_US)), count);
    }

    /// Adds what another has.
    pub fn add(&mut self, other: &Self) {
        if self.cells.is_empty() {
            self.cells.clone_from(&other.cells);
            return;
        }
        // Both rise: each search goes on where the one before ended.
        let mut place = 0;
        for cell in &other.cells {
            let bucket = cell >> COUNT_BITS;
            while self.cells.get(place).is_some_and(|own| own >> COUNT_BITS < bucket) {
                place += 1;
            }
            match self.cells.get_mut(place).filter(|own| **own >> COUNT_BITS == bucket) {
                Some(own) => *own = bucket << COUNT_BITS | sum(*own & COUNT_MAX, cell & COUNT_MAX),
                None => self.cells.insert(place, *cell),
            }
        }
    }

    /// Adds what a histogram of the shards has: nothing longer than [`LONGEST_US`].
    pub fn add_histogram(&mut self, histogram: &Histogram<u64>) {
        self.record(0, histogram.count_at(0));
        if histogram.max() == 0 {
            return;
        }
        // `iter_recorded` would look at all buckets from the first one on, and come by each that was hit twice.
        for bucket in bucket_of(histogram.min_nz())..=bucket_of(histogram.max().min(LONGEST_US)) {
            self.add_to(bucket, histogram.count_at(highest_of(bucket)));
        }
    }

    fn add_to(&mut self, bucket: u64, count: u64) {
        if count == 0 {
            return;
        }
        match self.cells.binary_search_by_key(&bucket, |cell| cell >> COUNT_BITS) {
            Ok(place) => {
                self.cells[place] = bucket << COUNT_BITS | sum(self.cells[place] & COUNT_MAX, count);
            }
            Err(place) => self.cells.insert(place, bucket << COUNT_BITS | count.min(COUNT_MAX)),
        }
    }

    /// What it has and an earlier look at it had not.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut before = earlier.cells.iter().peekable();
        let cells = self.cells.iter().filter_map(|cell| {
            while before.next_if(|before| **before >> COUNT_BITS < cell >> COUNT_BITS).is_some() {}
            let before = before.next_if(|before| **before >> COUNT_BITS == cell >> COUNT_BITS);
            let count = (cell & COUNT_MAX).saturating_sub(before.map_or(0, |before| before & COUNT_MAX));
            (count > 0).then_some(cell & !COUNT_MAX | count)
        });
        Self { cells: cells.collect() }
    }

    /// Nothing, in the same memory.
    pub fn clear(&mut self) {
        self.cells.clear();
    }

    /// Gives back memory that is not in use.
    pub fn shrink(&mut self) {
        self.cells.shrink_to_fit();
    }

    /// Nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// How often something was.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cells.iter().map(|cell| cell & COUNT_MAX).sum()
    }

    /// Microseconds, rising, and how often each was recorded. A value stands for all that its bucket holds, the largest of them.
    pub fn pairs(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.cells.iter().map(|cell| (highest_of(cell >> COUNT_BITS), cell & COUNT_MAX))
    }

    /// The same with the smallest of each bucket.
    pub fn pairs_from(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.cells.iter().map(|cell| (lowest_of(cell >> COUNT_BITS), cell & COUNT_MAX))
    }

    /// So large a part, 0 to 1, is at most this many microseconds, the largest of its bucket. `None` where fewer were counted than
    /// the quantile needs: see [`is_told`].
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        if !is_told(quantile, count) {
            return None;
        }
        let rank = ((quantile * count as f64).ceil() as u64).clamp(1, count);
        let mut sum = 0;
        let reached = self.pairs().find(|(_, count)| {
            sum += count;
            sum >= rank
        });
        reached.map(|(value_us, _)| value_us)
    }

    /// The largest, or all that cannot be told from it; 0 where there is none.
    #[must_use]
    pub fn max_us(&self) -> u64 {
        self.pairs().next_back().map_or(0, |(value_us, _)| value_us)
    }

    /// Heap in use, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.cells.capacity() * size_of::<u64>()
    }
}

/// A quantile is told of as many values as it takes for one to lie above it: 10 for p90, 100 for p99, 10,000 for p99.99; the
/// median of any.
#[must_use]
pub fn is_told(quantile: f64, count: u64) -> bool {
    // 1.0 - 0.9 is a little less than 0.1.
    let enough = count as f64 * (1.0 - quantile) > 1.0 - 1e-9;
    count > 0 && (enough || quantile <= 0.5)
}

fn sum(count: u64, more: u64) -> u64 {
    count.saturating_add(more).min(COUNT_MAX)
}

const fn bucket_of(value_us: u64) -> u64 {
    let octave = (u64::BITS - value_us.leading_zeros()).saturating_sub(OCTAVE_BITS + 1) as u64;
    octave * OCTAVE_LEN + (value_us >> octave)
}

const fn highest_of(bucket: u64) -> u64 {
    lowest_of(bucket + 1) - 1
}

const fn lowest_of(bucket: u64) -> u64 {
    let octave = (bucket >> OCTAVE_BITS).saturating_sub(1);
    (bucket - octave * OCTAVE_LEN) << octave
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram() -> Histogram<u64> {
        Histogram::new_with_bounds(1, LONGEST_US, 2).expect("valid bounds")
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = prop_oneof![0_u64..300, 1_u64..100_000, 1_u64..=LONGEST_US, Just(LONGEST_US), Just(256), Just(511)];
        prop::collection::vec(value, 0..300)
    }

    proptest! {
        #[test]
        fn its_buckets_are_those_of_hdrhistogram(value in 1_u64..=LONGEST_US) {
            prop_assert_eq!(highest_of(bucket_of(value)), histogram().highest_equivalent(value));
            prop_assert_eq!(lowest_of(bucket_of(value)), histogram().lowest_equivalent(value));
            prop_assert!((bucket_of(value) as usize) < BUCKETS_LEN_MAX);
        }

        #[test]
        fn it_holds_what_hdrhistogram_holds(values in values(), more in values()) {
            let (mut recorded, mut other, mut both) = (Recorded::default(), Recorded::default(), histogram());
            for value in &values {
                recorded.record(*value, 2);
                both.record_n(*value, 2).expect("in range");
            }
            for value in &more {
                other.record(*value, 1);
                both.record(*value).expect("in range");
            }
            let before = recorded.clone();
            recorded.add(&other);
            let mut same = Recorded::default();
            same.add_histogram(&both);
            prop_assert_eq!(&recorded, &same);
            prop_assert_eq!(recorded.count(), both.len());
            prop_assert_eq!(recorded.since(&before), other);
            for quantile in [0.5, 0.9, 0.99] {
                if let Some(value_us) = recorded.quantile_us(quantile) {
                    prop_assert_eq!(value_us, both.value_at_quantile(quantile));
                }
            }
        }

        #[test]
        fn a_quantile_is_not_below_the_exact_one_and_at_most_one_hundredth_above(
            mut values in prop::collection::vec(1_u64..50_000_000, 10_000),
        ) {
            let mut recorded = Recorded::default();
            values.iter().for_each(|value| recorded.record(*value, 1));
            values.sort_unstable();
            for quantile in [0.5, 0.9, 0.99, 0.999, 0.9999] {
                let exact = values[(quantile * values.len() as f64).ceil() as usize - 1];
                let told = recorded.quantile_us(quantile).expect("enough were counted");
                prop_assert!(told >= exact && told as f64 <= exact as f64 * 1.01, "{} {} {}", quantile, told, exact);
            }
        }
    }

    #[test]
    fn a_quantile_is_told_where_one_value_lies_above_it() {
        let told = |count| [0.5, 0.9, 0.99, 0.999, 0.9999].map(|quantile| is_told(quantile, count));
        assert_eq!(told(0), [false; 5]);
        assert_eq!(told(1), [true, false, false, false, false]);
        assert_eq!(told(10), [true, true, false, false, false]);
        assert_eq!(told(99), [true, true, false, false, false]);
        assert_eq!(told(100), [true, true, true, false, false]);
        assert_eq!(told(1_000), [true, true, true, true, false]);
        assert_eq!(told(10_000), [true; 5]);
    }

    #[test]
    fn its_size_is_what_limits_say() {
        assert_eq!(BUCKETS_LEN_MAX, 3_287);
        let mut recorded = Recorded::default();
        (400..3_200).for_each(|value_us| recorded.record(value_us, u64::MAX));
        assert_eq!((recorded.cells.len(), recorded.count()), (384, 384 * COUNT_MAX));
    }
}
