//! WatchPods: a snapshot, SYNCED, and what changes.

use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::Status;

use super::watching::{self, Watching};
use super::{Filter, Parts, Service, convert, unavailable};
use crate::api::v1::{self, watch_pods_response::Item};
use crate::ebpf::PassiveSettings;
use crate::limits;
use crate::results::{GonePod, News, Part, PodWatch};

/// See the proto.
pub(super) async fn watch(
    service: &Service,
    request: v1::WatchPodsRequest,
) -> Result<Parts<v1::WatchPodsResponse>, Status> {
    let filter = Filter::read(request.filter)?;
    let watching = Watching::begin(&service.pod_watchers, limits::API_POD_WATCHERS_MAX)?;
    let instance = service.backend.facts.borrow().instance.clone();
    let since = watching::since(request.since, &instance);
    let pods = PodWatch::new(service.backend.results.clone(), since, Arc::new(filter));
    let facts = service.backend.facts.clone();
    Ok(watching.stream(limits::API_PARTS_AHEAD_MAX, service.ended.clone(), move |to| async move {
        let passive = || facts.borrow().passive.clone();
        tell(pods, &to, &instance, passive).await;
    }))
}

/// Until the receiver is gone, or the results stage.
async fn tell(
    mut watch: PodWatch,
    to: &mpsc::Sender<Result<v1::WatchPodsResponse, Status>>,
    instance: &str,
    passive: impl Fn() -> Option<Arc<PassiveSettings>>,
) {
    loop {
        let news = match watch.next().await {
            Ok(news) => news,
            Err(error) => return drop(to.send(Err(unavailable(error))).await),
        };
        let passive = passive();
        for response in responses(news, instance, passive.as_deref()) {
            if to.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}

/// One by one: a part of large pods is not made whole before it is sent.
fn responses<'a>(
    news: News,
    instance: &'a str,
    passive: Option<&'a PassiveSettings>,
) -> Box<dyn Iterator<Item = v1::WatchPodsResponse> + Send + 'a> {
    let one = |item, place| -> Box<dyn Iterator<Item = _> + Send> {
        Box::new(std::iter::once(v1::WatchPodsResponse { item: Some(item), place }))
    };
    match news {
        News::Restart { place_lost } => one(Item::Restart(v1::Restart { place_lost }), None),
        News::Synced(revision) => one(Item::Synced(v1::Synced {}), Some(watching::place(instance, revision))),
        News::Part(Part { gone, pods, revision }) => {
            let gone = gone.into_iter().map(|gone| Item::Gone(pod_gone(&gone)));
            let pods = pods.into_iter().map(move |record| Item::Pod(convert::pod(&record, passive)));
            let mut items = gone.chain(pods).peekable();
            Box::new(std::iter::from_fn(move || {
                let item = items.next()?;
                let place = revision.filter(|_| items.peek().is_none()).map(|r| watching::place(instance, r));
                Some(v1::WatchPodsResponse { item: Some(item), place })
            }))
        }
    }
}

fn pod_gone(of: &GonePod) -> v1::PodGone {
    v1::PodGone { uid: of.uid.to_string(), namespace: of.namespace.to_string(), name: of.name.to_string() }
}
