//! The addresses whose paths are followed, and the targets at each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use slab::Slab;

use crate::ebpf::path::{Change, Effect, Path, Side, may_become_local};
use crate::ebpf::target::Target;

/// Index of an address in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressKey(usize);

/// An address in a namespace: its path is looked up once for all targets there.
#[derive(Debug)]
pub(super) struct Address {
    /// Of which namespace.
    pub(super) netns_cookie: u64,
    /// Canonical: a v4-mapped one is an IPv4 address.
    pub(super) address: IpAddr,
    /// `None` = it is not an address of that namespace.
    pub(super) path: Option<Path>,
    /// Those at it. Held by others: when the last of them lets go, the watch is not kept waiting.
    pub(super) targets: Vec<Weak<Target>>,
}

impl Address {
    /// The strongest effect of these changes in a namespace; `at_address`: in the address's own.
    pub(super) fn concerned(&self, side: Side, at_address: bool, changes: &[Change]) -> Effect {
        match &self.path {
            Some(path) => changes.iter().map(|change| path.concerned(side, change)).max().unwrap_or(Effect::None),
            None if at_address && changes.iter().any(|change| may_become_local(self.address, change)) => Effect::Lookup,
            None => Effect::None,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    addresses: Slab<Address>,
    keys: HashMap<(u64, IpAddr), AddressKey>,
    /// By [`Target::id`].
    targets: HashMap<u64, (AddressKey, Weak<Target>)>,
    /// How many addresses each namespace has.
    namespaces: HashMap<u64, usize>,
}

impl Table {
    pub(super) fn of_target(&self, id: u64) -> Option<AddressKey> {
        self.targets.get(&id).map(|(key, _)| *key)
    }

    pub(super) fn of_address(&self, netns_cookie: u64, address: IpAddr) -> Option<AddressKey> {
        self.keys.get(&(netns_cookie, address)).copied()
    }

    pub(super) fn address(&self, key: AddressKey) -> Option<&Address> {
        self.addresses.get(key.0)
    }

    pub(super) fn address_mut(&mut self, key: AddressKey) -> Option<&mut Address> {
        self.addresses.get_mut(key.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AddressKey, &Address)> {
        self.addresses.iter().map(|(index, address)| (AddressKey(index), address))
    }

    pub(super) fn targets_len(&self) -> usize {
        self.targets.len()
    }

    pub(super) fn has_namespace(&self, netns_cookie: u64) -> bool {
        self.namespaces.contains_key(&netns_cookie)
    }

    /// An address that is not in the table.
    pub(super) fn insert(&mut self, netns_cookie: u64, address: IpAddr, path: Option<Path>) -> AddressKey {
        let key = AddressKey(self.addresses.insert(Address { netns_cookie, address, path, targets: Vec::new() }));
        self.keys.insert((netns_cookie, address), key);
        *self.namespaces.entry(netns_cookie).or_default() += 1;
        key
    }

    /// A target that is not in the table.
    pub(super) fn add(&mut self, key: AddressKey, target: &Arc<Target>) {
        if let Some(address) = self.addresses.get_mut(key.0) {
            address.targets.push(Arc::downgrade(target));
            self.targets.insert(target.id, (key, Arc::downgrade(target)));
        }
    }

    /// Forgets targets that nobody holds any more, and addresses without targets.
    pub(super) fn prune(&mut self) {
        let Self { addresses, keys, targets, namespaces } = self;
        targets.retain(|_, (_, target)| target.strong_count() > 0);
        addresses.retain(|_, address| {
            address.targets.retain(|target| target.strong_count() > 0);
            if !address.targets.is_empty() {
                return true;
            }
            keys.remove(&(address.netns_cookie, address.address));
            if let Some(len) = namespaces.get_mut(&address.netns_cookie) {
                *len -= 1;
            }
            false
        });
        namespaces.retain(|_, len| *len > 0);
    }
}
