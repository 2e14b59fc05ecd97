//! CrashLoopBackOff: how long a container that ended waits before it is started again.
//!
//! Source: `client-go/util/flowcontrol/backoff.go` and `kuberuntime_manager.go`, `doBackOff` (rule 6.5). The caller
//! keeps one [`Backoff`] per (pod, container, spec hash).

use alloc::string::String;
use core::fmt::{self, Write};
use core::time::Duration;

use crate::time::Instant;

/// The numbers of the back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait (`crashLoopBackOff.maxContainerRestartPeriod`).
    pub max: Duration,
    /// A container that ended more than this after the last advance starts over.
    pub reset_after: Duration,
}

impl Default for Limits {
    /// The kubelet's: 10 s, doubling to 300 s, forgotten after 600 s.
    fn default() -> Self {
        Self { initial: Duration::from_secs(10), max: Duration::from_secs(300), reset_after: Duration::from_secs(600) }
    }
}

/// The back-off of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// The wait that the newest advance led to, and when that was; `None` before the first.
    newest: Option<(Duration, Instant)>,
}

impl Backoff {
    /// No back-off yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { newest: None }
    }

    /// A back-off that another daemon has come to: this wait, since then.
    #[must_use]
    pub const fn of(wait: Duration, updated: Instant) -> Self {
        Self { newest: Some((wait, updated)) }
    }

    /// The wait that the newest advance led to, and when that was; `None` before the first.
    #[must_use]
    pub const fn parts(&self) -> Option<(Duration, Instant)> {
        self.newest
    }

    /// The wait in force; zero before the first restart.
    #[must_use]
    pub fn current(&self) -> Duration {
        self.newest.map_or(Duration::ZERO, |(wait, _)| wait)
    }

    /// When the container may be started; `None` = at once. `last_exit` is when the most recently ended instance
    /// ended, as it was known before the decision; `None` = there is none.
    #[must_use]
    pub fn waits_until(&self, last_exit: Option<Instant>, limits: &Limits, now: Instant) -> Option<Instant> {
        let last_exit = last_exit?;
        let (wait, _) = self.unexpired(last_exit, limits)?;
        Some(last_exit + wait).filter(|until| *until > now)
    }

    /// The container is being started after an instance that ended at `last_exit`: the next wait is longer.
    /// A first start (`None`) changes nothing.
    pub fn advance(&mut self, last_exit: Option<Instant>, limits: &Limits, now: Instant) {
        let Some(last_exit) = last_exit else { return };
        let wait = match self.unexpired(last_exit, limits) {
            None => limits.initial,
            Some((wait, _)) => wait.saturating_mul(2),
        };
        self.newest = Some((wait.min(limits.max), now));
    }

    fn unexpired(&self, last_exit: Instant, limits: &Limits) -> Option<(Duration, Instant)> {
        self.newest.filter(|(_, updated)| last_exit - *updated <= limits.reset_after)
    }
}

/// The message of a container that waits with reason `CrashLoopBackOff`.
#[must_use]
pub fn waiting_message(wait: Duration, container: &str, pod: &str, namespace: &str, uid: &str) -> String {
    let mut text = String::from("back-off ");
    // Writing to a String cannot fail.
    let _ = write_go_duration(&mut text, wait);
    let _ = write!(text, " restarting failed container={container} pod={pod}_{namespace}({uid})");
    text
}

/// The message of the Warning event `BackOff`.
#[must_use]
pub fn event_message(container: &str, pod: &str, namespace: &str, uid: &str) -> String {
    alloc::format!("Back-off restarting failed container {container} in pod {pod}_{namespace}({uid})")
}

/// As Go prints durations, to the millisecond: `40s`, `1m20s`, `5m0s`, `1h0m0s`, `1.5s`, `250ms`.
fn write_go_duration(out: &mut impl Write, duration: Duration) -> fmt::Result {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 && millis > 0 {
        return write!(out, "{millis}ms");
    }
    if seconds >= 3600 {
        write!(out, "{}h", seconds / 3600)?;
    }
    if seconds >= 60 {
        write!(out, "{}m", seconds / 60 % 60)?;
    }
    write!(out, "{}", seconds % 60)?;
    if millis > 0 {
        let fraction = alloc::format!("{millis:03}");
        write!(out, ".{}", fraction.trim_end_matches('0'))?;
    }
    out.write_char('s')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        initial: Duration::from_secs(10),
        max: Duration::from_secs(300),
        reset_after: Duration::from_secs(600),
    };

    /// Seconds between each end and the start after it, for a container that lives `lifetime_seconds`.
    fn waits(restarts: usize, lifetime_seconds: u64) -> alloc::vec::Vec<u64> {
        let mut backoff = Backoff::new();
        let mut now = Instant::from_secs(1000);
        (0..restarts)
            .map(|_| {
                let end = now + Duration::from_secs(lifetime_seconds);
                now = backoff.waits_until(Some(end), &LIMITS, end).unwrap_or(end);
                assert_eq!(backoff.waits_until(Some(end), &LIMITS, now), None);
                backoff.advance(Some(end), &LIMITS, now);
                (now - end).as_secs()
            })
            .collect()
    }

    #[test]
    fn it_doubles_from_ten_seconds_to_five_minutes() {
        assert_eq!(waits(9, 1), [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_container_that_lived_for_ten_minutes_starts_over() {
        assert_eq!(waits(4, 601), [0, 0, 0, 0]);
        assert_eq!(waits(4, 600), [0, 10, 20, 40]);
    }

    #[test]
    fn the_first_start_neither_waits_nor_counts() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.waits_until(None, &LIMITS, Instant::ZERO), None);
        backoff.advance(None, &LIMITS, Instant::ZERO);
        assert_eq!(backoff.current(), Duration::ZERO);
    }

    #[test]
    fn the_maximum_may_be_below_the_first_wait() {
        let limits = Limits { max: Duration::from_secs(1), ..LIMITS };
        let mut backoff = Backoff::new();
        let end = Instant::from_secs(5);
        (0..3).for_each(|_| backoff.advance(Some(end), &limits, end));
        assert_eq!(backoff.current(), Duration::from_secs(1));
    }

    #[test]
    fn messages_are_the_kubelets() {
        let text = waiting_message(Duration::from_secs(80), "web", "shop-0", "prod", "u-1");
        assert_eq!(text, "back-off 1m20s restarting failed container=web pod=shop-0_prod(u-1)");
        let text = event_message("web", "shop-0", "prod", "u-1");
        assert_eq!(text, "Back-off restarting failed container web in pod shop-0_prod(u-1)");
    }

    #[test]
    fn what_was_taken_apart_can_be_put_together_again() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.parts(), None);
        backoff.advance(Some(Instant::from_secs(1)), &Limits::default(), Instant::from_secs(2));
        let (wait, updated) = backoff.parts().expect("it has advanced");
        assert_eq!((wait, updated), (Duration::from_secs(10), Instant::from_secs(2)));
        assert_eq!(Backoff::of(wait, updated), backoff);
    }

    #[test]
    fn durations_look_like_gos() {
        let shown = |millis| {
            let mut text = String::new();
            write_go_duration(&mut text, Duration::from_millis(millis)).expect("a String takes all");
            text
        };
        let expected = ["0s", "250ms", "1.5s", "10s", "1m20s", "5m0s", "1h0m0s"];
        assert_eq!([0, 250, 1_500, 10_000, 80_000, 300_000, 3_600_000].map(shown), expected);
    }
}
