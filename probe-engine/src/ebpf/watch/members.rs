//! Which targets there are, and which group each is in.
//!
//! **Invariant:** a target is attached to its new group before it is detached from the old one, so a port does not lose what
//! the look under way has read of it. **Invariant:** a group that somebody else made for a class is joined as it is: its
//! looks and its settled value say of every address of the class what they say of the first one.
//!
//! **Invariant:** once a port was regrouped, each of its targets is in the group of the class that the listener table has for
//! its address, and there is a group of an own address only if a listener has it. So the next time only the targets of two
//! kinds of addresses are looked at: those that have a group and no listener any more, and those that have a listener and no
//! group yet. Both say nothing of a target that came in between, when the table had changed and the groups had not: then
//! (`Port::is_mixed`) whoever has an address with a listener is looked at.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use probe_core::schedule::mix;
use probe_core::time::Instant;

use super::{Namespace, Notice, Queued, Watch};
use crate::ebpf::answer::Why;
use crate::ebpf::listeners::Class;
use crate::ebpf::target::{Group, Place, Target};
use crate::limits;

/// A target, as it is watched.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its shard holds it, and the sweep for a moment.
    pub(super) target: Weak<Target>,
    /// Index in [`Watch::groups`], while it can be answered passively; else [`NONE`].
    group: u32,
    /// Index in that group's members.
    member: u32,
}

/// No group.
const NONE: u32 = u32::MAX;

const _: () = assert!(size_of::<Watched>() <= 16, "there are half a million");

/// A group, as it is watched.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) group: Arc<Group>,
    pub(super) netns_cookie: u64,
    pub(super) port: u16,
    class: Class,
    /// Indices in [`Watch::targets`], each with [`hash_of`] its address: who has one of a few addresses is found by a look at
    /// this alone.
    members: Vec<(u32, u32)>,
    /// What the last look found.
    pub(super) trouble: Option<Why>,
    /// Which of its accept queues is full or stalled, as it was told.
    queue: Option<Culprit>,
}

/// A listener whose accept queue is in trouble.
#[derive(Clone, Copy, Debug)]
pub(super) struct Culprit {
    pub(super) why: Why,
    pub(super) listener: SocketAddr,
    pub(super) len: u32,
    pub(super) max: u32,
}

/// A port of a namespace with targets.
#[derive(Debug)]
pub(super) struct Port {
    /// Of its groups.
    pub(super) place: Place,
    /// In the order of the classes, with their index in [`Watch::groups`].
    groups: Vec<(Class, u32)>,
    /// Not settled by a dump that began before.
    pub(super) settle_from: Instant,
    /// The look being made: the id of its dump, and the counter before it.
    pub(super) look: Option<(u64, u64)>,
    /// The same of the last look that was judged.
    pub(super) looked: Option<(u64, u64)>,
    /// The table's listeners of it may be others than when its targets were grouped.
    pub(super) is_changed: bool,
    /// And a target came since, which was grouped by the table as it is.
    is_mixed: bool,
}

impl Watched {
    pub(super) fn new(target: &Arc<Target>) -> Self {
        Self { target: Arc::downgrade(target), group: NONE, member: 0 }
    }

    /// Takes it out of its group: which one that was, and where in it.
    fn take_place(&mut self) -> Option<(usize, usize)> {
        let group = std::mem::replace(&mut self.group, NONE);
        (group != NONE).then_some((group as usize, self.member as usize))
    }
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_queue(&self, state: Option<Why>) -> bool {
        self.queue.map(|culprit| culprit.why) == state
    }

    /// Indices in [`Watch::targets`].
    pub(super) fn targets(&self) -> impl Iterator<Item = usize> {
        self.members.iter().map(|(index, _)| *index as usize)
    }
}

impl Port {
    fn new(place: Place, settle_from: Instant) -> Self {
        Self { place, groups: Vec::new(), settle_from, look: None, looked: None, is_changed: false, is_mixed: false }
    }

    /// Its classes, each with its index in [`Watch::groups`].
    pub(super) fn groups(&self) -> impl Iterator<Item = (Class, usize)> {
        self.groups.iter().map(|(class, group)| (*class, *group as usize))
    }

    fn group_of(&self, class: Class) -> Result<usize, usize> {
        let found = self.groups.binary_search_by_key(&class, |(class, _)| *class);
        found.map(|at| self.groups[at].1 as usize)
    }
}

impl Watch {
    /// Where it is kept; `None` = it is not registered.
    pub(super) fn index_of(&self, target: &Target) -> Option<usize> {
        let index = target.watched_at.index()?;
        let is_it = |watched: &&Watched| std::ptr::eq(watched.target.as_ptr(), target);
        self.targets.get(index).filter(is_it).map(|_| index)
    }

    /// The group of a target, while it can be answered passively.
    pub(super) fn group_of(&self, index: usize) -> Option<&Members> {
        self.groups.get(self.targets.get(index)?.group as usize)
    }

    /// Cookies of the listeners that looks at a target's group are looks at.
    #[cfg(test)]
    pub(super) fn candidates_of(&self, target: &Target) -> HashSet<u64> {
        let members = self.index_of(target).and_then(|index| self.group_of(index)).expect("it is placed");
        assert!(Arc::ptr_eq(&members.group, &target.group().expect("it is placed")));
        let listening = self.listeners.inside(members.netns_cookie).at(members.port);
        listening.candidates(members.class).map(|listener| listener.socket_cookie).collect()
    }

    /// The group of those that cannot be answered passively for this reason.
    pub(super) fn refusal(&mut self, why: Why) -> Arc<Group> {
        if let Some((_, group)) = self.refusals.iter().find(|(other, _)| *other == why) {
            return Arc::clone(group);
        }
        let group = Arc::new(Group::refused(why));
        self.refusals.push((why, Arc::clone(&group)));
        group
    }

    /// The sweep found out where it is, or why it cannot be answered passively.
    pub(super) fn place(&mut self, target: &Target, place: Result<Place, Why>, now: Instant) {
        let Some(index) = self.index_of(target) else { return };
        match place {
            Ok(place) => {
                let (netns_cookie, port) = (place.netns_cookie, target.addr().port());
                let at = self.open_port(&place, port, now);
                at.is_mixed |= at.is_changed;
                let class = self.listeners.inside(netns_cookie).at(port).class_of(target.addr().ip());
                self.join(index, target, netns_cookie, port, class);
                // Whoever joins a group of which all is known rests on what is known.
                let is_known = self.group_of(index).is_some_and(|Members { group, .. }| {
                    group.is_settled(self.counters.load(place.slot)) && group.look(now).is_ok()
                });
                if !is_known {
                    self.look_soon(netns_cookie, port, now);
                }
            }
            Err(why) => {
                let refusal = self.refusal(why);
                let is_void = target.join(&refusal, why);
                self.stats.voids.fetch_add(u64::from(is_void), Relaxed);
                self.leave(index);
            }
        }
    }

    fn open_port(&mut self, place: &Place, port: u16, now: Instant) -> &mut Port {
        let untold = self.untold_at.map_or(Instant::ZERO, |at| at + limits::TENTATIVE_MAX);
        let namespace = self.namespaces.entry(place.netns_cookie).or_insert_with(|| Namespace::new(now));
        namespace.ports.entry(port).or_insert_with(|| Port::new(place.clone(), untold))
    }

    /// Puts a target into the group of this class, which is made where there is none; its port is there. True if that ended
    /// a lease.
    fn join(&mut self, index: usize, target: &Target, netns_cookie: u64, port: u16, class: Class) -> bool {
        let Some(at) = self.namespaces.get_mut(&netns_cookie).and_then(|namespace| namespace.ports.get_mut(&port))
        else {
            return false;
        };
        let key = match at.group_of(class) {
            Ok(key) => key,
            Err(_) => {
                let group = Arc::new(Group::new(at.place.clone()));
                let (members, trouble, queue) = (Vec::new(), Some(Why::LookOld), None);
                let key = self.groups.insert(Members { group, netns_cookie, port, class, members, trouble, queue });
                let before = at.groups.partition_point(|(other, _)| *other < class);
                at.groups.insert(before, (class, key as u32));
                key
            }
        };
        let watched = &mut self.targets[index];
        if watched.group == key as u32 {
            return false;
        }
        let members = &mut self.groups[key];
        let old = watched.take_place();
        watched.group = key as u32;
        watched.member = members.members.len() as u32;
        members.members.push((index as u32, hash_of(target.addr().ip())));
        let is_void = target.join(&members.group, Why::Changed);
        if let Some(culprit) = members.queue {
            self.count_queue(culprit.why, 1, true);
            self.tell_member(index, culprit);
        }
        if let Some((old, member)) = old {
            self.detach(old, member);
        }
        is_void
    }

    /// The target is in no group from now on.
    pub(super) fn leave(&mut self, index: usize) {
        let Some((group, member)) = self.targets[index].take_place() else { return };
        let netns_cookie = self.groups[group].netns_cookie;
        if let Some(namespace) = self.namespaces.get_mut(&netns_cookie) {
            namespace.audits.remove(&index);
        }
        self.detach(group, member);
    }

    fn detach(&mut self, key: usize, member: usize) {
        let members = &mut self.groups[key];
        members.members.swap_remove(member);
        if let Some((moved, _)) = members.members.get(member) {
            self.targets[*moved as usize].member = member as u32;
        }
        let (netns_cookie, port, class, queue) = (members.netns_cookie, members.port, members.class, members.queue);
        let is_empty = members.members.is_empty();
        if let Some(culprit) = queue {
            self.count_queue(culprit.why, 1, false);
        }
        if !is_empty {
            return;
        }
        self.groups.remove(key);
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        if let Some(at) = namespace.ports.get_mut(&port) {
            at.groups.retain(|(other, _)| *other != class);
            if at.groups.is_empty() {
                namespace.ports.remove(&port);
            }
        }
        // With a dump under way it stays: its answer must not be taken for that of a later dump.
        if namespace.ports.is_empty() && namespace.look.is_none() {
            self.namespaces.remove(&netns_cookie);
        }
    }

    /// Puts the targets of a port into the groups of their addresses, as the listener table has it now.
    pub(super) fn regroup(&mut self, netns_cookie: u64, port: u16) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        let Some(at) = namespace.ports.get_mut(&port) else { return };
        at.is_changed = false;
        let is_mixed = std::mem::take(&mut at.is_mixed);
        // Where the counter has not moved either, no shard has heard of it: a lease that ends here is the watch's doing.
        let is_unannounced = at.look.is_some_and(|(_, value)| at.looked.is_some_and(|(_, looked)| looked == value));
        let listening = self.listeners.inside(netns_cookie).at(port);
        let is_new = |ip: &IpAddr| is_mixed || at.group_of(Class::At(*ip)).is_err();
        let new: HashSet<u32> = listening.own_addresses().filter(is_new).map(hash_of).collect();
        let mut movers: Vec<u32> = Vec::new();
        for (class, key) in at.groups() {
            let members = self.groups[key].members.iter();
            match class {
                Class::At(ip) if listening.class_of(ip) == class => {}
                Class::At(_) => movers.extend(members.map(|(index, _)| index)),
                Class::V4 | Class::V6 if new.is_empty() => {}
                Class::V4 | Class::V6 => {
                    movers.extend(members.filter(|(_, hash)| new.contains(hash)).map(|(index, _)| index));
                }
            }
        }
        let mut voided = 0;
        for index in movers {
            let index = index as usize;
            let Some(target) = self.targets[index].target.upgrade() else {
                // Nobody holds it: its group shall not stand for an address that has no listener.
                self.leave(index);
                continue;
            };
            let class = self.listeners.inside(netns_cookie).at(port).class_of(target.addr().ip());
            voided += u64::from(self.join(index, &target, netns_cookie, port, class));
        }
        if is_unannounced {
            self.stats.voids.fetch_add(voided, Relaxed);
        }
    }

    /// Targets that nobody holds any more are forgotten: of so many as one sweep visits.
    pub(super) fn let_go(&mut self) {
        let visits = limits::targets_visited(self.targets.len());
        let end = self.targets.capacity();
        for _ in 0..visits.min(end) {
            self.visited = if self.visited + 1 < end { self.visited + 1 } else { 0 };
            let is_gone = |watched: &Watched| watched.target.strong_count() == 0;
            if self.targets.get(self.visited).is_some_and(is_gone) {
                self.leave(self.visited);
                self.targets.remove(self.visited);
            }
        }
        self.stats.targets.store(self.targets.len() as u64, Relaxed);
    }

    /// The accept queues of a group's listeners are in this state: told once, and kept in the gauges.
    pub(super) fn tell_queue(&mut self, key: usize, state: Option<Culprit>) {
        let members = &mut self.groups[key];
        if members.is_queue(state.map(|culprit| culprit.why)) {
            return;
        }
        let (before, len) = (std::mem::replace(&mut members.queue, state), members.len() as u64);
        if let Some(before) = before {
            self.count_queue(before.why, len, false);
        }
        if let Some(culprit) = state {
            self.count_queue(culprit.why, len, true);
            self.tell_members(key, &|target| culprit.of(target));
        }
    }

    /// A notice about each target of a group, as far as there is room.
    pub(super) fn tell_members(&mut self, key: usize, notice: &dyn Fn(Arc<Target>) -> Notice) {
        let room = limits::WATCH_NOTICES_LEN_MAX.saturating_sub(self.notices.len());
        let members = &self.groups[key];
        let told = members.targets().take(room).filter_map(|index| self.targets[index].target.upgrade());
        self.notices.extend(told.map(notice));
        self.stats.notices_dropped.fetch_add(members.len().saturating_sub(room) as u64, Relaxed);
    }

    fn tell_member(&mut self, index: usize, culprit: Culprit) {
        if let Some(target) = self.targets[index].target.upgrade() {
            self.notify(culprit.of(target));
        }
    }

    fn count_queue(&mut self, why: Why, targets: u64, is_entered: bool) {
        let gauge = if why == Why::AcceptQueueFull { &mut self.queues_full } else { &mut self.queues_stalled };
        *gauge = if is_entered { *gauge + targets } else { gauge.saturating_sub(targets) };
        self.stats.accept_queues_full.store(self.queues_full, Relaxed);
        self.stats.accept_queues_stalled.store(self.queues_stalled, Relaxed);
    }
}

impl Culprit {
    fn of(self, target: Arc<Target>) -> Notice {
        let Culprit { why, listener, len, max } = self;
        let queued = Queued { target, listener, len, max };
        if why == Why::AcceptQueueFull { Notice::AcceptQueueFull(queued) } else { Notice::AcceptStalled(queued) }
    }
}

/// Of a canonical address. Two addresses of one hash are a look at one target too many.
fn hash_of(ip: IpAddr) -> u32 {
    let hash = match ip.to_canonical() {
        IpAddr::V4(ip) => mix(u64::from(ip.to_bits())),
        IpAddr::V6(ip) => mix((ip.to_bits() >> 64) as u64 ^ mix(ip.to_bits() as u64)),
    };
    hash as u32
}
