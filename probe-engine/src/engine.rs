//! The daemon: its stages wired to each other, their start against the flow and their end along it.
//!
//! Start: runtime, pool, eBPF, shards, consumers, results, manager, sources, servers. End: sources, pods (gracefully), servers,
//! manager, shards, pool, eBPF, results. **Invariant:** a stage ends only after everything that sends to it has ended.

mod ebpf;
pub mod stepping;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use probe_core::backoff;
use probe_core::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tracing::{error, info, warn};

pub use self::ebpf::EbpfError;

use self::ebpf::Ebpf;
use self::stepping::Stepping;
use crate::api::admin::health::Health;
use crate::api::admin::supervise::supervise;
use crate::api::admin::{self, Admin, AdminError};
use crate::api::dashboard::{Dashboard, Listeners};
use crate::api::server::{self, Backend, ShardFacts, SourceFacts, Tcp, TcpError};
use crate::api::socket::{Socket, SocketError};
use crate::config::{Config, DashboardListen, RuntimeChoice};
use crate::consumer;
use crate::consumer::board::Board;
use crate::consumer::events::{self, EventSender, EventsHandle};
use crate::consumer::lifecycle::{Lifecycle, LifecycleConfig, LifecycleInput, LifecycleStats};
use crate::consumer::metrics::{Facts, Metrics, PoolLane, TcpStats};
use crate::consumer::otlp::{self, Collector, OtlpError, Push};
use crate::consumer::overview::{self, Overviews};
use crate::consumer::state::StateStats;
use crate::ebpf::thread::Outputs;
use crate::manager::{self, CommandSink, RuntimeFacts};
use crate::prober::pool::{Pool, PoolConfig, PoolError, ReplySink};
use crate::results::{self, ResultsHandle, ResultsSender, UpdateQueue};
use crate::runtime::external::ExternalRuntime;
use crate::runtime::external::broker::Broker;
use crate::runtime::none::NoneRuntime;
use crate::runtime::process::{ProcessConfig, ProcessRuntime};
use crate::runtime::{ContainerRuntime, RuntimeError};
use crate::shard::inbox::{Command, PoolReply, ShardSender};
use crate::shard::kernel::{IoChoice, Waker};
use crate::shard::{self, ShardConfig, ShardThread, SpawnError};
use crate::source::PodUpdateSender;
use crate::source::api::{self, ApiSource};
use crate::source::control::Control;
use crate::source::manifest::{self, ManifestConfig, SourceStatus};
use crate::source::parse::{RuntimeKind, Strictness};
use crate::state::State;
use crate::{clock, limits, shutdown};

/// Threads of the control runtime: sources, manager, results, consumers, API.
const CONTROL_THREADS: usize = 2;

/// Descriptors that a process may open where it cannot be asked: what most are given.
const NOFILE_ASSUMED: u64 = 1_024;

/// How long a command for a full shard inbox is offered again at shutdown.
const SHUTDOWN_OFFER: Duration = Duration::from_millis(5);

/// How long calls that block in the control runtime are waited for when all else has ended.
const BLOCKED_WAIT: Duration = Duration::from_secs(1);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No threads for the control runtime.
    #[error("cannot start the control runtime: {0} (out of threads or descriptors?)")]
    Control(#[source] io::Error),
    /// No signal handlers.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// Nowhere to put the socket.
    #[error("--socket is missing: not root, and XDG_RUNTIME_DIR is not set")]
    NoSocket,
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The admin server.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The control API over TCP.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// The state directory.
    #[error("cannot make the state directory {path}: {source}; name another with --state-dir")]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Its errno.
        source: io::Error,
    },
    /// The container runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] SpawnError),
    /// The kernel program, where `--ebpf require` is set.
    #[error("--ebpf require: {0}")]
    Ebpf(#[from] EbpfError),
    /// The collector of metrics.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// An eventfd for a shard.
    #[error("cannot make a shard's eventfd: {0}")]
    Waker(#[source] io::Error),
}

/// Runs the daemon until SIGTERM, SIGINT or SIGHUP has ended it; `started` is shown it once it runs.
pub fn run(config: Config, runtime: RuntimeChoice, started: impl FnOnce(&Engine)) -> Result<(), EngineError> {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(EngineError::Control)?;
    let ended = control.block_on(async {
        let mut signals = Signals::new()?;
        let engine = Engine::start(config, runtime).await?;
        started(&engine);
        signals.wait().await;
        info!("ending: pods get their grace periods; a second signal kills them at once");
        engine.end(signals.wait()).await;
        Ok(())
    });
    // A call that blocks for ever (a manifest on a dead file system, a pipe nobody writes to) ends with the process.
    control.shutdown_timeout(BLOCKED_WAIT);
    ended
}

/// SIGTERM, SIGINT, and SIGHUP of a terminal that closes.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, EngineError> {
        let terminate = signal(SignalKind::terminate()).map_err(EngineError::Signals)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(EngineError::Signals)?;
        let hang_up = signal(SignalKind::hangup()).map_err(EngineError::Signals)?;
        Ok(Self { terminate, interrupt, hang_up })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// The pool's answers go to the shard that asked.
struct Replies(Vec<ShardSender>);

impl ReplySink for Replies {
    fn reply(&self, shard: usize, reply: PoolReply) {
        if let Some(sender) = self.0.get(shard) {
            sender.reply(reply, clock::now());
        }
    }
}

/// A running daemon, for a program that is one itself: pods come from [`Engine::updates`] too, whatever its manifests say.
pub struct Engine {
    runtime: Arc<dyn ContainerRuntime>,
    senders: Vec<ShardSender>,
    shards: Vec<ShardThread>,
    pool: Pool,
    ebpf: Ebpf,
    updates: PodUpdateSender,
    lifecycle: Option<(mpsc::Sender<LifecycleInput>, JoinHandle<()>)>,
    /// True ends the sources.
    sources_end: watch::Sender<bool>,
    sources: Vec<JoinHandle<()>>,
    /// True has the state file written once more.
    state_end: watch::Sender<bool>,
    state: Vec<JoinHandle<()>>,
    /// True ends the servers.
    servers_end: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    /// True ends the manager.
    manager_end: watch::Sender<bool>,
    /// Results, events: each ends when nothing sends to it any more.
    stages: Vec<JoinHandle<()>>,
}

/// The shards' queues, before their threads are started.
struct Entrances {
    wakers: Vec<Waker>,
    senders: Vec<ShardSender>,
    inboxes: Vec<crate::shard::inbox::Inbox>,
    queues: Vec<Arc<UpdateQueue>>,
    wake: Arc<Notify>,
}

impl Entrances {
    fn new(shards: usize) -> Result<Self, EngineError> {
        let wake = Arc::new(Notify::new());
        let wakers: Vec<Waker> =
            (0..shards).map(|_| Waker::new()).collect::<Result<_, _>>().map_err(EngineError::Waker)?;
        let (senders, inboxes) = wakers.iter().map(|waker| shard::inbox::inbox(waker.clone())).unzip();
        let queues = (0..shards).map(|_| Arc::new(UpdateQueue::new(Arc::clone(&wake)))).collect();
        Ok(Self { wakers, senders, inboxes, queues, wake })
    }
}

impl Engine {
    /// Starts everything, on the runtime that this is called on. `--manifests` may name nothing.
    ///
    /// # Errors
    /// What could not be started.
    pub async fn start(mut config: Config, choice: RuntimeChoice) -> Result<Self, EngineError> {
        let manager_start = clock::now();
        let collector = collector(&config)?;
        // All before anything is started: a second daemon must fail without touching the first one's pods.
        let socket = Socket::bind(config.socket.as_deref().ok_or(EngineError::NoSocket)?)?;
        let tcp = match &mut config.api_listen {
            Some(listen) => {
                let tcp = Tcp::bind(listen.address, &listen.files).await?;
                listen.address = tcp.address();
                Some(tcp)
            }
            None => None,
        };
        // After it: the dashboard's place may be a rule, and goes round what is taken.
        let listeners = Listeners::bind(config.metrics_listen, config.dashboard_listen).await?;
        // Port 0 was any free one: from here on it is known where they are.
        config.metrics_listen = listeners.metrics_address();
        config.dashboard_listen = listeners.dashboard_address().map_or(DashboardListen::Off, DashboardListen::At);
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|source| EngineError::StateDir { path: config.state_dir.clone(), source })?;
        let state = State::read(&config.state_dir);
        let (runtime, memory_limits, broker) = open_runtime(&config, choice)?;
        let Entrances { wakers, senders, inboxes, queues, wake } = Entrances::new(config.shards)?;
        let pool = Pool::start(pool_config(&config), Some(Arc::clone(&runtime)), Arc::new(Replies(senders.clone())))?;
        let (event_sender, events, events_inbox) = events::channel();
        let outputs = Outputs { events: event_sender.clone(), shards: senders.clone() };
        let ebpf = Ebpf::start(&config, manager_start.as_nanos(), outputs)?;
        let shards = start_shards(&config, manager_start, &pool, &ebpf, wakers.into_iter().zip(inboxes), &queues)?;

        let mut stages = Vec::new();
        stages.push(tokio::spawn(events::run(events_inbox)));
        let (updates, updates_in) = mpsc::channel(limits::POD_UPDATES_LEN_MAX);
        let lifecycle_stats = Arc::new(LifecycleStats::default());
        let lifecycle = start_lifecycle(&config, &runtime, &updates, &event_sender, &lifecycle_stats);
        let to_lifecycle = lifecycle.as_ref().map(|(sender, _)| sender.clone());
        let (results_sender, results, results_inbox) = results::channel();
        let stage = results::Config {
            manager_start,
            sources: sources_of(choice),
            queues,
            wake,
            events: event_sender,
            lifecycle: to_lifecycle.clone(),
        };
        stages.push(tokio::spawn(results::Stage::new(stage, results_inbox).run()));
        let manager = manager_config(&senders, results_sender, to_lifecycle, choice, state);
        let manager_end = watch::Sender::new(false);
        let ending = shutdown::heard(manager_end.subscribe());
        stages.push(tokio::spawn(manager::run(manager, updates_in, ending)));

        let mut engine = Self {
            runtime,
            senders,
            shards,
            pool,
            ebpf,
            updates,
            lifecycle,
            sources_end: watch::Sender::new(false),
            sources: Vec::new(),
            state_end: watch::Sender::new(false),
            state: Vec::new(),
            servers_end: watch::Sender::new(false),
            servers: Vec::new(),
            manager_end,
            stages,
        };
        let reading = manifest_config(&config, choice, memory_limits);
        let manifests = engine.read_manifests(reading.clone());
        let pods = ApiSource::new(engine.updates.clone(), results.clone(), reading, choice != RuntimeChoice::External);
        let state_stats = engine.keep_state(&config, &results);
        let server_facts = engine.server_facts(&config, manager_start, manifests.clone());
        let (stats, tcp_stats) = ((lifecycle_stats, state_stats), tcp.as_ref().map(Tcp::stats));
        let metrics_facts = engine.metrics_facts(&config, manager_start, manifests, stats, tcp_stats);
        let health = engine.health(&results);
        engine.push_metrics(collector, &results, &metrics_facts, &server_facts);
        let (overviews, board) = engine.watch_node(&results, &metrics_facts, &server_facts, &health);
        let dashboard = engine.dashboard(board, &results, &events);
        engine.serve_admin(listeners, dashboard, Metrics::new(results.clone(), metrics_facts), health.clone());
        let control = Control::new(engine.updates.clone(), results.clone());
        let (runtime, facts) = (Arc::clone(&engine.runtime), server_facts);
        let backend = Backend { results, events, control, pods, broker, runtime, facts, overviews };
        engine.serve_api((socket, tcp), health, backend);
        engine.tell_started(&config);
        Ok(engine)
    }

    /// The manager's entrance. Bound: [`limits::POD_UPDATES_LEN_MAX`]; full: the sender waits. Senders are to be gone when
    /// [`Engine::end`] is called, which waits for them.
    #[must_use]
    pub fn updates(&self) -> PodUpdateSender {
        self.updates.clone()
    }

    /// Probes that live on the shards, as of the last turn of each.
    #[must_use]
    pub fn workers_len(&self) -> usize {
        self.shards.iter().map(ShardThread::workers_len).sum()
    }

    /// For the test that has taken the clock.
    #[must_use]
    pub fn stepping(&self, stepper: clock::Stepper) -> Stepping {
        let shards = self.senders.iter().cloned().zip(self.shards.iter().map(ShardThread::pace));
        Stepping::new(stepper, shards.collect())
    }

    /// What `GetInfo` says; the sources' part is kept up to date.
    fn server_facts(
        &mut self,
        config: &Config,
        started: Instant,
        manifests: watch::Receiver<SourceStatus>,
    ) -> watch::Receiver<server::Facts> {
        let shards = self.shards.iter();
        let facts = server::Facts {
            started_at: clock::wall_of(started),
            started,
            shards: shards.map(|s| ShardFacts { io: s.kernel, fallback_reason: s.fallback.clone() }).collect(),
            sources: vec![source_facts(&config.manifests, &SourceStatus::default()), api_facts()],
            ebpf: self.ebpf.told.clone(),
            passive: self.ebpf.passive.as_ref().ok().map(|passive| Arc::clone(&passive.settings)),
            ebpf_stats: self.ebpf.facts.as_ref().map(|facts| Arc::clone(&facts.stats)),
            metrics_address: config.metrics_listen,
            dashboard_address: dashboard_address(config),
            api_address: config.api_listen.as_ref().map(|listen| listen.address),
            node_name: nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            instance: server::instance(),
        };
        let (facts_in, facts) = watch::channel(facts);
        self.servers.push(tokio::spawn(follow(manifests, config.manifests.clone(), facts_in)));
        facts
    }

    fn metrics_facts(
        &self,
        config: &Config,
        started: Instant,
        manifests: watch::Receiver<SourceStatus>,
        (lifecycle, state): (Arc<LifecycleStats>, Arc<StateStats>),
        tcp: Option<Arc<TcpStats>>,
    ) -> Facts {
        let pool = self.pool.handle();
        let lane = move |handler| PoolLane {
            queued: pool.queue_len(handler),
            in_flight: pool.in_flight(handler),
            in_flight_max: pool.in_flight_max(handler),
        };
        Facts {
            version: env!("CARGO_PKG_VERSION"),
            started_at: clock::wall_of(started),
            series: config.metrics_series,
            runtime: self.runtime.name(),
            runs_pods: self.runtime.manages_containers(),
            io: self.shards.iter().map(|shard| shard.kernel).collect(),
            heartbeats: self.heartbeats(),
            in_flight_max: flights_max(self.shards.len()),
            sources: vec![(manifest::NAME, manifests)],
            lifecycle: self.runtime.manages_containers().then_some(lifecycle),
            otlp: config.otlp_endpoint.is_some().then(Arc::default),
            state,
            tcp,
            pool: Some(Arc::new(lane)),
            ebpf: self.ebpf.facts.clone(),
        }
    }

    fn heartbeats(&self) -> Vec<Arc<AtomicU64>> {
        self.shards.iter().map(ShardThread::heartbeat_ns).collect()
    }

    fn health(&self, results: &ResultsHandle) -> Health {
        Health::new(self.heartbeats(), results.clone())
    }

    fn watch_node(
        &mut self,
        results: &ResultsHandle,
        facts: &Facts,
        server: &watch::Receiver<server::Facts>,
        health: &Health,
    ) -> (Overviews, Board) {
        let (outputs, overviews, heatmaps) = overview::channel();
        let config = overview::Config {
            results: results.clone(),
            facts: facts.clone(),
            server: server.clone(),
            health: health.clone(),
        };
        self.servers.push(tokio::spawn(overview::run(config, outputs, self.servers_end.subscribe())));
        let board = Board::new(results.clone(), overviews.clone(), heatmaps);
        self.servers.push(tokio::spawn(board.clone().run(self.servers_end.subscribe())));
        (overviews, board)
    }

    fn dashboard(&self, board: Board, results: &ResultsHandle, events: &EventsHandle) -> Dashboard {
        let passive = self.ebpf.passive.as_ref().ok().map(|passive| Arc::clone(&passive.settings));
        Dashboard::new(board, results.clone(), events.clone(), passive, self.servers_end.subscribe())
    }

    fn serve_api(&mut self, (socket, tcp): (Socket, Option<Tcp>), health: Health, backend: Backend) {
        let api = server::serve(socket, tcp, backend, health, shutdown::heard(self.servers_end.subscribe()));
        self.servers.push(tokio::spawn(told("control API", api)));
    }

    fn serve_admin(&mut self, listeners: Listeners, dashboard: Dashboard, metrics: Metrics, health: Health) {
        let admin = Admin::new(metrics, health.clone());
        for (listener, router) in listeners.served(&admin, dashboard) {
            self.servers.push(tokio::spawn(admin::serve(listener, router, self.servers_end.subscribe())));
        }
        self.servers.push(tokio::spawn(supervise(health, self.servers_end.subscribe())));
    }

    fn push_metrics(
        &mut self,
        collector: Option<Collector>,
        results: &ResultsHandle,
        facts: &Facts,
        server: &watch::Receiver<server::Facts>,
    ) {
        let Some((collector, stats)) = collector.zip(facts.otlp.clone()) else { return };
        let metrics = Metrics::new(results.clone(), facts.clone());
        let push = Push { collector, metrics, node_name: server.borrow().node_name.clone(), stats };
        self.servers.push(tokio::spawn(push.run(self.servers_end.subscribe())));
    }

    fn keep_state(&mut self, config: &Config, results: &ResultsHandle) -> Arc<StateStats> {
        let stats = Arc::new(StateStats::default());
        let settings = consumer::state::Config { directory: config.state_dir.clone(), interval: config.state_interval };
        let keeper = consumer::state::run(settings, results.clone(), Arc::clone(&stats), self.state_end.subscribe());
        self.state.push(tokio::spawn(keeper));
        stats
    }

    fn read_manifests(&mut self, manifests: ManifestConfig) -> watch::Receiver<SourceStatus> {
        let (status_in, status) = watch::channel(SourceStatus::default());
        let source = manifest::run(manifests, self.updates.clone(), status_in, self.sources_end.subscribe());
        self.sources.push(tokio::spawn(source));
        status
    }

    fn tell_started(&self, config: &Config) {
        for shard in &self.shards {
            match &shard.fallback {
                None => info!(shard = shard.index, io = shard.kernel, "shard started"),
                Some(why) => warn!(shard = shard.index, io = shard.kernel, why, "shard started without io_uring"),
            }
        }
        let socket = config.socket.as_ref().map(|path| path.display().to_string());
        info!(
            version = env!("CARGO_PKG_VERSION"),
            runtime = self.runtime.name(),
            socket = socket.as_deref(),
            metrics = config.metrics_listen.map(|address| address.to_string()),
            dashboard = dashboard_address(config).map(|address| format!("http://{address}/")),
            api = config.api_listen.as_ref().map(|listen| listen.address.to_string()),
            "started"
        );
    }

    /// Ends everything in order; `hurry` ends what is left of the grace periods.
    pub async fn end(self, hurry: impl Future<Output = ()>) {
        self.sources_end.send_replace(true);
        join("source", self.sources).await;
        // Before the pods are ended: a daemon that starts again goes on with how they were.
        self.state_end.send_replace(true);
        let mut hurry = pin!(hurry);
        let mut is_hurried = false;
        let keepers: Vec<_> = self.state.iter().map(JoinHandle::abort_handle).collect();
        let last_state = join("state", self.state);
        tokio::select! {
            kept = tokio::time::timeout(limits::STATE_END_MAX, last_state) => if kept.is_err() {
                warn!(after = ?limits::STATE_END_MAX, "the state file is not written once more: its directory hangs");
            },
            () = &mut hurry => is_hurried = true,
        }
        // One that is late must not see the pods end: the file would be without them.
        keepers.iter().for_each(AbortHandle::abort);
        if let Some((lifecycle, task)) = self.lifecycle {
            let hurry = async {
                if !is_hurried {
                    hurry.await;
                }
            };
            end_pods(lifecycle, task, hurry).await;
        }
        self.runtime.shutdown().await;
        self.servers_end.send_replace(true);
        join("server", self.servers).await;
        // Connections of the API that their clients do not close hold senders, too.
        self.manager_end.send_replace(true);
        drop(self.updates);
        let senders = self.senders;
        for sender in &senders {
            let mut command = Command::Shutdown;
            while let Err(refused) = CommandSink::send(sender, command) {
                if sender.is_closed() {
                    break;
                }
                command = refused;
                tokio::time::sleep(SHUTDOWN_OFFER).await;
            }
        }
        let (shards, pool, ebpf) = (self.shards, self.pool, self.ebpf);
        let threads = tokio::task::spawn_blocking(move || {
            for shard in shards {
                let index = shard.index;
                if !shard.join() {
                    error!(shard = index, "the shard's thread panicked");
                }
            }
            pool.shutdown();
            // The last sender of events but lifecycle and results.
            drop(ebpf);
        });
        join("thread", vec![threads]).await;
        join("stage", self.stages).await;
        info!("ended");
    }
}

fn dashboard_address(config: &Config) -> Option<std::net::SocketAddr> {
    match config.dashboard_listen {
        DashboardListen::At(address) => Some(address),
        DashboardListen::Auto | DashboardListen::Off => None,
    }
}

/// Waits for the grace periods, or for the second signal.
async fn end_pods(lifecycle: mpsc::Sender<LifecycleInput>, mut task: JoinHandle<()>, hurry: impl Future<Output = ()>) {
    // A closed channel: the lifecycle has ended already.
    let _ = lifecycle.send(LifecycleInput::Shutdown { now: false }).await;
    tokio::select! {
        ended = &mut task => return report("lifecycle", ended),
        () = hurry => info!("killing what is left"),
    }
    let _ = lifecycle.send(LifecycleInput::Shutdown { now: true }).await;
    report("lifecycle", task.await);
}

/// A runtime, whether it can limit memory, and where an embedder runs commands for it.
type OpenRuntime = (Arc<dyn ContainerRuntime>, bool, Option<Arc<Broker>>);

fn open_runtime(config: &Config, choice: RuntimeChoice) -> Result<OpenRuntime, EngineError> {
    match choice {
        RuntimeChoice::External => {
            let broker = Arc::<Broker>::default();
            Ok((Arc::new(ExternalRuntime::new(Arc::clone(&broker))), false, Some(broker)))
        }
        RuntimeChoice::None => {
            let none = NoneRuntime::new(std::net::Ipv4Addr::LOCALHOST.into());
            Ok((Arc::new(if config.host_exec { none.with_host_exec() } else { none }), false, None))
        }
        RuntimeChoice::Process => {
            let failed = |source| EngineError::StateDir { path: config.state_dir.clone(), source };
            let process = ProcessConfig::new(config.state_dir.clone()).map_err(failed)?;
            let process = ProcessRuntime::open(process)?;
            let memory_limits = process.capabilities().memory;
            Ok((Arc::new(process), memory_limits, None))
        }
    }
}

/// Where metrics are pushed to, if anywhere.
fn collector(config: &Config) -> Result<Option<Collector>, OtlpError> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
    Collector::new(endpoint, config.otlp_interval, &otlp::headers_of_environment()?).map(Some)
}

/// Sources that must be read once before the daemon is ready. What comes through the API does not come back by itself: only an
/// embedder says all of it.
fn sources_of(choice: RuntimeChoice) -> Vec<&'static str> {
    match choice {
        RuntimeChoice::External => vec![manifest::NAME, api::NAME],
        RuntimeChoice::Process | RuntimeChoice::None => vec![manifest::NAME],
    }
}

/// What pods are read for, whoever writes them.
fn manifest_config(config: &Config, choice: RuntimeChoice, memory_limits: bool) -> ManifestConfig {
    ManifestConfig {
        paths: config.manifests.clone(),
        strictness: Strictness::Run,
        runtime: match choice {
            RuntimeChoice::Process => RuntimeKind::Process,
            RuntimeChoice::None if config.host_exec => RuntimeKind::NoneWithHostExec,
            RuntimeChoice::None => RuntimeKind::None,
            RuntimeChoice::External => RuntimeKind::External,
        },
        ignore_unsupported: config.ignore_unsupported,
        memory_limits,
    }
}

fn pool_config(config: &Config) -> PoolConfig {
    PoolConfig {
        https_concurrent_max: config.https_concurrent_max,
        grpc_concurrent_max: config.grpc_concurrent_max,
        exec_concurrent_max: config.exec_concurrent_max,
        uring: config.io != IoChoice::Epoll,
        ..PoolConfig::default()
    }
}

/// Attempts in flight on each shard's ring, by what this process may open.
fn flights_max(shards: usize) -> usize {
    let nofile = getrlimit(Resource::RLIMIT_NOFILE).map_or(NOFILE_ASSUMED, |(soft, _)| soft);
    limits::flights_max(nofile, shards)
}

fn start_shards(
    config: &Config,
    manager_start: Instant,
    pool: &Pool,
    ebpf: &Ebpf,
    entrances: impl Iterator<Item = (Waker, shard::inbox::Inbox)>,
    queues: &[Arc<UpdateQueue>],
) -> Result<Vec<ShardThread>, EngineError> {
    let seed = manager_start.as_nanos();
    let mut threads = Vec::new();
    for (index, (waker, inbox)) in entrances.enumerate() {
        let shard = ShardConfig {
            io: config.io,
            close: config.close,
            passive: ebpf.passive.clone(),
            shards: config.shards,
            flights_max: flights_max(config.shards),
            ..ShardConfig::new(index, seed, manager_start)
        };
        threads.push(shard::spawn(shard, waker, inbox, Arc::clone(&queues[index]), Some(pool.handle()))?);
    }
    Ok(threads)
}

fn start_lifecycle(
    config: &Config,
    runtime: &Arc<dyn ContainerRuntime>,
    updates: &PodUpdateSender,
    events: &EventSender,
    stats: &Arc<LifecycleStats>,
) -> Option<(mpsc::Sender<LifecycleInput>, JoinHandle<()>)> {
    if !runtime.manages_containers() {
        return None;
    }
    let max = Duration::from_secs(u64::from(config.crash_loop_back_off_max_seconds));
    let settings = LifecycleConfig { backoff: backoff::Limits { max, ..backoff::Limits::default() } };
    let (sender, input) = mpsc::channel(limits::LIFECYCLE_INPUTS_LEN_MAX);
    let lifecycle = Lifecycle::new(Arc::clone(runtime), updates.clone(), events.clone(), settings, Arc::clone(stats));
    Some((sender, tokio::spawn(lifecycle.run(input))))
}

fn manager_config(
    senders: &[ShardSender],
    results: ResultsSender,
    lifecycle: Option<mpsc::Sender<LifecycleInput>>,
    choice: RuntimeChoice,
    state: State,
) -> manager::Config {
    manager::Config {
        shards: senders.iter().map(|sender| Arc::new(sender.clone()) as Arc<dyn CommandSink>).collect(),
        results,
        lifecycle,
        runtime: RuntimeFacts {
            manages_containers: choice == RuntimeChoice::Process,
            is_external: choice == RuntimeChoice::External,
            pod_ip: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        },
        state,
        sources: sources_of(choice),
    }
}

async fn join(what: &'static str, tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        report(what, task.await);
    }
}

fn report(what: &'static str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(what, %error, "a task did not end well");
    }
}

async fn told<E: std::fmt::Display>(what: &'static str, server: impl Future<Output = Result<(), E>>) {
    if let Err(error) = server.await {
        error!(what, %error, "the server ended");
    }
}

/// Keeps what `GetInfo` says of the manifests up to date, until their source has ended.
async fn follow(
    mut manifests: watch::Receiver<SourceStatus>,
    paths: Vec<PathBuf>,
    facts: watch::Sender<server::Facts>,
) {
    loop {
        let source = source_facts(&paths, &manifests.borrow_and_update());
        facts.send_modify(|facts| facts.sources = vec![source, api_facts()]);
        if manifests.changed().await.is_err() {
            return;
        }
    }
}

/// What results knows of it is filled in by whoever is asked.
fn api_facts() -> SourceFacts {
    SourceFacts { kind: api::NAME, place: String::new(), synced: true, pods_count: 0, error: None }
}

fn source_facts(paths: &[PathBuf], status: &SourceStatus) -> SourceFacts {
    let place: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut errors = status.errors.values().flatten();
    SourceFacts {
        kind: manifest::NAME,
        place: place.join(", "),
        synced: status.synced,
        pods_count: status.pods_count,
        error: errors.next().map(ToString::to_string),
    }
}
