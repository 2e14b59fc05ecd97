//! What GetInfo says and no stage knows.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use probe_core::time::Instant;

use crate::api::{convert, v1};
use crate::clock;
use crate::ebpf::PassiveSettings;
use crate::ebpf::stats::EbpfStats;

/// Profile, architecture and system of this program.
pub const BUILD: &str = if cfg!(debug_assertions) {
    concat!("debug ", env!("BUILD_TARGET"))
} else {
    concat!("release ", env!("BUILD_TARGET"))
};

/// What `GetInfo` says and no stage knows.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the daemon started.
    pub started_at: Timestamp,
    /// The same on the monotonic clock.
    pub started: Instant,
    /// By index.
    pub shards: Vec<ShardFacts>,
    /// Where pods come from.
    pub sources: Vec<SourceFacts>,
    /// What eBPF does, or why it does nothing: a sentence.
    pub ebpf: String,
    /// Where the kernel program is loaded: how it is used.
    pub passive: Option<Arc<PassiveSettings>>,
    /// What its watch counts.
    pub ebpf_stats: Option<Arc<EbpfStats>>,
    /// Where /metrics is.
    pub metrics_address: Option<SocketAddr>,
    /// Where the dashboard is.
    pub dashboard_address: Option<SocketAddr>,
    /// Where this API is over TCP.
    pub api_address: Option<SocketAddr>,
    /// `spec.nodeName`
    pub node_name: String,
    /// Of this run of the daemon: see [`instance`].
    pub instance: String,
}

/// A name that no other run of a daemon has.
#[must_use]
pub fn instance() -> String {
    // Its keys are random.
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// One shard.
#[derive(Clone, Debug)]
pub struct ShardFacts {
    /// `io_uring` or `epoll`.
    pub io: &'static str,
    /// Why it is not io_uring.
    pub fallback_reason: Option<String>,
}

/// One source.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// `manifests` or `api`.
    pub kind: &'static str,
    /// What it reads.
    pub place: String,
    /// It was read once in whole.
    pub synced: bool,
    /// Pods that it holds.
    pub pods_count: usize,
    /// Its newest error.
    pub error: Option<String>,
}

/// What they say of an answer; the rest is the results' to say.
pub(super) fn info_of(facts: Facts) -> v1::GetInfoResponse {
    let shard = |(index, shard): (usize, ShardFacts)| v1::ShardInfo {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        io: shard.io.to_owned(),
        fallback_reason: shard.fallback_reason.unwrap_or_default(),
    };
    let source = |source: SourceFacts| v1::SourceInfo {
        kind: source.kind.to_owned(),
        place: source.place,
        synced: source.synced,
        pods_count: source.pods_count as u64,
        error: source.error.unwrap_or_default(),
    };
    let uptime = clock::now() - facts.started;
    let mut ebpf = facts.ebpf;
    if let Some(stats) = facts.ebpf_stats
        && stats.feed_healthy.load(Ordering::Relaxed) == 0
    {
        ebpf.push_str("; its last self-test did not pass: no passive answers");
    }
    v1::GetInfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: BUILD.to_owned(),
        started_at: Some(convert::timestamp(facts.started_at)),
        uptime_ns: u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX),
        shards: facts.shards.into_iter().enumerate().map(shard).collect(),
        sources: facts.sources.into_iter().map(source).collect(),
        ebpf,
        ebpf_loaded: facts.passive.is_some(),
        metrics_address: facts.metrics_address.map(|a| a.to_string()).unwrap_or_default(),
        dashboard_address: facts.dashboard_address.map(|a| a.to_string()).unwrap_or_default(),
        api_address: facts.api_address.map(|a| a.to_string()).unwrap_or_default(),
        node_name: facts.node_name,
        instance: facts.instance,
        pid: std::process::id(),
        ..v1::GetInfoResponse::default()
    }
}
