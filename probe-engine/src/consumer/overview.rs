//! The node at a glance, twice a second: what `top` and the dashboard show.
//!
//! One task makes it; readers share the newest, so a slow one misses some and nobody waits for it. Field names in JSON are
//! stable: they are part of `/api/v1/overview`.

mod collector;
pub mod heatmap;
mod problems;

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

pub use self::collector::{Config, run};
use self::heatmap::Column;
use crate::results::latency::Recorded;

/// The newest, for any number of readers.
pub type Overviews = watch::Receiver<Arc<Overview>>;

/// The columns of the heatmap, the oldest first, for any number of readers.
pub type Heatmaps = watch::Receiver<Arc<[Arc<Column>]>>;

/// Where the newest of both go.
pub struct Outputs {
    overviews: watch::Sender<Arc<Overview>>,
    heatmaps: watch::Sender<Arc<[Arc<Column>]>>,
}

/// Before the first look there is an empty overview (`at_ms` 0) and no column.
#[must_use]
pub fn channel() -> (Outputs, Overviews, Heatmaps) {
    let (overviews, newest) = watch::channel(Arc::default());
    let (heatmaps, columns) = watch::channel(Arc::from([]));
    (Outputs { overviews, heatmaps }, newest, columns)
}

/// See the module. Counts are since the daemon started unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// When it was, in milliseconds since 1970.
    pub at_ms: i64,
    /// `spec.nodeName`
    pub node_name: String,
    /// Of the daemon.
    pub version: &'static str,
    /// `process`, `none`, `external`.
    pub runtime: &'static str,
    /// Of this run of the daemon.
    pub instance: String,
    /// Since the daemon started, in nanoseconds.
    pub uptime_ns: u64,
    /// Pods by phase: Pending, Running, Succeeded, Failed.
    pub pods_by_phase: [u64; 4],
    /// Pods whose condition Ready is True.
    pub pods_ready: u64,
    /// Probes of all pods.
    pub probes: u64,
    /// Probes whose verdict is Failure.
    pub probes_failing: u64,
    /// Probes that are paused.
    pub probes_paused: u64,
    /// Probes with nothing but local trouble for too long.
    pub probes_stuck: u64,
    /// By handler, those that have made an attempt.
    pub handlers: Vec<HandlerOverview>,
    /// Due times that got no attempt.
    pub missed: u64,
    /// Attempts discarded because of trouble of the daemon's own.
    pub local: u64,
    /// Container instances started again.
    pub restarts: u64,
    /// Attempts being made on the shards' rings.
    pub in_flight: u64,
    /// Of them at most.
    pub in_flight_max: u64,
    /// By handler of the pool.
    pub pool: Vec<PoolOverview>,
    /// Actual start minus due time, of the attempts of the last minute.
    pub lateness: Quantiles,
    /// CPU time of the daemon, in nanoseconds.
    pub cpu_ns: u64,
    /// Cores that it used in the last seconds.
    pub cpu_cores: f64,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Attempts a second in the last seconds, passive ones included.
    pub attempts_per_second: f64,
    /// Part of the attempts of the last seconds that were answered passively, 0 to 1.
    pub passive_share: f64,
    /// Attempts a second in the last seconds that ended badly.
    pub failures_per_second: f64,
    /// What is wrong with the engine itself.
    pub problems: Vec<Problem>,
}

/// One handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandlerOverview {
    /// `tcp`, `http`, `https`, `grpc`, `exec`.
    pub handler: &'static str,
    /// Attempts that ended well, passive ones not included.
    pub successful: u64,
    /// Attempts that ended badly.
    pub failed: u64,
    /// Attempts that were discarded.
    pub discarded: u64,
    /// Attempts answered from kernel state.
    pub passive: u64,
    /// Durations of the attempts of the last minute, passive ones not included.
    pub latency: Quantiles,
}

/// One handler of the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolOverview {
    /// `https`, `grpc`, `exec`.
    pub handler: &'static str,
    /// Attempts waiting.
    pub queued: u64,
    /// Attempts being made.
    pub in_flight: u64,
    /// Of them at most.
    pub in_flight_max: u64,
}

/// Of a histogram, in nanoseconds. 0 where fewer were counted than a quantile needs: 10 for p90, 100 for p99, 1,000 for p99.9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// Half.
    pub p50_ns: u64,
    /// 90 of 100.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1,000.
    pub p999_ns: u64,
    /// The largest.
    pub max_ns: u64,
}

impl From<&Recorded> for Quantiles {
    fn from(recorded: &Recorded) -> Self {
        let quantile_ns = |quantile| recorded.quantile_us(quantile).unwrap_or(0) * 1_000;
        Self {
            count: recorded.count(),
            p50_ns: quantile_ns(0.5),
            p90_ns: quantile_ns(0.9),
            p99_ns: quantile_ns(0.99),
            p999_ns: quantile_ns(0.999),
            max_ns: recorded.max_us() * 1_000,
        }
    }
}

/// Something that is wrong with the engine itself; `kind` is the name of the alert where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// One word: `PassiveFeedLost`, `FallbackEpoll` ...
    pub kind: &'static str,
    /// For people.
    pub text: String,
    /// Worth acting on at once; otherwise worth knowing.
    pub severe: bool,
}
