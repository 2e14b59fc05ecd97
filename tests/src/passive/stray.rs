//! A segment that is of no connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

/// Where it says it comes from. Nothing is there.
const FROM_PORT: u16 = 9;
/// The flag of a reset. (With an ACK beside it a listener would not count it as a drop.)
const RST: u8 = 1 << 2;
/// 32-bit words of a TCP header without options, in the upper half of a byte.
const HEADER_WORDS: u8 = 5 << 4;

/// Sends an RST from the calling thread's namespace, as of a connection that both ends have forgotten. Needs CAP_NET_RAW.
pub fn reset(to: SocketAddrV4) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    socket.connect(&SocketAddr::from((*to.ip(), 0)).into())?;
    let own = socket.local_addr()?.as_socket().map(|own| own.ip());
    let Some(IpAddr::V4(own)) = own else { return Err(io::Error::other("no IPv4 address of its own")) };
    socket.send(&segment(own, to)).map(drop)
}

fn segment(from: Ipv4Addr, to: SocketAddrV4) -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&FROM_PORT.to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..8].copy_from_slice(&[1, 2, 3, 4]);
    header[12] = HEADER_WORDS;
    header[13] = RST;
    // Of a header that begins with the addresses, the protocol and the length (RFC 9293, 3.1).
    let mut summed = [&from.octets()[..], &to.ip().octets(), &[0, 6, 0, 20]].concat();
    summed.extend(header);
    let sum = summed.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[16..18].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    header
}
