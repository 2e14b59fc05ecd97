//! What an attempt does on its connection, and what its troubles are called.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use probe_core::outcome::Outcome;
use probe_core::spec::{Handler, Port, ProbeSpec, Scheme, TcpSocket};

use crate::prober::{errno, http, tcp};

/// The errand of one attempt. It holds what every attempt needs; what only trouble needs (texts, redirects) is made of the
/// probe when it comes to that.
#[derive(Debug)]
pub struct Errand {
    spec: Arc<ProbeSpec>,
    pod_ip: Option<IpAddr>,
    addr: Option<SocketAddr>,
    port: u16,
    /// httpGet: what is sent. Empty for tcpSocket, and while it is lent to the kernel.
    request: Box<[u8]>,
}

/// A request that is kept between the attempts of a probe, so that it is not built twice.
#[derive(Debug)]
pub(super) struct Kept {
    pod_ip: Option<IpAddr>,
    request: Box<[u8]>,
}

impl Errand {
    /// # Errors
    /// The outcome of an attempt that cannot even be described; also for a handler that is not made on a ring.
    pub fn new(spec: &Arc<ProbeSpec>, pod_ip: Option<IpAddr>) -> Result<Self, Outcome> {
        Self::with(spec, pod_ip, None)
    }

    /// As [`Errand::new`], with the request of an earlier attempt where that is the same.
    pub(super) fn with(spec: &Arc<ProbeSpec>, pod_ip: Option<IpAddr>, kept: Option<Kept>) -> Result<Self, Outcome> {
        let (addr, port, request) = match &spec.handler {
            Handler::TcpSocket(tcp) => {
                let port = tcp::port(tcp).map_err(|text| Outcome::Error(text.into()))?;
                (tcp::ip_of(tcp.host.as_deref(), pod_ip).map(|ip| SocketAddr::new(ip, port)), port, Box::default())
            }
            Handler::HttpGet(get) => match (kept.filter(|kept| kept.pod_ip == pod_ip), &get.port) {
                (Some(kept), Port::Number(port)) => {
                    let ip = tcp::ip_of(get.host.as_deref(), pod_ip);
                    (ip.map(|ip| SocketAddr::new(ip, *port)), *port, kept.request)
                }
                _ => {
                    let plan = http::Plan::new(get, pod_ip)?;
                    (plan.addr, plan.port, plan.request)
                }
            },
            Handler::Grpc(_) | Handler::Exec(_) => return Err(Outcome::Error("not made on a ring".into())),
        };
        Ok(Self { spec: Arc::clone(spec), pod_ip, addr, port, request })
    }

    /// What the next attempt of the same probe can use of it.
    pub(super) fn keep(self) -> Option<Kept> {
        // Without an address it never gets here; without its request it is no good.
        let is_whole = !self.request.is_empty() && self.addr.is_some();
        is_whole.then_some(Kept { pod_ip: self.pod_ip, request: self.request })
    }

    /// Where it connects to; `None` where a name has to be resolved first.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// The port that it connects to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A request follows the connect.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self.spec.handler, Handler::HttpGet(_))
    }

    /// No TLS comes first.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !matches!(&self.spec.handler, Handler::HttpGet(get) if get.scheme == Scheme::Https)
    }

    /// What a failed socket(2) or connect(2) means. `used_up` as in [`errno::local_cause`].
    pub(super) fn dial_outcome(&self, call: &str, errno: i32, used_up: impl FnOnce() -> bool) -> Outcome {
        if let Some(cause) = errno::local_cause(errno, used_up) {
            return Outcome::Local(cause);
        }
        self.told(
            |plan| Outcome::Failure(tcp::dial_cause(&plan.authority(), call, errno).into()),
            |plan| http::transport_error(plan, tcp::dial_cause(&plan.dial_address(), call, errno)),
        )
    }

    /// What an attempt saw that got so far by its deadline.
    pub(super) fn timed_out(&self, connected: bool, head_done: bool) -> Outcome {
        self.told(
            |plan| Outcome::Failure(tcp::timeout_cause(&plan.authority()).into()),
            |plan| match (connected, head_done) {
                (false, _) => http::transport_error(plan, tcp::timeout_cause(&plan.dial_address())),
                (true, true) => http::body_error(plan, http::TIMEOUT_IN_BODY),
                (true, false) => http::transport_error(plan, http::TIMEOUT_IN_HEAD),
            },
        )
    }

    /// What an attempt saw whose connection broke.
    pub(super) fn broken(&self, head_done: bool, cause: fmt::Arguments<'_>) -> Outcome {
        self.told(
            |_| Outcome::Failure(cause.to_string().into()),
            |plan| if head_done { http::body_error(plan, cause) } else { http::transport_error(plan, cause) },
        )
    }

    /// The plan of an httpGet: what a response is judged by.
    ///
    /// # Errors
    /// The attempt's outcome where there is none, as of [`Errand::new`].
    pub(super) fn http_plan(&self) -> Result<http::Plan, Outcome> {
        match &self.spec.handler {
            Handler::HttpGet(get) => http::Plan::new(get, self.pod_ip),
            _ => Err(Outcome::Error("not an httpGet".into())),
        }
    }

    fn told(
        &self,
        of_tcp: impl FnOnce(&tcp::Plan) -> Outcome,
        of_http: impl FnOnce(&http::Plan) -> Outcome,
    ) -> Outcome {
        match &self.spec.handler {
            Handler::TcpSocket(tcp) => match tcp::Plan::new(tcp, self.pod_ip) {
                Ok(plan) => of_tcp(&plan),
                Err(text) => Outcome::Error(text.into()),
            },
            Handler::HttpGet(_) => self.http_plan().map_or_else(|outcome| outcome, |plan| of_http(&plan)),
            Handler::Grpc(_) | Handler::Exec(_) => Outcome::Error("not made on a ring".into()),
        }
    }

    /// The request, lent to the kernel until [`Errand::put_request`].
    pub(super) fn take_request(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.request)
    }

    pub(super) fn put_request(&mut self, request: Box<[u8]>) {
        self.request = request;
    }
}

/// Where a tcpSocket attempt of this probe would connect to; `None` where that cannot be said without a name's resolution, or
/// at all.
pub(super) fn address_of(tcp: &TcpSocket, pod_ip: Option<IpAddr>) -> Option<SocketAddr> {
    let Port::Number(port) = tcp.port else { return None };
    Some(SocketAddr::new(tcp::ip_of(tcp.host.as_deref(), pod_ip)?, port))
}

#[cfg(test)]
mod tests {
    use probe_core::spec::HttpGet;

    use super::super::tests::{spec, tcp_socket};
    use super::*;

    #[test]
    fn a_kept_request_is_used_for_the_same_address_only() {
        let get = HttpGet {
            host: None,
            port: Port::Number(8080),
            path: "/healthz".into(),
            scheme: Scheme::Http,
            headers: Box::default(),
        };
        let spec = Arc::new(spec(Handler::HttpGet(get)));
        let ip = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        let errand = Errand::new(&spec, ip("10.0.0.1")).expect("an errand");
        let request = errand.request.clone();
        let again = Errand::with(&spec, ip("10.0.0.1"), errand.keep()).expect("an errand");
        assert_eq!((&again.request, again.addr()), (&request, "10.0.0.1:8080".parse().ok()));
        let moved = Errand::with(&spec, ip("10.0.0.2"), again.keep()).expect("an errand");
        assert!(String::from_utf8_lossy(&moved.request).contains("Host: 10.0.0.2:8080\r\n"));
        assert_eq!(moved.addr(), "10.0.0.2:8080".parse().ok());
    }

    #[test]
    fn a_tcp_errand_keeps_nothing() {
        let errand = Errand::new(&Arc::new(spec(tcp_socket(80))), None).expect("an errand");
        assert_eq!(errand.addr(), "127.0.0.1:80".parse().ok());
        assert!(errand.keep().is_none());
    }
}
