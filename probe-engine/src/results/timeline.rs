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
    pub fn of<'a>(&'a self, pod: &'a PodUid) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().filter(move |change| change.pod == *pod)
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
}
