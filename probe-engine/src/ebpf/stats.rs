//! What the watch counts, read at every scrape and by `GetInfo`. Relaxed throughout: each number stands for itself.

use std::sync::atomic::AtomicU64;

/// See the module. Counters unless said otherwise.
#[derive(Debug, Default)]
pub struct EbpfStats {
    /// Listener events taken from the ring buffer.
    pub events: AtomicU64,
    /// Listener events for which the ring buffer had no room (the program's count).
    pub events_dropped: AtomicU64,
    /// Dumps that made the listener table true again after a loss.
    pub reconciles: AtomicU64,
    /// Sweeps over the listeners that probes depend on.
    pub sweeps: AtomicU64,
    /// How long the last one took, nanoseconds (gauge).
    pub sweep_ns: AtomicU64,
    /// Self-tests that failed.
    pub self_tests_failed: AtomicU64,
    /// The last self-test passed: 1, else 0 (gauge).
    pub feed_healthy: AtomicU64,
    /// Listeners in the table (gauge).
    pub listeners: AtomicU64,
    /// Targets watched (gauge).
    pub targets: AtomicU64,
    /// Network namespaces held (gauge).
    pub namespaces: AtomicU64,
    /// Targets one of whose listeners has a full accept queue (gauge).
    pub accept_queues_full: AtomicU64,
    /// Targets one of whose listeners is not accepting (gauge).
    pub accept_queues_stalled: AtomicU64,
    /// Changes on the way to targets that were heard of (links, addresses, routes, rules, nftables).
    pub path_events: AtomicU64,
    /// Leases ended by them.
    pub path_voids: AtomicU64,
    /// Leases cut by them.
    pub path_cuts: AtomicU64,
    /// Losses on the sockets that announce them (ENOBUFS).
    pub path_losses: AtomicU64,
    /// Audits that contradicted passive answers.
    pub contradictions: AtomicU64,
    /// `run_cnt` of the program (bpf stats; 0 where they are off).
    pub program_runs: AtomicU64,
    /// `run_time_ns` of the program.
    pub program_run_ns: AtomicU64,
    /// `recursion_misses` of the program.
    pub program_misses: AtomicU64,
}
