//! The addresses whose paths are followed, and the targets at each.
//!
//! There may be half a million targets at a quarter of a million addresses: an entry of a target is 24 bytes, one of an
//! address 40, and equal paths (all those of one loopback interface, say) are one.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use slab::Slab;

use crate::ebpf::path::{Change, Effect, Path, Side, may_become_local};
use crate::ebpf::target::Target;
use crate::limits;

/// Index of an address in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressKey(u32);

/// No target.
const NONE: u32 = u32::MAX;

/// An address in a namespace: its path is looked up once for all targets there.
#[derive(Debug)]
pub(super) struct Address {
    /// Of which namespace.
    pub(super) netns_cookie: u64,
    /// Canonical: a v4-mapped one is an IPv4 address.
    pub(super) address: IpAddr,
    /// `None` = it is not an address of that namespace.
    path: Option<Arc<Path>>,
    /// Of those at it.
    first: u32,
}

impl Address {
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The strongest effect of these changes in a namespace; `at_address`: in the address's own.
    pub(super) fn concerned(&self, side: Side, at_address: bool, changes: &[Change]) -> Effect {
        match self.path() {
            Some(path) => {
                changes.iter().map(|change| path.concerned(side, self.address, change)).max().unwrap_or(Effect::None)
            }
            None if at_address && changes.iter().any(|change| may_become_local(self.address, change)) => Effect::Lookup,
            None => Effect::None,
        }
    }
}

/// A target at an address, in the chain of those there.
#[derive(Debug)]
struct Followed {
    /// Held by others: when the last of them lets go, the watch is not kept waiting.
    target: Weak<Target>,
    address: AddressKey,
    before: u32,
    next: u32,
}

/// See the module. Bound: [`limits::TARGETS_MAX`], kept by the sweep.
#[derive(Debug, Default)]
pub(super) struct Table {
    addresses: Slab<Address>,
    /// Their indices, found by namespace and address.
    by_address: HashTable<u32>,
    hasher: RandomState,
    /// Equal ones once.
    paths: HashSet<Arc<Path>>,
    targets: Slab<Followed>,
    /// Where [`Table::prune`] goes on.
    visited: usize,
    /// How many addresses each namespace has.
    namespaces: HashMap<u64, usize>,
}

impl Table {
    pub(super) fn of_target(&self, target: &Target) -> Option<AddressKey> {
        let followed = self.targets.get(target.swept_at.index()?)?;
        std::ptr::eq(followed.target.as_ptr(), target).then_some(followed.address)
    }

    pub(super) fn of_address(&self, netns_cookie: u64, address: IpAddr) -> Option<AddressKey> {
        let is_it = |index: &u32| {
            let other = &self.addresses[*index as usize];
            (other.netns_cookie, other.address) == (netns_cookie, address)
        };
        let found = self.by_address.find(self.hasher.hash_one((netns_cookie, address)), is_it);
        found.map(|index| AddressKey(*index))
    }

    pub(super) fn address(&self, key: AddressKey) -> Option<&Address> {
        self.addresses.get(key.0 as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AddressKey, &Address)> {
        self.addresses.iter().map(|(index, address)| (AddressKey(index as u32), address))
    }

    /// Those at an address that somebody holds.
    pub(super) fn targets_at(&self, key: AddressKey) -> impl Iterator<Item = Arc<Target>> {
        let first = self.address(key).map_or(NONE, |address| address.first);
        let at = |index: u32| self.targets.get(index as usize);
        let chain = std::iter::successors(at(first), move |followed| at(followed.next));
        chain.filter_map(|followed| followed.target.upgrade())
    }

    pub(super) fn targets_len(&self) -> usize {
        self.targets.len()
    }

    pub(super) fn has_namespace(&self, netns_cookie: u64) -> bool {
        self.namespaces.contains_key(&netns_cookie)
    }

    /// An address that is not in the table.
    pub(super) fn insert(&mut self, netns_cookie: u64, address: IpAddr, path: Option<Path>) -> AddressKey {
        let path = self.shared(path);
        let index = self.addresses.insert(Address { netns_cookie, address, path, first: NONE }) as u32;
        let (hasher, addresses) = (&self.hasher, &self.addresses);
        self.by_address.insert_unique(hasher.hash_one((netns_cookie, address)), index, |index| {
            let other = &addresses[*index as usize];
            hasher.hash_one((other.netns_cookie, other.address))
        });
        *self.namespaces.entry(netns_cookie).or_default() += 1;
        AddressKey(index)
    }

    /// What leads to an address is another path now.
    pub(super) fn lead(&mut self, key: AddressKey, path: Option<Path>) {
        let path = self.shared(path);
        if let Some(address) = self.addresses.get_mut(key.0 as usize) {
            address.path = path;
        }
    }

    /// A target that is not in the table.
    pub(super) fn add(&mut self, key: AddressKey, target: &Arc<Target>) {
        let Some(address) = self.addresses.get_mut(key.0 as usize) else { return };
        let followed = Followed { target: Arc::downgrade(target), address: key, before: NONE, next: address.first };
        let index = self.targets.insert(followed);
        target.swept_at.set(Some(index));
        let next = std::mem::replace(&mut address.first, index as u32);
        if let Some(next) = self.targets.get_mut(next as usize) {
            next.before = index as u32;
        }
    }

    /// Forgets targets that nobody holds any more, of so many as one sweep visits, and addresses without targets.
    pub(super) fn prune(&mut self) {
        let (visits, end) = (limits::targets_visited(self.targets.len()), self.targets.capacity());
        let mut is_path_free = false;
        for _ in 0..visits.min(end) {
            self.visited = if self.visited + 1 < end { self.visited + 1 } else { 0 };
            if self.targets.get(self.visited).is_some_and(|followed| followed.target.strong_count() == 0) {
                is_path_free |= self.forget(self.visited);
            }
        }
        if is_path_free {
            self.paths.retain(|path| Arc::strong_count(path) > 1);
        }
    }

    /// True if its address went with it.
    fn forget(&mut self, index: usize) -> bool {
        let Followed { address: key, before, next, .. } = self.targets.remove(index);
        if let Some(next) = self.targets.get_mut(next as usize) {
            next.before = before;
        }
        if let Some(before) = self.targets.get_mut(before as usize) {
            before.next = next;
            return false;
        }
        let Some(address) = self.addresses.get_mut(key.0 as usize) else { return false };
        address.first = next;
        if next != NONE {
            return false;
        }
        let Address { netns_cookie, address, .. } = self.addresses.remove(key.0 as usize);
        let hash = self.hasher.hash_one((netns_cookie, address));
        if let Ok(entry) = self.by_address.find_entry(hash, |other| *other == key.0) {
            entry.remove();
        }
        if let Some(len) = self.namespaces.get_mut(&netns_cookie) {
            *len -= 1;
            if *len == 0 {
                self.namespaces.remove(&netns_cookie);
            }
        }
        true
    }

    fn shared(&mut self, path: Option<Path>) -> Option<Arc<Path>> {
        let path = path?;
        if let Some(path) = self.paths.get(&path) {
            return Some(Arc::clone(path));
        }
        let path = Arc::new(path);
        self.paths.insert(Arc::clone(&path));
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::netns::NetnsRef;
    use crate::ebpf::path::Route;
    use crate::results::fixture::pod;

    fn target(id: u64) -> Arc<Target> {
        let addr = "127.0.0.1:80".parse().expect("an address");
        Arc::new(Target::new(id, 0, pod("u", "web", []), &"app".into(), "id".into(), NetnsRef::Own, addr))
    }

    fn loopback() -> Option<Path> {
        let out = Route { local: true, oif: 1, gateway: None, source: Some(IpAddr::from([127, 0, 0, 1])) };
        Some(Path { out: Some(out), there: None })
    }

    fn ids(table: &Table, key: AddressKey) -> Vec<u64> {
        let mut ids: Vec<u64> = table.targets_at(key).map(|target| target.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn whoever_lets_go_of_a_target_leaves_the_others_of_its_address() {
        for gone in 0..3 {
            let mut table = Table::default();
            let key = table.insert(7, IpAddr::from([127, 0, 0, 1]), loopback());
            let mut targets: Vec<_> = (0..3).map(target).collect();
            for target in &targets {
                table.add(key, target);
                assert_eq!(table.of_target(target), Some(key));
            }
            targets.remove(gone);
            table.prune();
            let left: Vec<u64> = targets.iter().map(|target| target.id).collect();
            assert_eq!(ids(&table, key), left);
            targets.clear();
            table.prune();
            assert_eq!((table.targets_len(), table.iter().count(), table.has_namespace(7)), (0, 0, false));
            assert_eq!(table.of_address(7, IpAddr::from([127, 0, 0, 1])), None);
            assert!(table.paths.is_empty());
        }
    }

    #[test]
    fn equal_paths_are_one() {
        let mut table = Table::default();
        for last in 1..=100 {
            let key = table.insert(7, IpAddr::from([127, 0, 0, last]), loopback());
            assert_eq!(table.of_address(7, IpAddr::from([127, 0, 0, last])), Some(key));
        }
        assert_eq!(table.paths.len(), 1);
        assert!(size_of::<Followed>() <= 24 && size_of::<Address>() <= 40);
    }
}
