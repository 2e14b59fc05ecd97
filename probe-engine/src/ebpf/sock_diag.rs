//! NETLINK_SOCK_DIAG: which listeners a namespace has and how their accept queues stand; which socket has a connection.

use std::net::IpAddr;

/// A TCP socket in LISTEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagListener {
    /// `idiag_cookie`
    pub socket_cookie: u64,
    /// Local address; `0.0.0.0` and `::` are wildcards. A v4-mapped one is an [`IpAddr::V6`].
    pub addr: IpAddr,
    /// Local port.
    pub port: u16,
    /// INET_DIAG_SKV6ONLY
    pub ipv6_only: bool,
    /// `idiag_if`: index of the device it is bound to, 0 = none.
    pub device: u32,
    /// INET_DIAG_SOCKOPT: IP_TRANSPARENT is set.
    pub transparent: bool,
    /// `idiag_rqueue`: connections waiting to be accepted.
    pub queue_len: u32,
    /// `idiag_wqueue`: the backlog. Full is strictly more than this.
    pub queue_max: u32,
    /// SK_MEMINFO_DROPS: connection requests lost since it was opened.
    pub drops: u32,
}
