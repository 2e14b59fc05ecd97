//! The counts of one probe: written by the shard that has its worker, read by anyone.
//!
//! There is one for every probe of the node, and a passive success writes little else, so the layout is kept on purpose:
//! what such a success touches stands in the first 32 bytes, the whole in 72 (88 with the counts of the `Arc`, which is a
//! size that malloc hands out without a rest). Failures, near misses, and durations above the first bucket, get a box of their
//! own: with the first failure or near miss, and with the second such duration, since on a busy node every first attempt is a
//! slow one.
//!
//! **Invariant:** one thread writes: the shard's. So each write is a load and a store, relaxed, and no
//! read-modify-write. A reader may see the fields of two attempts at once, never a torn number. One field is the results
//! stage's alone: [`ProbeStats::detail`].

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use once_cell::race::OnceBox;
use probe_core::spec::ProbeSpec;

use super::sketch::{FAST_BUCKETS_US, Sketch};
use crate::ebpf::Answer;

/// Upper bounds, in seconds, of `prober_probe_duration_seconds` (client_golang's default buckets).
pub const DURATION_BUCKETS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The first of them in nanoseconds.
const FIRST_BUCKET_NS: u64 = 5_000_000;

/// In `answers`: the newest attempt was answered passively.
const PASSIVE: u32 = 1 << 31;
/// In `answers`: the worker has ended.
const ENDED: u32 = 1 << 30;
/// In `answers`: the newest call was a passive success, over within one look at the clock.
const INSTANT: u32 = 1 << 29;
/// In `answers`: the newest call was a failure.
const FAILED: u32 = 1 << 28;
/// In `answers`: 1 + the bucket of the first success above [`FIRST_BUCKET_NS`], as [`Rare::slow`] counts them; 0 = none yet.
const SLOW: u32 = 0xf << SLOW_SHIFT;
const SLOW_SHIFT: u32 = 24;
/// In `answers`: [`Answer::to_bits`] of the newest attempt that was not answered passively.
const ANSWER: u32 = (1 << 24) - 1;

/// Counts of one probe since its worker was made; see the module. Counts are of 32 bits: at one attempt a second 136 years.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ProbeStats {
    last_at_ns: AtomicU64,
    due_ns: AtomicU64,
    successful: AtomicU32,
    passive: AtomicU32,
    run: AtomicU32,
    /// How the newest attempts were answered, and flags: see the constants.
    answers: AtomicU32,
    // From here on: not touched by steady passive successes.
    duration_sum_ns: AtomicU64,
    last_duration_us: AtomicU32,
    real: AtomicU32,
    rare: OnceBox<Rare>,
    /// Of real successes, the longest.
    longest_us: AtomicU32,
    /// Real successes per bucket of [`FAST_BUCKETS_US`]: their shares. All are halved when one is full.
    fast: [AtomicU16; FAST_BUCKETS_US.len()],
    /// Written by the results stage: what its [`super::latency::Details`] know this probe by; 0 = they do not.
    detail: AtomicU16,
}

/// What a probe that is well does not have.
#[derive(Debug, Default)]
struct Rare {
    failed: AtomicU32,
    /// Successes per bucket of [`DURATION_BUCKETS_S`] but the first (not cumulative), the last for what is longer; without
    /// the very first of them: see [`SLOW`].
    slow: [AtomicU32; DURATION_BUCKETS_S.len()],
    /// Attempts that nearly ran out of time.
    near: AtomicU32,
    /// When the newest of them ended, in units of 2^[`NEAR_AT_SHIFT`] ns, rounded down, but at least 1.
    near_at: AtomicU32,
}

/// 134 ms: in 32 bits, 18 years since the machine started.
const NEAR_AT_SHIFT: u32 = 27;

const _: () = assert!(size_of::<Rare>() <= 56, "malloc hands out 56 bytes and 8 of its own, then 72");
const _: () = assert!(DURATION_BUCKETS_S.len() < (SLOW >> SLOW_SHIFT) as usize);

/// What `prober_probe_duration_seconds` shows of one probe, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// Successes per bucket of [`DURATION_BUCKETS_S`] (not cumulative), the last for what is longer.
    pub counts: [u64; DURATION_BUCKETS_S.len() + 1],
    /// Sum of what was observed, in nanoseconds.
    pub sum_ns: u64,
}

impl Durations {
    /// Adds those of another probe.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

/// What the shard writes.
impl ProbeStats {
    /// Counts one call of the prober that was not discarded and ended at `at_ns` (CLOCK_MONOTONIC): a result `run` times in a
    /// row. Durations count only of successes (rule 7.1).
    pub fn record(&self, success: bool, duration_ns: u64, at_ns: u64, run: u32) {
        set_u64(&self.last_at_ns, at_ns);
        set(&self.run, run);
        let duration_us = u32::try_from(duration_ns.div_ceil(1_000)).unwrap_or(u32::MAX);
        set(&self.last_duration_us, duration_us);
        let failed = if success { 0 } else { FAILED };
        let answers = load(&self.answers);
        set(&self.answers, answers & !(INSTANT | FAILED) | failed);
        if !success {
            count(&self.rare().failed);
            return;
        }
        count(&self.successful);
        set_u64(&self.duration_sum_ns, load_u64(&self.duration_sum_ns).wrapping_add(duration_ns));
        if duration_ns > FIRST_BUCKET_NS {
            let seconds = duration_ns as f64 / 1e9;
            let bucket = DURATION_BUCKETS_S[1..].iter().position(|le| seconds <= *le);
            self.count_slow(bucket.unwrap_or(DURATION_BUCKETS_S.len() - 1));
        }
        if answers & PASSIVE == 0 {
            self.sketch_real(duration_us);
        }
    }

    fn count_slow(&self, bucket: usize) {
        let answers = load(&self.answers);
        if answers & SLOW == 0 {
            set(&self.answers, answers | (bucket as u32 + 1) << SLOW_SHIFT);
        } else {
            count(&self.rare().slow[bucket]);
        }
    }

    /// Counts the duration of a real success; longer than the last of [`FAST_BUCKETS_US`] is counted in `slow`.
    fn sketch_real(&self, duration_us: u32) {
        if duration_us > load(&self.longest_us) {
            set(&self.longest_us, duration_us);
        }
        let Some(place) = FAST_BUCKETS_US.iter().position(|upper_us| duration_us <= *upper_us) else { return };
        if self.fast[place].load(Ordering::Relaxed) == u16::MAX {
            // Rounded up: what was seen once stays.
            self.fast.iter().for_each(|of| of.store(of.load(Ordering::Relaxed).div_ceil(2), Ordering::Relaxed));
        }
        let counted = self.fast[place].load(Ordering::Relaxed);
        self.fast[place].store(counted + 1, Ordering::Relaxed);
    }

    /// Counts an attempt that took nearly all of its time and succeeded, and ended at `at_ns` (CLOCK_MONOTONIC).
    pub fn note_near(&self, at_ns: u64) {
        let rare = self.rare();
        count(&rare.near);
        set(&rare.near_at, u32::try_from(at_ns >> NEAR_AT_SHIFT).unwrap_or(u32::MAX).max(1));
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// Counts one steady success from kernel state and the next due time. Does
    /// what [`ProbeStats::record`], [`ProbeStats::note_answer`] and [`ProbeStats::set_due`] would. It took less than the
    /// turn's clock can tell: it counts in the first bucket of the durations and adds nothing to their sum.
    pub fn record_passive(&self, at_ns: u64, run: u32, due_ns: u64) {
        set_u64(&self.last_at_ns, at_ns);
        set_u64(&self.due_ns, due_ns);
        count(&self.successful);
        count(&self.passive);
        set(&self.run, run);
        set(&self.answers, load(&self.answers) & !FAILED | PASSIVE | INSTANT);
    }

    /// Before the first call: so many results of one kind in a row, which another daemon has seen.
    pub fn remember(&self, passed: bool, run: u32) {
        set(&self.run, run);
        let failed = if passed { 0 } else { FAILED };
        set(&self.answers, load(&self.answers) & !FAILED | failed);
    }

    /// How the newest attempt was answered; trouble of our own is no answer.
    pub fn note_answer(&self, answer: Answer) {
        let answers = load(&self.answers);
        if answer == Answer::Passive {
            set(&self.answers, answers | PASSIVE);
            count(&self.passive);
        } else {
            set(&self.answers, (answers & !(PASSIVE | ANSWER)) | (answer.to_bits() & ANSWER));
            count(&self.real);
        }
    }

    /// The worker's next due time (CLOCK_MONOTONIC), 0 = none.
    pub fn set_due(&self, due_ns: u64) {
        set_u64(&self.due_ns, due_ns);
    }

    /// The worker has ended: its series end, and the container counts as one without this probe.
    pub fn end(&self) {
        set(&self.answers, load(&self.answers) | ENDED);
    }
}

/// What the results stage writes.
impl ProbeStats {
    /// From now on (0: no more) the shard tells of each attempt under this name.
    pub(crate) fn set_detail(&self, token: u16) {
        self.detail.store(token, Ordering::Relaxed);
    }
}

/// What anyone reads.
impl ProbeStats {
    /// Under which name the shard is to tell of each attempt; `None` = it is not.
    #[must_use]
    pub fn detail(&self) -> Option<NonZeroU16> {
        NonZeroU16::new(self.detail.load(Ordering::Relaxed))
    }

    /// Durations of the real successes.
    #[must_use]
    pub fn sketch(&self) -> Sketch {
        Sketch {
            count: self.successful().saturating_sub(self.passive()),
            sum_ns: load_u64(&self.duration_sum_ns),
            max_ns: u64::from(load(&self.longest_us)) * 1_000,
            fast: self.fast.each_ref().map(|fast| fast.load(Ordering::Relaxed)),
            slow: self.slow(),
        }
    }

    /// Successes per bucket of [`DURATION_BUCKETS_S`] but the first (not cumulative), the last for what is longer.
    fn slow(&self) -> [u64; DURATION_BUCKETS_S.len()] {
        let rare = self.rare.get();
        let mut slow =
            rare.map_or_else(Default::default, |rare| rare.slow.each_ref().map(|slow| u64::from(load(slow))));
        let first = (load(&self.answers) & SLOW) >> SLOW_SHIFT;
        if let Some(first) = first.checked_sub(1).and_then(|bucket| slow.get_mut(bucket as usize)) {
            *first += 1;
        }
        slow
    }

    /// Attempts that took nearly all of their time ([`crate::limits::NEAR_TIMEOUT_PERCENT`]) and succeeded.
    #[must_use]
    pub fn near_misses(&self) -> u64 {
        self.rare.get().map_or(0, |rare| load(&rare.near).into())
    }

    /// When the newest of them ended (CLOCK_MONOTONIC, at most 134 ms too early), 0 = there is none.
    #[must_use]
    pub fn near_at_ns(&self) -> u64 {
        self.rare.get().map_or(0, |rare| u64::from(load(&rare.near_at)) << NEAR_AT_SHIFT)
    }

    /// `prober_probe_total{result="successful"}`
    #[must_use]
    pub fn successful(&self) -> u64 {
        load(&self.successful).into()
    }

    /// `prober_probe_total{result="failed"}`
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.rare.get().map_or(0, |rare| load(&rare.failed).into())
    }

    /// Answers of a tcpSocket probe from kernel state.
    #[must_use]
    pub fn passive(&self) -> u64 {
        load(&self.passive).into()
    }

    /// Answers of a tcpSocket probe by a connection.
    #[must_use]
    pub fn real(&self) -> u64 {
        load(&self.real).into()
    }

    /// When the newest call that was not discarded ended (CLOCK_MONOTONIC), 0 = none yet.
    #[must_use]
    pub fn last_at_ns(&self) -> u64 {
        load_u64(&self.last_at_ns)
    }

    /// How long that call took, in whole microseconds (rounded up, at most 71 minutes), as nanoseconds; 0 of a steady
    /// passive success.
    #[must_use]
    pub fn last_duration_ns(&self) -> u64 {
        if load(&self.answers) & INSTANT != 0 { 0 } else { u64::from(load(&self.last_duration_us)) * 1_000 }
    }

    /// Results of one kind in a row, as of that call.
    #[must_use]
    pub fn run(&self) -> u32 {
        load(&self.run)
    }

    /// That call was a failure.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        load(&self.answers) & FAILED != 0
    }

    /// How many in a row make the verdict, as of that call: a failure's threshold or a success's. 0 before the first.
    #[must_use]
    pub fn threshold(&self, spec: &ProbeSpec) -> u32 {
        match (self.run(), load(&self.answers) & FAILED) {
            (0, _) => 0,
            (_, 0) => spec.success_threshold,
            _ => spec.failure_threshold,
        }
    }

    /// The worker's next due time (CLOCK_MONOTONIC), 0 = none.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        load_u64(&self.due_ns)
    }

    /// How the newest attempt of a tcpSocket probe was answered.
    #[must_use]
    pub fn answer(&self) -> Answer {
        if load(&self.answers) & PASSIVE != 0 { Answer::Passive } else { self.answer_real() }
    }

    /// The same of the newest attempt that made a connection.
    #[must_use]
    pub fn answer_real(&self) -> Answer {
        Answer::from_bits(load(&self.answers) & ANSWER)
    }

    /// The worker still lives (or has not been made yet).
    #[must_use]
    pub fn is_live(&self) -> bool {
        load(&self.answers) & ENDED == 0
    }

    /// The durations of its successes.
    #[must_use]
    pub fn durations(&self) -> Durations {
        let mut counts = [0; DURATION_BUCKETS_S.len() + 1];
        // Before the sum of all: what is counted meanwhile is then missing in the buckets that are read already, and
        // the first, which is what the others leave, is too large by it until the next look.
        counts[1..].copy_from_slice(&self.slow());
        counts[0] = self.successful().saturating_sub(counts[1..].iter().sum());
        Durations { counts, sum_ns: load_u64(&self.duration_sum_ns) }
    }
}

fn load(place: &AtomicU32) -> u32 {
    place.load(Ordering::Relaxed)
}

fn load_u64(place: &AtomicU64) -> u64 {
    place.load(Ordering::Relaxed)
}

fn set(place: &AtomicU32, value: u32) {
    place.store(value, Ordering::Relaxed);
}

fn set_u64(place: &AtomicU64, value: u64) {
    place.store(value, Ordering::Relaxed);
}

fn count(place: &AtomicU32) {
    set(place, load(place).wrapping_add(1));
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use probe_core::id::ProbeType;
    use probe_core::spec::ContainerKind;

    use super::super::fixture::container;
    use super::*;
    use crate::ebpf::Why;

    #[test]
    fn a_probes_counts_stay_small_and_passive_successes_touch_their_start() {
        assert!(size_of::<ProbeStats>() <= 72, "{}", size_of::<ProbeStats>());
        assert!(offset_of!(ProbeStats, answers) < 32 && offset_of!(ProbeStats, duration_sum_ns) == 32);
    }

    #[test]
    fn a_success_counts_in_the_bucket_of_its_duration_and_a_failure_in_none() {
        let stats = ProbeStats::default();
        for duration_ns in [1, 5_000_000, 5_000_001, 10_000_000, 10_000_000_000, 10_000_000_001] {
            stats.record(true, duration_ns, 7, 1);
        }
        stats.record(false, 3_000_000, 8, 1);
        let durations = stats.durations();
        assert_eq!(durations.counts, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(durations.sum_ns, 20_020_000_003);
        assert_eq!((stats.successful(), stats.failed(), stats.last_duration_ns()), (6, 1, 3_000_000));
        assert_eq!((stats.last_at_ns(), stats.run()), (8, 1));
    }

    #[test]
    fn passive_answers_are_not_in_the_sketch_and_near_misses_are_counted() {
        let stats = ProbeStats::default();
        stats.note_answer(Answer::Real(Why::First));
        stats.record(true, 40_000, 1, 1);
        stats.note_answer(Answer::Passive);
        stats.record(true, 0, 2, 2);
        (3..200).for_each(|at| stats.record_passive(at, 3, 0));
        stats.record(false, 1_000_000_000, 300, 1);
        let sketch = stats.sketch();
        assert_eq!((sketch.count, sketch.sum_ns, sketch.max_ns), (1, 40_000, 40_000));
        assert_eq!((sketch.quantile_ns(0.5), sketch.quantile_ns(0.99)), (Some(40_000), None));
        assert_eq!((stats.near_misses(), stats.near_at_ns()), (0, 0));
        stats.note_near(9);
        assert_eq!((stats.near_misses(), stats.near_at_ns()), (1, 1 << NEAR_AT_SHIFT));
        let at_ns = 3_600_000_000_001;
        stats.note_near(at_ns);
        assert!((at_ns - (1 << NEAR_AT_SHIFT)..=at_ns).contains(&stats.near_at_ns()), "{}", stats.near_at_ns());
        stats.note_near(u64::MAX);
        assert_eq!((stats.near_misses(), stats.near_at_ns()), (3, u64::from(u32::MAX) << NEAR_AT_SHIFT));
    }

    #[test]
    fn one_slow_success_takes_no_box_and_a_second_is_counted_beside_it() {
        let stats = ProbeStats::default();
        stats.note_answer(Answer::Real(Why::First));
        stats.record(true, 60_000_000_000, 1, 1);
        stats.note_answer(Answer::Passive);
        (2..9).for_each(|at| stats.record_passive(at, 3, 0));
        assert!(stats.rare.get().is_none(), "one that is slow");
        assert_eq!(stats.durations().counts, [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        stats.note_answer(Answer::Real(Why::First));
        stats.record(true, 60_000_000_000, 9, 9);
        stats.record(true, 7_000_000, 10, 10);
        stats.record(false, 7_000_000, 11, 1);
        assert_eq!(stats.durations().counts, [7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!((stats.sketch().slow[0], stats.sketch().slow[10], stats.failed()), (1, 2, 1));
        assert_eq!((stats.answer(), stats.has_failed()), (Answer::Real(Why::First), true));
    }

    #[test]
    fn a_steady_passive_success_is_a_success_that_took_no_time() {
        let stats = ProbeStats::default();
        stats.note_answer(Answer::Real(Why::First));
        stats.record(true, 40_000, 1, 1);
        stats.record_passive(9, 2, 19);
        assert_eq!((stats.successful(), stats.passive(), stats.real()), (2, 1, 1));
        assert_eq!((stats.last_at_ns(), stats.run(), stats.due_ns()), (9, 2, 19));
        assert_eq!((stats.last_duration_ns(), stats.durations().counts[0]), (0, 2));
        assert_eq!((stats.answer(), stats.answer_real()), (Answer::Passive, Answer::Real(Why::First)));
        stats.record(false, 50_000, 10, 1);
        assert_eq!(stats.last_duration_ns(), 50_000);
    }

    #[test]
    fn the_threshold_is_that_of_the_newest_results_kind() {
        let container = container("c", ContainerKind::Regular, &[ProbeType::Readiness]);
        let spec = container.probes.readiness.expect("it has one");
        let stats = ProbeStats::default();
        assert_eq!(stats.threshold(&spec), 0);
        stats.record(false, 1, 1, 1);
        assert_eq!(stats.threshold(&spec), spec.failure_threshold);
        stats.record(true, 1, 2, 1);
        assert_eq!(stats.threshold(&spec), spec.success_threshold);
        stats.record(false, 1, 3, 1);
        stats.record_passive(4, 1, 5);
        assert_eq!(stats.threshold(&spec), spec.success_threshold);
    }

    #[test]
    fn the_end_of_a_worker_leaves_its_answers() {
        let stats = ProbeStats::default();
        assert!(stats.is_live() && stats.answer() == Answer::None);
        stats.note_answer(Answer::Real(Why::TakenBy(u16::MAX)));
        stats.note_answer(Answer::Passive);
        stats.end();
        assert!(!stats.is_live());
        assert_eq!((stats.answer(), stats.answer_real()), (Answer::Passive, Answer::Real(Why::TakenBy(u16::MAX))));
    }
}
