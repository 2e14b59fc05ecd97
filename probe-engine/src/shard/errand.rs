//! What an attempt does on its connection, and what its troubles are called.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use probe_core::outcome::Outcome;
use probe_core::spec::{Handler, Scheme};

use crate::prober::{errno, http, tcp};

/// Made once per worker and address, and kept between attempts, so that nothing is built twice.
#[derive(Debug)]
pub enum Errand {
    /// Connect, and no more.
    Tcp(Box<tcp::Plan>),
    /// Connect, send the request, read the response.
    Http(Box<http::Plan>),
}

impl Errand {
    /// # Errors
    /// The outcome of an attempt that cannot even be described; also for a handler that is not made on a ring.
    pub fn new(handler: &Handler, pod_ip: Option<IpAddr>) -> Result<Self, Outcome> {
        match handler {
            Handler::TcpSocket(tcp) => match tcp::Plan::new(tcp, pod_ip) {
                Ok(plan) => Ok(Errand::Tcp(Box::new(plan))),
                Err(text) => Err(Outcome::Error(text.into())),
            },
            Handler::HttpGet(get) => http::Plan::new(get, pod_ip).map(|plan| Errand::Http(Box::new(plan))),
            Handler::Grpc(_) | Handler::Exec(_) => Err(Outcome::Error("not made on a ring".into())),
        }
    }

    /// Where it connects to; `None` where a name has to be resolved first.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Errand::Tcp(plan) => plan.addr,
            Errand::Http(plan) => plan.addr,
        }
    }

    /// The port that it connects to.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Errand::Tcp(plan) => plan.port,
            Errand::Http(plan) => plan.port,
        }
    }

    /// No TLS comes first.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        match self {
            Errand::Tcp(_) => true,
            Errand::Http(plan) => plan.scheme == Scheme::Http,
        }
    }

    /// What a failed socket(2) or connect(2) means. `used_up` as in [`errno::local_cause`].
    pub(super) fn dial_outcome(&self, call: &str, errno: i32, used_up: impl FnOnce() -> bool) -> Outcome {
        if let Some(cause) = errno::local_cause(errno, used_up) {
            return Outcome::Local(cause);
        }
        match self {
            Errand::Tcp(plan) => Outcome::Failure(tcp::dial_cause(&plan.authority(), call, errno).into()),
            Errand::Http(plan) => http::transport_error(plan, tcp::dial_cause(&plan.dial_address(), call, errno)),
        }
    }

    /// What an attempt saw that got so far by its deadline.
    pub(super) fn timed_out(&self, connected: bool, head_done: bool) -> Outcome {
        match self {
            Errand::Tcp(plan) => Outcome::Failure(tcp::timeout_cause(&plan.authority()).into()),
            Errand::Http(plan) if !connected => http::transport_error(plan, tcp::timeout_cause(&plan.dial_address())),
            Errand::Http(plan) if head_done => http::body_error(plan, http::TIMEOUT_IN_BODY),
            Errand::Http(plan) => http::transport_error(plan, http::TIMEOUT_IN_HEAD),
        }
    }

    /// What an attempt saw whose connection broke.
    pub(super) fn broken(&self, head_done: bool, cause: fmt::Arguments<'_>) -> Outcome {
        match self {
            Errand::Http(plan) if head_done => http::body_error(plan, cause),
            Errand::Http(plan) => http::transport_error(plan, cause),
            Errand::Tcp(_) => Outcome::Failure(cause.to_string().into()),
        }
    }

    /// The request, lent to the kernel until [`Errand::put_request`].
    pub(super) fn take_request(&mut self) -> Box<[u8]> {
        match self {
            Errand::Http(plan) => std::mem::take(&mut plan.request),
            Errand::Tcp(_) => Box::default(),
        }
    }

    pub(super) fn put_request(&mut self, request: Box<[u8]>) {
        if let Errand::Http(plan) = self {
            plan.request = request;
        }
    }
}
