//! What dumps said of one listener's accept queue, and what follows from two of them.

use std::time::Duration;

use probe_core::time::Instant;

use super::Dump;
use crate::ebpf::answer::Why;
use crate::ebpf::listen_drops::{ListenDrops, RECOUNT_FOR};
use crate::ebpf::sock_diag::DiagListener;

/// Two samples are compared when they are at least this far apart, so that looks in between (at a registration, at a
/// change) do not call a busy queue stuck.
const SAMPLE_AGE_MIN: Duration = RECOUNT_FOR;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    /// At the newest dump.
    pub(super) len: u32,
    pub(super) max: u32,
    /// At a dump at least [`SAMPLE_AGE_MIN`] before the judgement.
    sample: Option<Sample>,
    stuck: bool,
    dropping: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    len: u32,
    drops: u32,
    listen_drops: ListenDrops,
    /// Its drops were more than at the sample before, and no connection request among them as far as was known.
    has_strays: bool,
}

impl Queue {
    /// True: there were new drops between the sample before and the one that this became, and all of them stray.
    pub(super) fn see(&mut self, diag: &DiagListener, dump: Dump) -> bool {
        (self.len, self.max) = (diag.queue_len, diag.queue_max);
        let (at, len, drops, listen_drops) = (dump.began, diag.queue_len, diag.drops, dump.listen_drops);
        let Some(sample) = self.sample else {
            self.sample = Some(Sample { at, len, drops, listen_drops, has_strays: false });
            return false;
        };
        let is_stuck = len > 0 && sample.len > 0 && len >= sample.len;
        let is_more = drops != sample.drops;
        let is_late = sample.has_strays && listen_drops.lost_late(sample.listen_drops);
        let is_dropping = is_late || (is_more && listen_drops.lost_since(sample.listen_drops));
        // Between two samples trouble can come to an end only by its cause: an emptier queue. New drops show at once.
        self.stuck &= is_stuck;
        self.dropping |= is_dropping;
        if at < sample.at + SAMPLE_AGE_MIN {
            return false;
        }
        (self.stuck, self.dropping) = (is_stuck, is_dropping);
        let has_strays = is_more && !is_dropping;
        self.sample = Some(Sample { at, len, drops, listen_drops, has_strays });
        has_strays
    }

    /// Full is strictly more than the limit; stuck is non-empty twice without shrinking.
    pub(super) fn trouble(&self) -> Option<Why> {
        match *self {
            Queue { len, max, .. } if len > max => Some(Why::AcceptQueueFull),
            Queue { stuck: true, .. } => Some(Why::AcceptStalled),
            Queue { dropping: true, .. } => Some(Why::ListenerDrops),
            _ => None,
        }
    }
}
