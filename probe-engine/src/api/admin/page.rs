//! A page that has been written, while its client takes it.
//!
//! Who writes a large page holds a place of a semaphore, and the page keeps it: so there are as many in memory as there are
//! places, however slowly they are read. Bound: [`limits::ADMIN_SENT_MAX`] for the whole, then its connection is closed.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use axum::Extension;
use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::limits;

/// An answer that took longer than [`limits::ADMIN_ANSWER_TIMEOUT`], with 503.
pub(in crate::api) const NOT_IN_TIME: &str = "not answered in time: the daemon is busy\n";

/// Bytes that are handed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
struct Page {
    rest: Bytes,
    _place: Arc<OwnedSemaphorePermit>,
}

/// What the connection is told of a page that it sends.
#[derive(Clone, Debug)]
pub(in crate::api) struct Sending {
    until: Instant,
    /// Gone with the page.
    place: Weak<OwnedSemaphorePermit>,
}

/// `text` as the body of an answer, and what its connection must know. `place` is given back when the last of it is with hyper
/// (which then holds half a megabyte at most), or its client has gone.
pub(in crate::api) fn body(text: impl Into<Bytes>, place: OwnedSemaphorePermit) -> (Extension<Sending>, Body) {
    let place = Arc::new(place);
    let sending = Sending { until: Instant::now() + limits::ADMIN_SENT_MAX, place: Arc::downgrade(&place) };
    (Extension(sending), Body::new(Page { rest: text.into(), _place: place }))
}

/// Ends when a page of a connection has not been taken in time. A timer of its own: hyper does not ask a body for more while its
/// client reads nothing.
pub(super) async fn unread(mut pages: watch::Receiver<Option<Sending>>) {
    while pages.changed().await.is_ok() {
        let Some(Sending { until, place }) = pages.borrow_and_update().clone() else { continue };
        tokio::time::sleep_until(until).await;
        if place.strong_count() > 0 {
            return;
        }
    }
    std::future::pending().await
}

impl hyper::body::Body for Page {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = self.rest.len().min(CHUNK_BYTES);
        // A copy: one that shared the page's memory would keep all of it.
        let chunk = || Bytes::copy_from_slice(&self.rest.split_to(len));
        Poll::Ready((len > 0).then(chunk).map(|chunk| Ok(Frame::data(chunk))))
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
    use std::net::SocketAddr;
    use std::pin::pin;

    use axum::Router;
    use axum::routing::{MethodRouter, get};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;

    use super::super::{bind, serve};
    use super::*;

    /// More than the kernel keeps of a connection that nobody reads.
    const PAGE_BYTES: usize = 64 << 20;

    /// The admin server with one path, `/page`, and what ends it.
    async fn serving(page: MethodRouter) -> (SocketAddr, impl Future<Output = ()>) {
        let listener = bind("--metrics-listen", ([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, Router::new().route("/page", page), stopped));
        let end = async move {
            stop.send(true).expect("it runs");
            server.await.expect("no panic");
        };
        (address, end)
    }

    /// Asks for the page and reads no more than that it is there.
    async fn ask(address: SocketAddr) -> TcpStream {
        let mut client = TcpStream::connect(address).await.expect("it listens");
        client.write_all(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("it reads");
        let mut first = [0; 12];
        client.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 200");
        client
    }

    #[tokio::test]
    async fn a_page_keeps_its_place_until_its_client_has_read_it_or_gone() {
        let places = Arc::new(Semaphore::new(1));
        let of_page = Arc::clone(&places);
        let page = get(async move || {
            let place = of_page.acquire_owned().await.expect("it is never closed");
            body(vec![b'x'; PAGE_BYTES], place)
        });
        let (address, end) = serving(page).await;
        let mut reader = ask(address).await;
        assert_eq!(places.available_permits(), 0, "most of the page is unread");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.expect("the whole page");
        assert!(rest.len() > PAGE_BYTES && rest.ends_with(b"xx"), "{}", rest.len());
        drop(places.acquire().await.expect("the page has been sent"));
        drop(ask(address).await);
        drop(places.acquire().await.expect("its client has gone"));
        end.await;
    }

    #[tokio::test]
    async fn a_page_whose_time_is_over_is_cut_off() {
        let places = Arc::new(Semaphore::new(1));
        let of_page = Arc::clone(&places);
        let page = get(async move || {
            let place = of_page.acquire_owned().await.expect("it is never closed");
            let (Extension(sending), body) = body(vec![b'x'; PAGE_BYTES], place);
            (Extension(Sending { until: Instant::now(), ..sending }), body)
        });
        let (address, end) = serving(page).await;
        let mut client = ask(address).await;
        drop(places.acquire().await.expect("the page has been dropped"));
        let mut rest = Vec::new();
        // Closed with what is unread still to come, or reset.
        let _ = client.read_to_end(&mut rest).await;
        assert!(rest.len() < PAGE_BYTES, "{}", rest.len());
        end.await;
    }

    #[tokio::test]
    async fn a_page_that_is_not_taken_in_time_ends_its_connection_and_one_that_was_does_not() {
        let places = Arc::new(Semaphore::new(2));
        let place = || Arc::new(Arc::clone(&places).try_acquire_owned().expect("there are two"));
        let (told, pages) = watch::channel(None);
        let mut unread = pin!(unread(pages));
        let taken = place();
        let until = Instant::now();
        told.send_replace(Some(Sending { until, place: Arc::downgrade(&taken) }));
        drop(taken);
        tokio::select! {
            biased;
            () = unread.as_mut() => panic!("it was taken"),
            () = std::future::ready(()) => {}
        }
        let kept = place();
        told.send_replace(Some(Sending { until, place: Arc::downgrade(&kept) }));
        unread.await;
    }
}
