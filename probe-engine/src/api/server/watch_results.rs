//! WatchResults: the stored results, for embedders.
//!
//! Results change with their pods, so this watches pods, and remembers of each what it has sent: the instance and the verdict
//! of each probe that has one. Bound: that, some 100 bytes a probe, in at most [`limits::API_RESULT_WATCHERS_MAX`] streams.

use std::collections::HashMap;
use std::sync::Arc;

use probe_core::id::{ContainerId, PodUid};
use probe_core::outcome::Verdict;
use probe_core::spec::Pod;
use tokio::sync::mpsc;
use tonic::Status;

use super::embedder::Embedder;
use super::watching::{self, Watching};
use super::{Parts, convert, unavailable};
use crate::api::v1::{self, watch_results_response::Item};
use crate::limits;
use crate::results::{GonePod, News, PodRecord, PodWatch, Select};

/// See the proto.
pub(super) async fn watch(
    embedder: &Embedder,
    request: v1::WatchResultsRequest,
) -> Result<Parts<v1::WatchResultsResponse>, Status> {
    let watching = Watching::begin(&embedder.result_watchers, limits::API_RESULT_WATCHERS_MAX)?;
    let instance = embedder.backend.facts.borrow().instance.clone();
    let since = watching::since(request.since, &instance);
    let pods = PodWatch::new(embedder.backend.results.clone(), since, Arc::new(All));
    let (ahead, ended) = (limits::API_PARTS_AHEAD_MAX, embedder.ended.clone());
    Ok(watching.stream(ahead, ended, move |to| async move { tell(pods, &to, &instance).await }))
}

struct All;

impl Select for All {
    fn pod(&self, _: &Pod) -> bool {
        true
    }

    fn gone(&self, _: &GonePod) -> bool {
        true
    }
}

/// Until the receiver is gone, or the results stage.
async fn tell(mut watch: PodWatch, to: &mpsc::Sender<Result<v1::WatchResultsResponse, Status>>, instance: &str) {
    let mut told = Told::default();
    loop {
        let news = match watch.next().await {
            Ok(news) => news,
            Err(error) => return drop(to.send(Err(unavailable(error))).await),
        };
        let (items, revision) = match news {
            News::Restart { place_lost } => {
                told = Told { is_whole: true, ..Told::default() };
                (vec![Item::Restart(v1::Restart { place_lost })], None)
            }
            News::Synced(revision) => (vec![Item::Synced(v1::Synced {})], Some(revision)),
            News::Part(part) => {
                let mut items: Vec<Item> = part.gone.iter().filter_map(|gone| told.gone(gone)).collect();
                part.pods.iter().for_each(|record| items.extend(told.changed(record)));
                (items, part.revision)
            }
        };
        let last = items.len();
        for (count, item) in (1..).zip(items) {
            let place = revision.filter(|_| count == last).map(|revision| watching::place(instance, revision));
            if to.send(Ok(v1::WatchResultsResponse { item: Some(item), place })).await.is_err() {
                return;
            }
        }
    }
}

/// The instance and the verdict of a probe; `None` without a verdict.
type Stored = Option<(ContainerId, Verdict)>;

/// What a stream has sent.
#[derive(Default)]
struct Told {
    /// By pod, in the order of its probes.
    pods: HashMap<PodUid, Box<[Stored]>>,
    /// It is all that the client knows: the stream did not go on where another ended.
    is_whole: bool,
}

impl Told {
    /// The results of a pod that are other than what was sent.
    fn changed(&mut self, record: &PodRecord) -> Vec<Item> {
        let results: Box<[Stored]> = stored(record).collect();
        let before = self.pods.get(&record.pod.uid).filter(|before| before.len() == results.len());
        let is_news = |index: usize, result: &Stored| match before {
            Some(before) => before[index] != *result,
            None => result.is_some() || !self.is_whole,
        };
        let news: Vec<bool> = results.iter().enumerate().map(|(index, result)| is_news(index, result)).collect();
        let all = convert::probe_results(record).zip(news);
        let items = all.filter(|(_, is_news)| *is_news).map(|(result, _)| Item::Result(result)).collect();
        if results.is_empty() || (self.is_whole && results.iter().all(Option::is_none)) {
            self.pods.remove(&record.pod.uid);
        } else {
            self.pods.insert(record.pod.uid.clone(), results);
        }
        items
    }

    /// `None` where the client knows of none.
    fn gone(&mut self, gone: &GonePod) -> Option<Item> {
        let had = self.pods.remove(&gone.uid).is_some();
        (had || !self.is_whole).then(|| Item::Result(convert::no_results(gone)))
    }
}

/// In the order of the record's probes.
fn stored(record: &PodRecord) -> impl Iterator<Item = Stored> {
    record.containers().flat_map(|(_, container)| {
        let newest = record.container_status(&container).and_then(|status| status.id.as_ref());
        container.probes.iter().map(move |probe| probe.container_id(newest).cloned().zip(probe.verdict))
    })
}
