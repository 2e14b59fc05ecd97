//! The watch of passive answers, made up: it knows at once when a listener opens or closes, as the kernel program would, and
//! looks at the listeners about once a second, as the sweep does.
//!
//! A door that is open, or drops SYNs, is a listener (with a full accept queue, where it drops them); any other is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use probe_core::time::Instant;
use probe_engine::ebpf::counters::{Connects, Counters};
use probe_engine::ebpf::passive::{Passive, ToWatch, WatchSender};
use probe_engine::ebpf::target::{ChildLookup, Found, Group, Place};
use probe_engine::ebpf::{PassiveSettings, Target, Why};
use probe_engine::limits;
use probe_engine::shard::inbox::Command;
use probe_engine::shard::kernel::Waker;

use super::pods::Act;
use super::random::Random;
use super::target::Door;
use super::world::{Event, World};

thread_local! {
    /// Megabytes: one of each for all runs of a thread, since only changes of a counter mean anything, and nobody notes
    /// what became of a connect.
    static MAPPED: (Arc<Counters>, Arc<Connects>) = (Arc::new(Counters::fake()), Arc::new(Connects::fake()));
}

/// The kernel shows that the target took a connect, or does not.
#[derive(Debug, Default)]
struct Shows(AtomicBool);

impl ChildLookup for Shows {
    fn child(&self, _: SocketAddr, _: SocketAddr) -> Found {
        if self.0.load(Ordering::Relaxed) { Found::Child } else { Found::Other }
    }
}

/// See the module.
pub struct Watch {
    /// What the shard is given.
    pub passive: Passive,
    queue: Arc<ArrayQueue<ToWatch>>,
    /// With the index of the simulated one, which is its change counter's slot too.
    targets: Vec<(Arc<Target>, Arc<Group>, usize)>,
    shows: Arc<Shows>,
    /// Early detection, which sets grids anew.
    pub detects: bool,
    /// It goes wrong that often in ten thousand looks at a target.
    faults: u64,
    /// Looks that come late, in ten thousand.
    late_looks: u64,
}

impl Watch {
    /// A random one.
    pub fn new(random: &mut Random) -> Self {
        let settings = PassiveSettings {
            passive_max_age: random.pick(&[4, 10, 16].map(Duration::from_secs)),
            passive_audit_per_second: random.pick(&[0, 1, 10]),
            ..PassiveSettings::default()
        };
        let (sender, queue) = WatchSender::new(Waker::new().expect("an eventfd"));
        let (counters, connects) = MAPPED.with(Clone::clone);
        let passive = Passive::new(settings, counters, connects, sender);
        let faults = random.pick(&[0, 300, 1_500]);
        let late_looks = random.pick(&[0, 500]);
        let detects = random.below(2) == 0;
        Self { passive, queue, targets: Vec::new(), shows: Arc::default(), detects, faults, late_looks }
    }

    /// A listener of this target opened or closed.
    fn changed(&self, target: usize) {
        self.passive.counters.bump(target as u32);
    }
}

/// Somebody listens behind it.
fn listens(door: Door) -> bool {
    matches!(door, Door::Open | Door::Drop)
}

impl World {
    /// The door of a target becomes another. The counter moves before anybody else learns of it.
    pub fn door_changes(&mut self, target: usize, door: Door) {
        let before = self.net.targets[target].behaviour.door;
        let Some(watch) = &self.watch else { return };
        if listens(before) == listens(door) {
            return;
        }
        watch.changed(target);
        let detects = watch.detects && !listens(door);
        let watched = watch.targets.iter().find(|(.., index)| *index == target).filter(|_| detects);
        if let Some(id) = watched.map(|(watched, ..)| watched.id) {
            self.send(Command::Detect { target: id });
        }
    }

    /// The sweep looks at all listeners.
    pub fn look(&mut self) {
        let (now, is_calm) = (self.now, self.pods.is_calm);
        let Some(watch) = &mut self.watch else { return };
        let (faults, late_looks) = if is_calm { (0, 0) } else { (watch.faults, watch.late_looks) };
        let shows = !self.random.chance(faults);
        watch.shows.0.store(shows, Ordering::Relaxed);
        while let Some(message) = watch.queue.pop() {
            match message {
                ToWatch::Register(target) => {
                    let Some(index) = self.net.target_at(target.addr()) else { panic!("{target:?} is no target") };
                    let lookup = Arc::<Shows>::clone(&watch.shows);
                    let group = Arc::new(Group::new(Place { netns_cookie: 1, slot: index as u32, lookup }));
                    target.join(&group, Why::Changed);
                    watch.targets.push((target, group, index));
                }
                // Found to be gone below.
                ToWatch::LetGo(_) => {}
                ToWatch::AuditFailed { target, .. } => {
                    target.void(Why::Contradicted);
                }
                ToWatch::Shutdown => {}
            }
        }
        watch.targets.retain(|(target, ..)| Arc::strong_count(target) > 1);
        for (target, group, index) in &watch.targets {
            group.settle(watch.passive.counters.load(*index as u32));
            match self.net.targets[*index].behaviour.door {
                Door::Open => group.look_healthy(now + limits::LOOK_AGE_MAX),
                Door::Drop => group.look_troubled(Why::AcceptQueueFull),
                Door::Refuse | Door::Itself => group.look_troubled(Why::NoListener),
            }
            if self.random.chance(faults) {
                target.void(Why::PathChanged);
            }
            if self.random.chance(faults) {
                target.cut(Why::PathRechecked, now + self.random.millis(0, 5_000));
            }
        }
        let next = if self.random.chance(late_looks) { (3_000, 5_000) } else { (900, 1_100) };
        let at = now + self.random.millis(next.0, next.1);
        self.schedule(at, Event::Act(Act::Look));
    }

    /// A probe was answered passively in the turn that has just ended: that must have been true when the turn began, as far
    /// as anybody could know.
    pub fn passive_success_is_deserved(&self, probe: usize, newest_connect: Option<Instant>) {
        let SimAnswer { target, started_at } = self.asked(probe);
        let decided = self.reads.now;
        let began = started_at.filter(|at| *at <= decided);
        let has_connected = newest_connect.is_some_and(|at| began.is_none_or(|began| at >= began));
        assert!(has_connected, "probe {probe}: a passive answer before its instance's first connect");
        let target = &self.net.targets[target];
        if target.since > decided {
            return;
        }
        let door = target.behaviour.door;
        assert!(listens(door), "probe {probe}: a passive success of a closed listener: {target:?}");
        let seen = target.since + limits::LOOK_AGE_MAX <= decided;
        assert!(door == Door::Open || !seen, "probe {probe}: a passive success of a full queue: {target:?}");
    }

    fn asked(&self, probe: usize) -> SimAnswer {
        let probe = &self.pods.probes[probe];
        let started_at = self.pods.pods[probe.pod].containers[probe.container].started_at;
        SimAnswer { target: probe.target, started_at }
    }
}

/// What a passive answer was about.
struct SimAnswer {
    target: usize,
    started_at: Option<Instant>,
}
