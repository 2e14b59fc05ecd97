//! What became of verdicts and of readiness, for the timeline of a pod: the newest changes of the whole node.
//!
//! Bound: [`limits::TIMELINE_LEN_MAX`] changes, the oldest go. A node on which nothing changes writes nothing here.

use std::collections::VecDeque;

use probe_core::action::{Publish, PublishCause};
use probe_core::id::{ContainerName, PodUid, ProbeType};
use probe_core::outcome::Verdict;

use super::WallNs;
use crate::limits;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub pod: PodUid,
    /// When.
    pub at: WallNs,
    /// Of what, to what.
    pub what: Changed,
}

/// See [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The stored verdict of a probe.
    Verdict {
        /// Its container.
        container: ContainerName,
        /// Which of its probes.
        probe_type: ProbeType,
        /// What is stored now; `None` = nothing any more.
        verdict: Option<Verdict>,
        /// What made it so.
        cause: PublishCause,
    },
    /// The pod's condition Ready is True, or is not.
    Ready(bool),
}

impl Change {
    /// Of a verdict.
    #[must_use]
    pub fn of(publish: &Publish, at: WallNs) -> Self {
        let what = Changed::Verdict {
            container: publish.container.clone(),
            probe_type: publish.probe_type,
            verdict: publish.verdict,
            cause: publish.cause,
        };
        Self { pod: publish.pod.clone(), at, what }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Timeline {
    changes: VecDeque<Change>,
    has_forgotten: bool,
}

impl Timeline {
    /// Takes in the newest change.
    pub(super) fn push(&mut self, change: Change) {
        if self.changes.len() == limits::TIMELINE_LEN_MAX {
            self.changes.pop_front();
            self.has_forgotten = true;
        }
        self.changes.push_back(change);
    }

    /// Those of one pod, oldest first.
    pub fn of<'a>(&'a self, pod: &'a PodUid) -> impl DoubleEndedIterator<Item = &'a Change> {
        self.changes.iter().filter(move |change| change.pod == *pod)
    }

    /// The newest of one pod, at most `len_max` of them, oldest first; and since when they are all that happened to it, `None` = since
    /// the daemon started.
    #[must_use]
    pub fn newest_of(&self, pod: &PodUid, len_max: usize) -> (Vec<Change>, Option<WallNs>) {
        // One more tells whether there are older ones.
        let mut newest: Vec<Change> = self.of(pod).rev().take(len_max.saturating_add(1)).cloned().collect();
        let is_cut = newest.len() > len_max;
        newest.truncate(len_max);
        newest.reverse();
        let oldest = newest.first().filter(|_| is_cut).map(|oldest| oldest.at);
        (newest, oldest.or_else(|| self.complete_since()))
    }

    /// All that happened since then is here; `None` = since the daemon started.
    #[must_use]
    pub fn complete_since(&self) -> Option<WallNs> {
        self.changes.front().filter(|_| self.has_forgotten).map(|oldest| oldest.at)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn change(pod: &str, second: i64) -> Change {
        let at = Timestamp::from_second(second).expect("in range").into();
        Change { pod: PodUid::from(pod), at, what: Changed::Ready(true) }
    }

    #[test]
    fn the_oldest_changes_go_and_it_is_told_since_when_all_are_kept() {
        let mut timeline = Timeline::default();
        timeline.push(change("a", 0));
        assert_eq!(timeline.complete_since(), None);
        for second in 1..=limits::TIMELINE_LEN_MAX as i64 {
            timeline.push(change("b", second));
        }
        assert_eq!(timeline.of(&"a".into()).count(), 0);
        assert_eq!(timeline.of(&"b".into()).count(), limits::TIMELINE_LEN_MAX);
        assert_eq!(timeline.complete_since(), Some(change("b", 1).at));
    }

    #[test]
    fn of_many_changes_of_a_pod_the_newest_are_told_and_since_when() {
        let mut timeline = Timeline::default();
        for second in 0..4 {
            timeline.push(change("a", second));
            timeline.push(change("b", second));
        }
        let all: Vec<Change> = (0..4).map(|second| change("a", second)).collect();
        assert_eq!(timeline.newest_of(&"a".into(), 4), (all.clone(), None));
        assert_eq!(timeline.newest_of(&"a".into(), 3), (all[1..].to_vec(), Some(all[1].at)));
        assert_eq!(timeline.newest_of(&"nobody".into(), 3), (Vec::new(), None));
    }
}
