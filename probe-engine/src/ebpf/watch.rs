//! What the watch thread decides, without the thread: events, dumps and the clock come in, questions and notices go out,
//! and [`Target`]s are told what they rest on.
//!
//! A **look** at the targets of a namespace: read their counters; dump the namespace's listeners; drain the ring buffer;
//! then judge. A sweep looks at all of them; where something has changed since, it is looked at those ports alone, whose
//! listeners are all that their targets depend on. The program submits an event before it moves the counter, so whoever has read a counter and then drained the
//! ring has seen every event up to that value, or knows that some were lost. That order is in the API: [`Watch::begin_sweep`]
//! and [`Watch::handle_timeout`] read the counters before they ask for a dump, [`Watch::handle_told`] only notes that it has
//! ended, and [`Watch::finish_looks`] drains the ring itself before it takes in what was listed, and judges.
//!
//! What a look found is published per [`Group`]: a target is visited only when something happens to it. So a look costs as
//! much as there are listeners in the dump and groups in the namespace.
//!
//! Bounds: [`limits::TARGETS_MAX`] targets, [`limits::LISTENERS_MAX`] listeners, [`limits::WATCH_NOTICES_LEN_MAX`] notices;
//! questions: one per namespace, and of targets as many as [`Watch::has_room`] let in; groups and audits: one per target.
//!
//! **Invariant:** a group is settled at a value of its counter only if every LISTEN event of its port up to that value was
//! seen, and is confirmed or refuted; nothing is while events may be missing. **Invariant:** every target is in the group of
//! its address whenever a group of its port is settled: what the listener table says of a port's addresses changes between
//! looks, and [`Watch::finish_looks`] moves targets after its last change to the table and before it publishes anything.
//!
//! **Invariant:** a group that is settled has every listener in the table that could answer its targets at that value of the
//! counter. A socket that a dump lists has come to the end of its last `listen()`, so its events up to there were in the
//! ring buffer, or counted as lost, before it was listed. What a dump listed is taken in after the drain that follows the
//! dump's end: a record of the table is then of the generation that was listed, or of one that began after the dump did
//! (which the dump does not confirm: tentative), or none (a loss, or older than the program: learned, unless the socket has
//! closed since). Taken in before that drain, a dump would be told of the generation before: the late LISTEN event would undo
//! what the dump had confirmed, and as nothing had shown the new generation, it would be refuted by its age; and a late
//! close would take the socket out, while the event of its next `listen()` may be among the lost ones. Either way a counter
//! would be settled without a listener that is there. (Lost events alone do not hurt: they settle nothing until a dump that
//! began [`limits::TENTATIVE_MAX`] after their loss was heard of, and that lists whatever they opened.)

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use probe_core::time::Instant;
use probe_ebpf::ListenerEvent;
use slab::Slab;
use tracing::{info, warn};

use super::answer::Why;
use super::counters::Counters;
use super::listeners::{Dump, Full, Listener, Listeners};
use super::settings::PassiveSettings;
use super::sock_diag::DiagListener;
use super::stats::EbpfStats;
use super::sweep::{Question, Told};
use super::target::{Group, Target};
use crate::limits;

mod look;
mod members;
pub mod self_test;
#[cfg(test)]
mod tests;

use members::{Members, Port, Watched};
pub use self_test::SelfTest;

/// Where listener events come from: the ring buffer, or a test.
pub trait Feed {
    /// Hands over every event that was submitted before this call.
    fn drain(&mut self, each: &mut dyn FnMut(&ListenerEvent)) -> Drained;
}

/// How a drain ended.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// Nothing that was submitted before is left. Otherwise nothing is concluded now.
    pub is_empty: bool,
    /// Events that were lost since the program was loaded, read after the last event.
    pub drops: u64,
}

/// For the rest of the daemon.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An audit's connect failed where nothing had changed: the leases of that namespace are void.
    Contradicted {
        /// Whose audit.
        target: Arc<Target>,
        /// And those of all others: it was the second namespace within [`limits::CONTRADICTIONS_WITHIN`].
        everywhere: bool,
    },
    /// A listener that could answer has a full accept queue.
    AcceptQueueFull(Queued),
    /// Its accept queue is not being emptied.
    AcceptStalled(Queued),
    /// A listener that could answer closed, and the operator wants an attempt at once.
    Touch(Arc<Target>),
}

/// Whose accept queue.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The target.
    pub target: Arc<Target>,
    /// Where the listener listens.
    pub listener: SocketAddr,
    /// Connections waiting to be accepted.
    pub len: u32,
    /// The backlog: full is more than this.
    pub max: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    settings: Arc<PassiveSettings>,
    counters: Arc<Counters>,
    stats: Arc<EbpfStats>,
    /// The program can be preempted: an event that it missed may be a listener's.
    is_preemptible: bool,
    listeners: Listeners,
    targets: Slab<Watched>,
    /// Where [`Watch::let_go`] goes on.
    visited: usize,
    groups: Slab<Members>,
    /// Of targets that cannot be answered passively: one per reason.
    refusals: Vec<(Why, Arc<Group>)>,
    namespaces: HashMap<u64, Namespace>,
    /// Of which the dump has been told whole, and that wait for [`Watch::finish_looks`].
    ended: Vec<u64>,
    questions: VecDeque<Question>,
    notices: VecDeque<Notice>,
    /// Events may be missing up to then. It begins with the program's.
    lost_at: Instant,
    /// An event of a port that nobody depended on had no room in the table then.
    untold_at: Option<Instant>,
    /// Whether the last self-test passed; `None` = there was none.
    feed: Option<bool>,
    drops: u64,
    misses: u64,
    /// The last contradicted audit: namespace and time.
    contradiction: Option<(u64, Instant)>,
    next_sweep: Instant,
    next_dump_id: u64,
    queues_full: u64,
    queues_stalled: u64,
}

/// A network namespace with targets in it, or with a dump of it under way.
#[derive(Debug)]
struct Namespace {
    ports: HashMap<u16, Port>,
    /// Failed audits to be judged, by index of their target.
    audits: HashMap<usize, Audit>,
    look: Option<Look>,
    /// When another look is wanted, beside those of the sweeps, and at what.
    due: Option<(Instant, Scope)>,
    /// What that look waits for things to come to rest; doubles while they do not.
    wait: Duration,
    /// Of the last look: when it began, and how long it took.
    last: (Instant, Duration),
    /// The last look at all ports found a transparent listener.
    has_transparent: bool,
    /// Events were lost, and no dump has made up for it yet.
    is_lossy: bool,
}

/// A failed audit.
#[derive(Clone, Copy, Debug)]
struct Audit {
    /// The counter before its connect.
    value: u64,
    /// The target's epoch before it.
    epoch: u32,
    /// When we heard of it.
    at: Instant,
}

/// What a look is at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    /// All ports of the namespace.
    All,
    /// Where something changed: at most [`limits::LOOK_PORTS_MAX`] of them.
    Ports(Vec<u16>),
}

/// A look being made at the targets of a namespace, or at those of some ports.
#[derive(Debug)]
struct Look {
    dump: Dump,
    scope: Scope,
    /// What it listed, for [`Watch::finish_looks`]: events of these sockets may be in the ring buffer still.
    listed: Vec<DiagListener>,
    /// Sockets that stopped listening since it began: the dump may list them all the same.
    closed: HashSet<u64>,
    has_transparent: bool,
    has_sk_lookup: bool,
    /// Nothing follows from this dump.
    is_spoiled: bool,
}

impl Watch {
    /// At `now` the program had just been attached.
    #[must_use]
    pub fn new(
        settings: Arc<PassiveSettings>,
        counters: Arc<Counters>,
        stats: Arc<EbpfStats>,
        is_preemptible: bool,
        now: Instant,
    ) -> Self {
        Self {
            settings,
            counters,
            stats,
            is_preemptible,
            listeners: Listeners::default(),
            targets: Slab::new(),
            visited: 0,
            groups: Slab::new(),
            refusals: Vec::new(),
            namespaces: HashMap::new(),
            ended: Vec::new(),
            questions: VecDeque::new(),
            notices: VecDeque::new(),
            lost_at: now,
            untold_at: None,
            feed: None,
            drops: 0,
            misses: 0,
            contradiction: None,
            next_sweep: now,
            next_dump_id: 0,
            queues_full: 0,
            queues_stalled: 0,
        }
    }

    // What comes in.

    /// Another registration may come: the sweep keeps up. Otherwise it waits where it is.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.questions.len() < limits::SWEEP_QUESTIONS_LEN_MAX
    }

    /// A target to watch until nobody holds it: the watch keeps no `Arc`. The shard gives its own up, then the sweep.
    pub fn register(&mut self, target: Arc<Target>) {
        if self.index_of(&target).is_some() {
            return;
        }
        if self.targets.len() >= limits::TARGETS_MAX {
            let refusal = self.refusal(Why::TableFull);
            target.join(&refusal, Why::TableFull);
            return;
        }
        let index = self.targets.insert(Watched::new(&target));
        target.watched_at.set(Some(index));
        self.questions.push_back(Question::Place(target));
        self.stats.targets.store(self.targets.len() as u64, Relaxed);
    }

    /// Nobody will ask for this target any more. What its shard has no room to say, [`Watch::begin_sweep`] finds.
    pub fn forget(&mut self, target: &Target) {
        let Some(index) = self.index_of(target) else { return };
        self.leave(index);
        self.targets.remove(index);
        self.stats.targets.store(self.targets.len() as u64, Relaxed);
    }

    /// A listener opened or closed.
    pub fn handle_event(&mut self, event: &ListenerEvent, now: Instant) {
        self.stats.events.fetch_add(1, Relaxed);
        let has_targets = match self.namespaces.get_mut(&event.netns_cookie) {
            Some(namespace) => {
                if let Some(look) = namespace.look.as_mut()
                    && event.opened == 0
                    // What a dump lists that closed before it began has opened again.
                    && Instant::from_nanos(event.time_ns) >= look.dump.began
                {
                    if look.closed.len() < limits::LISTENERS_MAX {
                        look.closed.insert(event.socket_cookie);
                    } else {
                        look.is_spoiled = true;
                    }
                }
                let port = namespace.ports.get_mut(&event.port);
                port.map(|port| port.is_changed = true).is_some()
            }
            None => false,
        };
        let stored = match event.opened {
            0 => self.listeners.close(event).map(|closed| {
                if let Some(closed) = closed
                    && closed.confirmed
                    && self.settings.early_detection
                {
                    self.touch(&closed.listener);
                }
            }),
            _ => self.listeners.open(event),
        };
        if stored == Err(Full) {
            self.no_room(has_targets, now);
        }
        if has_targets {
            self.look_soon(event.netns_cookie, event.port, now);
        }
    }

    /// The program's count of events that the ring buffer had no room for.
    pub fn handle_drops(&mut self, total: u64, now: Instant) {
        let dropped = total.saturating_sub(self.drops);
        if dropped > 0 {
            self.drops = total;
            self.stats.events_dropped.fetch_add(dropped, Relaxed);
            info!(dropped, "listener events were lost: nothing is settled until the listeners were dumped again");
            self.lose(now);
        }
    }

    /// `recursion_misses` of the program. Where it runs to its end once begun, these are events of connections in softirq,
    /// never a listener's; where it can be preempted they may be.
    pub fn handle_misses(&mut self, total: u64, now: Instant) {
        let missed = total.saturating_sub(self.misses);
        self.misses = total;
        self.stats.program_misses.store(total, Relaxed);
        if missed > 0 && self.is_preemptible {
            warn!(missed, "the kernel left out runs of the program: all passive answers end");
            // What was missed has not moved a counter: that alone would grant the next lease.
            for (_, members) in &self.groups {
                members.group.unsettle();
            }
            self.void_all(Why::Changed);
            self.lose(now);
        }
    }

    /// An answer of the sweep. Dumps are only noted: [`Watch::finish_looks`] takes them in, and judges.
    pub fn handle_told(&mut self, told: Told, now: Instant) {
        match told {
            Told::Placed { target, place } => self.place(&target, place, now),
            Told::Part { netns_cookie, listeners } => self.take_part(netns_cookie, listeners),
            Told::Dumped { netns_cookie, complete, sk_lookup, listen_drops } => {
                let look = self.namespaces.get_mut(&netns_cookie).and_then(|namespace| namespace.look.as_mut());
                if let Some(look) = look {
                    look.is_spoiled |= !complete;
                    look.has_sk_lookup = sk_lookup;
                    look.dump.listen_drops = listen_drops;
                    self.ended.push(netns_cookie);
                }
            }
        }
    }

    /// An audit's connect failed while the lease stood; `value` and `epoch` are the counter and the target's
    /// epoch before it. Judged at the next look.
    pub fn handle_audit_failed(&mut self, target: &Target, value: u64, epoch: u32, now: Instant) {
        let Some(index) = self.index_of(target) else { return };
        let Some((netns_cookie, port)) = self.group_of(index).map(|members| (members.netns_cookie, members.port))
        else {
            return;
        };
        if let Some(namespace) = self.namespaces.get_mut(&netns_cookie) {
            namespace.audits.entry(index).or_insert(Audit { value, epoch, at: now });
        }
        self.look_soon(netns_cookie, port, now);
    }

    /// Makes the program report what we do ourselves. Until that has worked once, nothing is settled; when it fails, all
    /// leases end.
    pub fn self_test(&mut self, test: &mut impl SelfTest, now: Instant) {
        let before = self.counters.load(test.slot());
        let result = test.listen_and_stop();
        let moved = self.counters.load(test.slot()).wrapping_sub(before);
        let passed = result.is_ok() && moved >= 2;
        if !passed {
            self.stats.self_tests_failed.fetch_add(1, Relaxed);
            self.trouble_all(Why::SelfTest);
        }
        match (self.feed, passed) {
            (None | Some(true), false) => {
                let error = result.err().map(tracing::field::display);
                warn!(moved, error, "the kernel program did not report the daemon's own listener: no passive answers");
            }
            (Some(false), true) => {
                info!("the kernel program reports the daemon's own listener again");
                self.lose(now);
            }
            (None, true) | (Some(true), true) | (Some(false), false) => {}
        }
        self.feed = Some(passed);
        self.stats.feed_healthy.store(u64::from(passed), Relaxed);
    }

    /// Nothing is watched from now on: all leases end.
    pub fn end(&mut self) {
        self.trouble_all(Why::Unavailable);
    }

    // What goes out.

    /// When [`Watch::handle_timeout`] is wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let idle = self.namespaces.values().filter(|namespace| namespace.look.is_none());
        let due = idle.filter_map(|namespace| namespace.due.as_ref().map(|(at, _)| *at));
        due.fold(self.next_sweep, Instant::min)
    }

    /// Something for the sweep, oldest first.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// Something for the rest of the daemon, oldest first.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Targets held.
    #[must_use]
    pub fn targets_len(&self) -> usize {
        self.targets.len()
    }

    /// The listener table.
    #[must_use]
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    // Below: how.

    /// Events up to `now` may be missing.
    fn lose(&mut self, now: Instant) {
        self.lost_at = now;
        let namespaces = &mut self.namespaces;
        self.listeners.keep_only(|netns_cookie, port| {
            namespaces.get(&netns_cookie).is_some_and(|namespace| namespace.ports.contains_key(&port))
        });
        for namespace in namespaces.values_mut() {
            namespace.is_lossy = true;
        }
    }

    /// The table had no room for an event.
    fn no_room(&mut self, has_targets: bool, now: Instant) {
        self.stats.table_full.fetch_add(1, Relaxed);
        if has_targets {
            self.lose(now);
        } else {
            self.untold_at = Some(now);
        }
    }

    fn void_all(&self, why: Why) {
        let held = self.targets.iter().filter_map(|(_, watched)| watched.target.upgrade());
        let voided = held.filter(|target| target.void(why)).count();
        self.stats.voids.fetch_add(voided as u64, Relaxed);
    }

    /// Ends all leases, and none is granted until the next look.
    fn trouble_all(&self, why: Why) {
        for (_, members) in &self.groups {
            members.group.unsettle();
            members.group.look_troubled(why);
        }
        self.void_all(why);
    }

    fn touch(&mut self, closed: &Listener) {
        let port = self.namespaces.get(&closed.netns_cookie).and_then(|namespace| namespace.ports.get(&closed.port));
        let classes = port.into_iter().flat_map(Port::groups).filter(|(class, _)| closed.could_answer(*class));
        let groups: Vec<usize> = classes.map(|(_, group)| group).collect();
        for group in groups {
            self.tell_members(group, &Notice::Touch);
        }
    }

    fn notify(&mut self, notice: Notice) {
        if self.notices.len() < limits::WATCH_NOTICES_LEN_MAX {
            self.notices.push_back(notice);
        } else {
            self.stats.notices_dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Scope {
    fn add(&mut self, other: Scope) {
        let (Scope::Ports(ports), Scope::Ports(others)) = (&mut *self, other) else {
            *self = Scope::All;
            return;
        };
        let new: Vec<u16> = others.into_iter().filter(|port| !ports.contains(port)).collect();
        ports.extend(new);
        if ports.len() > limits::LOOK_PORTS_MAX {
            *self = Scope::All;
        }
    }

    /// `None` = all.
    fn ports(&self) -> Option<&[u16]> {
        match self {
            Scope::All => None,
            Scope::Ports(ports) => Some(ports),
        }
    }
}

impl Namespace {
    fn new(now: Instant) -> Self {
        Self {
            ports: HashMap::new(),
            audits: HashMap::new(),
            look: None,
            due: None,
            wait: limits::CONFIRM_WAIT_MIN,
            last: (now, Duration::ZERO),
            has_transparent: false,
            is_lossy: false,
        }
    }
}
