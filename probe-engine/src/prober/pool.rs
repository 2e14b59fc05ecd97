//! The worker pool: a fixed number of threads for what does not run on a shard's ring: HTTPS and redirected
//! HTTP, gRPC, exec.
//!
//! Each handler has a lane of its own: a bounded queue and a bounded number of attempts at work, so that a
//! stuck exec starves neither gRPC nor HTTPS. Exec has a thread of its own besides, because making a process
//! blocks the thread. Threads take jobs from the lanes when they have time for them.
//!
//! Invariant: a job that was taken is answered with exactly one `PoolReply::Done`, also when its attempt
//! panics, and also at shutdown.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;
use probe_core::action::AttemptId;
use probe_core::outcome::{LocalCause, Outcome};
use probe_core::spec::Handler;
use probe_core::time::Instant;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use super::exec::Execution;
use super::{Attempted, Phases, Request, exec, grpc, http, tcp, tls};
use crate::runtime::ContainerRuntime;
use crate::shard::inbox::PoolReply;
use crate::shard::metrics::{HandlerKind, PhasesUs};
use crate::{clock, limits};

mod thread;

/// One attempt for the pool.
#[derive(Clone, Debug)]
pub struct Job {
    /// The shard that gets the replies.
    pub shard: usize,
    /// Names the attempt in the replies.
    pub attempt: AttemptId,
    /// Chooses the lane: `Grpc`, `Exec`, and all others together.
    pub handler: HandlerKind,
    /// What to do.
    pub request: Request,
    /// When the attempt began, where a shard began it (a redirect): its timeout counts from then, but for the
    /// time in the pool's queue. `None`: it counts from when the pool begins.
    pub deadline_from: Option<Instant>,
    /// The redirect to follow; `None` = the probe's own URL.
    pub resume: Option<http::Target>,
    /// HTTP requests that the attempt has made already.
    pub requests_made: u8,
}

/// Where the pool's answers go. Called on the pool's threads: must neither block nor lose a reply.
pub trait ReplySink: Send + Sync + 'static {
    /// Hands a reply to a shard.
    fn reply(&self, shard: usize, reply: PoolReply);
}

/// How large the pool is, and how it works.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Threads for HTTPS and gRPC.
    pub threads: usize,
    /// Threads for exec.
    pub exec_threads: usize,
    /// Jobs waiting per lane.
    pub queue_len_max: usize,
    /// HTTPS and redirected HTTP attempts at work.
    pub https_concurrent_max: usize,
    /// gRPC attempts at work.
    pub grpc_concurrent_max: usize,
    /// Exec attempts at work.
    pub exec_concurrent_max: usize,
    /// Runs the threads on tokio-uring where the kernel lets it; `false` = plain tokio.
    pub uring: bool,
    /// The kubelet's feature gate: off makes an exec's timeout an error (discarded) instead of a failure.
    pub exec_probe_timeout: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            threads: limits::POOL_THREADS,
            exec_threads: limits::POOL_EXEC_THREADS,
            queue_len_max: limits::POOL_QUEUE_LEN_MAX,
            https_concurrent_max: limits::POOL_HTTPS_CONCURRENT_MAX,
            grpc_concurrent_max: limits::POOL_GRPC_CONCURRENT_MAX,
            exec_concurrent_max: limits::POOL_EXEC_CONCURRENT_MAX,
            uring: true,
            exec_probe_timeout: true,
        }
    }
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No thread.
    #[error("cannot start pool thread {name}: {source} (a limit on threads or processes, TasksMax?)")]
    Thread {
        /// Its name.
        name: String,
        /// From clone(2).
        source: io::Error,
    },
    /// No runtime on a thread.
    #[error("cannot make the tokio runtime of pool thread {name}: {source} (out of descriptors?)")]
    Runtime {
        /// The thread's name.
        name: String,
        /// From epoll_create, eventfd or socketpair.
        source: io::Error,
    },
    /// A size of nothing.
    #[error("pool {field} is 0; it must be 1 or more")]
    Zero {
        /// Which field of [`PoolConfig`].
        field: &'static str,
    },
}

/// The running pool. Dropping it is [`Pool::shutdown`].
pub struct Pool {
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    /// Disconnected once every thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Pool {
    /// Starts the threads. `runtime` runs exec probes; without one they end in an error. Replies go to `sink`.
    pub fn start(
        config: PoolConfig,
        runtime: Option<Arc<dyn ContainerRuntime>>,
        sink: Arc<dyn ReplySink>,
    ) -> Result<Self, PoolError> {
        let sizes = [
            ("threads", config.threads),
            ("exec_threads", config.exec_threads),
            ("queue_len_max", config.queue_len_max),
            ("https_concurrent_max", config.https_concurrent_max),
            ("grpc_concurrent_max", config.grpc_concurrent_max),
            ("exec_concurrent_max", config.exec_concurrent_max),
        ];
        if let Some((field, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(PoolError::Zero { field });
        }
        let lane = |concurrent_max| Lane::new(config.queue_len_max, concurrent_max);
        let shared = Arc::new(Shared {
            https: lane(config.https_concurrent_max),
            grpc: lane(config.grpc_concurrent_max),
            exec: lane(config.exec_concurrent_max),
            closed: AtomicBool::new(false),
            exec_probe_timeout: config.exec_probe_timeout,
            runtime,
            sink,
        });
        let (closing, watched) = watch::channel(false);
        let (alive, ended) = mpsc::channel();
        let mut pool = Self { shared, closing, threads: Vec::new(), ended };
        let network = [LaneKind::Https, LaneKind::Grpc].as_slice();
        let lanes = std::iter::repeat_n(network, config.threads)
            .chain(std::iter::repeat_n([LaneKind::Exec].as_slice(), config.exec_threads));
        for (index, lanes) in lanes.enumerate() {
            let spawned =
                thread::spawn(index, lanes, config.uring, Arc::clone(&pool.shared), watched.clone(), alive.clone());
            match spawned {
                Ok(thread) => pool.threads.push(thread),
                Err(error) => {
                    // The pool goes, and waits for the threads that run already, not for this.
                    drop(alive);
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// What shards submit through.
    #[must_use]
    pub fn handle(&self) -> PoolHandle {
        PoolHandle { shared: Arc::clone(&self.shared) }
    }

    /// Ends the pool: what waits is answered [`LocalCause::Pool`] at once, what is at work gets
    /// [`limits::POOL_SHUTDOWN_MAX`] and is then cut off and answered the same. Blocks until the threads have ended.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.shared.refuse_queued();
        // No thread listens: it has ended.
        let _ = self.closing.send(true);
        let patience = limits::POOL_SHUTDOWN_MAX * 2;
        if self.ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(?patience, "a pool thread does not end; leaving it behind (a system call that hangs?)");
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a pool thread panicked");
            }
        }
    }
}

/// A shard's way into the pool.
#[derive(Clone)]
pub struct PoolHandle {
    shared: Arc<Shared>,
}

impl PoolHandle {
    /// Queues a job; gives it back when its lane's queue is full, or the pool has ended.
    #[expect(clippy::result_large_err, reason = "the job goes back to its owner, without a box for each")]
    pub fn try_submit(&self, job: Job) -> Result<(), Job> {
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(job);
        }
        let lane = self.shared.lane(LaneKind::of(job.handler));
        let queued_at = clock::now();
        lane.queue.push(Queued { job, queued_at }).map_err(|queued| queued.job)?;
        lane.arrived.notify_one();
        fence(Ordering::SeqCst);
        if self.shared.closed.load(Ordering::SeqCst) {
            // The pool ended between the two looks and may have emptied its queues before the push.
            self.shared.refuse_queued();
        }
        Ok(())
    }

    /// Jobs waiting in this handler's lane. TCP, HTTP and HTTPS share one.
    #[must_use]
    pub fn queue_len(&self, handler: HandlerKind) -> usize {
        self.shared.lane(LaneKind::of(handler)).queue.len()
    }

    /// Attempts at work in this handler's lane.
    #[must_use]
    pub fn in_flight(&self, handler: HandlerKind) -> usize {
        let lane = self.shared.lane(LaneKind::of(handler));
        lane.in_flight.load(Ordering::Relaxed)
    }

    /// Of them at most.
    #[must_use]
    pub fn in_flight_max(&self, handler: HandlerKind) -> usize {
        self.shared.lane(LaneKind::of(handler)).concurrent_max
    }
}

/// Who runs the commands of exec probes.
#[derive(Clone, Copy)]
pub enum ExecBy<'a> {
    /// The runtime of the container.
    Runtime(&'a dyn ContainerRuntime),
    /// This host, as this user: the command line's one-shot.
    Host,
    /// Nobody.
    Nobody,
}

/// What an attempt needs beside its request.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Who runs commands.
    pub exec: ExecBy<'a>,
    /// See [`PoolConfig::exec_probe_timeout`].
    pub exec_probe_timeout: bool,
}

/// Makes one attempt on the current tokio runtime, from `started` on, which
/// is where its timeout counts from. `resume` and `requests_made` are those of [`Job`].
pub async fn attempt(
    request: &Request,
    started: Instant,
    resume: Option<http::Target>,
    requests_made: u8,
    means: Means<'_>,
) -> Attempted {
    let timeout = request.spec.timeout();
    match &request.spec.handler {
        Handler::HttpGet(_) => tls::attempt(request, started, resume, requests_made).await,
        Handler::TcpSocket(probe) => tcp::attempt(probe, request.pod_ip, started, timeout).await,
        Handler::Grpc(probe) => grpc::attempt(request.pod_ip, probe.port, &probe.service, started, timeout).await,
        Handler::Exec(probe) => {
            let outcome = execute(request, &probe.command, started, means).await;
            let total = clock::now() - started;
            Attempted { outcome, phases: Phases { total, ..Phases::default() } }
        }
    }
}

async fn execute(request: &Request, command: &[Box<str>], started: Instant, means: Means<'_>) -> Outcome {
    let timeout = request.spec.timeout();
    let left = clock::until(started + timeout);
    let execution = match (means.exec, &request.instance) {
        (ExecBy::Host, _) => exec::run(exec::host_command(command), Some(timeout)).await,
        (ExecBy::Runtime(runtime), Some(instance)) => {
            // A runtime may not keep the deadline (a background child that holds the pipes, a hung shim).
            let answer = runtime.exec_in(instance, command, Some(timeout));
            tokio::time::timeout(left + limits::EXEC_ANSWER_MARGIN, answer)
                .await
                .unwrap_or(Execution::TimedOut { after: timeout })
        }
        (ExecBy::Runtime(_), None) => {
            Execution::NotRun { why: format!("container of {} is not running", request.label).into() }
        }
        (ExecBy::Nobody, _) => {
            Execution::NotRun { why: "exec probes need a container runtime; this daemon runs with none".into() }
        }
    };
    match execution {
        Execution::TimedOut { after } if !means.exec_probe_timeout => {
            Outcome::Error(exec::timeout_text(command, after))
        }
        execution => execution.outcome(command),
    }
}

/// A job in its lane.
#[derive(Debug)]
struct Queued {
    job: Job,
    queued_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneKind {
    Https,
    Grpc,
    Exec,
}

impl LaneKind {
    const ALL: [LaneKind; 3] = [LaneKind::Https, LaneKind::Grpc, LaneKind::Exec];

    const fn of(handler: HandlerKind) -> Self {
        match handler {
            HandlerKind::Tcp | HandlerKind::Http | HandlerKind::Https => LaneKind::Https,
            HandlerKind::Grpc => LaneKind::Grpc,
            HandlerKind::Exec => LaneKind::Exec,
        }
    }
}

struct Lane {
    queue: ArrayQueue<Queued>,
    /// Rung once per push.
    arrived: Notify,
    /// One per attempt at work.
    places: Semaphore,
    /// How many places there are.
    concurrent_max: usize,
    in_flight: AtomicUsize,
}

impl Lane {
    fn new(queue_len_max: usize, concurrent_max: usize) -> Self {
        Self {
            queue: ArrayQueue::new(queue_len_max),
            arrived: Notify::new(),
            places: Semaphore::new(concurrent_max),
            concurrent_max,
            in_flight: AtomicUsize::new(0),
        }
    }

    /// The next job and a place for it. Cancel-safe: a job is taken in the last step.
    async fn next(&self) -> (Queued, SemaphorePermit<'_>) {
        let place = self.places.acquire().await.expect("the semaphore is never closed");
        loop {
            if let Some(queued) = self.queue.pop() {
                return (queued, place);
            }
            self.arrived.notified().await;
        }
    }
}

/// What threads and handles share.
struct Shared {
    https: Lane,
    grpc: Lane,
    exec: Lane,
    closed: AtomicBool,
    exec_probe_timeout: bool,
    runtime: Option<Arc<dyn ContainerRuntime>>,
    sink: Arc<dyn ReplySink>,
}

impl Shared {
    const fn lane(&self, kind: LaneKind) -> &Lane {
        match kind {
            LaneKind::Https => &self.https,
            LaneKind::Grpc => &self.grpc,
            LaneKind::Exec => &self.exec,
        }
    }

    /// Answers everything that waits; the pool is closed.
    fn refuse_queued(&self) {
        for kind in LaneKind::ALL {
            while let Some(Queued { job, .. }) = self.lane(kind).queue.pop() {
                let outcome = Outcome::Local(LocalCause::Pool);
                let reply =
                    PoolReply::Done { attempt: job.attempt, outcome, latency_ns: 0, phases: PhasesUs::default() };
                self.sink.reply(job.shard, reply);
            }
        }
    }
}

#[cfg(test)]
mod tests;
