//! tcpSocket: where an attempt connects to, and the texts of its failures (`pkg/probe/tcp/tcp.go`).
//!
//! Success says nothing (output `""`); every trouble with the connection is a failure in the words of Go's `net`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use probe_core::outcome::Outcome;
use probe_core::spec::{Port, TcpSocket};

use super::errno;
use super::url::join_host_port;

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
        let port = match &tcp.port {
            Port::Number(port) => *port,
            Port::Unusable(text) => return Err(text.to_string()),
        };
        let host = match (&tcp.host, pod_ip) {
            (Some(host), _) if !host.is_empty() => host.to_string(),
            (_, Some(ip)) => ip.to_string(),
            (_, None) => String::new(),
        };
        let ip = if host.is_empty() { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { host.parse().ok() };
        Ok(Self { addr: ip.map(|ip| SocketAddr::new(ip, port)), host, port })
    }

    /// As Go writes it behind `dial tcp`: `10.0.0.1:80`, `[fd00::1]:80`, `:80`.
    #[must_use]
    pub fn authority(&self) -> String {
        join_host_port(&self.host, self.port)
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

#[cfg(test)]
mod tests {
    use super::*;

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
