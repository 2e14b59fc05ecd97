//! What a shard keeps of each of its workers beside what the scheduler does.

use std::net::IpAddr;
use std::sync::Arc;

use probe_core::action::{AttemptId, Report, Start};
use probe_core::outcome::Outcome;
use probe_core::scheduler::Target;
use probe_core::spec::{Handler, ProbeSpec, Scheme};
use probe_core::time::Instant;

use super::errand::Errand;
use super::lease::{LeaseIndex, Ticket};
use super::metrics::HandlerKind;
use super::waiting::Lane;
use crate::ebpf::Why;
use crate::results::ProbeStats;

/// See the module.
pub(super) struct Slot {
    pub(super) stats: Arc<ProbeStats>,
    pub(super) handler: HandlerKind,
    pub(super) lane: Lane,
    /// Of an earlier attempt, still right as long as it has the same address.
    pub(super) errand: Option<Errand>,
    /// The attempt that was asked for last, until it ends.
    pub(super) current: Option<Current>,
    /// Somebody asked for an attempt: its report is of interest.
    pub(super) triggered: bool,
    /// It had nothing but local trouble for too long.
    pub(super) stuck: bool,
    /// tcpSocket: what its newest attempt asked, or could have.
    pub(super) lease: Option<LeaseIndex>,
    /// The next attempt is not answered passively, whatever its lease says.
    pub(super) must_connect: bool,
}

/// See [`Slot::current`].
pub(super) struct Current {
    pub(super) start: Start,
    pub(super) began: Option<Instant>,
    /// Begun here, handed to the pool.
    pub(super) redirected: bool,
    /// tcpSocket: why it connects.
    pub(super) why: Option<Why>,
    /// Since its connect.
    pub(super) ticket: Option<Ticket>,
}

impl Current {
    pub(super) fn new(start: Start) -> Self {
        Self { start, began: None, redirected: false, why: None, ticket: None }
    }
}

impl Slot {
    pub(super) fn new(stats: Arc<ProbeStats>, spec: &ProbeSpec) -> Self {
        let is_address = |host: &Option<Arc<str>>| {
            host.as_deref().is_none_or(|host| host.is_empty() || host.parse::<IpAddr>().is_ok())
        };
        let (handler, lane) = match &spec.handler {
            Handler::TcpSocket(tcp) if is_address(&tcp.host) => (HandlerKind::Tcp, Lane::Ring),
            Handler::TcpSocket(_) => (HandlerKind::Tcp, Lane::Pool(HandlerKind::Tcp)),
            Handler::HttpGet(get) => match get.scheme {
                Scheme::Https => (HandlerKind::Https, Lane::Pool(HandlerKind::Https)),
                Scheme::Http if is_address(&get.host) => (HandlerKind::Http, Lane::RingHttp),
                Scheme::Http => (HandlerKind::Http, Lane::Pool(HandlerKind::Http)),
            },
            Handler::Grpc(_) => (HandlerKind::Grpc, Lane::Pool(HandlerKind::Grpc)),
            Handler::Exec(_) => (HandlerKind::Exec, Lane::Pool(HandlerKind::Exec)),
        };
        Self {
            stats,
            handler,
            lane,
            errand: None,
            current: None,
            triggered: false,
            stuck: false,
            lease: None,
            must_connect: false,
        }
    }

    /// This attempt is the one that was asked for last, and has not ended.
    pub(super) fn is_current(&self, attempt: AttemptId) -> bool {
        self.current.as_ref().is_some_and(|current| current.start.attempt == attempt)
    }

    /// What the attempt does: the kept errand where it still leads to the pod.
    pub(super) fn errand(&mut self, target: &Target<'_>) -> Result<Errand, Outcome> {
        let own_host = match &target.spec.handler {
            Handler::TcpSocket(tcp) => tcp.host.as_deref(),
            Handler::HttpGet(get) => get.host.as_deref(),
            Handler::Grpc(_) | Handler::Exec(_) => None,
        };
        let unmoved = |errand: &Errand| {
            let leads_to = errand.addr().map(|addr| addr.ip());
            own_host.is_some_and(|host| !host.is_empty()) || (leads_to.is_some() && leads_to == target.pod_ip)
        };
        match self.errand.take().filter(unmoved) {
            Some(errand) => Ok(errand),
            None => Errand::new(&target.spec.handler, target.pod_ip),
        }
    }

    /// Counts a call of the prober that was not discarded.
    pub(super) fn record(&self, report: &Report) {
        let success = !matches!(report.outcome, Outcome::Failure(_));
        self.stats.record(success, report.duration_ns, report.at.as_nanos(), report.run, report.threshold);
    }
}
