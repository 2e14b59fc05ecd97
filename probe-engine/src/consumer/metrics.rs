//! Metrics: the kubelet's two of every probe, kube-state-metrics' three where we run the pods, and our own.
//!
//! Source: `pkg/kubelet/prober/prober_manager.go` (names, labels, help; served with their stability level by
//! component-base). Like the kubelet's, a probe's series appear with its first count and end with its worker. A node with more
//! probes or pods than `limits.rs` allows series has them per pod or per handler, and says so in a metric.

mod families;
mod hlog;
mod latency;
mod otlp;
mod passive;
mod process;
mod protobuf;
mod snapshot;
mod tcp;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use probe_core::id::ProbeType;
use probe_core::outcome::LocalCause;
use probe_core::pod::ConditionStatus;
use probe_core::time::Instant;
use tokio::sync::watch;

use self::families::Spec;
pub use self::families::reference;
pub use self::latency::{
    Counts, DetailLatency, Distribution, Histograms, Latency, PodLatency, PodLatencyError, ProbeLatency, SketchLatency,
    WindowLatency,
};
pub(crate) use self::otlp::attribute;
use self::snapshot::{EngineSnapshot, HandlerSums, PHASES, PodSnapshot, ProbesSnapshot};
pub use self::tcp::TcpStats;
use self::text::{Buckets, Labels, Text};
pub use self::text::{CONTENT_TYPE, Format};
use crate::clock;
use crate::consumer::lifecycle::LifecycleStats;
use crate::consumer::otlp::OtlpStats;
use crate::consumer::state::StateStats;
use crate::ebpf::stats::EbpfStats;
use crate::results::{ResultsError, ResultsHandle, SeriesLevel, SeriesLevels, Standing};
use crate::shard::metrics::{HandlerKind, Occupancy, OutcomeKind, Phase};
use crate::source::manifest::SourceStatus;

/// The handlers that the pool serves.
pub(crate) const POOLED: [HandlerKind; 3] = [HandlerKind::Https, HandlerKind::Grpc, HandlerKind::Exec];

/// How one handler of the pool stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolLane {
    /// Attempts waiting in its queue.
    pub queued: usize,
    /// Attempts being made.
    pub in_flight: usize,
    /// Of them at most.
    pub in_flight_max: usize,
}

/// Asks the pool.
pub type PoolView = Arc<dyn Fn(HandlerKind) -> PoolLane + Send + Sync>;

/// What a source has read, under its name.
pub type SourceView = (&'static str, watch::Receiver<SourceStatus>);

/// What does not change while the daemon runs.
#[derive(Clone)]
pub struct Facts {
    /// Of the daemon.
    pub version: &'static str,
    /// When it started.
    pub started_at: Timestamp,
    /// The finest series that are wanted.
    pub series: SeriesLevel,
    /// The runtime in use: `process`, `none`.
    pub runtime: &'static str,
    /// The pods are run by us: their states are told under kube-state-metrics' names.
    pub runs_pods: bool,
    /// By shard: `io_uring` or `epoll`.
    pub io: Vec<&'static str>,
    /// By shard: the end of its last turn, in nanoseconds of CLOCK_MONOTONIC.
    pub heartbeats: Vec<Arc<AtomicU64>>,
    /// Attempts on each shard's ring at most.
    pub in_flight_max: usize,
    /// Where pods come from.
    pub sources: Vec<SourceView>,
    /// What lifecycle counts, where it runs.
    pub lifecycle: Option<Arc<LifecycleStats>>,
    /// Of the push to a collector, where there is one.
    pub otlp: Option<Arc<OtlpStats>>,
    /// Of the state file.
    pub state: Arc<StateStats>,
    /// Of the control API over TCP, where it is served there.
    pub tcp: Option<Arc<TcpStats>>,
    /// The pool, where there is one.
    pub pool: Option<PoolView>,
    /// The kernel program and what watches it; `None` where it is not loaded.
    pub ebpf: Option<EbpfFacts>,
}

/// Of a loaded kernel program.
#[derive(Clone)]
pub struct EbpfFacts {
    /// The tracepoint that it is attached to, and how: `tp_btf`, `raw_tracepoint`.
    pub hook: &'static str,
    /// Hex digits of the object's SHA-256.
    pub sha256: Arc<str>,
    /// What the watch and the sweep count.
    pub stats: Arc<EbpfStats>,
}

/// Writes the metrics as text.
#[derive(Clone)]
pub struct Metrics {
    results: ResultsHandle,
    facts: Arc<Facts>,
    scrapes: Arc<Scrapes>,
}

/// Answers to `/metrics` so far.
#[derive(Debug, Default)]
struct Scrapes {
    count: AtomicU64,
    ns: AtomicU64,
    last_bytes: AtomicU64,
}

impl Metrics {
    /// Reads from `results` at every scrape.
    #[must_use]
    pub fn new(results: ResultsHandle, facts: Facts) -> Self {
        Self { results, facts: Arc::new(facts), scrapes: Arc::default() }
    }

    /// `/metrics/probes`: what a kubelet serves there.
    pub async fn probes(&self) -> Result<String, ResultsError> {
        self.probes_as(Format::Text).await.map(text_of)
    }

    /// `/metrics`: everything.
    pub async fn all(&self) -> Result<String, ResultsError> {
        self.all_as(Format::Text).await.map(text_of)
    }

    /// [`Metrics::probes`], as a scraper wants it.
    pub async fn probes_as(&self, format: Format) -> Result<Vec<u8>, ResultsError> {
        let probes = self.look(false).await?;
        off_the_runtime(move || {
            let mut text = Text::new(format);
            write_probes(&mut text, &probes.sorted());
            text.finish()
        })
        .await
    }

    /// [`Metrics::all`], as a scraper wants it.
    pub async fn all_as(&self, format: Format) -> Result<Vec<u8>, ResultsError> {
        let begun = clock::now();
        let probes = self.look(self.facts.runs_pods).await?;
        let engine = self.results.read(snapshot::engine).await?;
        let (facts, scrapes) = (Arc::clone(&self.facts), Arc::clone(&self.scrapes));
        off_the_runtime(move || {
            let probes = probes.sorted();
            let mut text = Text::new(format);
            if facts.runs_pods && probes.levels.has_pods() {
                write_pods(&mut text, &probes.pods);
            }
            write_node(&mut text, &engine, probes.levels, &facts);
            scrapes.write(&mut text);
            write_probes(&mut text, &probes);
            let text = text.finish();
            scrapes.made(text.len(), clock::now() - begun);
            text
        })
        .await
    }

    /// What a collector gets: everything but what there is per pod or probe, or of scrapes.
    pub async fn pushed(&self) -> Result<Vec<Metric>, ResultsError> {
        let levels = self.results.read(|node| node.series).await?.at_most(self.facts.series);
        let engine = self.results.read(snapshot::engine).await?;
        let facts = Arc::clone(&self.facts);
        off_the_runtime(move || {
            let nanos = |at: Timestamp| u64::try_from(at.as_nanosecond()).unwrap_or_default();
            let mut text = Text::Otlp(otlp::Metrics::new(nanos(facts.started_at), nanos(clock::wall())));
            write_node(&mut text, &engine, levels, &facts);
            match text {
                Text::Otlp(metrics) => metrics.finish(),
                Text::Plain(_) | Text::Protobuf(_) => unreachable!("made above"),
            }
        })
        .await
    }

    async fn look(&self, with_containers: bool) -> Result<ProbesLook, ResultsError> {
        let levels = self.results.read(|node| node.series).await?.at_most(self.facts.series);
        let pods = snapshot::pods(&self.results, levels, with_containers).await?;
        let handlers = match levels.probes() {
            SeriesLevel::Handler => self.results.read(snapshot::handlers).await?,
            SeriesLevel::Probe | SeriesLevel::Pod => Vec::new(),
        };
        Ok(ProbesLook { levels, pods, handlers })
    }
}

/// All families whose number of series does not depend on what runs here.
fn write_node(text: &mut Text, engine: &EngineSnapshot, levels: SeriesLevels, facts: &Facts) {
    if let Some(stats) = &facts.lifecycle {
        write_hooks(text, stats);
    }
    write_attempts(text, engine);
    write_latency(text, engine);
    passive::write(text, &engine.passive, facts.ebpf.as_ref());
    write_daemon(text, engine, levels, facts);
    if let Some(stats) = &facts.otlp {
        write_otlp(text, stats);
    }
    write_sources(text, &facts.sources);
    write_state(text, &facts.state);
    if let Some(stats) = &facts.tcp {
        tcp::write(text, stats);
    }
    process::write(text, facts.started_at);
}

fn text_of(text: Vec<u8>) -> String {
    String::from_utf8(text).expect("it was written from strings")
}

/// What is told of probes and pods.
struct ProbesLook {
    levels: SeriesLevels,
    pods: Vec<PodSnapshot>,
    /// Empty where the series are finer.
    handlers: Vec<HandlerSums>,
}

impl ProbesLook {
    fn sorted(mut self) -> Self {
        snapshot::sort(&mut self.pods);
        self
    }
}

/// Tens of megabytes of text on a full node: too much for a thread that serves others.
async fn off_the_runtime<T: Send + 'static>(write: impl FnOnce() -> T + Send + 'static) -> Result<T, ResultsError> {
    tokio::task::spawn_blocking(write).await.map_err(|_| ResultsError::Ended)
}

/// Of probes, pods or handlers: under the kubelet's names at every level, with fewer of its labels.
fn write_probes(text: &mut Text, probes: &ProbesLook) {
    let mut durations = text.family(&families::PROBER_PROBE_DURATION_SECONDS);
    let mut duration = |labels: &[(&str, &str)], buckets: &Buckets| {
        if buckets.count() > 0 {
            durations.histogram(&Labels::of(labels), buckets);
        }
    };
    for PodSnapshot { pod, probes, .. } in &probes.pods {
        let named = [("namespace", &*pod.namespace), ("pod", &*pod.name)];
        match probes {
            ProbesSnapshot::Each(probes) => {
                for (container, probe_type, stats) in probes {
                    let [namespace, pod] = named;
                    let labels =
                        [("container", container.as_str()), namespace, pod, ("probe_type", probe_type.as_str())];
                    duration(&labels, &snapshot::buckets(&stats.durations()));
                }
            }
            ProbesSnapshot::Sums(sums) => duration(&named, &snapshot::buckets(&sums.durations)),
            ProbesSnapshot::None => {}
        }
    }
    for HandlerSums { handler, durations, .. } in &probes.handlers {
        duration(&[("handler", handler.as_str())], durations);
    }
    let mut totals = text.family(&families::PROBER_PROBE_TOTAL);
    let mut total = |labels: &[(&str, &str)], failed: u64, successful: u64| {
        for (result, count) in [("failed", failed), ("successful", successful)] {
            if count > 0 {
                totals.value(&Labels::of(&[labels, &[("result", result)]].concat()), count);
            }
        }
    };
    for PodSnapshot { pod, probes, .. } in &probes.pods {
        let named = [("namespace", &*pod.namespace), ("pod", &*pod.name), ("pod_uid", pod.uid.as_str())];
        match probes {
            ProbesSnapshot::Each(probes) => {
                for (container, probe_type, stats) in probes {
                    let [namespace, pod, uid] = named;
                    let labels =
                        [("container", container.as_str()), namespace, pod, uid, ("probe_type", probe_type.as_str())];
                    total(&labels, stats.failed(), stats.successful());
                }
            }
            ProbesSnapshot::Sums(sums) => total(&named, sums.failed, sums.successful),
            ProbesSnapshot::None => {}
        }
    }
    for HandlerSums { handler, failed, durations } in &probes.handlers {
        total(&[("handler", handler.as_str())], *failed, durations.count());
    }
}

/// kube-state-metrics' names and labels (`docs/metrics/workload/pod-metrics.md` there).
fn write_pods(text: &mut Text, pods: &[PodSnapshot]) {
    let mut ready = text.family(&families::KUBE_POD_CONTAINER_STATUS_READY);
    for_each_container(pods, |labels, is_ready, _| ready.value(labels, u64::from(is_ready)));
    let mut restarts = text.family(&families::KUBE_POD_CONTAINER_STATUS_RESTARTS_TOTAL);
    for_each_container(pods, |labels, _, count| restarts.value(labels, u64::from(count)));
    let mut pod_ready = text.family(&families::KUBE_POD_STATUS_READY);
    let statuses =
        [("true", ConditionStatus::True), ("false", ConditionStatus::False), ("unknown", ConditionStatus::Unknown)];
    for pod in pods {
        for (condition, status) in statuses {
            let labels = Labels::of(&[
                ("condition", condition),
                ("namespace", &pod.pod.namespace),
                ("pod", &pod.pod.name),
                ("uid", pod.pod.uid.as_str()),
            ]);
            pod_ready.value(&labels, u64::from(pod.ready == status));
        }
    }
}

impl Scrapes {
    fn write(&self, text: &mut Text) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        text.family(&families::SCRAPE_BYTES).value(&Labels::none(), load(&self.last_bytes));
        text.family(&families::SCRAPE_SECONDS_TOTAL).seconds(&Labels::none(), load(&self.ns));
        text.family(&families::SCRAPES_TOTAL).value(&Labels::none(), load(&self.count));
    }

    fn made(&self, bytes: usize, took: Duration) {
        self.last_bytes.store(bytes as u64, Ordering::Relaxed);
        self.ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_otlp(text: &mut Text, stats: &OtlpStats) {
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    text.family(&families::OTLP_FAILURES_TOTAL).value(&Labels::none(), load(&stats.failures));
    text.family(&families::OTLP_PUSHES_TOTAL).value(&Labels::none(), load(&stats.pushes));
}

fn write_sources(text: &mut Text, sources: &[SourceView]) {
    let labels = |name: &str| Labels::of(&[("source", name)]);
    let mut clean_at = text.family(&families::SOURCE_LAST_SUCCESS_TIMESTAMP_SECONDS);
    for (name, status) in sources {
        let at_ns = status.borrow().clean_at.map_or(0, |at| u64::try_from(at.as_nanosecond()).unwrap_or_default());
        clean_at.seconds(&labels(name), at_ns);
    }
    let mut pods = text.family(&families::SOURCE_PODS);
    for (name, status) in sources {
        pods.value(&labels(name), status.borrow().pods_count as u64);
    }
    let mut problems = text.family(&families::SOURCE_PROBLEMS);
    for (name, status) in sources {
        problems.value(&labels(name), status.borrow().errors.len() as u64);
    }
}

fn write_state(text: &mut Text, stats: &StateStats) {
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    text.family(&families::STATE_BYTES).value(&Labels::none(), load(&stats.bytes));
    text.family(&families::STATE_CURRENT_TIMESTAMP_SECONDS).value(&Labels::none(), load(&stats.current_at_ms) / 1_000);
    text.family(&families::STATE_PODS_LEFT_OUT).value(&Labels::none(), load(&stats.pods_left_out));
    text.family(&families::STATE_WRITE_ERRORS_TOTAL).value(&Labels::none(), load(&stats.errors));
}

/// Under the kubelet's names.
fn write_hooks(text: &mut Text, stats: &LifecycleStats) {
    text.family(&families::KUBELET_LIFECYCLE_HANDLER_HTTP_FALLBACKS_TOTAL)
        .value(&Labels::none(), stats.http_fallbacks());
    text.family(&families::KUBELET_SLEEP_ACTION_TERMINATED_EARLY_TOTAL).value(&Labels::none(), stats.sleeps_cut_off());
}

fn for_each_container(pods: &[PodSnapshot], mut write: impl FnMut(&Labels, bool, u32)) {
    for pod in pods {
        for (container, ready, restarts) in &pod.containers {
            let labels = Labels::of(&[
                ("container", container.as_str()),
                ("namespace", &pod.pod.namespace),
                ("pod", &pod.pod.name),
                ("uid", pod.pod.uid.as_str()),
            ]);
            write(&labels, *ready, *restarts);
        }
    }
}

fn write_attempts(text: &mut Text, engine: &EngineSnapshot) {
    let mut durations = text.family(&families::ATTEMPT_DURATION_SECONDS);
    for (handler, by_outcome) in HandlerKind::ALL.iter().zip(&engine.latency) {
        for (outcome, buckets) in OutcomeKind::ALL.iter().zip(by_outcome) {
            if buckets.count() > 0 {
                let labels = Labels::of(&[("handler", handler.as_str()), ("outcome", outcome.as_str())]);
                durations.histogram(&labels, buckets);
            }
        }
    }
    text.family(&families::ATTEMPT_LATENESS_SECONDS).histogram(&Labels::none(), &engine.lateness);
    let mut local = text.family(&families::ATTEMPTS_LOCAL_TOTAL);
    for (cause, count) in LocalCause::ALL.iter().zip(engine.local) {
        local.value(&Labels::of(&[("cause", cause.as_str())]), count);
    }
    text.family(&families::ATTEMPTS_MISSED_TOTAL).value(&Labels::none(), engine.missed);
    let mut rescheduled = text.family(&families::ATTEMPTS_RESCHEDULED_TOTAL);
    for (handler, count) in HandlerKind::ALL.iter().zip(engine.rescheduled) {
        rescheduled.value(&Labels::of(&[("handler", handler.as_str())]), count);
    }
}

/// What there is beside the duration of attempts.
fn write_latency(text: &mut Text, engine: &EngineSnapshot) {
    let mut phases = text.family(&families::ATTEMPT_PHASE_SECONDS);
    for (handler, by_phase) in HandlerKind::ALL.iter().zip(&engine.phases) {
        for (phase, buckets) in Phase::ALL.iter().zip(by_phase).filter(|(_, buckets)| buckets.count() > 0) {
            phases.histogram(&Labels::of(&[("handler", handler.as_str()), ("phase", phase.as_str())]), buckets);
        }
    }
    text.family(&families::ATTEMPTS_DETAILED_DROPPED_TOTAL).value(&Labels::none(), engine.details_dropped);
    let mut near = text.family(&families::ATTEMPTS_NEAR_TIMEOUT_TOTAL);
    for (handler, count) in HandlerKind::ALL.iter().zip(engine.near) {
        near.value(&Labels::of(&[("handler", handler.as_str())]), count);
    }
    text.family(&families::DETAILED_PROBES).value(&Labels::none(), engine.details.probes);
    let mut refused = text.family(&families::DETAILED_PROBES_REFUSED_TOTAL);
    for (why, count) in [("failing", engine.details.waited), ("watched", engine.details.refused)] {
        refused.value(&Labels::of(&[("why", why)]), count);
    }
    let mut handshakes = text.family(&families::HANDSHAKE_SECONDS);
    for (handler, buckets) in HandlerKind::ALL.iter().zip(&engine.handshakes).filter(|(_, b)| b.count() > 0) {
        handshakes.histogram(&Labels::of(&[("handler", handler.as_str())]), buckets);
    }
}

fn write_daemon(text: &mut Text, engine: &EngineSnapshot, levels: SeriesLevels, facts: &Facts) {
    let info = Labels::of(&[("runtime", facts.runtime), ("version", facts.version)]);
    text.family(&families::BUILD_INFO).value(&info, 1);
    text.family(&families::CONTAINER_RESTARTS_TOTAL).value(&Labels::none(), engine.restarts);
    text.family(&families::EVENTS_DROPPED_TOTAL).value(&Labels::none(), engine.events_dropped);
    write_series_level(text, levels, facts.runs_pods);
    let mut pods = text.family(&families::PODS);
    for (phase, count) in PHASES.iter().zip(engine.pods) {
        pods.value(&Labels::of(&[("phase", phase.as_str())]), count);
    }
    text.family(&families::PODS_READY).value(&Labels::none(), engine.pods_ready);
    if let Some(pool) = &facts.pool {
        write_pool(text, pool);
    }
    write_standing(text, engine.held, [&families::PROBES_HELD, &families::PROBES_HELD_OLDEST_TIMESTAMP_SECONDS]);
    write_standing(text, engine.paused, [&families::PROBES_PAUSED, &families::PROBES_PAUSED_OLDEST_TIMESTAMP_SECONDS]);
    text.family(&families::PROBES_STUCK).value(&Labels::none(), engine.stuck);
    let without = if levels.probes() == SeriesLevel::Probe { 0 } else { engine.probes_len };
    text.family(&families::PROBES_WITHOUT_SERIES).value(&Labels::none(), without);
    text.family(&families::REPORTS_DROPPED_TOTAL).value(&Labels::none(), engine.reports_dropped);
    let mut asked = text.family(&families::RESTARTS_ASKED_TOTAL);
    for (probe_type, count) in ProbeType::ALL.iter().zip(engine.restarts_asked) {
        // Readiness restarts nothing.
        if *probe_type != ProbeType::Readiness {
            asked.value(&Labels::of(&[("probe_type", probe_type.as_str())]), count);
        }
    }
    write_shards(text, engine, facts);
}

/// How many, and since when the first.
fn write_standing(text: &mut Text, of: Standing, [count, oldest]: [&'static Spec; 2]) {
    text.family(count).value(&Labels::none(), of.count);
    let since = of.oldest.map_or(0, |at| u64::try_from(at.as_second()).unwrap_or_default());
    text.family(oldest).value(&Labels::none(), since);
}

fn write_series_level(text: &mut Text, levels: SeriesLevels, runs_pods: bool) {
    let mut level = text.family(&families::METRIC_SERIES_LEVEL);
    let mut line = |level_of: &str, series: &str, is_now: bool| {
        level.value(&Labels::of(&[("level", level_of), ("series", series)]), u64::from(is_now));
    };
    if runs_pods {
        line("pod", "kube_pod", levels.has_pods());
        line("none", "kube_pod", !levels.has_pods());
    }
    for of in SeriesLevel::ALL {
        line(of.as_str(), "prober_probe", levels.probes() == of);
    }
    text.family(&families::METRIC_SERIES_CAPPED).value(&Labels::none(), u64::from(levels.is_capped(runs_pods)));
}

fn write_pool(text: &mut Text, pool: &PoolView) {
    let lanes = POOLED.map(|handler| (Labels::of(&[("handler", handler.as_str())]), pool(handler)));
    let mut in_flight = text.family(&families::POOL_IN_FLIGHT);
    for (labels, lane) in &lanes {
        in_flight.value(labels, lane.in_flight as u64);
    }
    let mut in_flight_max = text.family(&families::POOL_IN_FLIGHT_MAX);
    for (labels, lane) in &lanes {
        in_flight_max.value(labels, lane.in_flight_max as u64);
    }
    let mut queued = text.family(&families::POOL_QUEUED);
    for (labels, lane) in &lanes {
        queued.value(labels, lane.queued as u64);
    }
}

fn write_shards(text: &mut Text, engine: &EngineSnapshot, facts: &Facts) {
    let indices: Vec<String> = (0..engine.shards.len()).map(|index| index.to_string()).collect();
    let mut in_flight = text.family(&families::SHARD_IN_FLIGHT);
    for (index, (_, count)) in indices.iter().zip(&engine.shards) {
        in_flight.value(&Labels::of(&[("shard", index)]), *count);
    }
    let mut in_flight_max = text.family(&families::SHARD_IN_FLIGHT_MAX);
    for index in &indices {
        in_flight_max.value(&Labels::of(&[("shard", index)]), facts.in_flight_max as u64);
    }
    let mut info = text.family(&families::SHARD_INFO);
    for (index, io) in indices.iter().zip(&facts.io) {
        info.value(&Labels::of(&[("io", io), ("shard", index)]), 1);
    }
    let each_slab = || {
        let of =
            |(index, slabs)| Occupancy::SLABS.iter().zip(slabs).map(move |(slab, occupancy)| (index, slab, occupancy));
        indices.iter().zip(&engine.slabs).flat_map(of)
    };
    let mut places = text.family(&families::SHARD_SLAB_PLACES);
    for (index, slab, occupancy) in each_slab() {
        places.value(&Labels::of(&[("shard", index), ("slab", slab)]), occupancy.places);
    }
    let mut used = text.family(&families::SHARD_SLAB_USED);
    for (index, slab, occupancy) in each_slab() {
        used.value(&Labels::of(&[("shard", index), ("slab", slab)]), occupancy.used);
    }
    let mut age = text.family(&families::SHARD_TURN_AGE_SECONDS);
    for (index, heartbeat) in facts.heartbeats.iter().enumerate() {
        let since = clock::now() - Instant::from_nanos(heartbeat.load(Ordering::Relaxed));
        let labels = Labels::of(&[("shard", &index.to_string())]);
        age.seconds(&labels, u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    }
    let mut workers = text.family(&families::SHARD_WORKERS);
    for (index, (count, _)) in indices.iter().zip(&engine.shards) {
        workers.value(&Labels::of(&[("shard", index)]), *count);
    }
    text.family(&families::TURN_DURATION_SECONDS).histogram(&Labels::none(), &engine.turn);
}

#[cfg(test)]
pub(super) mod tests;
