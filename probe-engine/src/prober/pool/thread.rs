//! One thread of the pool: a runtime, and for each of its lanes a loop that takes jobs and makes attempts.

use std::future::Future;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use probe_core::outcome::{LocalCause, Outcome};
use probe_core::time::Instant;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::{ExecBy, Job, Lane, LaneKind, Means, PoolError, Queued, Shared, attempt};
use crate::shard::inbox::PoolReply;
use crate::shard::metrics::PhasesUs;
use crate::{clock, limits, shutdown};

/// Ring entries of a pool thread.
const RING_ENTRIES: u32 = 256;

/// Starts a thread and waits until its runtime is there. `alive` is dropped when it ends.
pub(super) fn spawn(
    index: usize,
    lanes: &'static [LaneKind],
    uring: bool,
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) -> Result<JoinHandle<()>, PoolError> {
    let name = format!("pool-{index}");
    let (ready, made) = mpsc::channel();
    let thread = Builder::new()
        .name(name.clone())
        .spawn(move || {
            let _alive = alive;
            match Driver::new(uring) {
                Ok(driver) => {
                    // The one who waits for this is there until it has heard it.
                    let _ = ready.send(Ok(()));
                    driver.block_on(serve(shared, lanes, closing));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })
        .map_err(|source| PoolError::Thread { name: name.clone(), source })?;
    let made = made.recv().unwrap_or_else(|_gone| Err(io::Error::other("its thread panicked")));
    made.map_err(|source| PoolError::Runtime { name, source })?;
    Ok(thread)
}

/// tokio-uring's runtime, which is a tokio current-thread runtime with everything enabled and a ring besides;
/// or such a runtime without the ring. Made and used on its own thread. Attempts are the same on both.
enum Driver {
    Uring(tokio_uring::Runtime),
    Tokio(tokio::runtime::Runtime),
}

impl Driver {
    fn new(uring: bool) -> io::Result<Self> {
        if uring {
            match tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES)) {
                Ok(runtime) => return Ok(Driver::Uring(runtime)),
                Err(error) => {
                    tracing::info!(%error, "io_uring is refused; this pool thread does without");
                }
            }
        }
        Ok(Driver::Tokio(tokio::runtime::Builder::new_current_thread().enable_all().build()?))
    }

    fn block_on(&self, future: impl Future<Output = ()>) {
        match self {
            Driver::Uring(runtime) => runtime.block_on(future),
            Driver::Tokio(runtime) => runtime.block_on(future),
        }
    }
}

/// Until the pool closes and what is at work has ended.
async fn serve(shared: Arc<Shared>, lanes: &'static [LaneKind], closing: watch::Receiver<bool>) {
    let mut takers = JoinSet::new();
    for &kind in lanes {
        takers.spawn(take(Arc::clone(&shared), kind, closing.clone()));
    }
    // Ends with the runtime. A timer that is due before all those of its runtime makes tokio interrupt the thread's next
    // wait: a write and an empty turn for each step of an attempt that has a deadline. This one is due before them.
    tokio::spawn(async {
        loop {
            tokio::time::sleep(limits::POOL_TICK).await;
        }
    });
    while let Some(ended) = takers.join_next().await {
        log_panic(ended);
    }
}

async fn take(shared: Arc<Shared>, kind: LaneKind, mut closing: watch::Receiver<bool>) {
    let lane = shared.lane(kind);
    // Holds at most what the lane's places allow and what ended since the last job.
    let mut at_work = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown::told(&mut closing) => break,
            (queued, place) = lane.next() => {
                place.forget();
                while let Some(ended) = at_work.try_join_next() {
                    log_panic(ended);
                }
                // Made here and not in the task: a task that is never polled must answer too.
                let errand = Errand::new(Arc::clone(&shared), kind, queued);
                at_work.spawn(errand.run());
                if !lane.queue.is_empty() {
                    // The other threads of the lane get their share, and the new attempt its start. (With nothing
                    // queued the next wait is both, without the look at the sockets that a yield costs.)
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    let rest = async {
        while let Some(ended) = at_work.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(limits::POOL_SHUTDOWN_MAX, rest).await.is_err() {
        at_work.shutdown().await;
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an attempt on the pool panicked; it counts as trouble of our own");
    }
}

/// A job at work. Holds a place of its lane, and answers when it is dropped unanswered (panic, shutdown).
struct Errand {
    shared: Arc<Shared>,
    kind: LaneKind,
    job: Job,
    /// Where the timeout counts from.
    started: Instant,
    answered: bool,
}

impl Errand {
    fn new(shared: Arc<Shared>, kind: LaneKind, queued: Queued) -> Self {
        let Queued { job, queued_at } = queued;
        let now = clock::now();
        // The time in our queue is not the target's.
        let started = job.deadline_from.map_or(now, |from| from + (now - queued_at));
        shared.lane(kind).in_flight.fetch_add(1, Ordering::Relaxed);
        let reply = PoolReply::Started { attempt: job.attempt, at: now };
        shared.sink.reply(job.shard, reply);
        Self { shared, kind, job, started, answered: false }
    }

    async fn run(mut self) {
        let resume = self.job.resume.take();
        let means = Means {
            exec: self.shared.runtime.as_deref().map_or(ExecBy::Nobody, ExecBy::Runtime),
            exec_probe_timeout: self.shared.exec_probe_timeout,
        };
        let requests_made = self.job.requests_made;
        let attempted = attempt(&self.job.request, self.started, resume, requests_made, means).await;
        self.answer(attempted.outcome, PhasesUs::from(&attempted.phases));
    }

    fn answer(&mut self, outcome: Outcome, phases: PhasesUs) {
        self.answered = true;
        // The place first: who hears the answer may submit the next job at once.
        let lane: &Lane = self.shared.lane(self.kind);
        lane.in_flight.fetch_sub(1, Ordering::Relaxed);
        lane.places.add_permits(1);
        let latency = clock::now() - self.started;
        let reply = PoolReply::Done {
            attempt: self.job.attempt,
            outcome,
            latency_ns: u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX),
            phases,
        };
        self.shared.sink.reply(self.job.shard, reply);
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Outcome::Local(LocalCause::Pool), PhasesUs::default());
        }
    }
}
