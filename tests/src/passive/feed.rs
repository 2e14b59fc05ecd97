//! Kernel program, watch and sweep, driven on the calling thread.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use probe_core::time::Instant;
use probe_ebpf::ListenerEvent;
use probe_engine::ebpf::PassiveSettings;
use probe_engine::ebpf::counters::Drops;
use probe_engine::ebpf::events::EventRing;
use probe_engine::ebpf::load::{self, Attached, LoadOptions};
use probe_engine::ebpf::netns::own_cookie;
use probe_engine::ebpf::passive::{Passive, ToWatch, WatchSender};
use probe_engine::ebpf::stats::EbpfStats;
use probe_engine::ebpf::watch::self_test::OwnListener;
use probe_engine::ebpf::watch::{Drained, Notice, Watch};
use probe_engine::shard::kernel::Waker;

/// Rounds of one call: what the watch asks leads to answers, which lead to further questions.
const ROUNDS_MAX: usize = 64;

/// See the module.
pub struct Feed {
    /// What it counts.
    pub stats: Arc<EbpfStats>,
    /// Of the ring buffer's reader: at most so many records at each call of [`Feed::watch`]; slow if it is few.
    pub events_max: usize,
    /// What the watch had to tell the rest of the daemon.
    pub notices: Vec<Notice>,
    watch: Watch,
    ring: Ring,
    inbox: Arc<ArrayQueue<ToWatch>>,
    passive: Passive,
    own: OwnListener,
    _attached: Attached,
}

/// The ring buffer as the watch drains it.
struct Ring {
    events: EventRing,
    drops: Arc<Drops>,
    is_slow: bool,
}

impl probe_engine::ebpf::watch::Feed for Ring {
    fn drain(&mut self, each: &mut dyn FnMut(&ListenerEvent)) -> Drained {
        if !self.is_slow {
            self.events.drain(usize::MAX, |event| each(&event));
        }
        Drained { is_empty: !self.is_slow, drops: self.drops.load() }
    }
}

/// The kernel program can be loaded here.
///
/// # Errors
/// Why not.
pub fn usable() -> Result<(), String> {
    load::load(false).map(drop).map_err(|error| error.to_string())
}
