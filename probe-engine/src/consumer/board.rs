//! What the dashboard's stream carries, twice a second: the overview, the newest columns of the heatmap, and once a second the
//! rows of the table that changed.
//!
//! One task makes each frame once for all browsers, and only while one of them is there. They share the newest, so a slow one
//! misses frames: each says which version of the table it goes on from, and who has another reads the table anew.
//!
//! Bounds: [`limits::DASHBOARD_PODS_MAX`] pods, [`limits::DASHBOARD_CHANGES_PER_FRAME_MAX`] changes a frame.
//!
//! **Invariant:** nobody waits for a browser, and the results stage waits for no more than one part of a look.

pub mod row;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_core::id::PodUid;
use serde::Serialize;
use tokio::sync::watch;

use self::row::PodRow;
use super::overview::heatmap::{Column, bounds_ns};
use super::overview::{Heatmaps, Overview, Overviews};
use crate::results::{PodRecord, ResultsError, ResultsHandle};
use crate::{limits, shutdown};

/// The table is looked at for every so many frames: once a second.
const LOOK_EVERY: u64 = 2;

/// Columns of the heatmap in each frame: those that may have changed since the frame before, and one more for a browser that
/// missed it.
const COLUMNS_PER_FRAME: usize = 3;

/// One message of the stream.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Frame<'a> {
    /// Counts up by one with each.
    pub sequence: u64,
    /// The node, as of now.
    pub overview: &'a Overview,
    /// The newest columns; the last one grows until its second is over.
    pub heatmap: Vec<&'a Column>,
    /// What changed in the table.
    pub table: TableChange,
}

/// See [`Frame`].
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableChange {
    /// The version that this goes on from.
    pub from: u64,
    /// The version that it makes.
    pub version: u64,
    /// Pods of the node, those without a row included.
    pub pods_count: usize,
    /// Rows that are new or changed.
    pub rows: Vec<PodRow>,
    /// UIDs of pods that have no row any more.
    pub gone: Vec<String>,
}

impl TableChange {
    fn nothing(version: u64, pods_count: usize) -> Self {
        Self { from: version, version, pods_count, ..Self::default() }
    }
}

/// The whole heatmap.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heatmap {
    /// Upper bounds of all buckets but the last, in nanoseconds, rising.
    pub bounds_ns: Vec<u64>,
    /// One per second in which the daemon ran, the oldest first.
    pub columns: Vec<Column>,
}

/// The whole table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// A frame that goes on from this version, or an earlier one, can be laid over it.
    pub version: u64,
    /// Pods of the node, those without a row included.
    pub pods_count: usize,
    /// What stands where in a row.
    pub columns: &'static [&'static str],
    /// What stands where in the row of a probe.
    pub probe_columns: &'static [&'static str],
    /// One per pod, in no order.
    pub rows: Vec<PodRow>,
}

/// The readers' end; cheap to clone.
#[derive(Clone)]
pub struct Board {
    results: ResultsHandle,
    overviews: Overviews,
    heatmaps: Heatmaps,
    frames: Arc<watch::Sender<Option<Arc<str>>>>,
    version: Arc<AtomicU64>,
}

impl Board {
    /// One that makes no frames before [`Board::run`].
    #[must_use]
    pub fn new(results: ResultsHandle, overviews: Overviews, heatmaps: Heatmaps) -> Self {
        Self { results, overviews, heatmaps, frames: Arc::new(watch::Sender::new(None)), version: Arc::default() }
    }

    /// The newest overview.
    #[must_use]
    pub fn overview(&self) -> Arc<Overview> {
        Arc::clone(&self.overviews.borrow())
    }

    /// The heatmap as it is.
    #[must_use]
    pub fn heatmap(&self) -> Heatmap {
        let columns = Arc::clone(&self.heatmaps.borrow());
        Heatmap {
            bounds_ns: bounds_ns().to_vec(),
            columns: columns.iter().map(|column| Column::clone(column)).collect(),
        }
    }

    /// The frames to come, as JSON; as long as somebody holds this they are made.
    #[must_use]
    pub fn frames(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.frames.subscribe()
    }

    /// All rows.
    ///
    /// # Errors
    /// The results stage has ended.
    pub async fn table(&self) -> Result<Table, ResultsError> {
        // Before the rows: what changes meanwhile comes once more, which does no harm.
        let version = self.version.load(Ordering::Acquire);
        let mut rows = Vec::new();
        let mut pods_count = 0;
        for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
            let part = self.results.read(move |node| {
                let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART);
                (node.pods.len(), part.map(|part| part.cloned().collect::<Vec<_>>()))
            });
            let (len, part) = part.await?;
            pods_count = len;
            let Some(part) = part else { break };
            let room = limits::DASHBOARD_PODS_MAX - rows.len();
            rows.extend(part.iter().take(room).map(row::row));
            if rows.len() == limits::DASHBOARD_PODS_MAX {
                break;
            }
        }
        Ok(Table { version, pods_count, columns: &row::POD_COLUMNS, probe_columns: &row::PROBE_COLUMNS, rows })
    }

    /// The rows of these pods, those that are there.
    ///
    /// # Errors
    /// The results stage has ended.
    pub async fn rows(&self, uids: Vec<PodUid>) -> Result<Vec<PodRow>, ResultsError> {
        let look =
            move |node: &crate::results::Node| uids.iter().filter_map(|uid| node.pods.get(uid).cloned()).collect();
        let records: Vec<PodRecord> = self.results.read(look).await?;
        Ok(records.iter().map(row::row).collect())
    }

    /// Makes frames until `shutdown` turns true, or overviews or results end.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut overviews = self.overviews.clone();
        let mut told = Told::default();
        loop {
            tokio::select! {
                changed = overviews.changed() => if changed.is_err() { return },
                () = shutdown::told(&mut shutdown) => return,
            }
            let overview = Arc::clone(&overviews.borrow_and_update());
            if self.frames.receiver_count() == 0 {
                self.forget(&mut told);
                continue;
            }
            let table = if told.sequence.is_multiple_of(LOOK_EVERY) || !told.is_primed {
                let Ok(change) = self.look(&mut told).await else { return };
                change
            } else {
                TableChange::nothing(self.version.load(Ordering::Acquire), told.pods_count)
            };
            told.pods_count = table.pods_count;
            told.sequence += 1;
            let columns = Arc::clone(&self.heatmaps.borrow());
            let newest = columns.iter().skip(columns.len().saturating_sub(COLUMNS_PER_FRAME));
            let heatmap = newest.map(|column| &**column).collect();
            let frame = Frame { sequence: told.sequence, overview: &overview, heatmap, table };
            let json = serde_json::to_string(&frame).expect("numbers and texts under names are always JSON");
            self.frames.send_replace(Some(json.into()));
        }
    }

    /// Nobody looks: what was told needs no memory.
    fn forget(&self, told: &mut Told) {
        (told.pods, told.is_primed) = (HashMap::new(), false);
        if self.frames.borrow().is_some() {
            self.frames.send_replace(None);
        }
    }

    /// What changed since the last look. The first one only learns how the pods are: it makes another version, so that everybody
    /// reads the table after it.
    async fn look(&self, told: &mut Told) -> Result<TableChange, ResultsError> {
        let is_first = !std::mem::replace(&mut told.is_primed, true);
        told.round = told.round.wrapping_add(1);
        let (mut pods, round) = (std::mem::take(&mut told.pods), told.round);
        let mut change = TableChange::default();
        for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
            let room = limits::DASHBOARD_CHANGES_PER_FRAME_MAX - change.rows.len();
            let part = self.results.read(move |node| {
                let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART);
                let changed = part.map(|part| changed_of(part, &mut pods, round, room, is_first));
                (node.pods.len(), changed, pods)
            });
            let (pods_count, changed, given_back) = part.await?;
            (pods, change.pods_count) = (given_back, pods_count);
            let Some(changed) = changed else { break };
            change.rows.extend(changed.iter().map(row::row));
        }
        let gone = pods.iter().filter(|(_, told)| told.round != round).map(|(uid, _)| uid.clone());
        let gone: Vec<PodUid> = gone.take(limits::DASHBOARD_CHANGES_PER_FRAME_MAX).collect();
        for uid in gone {
            pods.remove(&uid);
            change.gone.push(uid.to_string());
        }
        told.pods = pods;
        let is_changed = is_first || !change.rows.is_empty() || !change.gone.is_empty();
        change.from = self.version.fetch_add(u64::from(is_changed), Ordering::AcqRel);
        change.version = change.from + u64::from(is_changed);
        if is_first {
            change.from = change.version;
        }
        Ok(change)
    }
}

/// What the browsers were told.
#[derive(Default)]
struct Told {
    sequence: u64,
    pods_count: usize,
    is_primed: bool,
    /// Of looks.
    round: u32,
    pods: HashMap<PodUid, ToldPod>,
}

struct ToldPod {
    digest: u64,
    /// The last look that saw it.
    round: u32,
}

/// Pods of a part that are new or changed, at most `room` of them: the others wait for the next look. At the first look none is.
fn changed_of<'a>(
    part: impl Iterator<Item = &'a PodRecord>,
    pods: &mut HashMap<PodUid, ToldPod>,
    round: u32,
    room: usize,
    is_first: bool,
) -> Vec<PodRecord> {
    let mut changed = Vec::new();
    for record in part {
        let digest = row::digest(record);
        let has_room = is_first || changed.len() < room;
        let has_place = pods.len() < limits::DASHBOARD_PODS_MAX;
        match pods.get_mut(&record.pod.uid) {
            Some(told) => {
                told.round = round;
                if told.digest == digest || !has_room {
                    continue;
                }
                told.digest = digest;
            }
            None if !has_room || !has_place => continue,
            None => drop(pods.insert(record.pod.uid.clone(), ToldPod { digest, round })),
        }
        if !is_first {
            changed.push(record.clone());
        }
    }
    changed
}

#[cfg(test)]
mod tests;
