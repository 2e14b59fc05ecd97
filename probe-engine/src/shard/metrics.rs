//! What a shard counts: handed to the results stage once a second as a delta.

use std::time::Duration;

use hdrhistogram::Histogram;
use probe_core::outcome::{LocalCause, Outcome};

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
    pub const ALL: [HandlerKind; 5] =
        [HandlerKind::Tcp, HandlerKind::Http, HandlerKind::Https, HandlerKind::Grpc, HandlerKind::Exec];

    /// Position in [`HandlerKind::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

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
    pub const ALL: [OutcomeKind; 5] =
        [OutcomeKind::Success, OutcomeKind::Warning, OutcomeKind::Failure, OutcomeKind::Error, OutcomeKind::Local];

    /// Position in [`OutcomeKind::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Of this outcome.
    #[must_use]
    pub const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Success(_) => OutcomeKind::Success,
            Outcome::Warning(_) => OutcomeKind::Warning,
            Outcome::Failure(_) => OutcomeKind::Failure,
            Outcome::Error(_) => OutcomeKind::Error,
            Outcome::Local(_) => OutcomeKind::Local,
        }
    }

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

/// The longest time that the histograms tell apart: one hour, in microseconds. Longer counts as this.
const LONGEST_US: u64 = 3_600_000_000;

impl Default for ShardMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ShardMetrics {
    /// Nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            latency_us: Default::default(),
            lateness_us: histogram(),
            turn_us: histogram(),
            local: [0; LocalCause::ALL.len()],
            missed: 0,
            rescheduled: [0; 5],
            reports_dropped: 0,
            in_flight: 0,
            workers: 0,
            stuck_local: 0,
        }
    }

    /// Counts one attempt that ended.
    pub fn attempt(&mut self, handler: HandlerKind, outcome: &Outcome, latency: Duration) {
        if let Outcome::Local(cause) = outcome {
            self.local[*cause as usize] += 1;
        }
        let place = &mut self.latency_us[handler.index()][OutcomeKind::of(outcome).index()];
        record(place.get_or_insert_with(histogram), latency);
    }

    /// Counts the start of one attempt, so long after its due time.
    pub fn started(&mut self, lateness: Duration) {
        record(&mut self.lateness_us, lateness);
    }

    /// Counts one turn.
    pub fn turned(&mut self, duration: Duration) {
        record(&mut self.turn_us, duration);
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 2).expect("1 us to one hour with 2 digits are valid bounds")
}

fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US);
    histogram.saturating_record(micros.clamp(1, LONGEST_US));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_counted_by_handler_outcome_and_cause() {
        let mut metrics = ShardMetrics::new();
        metrics.attempt(HandlerKind::Tcp, &Outcome::Local(LocalCause::Ports), Duration::from_micros(30));
        metrics.attempt(HandlerKind::Tcp, &Outcome::Success(Box::default()), Duration::from_secs(7_200));
        assert_eq!(metrics.local[LocalCause::Ports as usize], 1);
        let count = |kind: OutcomeKind| metrics.latency_us[0][kind.index()].as_ref().map(Histogram::len);
        assert_eq!(count(OutcomeKind::Local), Some(1));
        assert_eq!(count(OutcomeKind::Success), Some(1));
        assert_eq!(count(OutcomeKind::Failure), None);
    }
}
