//! Where pods are in their slab, by UID.
//!
//! Open addressing over places alone: the UIDs are in the slab. That is 5 to 11 bytes a pod, where a `BTreeMap` of UIDs takes
//! 33. Bound: one entry per pod.

use alloc::vec::Vec;

use super::pods::PodEntry;
use crate::id::PodUid;
use crate::schedule::mix;

/// No pod.
const EMPTY: u32 = u32::MAX;

/// At most so many of four cells are taken: then the first look finds a place as a rule, and no chain is long.
const TAKEN_OF_FOUR: usize = 3;

/// See the module.
#[derive(Default)]
pub(super) struct Uids {
    /// Places in the slab. As many as a power of two, or none.
    cells: Vec<u32>,
    len: usize,
    /// So that nobody can choose UIDs that all meet.
    seed: u64,
}

impl Uids {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn find(&self, pods: &[Option<PodEntry>], uid: &PodUid) -> Option<u32> {
        self.cell(pods, uid).map(|cell| self.cells[cell])
    }

    /// `place` is that of a pod whose UID is not in here.
    pub(super) fn insert(&mut self, pods: &[Option<PodEntry>], place: u32) {
        if (self.len + 1) * 4 > self.cells.len() * TAKEN_OF_FOUR {
            let cells_len = (self.cells.len() * 2).max(16);
            let old = core::mem::replace(&mut self.cells, alloc::vec![EMPTY; cells_len]);
            old.into_iter().filter(|place| *place != EMPTY).for_each(|place| self.put(pods, place));
        }
        self.put(pods, place);
        self.len += 1;
    }

    /// The pod is in its place still.
    pub(super) fn remove(&mut self, pods: &[Option<PodEntry>], uid: &PodUid) {
        let Some(mut hole) = self.cell(pods, uid) else { return };
        self.len -= 1;
        let mut cell = hole;
        loop {
            cell = self.after(cell);
            let place = self.cells[cell];
            if place == EMPTY {
                break;
            }
            // It moves up where the hole is between the cell that it wants and the one that it has.
            let home = self.home(uid_at(pods, place));
            if self.distance(home, cell) >= self.distance(hole, cell) {
                self.cells[hole] = place;
                hole = cell;
            }
        }
        self.cells[hole] = EMPTY;
    }

    fn put(&mut self, pods: &[Option<PodEntry>], place: u32) {
        let mut cell = self.home(uid_at(pods, place));
        while self.cells[cell] != EMPTY {
            cell = self.after(cell);
        }
        self.cells[cell] = place;
    }

    fn cell(&self, pods: &[Option<PodEntry>], uid: &PodUid) -> Option<usize> {
        if self.cells.is_empty() {
            return None;
        }
        let mut cell = self.home(Some(uid));
        while self.cells[cell] != EMPTY {
            if uid_at(pods, self.cells[cell]) == Some(uid) {
                return Some(cell);
            }
            cell = self.after(cell);
        }
        None
    }

    fn home(&self, uid: Option<&PodUid>) -> usize {
        let bytes = uid.map_or(&[][..], |uid| uid.as_str().as_bytes());
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        let hash = bytes.chunks(8).fold(self.seed ^ bytes.len() as u64, |hash, chunk| mix(hash ^ word(chunk)));
        mix(hash) as usize & (self.cells.len() - 1)
    }

    fn after(&self, cell: usize) -> usize {
        (cell + 1) & (self.cells.len() - 1)
    }

    /// Steps of [`Uids::after`] from one to the other.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.cells.len() - 1)
    }
}

fn uid_at(pods: &[Option<PodEntry>], place: u32) -> Option<&PodUid> {
    pods.get(place as usize)?.as_ref().map(|entry| &entry.pod.uid)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::format;
    use alloc::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::container::Containers;
    use crate::spec::Pod;

    fn entry(number: u16) -> Option<PodEntry> {
        let pod = Arc::new(Pod::new(format!("uid-{number}").as_str().into(), "default", "a", []));
        Some(PodEntry { pod, status: None, containers: Containers::new(0), removed: false })
    }

    proptest! {
        #[test]
        fn every_pod_is_found_whoever_came_and_went(
            seed: u64, ops in proptest::collection::vec((0_u16..40, any::<bool>()), 1..200),
        ) {
            let (mut uids, mut pods, mut model) = (Uids::new(seed), Vec::new(), BTreeMap::new());
            for (number, comes) in ops {
                let uid = PodUid::from(format!("uid-{number}").as_str());
                match (comes, model.get(&number).copied()) {
                    (true, None) => {
                        pods.push(entry(number));
                        let place = pods.len() as u32 - 1;
                        uids.insert(&pods, place);
                        model.insert(number, place);
                    }
                    (false, Some(place)) => {
                        uids.remove(&pods, &uid);
                        pods[place as usize] = None;
                        model.remove(&number);
                    }
                    (false, None) => uids.remove(&pods, &uid),
                    (true, Some(_)) => {}
                }
                prop_assert_eq!(uids.len, model.len());
                for number in 0..40 {
                    let uid = PodUid::from(format!("uid-{number}").as_str());
                    prop_assert_eq!(uids.find(&pods, &uid), model.get(&number).copied());
                }
            }
        }
    }
}
