//! WatchEvents: what is kept, then what happens. A slow watcher is told how many it missed.

use tonic::Status;

use super::watching::Watching;
use super::{Parts, Service};
use crate::api::{convert, v1};
use crate::consumer::events::{Event, Watched};
use crate::limits;

/// See the proto.
pub(super) async fn watch(
    service: &Service,
    request: v1::WatchEventsRequest,
) -> Result<Parts<v1::WatchEventsResponse>, Status> {
    let watching = Watching::begin(&service.event_watchers, limits::API_EVENT_WATCHERS_MAX)?;
    let watch = service.backend.events.watch(request.since).await;
    let mut watch = watch.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(watching.stream(limits::API_PARTS_AHEAD_MAX, service.ended.clone(), move |to| async move {
        while let Some(item) = watch.next().await {
            let is_all = !request.follow && item == Watched::CaughtUp;
            let Some(item) = wire_event(item, &request, watch.sequence()) else { continue };
            if is_all || to.send(Ok(v1::WatchEventsResponse { item: Some(item) })).await.is_err() {
                return;
            }
        }
    }))
}

/// The item on the wire; `None` for an event that was not asked for.
fn wire_event(
    item: Watched,
    request: &v1::WatchEventsRequest,
    sequence: u64,
) -> Option<v1::watch_events_response::Item> {
    use v1::watch_events_response::Item;
    let is_asked_for = |event: &Event| {
        (request.namespace.is_empty() || *request.namespace == *event.namespace)
            && (request.pod.is_empty() || *request.pod == *event.pod)
    };
    match item {
        Watched::Event(event) => is_asked_for(&event).then(|| Item::Event(convert::event(&event))),
        Watched::Lost(missed_count) => Some(Item::PlaceLost(v1::PlaceLost { missed_count })),
        Watched::CaughtUp => Some(Item::CaughtUp(v1::CaughtUp { sequence })),
    }
}
