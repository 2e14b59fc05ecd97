//! The only reader of the clock: CLOCK_MONOTONIC, and how far a test has moved it ahead of that.
//!
//! Long waits ([`sleep_until`], the due times of shards) end when this clock says so. A test that has taken it ([`Stepper`]) moves
//! it in hops, and only while nothing is under way: what is measured from its own start, such as an attempt's timeout, is
//! on real time all the same.
//!
//! **Invariant:** nobody has moved it unless the program has made a [`Stepper`]; `probe-engine` makes none (`cargo xtask tidy` checks).

mod timeline;

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use probe_core::time::Instant;

pub use self::timeline::{Hold, Stepper};

use self::timeline::Timeline;

static TIMELINE: Timeline = Timeline::new();

/// CLOCK_MONOTONIC now, on a stepped clock ahead of it.
#[must_use]
pub fn now() -> Instant {
    TIMELINE.now()
}

/// CLOCK_REALTIME now, moved with [`now`]: for what people and other programs read.
#[must_use]
pub fn wall() -> Timestamp {
    let real = real_wall();
    real.checked_add(moved()).unwrap_or(real)
}

/// CLOCK_REALTIME as the kernel has it: to be compared with the times of files.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub fn real_wall() -> Timestamp {
    Timestamp::now()
}

/// The wall-clock time of a monotonic point, by today's offset of the two clocks.
#[must_use]
pub fn wall_of(at: Instant) -> Timestamp {
    let (now, wall) = (now(), wall());
    let shifted = if at > now { wall.checked_add(at - now) } else { wall.checked_sub(now - at) };
    shifted.unwrap_or(wall)
}

/// How long until `at`; zero when it is past.
#[must_use]
pub fn until(at: Instant) -> Duration {
    at - now()
}

/// How far a test has moved the clock.
#[must_use]
pub fn moved() -> Duration {
    TIMELINE.moved()
}

/// The clock is a test's to move.
#[must_use]
pub fn is_stepped() -> bool {
    TIMELINE.is_stepped()
}

/// Returns once [`now`] is `at` or later. Cancel-safe.
pub async fn sleep_until(at: Instant) {
    TIMELINE.sleep_until(at, now).await;
}

/// The same by another reading of the clock, which must move by what [`moved`] tells.
pub async fn sleep_until_by(at: Instant, now: impl Fn() -> Instant) {
    TIMELINE.sleep_until(at, now).await;
}

/// While it lives the clock is not moved: for work that no thread, process or attempt in flight shows, such as a wait in real time
/// for something that will be over in a moment.
#[must_use]
pub fn hold() -> Hold {
    TIMELINE.hold()
}

/// CLOCK_MONOTONIC.
fn monotonic() -> Instant {
    let spec = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC is always there (POSIX)");
    let seconds = u64::try_from(spec.tv_sec()).expect("CLOCK_MONOTONIC is not negative");
    let nanos = u64::try_from(spec.tv_nsec()).expect("tv_nsec is 0..1e9");
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}
