//! NETLINK_SOCK_DIAG: which listeners a namespace has and how their accept queues stand; which socket has a connection
//! (`net/ipv4/inet_diag.c`, `include/uapi/linux/inet_diag.h`).
//!
//! **Invariant:** a dump that lost anything, for whatever reason, says that it is not complete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use crossbeam::queue::ArrayQueue;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{Message, Netlink, attributes, messages, u32_at};
use super::target::{ChildLookup, Found};
use crate::limits;

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
    /// SK_MEMINFO_DROPS: segments that it discarded since it was opened; lost connection requests are among them.
    pub drops: u32,
}

/// A socket for sock_diag questions about the namespace in which it was opened.
#[derive(Debug)]
pub struct SockDiag {
    netlink: Netlink,
}

/// What an exact query found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiagSocket {
    /// `idiag_cookie`
    pub socket_cookie: u64,
    /// `idiag_state`: `TCP_LISTEN` is 10.
    pub state: u8,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; of a listener all zero.
    pub remote: SocketAddr,
}

impl DiagSocket {
    /// In LISTEN.
    #[must_use]
    pub fn is_listener(&self) -> bool {
        self.state == TCP_LISTEN
    }

    /// One end of a connection whose other end can be open. In TIME_WAIT it is left from an earlier connection with the
    /// same ends: it comes only after the FIN of the other one.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        !matches!(self.state, TCP_LISTEN | TCP_TIME_WAIT | TCP_CLOSE)
    }
}

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// sock_diag's first request, which the kernel takes to be of AF_UNSPEC (`inet_diag_dump_compat`).
const TCPDIAG_GETSOCK: u16 = 18;
/// `TCP_LISTEN` of `include/net/tcp_states.h`
const TCP_LISTEN: u8 = 10;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
/// `INET_DIAG_SKMEMINFO`, and its bit in `idiag_ext`
const SKMEMINFO: u16 = 7;
const SKV6ONLY: u16 = 11;
const SOCKOPT: u16 = 22;
/// Index of `SK_MEMINFO_DROPS`
const DROPS_INDEX: usize = 8;
/// The bit of `inet_diag_sockopt.transparent` in the first byte: the sixth field of a bit field.
const TRANSPARENT: u8 = if cfg!(target_endian = "little") { 1 << 5 } else { 1 << 2 };
/// `sizeof(struct inet_diag_msg)`
const MESSAGE_LEN: usize = 72;
/// Bytes of the answer to an exact query.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

impl SockDiag {
    /// In the calling thread's namespace, for dumps.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn open() -> nix::Result<Self> {
        Ok(Self { netlink: Netlink::open(SockProtocol::NetlinkSockDiag)? })
    }

    /// The same for exact queries: their answer is there when the request was sent (`netlink_unicast_kernel` answers inside
    /// sendmsg(2)).
    fn open_exact() -> nix::Result<Self> {
        Ok(Self { netlink: Netlink::open_nonblocking(SockProtocol::NetlinkSockDiag)? })
    }

    /// Every listener of both families, or every one at this port (`inet_diag_dump_icsk` passes over the others), in parts of at
    /// most [`limits::DUMP_PART_LEN`]. `buffer` is for the kernel's datagrams: [`limits::NETLINK_MESSAGE_BYTES_MAX`]. True:
    /// complete.
    ///
    /// Complete means that the kernel reported no loss. It does not hold its table still between two datagrams: where
    /// listeners close meanwhile, one of the same hash bucket may be passed over.
    pub fn dump(&mut self, port: Option<u16>, buffer: &mut [u8], part: &mut dyn FnMut(Vec<DiagListener>)) -> bool {
        let mut listeners = Vec::with_capacity(limits::DUMP_PART_LEN);
        let complete = self.dump_both(port, buffer, &mut listeners, part).unwrap_or_else(|error| {
            tracing::debug!(%error, "sock_diag dump given up");
            false
        });
        if !listeners.is_empty() {
            part(listeners);
        }
        complete
    }

    /// The walk visits the listeners of the whole node, those of other families and namespaces too, and of a cold one the
    /// visit is what costs: so it is made once for both, which only the older request can ask for.
    fn dump_both(
        &mut self,
        port: Option<u16>,
        buffer: &mut [u8],
        listeners: &mut Vec<DiagListener>,
        part: &mut dyn FnMut(Vec<DiagListener>),
    ) -> nix::Result<bool> {
        let request = dump_request(port);
        let sequence = self.netlink.ask(TCPDIAG_GETSOCK, libc::NLM_F_DUMP, &request, buffer)?;
        let mut complete = true;
        loop {
            for message in messages(self.netlink.receive(buffer)?) {
                let message = message.map_err(|_| Errno::EBADMSG)?;
                if message.sequence != sequence {
                    continue;
                }
                complete &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE if message.errno() == Errno::from_raw(0) => return Ok(complete),
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => return Err(message.errno()),
                    _ => listeners.push(listener(message.payload).ok_or(Errno::EBADMSG)?),
                }
                if listeners.len() == limits::DUMP_PART_LEN {
                    part(std::mem::replace(listeners, Vec::with_capacity(limits::DUMP_PART_LEN)));
                }
            }
        }
    }

    /// The socket that the kernel would hand a segment from `remote` to `local` to (`inet_diag_find_one_icsk`): a connection
    /// with these ends, else the listener that would take it, by the kernel's own rules. `None` = nobody.
    ///
    /// # Errors
    /// What the kernel refused it with; EAGAIN = no answer.
    pub fn exact(&mut self, local: SocketAddr, remote: SocketAddr) -> nix::Result<Option<DiagSocket>> {
        let (local, remote) = (canonical(local), canonical(remote));
        let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let request = exact_request(family, &socket_id(local, remote));
        let mut buffer = [0; ANSWER_BYTES_MAX];
        let sequence = self.netlink.ask(BY_FAMILY, 0, &request, &mut buffer)?;
        loop {
            for message in messages(self.netlink.receive(&mut buffer)?) {
                let message = message.map_err(|_| Errno::EBADMSG)?;
                if message.sequence != sequence {
                    continue;
                }
                return exact_answer(&message);
            }
        }
    }
}

impl AsFd for SockDiag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// The shards' exact queries in one namespace. At most [`limits::DIAG_LOOKUPS_CONCURRENT_MAX`] at once; nobody waits.
#[derive(Debug)]
pub struct ChildLookups {
    idle: ArrayQueue<SockDiag>,
}

impl ChildLookups {
    /// In the calling thread's namespace.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn open() -> nix::Result<Self> {
        let idle = ArrayQueue::new(limits::DIAG_LOOKUPS_CONCURRENT_MAX);
        while !idle.is_full() {
            // It is not full.
            let _ = idle.push(SockDiag::open_exact()?);
        }
        Ok(Self { idle })
    }
}

impl ChildLookup for ChildLookups {
    fn child(&self, target: SocketAddr, ours: SocketAddr) -> Found {
        let Some(mut socket) = self.idle.pop() else {
            return Found::Unknown;
        };
        let found = socket.exact(target, ours);
        // As many places as sockets: it fits.
        let _ = self.idle.push(socket);
        match found {
            Ok(Some(socket)) if socket.is_connection() && is_between(&socket, target, ours) => Found::Child,
            Ok(_) => Found::Other,
            Err(_) => Found::Unknown,
        }
    }
}

fn is_between(socket: &DiagSocket, local: SocketAddr, remote: SocketAddr) -> bool {
    let same = |a: SocketAddr, b: SocketAddr| a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical();
    same(socket.local, local) && same(socket.remote, remote)
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// `struct inet_diag_req_v2`: the socket of any state.
fn exact_request(family: i32, id: &[u8; 48]) -> Vec<u8> {
    let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(id);
    request
}

/// `struct inet_diag_req`: all listeners, or those at a port, with their drops.
fn dump_request(port: Option<u16>) -> Vec<u8> {
    // No prefixes.
    let mut request = vec![libc::AF_UNSPEC as u8, 0, 0, 1 << (SKMEMINFO - 1)];
    let mut id = [0; 48];
    // 0 = any.
    id[..2].copy_from_slice(&port.unwrap_or_default().to_be_bytes());
    request.extend_from_slice(&id);
    request.extend_from_slice(&(1_u32 << TCP_LISTEN).to_ne_bytes());
    // `idiag_dbs`
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request
}

/// `struct inet_diag_sockid`, with `INET_DIAG_NOCOOKIE`.
fn socket_id(local: SocketAddr, remote: SocketAddr) -> [u8; 48] {
    let mut id = [0; 48];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (at, ip) in [(4, local.ip()), (20, remote.ip())] {
        match ip {
            IpAddr::V4(ip) => id[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => id[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    id[40..].fill(0xFF);
    id
}

/// The fields of `struct inet_diag_msg` that are read.
struct DiagMessage<'b> {
    state: u8,
    local: SocketAddr,
    remote: SocketAddr,
    device: u32,
    cookie: u64,
    rqueue: u32,
    wqueue: u32,
    attributes: &'b [u8],
}

fn diag_message(payload: &[u8]) -> Option<DiagMessage<'_>> {
    let (fixed, attributes) = payload.split_first_chunk::<MESSAGE_LEN>()?;
    let word = |at| u32_at(fixed, at).unwrap_or_default();
    let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let ip = |at: usize| {
        let bytes: [u8; 16] = *fixed[at..].first_chunk()?;
        match i32::from(fixed[0]) {
            libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
            libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
            _ => None,
        }
    };
    Some(DiagMessage {
        state: fixed[1],
        local: SocketAddr::new(ip(8)?, port(4)),
        remote: SocketAddr::new(ip(24)?, port(6)),
        device: word(40),
        cookie: u64::from(word(44)) | u64::from(word(48)) << 32,
        rqueue: word(56),
        wqueue: word(60),
        attributes,
    })
}

fn listener(payload: &[u8]) -> Option<DiagListener> {
    let message = diag_message(payload)?;
    let mut listener = DiagListener {
        socket_cookie: message.cookie,
        addr: message.local.ip(),
        port: message.local.port(),
        ipv6_only: false,
        device: message.device,
        transparent: false,
        queue_len: message.rqueue,
        queue_max: message.wqueue,
        drops: 0,
    };
    for (kind, value) in attributes(message.attributes) {
        match kind {
            SKMEMINFO => listener.drops = u32_at(value, 4 * DROPS_INDEX).unwrap_or_default(),
            SKV6ONLY => listener.ipv6_only = value.first().is_some_and(|only| *only != 0),
            SOCKOPT => listener.transparent = value.first().is_some_and(|first| first & TRANSPARENT != 0),
            _ => {}
        }
    }
    Some(listener)
}

fn exact_answer(message: &Message<'_>) -> nix::Result<Option<DiagSocket>> {
    if i32::from(message.kind) == libc::NLMSG_ERROR {
        return if message.errno() == Errno::ENOENT { Ok(None) } else { Err(message.errno()) };
    }
    let found = diag_message(message.payload).ok_or(Errno::EBADMSG)?;
    Ok(Some(DiagSocket { socket_cookie: found.cookie, state: found.state, local: found.local, remote: found.remote }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::netlink::push_attribute;
    use proptest::prelude::*;

    fn listening(family: i32, local: &[u8], port: u16) -> Vec<u8> {
        let mut message = vec![0; MESSAGE_LEN];
        message[..2].copy_from_slice(&[family as u8, TCP_LISTEN]);
        message[4..6].copy_from_slice(&port.to_be_bytes());
        message[8..8 + local.len()].copy_from_slice(local);
        message[40..44].copy_from_slice(&7_u32.to_ne_bytes());
        message[44..48].copy_from_slice(&1_u32.to_ne_bytes());
        message[48..52].copy_from_slice(&2_u32.to_ne_bytes());
        message[56..60].copy_from_slice(&3_u32.to_ne_bytes());
        message[60..64].copy_from_slice(&128_u32.to_ne_bytes());
        message
    }

    #[test]
    fn a_listener_is_read_with_its_queue_drops_and_options() {
        let mut message = listening(libc::AF_INET6, &Ipv6Addr::LOCALHOST.octets(), 8080);
        let mut memory = [0; 36];
        memory[32..].copy_from_slice(&9_u32.to_ne_bytes());
        push_attribute(&mut message, SKMEMINFO, &memory);
        push_attribute(&mut message, SKV6ONLY, &[1]);
        push_attribute(&mut message, SOCKOPT, &[TRANSPARENT, 0]);
        let read = listener(&message).expect("a listener");
        assert_eq!((read.addr, read.port), (IpAddr::V6(Ipv6Addr::LOCALHOST), 8080));
        assert_eq!((read.socket_cookie, read.device), ((2 << 32) | 1, 7));
        assert_eq!((read.queue_len, read.queue_max, read.drops), (3, 128, 9));
        assert!(read.ipv6_only && read.transparent);
    }

    #[test]
    fn an_older_kernel_that_says_less_gives_a_listener_without_options() {
        let read = listener(&listening(libc::AF_INET, &[10, 0, 0, 1], 1)).expect("a listener");
        assert_eq!(read.addr, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(!read.ipv6_only && !read.transparent && read.drops == 0);
        assert_eq!(listener(&listening(libc::AF_UNIX, &[], 1)), None);
    }

    #[test]
    fn a_child_of_a_dual_stack_listener_has_the_ends_that_were_asked_for() {
        let socket = DiagSocket {
            socket_cookie: 1,
            state: 1,
            local: "[::ffff:10.0.0.2]:80".parse().expect("an address"),
            remote: "[::ffff:10.0.0.1]:40000".parse().expect("an address"),
        };
        let (target, ours) = ("10.0.0.2:80".parse().expect("v4"), "10.0.0.1:40000".parse().expect("v4"));
        assert!(is_between(&socket, target, ours));
        assert!(!is_between(&socket, ours, target));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = listener(&bytes);
            let message = Message { kind: BY_FAMILY, flags: 0, sequence: 0, payload: &bytes };
            let _ = exact_answer(&message);
        }
    }
}
