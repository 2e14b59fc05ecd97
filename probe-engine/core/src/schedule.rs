//! Due times on a fixed grid, and the stagger after the daemon's start.
//!
//! Source: `pkg/kubelet/prober/worker.go`, `run`: a ticker made once, whose phase a slow probe does not move.
//!
//! **Invariant:** between two triggers every due time is `t0 + k * period`, however late it was taken.

use core::time::Duration;

use crate::id::{ContainerName, PodUid, ProbeType};
use crate::time::Instant;

/// Due times lie on multiples of this (of CLOCK_MONOTONIC), so that a shard wakes once for all that are due then and not
/// once for each. The kubelet's stagger is random anyway; where a grid begins at another moment (a pod added later, a
/// trigger), its first interval is longer by less than this. Periods are whole seconds, so every later one is exact.
pub const GRID: Duration = Duration::from_nanos(GRID_NS);
const GRID_NS: u64 = 10_000_000;

/// The due times of one worker. Its period is the caller's, the same in every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    next: Instant,
}

/// Due times that have passed, see [`Schedule::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The oldest of them: the one that the ticker's channel holds.
    pub due: Instant,
    /// The later ones: the channel was full, they are dropped.
    pub dropped: u32,
}

impl Taken {
    /// Those that are not before `from`; `None` where all are.
    #[must_use]
    pub fn not_before(self, period: Duration, from: Instant) -> Option<Self> {
        if self.due >= from {
            return Some(self);
        }
        let steps = due_times_between(period, self.due, from);
        let dropped = u64::from(self.dropped).checked_sub(steps)?;
        Some(Self { due: self.due + times(period, steps), dropped: u32::try_from(dropped).unwrap_or(u32::MAX) })
    }
}

impl Schedule {
    /// A grid through `first`, its first due time.
    #[must_use]
    pub fn new(first: Instant) -> Self {
        Self { next: first }
    }

    /// The next due time that nobody has taken.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }

    /// The next due time that is not before `from`.
    #[must_use]
    pub fn next_from(&self, period: Duration, from: Instant) -> Instant {
        self.next + times(period, due_times_between(period, self.next, from))
    }

    /// Takes all due times up to `now`; the next one is the first of the same grid after `now`. A period of 0 is taken as
    /// 1 ns, so that time goes on.
    pub fn take(&mut self, period: Duration, now: Instant) -> Option<Taken> {
        if self.next > now {
            return None;
        }
        let due = self.next;
        let period_ns = nanos_of(period);
        let passed_ns = now.as_nanos() - due.as_nanos();
        // Nearly always the one that was waited for: no division.
        let dropped = if passed_ns < period_ns { 0 } else { passed_ns / period_ns };
        let step_ns = (dropped + 1).saturating_mul(period_ns);
        self.next = due + Duration::from_nanos(step_ns);
        Some(Taken { due, dropped: u32::try_from(dropped).unwrap_or(u32::MAX) })
    }

    /// A manual trigger was consumed at `at`: the next due time is one period from there (rule 2.3.3), at the next
    /// multiple of [`GRID`].
    pub fn rephase(&mut self, period: Duration, at: Instant) {
        self.next = on_grid(at + period);
    }
}

/// How many due times of a grid through `first` lie before `end`, from `first` on.
fn due_times_between(period: Duration, first: Instant, end: Instant) -> u64 {
    end.as_nanos().saturating_sub(first.as_nanos()).div_ceil(nanos_of(period))
}

fn times(period: Duration, count: u64) -> Duration {
    Duration::from_nanos(nanos_of(period).saturating_mul(count))
}

/// 0 counts as 1, so that time goes on.
fn nanos_of(period: Duration) -> u64 {
    u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// The first multiple of [`GRID`] that is not before `at`.
fn on_grid(at: Instant) -> Instant {
    Instant::from_nanos(at.as_nanos().div_ceil(GRID_NS).saturating_mul(GRID_NS))
}

/// When a worker made at `now` takes its first step: at once, unless the manager is younger than one period;
/// then after a wait in `[0, period)` that depends on the seed and the worker's key alone (rule 2.3.1), at a multiple
/// of [`GRID`].
#[must_use]
pub fn first_step(
    seed: u64,
    key: (&PodUid, &ContainerName, ProbeType),
    period: Duration,
    manager_start: Instant,
    now: Instant,
) -> Instant {
    if period <= now - manager_start {
        return now;
    }
    let (pod, container, probe_type) = key;
    let mut hash = fnv1a(0xcbf2_9ce4_8422_2325 ^ seed, pod.as_str().as_bytes());
    hash = fnv1a(hash, &[0xff]);
    hash = fnv1a(hash, container.as_str().as_bytes());
    hash = fnv1a(hash, &[0xff, probe_type.index() as u8]);
    let fraction = u128::from(mix(hash));
    let wait_ns = (fraction * period.as_nanos()) >> 64;
    let at = now + Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX));
    let before = Instant::from_nanos(at.as_nanos() / GRID_NS * GRID_NS);
    if before < now { on_grid(now) } else { before }
}

fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// Spreads what differs in a few bits over all of them (the finaliser of splitmix64).
#[must_use]
pub const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use super::*;

    fn key(uid: &PodUid) -> (&PodUid, ContainerName, ProbeType) {
        (uid, ContainerName::from("c"), ProbeType::Liveness)
    }

    const PERIOD: Duration = Duration::from_secs(10);

    #[test]
    fn a_late_take_does_not_move_the_grid() {
        let mut schedule = Schedule::new(Instant::from_secs(3));
        assert_eq!(schedule.take(PERIOD, Instant::from_millis(2_999)), None);
        let taken = schedule.take(PERIOD, Instant::from_millis(3_700));
        assert_eq!(taken, Some(Taken { due: Instant::from_secs(3), dropped: 0 }));
        assert_eq!(schedule.next(), Instant::from_secs(13));
    }

    #[test]
    fn due_times_in_between_are_dropped_and_the_oldest_is_kept() {
        let mut schedule = Schedule::new(Instant::from_secs(3));
        let taken = schedule.take(PERIOD, Instant::from_secs(43));
        assert_eq!(taken, Some(Taken { due: Instant::from_secs(3), dropped: 4 }));
        assert_eq!(schedule.next(), Instant::from_secs(53));
        assert_eq!(schedule.take(PERIOD, Instant::from_secs(43)), None);
    }

    #[test]
    fn a_take_just_one_period_late_drops_the_due_time_of_that_moment() {
        let mut schedule = Schedule::new(Instant::from_secs(3));
        let taken = schedule.take(PERIOD, Instant::from_secs(13));
        assert_eq!(taken, Some(Taken { due: Instant::from_secs(3), dropped: 1 }));
        assert_eq!(schedule.next(), Instant::from_secs(23));
    }

    #[test]
    fn what_is_left_of_due_times_from_a_moment_on_lies_on_the_same_grid() {
        let taken = Taken { due: Instant::from_secs(3), dropped: 4 };
        let left = |millis| taken.not_before(PERIOD, Instant::from_millis(millis));
        let at = |secs, dropped| Some(Taken { due: Instant::from_secs(secs), dropped });
        assert_eq!([left(0), left(3_000), left(3_001), left(13_000)], [at(3, 4), at(3, 4), at(13, 3), at(13, 3)]);
        assert_eq!([left(42_999), left(43_000), left(43_001)], [at(43, 0), at(43, 0), None]);
        let schedule = Schedule::new(Instant::from_secs(3));
        let next = |millis| schedule.next_from(PERIOD, Instant::from_millis(millis)).as_nanos() / 1_000_000_000;
        assert_eq!([0, 3_000, 3_001, 13_000, 13_001].map(next), [3, 3, 13, 13, 23]);
    }

    #[test]
    fn a_trigger_sets_the_grid_anew() {
        let mut schedule = Schedule::new(Instant::from_secs(3));
        schedule.rephase(PERIOD, Instant::from_millis(7_500));
        assert_eq!(schedule.next(), Instant::from_millis(17_500));
        schedule.rephase(PERIOD, Instant::from_nanos(7_500_000_001));
        assert_eq!(schedule.next(), Instant::from_millis(17_510), "the first interval is longer by less than GRID");
    }

    #[test]
    fn only_a_manager_younger_than_a_period_staggers() {
        let uid = PodUid::from("a");
        let (pod, container, probe_type) = key(&uid);
        let first = |age: u64| {
            let now = Instant::from_secs(100 + age);
            first_step(7, (pod, &container, probe_type), Duration::from_secs(10), Instant::from_secs(100), now) - now
        };
        assert_eq!(first(10), Duration::ZERO);
        assert_eq!(first(1000), Duration::ZERO);
        assert!(first(0) > Duration::ZERO && first(0) < Duration::from_secs(10));
        assert_eq!(first(0), first(9), "it depends on seed and key alone");
    }

    #[test]
    fn the_stagger_is_spread_over_the_period() {
        let mut tenths = [0_u32; 10];
        for i in 0..10_000 {
            let uid = PodUid::new(std::format!("pod-{i}"));
            let (pod, container, probe_type) = key(&uid);
            let wait =
                first_step(1, (pod, &container, probe_type), Duration::from_secs(10), Instant::ZERO, Instant::ZERO);
            tenths[(wait.as_nanos() / 1_000_000_000) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (850..1150).contains(n)), "{tenths:?}");
    }

    #[test]
    fn every_bit_of_the_seed_and_every_part_of_the_key_moves_the_stagger() {
        let first = |seed, pod: &str, container: &str, probe_type| {
            let (pod, container) = (PodUid::from(pod), ContainerName::from(container));
            let period = Duration::from_secs(1_000_000);
            first_step(seed, (&pod, &container, probe_type), period, Instant::ZERO, Instant::ZERO).as_nanos()
        };
        let mut all: Vec<u64> = (0..64).map(|bit| first(1 << bit, "p", "c", ProbeType::Liveness)).collect();
        all.extend(ProbeType::ALL.map(|probe_type| first(0, "p", "c", probe_type)));
        all.push(first(0, "other", "c", ProbeType::Liveness));
        all.push(first(0, "p", "d", ProbeType::Liveness));
        let unlike: BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!(unlike.len(), all.len(), "{all:?}");
    }

    #[test]
    fn the_hashes_are_the_published_ones() {
        // FNV-1a, 64 bits: draft-eastlake-fnv, appendix C.
        let fnv = |text: &str| fnv1a(0xcbf2_9ce4_8422_2325, text.as_bytes());
        assert_eq!(["", "a", "foobar"].map(fnv), [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8]);
        // The first two numbers of splitmix64 from seed 0 (Vigna, `splitmix64.c`): its state goes up by the golden ratio.
        let golden = 0x9e37_79b9_7f4a_7c15_u64;
        assert_eq!([golden, golden.wrapping_mul(2)].map(mix), [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn every_due_time_lies_on_the_grid() {
        let now = Instant::from_nanos(123_456_789);
        for i in 0..1_000 {
            let uid = PodUid::new(std::format!("pod-{i}"));
            let (pod, container, probe_type) = key(&uid);
            let first = first_step(1, (pod, &container, probe_type), PERIOD, now, now);
            assert!(first >= now && first < now + PERIOD);
            assert_eq!(first.as_nanos() % GRID_NS, 0);
            let mut schedule = Schedule::new(first);
            schedule.take(PERIOD, first + Duration::from_nanos(7));
            assert_eq!(schedule.next(), first + PERIOD);
            // So short that many begin before the first multiple after `now`.
            let first = first_step(1, (pod, &container, probe_type), 2 * GRID, now, now);
            assert!(first >= now && first < now + 2 * GRID && first.as_nanos().is_multiple_of(GRID_NS), "{first:?}");
        }
    }
}
