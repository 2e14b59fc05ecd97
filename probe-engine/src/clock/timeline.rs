//! How far the clock is ahead of the kernel's, who sleeps by it, and who may move it.
//!
//! Bound: one sleeper per pod, and one per container that is being stopped; they are listed only on a stepped clock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_core::time::Instant;
use tokio::sync::Notify;

use super::{TIMELINE, monotonic};

/// See the module.
#[derive(Debug)]
pub(super) struct Timeline {
    moved_ns: AtomicU64,
    is_stepped: AtomicBool,
    holds: AtomicUsize,
    /// When they are due; the number tells those of one time apart.
    sleepers: Mutex<BTreeSet<(Instant, u64)>>,
    sleepers_made: AtomicU64,
    hopped: Notify,
}

/// See [`super::hold`].
#[derive(Debug)]
pub struct Hold(&'static Timeline);

/// A due time in the list, until it is dropped.
struct Sleeper<'a> {
    timeline: &'a Timeline,
    entry: (Instant, u64),
}

/// The right to move the clock: a test's, made before anything reads it.
#[derive(Debug)]
pub struct Stepper(&'static Timeline);

impl Timeline {
    pub(super) const fn new() -> Self {
        Self {
            moved_ns: AtomicU64::new(0),
            is_stepped: AtomicBool::new(false),
            holds: AtomicUsize::new(0),
            sleepers: Mutex::new(BTreeSet::new()),
            sleepers_made: AtomicU64::new(0),
            hopped: Notify::const_new(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        monotonic() + self.moved()
    }

    pub(super) fn moved(&self) -> Duration {
        Duration::from_nanos(self.moved_ns.load(Ordering::Relaxed))
    }

    pub(super) fn is_stepped(&self) -> bool {
        self.is_stepped.load(Ordering::Relaxed)
    }

    pub(super) async fn sleep_until(&self, at: Instant, now: impl Fn() -> Instant) {
        let _listed = self.is_stepped().then(|| Sleeper::new(self, at));
        loop {
            // Before the clock is read: it hears of every hop after this.
            let hopped = self.hopped.notified();
            let left = at - now();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = hopped => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    pub(super) fn hold(&'static self) -> Hold {
        self.holds.fetch_add(1, Ordering::AcqRel);
        Hold(self)
    }

    fn sleepers(&self) -> MutexGuard<'_, BTreeSet<(Instant, u64)>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<'a> Sleeper<'a> {
    fn new(timeline: &'a Timeline, at: Instant) -> Self {
        let entry = (at, timeline.sleepers_made.fetch_add(1, Ordering::Relaxed));
        timeline.sleepers().insert(entry);
        Self { timeline, entry }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.timeline.sleepers().remove(&self.entry);
    }
}

impl Stepper {
    /// Takes the clock; `None` where somebody has it.
    #[must_use]
    pub fn take() -> Option<Self> {
        Self::of(&TIMELINE)
    }

    fn of(timeline: &'static Timeline) -> Option<Self> {
        (!timeline.is_stepped.swap(true, Ordering::SeqCst)).then_some(Self(timeline))
    }

    /// When the first sleeper is due; `None` = nobody sleeps.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.0.sleepers().first().map(|(at, _)| *at)
    }

    /// Work is under way that only a [`Hold`] shows.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.holds.load(Ordering::Acquire) > 0
    }

    /// Moves the clock to `at`, never back, and wakes the sleepers. Threads that wait for times of their own must be woken afterwards.
    pub fn hop_to(&self, at: Instant) {
        let hop = at - self.0.now();
        self.0.moved_ns.fetch_add(u64::try_from(hop.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
        self.0.hopped.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    /// One of the test's own, not the program's.
    fn timeline() -> &'static Timeline {
        Box::leak(Box::new(Timeline::new()))
    }

    #[test]
    fn it_is_the_kernels_clock_until_somebody_moves_it() {
        let timeline = timeline();
        let before = monotonic();
        let now = timeline.now();
        assert!(before <= now && now <= monotonic());
        assert!(!timeline.is_stepped());
        let stepper = Stepper::of(timeline).expect("nobody has it");
        assert!(Stepper::of(timeline).is_none() && timeline.is_stepped());
        assert_eq!(timeline.moved(), Duration::ZERO);
        stepper.hop_to(now + HOUR);
        assert!(timeline.now() >= now + HOUR && timeline.moved() <= HOUR);
    }

    #[test]
    fn it_never_goes_back() {
        let timeline = timeline();
        let stepper = Stepper::of(timeline).expect("nobody has it");
        stepper.hop_to(timeline.now() + HOUR);
        let moved = timeline.moved();
        stepper.hop_to(monotonic());
        assert_eq!(timeline.moved(), moved);
    }

    #[tokio::test]
    async fn a_hop_ends_the_sleeps_that_it_reaches_and_no_other() {
        let timeline = timeline();
        let stepper = Stepper::of(timeline).expect("nobody has it");
        let now = timeline.now();
        let sleep = |at| Box::pin(timeline.sleep_until(at, || timeline.now()));
        let (mut one, mut two) = (sleep(now + HOUR), sleep(now + HOUR * 2));
        let both = async { tokio::join!(&mut one, &mut two) };
        assert!(tokio::time::timeout(Duration::ZERO, both).await.is_err());
        assert_eq!(stepper.next_due(), Some(now + HOUR));
        stepper.hop_to(now + HOUR);
        one.await;
        assert!(tokio::time::timeout(Duration::ZERO, &mut two).await.is_err());
        assert_eq!(stepper.next_due(), Some(now + HOUR * 2));
        drop(two);
        assert_eq!(stepper.next_due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_by_another_reading_ends_by_it() {
        let timeline = timeline();
        let (base, timers) = (timeline.now(), tokio::time::Instant::now());
        timeline.sleep_until(base + HOUR, || base + timers.elapsed()).await;
        assert!(timers.elapsed() >= HOUR, "tokio's paused time went on by itself");
        assert!(timeline.now() < base + HOUR && timeline.sleepers().is_empty());
    }

    #[test]
    fn it_is_held_while_a_hold_lives() {
        let timeline = timeline();
        let stepper = Stepper::of(timeline).expect("nobody has it");
        let (one, two) = (timeline.hold(), timeline.hold());
        drop(one);
        assert!(stepper.is_held());
        drop(two);
        assert!(!stepper.is_held());
    }
}
