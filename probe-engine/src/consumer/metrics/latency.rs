//! Histograms of latency and lateness as JSON: of the node, since its start or of a window, and of the probes of one pod.
//!
//! Values are microseconds. `/api/v1/latency` without a question gives all counts since the start, so that two looks and the
//! difference of the counts tell any window.

use std::collections::BTreeMap;

use probe_core::id::ProbeKey;
use probe_core::time::Instant;
use serde::Serialize;

use super::{Metrics, hlog};
use crate::results::latency::{Detail, Recorded, Series, Window};
use crate::results::{Node, PodRecord, ResultsError, Sketch};
use crate::shard::metrics::OutcomeKind;
use crate::{clock, limits};

/// Pairs of a value and how often it was recorded, by rising value. A value stands for all that the histogram cannot tell
/// from it (2 digits), the largest of them.
pub type Counts = Vec<(u64, u64)>;

/// By handler.
type ByHandler<T> = BTreeMap<&'static str, T>;

/// By handler, and outcome or phase.
type ByPart<T> = BTreeMap<&'static str, BTreeMap<&'static str, T>>;

/// `GET /api/v1/latency`. What was never recorded is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Of all values: `us`.
    pub unit: &'static str,
    /// Sums over the shards since they started, as of their newest word, which comes once a second.
    pub since_start: Histograms<Counts>,
}

/// `GET /api/v1/latency?window=1m`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowLatency {
    /// Of all values: `us`.
    pub unit: &'static str,
    /// `1m`, `5m`, `1h`, `24h` or `start`. A window begins at most a twelfth of its length late.
    pub window: &'static str,
    /// What was recorded in it.
    #[serde(flatten)]
    pub histograms: Histograms<Distribution>,
}

/// What a node records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Histograms<T> {
    /// Actual start of attempts minus their due time, by handler. Passive answers are in it.
    pub lateness: ByHandler<T>,
    /// Duration of real attempts, by handler and outcome.
    pub latency: ByPart<T>,
    /// Duration of the shards' turns, waiting apart.
    pub turn: T,
    /// Of attempts that succeeded, by handler and phase: `connect`, `tls`, `first_byte`, `body`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub phase: ByPart<T>,
    /// TCP handshakes as the kernel measured them, of some attempts, by handler.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub handshake: ByHandler<T>,
}

/// One histogram. A quantile is null where fewer were counted than it needs: 10 for p90, 100 for p99, 10,000 for p99.99.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Half.
    pub p50: Option<u64>,
    /// 90 of 100.
    pub p90: Option<u64>,
    /// 99 of 100.
    pub p99: Option<u64>,
    /// 999 of 1,000.
    pub p999: Option<u64>,
    /// 9,999 of 10,000.
    pub p9999: Option<u64>,
    /// The largest.
    pub max: u64,
    /// All of it.
    pub counts: Counts,
}

/// `GET /api/v1/latency?pod=NAMESPACE/NAME`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLatency {
    /// Of all values: `us`.
    pub unit: &'static str,
    /// As of [`WindowLatency`]; of a probe it begins at most a sixth of its length late.
    pub window: &'static str,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub pod: String,
    /// `metadata.uid`
    pub pod_uid: String,
    /// Why there are no histograms of its probes; null = there are, from the first look on.
    pub refused: Option<String>,
    /// In the order of the containers, by type.
    pub probes: Vec<ProbeLatency>,
}

/// One probe of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeLatency {
    /// Its container.
    pub container: String,
    /// `Startup`, `Readiness`, `Liveness`
    #[serde(rename = "type")]
    pub probe_type: &'static str,
    /// Of one attempt.
    pub timeout: u64,
    /// Attempts that took 80 % of that or more, and succeeded.
    pub near_misses: u64,
    /// Since its worker was made, of the successful attempts that were not answered passively.
    pub sketch: SketchLatency,
    /// Each attempt since it is watched or failing; null = it is not.
    pub detail: Option<DetailLatency>,
}

/// Few numbers, which every probe has. Quantiles are upper bounds: at most 2.5 times too high, or 128 us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SketchLatency {
    /// How many.
    pub count: u64,
    /// Of all.
    pub sum: u64,
    /// Half.
    pub p50: Option<u64>,
    /// 99 of 100.
    pub p99: Option<u64>,
    /// The longest.
    pub max: u64,
}

/// What is kept of a probe that is watched or failing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DetailLatency {
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// Duration of real attempts, by outcome.
    pub latency: ByHandler<Distribution>,
    /// Actual start of real attempts minus their due time.
    pub lateness: Option<Distribution>,
}

/// Why there is no answer about a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodLatencyError {
    /// There is no such pod.
    #[error("pods {name:?} not found in namespace {namespace:?}")]
    Unknown {
        /// As asked for.
        namespace: String,
        /// As asked for.
        name: String,
    },
    /// The stage has ended.
    #[error(transparent)]
    Results(#[from] ResultsError),
}

impl From<&Recorded> for Distribution {
    fn from(recorded: &Recorded) -> Self {
        let [p50, p90, p99, p999, p9999] = [0.5, 0.9, 0.99, 0.999, 0.9999].map(|q| recorded.quantile_us(q));
        let (count, max) = (recorded.count(), recorded.max_us());
        Self { count, p50, p90, p99, p999, p9999, max, counts: recorded.pairs().collect() }
    }
}

impl<T: Default> Histograms<T> {
    fn of(all: &[(Series, Recorded)], make: impl Fn(&Recorded) -> T) -> Self {
        let mut histograms = Self::default();
        for (series, recorded) in all {
            let made = make(recorded);
            match *series {
                Series::Latency(handler, outcome) => {
                    histograms.latency.entry(handler.as_str()).or_default().insert(outcome.as_str(), made);
                }
                Series::Phase(handler, phase) => {
                    histograms.phase.entry(handler.as_str()).or_default().insert(phase.as_str(), made);
                }
                Series::Lateness(handler) => drop(histograms.lateness.insert(handler.as_str(), made)),
                Series::Handshake(handler) => drop(histograms.handshake.insert(handler.as_str(), made)),
                Series::Turn => histograms.turn = made,
            }
        }
        histograms
    }
}

impl Metrics {
    /// `/api/v1/latency`
    pub async fn latency(&self) -> Result<Latency, ResultsError> {
        let all = self.recorded(Window::Start).await?;
        Ok(Latency { unit: "us", since_start: Histograms::of(&all, |recorded| recorded.pairs().collect()) })
    }

    /// `/api/v1/latency?window=`
    pub async fn window_latency(&self, window: Window) -> Result<WindowLatency, ResultsError> {
        let all = self.recorded(window).await?;
        let histograms = Histograms::of(&all, |recorded| Distribution::from(recorded));
        Ok(WindowLatency { unit: "us", window: window.as_str(), histograms })
    }

    /// `/api/v1/latency.hlog`: the same in the log format of HdrHistogram.
    pub async fn latency_log(&self, window: Window) -> Result<Vec<u8>, ResultsError> {
        let look = move |node: &Node| {
            let now = clock::now();
            let begin = node.latency.begin(window, now);
            (node.latency.all(window, now).collect::<Vec<_>>(), clock::wall_of(begin), now - begin)
        };
        let (all, begin, length) = self.results.read(look).await?;
        super::off_the_runtime(move || hlog::write(&all, window, begin, length)).await
    }

    /// `/api/v1/latency?pod=`. Who looks at a pod watches it: each attempt of its probes is recorded from now on, until
    /// [`limits::DETAILED_AFTER_LOOK`] after the last look.
    pub async fn pod_latency(
        &self,
        namespace: &str,
        name: &str,
        window: Window,
    ) -> Result<PodLatency, PodLatencyError> {
        let asked = (namespace.to_owned(), name.to_owned());
        let find = move |node: &Node| node.pod_by_name(&asked.0, &asked.1).map(|record| record.pod.uid.clone());
        let unknown = || PodLatencyError::Unknown { namespace: namespace.to_owned(), name: name.to_owned() };
        let uid = self.results.read(find).await?.ok_or_else(unknown)?;
        let until = clock::now() + limits::DETAILED_AFTER_LOOK;
        let watched = self.results.watch_latency([uid.clone()].into(), until).await?;
        let refused = watched.err().map(|error| error.to_string());
        let look = move |node: &Node| {
            let record = node.pods.get(&uid)?;
            Some(PodLatency {
                unit: "us",
                window: window.as_str(),
                namespace: record.pod.namespace.to_string(),
                pod: record.pod.name.to_string(),
                pod_uid: uid.to_string(),
                refused,
                probes: probes(node, record, window, clock::now()),
            })
        };
        self.results.read(look).await?.ok_or_else(unknown)
    }

    async fn recorded(&self, window: Window) -> Result<Vec<(Series, Recorded)>, ResultsError> {
        self.results.read(move |node| node.latency.all(window, clock::now()).collect()).await
    }
}

fn probes(node: &Node, record: &PodRecord, window: Window, now: Instant) -> Vec<ProbeLatency> {
    let of = record.containers().flat_map(|(spec, container)| {
        container.probes.iter().map(move |probe| {
            let (container, probe_type) = (spec.name.clone(), probe.probe_type);
            let timeout = spec.probes.by_type(probe_type).map_or(0, |spec| spec.timeout().as_micros() as u64);
            let key = ProbeKey { pod: record.pod.uid.clone(), container, probe_type };
            ProbeLatency {
                container: spec.name.to_string(),
                probe_type: probe_type.as_str(),
                timeout,
                near_misses: probe.stats.near_misses(),
                sketch: (&probe.stats.sketch()).into(),
                detail: node.latency.details.get(&key).map(|detail| detail_latency(detail, window, now)),
            }
        })
    });
    of.collect()
}

impl From<&Sketch> for SketchLatency {
    fn from(sketch: &Sketch) -> Self {
        let [p50, p99] = [0.5, 0.99].map(|q| sketch.quantile_ns(q).map(|ns| ns / 1_000));
        Self { count: sketch.count, sum: sketch.sum_ns / 1_000, p50, p99, max: sketch.max_ns / 1_000 }
    }
}

fn detail_latency(detail: &Detail, window: Window, now: Instant) -> DetailLatency {
    let each = OutcomeKind::ALL.into_iter().map(|outcome| (outcome.as_str(), detail.latency(outcome, window, now)));
    let recorded = each.filter(|(_, recorded)| !recorded.is_empty());
    let lateness = detail.lateness(window, now);
    DetailLatency {
        since_ms: clock::wall_of(detail.since()).as_millisecond(),
        latency: recorded.map(|(outcome, recorded)| (outcome, Distribution::from(&recorded))).collect(),
        lateness: (!lateness.is_empty()).then(|| Distribution::from(&lateness)),
    }
}
