//! The only reader of the clock.

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use probe_core::time::Instant;

/// CLOCK_MONOTONIC now.
#[must_use]
pub fn now() -> Instant {
    let spec = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC is always there (POSIX)");
    let seconds = u64::try_from(spec.tv_sec()).expect("CLOCK_MONOTONIC is not negative");
    let nanos = u64::try_from(spec.tv_nsec()).expect("tv_nsec is 0..1e9");
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// CLOCK_REALTIME now, for what people and other programs read.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub fn wall() -> Timestamp {
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
