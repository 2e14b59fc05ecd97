//! The two entrances of the results task: the manager's [`Input`]s, and the readers' questions.

use std::sync::Arc;
use std::time::Duration;

use probe_core::action::Report;
use probe_core::id::{PodUid, ProbeKey};
use probe_core::pod::ConditionStatus;
use probe_core::spec::Pod;
use probe_core::status::PodStatus;
use probe_core::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

use super::Node;
use super::latency::TooMany;
use crate::limits;
use crate::shard::inbox::ProbeSlot;
use crate::source::{Pause, SourceKind};
use crate::state::PodState;

/// Why the results stage did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResultsError {
    /// The task has ended.
    #[error("the results stage has ended: the daemon is shutting down")]
    Ended,
    /// No report in time.
    #[error("no attempt of the probe ended within {} s: it may be on hold, or its container not running", .0.as_secs_f64())]
    NoReport(Duration),
    /// The probe ended while one waited for it.
    #[error("the pod was removed before the probe's next attempt ended")]
    Removed,
    /// [`limits::REPORT_WAITERS_MAX`]
    #[error("{} callers are waiting for attempts already; try again later", limits::REPORT_WAITERS_MAX)]
    TooManyWaiters,
}

/// From the manager to the results stage.
#[derive(Debug)]
pub enum Input {
    /// A new pod; sent before any shard hears of it.
    Added {
        /// The pod.
        pod: Arc<Pod>,
        /// One entry per probe.
        slots: Box<[ProbeSlot]>,
        /// Which shard it goes to; `None` where it has no probes. Another shard may still be ending an earlier pod of
        /// this UID.
        shard: Option<usize>,
        /// Its state, where it is known already.
        status: Option<Arc<PodStatus>>,
        /// What the daemon before this one knew.
        past: Option<Arc<PodState>>,
        /// Where it comes from.
        source: SourceKind,
    },
    /// The runtime's newest word on a pod.
    Status(PodUid, Arc<PodStatus>),
    /// The pod's termination begins.
    Deleting(PodUid),
    /// The pod is gone.
    Removed(PodUid),
    /// What an earlier daemon knew of pods that are not here, and may come yet: their manifests could not be read.
    Untaken(Vec<PodState>),
    /// A source has been read once.
    Synced(&'static str),
    /// A condition was set from outside: a readiness gate's. `None` takes it away.
    Gate(PodUid, Arc<str>, Option<ConditionStatus>),
    /// Probes of a pod are paused, or go on.
    /// The sender hears when that is so.
    Pause(PodUid, Arc<Pause>, Option<oneshot::Sender<()>>),
}

/// The manager's entrance. Bound: [`limits::RESULTS_INPUTS_LEN_MAX`].
pub type ResultsSender = mpsc::Sender<Input>;

type Reader = Box<dyn FnOnce(&Node) + Send>;

/// A question to the task.
pub(super) enum Ask {
    Read(Reader),
    WatchLatency(Arc<[PodUid]>, Instant, oneshot::Sender<Result<(), TooMany>>),
    Expect(ProbeKey, oneshot::Sender<Result<Report, ResultsError>>, oneshot::Sender<()>),
}

/// The readers' entrance; cheap to clone. Bound: [`limits::RESULTS_ASKS_LEN_MAX`].
#[derive(Clone)]
pub struct ResultsHandle {
    asks: mpsc::Sender<Ask>,
    revision: watch::Receiver<u64>,
}

/// The task's ends of its channels.
pub struct Inbox {
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) revision: watch::Sender<u64>,
}

/// The channels of the results stage.
#[must_use]
pub fn channel() -> (ResultsSender, ResultsHandle, Inbox) {
    let (inputs_in, inputs) = mpsc::channel(limits::RESULTS_INPUTS_LEN_MAX);
    let (asks_in, asks) = mpsc::channel(limits::RESULTS_ASKS_LEN_MAX);
    let (revision, seen) = watch::channel(0);
    let handle = ResultsHandle { asks: asks_in, revision: seen };
    (inputs_in, handle, Inbox { inputs, asks, revision })
}

impl ResultsHandle {
    /// Runs `reader` on the task, between two updates, and gives back what it returns. The stage stands still
    /// meanwhile: clone what is needed (most of it is behind an `Arc`) and work on it afterwards.
    pub async fn read<T: Send + 'static>(
        &self,
        reader: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, ResultsError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Read(Box::new(move |node| {
            // The asker may have gone; that is no one's loss.
            let _ = reply.send(reader(node));
        }));
        self.asks.send(ask).await.map_err(|_| ResultsError::Ended)?;
        answer.await.map_err(|_| ResultsError::Ended)
    }

    /// Keeps histograms of the probes of these pods until then, or longer where somebody else wants it. Those that are not there
    /// (any more) do not matter. To be said again as long as somebody watches.
    pub async fn watch_latency(
        &self,
        pods: Arc<[PodUid]>,
        until: Instant,
    ) -> Result<Result<(), TooMany>, ResultsError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::WatchLatency(pods, until, reply)).await.map_err(|_| ResultsError::Ended)?;
        answer.await.map_err(|_| ResultsError::Ended)
    }

    /// Begins to listen for the next report of a probe: once this returns none is missed, so that a trigger
    /// may be sent. Bound: [`limits::REPORT_WAITERS_MAX`].
    pub async fn expect_report(&self, key: ProbeKey) -> Result<PendingReport, ResultsError> {
        let (reply, answer) = oneshot::channel();
        let (listening, listens) = oneshot::channel();
        let ask = Ask::Expect(key, reply, listening);
        self.asks.send(ask).await.map_err(|_| ResultsError::Ended)?;
        listens.await.map_err(|_| ResultsError::Ended)?;
        Ok(PendingReport { answer })
    }

    /// Waits for the next report of a probe, at most `timeout`.
    pub async fn next_report(&self, key: ProbeKey, timeout: Duration) -> Result<Report, ResultsError> {
        self.expect_report(key).await?.wait(timeout).await
    }

    /// Changes with every change of a pod (see [`Node::revision`]); a slow reader sees the newest only.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.clone()
    }
}

/// A report that is being waited for.
#[derive(Debug)]
pub struct PendingReport {
    answer: oneshot::Receiver<Result<Report, ResultsError>>,
}

impl PendingReport {
    /// The report, or why there was none within `timeout`.
    pub async fn wait(self, timeout: Duration) -> Result<Report, ResultsError> {
        match tokio::time::timeout(timeout, self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ResultsError::Ended),
            Err(_) => Err(ResultsError::NoReport(timeout)),
        }
    }
}
