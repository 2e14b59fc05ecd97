//! The sockets on which a namespace announces changes of its links, addresses, routes, rules and nftables.
//!
//! **Invariant:** what is lost or not understood is a [`Change::Loss`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::Change;
use super::query::address;
use crate::ebpf::netlink::{Message, Netlink, attributes, messages, u32_at};
use crate::limits;

/// RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_RULE, _NEXTHOP.
const ROUTE_GROUPS: u32 = group(1) | group(5) | group(7) | group(8) | group(9) | group(11) | group(19) | group(32);
const NFT_GROUPS: u32 = group(libc::NFNLGRP_NFTABLES as u32);
/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_NEWGEN`
const NEW_GENERATION: u16 = ((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | libc::NFT_MSG_NEWGEN as u16;

const NEW_NEXTHOP: u16 = 104;
const DEL_NEXTHOP: u16 = 105;
/// `sizeof(struct ifinfomsg)`
const LINK_LEN: usize = 16;
/// `sizeof(struct ifaddrmsg)`
const ADDRESS_LEN: usize = 8;
/// `sizeof(struct rtmsg)`
const ROUTE_LEN: usize = 12;

/// See the module. It hears what changes in the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Monitor {
    routes: Netlink,
    /// An error where the kernel has no nftables, or does not let us hear of it.
    generations: nix::Result<Netlink>,
}

impl Monitor {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> nix::Result<Self> {
        let routes = Netlink::monitor(SockProtocol::NetlinkRoute, ROUTE_GROUPS)?;
        let generations = Netlink::monitor(SockProtocol::NetlinkNetFilter, NFT_GROUPS);
        // A transaction announces each of its rules; only its end is of interest, and must not be lost in them.
        if let Err(error) = generations.as_ref().map_or(Ok(()), |generations| generations.only(NEW_GENERATION)) {
            tracing::debug!(%error, "nftables announcements are not filtered in the kernel");
        }
        Ok(Self { routes, generations })
    }

    /// Why changes of nftables rules are not heard of: EPERM without CAP_NET_ADMIN, EPROTONOSUPPORT where the kernel has
    /// no nfnetlink. `None` = they are.
    pub(crate) fn nftables_refused(&self) -> Option<Errno> {
        self.generations.as_ref().err().copied()
    }

    /// To wait for.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets().map(AsFd::as_fd)
    }

    /// Appends what was announced since the last call, at most [`limits::PATH_CHANGES_PER_ROUND_MAX`] datagrams of each
    /// socket: the rest stays readable.
    pub(crate) fn read(&self, buffer: &mut [u8], changes: &mut Vec<Change>) {
        for socket in self.sockets() {
            for _ in 0..limits::PATH_CHANGES_PER_ROUND_MAX {
                match socket.receive(buffer) {
                    Ok(datagram) => append(datagram, changes),
                    Err(Errno::EAGAIN) => break,
                    // ENOBUFS. Anything else tells as little of what was missed.
                    Err(_) => {
                        changes.push(Change::Loss);
                        empty(socket, buffer);
                        break;
                    }
                }
            }
        }
    }

    fn sockets(&self) -> impl Iterator<Item = &Netlink> {
        std::iter::once(&self.routes).chain(&self.generations)
    }
}

/// After a loss the kernel drops all further announcements, and says so no more, until the queue was empty
/// (`NETLINK_S_CONGESTED`, `netlink_rcv_wake`). So it is emptied before the loss is acted upon.
fn empty(socket: &Netlink, buffer: &mut [u8]) {
    // No announcement is added while it is congested, and each takes more than 128 bytes of its bound: this is enough.
    for _ in 0..2 * limits::PATH_CHANGES_BYTES_MAX / 128 {
        if socket.receive(buffer) == Err(Errno::EAGAIN) {
            return;
        }
    }
}

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

fn append(datagram: &[u8], changes: &mut Vec<Change>) {
    for message in messages(datagram) {
        match message {
            Ok(message) => changes.extend(change(&message)),
            Err(_) => changes.push(Change::Loss),
        }
    }
}

/// `None` = of no interest.
fn change(message: &Message<'_>) -> Option<Change> {
    let known = match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => link(message),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => address_change(message),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => return route_change(message.payload),
        libc::RTM_NEWRULE | libc::RTM_DELRULE | NEW_NEXTHOP | DEL_NEXTHOP => rule(message.payload),
        NEW_GENERATION => Some(Change::Generation),
        _ => return None,
    };
    Some(known.unwrap_or(Change::Loss))
}

fn link(message: &Message<'_>) -> Option<Change> {
    const USABLE: u32 = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
    let fixed = message.payload.first_chunk::<LINK_LEN>()?;
    let flags = u32_at(fixed, 8)?;
    // An RTM_DELLINK of the family AF_BRIDGE is a port that leaves its bridge: as good as gone.
    let usable = message.kind == libc::RTM_NEWLINK && flags & USABLE == USABLE;
    Some(Change::Link { ifindex: u32_at(fixed, 4)?, usable })
}

fn address_change(message: &Message<'_>) -> Option<Change> {
    let rest = message.payload.get(ADDRESS_LEN..)?;
    // IFA_ADDRESS is the other end's of a point-to-point link, and then IFA_LOCAL our own.
    let value = |wanted: u16| attributes(rest).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| address(value));
    let address = value(libc::IFA_LOCAL).or_else(|| value(libc::IFA_ADDRESS))?;
    Some(Change::Address { address, added: message.kind == libc::RTM_NEWADDR })
}

fn route_change(payload: &[u8]) -> Option<Change> {
    let Some((fixed, rest)) = payload.split_first_chunk::<ROUTE_LEN>() else {
        return Some(Change::Loss);
    };
    let unspecified = match i32::from(fixed[0]) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        // Multicast forwarding, MPLS.
        _ => return None,
    };
    if u32_at(fixed, 8).is_some_and(|flags| flags & libc::RTM_F_CLONED != 0) {
        return None;
    }
    let destination = attributes(rest).find(|(kind, _)| *kind == libc::RTA_DST).and_then(|(_, value)| address(value));
    Some(Change::Route { prefix: destination.unwrap_or(unspecified), bits: fixed[1] })
}

fn rule(payload: &[u8]) -> Option<Change> {
    let family = i32::from(*payload.first()?);
    // An AF_UNSPEC next hop (a group, a blackhole) serves both.
    Some(Change::Rule { v4: family != libc::AF_INET6, v6: family != libc::AF_INET })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::netlink::{push_attribute, tests::framed};
    use proptest::prelude::*;

    fn changes(kind: u16, payload: &[u8]) -> Vec<Change> {
        let mut changes = Vec::new();
        append(&framed(kind, 0, payload), &mut changes);
        changes
    }

    fn link_message(family: i32, ifindex: u32, flags: i32) -> Vec<u8> {
        let mut message = vec![0; LINK_LEN];
        message[0] = family as u8;
        message[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        message[8..12].copy_from_slice(&flags.to_ne_bytes());
        message
    }

    #[test]
    fn without_nftables_the_rest_is_heard_and_the_reason_is_kept() {
        let mut monitor = Monitor::open().expect("rtnetlink");
        assert_eq!(monitor.fds().count(), if monitor.nftables_refused().is_none() { 2 } else { 1 });
        monitor.generations = Err(Errno::EPERM);
        assert_eq!((monitor.fds().count(), monitor.nftables_refused()), (1, Some(Errno::EPERM)));
    }

    #[test]
    fn a_link_is_usable_while_it_is_up_and_has_a_carrier() {
        let up = libc::IFF_UP | libc::IFF_LOWER_UP;
        for (kind, family, flags, usable) in [
            (libc::RTM_NEWLINK, libc::AF_UNSPEC, up, true),
            (libc::RTM_NEWLINK, libc::AF_UNSPEC, libc::IFF_UP, false),
            (libc::RTM_NEWLINK, libc::AF_UNSPEC, libc::IFF_LOWER_UP, false),
            (libc::RTM_DELLINK, libc::AF_UNSPEC, up, false),
            (libc::RTM_DELLINK, libc::AF_BRIDGE, up, false),
        ] {
            assert_eq!(changes(kind, &link_message(family, 4, flags)), [Change::Link { ifindex: 4, usable }]);
        }
    }

    #[test]
    fn of_a_point_to_point_address_our_own_end_counts() {
        let mut message = vec![0; ADDRESS_LEN];
        push_attribute(&mut message, libc::IFA_ADDRESS, &[10, 0, 0, 2]);
        push_attribute(&mut message, libc::IFA_LOCAL, &[10, 0, 0, 1]);
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(changes(libc::RTM_DELADDR, &message), [Change::Address { address, added: false }]);
        assert_eq!(changes(libc::RTM_NEWADDR, &message), [Change::Address { address, added: true }]);
    }

    #[test]
    fn a_route_without_a_destination_is_the_default_route() {
        let mut message = vec![0; ROUTE_LEN];
        message[0] = libc::AF_INET6 as u8;
        let prefix = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        assert_eq!(changes(libc::RTM_NEWROUTE, &message), [Change::Route { prefix, bits: 0 }]);
        message[0] = libc::AF_INET as u8;
        message[1] = 24;
        push_attribute(&mut message, libc::RTA_DST, &[10, 1, 0, 0]);
        let prefix = IpAddr::from([10, 1, 0, 0]);
        assert_eq!(changes(libc::RTM_DELROUTE, &message), [Change::Route { prefix, bits: 24 }]);
        message[8..12].copy_from_slice(&libc::RTM_F_CLONED.to_ne_bytes());
        assert_eq!(changes(libc::RTM_NEWROUTE, &message), []);
    }

    #[test]
    fn rules_and_generations_are_told_and_what_cannot_be_read_is_a_loss() {
        assert_eq!(changes(libc::RTM_NEWRULE, &[libc::AF_INET as u8; 12]), [Change::Rule { v4: true, v6: false }]);
        assert_eq!(changes(DEL_NEXTHOP, &[0; 8]), [Change::Rule { v4: true, v6: true }]);
        assert_eq!(changes(NEW_GENERATION, &[0; 4]), [Change::Generation]);
        assert_eq!(changes(libc::RTM_NEWLINK, &[0; 3]), [Change::Loss]);
        assert_eq!(changes(libc::RTM_NEWADDR, &[0; 8]), [Change::Loss]);
        assert_eq!(changes(libc::RTM_NEWROUTE, &[0; 8]), [Change::Loss]);
        let mut cut = Vec::new();
        append(&[1, 2, 3], &mut cut);
        assert_eq!(cut, [Change::Loss]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(kind in any::<u16>(), bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            for kind in [kind, kind % 128] {
                let _ = change(&Message { kind, flags: 0, sequence: 0, payload: &bytes });
            }
        }
    }
}
