//! The pods that the manager knows: by UID, and by namespace and name, of which each has one of its own.
//!
//! Bound: [`crate::limits::PODS_MAX`], kept by the manager.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::HashTable;
use probe_core::id::PodUid;
use probe_core::spec::Pod;
use slab::Slab;

use super::name_of;
use crate::source::SourceKind;

/// A pod that is known. There may be hundreds of thousands: it is kept small.
pub(super) struct Managed {
    pub(super) pod: Arc<Pod>,
    /// Lifecycle is ending it, within so many seconds; [`NonZeroU32::MAX`]: as its spec says.
    pub(super) terminating: Option<NonZeroU32>,
    /// Where its workers live; `None` for a pod without probes, of which no shard hears.
    pub(super) shard: Option<u8>,
    /// Who wants it.
    pub(super) source: SourceKind,
}

const _: () = assert!(size_of::<Managed>() <= 16);

/// See the module.
#[derive(Default)]
pub(super) struct Pods {
    pods: Slab<Managed>,
    /// Places alone, 5 bytes an entry: what they are found by is in the pods.
    by_uid: HashTable<u32>,
    by_name: HashTable<u32>,
    hasher: RandomState,
}

impl Pods {
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    pub(super) fn find(&self, uid: &PodUid) -> Option<&Managed> {
        self.pods.get(self.place(uid)?)
    }

    pub(super) fn find_mut(&mut self, uid: &PodUid) -> Option<&mut Managed> {
        let place = self.place(uid)?;
        self.pods.get_mut(place)
    }

    /// The one that has the namespace and name of `pod`.
    pub(super) fn namesake(&self, pod: &Pod) -> Option<&Managed> {
        let is_it = |place: &u32| name_of(&self.pods[*place as usize].pod) == name_of(pod);
        let place = self.by_name.find(self.hasher.hash_one(name_of(pod)), is_it)?;
        self.pods.get(*place as usize)
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Managed> {
        self.pods.iter().map(|(_, managed)| managed)
    }

    /// A pod whose UID and name no other has.
    pub(super) fn insert(&mut self, managed: Managed) {
        let Self { pods, by_uid, by_name, hasher } = self;
        let place = pods.insert(managed) as u32;
        let uid_hash = |place: &u32| hasher.hash_one(&pods[*place as usize].pod.uid);
        let name_hash = |place: &u32| hasher.hash_one(name_of(&pods[*place as usize].pod));
        by_uid.insert_unique(uid_hash(&place), place, uid_hash);
        by_name.insert_unique(name_hash(&place), place, name_hash);
    }

    /// Forgets a pod.
    pub(super) fn take(&mut self, uid: &PodUid) -> Option<Managed> {
        let place = self.place(uid)?;
        let managed = self.pods.remove(place);
        let hashes = [self.hasher.hash_one(uid), self.hasher.hash_one(name_of(&managed.pod))];
        for (table, hash) in [&mut self.by_uid, &mut self.by_name].into_iter().zip(hashes) {
            if let Ok(entry) = table.find_entry(hash, |other| *other as usize == place) {
                entry.remove();
            }
        }
        Some(managed)
    }

    #[cfg(test)]
    pub(super) fn names_len(&self) -> usize {
        self.by_name.len()
    }

    fn place(&self, uid: &PodUid) -> Option<usize> {
        let is_it = |place: &u32| self.pods[*place as usize].pod.uid == *uid;
        self.by_uid.find(self.hasher.hash_one(uid), is_it).map(|place| *place as usize)
    }
}
