//! A watcher of the node's pods: all of them, and from then on those that change.
//!
//! It asks the results task, in parts, and nobody keeps anything for it: a slow one sees the newest state of each pod, later.
//! What its places mean: whoever has taken in everything up to a part with a revision knows all up to that revision.
//!
//! **Invariant:** a word that a pod is gone never stands behind one of a later pod of its UID.

use std::sync::Arc;

use probe_core::spec::Pod;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::{GonePod, Node, PodRecord, ResultsError, ResultsHandle};
use crate::limits;

/// Which pods a watcher wants to know of.
pub trait Select: Send + Sync + 'static {
    /// This one.
    fn pod(&self, pod: &Pod) -> bool;
    /// That this one is gone.
    fn gone(&self, gone: &GonePod) -> bool;
}

/// What a watcher learns next.
#[derive(Debug)]
pub enum News {
    /// All pods follow, and [`News::Synced`]: whatever is not among them is gone.
    Restart {
        /// The watcher was too slow, or where it wanted to go on is not known any more.
        place_lost: bool,
    },
    /// Some of them, or of what has changed.
    Part(Part),
    /// Everything up to this revision has been told.
    Synced(u64),
}

/// What is gone, and then what is there; may be empty.
#[derive(Debug, Default)]
pub struct Part {
    /// They may be ones of which the watcher never heard.
    pub gone: Vec<GonePod>,
    /// As they are now.
    pub pods: Vec<PodRecord>,
    /// Up to where all is known, once this part is taken in; `None` where it is not, and before [`News::Synced`].
    pub revision: Option<u64>,
}

/// See the module.
pub struct PodWatch {
    results: ResultsHandle,
    changes: watch::Receiver<u64>,
    /// `None` while the results task has it.
    cursor: Option<Cursor>,
    pace: Interval,
}

impl PodWatch {
    /// `since`: the revision up to which the watcher knows all; `None` = it knows nothing.
    #[must_use]
    pub fn new(results: ResultsHandle, since: Option<u64>, select: Arc<dyn Select>) -> Self {
        let mut pace = tokio::time::interval(limits::WATCH_LOOK_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { changes: results.changes(), results, cursor: Some(Cursor::new(since, select, BOUNDS)), pace }
    }

    /// Waits for it. A call that is given up halfway is the last: the next one is an error.
    ///
    /// # Errors
    /// The results stage has ended.
    pub async fn next(&mut self) -> Result<News, ResultsError> {
        loop {
            let mut cursor = self.cursor.take().ok_or(ResultsError::Ended)?;
            if cursor.begins_a_look() {
                self.pace.tick().await;
            }
            self.changes.borrow_and_update();
            let look = move |node: &Node| {
                let news = cursor.look(node);
                (cursor, news)
            };
            let (mut cursor, news) = self.results.read(look).await?;
            cursor.sort();
            self.cursor = Some(cursor);
            match news {
                Some(news) => return Ok(news),
                None => self.changes.changed().await.map_err(|_| ResultsError::Ended)?,
            }
        }
    }
}

/// How much of the node one look is about.
#[derive(Clone, Copy)]
struct Bounds {
    looked_max: usize,
    copied_max: usize,
}

const BOUNDS: Bounds = Bounds { looked_max: limits::RESULTS_PODS_PER_PART, copied_max: limits::API_PODS_PER_PART };

/// How far a watcher is.
struct Cursor {
    select: Arc<dyn Select>,
    bounds: Bounds,
    stage: Stage,
    /// All changes up to this revision have been told; of a snapshot under way: will be, once it and what changed meanwhile is.
    known: u64,
    /// All that went up to this revision has been told.
    gone: u64,
    /// There is more of it.
    is_behind: bool,
    /// Changed pods that are still to be told, the next one last: the revision of the change, and the place.
    pending: Vec<(u64, u32)>,
    is_sorted: bool,
    /// What is known once they have been.
    upper: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has been told.
    New { since: Option<u64> },
    /// All pods are being told; the next is in this place.
    Snapshot { next: usize },
    /// What changed meanwhile, or since an earlier watch.
    CatchingUp,
    /// That has been told.
    CaughtUp,
    /// And said so.
    Live,
}

impl Cursor {
    fn new(since: Option<u64>, select: Arc<dyn Select>, bounds: Bounds) -> Self {
        Self {
            select,
            bounds,
            stage: Stage::New { since },
            known: 0,
            gone: 0,
            is_behind: false,
            pending: Vec::new(),
            is_sorted: true,
            upper: 0,
        }
    }

    /// The next look is for what has changed since the last one.
    fn begins_a_look(&self) -> bool {
        self.stage == Stage::Live && self.pending.is_empty() && !self.is_behind
    }

    /// The oldest change is told first. Not on the results task: there may be very many.
    fn sort(&mut self) {
        if !self.is_sorted {
            self.pending.sort_unstable_by(|a, b| b.cmp(a));
            self.is_sorted = true;
        }
    }

    /// `None` = nothing has changed. Beside its bounds: where something has changed, one number per pod is compared.
    fn look(&mut self, node: &Node) -> Option<News> {
        match self.stage {
            Stage::New { since: Some(since) } if can_go_on(node, since) => {
                (self.known, self.gone, self.stage) = (since, since, Stage::CatchingUp);
            }
            Stage::New { since } => return Some(self.restart(node, since.is_some())),
            Stage::CaughtUp => {
                self.stage = Stage::Live;
                return Some(News::Synced(self.known));
            }
            Stage::Live if self.pending.is_empty() && node.revision == self.known => return None,
            Stage::Live | Stage::Snapshot { .. } | Stage::CatchingUp => {}
        }
        let mut part = Part::default();
        if !self.take_gone(node, &mut part.gone) {
            return Some(self.restart(node, true));
        }
        match self.stage {
            _ if self.is_behind => {}
            Stage::Snapshot { next } => self.stage = self.snapshot(node, next, &mut part.pods),
            _ => self.take_changed(node, &mut part),
        }
        Some(News::Part(part))
    }

    fn restart(&mut self, node: &Node, place_lost: bool) -> News {
        (self.known, self.gone) = (node.revision, node.revision);
        self.stage = Stage::Snapshot { next: 0 };
        self.pending = Vec::new();
        News::Restart { place_lost }
    }

    /// Before any pod is told, whoever has gone until now is: so what is told to be there is there. `false` = the place is lost.
    fn take_gone(&mut self, node: &Node, to: &mut Vec<GonePod>) -> bool {
        let Some(gone) = node.pods.gone_after(self.gone) else { return false };
        let mut looked = 0;
        for one in gone.take(self.bounds.looked_max) {
            looked += 1;
            self.gone = one.revision;
            to.extend(self.select.gone(one).then(|| one.clone()));
        }
        self.is_behind = looked == self.bounds.looked_max;
        if !self.is_behind {
            self.gone = node.revision;
        }
        true
    }

    fn snapshot(&self, node: &Node, first: usize, pods: &mut Vec<PodRecord>) -> Stage {
        let Some(places) = node.pods.places_from(first, self.bounds.looked_max) else { return Stage::CatchingUp };
        for (place, record) in places.filter(|(_, record)| self.select.pod(&record.pod)) {
            pods.push(record.clone());
            if pods.len() == self.bounds.copied_max {
                return Stage::Snapshot { next: place + 1 };
            }
        }
        Stage::Snapshot { next: first + self.bounds.looked_max }
    }

    /// A pod that has gone since the look is passed over, and one that came into its place is told early.
    fn take_changed(&mut self, node: &Node, part: &mut Part) {
        if self.pending.is_empty() {
            self.pending = node.pods.changed_after(self.known);
            (self.upper, self.is_sorted) = (node.revision, false);
            if self.pending.len() > self.bounds.copied_max {
                // They are to be put in order first.
                return;
            }
            self.sort();
        }
        let first = self.pending.len().saturating_sub(self.bounds.copied_max);
        for (_, place) in self.pending.drain(first..).rev() {
            let record = node.pods.at(place).filter(|record| self.select.pod(&record.pod));
            part.pods.extend(record.cloned());
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
            self.known = self.upper;
            if self.stage == Stage::CatchingUp {
                self.stage = Stage::CaughtUp;
            } else {
                part.revision = Some(self.known);
            }
        }
    }
}

fn can_go_on(node: &Node, since: u64) -> bool {
    since <= node.revision && node.pods.gone_after(since).is_some()
}

#[cfg(test)]
mod tests;
