//! A target of tcpSocket probes, and the lease that lets them be answered from kernel state.
//!
//! One [`Target`] per address, port and container instance; the probes of that instance share it. Two threads meet
//! here without waiting for each other: the shard grants and reads, the watch moves it between groups, voids and cuts. What
//! the looks at its listeners found is its [`Group`]'s.
//!
//! **Invariant:** a lease stands only while (1) the change counter has the value read *before* the connect that earned it,
//! (2) `now` is before the deadline of the look of the group in which it was granted, (3) `now` is before the lease's;
//! anything else is a real connect.
//!
//! **Invariant:** a void, a cut or a move to another group that comes between a connect and its grant is never lost: each
//! moves the epoch (a move, after it has put the new group in its place), and a grant looks at the epoch again after it has
//! stored its deadline. So a grant whose epoch has not moved took its group, and the settled value in it, from one and the
//! same group; and after a move no lease of the old group stands. (All of these are sequentially consistent: of two
//! threads that each write one of two words and then read the other, at least one sees what the other wrote.)

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use probe_core::id::{ContainerId, ContainerName};
use probe_core::spec::Pod;
use probe_core::time::Instant;

use super::answer::{Answer, Why};
use super::counters::Counters;
pub use super::group::{Group, Place};
use super::netns::NetnsRef;

/// Who answers a question about an open connection, in the target's namespace: `sock_diag`, or a test.
pub trait ChildLookup: Send + Sync + std::fmt::Debug {
    /// One exact query (about 2 us) for the connection whose local end is `target` and whose remote end is `ours`.
    fn child(&self, target: SocketAddr, ours: SocketAddr) -> Found;
}

/// What an exact query found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A connection with exactly these ends.
    Child,
    /// Not that: a listener, or nothing.
    Other,
    /// It could not be asked now.
    Unknown,
}

/// See the module. There are as many as tcpSocket probes at half a million pods' containers: 104 bytes, and a test that
/// holds it to that.
#[derive(Debug)]
pub struct Target {
    /// No two targets that are held at the same time have the same.
    pub id: u64,
    /// The pod, for events.
    pub pod: Arc<Pod>,
    /// The instance.
    pub container_id: ContainerId,
    /// Where the address is, as the runtime says.
    pub netns: NetnsRef,
    /// The watch: `None` until it has placed it.
    group: Mutex<Option<Arc<Group>>>,
    /// Shard and watch: until then the lease stands; 0 = none.
    lease_until_ns: AtomicU64,
    /// The watch: moved by every void, cut and move. A grant compares it over the time of one attempt: it may wrap.
    epoch: AtomicU32,
    /// The watch: what ended or cut the lease last, as [`Answer::to_bits`].
    ended_by: AtomicU32,
    /// Of the watch and the sweep, each for itself: where they keep it.
    pub(super) watched_at: OwnIndex,
    pub(super) swept_at: OwnIndex,
    ip: IpAddr,
    port: u16,
    shard: u16,
    /// Index in [`PodSpec::all_containers`](probe_core::spec::PodSpec::all_containers).
    container: u16,
}

/// An index that one thread alone reads and writes; none at first.
#[derive(Debug)]
pub(super) struct OwnIndex(AtomicU32);

impl OwnIndex {
    const NONE: u32 = u32::MAX;

    pub(super) fn index(&self) -> Option<usize> {
        match self.0.load(Relaxed) {
            Self::NONE => None,
            index => Some(index as usize),
        }
    }

    /// `index` is below every bound of a table of targets, so far from `NONE`.
    pub(super) fn set(&self, index: Option<usize>) {
        self.0.store(index.map_or(Self::NONE, |index| index as u32), Relaxed);
    }
}

/// What a shard reads before it submits a connect, for the grant after it.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    value: u64,
    epoch: u32,
    settled: bool,
}

impl Before {
    /// [`Target::epoch`] then.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The change counter then.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }

    /// No LISTEN event of the slot was tentative then: a connect made from here on can earn a lease.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.settled
    }
}

impl Target {
    /// Unknown to the watch until it is registered there. `shard`: by index, of those of the daemon.
    #[must_use]
    pub fn new(
        id: u64,
        shard: usize,
        pod: Arc<Pod>,
        container: &ContainerName,
        container_id: ContainerId,
        netns: NetnsRef,
        addr: SocketAddr,
    ) -> Self {
        let container = pod.all_containers().position(|other| other.name == *container);
        Self {
            id,
            container_id,
            netns,
            group: Mutex::new(None),
            lease_until_ns: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
            ended_by: AtomicU32::new(0),
            watched_at: OwnIndex(AtomicU32::new(OwnIndex::NONE)),
            swept_at: OwnIndex(AtomicU32::new(OwnIndex::NONE)),
            ip: addr.ip(),
            port: addr.port(),
            shard: u16::try_from(shard).unwrap_or(u16::MAX),
            container: container.and_then(|index| u16::try_from(index).ok()).unwrap_or(u16::MAX),
            pod,
        }
    }

    /// Where probes connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// Whose probes, by index.
    #[must_use]
    pub fn shard(&self) -> usize {
        usize::from(self.shard)
    }

    /// The container, where the pod has it.
    #[must_use]
    pub fn container(&self) -> Option<&ContainerName> {
        self.pod.all_containers().nth(usize::from(self.container)).map(|container| &container.name)
    }

    /// Those that the same listeners could answer, once the watch has placed it.
    #[must_use]
    pub fn group(&self) -> Option<Arc<Group>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moved by every void, cut and move.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(SeqCst)
    }

    /// What the last look at its listeners found, or why there is none; `None` = all well.
    #[must_use]
    pub fn look_found(&self) -> Option<Why> {
        self.group().map_or(Some(Why::LookOld), |group| group.look_found())
    }

    // The shard's side.

    /// To be called before the connect is submitted. `None` = its place is not known.
    #[must_use]
    pub fn before(&self, counters: &Counters) -> Option<Before> {
        // First of all: a move is in the group that is read next, or in the epoch at the grant.
        let epoch = self.epoch.load(SeqCst);
        let group = self.group()?;
        let value = counters.load(group.place()?.slot);
        Some(Before { value, epoch, settled: group.is_settled(value) })
    }

    /// After a connect that succeeded, and that the kernel showed to have reached a listener of this target: the lease
    /// stands until `until` from now on, as long as [`Target::held`] says so for the group that is returned.
    ///
    /// # Errors
    /// Why it does not.
    pub fn grant(&self, counters: &Counters, before: Before, until: Instant, now: Instant) -> Result<Arc<Group>, Why> {
        let group = self.group().ok_or(Why::LookOld)?;
        let Some(place) = group.place() else { return Err(group.look_found().unwrap_or(Why::NetnsUnknown)) };
        if !before.settled {
            return Err(group.obstacle().unwrap_or(Why::Tentative));
        }
        if counters.load(place.slot) != before.value {
            return Err(Why::Changed);
        }
        group.look(now)?;
        self.lease_until_ns.store(until.as_nanos(), SeqCst);
        if self.epoch.load(SeqCst) != before.epoch {
            self.lease_until_ns.store(0, SeqCst);
            return Err(self.ended_by());
        }
        Ok(group)
    }

    /// A passive answer: three atomic loads, no system call. `group` and `value` are those of the grant.
    ///
    /// # Errors
    /// Why a real connect is needed. A counter that has moved comes first: nothing else says more.
    #[inline]
    pub fn held(&self, counters: &Counters, group: &Group, value: u64, now: Instant) -> Result<(), Why> {
        let slot = group.place().map_or(0, |place| place.slot);
        if !cfg!(feature = "bite-counter") && counters.load(slot) != value {
            return Err(Why::Changed);
        }
        let lease_until_ns = self.lease_until_ns.load(SeqCst);
        if now.as_nanos() >= lease_until_ns {
            return Err(match lease_until_ns {
                0 => self.ended_by(),
                // A cut one tells its cause, any other has reached its age.
                _ => Answer::from_bits(self.ended_by.load(SeqCst)).why().unwrap_or(Why::Renewed),
            });
        }
        group.look(now)
    }

    /// Gives the lease up: an attempt failed.
    pub fn release(&self) {
        self.lease_until_ns.store(0, SeqCst);
    }

    /// The lease is a new one: whatever ended the one before is history. Before [`Target::before`].
    pub fn forget_end(&self) {
        self.ended_by.store(0, SeqCst);
    }

    fn ended_by(&self) -> Why {
        Answer::from_bits(self.ended_by.load(SeqCst)).why().unwrap_or(Why::First)
    }

    // The watch's side.

    /// From now on the listeners of this group could answer it, and no others. Ends the lease that it had in another one,
    /// or is being granted there, for this reason. True if one stood.
    pub fn join(&self, group: &Arc<Group>, why: Why) -> bool {
        let mut joined = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        let before = joined.replace(Arc::clone(group));
        drop(joined);
        // Without a place nothing was granted there, nor is being.
        before.is_some_and(|before| before.place().is_some()) && self.void(why)
    }

    /// Ends the lease, and any that is just being granted. True if one stood.
    pub fn void(&self, why: Why) -> bool {
        self.ended_by.store(Answer::Real(why).to_bits(), SeqCst);
        self.epoch.fetch_add(1, SeqCst);
        self.lease_until_ns.swap(0, SeqCst) != 0
    }

    /// The lease ends at `until` at the latest; one that is just being granted is not. True if that made it shorter.
    pub fn cut(&self, why: Why, until: Instant) -> bool {
        let before = self.lease_until_ns.load(SeqCst);
        self.epoch.fetch_add(1, SeqCst);
        let shorter = self.lease_until_ns.fetch_min(until.as_nanos(), SeqCst) > until.as_nanos();
        if shorter || before == 0 {
            self.ended_by.store(Answer::Real(why).to_bits(), SeqCst);
        }
        shorter
    }

    /// Something made the lease that stands shorter than it was granted. An attempt that is made while it stands makes that
    /// history ([`Target::forget_end`]).
    #[must_use]
    pub fn is_cut(&self) -> bool {
        Answer::from_bits(self.ended_by.load(SeqCst)).why().is_some()
    }

    /// A lease is written down; whether it still stands is told by [`Target::held`].
    #[must_use]
    pub fn lease_until(&self) -> Option<Instant> {
        match self.lease_until_ns.load(SeqCst) {
            0 => None,
            until_ns => Some(Instant::from_nanos(until_ns)),
        }
    }
}

impl Answer {
    /// Of a real one.
    pub(super) fn why(self) -> Option<Why> {
        match self {
            Answer::Real(why) => Some(why),
            Answer::None | Answer::Passive => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nobody;

    impl ChildLookup for Nobody {
        fn child(&self, _: SocketAddr, _: SocketAddr) -> Found {
            Found::Other
        }
    }

    #[test]
    fn a_lease_goes_with_the_group_in_which_it_was_granted() {
        use crate::results::fixture::pod;
        let counters = Counters::fake();
        let group = || {
            let group = Arc::new(Group::new(Place { netns_cookie: 1, slot: 5, lookup: Arc::new(Nobody) }));
            group.settle(counters.load(5));
            group.look_healthy(Instant::from_secs(100));
            group
        };
        let (now, until) = (Instant::from_secs(1), Instant::from_secs(60));
        let addr = SocketAddr::from(([10, 0, 0, 1], 80));
        let target = Target::new(1, 0, pod("u", "web", []), &"c".into(), "id".into(), NetnsRef::Own, addr);
        let one = group();
        assert!(!target.join(&one, Why::Changed));
        let before = target.before(&counters).expect("it is placed");
        let granted = target.grant(&counters, before, until, now).expect("all is well");
        assert!(Arc::ptr_eq(&granted, &one));
        assert_eq!(target.held(&counters, &granted, before.value(), now), Ok(()));
        // Both groups are as well as can be: it is the move that ends it.
        assert!(target.join(&group(), Why::Changed));
        assert_eq!(target.held(&counters, &granted, before.value(), now), Err(Why::Changed));
        // And one between a connect and its grant.
        let before = target.before(&counters).expect("it is placed");
        target.join(&group(), Why::Changed);
        assert_eq!(target.grant(&counters, before, until, now).err(), Some(Why::Changed));
        assert_eq!(target.lease_until(), None);
    }

    #[test]
    fn a_target_is_small_enough_for_a_block_of_128_bytes() {
        // An `Arc` adds two counts, malloc a header of eight bytes.
        assert!(size_of::<Target>() + 16 + 8 <= 128, "{} bytes", size_of::<Target>());
    }
}
