//! Kernel program, watch and sweep, driven on the calling thread.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use probe_core::time::Instant;
use probe_ebpf::ListenerEvent;
use probe_engine::ebpf::PassiveSettings;
use probe_engine::ebpf::counters::Drops;
use probe_engine::ebpf::events::EventRing;
use probe_engine::ebpf::load::{self, Attached, LoadOptions};
use probe_engine::ebpf::passive::{Passive, ToWatch, WatchSender};
use probe_engine::ebpf::stats::EbpfStats;
use probe_engine::ebpf::sweep::Sweep;
use probe_engine::ebpf::watch::self_test::OwnListener;
use probe_engine::ebpf::watch::{Drained, Feed as _, Notice, Watch};
use probe_engine::shard::kernel::Waker;

use crate::netns;
use crate::skip::skip;

/// Rounds of one call: what the watch asks leads to answers, which lead to further questions.
const ROUNDS_MAX: usize = 64;

/// See the module.
pub struct Feed {
    /// What it counts.
    pub stats: Arc<EbpfStats>,
    /// What the watch had to tell the rest of the daemon.
    pub notices: Vec<Notice>,
    watch: Watch,
    sweep: Sweep,
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

/// Whether the kernel program can be loaded here, and namespaces be made with these programs in them; else `test` is
/// skipped, loudly.
#[must_use]
pub fn usable(test: &str, programs: &[&str]) -> bool {
    if !netns::usable(test, programs) {
        return false;
    }
    let loaded = load::load(false);
    if let Err(reason) = &loaded {
        skip(test, &reason.to_string());
    }
    loaded.is_ok()
}

impl Feed {
    /// Loads the program.
    ///
    /// # Errors
    /// Why it cannot be loaded here.
    pub fn new(settings: PassiveSettings, seed: u64, now: Instant) -> Result<Self, String> {
        Self::with_ring(settings, seed, now, LoadOptions::default().ring_bytes)
    }

    /// The same with a ring buffer of this size.
    ///
    /// # Errors
    /// As [`Feed::new`].
    pub fn with_ring(settings: PassiveSettings, seed: u64, now: Instant, ring_bytes: u32) -> Result<Self, String> {
        let options = LoadOptions { ring_bytes, ..LoadOptions::default() };
        let loaded = load::load_with(options).map_err(|error| error.to_string())?;
        let (sender, inbox) = WatchSender::new(Waker::new().map_err(|error| error.to_string())?);
        let stats = Arc::new(EbpfStats::default());
        let sweep = Sweep::new(&settings, seed, Arc::clone(&stats)).map_err(|error| error.to_string())?;
        let passive = Passive::new(settings, Arc::clone(&loaded.counters), Arc::clone(&loaded.connects), sender);
        let watch =
            Watch::new(Arc::clone(&passive.settings), Arc::clone(&loaded.counters), Arc::clone(&stats), false, now);
        let own = OwnListener::new(sweep.own_cookie()).map_err(|error| error.to_string())?;
        Ok(Self {
            stats,
            notices: Vec::new(),
            watch,
            sweep,
            ring: Ring { events: loaded.events, drops: loaded.drops, is_slow: false },
            inbox,
            passive,
            own,
            _attached: loaded.attached,
        })
    }

    /// For the shard.
    #[must_use]
    pub fn passive(&self) -> Passive {
        self.passive.clone()
    }

    /// Readable when listener events wait.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.ring.events.fd()
    }

    /// The listener table has something that could answer there.
    #[must_use]
    pub fn has_listener(&self, netns_cookie: u64, addr: SocketAddr) -> bool {
        let listening = self.watch.listeners().inside(netns_cookie).at(addr.port());
        listening.candidates(listening.class_of(addr.ip())).next().is_some()
    }

    /// The ring buffer is not read (until it is again).
    pub fn set_slow(&mut self, is_slow: bool) {
        self.ring.is_slow = is_slow;
    }

    /// What both threads do when something has happened: events, registrations, looks that are due.
    pub fn watch(&mut self, now: Instant) {
        for _ in 0..ROUNDS_MAX {
            while let Some(message) = self.inbox.pop() {
                match message {
                    ToWatch::Register(target) => self.watch.register(target),
                    ToWatch::LetGo(target) => self.watch.forget(&target),
                    ToWatch::AuditFailed { target, value, epoch } => {
                        self.watch.handle_audit_failed(&target, value, epoch, now);
                    }
                    ToWatch::Shutdown => {}
                }
            }
            let watch = &mut self.watch;
            let drained = self.ring.drain(&mut |event| watch.handle_event(event, now));
            watch.handle_drops(drained.drops, now);
            let mut is_idle = true;
            self.sweep.handle_readable(now, &mut |told| {
                is_idle = false;
                watch.handle_told(told, now);
            });
            watch.handle_timeout(now);
            while let Some(question) = self.watch.poll_question() {
                is_idle = false;
                let watch = &mut self.watch;
                self.sweep.ask(question, now, &mut |told| watch.handle_told(told, now));
            }
            is_idle &= !self.watch.finish_looks(&mut self.ring, now);
            self.notices.extend(std::iter::from_fn(|| self.watch.poll_notice()));
            if is_idle {
                return;
            }
        }
    }

    /// What is done once a second: the self-test, and a look at everything.
    pub fn sweep(&mut self, now: Instant) {
        self.watch.self_test(&mut self.own, now);
        let watch = &mut self.watch;
        self.sweep.prune(now, &mut |told| watch.handle_told(told, now));
        self.watch.begin_sweep(now);
        self.watch(now);
    }
}
