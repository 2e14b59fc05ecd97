//! What a shard counts: handed to the results stage once a second as a delta.

use hdrhistogram::Histogram;
use probe_core::outcome::LocalCause;

/// The handler of an attempt, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HandlerKind {
    /// tcpSocket
    Tcp,
    /// httpGet over HTTP
    Http,
    /// httpGet over HTTPS
    Https,
    /// grpc
    Grpc,
    /// exec
    Exec,
}

impl HandlerKind {
    /// Every kind.
    pub const ALL: [HandlerKind; 5] = [
        HandlerKind::Tcp,
        HandlerKind::Http,
        HandlerKind::Https,
        HandlerKind::Grpc,
        HandlerKind::Exec,
    ];

    /// As a label value: `tcp`, `http`, `https`, `grpc`, `exec`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            HandlerKind::Tcp => "tcp",
            HandlerKind::Http => "http",
            HandlerKind::Https => "https",
            HandlerKind::Grpc => "grpc",
            HandlerKind::Exec => "exec",
        }
    }
}

/// The outcome of an attempt, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeKind {
    /// Success
    Success,
    /// Warning (counts as a success)
    Warning,
    /// Failure
    Failure,
    /// Error (discarded)
    Error,
    /// Local (discarded)
    Local,
}

impl OutcomeKind {
    /// Every kind.
    pub const ALL: [OutcomeKind; 5] = [
        OutcomeKind::Success,
        OutcomeKind::Warning,
        OutcomeKind::Failure,
        OutcomeKind::Error,
        OutcomeKind::Local,
    ];

    /// As a label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OutcomeKind::Success => "success",
            OutcomeKind::Warning => "warning",
            OutcomeKind::Failure => "failure",
            OutcomeKind::Error => "error",
            OutcomeKind::Local => "local",
        }
    }
}

/// A delta of one shard's counts. Histograms are in microseconds, 2 significant digits, up to one hour.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    /// Latency of attempts by handler and outcome; `None` until one was recorded.
    pub latency_us: [[Option<Histogram<u64>>; 5]; 5],
    /// Actual start minus due, of all attempts.
    pub lateness_us: Histogram<u64>,
    /// Duration of turns, waiting apart.
    pub turn_us: Histogram<u64>,
    /// Attempts that ended with local trouble, by cause (order of `LocalCause::ALL`).
    pub local: [u64; LocalCause::ALL.len()],
    /// Due times without an attempt.
    pub missed: u64,
    /// Attempts that had to wait for a place (ring, HTTP bound or pool), by handler.
    pub rescheduled: [u64; 5],
    /// Reports that the results queue had no place for.
    pub reports_dropped: u64,
    /// Gauge: attempts being made on the ring.
    pub in_flight: u64,
    /// Gauge: workers.
    pub workers: u64,
    /// Gauge: probes with nothing but local trouble for too long.
    pub stuck_local: u64,
}
