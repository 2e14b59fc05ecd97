//! What a shard counts: handed to the results stage once a second as a delta.

use std::time::Duration;

use hdrhistogram::Histogram;
use probe_core::outcome::{LocalCause, Outcome};
use probe_core::spec::{Handler, Scheme};

use crate::ebpf::Why;
use crate::limits;
use crate::prober::Phases;

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

    /// Of a probe.
    #[must_use]
    pub const fn of(handler: &Handler) -> Self {
        match handler {
            Handler::TcpSocket(_) => HandlerKind::Tcp,
            Handler::HttpGet(get) => match get.scheme {
                Scheme::Http => HandlerKind::Http,
                Scheme::Https => HandlerKind::Https,
            },
            Handler::Grpc(_) => HandlerKind::Grpc,
            Handler::Exec(_) => HandlerKind::Exec,
        }
    }

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

/// A part of an attempt, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// TCP handshake.
    Connect,
    /// TLS handshake.
    Tls,
    /// From the request's first byte to the response's.
    FirstByte,
    /// From there to the end of what is read.
    Body,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 4] = [Phase::Connect, Phase::Tls, Phase::FirstByte, Phase::Body];

    /// As a label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Tls => "tls",
            Phase::FirstByte => "first_byte",
            Phase::Body => "body",
        }
    }
}

/// How long each phase of an attempt took, in microseconds, in the order of [`Phase::ALL`]; 0 = it had none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhasesUs(pub [u32; Phase::ALL.len()]);

impl From<&Phases> for PhasesUs {
    fn from(phases: &Phases) -> Self {
        let of = [phases.connect, phases.tls, phases.first_byte, phases.body];
        Self(of.map(|phase| phase.map_or(0, |phase| micros(phase) as u32)))
    }
}

/// What an audit of a passive answer found, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditResult {
    /// The connect succeeded too.
    Agreed,
    /// It failed; the watch judges whether that contradicts the lease, or the lease was about to end.
    Contradicted,
    /// Trouble of our own.
    Local,
}

impl AuditResult {
    /// Every result.
    pub const ALL: [AuditResult; 3] = [AuditResult::Agreed, AuditResult::Contradicted, AuditResult::Local];

    /// Position in [`AuditResult::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As a label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            AuditResult::Agreed => "agreed",
            AuditResult::Contradicted => "contradicted",
            AuditResult::Local => "local",
        }
    }
}

/// How tcpSocket attempts were answered, and what became of leases. Part of [`ShardMetrics`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassiveCounts {
    /// Answers from kernel state.
    pub passive: u64,
    /// Answers by a connection, by cause (order of [`Why::ALL`]). Attempts that ended with trouble of our own are none.
    pub real: [u64; Why::ALL.len()],
    /// Audits, by result (order of [`AuditResult::ALL`]).
    pub audits: [u64; AuditResult::ALL.len()],
    /// Leases granted, renewals included.
    pub granted: u64,
    /// Leases that ended, by cause (order of [`Why::ALL`]), counted when the next attempt notices. One that is renewed has
    /// ended before, by `renewed`; one whose last probe ended is not counted.
    pub ended: [u64; Why::ALL.len()],
    /// Gauge: leases that stand.
    pub held: u64,
    /// Time that leases stood, summed over all of them, in nanoseconds; sampled once a second.
    pub held_ns: u64,
    /// Of [`PassiveCounts::held_ns`], the time during which a lease was cut: it stood, but because of a change on the way
    /// only for a shorter time than it was granted. The share of the two is how much of the time leases were cut.
    pub cut_ns: u64,
}

impl Default for PassiveCounts {
    fn default() -> Self {
        Self {
            passive: 0,
            real: [0; Why::ALL.len()],
            audits: [0; AuditResult::ALL.len()],
            granted: 0,
            ended: [0; Why::ALL.len()],
            held: 0,
            held_ns: 0,
            cut_ns: 0,
        }
    }
}

impl PassiveCounts {
    /// Adds a delta; gauges are replaced.
    pub fn add(&mut self, delta: &Self) {
        self.passive += delta.passive;
        self.granted += delta.granted;
        self.held = delta.held;
        self.held_ns += delta.held_ns;
        self.cut_ns += delta.cut_ns;
        for (sums, deltas) in [(&mut self.real, &delta.real), (&mut self.ended, &delta.ended)] {
            sums.iter_mut().zip(deltas).for_each(|(sum, delta)| *sum += delta);
        }
        self.audits.iter_mut().zip(delta.audits).for_each(|(sum, delta)| *sum += delta);
    }
}

/// How full a slab is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Places in use.
    pub used: u64,
    /// Places that there is memory for.
    pub places: u64,
}

impl Occupancy {
    /// What a shard keeps in slabs, as a metric label, in the order of [`ShardMetrics::slabs`].
    pub const SLABS: [&'static str; 3] = ["attempts", "leases", "workers"];
}

/// A delta of one shard's counts. Histograms are in microseconds, 2 significant digits, up to one hour.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    /// Latency of attempts by handler and outcome; `None` until one was recorded.
    pub latency_us: [[Option<Histogram<u64>>; 5]; 5],
    /// Actual start minus due, of all attempts, by handler; `None` until one was recorded.
    pub lateness_us: [Option<Histogram<u64>>; 5],
    /// Phases of attempts that succeeded, by handler and phase; `None` until one was recorded.
    pub phase_us: [[Option<Histogram<u64>>; Phase::ALL.len()]; 5],
    /// TCP handshakes as the kernel measured them, of some attempts, by handler; `None` until one was recorded.
    pub handshake_us: [Option<Histogram<u64>>; 5],
    /// Attempts that took nearly all of their time and succeeded, by handler.
    pub near: [u64; 5],
    /// Attempts of probes that are looked at closely which the results queue had no place for.
    pub details_dropped: u64,
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
    /// Gauges: attempts that were asked for, leases, workers.
    pub slabs: [Occupancy; Occupancy::SLABS.len()],
    /// Gauge: probes with nothing but local trouble for too long.
    pub stuck_local: u64,
    /// Passive and real answers of tcpSocket probes. Passive ones are in no histogram but that of lateness.
    pub passive: PassiveCounts,
}

/// The longest time that the histograms tell apart: one hour, in microseconds. Longer counts as this.
pub(crate) const LONGEST_US: u64 = 3_600_000_000;

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
            lateness_us: Default::default(),
            phase_us: Default::default(),
            handshake_us: Default::default(),
            near: [0; 5],
            details_dropped: 0,
            turn_us: histogram(),
            local: [0; LocalCause::ALL.len()],
            missed: 0,
            rescheduled: [0; 5],
            reports_dropped: 0,
            in_flight: 0,
            workers: 0,
            slabs: Default::default(),
            stuck_local: 0,
            passive: PassiveCounts::default(),
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

    /// Counts the phases of an attempt that succeeded.
    pub fn phases(&mut self, handler: HandlerKind, phases: PhasesUs) {
        for (place, phase_us) in self.phase_us[handler.index()].iter_mut().zip(phases.0) {
            if phase_us > 0 {
                place.get_or_insert_with(histogram).saturating_record(phase_us.into());
            }
        }
    }

    /// Counts a handshake that took so long by the kernel's measure.
    pub fn handshake(&mut self, handler: HandlerKind, took: Duration) {
        record(self.handshake_us[handler.index()].get_or_insert_with(histogram), took);
    }

    /// Counts the start of one attempt, so long after its due time.
    pub fn started(&mut self, handler: HandlerKind, lateness: Duration) {
        self.started_n(handler, lateness, 1);
    }

    /// Counts the starts of `count` attempts, each so long after its due time: one record for a batch.
    pub fn started_n(&mut self, handler: HandlerKind, lateness: Duration, count: u64) {
        let histogram = self.lateness_us[handler.index()].get_or_insert_with(histogram);
        histogram.saturating_record_n(micros(lateness), count);
    }

    /// The histograms of lateness that there are.
    pub fn lateness(&self) -> impl Iterator<Item = &Histogram<u64>> {
        self.lateness_us.iter().flatten()
    }

    /// Nothing counted, in the same memory.
    pub fn clear(&mut self) {
        // Every field by its name: one that is added cannot be forgotten here, and counted twice.
        let Self {
            latency_us,
            lateness_us,
            phase_us,
            handshake_us,
            near,
            details_dropped,
            turn_us,
            local,
            missed,
            rescheduled,
            reports_dropped,
            in_flight,
            workers,
            slabs,
            stuck_local,
            passive,
        } = self;
        let kept = latency_us.iter_mut().flatten().chain(phase_us.iter_mut().flatten());
        let kept = kept.chain(lateness_us).chain(handshake_us).flatten();
        kept.chain([turn_us]).filter(|histogram| !histogram.is_empty()).for_each(Histogram::clear);
        local.fill(0);
        rescheduled.fill(0);
        near.fill(0);
        [details_dropped, missed, reports_dropped, in_flight, workers, stuck_local]
            .into_iter()
            .for_each(|count| *count = 0);
        *slabs = Default::default();
        *passive = PassiveCounts::default();
    }

    /// Counts one turn.
    pub fn turned(&mut self, duration: Duration) {
        record(&mut self.turn_us, duration);
    }
}

/// An attempt that succeeded took so much of its time that it nearly failed.
#[must_use]
pub fn is_near(latency: Duration, timeout: Duration) -> bool {
    latency * 100 >= timeout * limits::NEAR_TIMEOUT_PERCENT
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 2).expect("1 us to one hour with 2 digits are valid bounds")
}

fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(micros(duration));
}

/// In whole microseconds, 1 to one hour.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US).clamp(1, LONGEST_US)
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

    #[test]
    fn a_batch_of_starts_counts_as_its_starts_and_a_cleared_delta_as_a_new_one() {
        let mut metrics = ShardMetrics::new();
        metrics.started_n(HandlerKind::Http, Duration::from_millis(2), 3);
        metrics.started(HandlerKind::Http, Duration::from_millis(2));
        let len = |metrics: &ShardMetrics| metrics.lateness_us[HandlerKind::Http.index()].as_ref().map(Histogram::len);
        assert_eq!((len(&metrics), metrics.lateness_us[HandlerKind::Tcp.index()].is_none()), (Some(4), true));
        metrics.passive.passive = 7;
        metrics.missed = 1;
        metrics.clear();
        assert_eq!((len(&metrics), metrics.missed, metrics.passive.passive), (Some(0), 0, 0));
    }
}
