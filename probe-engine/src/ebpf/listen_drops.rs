//! Which of the segments that a listener dropped were connection requests.
//!
//! SK_MEMINFO_DROPS of a listener counts all that it discards: lost connection requests (`tcp_listendrop`), and stray segments
//! (`tcp_drop_reason`: an RST without ACK, say, of a connection that the kernel has forgotten). Of these two only the first
//! also counts `ListenDrops` of the namespace (`include/net/tcp.h`). So where that has not moved, no new drop of any
//! listener there was a lost request. Where it has, each may be one.
//!
//! The file it is in sums over all processors, so it is read only while drops of listeners change. (Not at one instant, but
//! each part only grows: two readings are the same only if nothing was counted between them.)
//!
//! **Invariant:** a lost request is told by the first look that finds its drop, or by one up to the listener's next sample.
//! The kernel counts the drop first, `ListenDrops` after it. So a drop that a dump shows, and the one of the listener's
//! last sample did not, is not in [`ListenDrops::before`] of that sample. It is in [`ListenDrops::after`] of the dump that
//! shows it, unless a processor is between the two counts at that moment: therefore a sample remembers that its new drops
//! were held to be stray, and `after` moving past that sample's makes them lost ones. Up to then, `RECOUNT_FOR`, it
//! is read after every dump. (A processor that stands still there for longer hides that request from passive answers.)
//! Both are absolute numbers that are compared with a listener's own last sample: a dump that nobody could use takes nothing
//! with it.

use std::time::Duration;

use probe_core::schedule::mix;
use probe_core::time::Instant;

use super::sock_diag::DiagListener;
use crate::limits;

/// The same as between two samples of an accept queue.
pub(crate) const RECOUNT_FOR: Duration = Duration::from_nanos(limits::SWEEP_PERIOD.as_nanos() as u64 / 2);

/// `ListenDrops` of a namespace as it was known around a dump of its listeners. `None` = it could not be read: then any
/// drop may be a lost request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenDrops {
    /// Read before the dump began. The same or less than it was then.
    pub before: Option<u64>,
    /// Read after its end; where no listener's drops had changed, still the one of before.
    pub after: Option<u64>,
}

/// `ListenDrops` of one namespace, read again where listeners have other drops than at the last dump.
#[derive(Debug)]
pub(crate) struct Recounted {
    value: Option<u64>,
    /// Of the last dump, and of the one under way: sum over the listeners that have drops. Of both cookie and drops, so that
    /// one which closed and another which drops do not make up for each other.
    counted: u64,
    counting: u64,
    /// Read after each dump, the first one included that is asked for then or later.
    until: Option<Instant>,
}

impl ListenDrops {
    /// Whether a drop that the dump shows, and that the one of `sample` did not show, may be a lost request.
    pub(super) fn lost_since(self, sample: Self) -> bool {
        self.after.is_none() || self.after != sample.before
    }

    /// Whether a drop that `sample` showed, and that was held to be stray, may be a lost request all the same.
    pub(super) fn lost_late(self, sample: Self) -> bool {
        self.after != sample.after
    }
}

impl Default for Recounted {
    fn default() -> Self {
        Self { value: None, counted: 0, counting: 0, until: Some(Instant::ZERO) }
    }
}

impl Recounted {
    /// The dump under way lists these.
    pub(crate) fn list(&mut self, listeners: &[DiagListener]) {
        let dropping = listeners.iter().filter(|diag| diag.drops > 0);
        let sum = dropping.map(|diag| mix(diag.socket_cookie.wrapping_add(mix(diag.drops.into()))));
        self.counting = sum.fold(self.counting, u64::wrapping_add);
    }

    /// A dump of some of the listeners has ended. Nothing is known of the others, so it is read in any case.
    pub(crate) fn end_partial_dump(&mut self, read: impl FnOnce() -> Option<u64>) -> ListenDrops {
        let before = std::mem::replace(&mut self.value, read());
        ListenDrops { before, after: self.value }
    }

    /// The dump, asked for before `now`, has ended, whole or not. `read` reads `ListenDrops`.
    pub(crate) fn end_dump(&mut self, now: Instant, read: impl FnOnce() -> Option<u64>) -> ListenDrops {
        let (before, counted) = (self.value, std::mem::take(&mut self.counting));
        if counted != self.counted {
            self.counted = counted;
            self.until = Some(now + RECOUNT_FOR);
        }
        if let Some(until) = self.until {
            self.value = read();
            self.until = Some(until).filter(|_| now < until);
        }
        ListenDrops { before, after: self.value }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn diag(socket_cookie: u64, drops: u32) -> DiagListener {
        DiagListener {
            socket_cookie,
            addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 80,
            ipv6_only: false,
            device: 0,
            transparent: false,
            queue_len: 0,
            queue_max: 5,
            drops,
        }
    }

    /// Listeners: cookie and drops.
    type Listed = &'static [(u64, u32)];

    /// At which of the dumps, of these milliseconds and listeners, it was read.
    fn reads(dumps: &[(u64, Listed)]) -> Vec<bool> {
        let mut recounted = Recounted::default();
        let read_at = |(at_ms, listeners): &(u64, Listed)| {
            for (cookie, drops) in *listeners {
                recounted.list(&[diag(*cookie, *drops)]);
            }
            let mut is_read = false;
            recounted.end_dump(Instant::from_millis(*at_ms), || {
                is_read = true;
                Some(0)
            });
            is_read
        };
        dumps.iter().map(read_at).collect()
    }

    #[test]
    fn it_is_read_once_and_then_only_while_drops_change() {
        let quiet: Listed = &[(1, 0), (2, 0)];
        assert_eq!(reads(&[(1_000, quiet), (2_000, quiet), (3_000, &[(1, 0)])]), [true, false, false]);
        // One that had dropped before it was first listed.
        let dropped: Listed = &[(2, 0), (1, 3)];
        assert_eq!(reads(&[(1_000, dropped), (2_000, dropped), (3_000, dropped)]), [true, true, false]);
    }

    #[test]
    fn it_is_read_for_half_a_sweep_after_a_change_and_once_more() {
        let more: Listed = &[(1, 1)];
        let dumps = [(1_000, &[][..]), (2_000, more), (2_001, more), (2_499, more), (2_900, more), (2_901, more)];
        assert_eq!(reads(&dumps), [true, true, true, true, true, false]);
        assert_eq!(reads(&[(1_000, &[]), (2_000, more), (9_000, more), (9_001, more)]), [true, true, true, false]);
    }

    #[test]
    fn a_listener_that_goes_does_not_make_up_for_the_drops_of_another() {
        assert_eq!(reads(&[(1_000, &[(1, 5), (2, 0)]), (2_000, &[(1, 5)]), (3_000, &[(2, 5)])]), [true; 3]);
        // In whatever order they are listed.
        let (one, other): (Listed, Listed) = (&[(1, 5), (2, 6)], &[(2, 6), (1, 5)]);
        assert_eq!(reads(&[(1_000, one), (2_000, other), (3_000, one)]), [true, true, false]);
    }

    #[test]
    fn a_dump_is_told_with_what_was_known_before_it() {
        let mut recounted = Recounted::default();
        let at = Instant::from_secs;
        let told = |before, after| ListenDrops { before, after };
        assert_eq!(recounted.end_dump(at(1), || Some(7)), told(None, Some(7)));
        assert_eq!(recounted.end_dump(at(2), || panic!("no drops")), told(Some(7), Some(7)));
        recounted.list(&[diag(1, 1)]);
        assert_eq!(recounted.end_dump(at(3), || Some(8)), told(Some(7), Some(8)));
        recounted.list(&[diag(1, 1)]);
        assert_eq!(recounted.end_dump(at(4), || None), told(Some(8), None));
    }
}
