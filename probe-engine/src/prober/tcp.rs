//! tcpSocket: where an attempt connects to, and the texts of its failures (`pkg/probe/tcp/tcp.go`).
//!
//! Success says nothing (output `""`); every trouble with the connection is a failure in the words of Go's `net`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use probe_core::outcome::Outcome;
use probe_core::spec::{Port, TcpSocket};
use probe_core::time::Instant;

use super::url::join_host_port;
use super::{Attempted, Phases, dial, errno};
use crate::clock;

/// Where one tcpSocket attempt connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `host`, else the pod's address, else empty: then the local host is dialled, as Go does.
    pub host: String,
    /// 1..=65535.
    pub port: u16,
    /// Where `host` is an address (or empty); a name has to be resolved, which the pool does.
    pub addr: Option<SocketAddr>,
}

impl Plan {
    /// The kubelet's error text (for [`Outcome::Error`]) where the port is unusable.
    pub fn new(tcp: &TcpSocket, pod_ip: Option<IpAddr>) -> Result<Self, String> {
        let port = port(tcp)?;
        let host = match (&tcp.host, pod_ip) {
            (Some(host), _) if !host.is_empty() => host.to_string(),
            (_, Some(ip)) => ip.to_string(),
            (_, None) => String::new(),
        };
        let ip = ip_of(tcp.host.as_deref(), pod_ip);
        Ok(Self { addr: ip.map(|ip| SocketAddr::new(ip, port)), host, port })
    }

    /// As Go writes it behind `dial tcp`: `10.0.0.1:80`, `[fd00::1]:80`, `:80`.
    #[must_use]
    pub fn authority(&self) -> String {
        join_host_port(&self.host, self.port)
    }
}

/// Where an attempt connects to: `host`, else the pod's address, else the local host, as Go dials an empty host. `None` for a
/// name, which has to be resolved first.
#[must_use]
pub fn ip_of(host: Option<&str>, pod_ip: Option<IpAddr>) -> Option<IpAddr> {
    match (host, pod_ip) {
        (Some(host), _) if !host.is_empty() => host.parse().ok(),
        (_, Some(ip)) => Some(ip),
        (_, None) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

/// The port, or the kubelet's error text (for [`Outcome::Error`]) where it is unusable.
pub fn port(tcp: &TcpSocket) -> Result<u16, String> {
    match &tcp.port {
        Port::Number(port) => Ok(*port),
        Port::Unusable(text) => Err(text.to_string()),
    }
}

/// `dial tcp <authority>: <call>: <words>`; `call` is `connect` or `socket`.
#[must_use]
pub fn dial_cause(authority: &str, call: &str, errno: i32) -> String {
    format!("dial tcp {authority}: {call}: {}", errno::wording(errno))
}

/// `dial tcp <authority>: i/o timeout`
#[must_use]
pub fn timeout_cause(authority: &str) -> String {
    format!("dial tcp {authority}: i/o timeout")
}

/// The outcome of an attempt that connected.
#[must_use]
pub fn success() -> Outcome {
    Outcome::Success(Box::default())
}

/// Makes one attempt on the current tokio runtime, for hosts that are names and for the command line; a shard's ring
/// makes all others.
pub async fn attempt(tcp: &TcpSocket, pod_ip: Option<IpAddr>, started: Instant, timeout: Duration) -> Attempted {
    let mut phases = Phases::default();
    let outcome = match Plan::new(tcp, pod_ip) {
        Err(text) => Outcome::Error(text.into()),
        Ok(plan) => match dial::connect_host(&plan.host, plan.port, plan.addr, started + timeout).await {
            Ok(dialed) => {
                phases.resolve = dialed.resolve;
                phases.connect = Some(dialed.connect);
                success()
            }
            Err(error) => match error.local_cause() {
                Some(cause) => Outcome::Local(cause),
                None => Outcome::Failure(error.to_string().into()),
            },
        },
    };
    phases.total = clock::now() - started;
    Attempted { outcome, phases }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn t01_a_listener_behind_a_name_is_a_success_without_output() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let tcp = TcpSocket { host: Some("localhost".into()), port: Port::Number(addr.port()) };
        let attempted = attempt(&tcp, None, clock::now(), Duration::from_secs(5)).await;
        assert_eq!(attempted.outcome, success());
        assert!(attempted.phases.resolve.is_some() && attempted.phases.connect.is_some());
        drop(listener);
        let tcp = TcpSocket { host: None, ..tcp };
        let attempted = attempt(&tcp, Some(addr.ip()), clock::now(), Duration::from_secs(5)).await;
        let refused = format!("dial tcp {addr}: connect: connection refused");
        assert_eq!(attempted.outcome, Outcome::Failure(refused.into()));
    }

    fn tcp(host: Option<&str>) -> TcpSocket {
        TcpSocket { host: host.map(Into::into), port: Port::Number(80) }
    }

    fn plan(host: Option<&str>, pod_ip: Option<&str>) -> Plan {
        Plan::new(&tcp(host), pod_ip.map(|ip| ip.parse().expect("an address"))).expect("a usable port")
    }

    #[test]
    fn the_host_field_comes_before_the_pods_address() {
        assert_eq!(plan(Some("10.0.0.2"), Some("10.0.0.1")).authority(), "10.0.0.2:80");
        assert_eq!(plan(None, Some("10.0.0.1")).authority(), "10.0.0.1:80");
        assert_eq!(plan(None, Some("fd00::1")).authority(), "[fd00::1]:80");
    }

    #[test]
    fn no_address_at_all_dials_the_local_host() {
        let plan = plan(None, None);
        assert_eq!(plan.authority(), ":80");
        assert_eq!(plan.addr, Some(SocketAddr::from(([127, 0, 0, 1], 80))));
    }

    #[test]
    fn a_name_has_no_address_yet() {
        assert_eq!(plan(Some("db.example"), None).addr, None);
    }

    #[test]
    fn p13_an_unusable_port_is_an_error_in_the_kubelets_words() {
        let text = "strconv.Atoi: parsing \"abc\": invalid syntax";
        let tcp = TcpSocket { host: None, port: Port::Unusable(text.into()) };
        assert_eq!(Plan::new(&tcp, None), Err(text.to_owned()));
    }

    #[test]
    fn causes_have_gos_shape() {
        assert_eq!(
            dial_cause("10.0.0.1:8080", "connect", libc::ECONNREFUSED),
            "dial tcp 10.0.0.1:8080: connect: connection refused"
        );
        assert_eq!(timeout_cause("[fd00::1]:80"), "dial tcp [fd00::1]:80: i/o timeout");
    }
}
