//! The questions of rtnetlink that tell what leads to an address (RTM_GETROUTE, RTM_GETLINK).

use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use super::{Path, Route, There};
use crate::ebpf::netlink::{Message, Netlink, attributes, messages, push_attribute, u32_at};

/// `RTM_F_FIB_MATCH`: answer with the entry of the table, not with what the kernel makes of it. (A local route's entry has
/// the link that carries the address, where the other says loopback.)
const FIB_MATCH: u32 = 0x2000;
/// `IFLA_LINK_NETNSID`: IFLA_LINK is an index in another namespace.
const IFLA_LINK_NETNSID: u16 = 37;
/// `sizeof(struct rtmsg)`
const ROUTE_LEN: usize = 12;
/// `sizeof(struct ifinfomsg)`
const LINK_LEN: usize = 16;

/// A socket for questions about routes of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Routes {
    netlink: Netlink,
}

impl Routes {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> nix::Result<Self> {
        Ok(Self { netlink: Netlink::open(SockProtocol::NetlinkRoute)? })
    }

    /// `None` = the kernel refuses: there is none.
    fn route(
        &mut self,
        to: IpAddr,
        from: Option<IpAddr>,
        flags: u32,
        scratch: &mut [u8],
    ) -> nix::Result<Option<Route>> {
        let request = route_request(to, from, flags);
        let answer = self.ask(libc::RTM_GETROUTE, &request, scratch, |message| {
            (message.kind == libc::RTM_NEWROUTE).then(|| route(message.payload)).flatten()
        });
        answer.map(Option::flatten)
    }

    /// The other end of a link, where that is in another namespace; 0 = none.
    fn peer(&mut self, ifindex: u32, scratch: &mut [u8]) -> nix::Result<u32> {
        let mut request = vec![0; LINK_LEN];
        request[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        let answer = self.ask(libc::RTM_GETLINK, &request, scratch, |message| peer(message.payload));
        answer.map(Option::unwrap_or_default)
    }

    /// `None` = the kernel answered with an error.
    fn ask<T>(
        &mut self,
        kind: u16,
        request: &[u8],
        scratch: &mut [u8],
        read: impl Fn(&Message<'_>) -> T,
    ) -> nix::Result<Option<T>> {
        let sequence = self.netlink.ask(kind, 0, request, scratch)?;
        loop {
            // A malformed answer is none: the wait for another ends in time.
            for message in messages(self.netlink.receive(scratch)?).map_while(Result::ok) {
                if message.sequence == sequence {
                    return Ok((i32::from(message.kind) != libc::NLMSG_ERROR).then(|| read(&message)));
                }
            }
        }
    }
}

/// What leads to `target`, an address of the daemon's own namespace or, where `there` is given, of that one. `None` = it is
/// not.
///
/// # Errors
/// The kernel did not answer.
pub(crate) fn path(
    here: &mut Routes,
    there: Option<&mut Routes>,
    target: IpAddr,
    scratch: &mut [u8],
) -> nix::Result<Option<Path>> {
    let Some(there) = there else {
        let out = here.route(target, None, 0, scratch)?.filter(|route| route.local);
        return Ok(out.map(|out| Path { out: Some(out), there: None }));
    };
    let Some(carrier) = there.route(target, None, FIB_MATCH, scratch)?.filter(|route| route.local) else {
        return Ok(None);
    };
    let out = here.route(target, None, 0, scratch)?;
    let back = match out.as_ref().and_then(|out| out.source) {
        Some(source) => there.route(source, Some(target), 0, scratch)?,
        None => None,
    };
    // The link that a connection comes in by: that of the way back, except where the address is on no such link.
    let inbound = back.as_ref().map_or(carrier.oif, |back| back.oif);
    let peer = there.peer(inbound, scratch)?;
    Ok(Some(Path { out, there: Some(There { link: carrier.oif, peer, back }) }))
}

fn route_request(to: IpAddr, from: Option<IpAddr>, flags: u32) -> Vec<u8> {
    let (family, bits) = if to.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
    let mut request = vec![0; ROUTE_LEN];
    request[0] = family as u8;
    request[1] = bits;
    request[8..12].copy_from_slice(&flags.to_ne_bytes());
    push_address(&mut request, libc::RTA_DST, to);
    if let Some(from) = from {
        request[2] = bits;
        push_address(&mut request, libc::RTA_SRC, from);
    }
    request
}

fn push_address(request: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push_attribute(request, kind, &address.octets()),
        IpAddr::V6(address) => push_attribute(request, kind, &address.octets()),
    }
}

/// An address, by its length.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*value.first_chunk::<16>()?)),
        _ => None,
    }
}

/// Of `struct rtmsg`; only one that leads somewhere.
fn route(payload: &[u8]) -> Option<Route> {
    let (fixed, rest) = payload.split_first_chunk::<ROUTE_LEN>()?;
    let local = match fixed[7] {
        libc::RTN_LOCAL => true,
        libc::RTN_UNICAST => false,
        _ => return None,
    };
    let mut route = Route { local, oif: 0, gateway: None, source: None };
    for (kind, value) in attributes(rest) {
        match kind {
            libc::RTA_OIF => route.oif = u32_at(value, 0).unwrap_or_default(),
            libc::RTA_GATEWAY => route.gateway = address(value),
            libc::RTA_PREFSRC => route.source = address(value),
            _ => {}
        }
    }
    Some(route)
}

fn peer(payload: &[u8]) -> u32 {
    let rest = payload.get(LINK_LEN..).unwrap_or_default();
    let elsewhere = attributes(rest).any(|(kind, _)| kind == IFLA_LINK_NETNSID);
    let link = attributes(rest).find(|(kind, _)| *kind == libc::IFLA_LINK);
    link.filter(|_| elsewhere).and_then(|(_, value)| u32_at(value, 0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_route_is_read_and_one_that_leads_nowhere_is_none() {
        let mut message = vec![0; ROUTE_LEN];
        message[7] = libc::RTN_UNICAST;
        push_attribute(&mut message, libc::RTA_OIF, &5_u32.to_ne_bytes());
        push_attribute(&mut message, libc::RTA_PREFSRC, &[10, 0, 0, 1]);
        push_attribute(&mut message, libc::RTA_GATEWAY, &[10, 0, 0, 254]);
        let read = route(&message).expect("a route");
        assert_eq!((read.local, read.oif), (false, 5));
        assert_eq!(read.source, Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(read.gateway, Some(IpAddr::from([10, 0, 0, 254])));
        message[7] = libc::RTN_BLACKHOLE;
        assert_eq!(route(&message), None);
    }

    #[test]
    fn the_other_end_of_a_link_counts_where_it_is_in_another_namespace() {
        let mut message = vec![0; LINK_LEN];
        push_attribute(&mut message, libc::IFLA_LINK, &9_u32.to_ne_bytes());
        assert_eq!(peer(&message), 0);
        push_attribute(&mut message, IFLA_LINK_NETNSID, &0_u32.to_ne_bytes());
        assert_eq!(peer(&message), 9);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = (route(&bytes), peer(&bytes), address(&bytes));
        }
    }
}
