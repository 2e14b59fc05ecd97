//! What the watches have in common: places, how many there may be, and the end of a stream.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Parts;
use crate::api::v1;
use crate::shutdown;

/// One watcher's place among those that there may be.
pub(super) struct Watching {
    _place: OwnedSemaphorePermit,
}

impl Watching {
    /// `watchers_max`: what `places` began with.
    pub(super) fn begin(places: &Arc<Semaphore>, watchers_max: usize) -> Result<Self, Status> {
        let place = Arc::clone(places).try_acquire_owned();
        let full = |_| Status::resource_exhausted(format!("{watchers_max} streams of this kind are open already"));
        Ok(Self { _place: place.map_err(full)? })
    }

    /// A stream of what `tell` sends, `ahead` parts before its client takes them. It ends with `tell`, with the daemon, and with its
    /// client, whatever it waits for then.
    pub(super) fn stream<T, F>(
        self,
        ahead: usize,
        mut ended: watch::Receiver<bool>,
        tell: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Parts<T>
    where
        T: Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (to, from) = mpsc::channel(ahead);
        let telling = tell(to.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = telling => {}
                () = shutdown::told(&mut ended) => {}
                () = to.closed() => {}
            }
            drop(self);
        });
        ReceiverStream::new(from)
    }
}

/// How the results stage takes it: another daemon's revisions are ones that it has not come to.
pub(super) fn since(place: Option<v1::Place>, instance: &str) -> Option<u64> {
    let place = place.filter(|place| *place != v1::Place::default())?;
    Some(if place.instance == instance { place.revision } else { u64::MAX })
}

pub(super) fn place(instance: &str, revision: u64) -> v1::Place {
    v1::Place { instance: instance.to_owned(), revision }
}
