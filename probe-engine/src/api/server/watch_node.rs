//! WatchNode: the node at a glance, each second.
//!
//! A slow watcher misses some: the newest is what counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;

use super::watching::Watching;
use super::{Parts, Service};
use crate::api::{convert, v1};
use crate::limits;

/// Time between two messages.
const PERIOD: Duration = Duration::from_secs(1);

/// See the proto.
pub(super) fn watch(service: &Service) -> Result<Parts<v1::WatchNodeResponse>, Status> {
    let watching = Watching::begin(&service.node_watchers, limits::API_EVENT_WATCHERS_MAX)?;
    let mut overviews = service.backend.overviews.clone();
    Ok(watching.stream(1, service.ended.clone(), move |to| async move {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Before the first look there is nothing to tell.
            let newest = overviews.wait_for(|overview| overview.at_ms > 0).await.map(|newest| Arc::clone(&newest));
            let Ok(newest) = newest else { return };
            if to.send(Ok(convert::node(&newest))).await.is_err() {
                return;
            }
        }
    }))
}
