//! WatchNode: the node at a glance, each second.
//!
//! A slow watcher misses some: the newest is what counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Parts, Service, over};
use crate::api::{convert, v1};
use crate::consumer::overview::Overview;

/// Time between two messages.
const PERIOD: Duration = Duration::from_secs(1);

/// See the proto.
pub(super) async fn watch(service: &Service, _: v1::WatchNodeRequest) -> Result<Parts<v1::WatchNodeResponse>, Status> {
    let mut overviews = service.backend.overviews.clone();
    let mut ended = service.ended.clone();
    let (to, from) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let tick = async {
                ticks.tick().await;
                // Before the first look there is nothing to tell.
                overviews.wait_for(|overview| overview.at_ms > 0).await.map(|newest| Arc::clone(&newest))
            };
            let newest: Arc<Overview> = tokio::select! {
                newest = tick => match newest {
                    Ok(newest) => newest,
                    Err(_) => return,
                },
                () = over(&mut ended) => return,
                () = to.closed() => return,
            };
            if to.send(Ok(convert::node(&newest))).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(from))
}
