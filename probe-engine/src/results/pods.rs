//! The pods of the node: by UID, by name, and by a place that lets a long walk be made in parts.
//!
//! Bound: one record per pod; the manager lets in at most [`crate::limits::PODS_MAX`].

use std::hash::{BuildHasher, RandomState};
use std::ops::{Index, Range};

use hashbrown::HashTable;
use probe_core::id::PodUid;

use super::PodRecord;
use super::journal::{GonePod, Journal};

/// See the module.
#[derive(Debug, Default)]
pub struct Pods {
    places: Vec<Option<PodRecord>>,
    free: Vec<u32>,
    /// Places alone: the UIDs are in the records. 5 bytes an entry.
    by_uid: HashTable<u32>,
    /// The same, by namespace and name.
    by_name: HashTable<u32>,
    hasher: RandomState,
    probes_len: usize,
    journal: Journal,
}

impl Pods {
    /// The pod of this UID.
    #[must_use]
    pub fn get(&self, uid: &PodUid) -> Option<&PodRecord> {
        self.places.get(self.place(uid)? as usize)?.as_ref()
    }

    /// The pod of this name.
    #[must_use]
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<&PodRecord> {
        let of = |place: &u32| self.at(*place).is_some_and(|record| name_of(record) == (namespace, name));
        self.at(*self.by_name.find(self.hasher.hash_one((namespace, name)), of)?)
    }

    /// The same as [`Self::get`], to change it.
    pub(super) fn find_mut(&mut self, uid: &PodUid) -> Option<&mut PodRecord> {
        let place = self.place(uid)?;
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// The same, where it becomes what it is from this revision on.
    pub(super) fn change(&mut self, uid: &PodUid, revision: u64) -> Option<&mut PodRecord> {
        let place = self.place(uid)? as usize;
        self.journal.note(place, revision);
        self.places.get_mut(place)?.as_mut()
    }

    fn place(&self, uid: &PodUid) -> Option<u32> {
        self.by_uid.find(self.hasher.hash_one(uid), |place| is_at(&self.places, *place, uid)).copied()
    }

    /// There is a pod of this UID.
    #[must_use]
    pub fn contains_key(&self, uid: &PodUid) -> bool {
        self.place(uid).is_some()
    }

    /// Takes in a pod of an unknown UID.
    pub(super) fn insert(&mut self, record: PodRecord, revision: u64) {
        debug_assert!(!self.contains_key(&record.pod.uid), "the one before it is removed first");
        self.probes_len += record.probes_len();
        let record = Some(record);
        let place = match self.free.pop() {
            Some(free) => {
                self.places[free as usize] = record;
                free
            }
            None => {
                self.places.push(record);
                u32::try_from(self.places.len() - 1).expect("the manager lets in PODS_MAX at most")
            }
        };
        let Self { places, by_uid, by_name, hasher, .. } = self;
        let hash_of = |place: &u32, of: fn(&RandomState, &PodRecord) -> u64| {
            places[*place as usize].as_ref().map_or(0, |record| of(hasher, record))
        };
        let uid = |place: &u32| hash_of(place, |hasher, record| hasher.hash_one(&record.pod.uid));
        by_uid.insert_unique(uid(&place), place, uid);
        let name = |place: &u32| hash_of(place, |hasher, record| hasher.hash_one(name_of(record)));
        by_name.insert_unique(name(&place), place, name);
        self.journal.note(place as usize, revision);
    }

    /// Forgets a pod; `revision`: from which on it is gone.
    pub(super) fn remove(&mut self, uid: &PodUid, revision: u64) -> Option<PodRecord> {
        let hash = self.hasher.hash_one(uid);
        let entry = self.by_uid.find_entry(hash, |place| is_at(&self.places, *place, uid)).ok()?;
        let (place, _) = entry.remove();
        let record = self.places[place as usize].take()?;
        if let Ok(entry) = self.by_name.find_entry(self.hasher.hash_one(name_of(&record)), |other| *other == place) {
            entry.remove();
        }
        self.free.push(place);
        self.journal.note_gone(place as usize, &record.pod, revision);
        self.probes_len -= record.probes_len();
        Some(record)
    }

    /// All of them, in no order.
    pub fn values(&self) -> impl Iterator<Item = &PodRecord> {
        self.places.iter().flatten()
    }

    /// Those in this range of places; `None` beyond the last place. Between two parts pods may come and go, but none moves.
    #[must_use]
    pub fn part(&self, places: Range<usize>) -> Option<impl Iterator<Item = &PodRecord>> {
        let end = places.end.min(self.places.len());
        let part = (places.start < end).then(|| &self.places[places.start..end])?;
        Some(part.iter().flatten())
    }

    /// The pod in this place.
    pub(super) fn at(&self, place: u32) -> Option<&PodRecord> {
        self.places.get(place as usize)?.as_ref()
    }

    /// Of so many places from this one on those that hold a pod, each with its place; `None` beyond the last.
    pub(super) fn places_from(
        &self,
        first: usize,
        places_max: usize,
    ) -> Option<impl Iterator<Item = (usize, &PodRecord)>> {
        let end = first.saturating_add(places_max).min(self.places.len());
        let part = self.places.get(first..end).filter(|part| !part.is_empty())?;
        Some((first..).zip(part).filter_map(|(place, record)| Some((place, record.as_ref()?))))
    }

    /// Places of pods with changes after this revision, each with the newest change's. One look at a number per pod.
    pub(super) fn changed_after(&self, revision: u64) -> Vec<(u64, u32)> {
        self.journal.changed_after(revision)
    }

    /// The pods that went after this revision, the oldest first; `None` where some of them are not known any more.
    pub(super) fn gone_after(&self, revision: u64) -> Option<impl Iterator<Item = &GonePod>> {
        self.journal.gone_after(revision)
    }

    #[cfg(test)]
    pub(super) fn keep_gone(&mut self, gone_len_max: usize) {
        self.journal = Journal::with_gone_len_max(gone_len_max);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    /// How many probes they have, ended ones included.
    #[must_use]
    pub fn probes_len(&self) -> usize {
        self.probes_len
    }
}

fn name_of(record: &PodRecord) -> (&str, &str) {
    (&record.pod.namespace, &record.pod.name)
}

/// The pod in this place is the one of this UID.
fn is_at(places: &[Option<PodRecord>], place: u32, uid: &PodUid) -> bool {
    places[place as usize].as_ref().is_some_and(|record| record.pod.uid == *uid)
}

impl Index<&PodUid> for Pods {
    type Output = PodRecord;

    /// Panics where there is no such pod.
    fn index(&self, uid: &PodUid) -> &PodRecord {
        self.get(uid).expect("no pod of this UID")
    }
}

#[cfg(test)]
mod tests {
    use probe_core::id::ProbeType;

    use super::super::fixture::simple_pod;
    use super::*;
    use crate::clock;
    use crate::manager::slots_of;

    fn record(uid: &str) -> PodRecord {
        let pod = simple_pod(uid, &[ProbeType::Readiness, ProbeType::Liveness]);
        let slots = slots_of(&pod);
        PodRecord::new(pod, &slots, None, clock::wall())
    }

    #[test]
    fn a_walk_in_parts_sees_every_pod_that_stays_and_none_twice() {
        let mut pods = Pods::default();
        for uid in ["a", "b", "c", "d"] {
            pods.insert(record(uid), 1);
        }
        let mut seen: Vec<String> = pods.part(0..2).expect("pods").map(|r| r.pod.uid.to_string()).collect();
        pods.remove(&"a".into(), 2);
        pods.insert(record("e"), 3);
        seen.extend(pods.part(2..99).expect("pods").map(|r| r.pod.uid.to_string()));
        assert_eq!(seen, ["a", "b", "c", "d"]);
        assert!(pods.part(4..6).is_none());
        assert_eq!((pods.len(), pods.probes_len()), (4, 8));
    }

    #[test]
    fn a_pod_is_found_by_its_name_while_it_is_there() {
        let mut pods = Pods::default();
        for uid in 0..100 {
            pods.insert(record(&format!("pod-{uid}")), 1);
        }
        pods.remove(&"pod-7".into(), 2);
        let uid = |name: &str| pods.by_name("default", name).map(|record| record.pod.uid.to_string());
        assert_eq!((uid("pod-42").as_deref(), uid("pod-7"), uid("pod-100")), (Some("pod-42"), None, None));
        assert!(pods.by_name("other", "pod-42").is_none());
        pods.insert(record("pod-7"), 3);
        assert!(pods.by_name("default", "pod-7").is_some());
    }
}
