//! A target of tcpSocket probes, and the lease that lets them be answered from kernel state.
//!
//! One [`Target`] per address, port and container instance; the probes of that instance share it. Two threads meet
//! here without a lock: the shard grants and reads, the watch publishes looks, voids and cuts.
//!
//! **Invariant:** a lease stands only while (1) the change counter has the value read *before* the connect that earned it,
//! (2) `now` is before the look's deadline, (3) `now` is before the lease's; anything else is a real connect.
//!
//! **Invariant:** a void or a cut that comes between a connect and its grant is never lost: each moves the epoch first, and
//! a grant looks at the epoch again after it has stored its deadline. (All of these are sequentially consistent: of two
//! threads that each write one of two words and then read the other, at least one sees what the other wrote.)

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use probe_core::id::{ContainerId, ContainerName};
use probe_core::spec::Pod;
use probe_core::time::Instant;

use super::answer::{Answer, Why};
use super::counters::Counters;
use super::netns::NetnsRef;

/// No value of a change counter.
const NEVER: u64 = u64::MAX;

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

/// Where a target is; settled once per target.
#[derive(Clone, Debug)]
pub struct Place {
    /// `SO_NETNS_COOKIE` of the namespace.
    pub netns_cookie: u64,
    /// [`probe_ebpf::counter_slot`] of it and the port.
    pub slot: u32,
    /// Asked where the child's event is missing.
    pub lookup: Arc<dyn ChildLookup>,
}

/// See the module.
#[derive(Debug)]
pub struct Target {
    /// Unique while the daemon runs.
    pub id: u64,
    /// Whose probes.
    pub shard: usize,
    /// The pod, for events.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: ContainerName,
    /// The instance.
    pub container_id: ContainerId,
    /// Where the address is, as the runtime says.
    pub netns: NetnsRef,
    /// Where probes connect to.
    pub addr: SocketAddr,
    place: OnceLock<Place>,
    /// The watch: the counter's value up to which every LISTEN event of the slot is confirmed or refuted.
    settled: AtomicU64,
    /// The watch: until then the last look holds; 0 = it found trouble, or there was none.
    look_until_ns: AtomicU64,
    /// The watch: what the last look found, as [`Answer::to_bits`]; `None` = healthy.
    look_trouble: AtomicU32,
    /// The watch: moved by every void and cut.
    epoch: AtomicU64,
    /// Shard and watch: until then the lease stands; 0 = none.
    lease_until_ns: AtomicU64,
    /// The watch: what ended or cut the lease last, as [`Answer::to_bits`].
    ended_by: AtomicU32,
}

/// What a shard reads before it submits a connect, for the grant after it.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    value: u64,
    epoch: u64,
    settled: bool,
}

impl Before {
    /// [`Target::epoch`] then.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
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
    /// Unknown to the watch until it is registered there.
    #[must_use]
    pub fn new(
        id: u64,
        shard: usize,
        pod: Arc<Pod>,
        container: ContainerName,
        container_id: ContainerId,
        netns: NetnsRef,
        addr: SocketAddr,
    ) -> Self {
        Self {
            id,
            shard,
            pod,
            container,
            container_id,
            netns,
            addr,
            place: OnceLock::new(),
            settled: AtomicU64::new(NEVER),
            look_until_ns: AtomicU64::new(0),
            look_trouble: AtomicU32::new(Answer::Real(Why::LookOld).to_bits()),
            epoch: AtomicU64::new(0),
            lease_until_ns: AtomicU64::new(0),
            ended_by: AtomicU32::new(0),
        }
    }

    /// Where it is, once the watch found out.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// Moved by every void and cut.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    // The shard's side.

    /// To be called before the connect is submitted. `None` = its place is not known.
    #[must_use]
    pub fn before(&self, counters: &Counters) -> Option<Before> {
        let place = self.place.get()?;
        let epoch = self.epoch.load(SeqCst);
        let value = counters.load(place.slot);
        Some(Before { value, epoch, settled: self.settled.load(SeqCst) == value })
    }

    /// After a connect that succeeded, and that the kernel showed to have reached a listener of this target: the lease
    /// stands until `until` from now on.
    ///
    /// # Errors
    /// Why it does not.
    pub fn grant(&self, counters: &Counters, before: Before, until: Instant, now: Instant) -> Result<(), Why> {
        let place = self.place.get().ok_or(Why::NetnsUnknown)?;
        if !before.settled {
            return Err(self.obstacle().unwrap_or(Why::Tentative));
        }
        if counters.load(place.slot) != before.value {
            return Err(Why::Changed);
        }
        self.look(now)?;
        self.lease_until_ns.store(until.as_nanos(), SeqCst);
        if self.epoch.load(SeqCst) != before.epoch {
            self.lease_until_ns.store(0, SeqCst);
            return Err(self.ended_by());
        }
        Ok(())
    }

    /// A passive answer: three atomic loads, no system call. `slot` and `value` are those of the grant.
    ///
    /// # Errors
    /// Why a real connect is needed. A counter that has moved comes first: nothing else says more.
    #[inline]
    pub fn held(&self, counters: &Counters, slot: u32, value: u64, now: Instant) -> Result<(), Why> {
        if self.changed(counters, slot, value) {
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
        self.look(now)
    }

    /// Gives the lease up: an attempt failed.
    pub fn release(&self) {
        self.lease_until_ns.store(0, SeqCst);
    }

    /// The lease is a new one: whatever ended the one before is history. Before [`Target::before`].
    pub fn forget_end(&self) {
        self.ended_by.store(0, SeqCst);
    }

    #[inline]
    fn changed(&self, counters: &Counters, slot: u32, value: u64) -> bool {
        !cfg!(feature = "bite-counter") && counters.load(slot) != value
    }

    fn look(&self, now: Instant) -> Result<(), Why> {
        let until_ns = self.look_until_ns.load(SeqCst);
        if now.as_nanos() < until_ns {
            return Ok(());
        }
        Err(if until_ns == 0 { self.trouble() } else { Why::LookOld })
    }

    fn trouble(&self) -> Why {
        Answer::from_bits(self.look_trouble.load(SeqCst)).why().unwrap_or(Why::LookOld)
    }

    fn ended_by(&self) -> Why {
        Answer::from_bits(self.ended_by.load(SeqCst)).why().unwrap_or(Why::First)
    }

    /// What keeps it from ever being granted, as far as the last look tells.
    fn obstacle(&self) -> Option<Why> {
        let trouble = Answer::from_bits(self.look_trouble.load(SeqCst)).why()?;
        matches!(
            trouble,
            Why::Transparent | Why::SkLookup | Why::SkLookupUnknown | Why::NotLocal | Why::NetnsUnknown | Why::SelfTest
        )
        .then_some(trouble)
    }

    // The watch's side.

    /// Found out where it is. The first call counts.
    pub fn settle_place(&self, place: Place) {
        // A second one says the same: the namespace of a target does not change.
        let _ = self.place.set(place);
    }

    /// Every LISTEN event of its slot up to this value of the counter is confirmed or refuted.
    pub fn settle(&self, value: u64) {
        self.settled.store(value, SeqCst);
    }

    /// No lease can be granted until [`Target::settle`].
    pub fn unsettle(&self) {
        self.settled.store(NEVER, SeqCst);
    }

    /// A look at all listeners that could answer found them well; it holds until then.
    pub fn look_healthy(&self, until: Instant) {
        self.look_trouble.store(0, SeqCst);
        self.look_until_ns.store(until.as_nanos(), SeqCst);
    }

    /// A look found trouble: no passive answers until the next one finds none.
    pub fn look_troubled(&self, why: Why) {
        self.look_trouble.store(Answer::Real(why).to_bits(), SeqCst);
        self.look_until_ns.store(0, SeqCst);
    }

    /// What the last look found; `None` = all well.
    #[must_use]
    pub fn look_found(&self) -> Option<Why> {
        Answer::from_bits(self.look_trouble.load(SeqCst)).why()
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
    fn why(self) -> Option<Why> {
        match self {
            Answer::Real(why) => Some(why),
            Answer::None | Answer::Passive => None,
        }
    }
}
