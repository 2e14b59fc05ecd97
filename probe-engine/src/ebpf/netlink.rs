//! Netlink sockets and the framing of their messages (`include/uapi/linux/netlink.h`).
//!
//! Written out here, and not taken from the netlink-packet crates: the few fields that are needed are read in place, so a
//! dump of 48,000 listeners allocates nothing for each, and attributes that those crates do not know are at hand.
//!
//! **Invariant:** nothing panics on what is received, and only what the kernel sent is looked at: a process in a pod's
//! namespace may send to our sockets there too.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv, recvfrom, send,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use socket2::{SockFilter, SockRef};

use crate::limits;

/// `sizeof(struct nlmsghdr)`
const HEADER_LEN: usize = 16;
/// `NLA_TYPE_MASK`
const ATTRIBUTE_KIND: u16 = 0x3FFF;

/// A netlink socket, of the namespace that the thread which opened it was in.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

/// Datagrams of nobody's interest that one call skips. More: as if there were nothing.
const DATAGRAMS_SKIPPED_MAX: usize = 64;

impl Netlink {
    /// For questions: an answer is waited for at most [`limits::NETLINK_WAIT_MAX`].
    pub(crate) fn open(protocol: SockProtocol) -> nix::Result<Self> {
        let netlink = Self::bound(protocol, 0, SockFlag::empty())?;
        let wait = TimeVal::milliseconds(i64::try_from(limits::NETLINK_WAIT_MAX.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&netlink.fd, ReceiveTimeout, &wait)?;
        Ok(netlink)
    }

    /// For questions whose answer is there when [`Netlink::ask`] returns: nothing is waited for.
    pub(crate) fn open_nonblocking(protocol: SockProtocol) -> nix::Result<Self> {
        Self::bound(protocol, 0, SockFlag::SOCK_NONBLOCK)
    }

    /// For what is announced to these groups (a bit mask); never blocks.
    pub(crate) fn monitor(protocol: SockProtocol, groups: u32) -> nix::Result<Self> {
        let netlink = Self::bound(protocol, groups, SockFlag::SOCK_NONBLOCK)?;
        // The first needs CAP_NET_ADMIN; the second stops at net.core.rmem_max. With less, losses come sooner.
        if setsockopt(&netlink.fd, RcvBufForce, &limits::PATH_CHANGES_BYTES_MAX).is_err() {
            let _ = setsockopt(&netlink.fd, RcvBuf, &limits::PATH_CHANGES_BYTES_MAX);
        }
        Ok(netlink)
    }

    fn bound(protocol: SockProtocol, groups: u32, flags: SockFlag) -> nix::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags | SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // To the kernel: from then on it refuses what anybody else sends (`netlink_getsockbyportid`). The namespace may be
        // a pod's, whose processes find this socket in /proc/net/netlink.
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Lets only messages of this kind through to the socket's queue.
    pub(crate) fn only(&self, kind: u16) -> std::io::Result<()> {
        const LOAD_HALF_ABSOLUTE: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
        const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        // `nlmsg_type` is in the order of the machine, a classic BPF load in the network's.
        SockRef::from(&self.fd).attach_filter(&[
            SockFilter::new(LOAD_HALF_ABSOLUTE, 0, 0, 4),
            SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(kind.to_be())),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ])
    }

    /// Sends a request; what an earlier one left unread is thrown away first. The sequence number that its answer has.
    pub(crate) fn ask(&mut self, kind: u16, flags: i32, payload: &[u8], scratch: &mut [u8]) -> nix::Result<u32> {
        for _ in 0..DATAGRAMS_SKIPPED_MAX {
            if recv(self.fd.as_raw_fd(), scratch, MsgFlags::MSG_DONTWAIT).is_err() {
                break;
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        let len = HEADER_LEN + payload.len();
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(&u32::try_from(len).map_err(|_| Errno::EMSGSIZE)?.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(payload);
        send(self.fd.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(self.sequence)
    }

    /// The next datagram of the kernel. `EAGAIN` = none (in time); `ENOBUFS` = some were lost.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut [u8]) -> nix::Result<&'b [u8]> {
        for _ in 0..DATAGRAMS_SKIPPED_MAX {
            match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), buffer) {
                Ok((len, Some(from))) if from.pid() == 0 => return buffer.get(..len).ok_or(Errno::EMSGSIZE),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EAGAIN)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'b> {
    /// `nlmsg_type`
    pub(crate) kind: u16,
    /// `nlmsg_flags`
    pub(crate) flags: u16,
    /// `nlmsg_seq`
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) payload: &'b [u8],
}

impl Message<'_> {
    /// Of NLMSG_ERROR (and of NLMSG_DONE, whose payload begins in the same way): the errno, 0 = none.
    pub(crate) fn errno(&self) -> Errno {
        Errno::from_raw(u32_at(self.payload, 0).unwrap_or(0).cast_signed().wrapping_neg())
    }
}

/// A datagram that was cut short, or is none of netlink's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The messages of a datagram; after a malformed one there are no more.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let message = message(datagram);
        datagram = match &message {
            Some(message) => datagram.get(aligned(HEADER_LEN + message.payload.len())..).unwrap_or_default(),
            None => &[],
        };
        Some(message.ok_or(Malformed))
    })
}

fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
    Some(Message {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        payload: bytes.get(HEADER_LEN..len)?,
    })
}

/// Kind and value of each attribute, up to the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_KIND;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute.
pub(crate) fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("attributes of requests are some bytes long");
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(aligned(message.len()), 0);
}

/// In the machine's order, as netlink's own fields are.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `NLMSG_ALIGN`, `NLA_ALIGN`
const fn aligned(len: usize) -> usize {
    len.saturating_add(3) & !3
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message as the kernel writes it.
    pub(crate) fn framed(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend_from_slice(&u32::try_from(HEADER_LEN + payload.len()).expect("short").to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(payload);
        message.resize(aligned(message.len()), 0);
        message
    }

    #[test]
    fn messages_of_a_datagram_come_one_by_one_and_a_cut_one_is_told() {
        let mut datagram = framed(20, 2, &[1, 2, 3, 4, 5]);
        datagram.extend(framed(3, 0, &(-2_i32).to_ne_bytes()));
        let whole: Vec<_> = messages(&datagram).collect::<Result<_, _>>().expect("well-formed");
        assert_eq!((whole[0].kind, whole[0].flags, whole[0].payload), (20, 2, &[1, 2, 3, 4, 5][..]));
        assert_eq!((whole[1].kind, whole[1].errno()), (3, Errno::ENOENT));
        let cut: Vec<_> = messages(&datagram[..datagram.len() - 1]).collect();
        assert_eq!((cut.len(), cut[1]), (2, Err(Malformed)));
    }

    #[test]
    fn attributes_survive_being_written_and_read() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 7, &[9]);
        push_attribute(&mut bytes, 0x8000 | 8, &[1, 2, 3, 4]);
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(7, &[9][..]), (8, &[1, 2, 3, 4][..])]);
        bytes.extend_from_slice(&[255, 0, 1, 0]);
        assert_eq!(attributes(&bytes).count(), 2);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
