//! What leads to a target's address, and whether a change that the kernel announces concerns it.
//!
//! Pure: the questions are asked in [`query`], the announcements read in [`monitor`].
//!
//! **Invariant:** a change that takes away an address, link or route that a path rests on voids; any other that could
//! concern it cuts, at least.

use std::net::IpAddr;

pub mod monitor;
pub mod query;

/// What leads from the daemon's namespace to an address (which it does not name: many addresses have the same path), and
/// back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// In the daemon's namespace; `None` = it has no route there.
    pub out: Option<Route>,
    /// In the target's, where that is another one.
    pub there: Option<There>,
}

/// A namespace's route to an address (RTM_GETROUTE).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The address is the namespace's own (RTN_LOCAL).
    pub local: bool,
    /// RTA_OIF
    pub oif: u32,
    /// RTA_GATEWAY
    pub gateway: Option<IpAddr>,
    /// RTA_PREFSRC: our end of a connection
    pub source: Option<IpAddr>,
}

/// The pod's side of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct There {
    /// The link that carries the target's address.
    pub link: u32,
    /// Its other end's index (IFLA_LINK) in the daemon's namespace; 0 = none. Of a veth pair: the host's end.
    pub peer: u32,
    /// The way back to our source address; `None` = there is none.
    pub back: Option<Route>,
}

/// Of the two namespaces of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The daemon's.
    Here,
    /// The target's, another one.
    There,
}

/// A change that the kernel announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// RTM_NEWLINK, RTM_DELLINK.
    Link {
        /// Which.
        ifindex: u32,
        /// It is there, IFF_UP and IFF_LOWER_UP (it has a carrier), and has not left its bridge.
        usable: bool,
    },
    /// RTM_NEWADDR, RTM_DELADDR.
    Address {
        /// Which.
        address: IpAddr,
        /// It came; else it went.
        added: bool,
    },
    /// RTM_NEWROUTE, RTM_DELROUTE.
    Route {
        /// Its destination.
        prefix: IpAddr,
        /// Bits of it that count.
        bits: u8,
    },
    /// A rule, or an object that routes lead to (RTM_NEWNEXTHOP).
    Rule {
        /// Of IPv4.
        v4: bool,
        /// Of IPv6.
        v6: bool,
    },
    /// A new nftables generation (NFT_MSG_NEWGEN).
    Generation,
    /// Announcements were lost (ENOBUFS): any of them may have come.
    Loss,
}

/// What a change means for the leases of a path. Later ones are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It does not concern it.
    None,
    /// It could: a real connect within `path_recheck_max`.
    Cut,
    /// Look the path up again: another one voids, the same one cuts.
    Lookup,
    /// Something that it rests on is gone. The path is looked up again too.
    Void,
}

impl Path {
    /// What a change in that namespace means for this path, which leads to `target`.
    #[must_use]
    pub fn concerned(&self, side: Side, target: IpAddr, change: &Change) -> Effect {
        match change {
            Change::Link { ifindex, usable } => match (self.rests_on_link(side, *ifindex), usable) {
                (false, _) => Effect::None,
                (true, true) => Effect::Cut,
                (true, false) => Effect::Void,
            },
            Change::Address { address, added } => self.concerned_by_address(side, target, *address, *added),
            Change::Route { prefix, bits } => {
                // In the daemon's namespace our own address matters only as such; its route is a local one.
                let to_source = self.source().is_some_and(|source| match side {
                    Side::There => covers(*prefix, *bits, source),
                    Side::Here => *prefix == source,
                });
                if covers(*prefix, *bits, target) || to_source { Effect::Lookup } else { Effect::None }
            }
            Change::Rule { v4: true, .. } if target.is_ipv4() => Effect::Lookup,
            Change::Rule { v6: true, .. } if target.is_ipv6() => Effect::Lookup,
            Change::Rule { .. } => Effect::None,
            Change::Generation => Effect::Cut,
            Change::Loss => Effect::Void,
        }
    }

    /// Our end of its connections.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.out.as_ref()?.source
    }

    fn rests_on_link(&self, side: Side, ifindex: u32) -> bool {
        let out = self.out.as_ref().map(|route| route.oif);
        match (side, &self.there) {
            (Side::Here, None) => out == Some(ifindex),
            (Side::Here, Some(there)) => out == Some(ifindex) || there.peer == ifindex,
            (Side::There, None) => false,
            (Side::There, Some(there)) => {
                there.link == ifindex || there.back.as_ref().is_some_and(|back| back.oif == ifindex)
            }
        }
    }

    fn concerned_by_address(&self, side: Side, target: IpAddr, address: IpAddr, added: bool) -> Effect {
        let at_target = side == Side::There || self.there.is_none();
        if address == target {
            // Where the target is, it must stay; anywhere else it must not come to be.
            return if at_target && !added { Effect::Void } else { Effect::Lookup };
        }
        if self.source() == Some(address) {
            return if side == Side::Here && !added { Effect::Void } else { Effect::Lookup };
        }
        Effect::None
    }
}

/// Whether a change can make an address one of the namespace in which it came.
#[must_use]
pub fn may_become_local(address: IpAddr, change: &Change) -> bool {
    match change {
        Change::Address { address: changed, .. } => *changed == address,
        Change::Route { prefix, bits } => covers(*prefix, *bits, address),
        Change::Loss => true,
        Change::Link { .. } | Change::Rule { .. } | Change::Generation => false,
    }
}

/// Whether `address` lies in `prefix`/`bits`.
fn covers(prefix: IpAddr, bits: u8, address: IpAddr) -> bool {
    let bits = u32::from(bits);
    match (prefix, address) {
        (IpAddr::V4(prefix), IpAddr::V4(address)) => {
            let different = prefix.to_bits() ^ address.to_bits();
            different.leading_zeros() >= bits
        }
        (IpAddr::V6(prefix), IpAddr::V6(address)) => {
            let different = prefix.to_bits() ^ address.to_bits();
            different.leading_zeros() >= bits
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Effect::{Cut, Lookup, None as Nothing, Void};
    use Side::{Here, There as Pod};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn route(local: bool, oif: u32, source: &str) -> Route {
        Route { local, oif, gateway: None, source: Some(ip(source)) }
    }

    /// Behind a bridge (index 3) whose port is 9; the pod's link is 2.
    fn to_pod() -> Path {
        Path {
            out: Some(route(false, 3, "10.1.0.1")),
            there: Some(There { link: 2, peer: 9, back: Some(route(false, 2, "10.1.0.2")) }),
        }
    }

    fn own() -> Path {
        Path { out: Some(route(true, 1, "192.0.2.7")), there: None }
    }

    fn link(ifindex: u32, usable: bool) -> Change {
        Change::Link { ifindex, usable }
    }

    fn address(text: &str, added: bool) -> Change {
        Change::Address { address: ip(text), added }
    }

    fn prefix(text: &str, bits: u8) -> Change {
        Change::Route { prefix: ip(text), bits }
    }

    #[test]
    fn a_path_into_a_pod_is_concerned_by_what_it_rests_on_and_by_nothing_else() {
        let path = to_pod();
        let (v4, v6) = (Change::Rule { v4: true, v6: false }, Change::Rule { v4: false, v6: true });
        for (side, change, effect) in [
            (Here, link(3, false), Void),
            (Here, link(3, true), Cut),
            (Here, link(9, false), Void),
            (Here, link(2, false), Nothing),
            (Here, link(4, false), Nothing),
            (Pod, link(2, false), Void),
            (Pod, link(2, true), Cut),
            (Pod, link(3, false), Nothing),
            (Here, address("10.1.0.1", false), Void),
            (Here, address("10.1.0.1", true), Lookup),
            (Here, address("10.1.0.2", true), Lookup),
            (Here, address("10.1.0.9", false), Nothing),
            (Pod, address("10.1.0.2", false), Void),
            (Pod, address("10.1.0.2", true), Lookup),
            (Pod, address("10.1.0.1", true), Lookup),
            (Pod, address("10.1.0.3", false), Nothing),
            (Here, prefix("10.1.0.0", 16), Lookup),
            (Here, prefix("10.1.0.2", 32), Lookup),
            (Here, prefix("10.1.0.3", 32), Nothing),
            (Here, prefix("0.0.0.0", 0), Lookup),
            (Here, prefix("::", 0), Nothing),
            (Here, prefix("10.1.0.1", 32), Lookup),
            (Pod, prefix("10.1.0.1", 32), Lookup),
            (Pod, prefix("10.9.0.0", 16), Nothing),
            (Here, v4.clone(), Lookup),
            (Pod, v4, Lookup),
            (Here, v6, Nothing),
            (Here, Change::Generation, Cut),
            (Pod, Change::Generation, Cut),
            (Here, Change::Loss, Void),
            (Pod, Change::Loss, Void),
        ] {
            assert_eq!(path.concerned(side, ip("10.1.0.2"), &change), effect, "{side:?} {change:?}");
        }
    }

    #[test]
    fn a_path_to_an_own_address_rests_on_loopback_and_the_address() {
        for (change, effect) in [
            (link(1, false), Void),
            (link(2, false), Nothing),
            (address("192.0.2.7", false), Void),
            (address("192.0.2.7", true), Lookup),
            (address("192.0.2.8", false), Nothing),
            (prefix("192.0.2.7", 32), Lookup),
            (prefix("192.0.2.0", 24), Lookup),
            (prefix("198.51.100.0", 24), Nothing),
            (Change::Generation, Cut),
        ] {
            assert_eq!(own().concerned(Here, ip("192.0.2.7"), &change), effect, "{change:?}");
        }
    }

    #[test]
    fn an_address_that_is_not_local_waits_for_what_could_make_it_so() {
        assert!(may_become_local(ip("10.1.0.2"), &address("10.1.0.2", true)));
        assert!(may_become_local(ip("10.1.0.2"), &prefix("10.1.0.0", 24)));
        assert!(may_become_local(ip("10.1.0.2"), &Change::Loss));
        assert!(!may_become_local(ip("10.1.0.2"), &address("10.1.0.3", true)));
        assert!(!may_become_local(ip("10.1.0.2"), &Change::Generation));
    }

    #[test]
    fn prefixes_of_every_length_cover_what_they_should() {
        assert!(covers(ip("0.0.0.0"), 0, ip("255.255.255.255")));
        assert!(covers(ip("10.0.0.0"), 31, ip("10.0.0.1")) && !covers(ip("10.0.0.0"), 32, ip("10.0.0.1")));
        assert!(covers(ip("2001:db8::"), 127, ip("2001:db8::1")) && !covers(ip("2001:db8::"), 128, ip("2001:db8::1")));
        assert!(!covers(ip("10.0.0.0"), 200, ip("10.0.0.1")) && !covers(ip("::"), 0, ip("10.0.0.1")));
        assert!(covers(ip("10.0.0.1"), 32, ip("10.0.0.1")));
    }
}
