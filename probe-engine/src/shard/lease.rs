//! Leases: which tcpSocket attempts are answered from kernel state, and which by a connection.
//!
//! One lease per container instance and address, shared by the probes that ask there; it lives as long as one of them.
//! What it rests on is in its [`Target`]; here is the policy: when to ask for one, how long it lasts, what ends it.
//!
//! **Invariant:** a passive answer is given only while [`Target::held`] says so for the slot and value of a grant, and a grant
//! follows only a real success that began after the newest failure. Bound: one lease per tcpSocket probe of the shard.

mod audit;
mod draw;
#[cfg(test)]
pub(super) mod tests;

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use probe_core::id::ContainerId;
use probe_core::outcome::Outcome;
use probe_core::scheduler;
use probe_core::time::Instant;
use slab::Slab;

use self::audit::Audits;
use self::draw::Draw;
use super::metrics::{AuditResult, Occupancy, PassiveCounts};
use crate::ebpf::netns::NetnsRef;
use crate::ebpf::passive::{Passive, ToWatch};
use crate::ebpf::target::{Before, Group};
use crate::ebpf::{Target, Why};
use crate::limits;

/// A lease's place. Given away again when its last probe lets go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseIndex(NonZeroU32);

impl LeaseIndex {
    /// The place plus 1 is kept: a probe that has no lease takes no room to say so. Places are below the bound of workers.
    fn new(place: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(place))
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// How an attempt is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// From kernel state: a success.
    Passive,
    /// By a connection.
    Real(Why),
}

/// What lies together of that which a passive answer reads, in the order of who points to whom.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// The lease itself.
    Lease,
    /// Its target and its group.
    Target,
    /// The group's change counter.
    Counter,
}

/// Of a real attempt, from just before its connect is submitted until it has landed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    why: Why,
    /// `None`: the target's place is not known, so nothing can be granted.
    before: Option<Before>,
    /// Of the lease, when the attempt began.
    failures: u32,
}

impl Ticket {
    /// It is of use to know who takes the connect.
    pub(super) fn wants_witness(&self) -> bool {
        self.before.is_some()
    }
}

/// See the module.
pub(super) struct Leases {
    passive: Result<Passive, Why>,
    shard: usize,
    leases: Slab<Lease>,
    /// Their indices, found by [`hash`].
    by_instance: HashTable<u32>,
    hasher: RandomState,
    /// Of the next target's id.
    serial: u16,
    /// Where [`Leases::count`] goes on.
    counted: usize,
    draw: Draw,
    audits: Audits,
    /// When [`Leases::count`] was called last.
    counted_at: Instant,
}

struct Lease {
    target: Arc<Target>,
    registered: bool,
    /// Probes that hold it.
    probes: u32,
    state: State,
    /// Failed attempts so far; wraps. A success that began before the newest one grants nothing.
    failures: u32,
}

#[derive(Clone, Debug)]
enum State {
    /// The pod's annotation, or the daemon's setting, says no.
    Off,
    /// No real attempt of this instance has landed.
    First,
    /// The newest one failed.
    Failing,
    /// There is none: what ended it, or why it was not granted.
    Without(Why),
    /// Granted: in which group, and at which value of the change counter.
    Granted { group: Arc<Group>, value: u64 },
}

const _: () = assert!(size_of::<Lease>() <= 48, "there is one for every container with a tcpSocket probe");

impl Leases {
    /// `passive`: `Err` where there is none, with the reason that every attempt then gives. `shards`: how many share the
    /// audits of the node.
    pub(super) fn new(passive: Result<Passive, Why>, shard: usize, shards: usize, seed: u64, now: Instant) -> Self {
        let per_second = passive.as_ref().map_or(0, |passive| passive.settings.passive_audit_per_second);
        let audits = Audits::new(f64::from(per_second) / shards.max(1) as f64, !seed, now);
        Self {
            passive,
            shard,
            leases: Slab::new(),
            by_instance: HashTable::new(),
            hasher: RandomState::new(),
            serial: 0,
            counted: 0,
            draw: Draw::new(seed),
            audits,
            counted_at: now,
        }
    }

    /// Places of leases.
    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy { used: self.leases.len() as u64, places: self.leases.capacity() as u64 }
    }

    /// Passive answers are possible at all.
    pub(super) fn is_on(&self) -> bool {
        self.passive.is_ok()
    }

    /// Why an attempt connects that has no lease to ask: there are none, or a name has to be resolved first.
    pub(super) fn why_none(&self) -> Why {
        self.passive.as_ref().err().copied().unwrap_or(Why::NotLocal)
    }

    /// The lease for attempts at `addr`: the one that the probe holds, where that is for this instance and address; else it
    /// is let go of, and the right one taken hold of. Allocates only then.
    ///
    /// What is returned is right until the pod has another status (`PodStatus`) or the probe another address: until then a
    /// caller may go to [`Leases::decide`] with it at once.
    pub(super) fn hold(
        &mut self,
        held: Option<LeaseIndex>,
        target: &scheduler::Target<'_>,
        addr: SocketAddr,
    ) -> LeaseIndex {
        if let Some(index) = held {
            // Of the same container: the probe holds it, and does not outlive its worker.
            if self.leases[index.place()].is_for(target, addr) {
                return index;
            }
            self.let_go(index);
        }
        let hash = hash(&self.hasher, target.container_id, addr);
        let is_it = |index: &u32| {
            let lease = &self.leases[*index as usize];
            lease.is_for(target, addr)
                && lease.target.pod.uid == target.pod.uid
                && lease.target.container() == Some(target.container)
        };
        if let Some(&index) = self.by_instance.find(hash, is_it) {
            self.leases[index as usize].probes += 1;
            return LeaseIndex::new(index);
        }
        let index = self.leases.vacant_key() as u32;
        let lease = self.new_lease(index, target, addr);
        self.leases.insert(lease);
        let (hasher, leases) = (&self.hasher, &self.leases);
        self.by_instance.insert_unique(hash, index, |index| leases[*index as usize].hash(hasher));
        LeaseIndex::new(index)
    }

    /// A probe has ended, or asks elsewhere now. The last one ends the lease, and with it the watch's interest.
    pub(super) fn let_go(&mut self, index: LeaseIndex) {
        let lease = &mut self.leases[index.place()];
        lease.probes -= 1;
        if lease.probes > 0 {
            return;
        }
        let lease = self.leases.remove(index.place());
        lease.target.release();
        if let (true, Ok(passive)) = (lease.registered, &self.passive) {
            passive.watch.let_go(Arc::clone(&lease.target));
        }
        let hash = lease.hash(&self.hasher);
        if let Ok(entry) = self.by_instance.find_entry(hash, |other| *other as usize == index.place()) {
            entry.remove();
        }
    }

    /// The lease of this target, while it has one.
    pub(super) fn find(&self, target: u64) -> Option<(LeaseIndex, &Arc<Target>)> {
        // As `new_lease` made the id.
        let index = target as u32;
        let lease = self.leases.get(index as usize).filter(|lease| lease.target.id == target)?;
        Some((LeaseIndex::new(index), &lease.target))
    }

    /// The newest attempt failed.
    pub(super) fn is_failing(&self, index: LeaseIndex) -> bool {
        matches!(self.leases[index.place()].state, State::Failing)
    }

    /// What the lease is about.
    pub(super) fn target(&self, index: LeaseIndex) -> &Arc<Target> {
        &self.leases[index.place()].target
    }

    /// Reads a part of what [`Leases::decide`] will, and forgets it: it is in the cache then.
    pub(super) fn read_ahead(&self, index: LeaseIndex, part: Part) {
        let (Some(lease), Ok(passive)) = (self.leases.get(index.place()), &self.passive) else { return };
        let State::Granted { group, .. } = &lease.state else { return };
        match part {
            Part::Lease => _ = black_box(lease.probes),
            Part::Target => _ = black_box((lease.target.lease_until(), group.place().map(|place| place.slot))),
            Part::Counter => _ = black_box(group.place().map(|place| passive.counters.load(place.slot))),
        }
    }

    /// Answers an attempt that is due now from kernel state, if that needs no other decision: the lease stands, and no audit is
    /// due. Otherwise nothing has happened, and [`Leases::decide`] decides.
    pub(super) fn answer(&mut self, index: LeaseIndex, now: Instant, counts: &mut PassiveCounts) -> bool {
        let (Ok(passive), Some(lease)) = (&self.passive, self.leases.get(index.place())) else { return false };
        let State::Granted { group, value } = &lease.state else { return false };
        if self.audits.is_due_next(now) || lease.target.held(&passive.counters, group, *value, now).is_err() {
            return false;
        }
        self.audits.pass();
        counts.passive += 1;
        true
    }

    /// How an attempt that is due now is answered. `must_connect`: by a connection in any case, and why. While the lease
    /// stands this is a few atomic loads; it allocates nothing.
    pub(super) fn decide(
        &mut self,
        index: LeaseIndex,
        must_connect: Option<Why>,
        now: Instant,
        counts: &mut PassiveCounts,
    ) -> Decision {
        let Ok(passive) = &self.passive else { return Decision::Real(self.why_none()) };
        let lease = &mut self.leases[index.place()];
        let why = match &lease.state {
            State::Off => return Decision::Real(Why::Off),
            State::First => Why::First,
            State::Failing => Why::Failing,
            State::Without(why) => *why,
            State::Granted { group, value } => match lease.target.held(&passive.counters, group, *value, now) {
                Ok(()) => match must_connect {
                    Some(why) => return Decision::Real(why),
                    None if self.audits.take(now) => return Decision::Real(Why::Audited),
                    None => {
                        counts.passive += 1;
                        return Decision::Passive;
                    }
                },
                // That says nothing of the target, and the next look may find that all is as it was: until then, connect.
                Err(Why::LookOld) => Why::LookOld,
                Err(why) => {
                    lease.end(State::Without(why), why, counts);
                    why
                }
            },
        };
        lease.register(passive);
        Decision::Real(must_connect.unwrap_or(why))
    }

    /// For a real attempt. To be called before its connect is submitted: a change of the listeners from here on, and any void
    /// or cut, is one that its grant will notice.
    pub(super) fn ticket(&mut self, index: LeaseIndex, why: Why) -> Ticket {
        let lease = &self.leases[index.place()];
        let before = match &self.passive {
            Ok(passive) if !matches!(lease.state, State::Off) => {
                lease.target.forget_end();
                lease.target.before(&passive.counters)
            }
            _ => None,
        };
        Ticket { why, before, failures: lease.failures }
    }

    /// A real attempt has landed, `taken` by whom the kernel showed. Returns how it was answered: why it connected, or where
    /// no lease came of it again, why not this time.
    ///
    /// Whatever real success it is, it earns a lease if it can, also one that was made while a lease stood (an audit, a
    /// trigger): it shows all that a renewal shows, so another connect for the same would be wasted. For the same reason
    /// a lease that stands does not outlast such an attempt that shows the contrary (taken by somebody else, say).
    pub(super) fn landed(
        &mut self,
        index: LeaseIndex,
        ticket: Ticket,
        outcome: &Outcome,
        taken: Result<(), Why>,
        now: Instant,
        counts: &mut PassiveCounts,
    ) -> Why {
        let audit = match outcome {
            Outcome::Success(_) | Outcome::Warning(_) => AuditResult::Agreed,
            Outcome::Failure(_) => AuditResult::Contradicted,
            Outcome::Error(_) | Outcome::Local(_) => AuditResult::Local,
        };
        if ticket.why == Why::Audited {
            counts.audits[audit.index()] += 1;
        }
        let failures = self.leases[index.place()].failures;
        match audit {
            AuditResult::Agreed if ticket.failures != failures => {}
            AuditResult::Agreed => {
                let granted = self.grant(index, ticket, taken, now);
                let lease = &mut self.leases[index.place()];
                match granted {
                    Ok(state) => {
                        lease.state = state;
                        counts.granted += 1;
                    }
                    Err(Why::LookOld) if matches!(lease.state, State::Granted { .. }) => {}
                    Err(refusal) if !matches!(lease.state, State::Off) => {
                        let again = matches!(lease.state, State::Without(_));
                        lease.end(State::Without(refusal), refusal, counts);
                        return if again && ticket.why != Why::Triggered { refusal } else { ticket.why };
                    }
                    Err(_) => {}
                }
            }
            AuditResult::Contradicted => self.failed(index, ticket, counts),
            AuditResult::Local => {}
        }
        ticket.why
    }

    /// Counts the leases that stand, and for how long they did: as if since the last call they were as they are now.
    ///
    /// Of many, [`limits::LEASES_COUNTED_MAX`] are looked at in turn and stand for the rest: their share is the share of all
    /// (one per cent of 500,000 that do not stand is told as 0.7 to 1.3).
    pub(super) fn count(&mut self, now: Instant, counts: &mut PassiveCounts) {
        let since_ns = now.as_nanos().saturating_sub(self.counted_at.as_nanos());
        self.counted_at = now;
        counts.held = 0;
        let Ok(passive) = &self.passive else { return };
        let (mut seen, mut held, mut cut) = (0_u64, 0_u64, 0_u64);
        let end = self.leases.capacity();
        for _ in 0..end {
            self.counted = if self.counted + 1 < end { self.counted + 1 } else { 0 };
            let Some(Lease { target, state, .. }) = self.leases.get(self.counted) else { continue };
            seen += 1;
            if let State::Granted { group, value } = state
                && target.held(&passive.counters, group, *value, now).is_ok()
            {
                held += 1;
                cut += u64::from(target.is_cut());
            }
            if seen == limits::LEASES_COUNTED_MAX {
                break;
            }
        }
        let of_all = |part: u64| (u128::from(part) * self.leases.len() as u128 / u128::from(seen.max(1))) as u64;
        counts.held = of_all(held);
        counts.held_ns += of_all(held).saturating_mul(since_ns);
        counts.cut_ns += of_all(cut).saturating_mul(since_ns);
    }

    fn new_lease(&mut self, index: u32, target: &scheduler::Target<'_>, addr: SocketAddr) -> Lease {
        let passive = self.passive.as_ref().ok();
        let is_on = passive.is_some_and(|passive| passive.settings.is_on_for(target.pod));
        // Where to find it, and what tells it from others that were there before, on this shard and elsewhere.
        self.serial = self.serial.wrapping_add(1);
        let id = (self.shard as u64) << 48 | u64::from(self.serial) << 32 | u64::from(index);
        let netns = target.netns.map_or(NetnsRef::Own, |path| NetnsRef::at(Arc::clone(path)));
        let (pod, container_id) = (Arc::clone(target.pod), target.container_id.clone());
        let new = Target::new(id, self.shard, pod, target.container, container_id, netns, addr);
        let state = if is_on { State::First } else { State::Off };
        Lease { target: Arc::new(new), registered: false, probes: 1, state, failures: 0 }
    }

    fn grant(&mut self, index: LeaseIndex, ticket: Ticket, taken: Result<(), Why>, now: Instant) -> Result<State, Why> {
        let target = &self.leases[index.place()].target;
        let passive = self.passive.as_ref().map_err(|why| *why)?;
        // Not placed yet, or never: the watch says so where it would say what its look found.
        let before = ticket.before.ok_or_else(|| target.look_found().unwrap_or(Why::LookOld))?;
        taken?;
        let until = now + length(passive.settings.passive_max_age, ticket.why, &mut self.draw);
        let group = target.grant(&passive.counters, before, until, now)?;
        Ok(State::Granted { group, value: before.value() })
    }

    fn failed(&mut self, index: LeaseIndex, ticket: Ticket, counts: &mut PassiveCounts) {
        let lease = &mut self.leases[index.place()];
        lease.failures = lease.failures.wrapping_add(1);
        if !matches!(lease.state, State::Off) {
            lease.end(State::Failing, Why::Failing, counts);
        }
        if let (Why::Audited, Some(before), Ok(passive)) = (ticket.why, ticket.before, &self.passive) {
            let (value, epoch) = (before.value(), before.epoch());
            let message = ToWatch::AuditFailed { target: Arc::clone(&lease.target), value, epoch };
            if passive.watch.send(message).is_err() {
                // Its own lease has ended all the same; another audit will say it again.
                tracing::warn!(addr = %lease.target.addr(), "an audit's failure is not judged: the watch is too busy");
            }
        }
    }
}

impl Lease {
    fn is_for(&self, target: &scheduler::Target<'_>, addr: SocketAddr) -> bool {
        let own = &self.target;
        // As a rule they are the very same strings, and nothing is compared but where they are.
        let same = |a: &str, b: &str| std::ptr::eq(a, b) || a == b;
        let same_netns = match (&own.netns, target.netns) {
            (NetnsRef::Own, None) => true,
            (NetnsRef::Path(path), Some(now)) => same(path, now),
            _ => false,
        };
        (own.addr().ip(), own.addr().port()) == (addr.ip(), addr.port())
            && same_netns
            && same(own.container_id.as_str(), target.container_id.as_str())
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        hash(hasher, &self.target.container_id, self.target.addr())
    }

    fn register(&mut self, passive: &Passive) {
        if !self.registered {
            let message = ToWatch::Register(Arc::clone(&self.target));
            self.registered = passive.watch.send(message).is_ok();
        }
    }

    /// Whatever it was, there is no lease now.
    fn end(&mut self, state: State, why: Why, counts: &mut PassiveCounts) {
        if matches!(self.state, State::Granted { .. }) {
            counts.ended[why.index()] += 1;
        }
        self.target.release();
        self.state = state;
    }
}

/// Of an instance and an address: what [`Leases::by_instance`] is found by.
fn hash(hasher: &RandomState, container_id: &ContainerId, addr: SocketAddr) -> u64 {
    hasher.hash_one((container_id, addr.ip(), addr.port()))
}

/// How long a lease lasts that an attempt made for this reason has earned.
///
/// `passive_max_age` bounds how much later a failure is reported than without leases. A listener that stops to accept is
/// seen as stuck only at the second look at its queue, so that much (at most half) is taken off first: even then the first
/// failure comes no more than one `passive_max_age` later. Of what is left, a seeded 0.8 to 1.0, so that leases that
/// were renewed together drift apart.
///
/// That alone would take many rounds to flatten the wave after a start, or after something that voided all: so only the
/// renewal of a lease that has reached its age lasts that long (and an audit's, which come at random times anyway). A fresh
/// one lasts a seeded part of it, any part: what a lease that was renewed at a random time would have left.
fn length(passive_max_age: Duration, why: Why, draw: &mut Draw) -> Duration {
    let age = passive_max_age - limits::LOOK_AGE_MAX.min(passive_max_age / 2);
    let whole = age.mul_f64(0.8 + 0.2 * draw.share());
    match why {
        Why::Renewed | Why::Audited => whole,
        _ => whole.mul_f64(draw.share()),
    }
}
