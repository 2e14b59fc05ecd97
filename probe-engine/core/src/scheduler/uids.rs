//! Where pods are in their slab, by UID.
//!
//! Open addressing over places, each with a few bits of its UID's hash: the UIDs are in the slab. That is 5 to 11 bytes a pod,
//! where a `BTreeMap` of UIDs takes 33. The price is that doubling reads all UIDs, in one turn: some tens of milliseconds at
//! 100,000 pods of a shard.
//!
//! Bound: one entry per pod, of which there may be [`PLACES_MAX`].

use alloc::vec::Vec;

use super::pods::PodEntry;
use crate::id::PodUid;
use crate::schedule::mix;

/// No pod: no place is as large.
const EMPTY: u32 = u32::MAX;

/// Bits of a cell that are the place. The others are of the hash, so that hardly a pod is asked for its UID that has another
/// (when the table is at its fullest a look meets 2.5 cells for a pod that is there, 8.5 for one that is not).
const PLACE_BITS: u32 = 24;

/// Places are below it.
pub(super) const PLACES_MAX: usize = (1 << PLACE_BITS) - 1;

/// At most so many of four cells are taken.
const TAKEN_OF_FOUR: usize = 3;

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Uids {
    /// Of places in the slab. As many as a power of two, or none.
    cells: Vec<u32>,
    len: usize,
    /// So that UIDs that all meet are not the same at each start.
    seed: u64,
}

impl Uids {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn find(&self, pods: &[Option<PodEntry>], uid: &PodUid) -> Option<u32> {
        self.cell(pods, uid).map(|cell| place_of(self.cells[cell]))
    }

    /// `place` is that of a pod whose UID is not in here.
    pub(super) fn insert(&mut self, pods: &[Option<PodEntry>], place: u32) {
        debug_assert!((place as usize) < PLACES_MAX);
        if (self.len + 1) * 4 > self.cells.len() * TAKEN_OF_FOUR {
            let cells_len = (self.cells.len() * 2).max(16);
            let old = core::mem::replace(&mut self.cells, alloc::vec![EMPTY; cells_len]);
            old.into_iter().filter(|cell| *cell != EMPTY).for_each(|cell| self.put(pods, place_of(cell)));
        }
        self.put(pods, place);
        self.len += 1;
    }

    /// The pod is in its place still.
    pub(super) fn remove(&mut self, pods: &[Option<PodEntry>], uid: &PodUid) {
        let Some(mut hole) = self.cell(pods, uid) else { return };
        self.len -= 1;
        let mut at = hole;
        loop {
            at = self.after(at);
            let cell = self.cells[at];
            if cell == EMPTY {
                break;
            }
            // It moves up where the hole is between the cell that it wants and the one that it has.
            let home = self.home(self.hash(uid_at(pods, place_of(cell))));
            if self.distance(home, at) >= self.distance(hole, at) {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
    }

    fn put(&mut self, pods: &[Option<PodEntry>], place: u32) {
        let hash = self.hash(uid_at(pods, place));
        let mut at = self.home(hash);
        while self.cells[at] != EMPTY {
            at = self.after(at);
        }
        self.cells[at] = tag(hash) | place;
    }

    fn cell(&self, pods: &[Option<PodEntry>], uid: &PodUid) -> Option<usize> {
        if self.cells.is_empty() {
            return None;
        }
        let hash = self.hash(Some(uid));
        let mut at = self.home(hash);
        while self.cells[at] != EMPTY {
            let (cell, place) = (self.cells[at], place_of(self.cells[at]));
            if cell == tag(hash) | place && uid_at(pods, place) == Some(uid) {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    fn hash(&self, uid: Option<&PodUid>) -> u64 {
        let bytes = uid.map_or(&[][..], |uid| uid.as_str().as_bytes());
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        mix(bytes.chunks(8).fold(self.seed ^ bytes.len() as u64, |hash, chunk| mix(hash ^ word(chunk))))
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.cells.len() - 1)
    }

    fn after(&self, cell: usize) -> usize {
        (cell + 1) & (self.cells.len() - 1)
    }

    /// Steps of [`Uids::after`] from one to the other.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.cells.len() - 1)
    }
}

/// The upper bits of a hash, in the bits of a cell that are not the place.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & !(u32::MAX >> (32 - PLACE_BITS))
}

fn place_of(cell: u32) -> u32 {
    cell & (u32::MAX >> (32 - PLACE_BITS))
}

fn uid_at(pods: &[Option<PodEntry>], place: u32) -> Option<&PodUid> {
    pods.get(place as usize)?.as_ref().map(|entry| &entry.pod.uid)
}

#[cfg(test)]
mod tests {
    use alloc::collections::{BTreeMap, BTreeSet};
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

    fn uid(number: u32) -> PodUid {
        PodUid::from(format!("uid-{number}").as_str())
    }

    /// A table of the pods `uid-0` .. in as many places.
    fn filled(len: u16) -> (Uids, Vec<Option<PodEntry>>) {
        let (mut uids, pods) = (Uids::new(1), (0..len).map(entry).collect::<Vec<_>>());
        (0..u32::from(len)).for_each(|place| uids.insert(&pods, place));
        (uids, pods)
    }

    #[test]
    fn it_doubles_when_three_of_four_cells_would_not_be_enough() {
        let cells_len = |len| filled(len).0.cells.len();
        let grown = [(0, 0), (1, 16), (12, 16), (13, 32), (24, 32), (25, 64), (48, 64), (49, 128), (1000, 2048)];
        assert_eq!(grown.map(|(len, _)| cells_len(len)), grown.map(|(_, cells)| cells));
    }

    #[test]
    fn a_pod_that_is_not_there_is_not_taken_for_one_whose_hash_looks_alike() {
        let (uids, pods) = filled(1000);
        assert!((0..1000).all(|number| uids.find(&pods, &uid(number)) == Some(number)));
        assert!((1000..100_000).all(|number| uids.find(&pods, &uid(number)).is_none()));
    }

    #[test]
    fn a_look_meets_few_cells_and_hardly_ever_another_pod() {
        let (uids, _) = filled(12_000);
        let met = |wanted: u32| {
            let hash = uids.hash(Some(&uid(wanted)));
            let mut met = Vec::new();
            let mut at = uids.home(hash);
            while uids.cells[at] != EMPTY && place_of(uids.cells[at]) != wanted {
                met.push(tag(hash) == uids.cells[at] - place_of(uids.cells[at]));
                at = uids.after(at);
            }
            met
        };
        let all: Vec<bool> = (0..12_000).flat_map(met).collect();
        // 12,000 of 16,384 cells are taken: linear probing meets 1.4 before the right one (Knuth, volume 3, 6.4).
        assert!((10_000..25_000).contains(&all.len()), "{}", all.len());
        let alike = all.iter().filter(|is_alike| **is_alike).count();
        assert!(alike * 100 < all.len(), "{alike} of {}: one of 256 is to be expected", all.len());
    }

    #[test]
    fn uids_that_differ_in_length_or_in_a_byte_differ_in_their_hash_and_so_does_one_under_two_seeds() {
        let long = "0123456789abcdef";
        let texts = ["", "\0", "\0\0", "a", "a\0", "c", "aaaaaaaa", "aaaaaaaa\0", "aaaaaaab", long, &long[1..]];
        let hash = |seed, text: &str| Uids::new(seed).hash(Some(&PodUid::from(text)));
        for seed in [0, 1, 2, u64::MAX] {
            let unlike: BTreeSet<u64> = texts.iter().map(|text| hash(seed, text)).collect();
            assert_eq!(unlike.len(), texts.len(), "{seed}");
        }
        for text in texts {
            let unlike: BTreeSet<u64> = (0..64).map(|bit| hash(1 << bit, text)).collect();
            assert_eq!(unlike.len(), 64, "{text:?}");
        }
    }

    #[test]
    fn a_cell_holds_every_place_with_every_tag() {
        for hash in [0, 1 << 63, 1 << 56, u64::MAX, 0x1234_5678_9abc_def0] {
            for place in [0, 1, 0x00ff_00ff, PLACES_MAX as u32 - 1] {
                let cell = tag(hash) | place;
                assert_ne!(cell, EMPTY);
                assert_eq!((place_of(cell), cell >> PLACE_BITS), (place, (hash >> 56) as u32));
            }
        }
        assert_eq!(place_of(EMPTY) as usize, PLACES_MAX, "the first place that there may not be");
    }

    proptest! {
        #[test]
        fn every_pod_is_found_whoever_came_and_went(
            seed: u64, ops in proptest::collection::vec((0_u16..40, any::<bool>()), 1..200),
        ) {
            let (mut uids, mut pods, mut model) = (Uids::new(seed), Vec::new(), BTreeMap::new());
            let mut free = Vec::new();
            for (number, comes) in ops {
                let uid = PodUid::from(format!("uid-{number}").as_str());
                match (comes, model.get(&number).copied()) {
                    (true, None) => {
                        let place = free.pop().unwrap_or(pods.len() as u32);
                        pods.resize_with(pods.len().max(place as usize + 1), || None);
                        pods[place as usize] = entry(number);
                        uids.insert(&pods, place);
                        model.insert(number, place);
                    }
                    (false, Some(place)) => {
                        uids.remove(&pods, &uid);
                        pods[place as usize] = None;
                        free.push(place);
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
