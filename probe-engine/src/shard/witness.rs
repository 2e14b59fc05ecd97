//! Who took a connect of ours: asked of the kernel while our end of the connection is still open.
//!
//! First what the kernel program noted when a listener made the child (`Connect`, mapped memory: no call); where that
//! is missing, or about somebody else's connect, one exact query of sock_diag in the target's namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use probe_core::time::Instant;
use probe_ebpf::{Connect, FAMILY_V4};

use crate::ebpf::target::Found;
use crate::ebpf::{Target, Why};

/// `Ok`: a listener of the target, at its own port and in its own namespace. `local` and `peer` are the ends of the
/// connection as our socket has them.
///
/// # Errors
/// Who took it instead, or that the kernel did not show it.
pub(super) fn taken(target: &Target, seen: Option<&Connect>, local: SocketAddr, peer: SocketAddr) -> Result<(), Why> {
    let group = target.group().ok_or(Why::NotShown)?;
    let place = group.place().ok_or(Why::NotShown)?;
    match seen.filter(|connect| is_ours(connect, local)) {
        Some(child) if child.child_netns_cookie != place.netns_cookie => Err(Why::TakenElsewhere),
        Some(child) if child.child_port != target.addr().port() => Err(Why::TakenBy(child.child_port)),
        Some(_) => Ok(()),
        None => match place.lookup.child(peer, local) {
            Found::Child => Ok(()),
            Found::Other | Found::Unknown => Err(Why::NotShown),
        },
    }
}

/// The child was seen, and it is that of the connection whose local end is `local`: the program finds children by our
/// port alone, which a connect from another address may have too.
fn is_ours(connect: &Connect, local: SocketAddr) -> bool {
    connect.child_ns != 0
        && connect.child_ns >= connect.started_ns
        && connect.local_port == local.port()
        && remote(connect) == local.ip().to_canonical()
}

/// The child of an IPv4 connect to a dual-stack listener is an IPv6 socket with mapped addresses.
fn remote(connect: &Connect) -> IpAddr {
    if connect.child_family == FAMILY_V4 {
        let [a, b, c, d, ..] = connect.child_remote;
        return IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    }
    IpAddr::V6(Ipv6Addr::from(connect.child_remote)).to_canonical()
}

/// A handshake by the kernel's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    /// SYN_SENT -> ESTABLISHED
    pub(super) established: Instant,
    /// Since CLOSE -> SYN_SENT, retransmissions included.
    pub(super) took: Duration,
}

impl Handshake {
    /// `None` where one of the two events is missing.
    pub(super) fn of(connect: &Connect) -> Option<Self> {
        let seen = connect.started_ns != 0 && connect.established_ns >= connect.started_ns;
        seen.then(|| Self {
            established: Instant::from_nanos(connect.established_ns),
            took: Duration::from_nanos(connect.established_ns - connect.started_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use probe_ebpf::FAMILY_V6;

    use super::*;
    use crate::ebpf::target::{ChildLookup, Group, Place};
    use crate::shard::lease::tests::target_at;

    #[derive(Debug)]
    struct Says(Found);

    impl ChildLookup for Says {
        fn child(&self, _: SocketAddr, _: SocketAddr) -> Found {
            self.0
        }
    }

    const OURS: ([u8; 4], u16) = ([10, 0, 0, 1], 40_000);

    fn child() -> Connect {
        let mut child_remote = [0; 16];
        child_remote[..4].copy_from_slice(&OURS.0);
        Connect {
            socket_cookie: 7,
            started_ns: 10,
            established_ns: 20,
            child_ns: 21,
            child_netns_cookie: 4_026,
            child_remote,
            child_port: 80,
            child_family: FAMILY_V4,
            local_port: OURS.1,
            padding: 0,
        }
    }

    fn ask(seen: Option<Connect>, found: Found) -> Result<(), Why> {
        let addr = SocketAddr::from(([10, 0, 0, 2], 80));
        let target = target_at(addr);
        let place = Place { netns_cookie: 4_026, slot: 0, lookup: Arc::new(Says(found)) };
        target.join(&Arc::new(Group::new(place)), Why::First);
        taken(&target, seen.as_ref(), SocketAddr::from(OURS), addr)
    }

    #[test]
    fn the_childs_event_says_who_took_the_connect() {
        let mapped = Connect {
            child_family: FAMILY_V6,
            child_remote: Ipv4Addr::from(OURS.0).to_ipv6_mapped().octets(),
            ..child()
        };
        for (seen, expected) in [
            (child(), Ok(())),
            (mapped, Ok(())),
            (Connect { child_port: 15_006, ..child() }, Err(Why::TakenBy(15_006))),
            (Connect { child_netns_cookie: 1, ..child() }, Err(Why::TakenElsewhere)),
            (Connect { child_netns_cookie: 1, child_port: 1, ..child() }, Err(Why::TakenElsewhere)),
        ] {
            assert_eq!(ask(Some(seen), Found::Unknown), expected, "{seen:?}");
        }
    }

    #[test]
    fn without_the_childs_event_one_exact_query_decides() {
        let strangers = Connect { child_remote: [9; 16], child_port: 15_006, ..child() };
        let other_port = Connect { local_port: 1, child_port: 15_006, ..child() };
        let of_an_earlier_connect = Connect { child_ns: 5, ..child() };
        let unborn = Connect { child_ns: 0, ..child() };
        for seen in [None, Some(strangers), Some(other_port), Some(of_an_earlier_connect), Some(unborn)] {
            assert_eq!(ask(seen, Found::Child), Ok(()), "{seen:?}");
            assert_eq!(ask(seen, Found::Other), Err(Why::NotShown), "{seen:?}");
            assert_eq!(ask(seen, Found::Unknown), Err(Why::NotShown), "{seen:?}");
        }
    }

    #[test]
    fn a_handshake_takes_what_the_kernel_says() {
        let expected = Handshake { established: Instant::from_nanos(20), took: Duration::from_nanos(10) };
        assert_eq!(Handshake::of(&child()), Some(expected));
        for connect in [
            Connect { established_ns: 0, ..child() },
            Connect { started_ns: 0, ..child() },
            Connect { started_ns: 30, ..child() },
        ] {
            assert_eq!(Handshake::of(&connect), None);
        }
    }
}
