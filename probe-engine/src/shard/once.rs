//! One attempt on a kernel of its own: what the command line's `probe` makes, exactly as a shard would.

use std::time::Duration;

use probe_core::action::{AttemptId, WorkerIndex};
use probe_core::outcome::{LocalCause, Outcome};

use super::errand::Errand;
use super::flight::{End, Flights, Launch, Look, Rules};
use super::kernel::{CloseMode, IoChoice, Kernel, Opened, Waker, open};
use super::local_port_range;
use crate::clock;
use crate::prober::{Attempted, Phases, Request, http};

/// Why an attempt was not made.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// No kernel.
    #[error(transparent)]
    Open(#[from] super::kernel::OpenError),
    /// No eventfd.
    #[error("eventfd: {0}; is this process out of descriptors?")]
    Waker(#[source] std::io::Error),
    /// The kernel does not do what it should.
    #[error("{kernel} flush: {source}")]
    Flush {
        /// `io_uring` or `epoll`.
        kernel: &'static str,
        /// From io_uring_enter(2) or epoll_wait(2).
        source: std::io::Error,
    },
}

/// How one attempt ended.
#[derive(Debug)]
pub enum Once {
    /// With an outcome.
    Attempted(Attempted),
    /// With a redirect to follow within the same deadline, which began when the attempt did: the pool's work.
    Redirect {
        /// Where to.
        target: http::Target,
        /// The time it took so far.
        phases: Phases,
    },
    /// Not at all: it needs name resolution, TLS, gRPC or a process, which the pool has.
    Pool,
}

/// Makes one tcpSocket or plain httpGet attempt on the calling thread.
///
/// # Errors
/// Where it could not be made at all; an attempt that failed is a value.
pub fn attempt_once(request: &Request, io: IoChoice) -> Result<Once, OnceError> {
    let errand = match Errand::new(&request.spec, request.pod_ip) {
        Ok(errand) if errand.is_plain() => errand,
        Ok(_) => return Ok(Once::Pool),
        Err(_) if !is_for_ring(request) => return Ok(Once::Pool),
        Err(outcome) => return Ok(Once::Attempted(Attempted { outcome, phases: Phases::default() })),
    };
    let Some(peer) = errand.addr() else { return Ok(Once::Pool) };
    let worker = WorkerIndex(0);
    let (attempt, timeout) = (AttemptId { worker, generation: 0 }, request.spec.timeout());
    let launch = Launch { attempt, errand, peer, timeout, witness: None };
    let waker = Waker::new().map_err(OnceError::Waker)?;
    match open(io, &waker)? {
        Opened::Ring(ring) => fly(ring, launch),
        Opened::Epoll(epoll, _) => fly(epoll, launch),
    }
}

fn fly<K: Kernel>(mut kernel: K, launch: Launch) -> Result<Once, OnceError> {
    let name = kernel.name();
    let mut flights = Flights::new(Rules { close: CloseMode::Fin, local_ports: local_port_range(), connects: None });
    let mut completions = Vec::new();
    let mut before = clock::now();
    let mut landed = None;
    flights.start(&mut kernel, launch, before);
    loop {
        landed = landed.or_else(|| flights.poll_landed());
        // Not before its socket is closed.
        if flights.is_empty() {
            break;
        }
        let again = (flights.cancelling() > 0).then_some(Duration::from_millis(1));
        let wait = again.or_else(|| flights.poll_timeout().map(clock::until));
        let flushed = kernel.flush(wait, &mut completions);
        let now = clock::now();
        let look = Look { now, before };
        flushed
            .and_then(|()| kernel.flush(None, &mut completions))
            .map_err(|source| OnceError::Flush { kernel: name, source })?;
        before = now;
        completions.drain(..).for_each(|completion| flights.complete(&mut kernel, completion, look));
        flights.judge(&mut kernel, look);
    }
    let Some(landed) = landed.or_else(|| flights.poll_landed()) else {
        let outcome = Outcome::Local(LocalCause::RingFull);
        return Ok(Once::Attempted(Attempted { outcome, phases: Phases::default() }));
    };
    Ok(match landed.end {
        End::Outcome(outcome) => Once::Attempted(Attempted { outcome, phases: landed.phases }),
        End::Redirect(target) => Once::Redirect { target, phases: landed.phases },
    })
}

fn is_for_ring(request: &Request) -> bool {
    use probe_core::spec::Handler;
    matches!(request.spec.handler, Handler::TcpSocket(_) | Handler::HttpGet(_))
}
