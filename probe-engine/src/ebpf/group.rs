//! Targets that the same listeners could answer, and what the watch publishes of them all at once.
//!
//! Of one network namespace and port there is one group of the targets whose address has no listener of its own there (per
//! family: wildcards answer for all of them), and one for each address that has. So a second in which nothing happens costs
//! the watch one store per group, however many targets there are.
//!
//! **Invariant:** a group never changes what it stands for: its place, and which listeners could answer. When a listener of
//! a specific address appears or goes, the targets of that address join another group ([`super::Target::join`], which ends
//! their leases), and they do before the change counter's new value is settled in either group. So whoever has found a
//! counter settled has a group that covers every listener up to that value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use probe_core::time::Instant;

use super::answer::{Answer, Why};
use super::target::ChildLookup;

/// No value of a change counter.
const NEVER: u64 = u64::MAX;

/// Where the targets of a group are.
#[derive(Clone, Debug)]
pub struct Place {
    /// `SO_NETNS_COOKIE` of the namespace.
    pub netns_cookie: u64,
    /// [`probe_ebpf::counter_slot`] of it and the port.
    pub slot: u32,
    /// Asked where the child's event is missing.
    pub lookup: Arc<dyn ChildLookup>,
}

/// See the module. The watch alone writes.
#[derive(Debug)]
pub struct Group {
    /// Until then the last look holds; 0 = it found trouble, or there was none.
    look_until_ns: AtomicU64,
    /// The counter's value up to which every LISTEN event of the slot is confirmed or refuted.
    settled: AtomicU64,
    /// What the last look found, as [`Answer::to_bits`]; `None` = healthy.
    look_trouble: AtomicU32,
    /// `None`: its targets cannot be answered passively.
    place: Option<Place>,
}

impl Group {
    /// Nothing is known of its listeners yet.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self::with(Some(place), Why::LookOld)
    }

    /// Of targets that cannot be answered passively, and why.
    #[must_use]
    pub fn refused(why: Why) -> Self {
        Self::with(None, why)
    }

    fn with(place: Option<Place>, trouble: Why) -> Self {
        Self {
            look_until_ns: AtomicU64::new(0),
            settled: AtomicU64::new(NEVER),
            look_trouble: AtomicU32::new(Answer::Real(trouble).to_bits()),
            place,
        }
    }

    /// Where its targets are; `None` = they cannot be answered passively.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    // What shards read.

    /// Every LISTEN event up to this value of the counter is confirmed or refuted.
    #[must_use]
    pub fn is_settled(&self, value: u64) -> bool {
        self.settled.load(SeqCst) == value
    }

    /// All listeners that could answer were well at a look that still holds.
    ///
    /// # Errors
    /// What it found, or that it is too old.
    #[inline]
    pub fn look(&self, now: Instant) -> Result<(), Why> {
        let until_ns = self.look_until_ns.load(SeqCst);
        if now.as_nanos() < until_ns {
            return Ok(());
        }
        Err(if until_ns == 0 { self.look_found().unwrap_or(Why::LookOld) } else { Why::LookOld })
    }

    /// What the last look found; `None` = all well.
    #[must_use]
    pub fn look_found(&self) -> Option<Why> {
        Answer::from_bits(self.look_trouble.load(SeqCst)).why()
    }

    /// What keeps its targets from ever being granted a lease, as far as the last look tells.
    #[must_use]
    pub fn obstacle(&self) -> Option<Why> {
        self.look_found().filter(|trouble| {
            matches!(
                trouble,
                Why::Transparent
                    | Why::SkLookup
                    | Why::SkLookupUnknown
                    | Why::NotLocal
                    | Why::NetnsUnknown
                    | Why::SelfTest
            )
        })
    }

    // What the watch publishes.

    /// Every LISTEN event of its slot up to this value of the counter is confirmed or refuted.
    pub fn settle(&self, value: u64) {
        // Most looks find what the one before found: the shards keep the line.
        if self.settled.load(SeqCst) != value {
            self.settled.store(value, SeqCst);
        }
    }

    /// No lease can be granted until [`Group::settle`].
    pub fn unsettle(&self) {
        self.settle(NEVER);
    }

    /// A look at all listeners that could answer found them well; it holds until then.
    pub fn look_healthy(&self, until: Instant) {
        if self.look_trouble.load(SeqCst) != 0 {
            self.look_trouble.store(0, SeqCst);
        }
        self.look_until_ns.store(until.as_nanos(), SeqCst);
    }

    /// A look found trouble: no passive answers until the next one finds none.
    pub fn look_troubled(&self, why: Why) {
        self.look_trouble.store(Answer::Real(why).to_bits(), SeqCst);
        self.look_until_ns.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_no_healthy_look_until_one_is_published() {
        let group = Group::refused(Why::NotLocal);
        assert_eq!(group.look(Instant::ZERO), Err(Why::NotLocal));
        assert_eq!(group.obstacle(), Some(Why::NotLocal));
        group.look_healthy(Instant::from_secs(2));
        assert_eq!((group.look(Instant::from_secs(1)), group.look_found()), (Ok(()), None));
        assert_eq!(group.look(Instant::from_secs(2)), Err(Why::LookOld));
        group.look_troubled(Why::AcceptQueueFull);
        assert_eq!(group.look(Instant::from_secs(1)), Err(Why::AcceptQueueFull));
        assert!(!group.is_settled(7));
        group.settle(7);
        assert!(group.is_settled(7));
        group.unsettle();
        assert!(!group.is_settled(7));
    }
}
