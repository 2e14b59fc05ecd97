//! A page that has been written, while its client takes it.
//!
//! Who writes a large page holds a place of a semaphore, and the page keeps it: so there are as many in memory as there are
//! places, however slowly they are read. Bound: [`limits::ADMIN_SENT_MAX`] for the whole, and while nothing at all is read
//! [`limits::ADMIN_UNREAD_MAX`].

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use probe_core::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

use crate::{clock, limits};

/// An answer that took longer than [`limits::ADMIN_ANSWER_TIMEOUT`], with 503.
pub(in crate::api) const NOT_IN_TIME: &str =
    "not answered in time: the results stage is busy, or as many pages as there may be are being read\n";

/// Bytes that are handed on at once: between two of them the time is looked at.
const CHUNK_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
struct Page {
    rest: Bytes,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

/// Ends the connection: its client reads too slowly.
#[derive(Debug, thiserror::Error)]
#[error("its client had not read it after {:?}; {rest_len} bytes were left", limits::ADMIN_SENT_MAX)]
struct TooSlow {
    rest_len: usize,
}

/// `text` as the body of an answer. `place` is given back when it has been sent, or its client has gone.
pub(in crate::api) fn body(text: impl Into<Bytes>, place: OwnedSemaphorePermit) -> Body {
    Body::new(Page { rest: text.into(), until: clock::now() + limits::ADMIN_SENT_MAX, _place: place })
}

impl hyper::body::Body for Page {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        let rest_len = self.rest.len();
        if rest_len == 0 {
            return Poll::Ready(None);
        }
        if clock::now() > self.until {
            return Poll::Ready(Some(Err(TooSlow { rest_len })));
        }
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(rest_len.min(CHUNK_BYTES))))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;
    use std::time::Duration;

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{Semaphore, watch};

    use super::super::{bind, serve};
    use super::*;

    /// More than the kernel keeps of a connection that nobody reads.
    const PAGE_BYTES: usize = 64 << 20;

    #[tokio::test]
    async fn a_page_keeps_its_place_until_its_client_has_read_it_or_gone() {
        let places = Arc::new(Semaphore::new(1));
        let of_page = Arc::clone(&places);
        let page = move || async move {
            let place = of_page.acquire_owned().await.expect("it is never closed");
            body(vec![b'x'; PAGE_BYTES], place)
        };
        let listener = bind("--metrics-listen", ([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, Router::new().route("/page", get(page)), stopped));
        let ask = async || {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            let head = b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            client.write_all(head).await.expect("it reads");
            let mut first = [0; 12];
            client.read_exact(&mut first).await.expect("an answer");
            assert_eq!(&first, b"HTTP/1.1 200");
            client
        };
        let mut reader = ask().await;
        assert_eq!(places.available_permits(), 0, "most of the page is unread");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.expect("the whole page");
        assert!(rest.len() > PAGE_BYTES && rest.ends_with(b"xx"), "{}", rest.len());
        drop(places.acquire().await.expect("the page has been sent"));
        drop(ask().await);
        drop(places.acquire().await.expect("its client has gone"));
        stop.send(true).expect("it runs");
        server.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_page_that_is_read_too_slowly_ends() {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("it is never closed");
        let mut page =
            Page { rest: vec![0; 2 * CHUNK_BYTES].into(), until: clock::now() + limits::ADMIN_SENT_MAX, _place: place };
        let mut context = Context::from_waker(Waker::noop());
        let mut next = |page: &mut Page| hyper::body::Body::poll_frame(Pin::new(page), &mut context);
        let Poll::Ready(Some(Ok(frame))) = next(&mut page) else { panic!("there is time") };
        assert_eq!(frame.data_ref().map(Bytes::len), Some(CHUNK_BYTES));
        page.until = clock::now().saturating_sub(Duration::from_nanos(1));
        let Poll::Ready(Some(Err(error))) = next(&mut page) else { panic!("its time is over") };
        assert_eq!(error.to_string(), "its client had not read it after 60s; 65536 bytes were left");
    }
}
