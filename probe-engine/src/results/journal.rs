//! Which pods changed after a revision, and which are gone since: for watchers, who come and ask.
//!
//! A pod has one place in it however often it changes: one number, written with each change. So no change of a pod that is there
//! is ever too old to be told. Of pods that are gone, the newest are kept ([`limits::GONE_PODS_LEN_MAX`]); who asks for older ones
//! has lost its place and needs all pods anew.
//!
//! **Invariant:** a pod that came after another of its UID has a later revision than the word that the other is gone.

use std::collections::VecDeque;
use std::sync::Arc;

use probe_core::id::PodUid;
use probe_core::spec::Pod;

use crate::limits;

/// A pod that is gone: what a watcher's filter asks for, and what it needs to forget it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GonePod {
    /// `metadata.uid`
    pub uid: PodUid,
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.labels`, sorted by key.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
    /// The revision of its end.
    pub revision: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    /// By place: the revision of the pod's newest change; 0 = no pod.
    changed: Vec<u64>,
    /// By revision.
    gone: VecDeque<GonePod>,
    gone_len_max: usize,
    /// Of those that went after this revision none is missing.
    gone_known_after: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self::with_gone_len_max(limits::GONE_PODS_LEN_MAX)
    }
}

impl Journal {
    pub(super) const fn with_gone_len_max(gone_len_max: usize) -> Self {
        Self { changed: Vec::new(), gone: VecDeque::new(), gone_len_max, gone_known_after: 0 }
    }

    /// The pod in this place has changed, or is new there.
    pub(super) fn note(&mut self, place: usize, revision: u64) {
        if place >= self.changed.len() {
            self.changed.resize(place + 1, 0);
        }
        self.changed[place] = revision;
    }

    /// The pod in this place is gone.
    pub(super) fn note_gone(&mut self, place: usize, pod: &Pod, revision: u64) {
        self.note(place, 0);
        if self.gone.len() == self.gone_len_max
            && let Some(oldest) = self.gone.pop_front()
        {
            self.gone_known_after = oldest.revision;
        }
        self.gone.push_back(GonePod {
            uid: pod.uid.clone(),
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
            labels: Arc::clone(&pod.labels),
            revision,
        });
    }

    /// Places of pods with changes after this revision, each with that of the newest change. One look at a number per pod.
    pub(super) fn changed_after(&self, revision: u64) -> Vec<(u64, u32)> {
        let changed = self.changed.iter().zip(0_u32..).filter(|(at, _)| **at > revision);
        changed.map(|(at, place)| (*at, place)).collect()
    }

    /// The pods that went after this revision, the oldest first; `None` where some of them are not known any more.
    pub(super) fn gone_after(&self, revision: u64) -> Option<impl Iterator<Item = &GonePod>> {
        let first = self.gone.partition_point(|gone| gone.revision <= revision);
        (revision >= self.gone_known_after).then(|| self.gone.range(first..))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::simple_pod;
    use super::*;

    #[test]
    fn a_pod_has_one_place_however_often_it_changes() {
        let mut journal = Journal::default();
        for revision in 1..=100 {
            journal.note(usize::from(revision % 2 == 0), revision);
        }
        assert_eq!(journal.changed_after(0), [(99, 0), (100, 1)]);
        assert_eq!(journal.changed_after(99), [(100, 1)]);
        assert!(journal.changed_after(100).is_empty());
    }

    #[test]
    fn of_pods_that_are_gone_the_newest_are_kept_and_who_asks_for_more_is_told() {
        let mut journal = Journal::with_gone_len_max(3);
        let pod = simple_pod("a", &[]);
        for revision in 1..=3 {
            journal.note_gone(0, &pod, revision);
        }
        let count = |journal: &Journal, after| journal.gone_after(after).map(Iterator::count);
        assert_eq!([0, 2, 3].map(|after| count(&journal, after)), [Some(3), Some(1), Some(0)]);
        journal.note_gone(0, &pod, 4);
        assert_eq!([0, 1, 4].map(|after| count(&journal, after)), [None, Some(3), Some(0)]);
    }
}
