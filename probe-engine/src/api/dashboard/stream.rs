//! Server-sent events: the board's frames, to each browser the newest that it can take.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::Dashboard;
use crate::{limits, shutdown};

/// A browser that lost its stream waits so long before it asks again, in milliseconds.
const RETRY: &str = "retry: 1000\n\n";

pub(super) async fn stream(State(dashboard): State<Dashboard>) -> Response {
    let Ok(place) = dashboard.streams.clone().try_acquire_owned() else {
        let text = format!(
            "{} browsers follow this dashboard already; close one, or reload later\n",
            limits::DASHBOARD_STREAMS_MAX
        );
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let (to, from) = mpsc::channel::<Bytes>(1);
    let frames = dashboard.board.frames();
    tokio::spawn(async move {
        follow(frames, to, dashboard.shutdown).await;
        drop(place);
    });
    let body = Body::from_stream(ReceiverStream::new(from).map(Ok::<_, std::convert::Infallible>));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

/// Until the browser goes, or reads nothing for [`limits::DASHBOARD_STALL`], or it is time to stop.
async fn follow(
    mut frames: watch::Receiver<Option<std::sync::Arc<str>>>,
    to: mpsc::Sender<Bytes>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut next = Bytes::from_static(RETRY.as_bytes());
    loop {
        let sent = tokio::select! {
            sent = timeout(limits::DASHBOARD_STALL, to.send(next)) => matches!(sent, Ok(Ok(()))),
            () = shutdown::told(&mut shutdown) => false,
        };
        if !sent {
            return;
        }
        next = loop {
            tokio::select! {
                changed = frames.changed() => if changed.is_err() { return },
                () = to.closed() => return,
                () = shutdown::told(&mut shutdown) => return,
            }
            if let Some(frame) = frames.borrow_and_update().as_deref() {
                break Bytes::from(format!("event: frame\ndata: {frame}\n\n"));
            }
        };
    }
}
