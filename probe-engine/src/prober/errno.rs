//! One table: which errno is trouble of our own, and how Go words the rest.
//!
//! Go's `syscall` package (`zerrors_linux_*.go`) spells the texts; a target's failure shows them to people as a
//! kubelet does. **Invariant:** an errno that is not in [`read`]'s list says something about the target.

use std::borrow::Cow;
use std::net::SocketAddr;

use nix::errno::Errno;
use probe_core::outcome::LocalCause;
use socket2::{Domain, Protocol, Socket, Type};

/// What an errno of socket(2), connect(2), send(2) or recv(2) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Trouble of our own: says nothing of the target.
    Local(LocalCause),
    /// EADDRNOTAVAIL: ours where the ephemeral ports towards the destination are used up
    /// ([`ports_used_up`] tells), the target's where there is no source address for it.
    AddressNotAvailable,
    /// The target, or the way to it, is at fault.
    Target,
}

/// The table.
#[must_use]
pub fn read(errno: i32) -> Reading {
    match Errno::from_raw(errno) {
        Errno::EMFILE => Reading::Local(LocalCause::ProcessFiles),
        Errno::ENFILE => Reading::Local(LocalCause::SystemFiles),
        Errno::ENOBUFS => Reading::Local(LocalCause::Buffers),
        Errno::ENOMEM => Reading::Local(LocalCause::Memory),
        // Nobody but us cancels; one that we did not ask for is a ring that could not carry the request.
        Errno::ECANCELED => Reading::Local(LocalCause::RingFull),
        Errno::EADDRNOTAVAIL => Reading::AddressNotAvailable,
        _ => Reading::Target,
    }
}

/// The cause where this errno is trouble of our own. `used_up` is asked only for EADDRNOTAVAIL: are the
/// ephemeral ports towards the destination really used up?
#[must_use]
pub fn local_cause(errno: i32, used_up: impl FnOnce() -> bool) -> Option<LocalCause> {
    match read(errno) {
        Reading::Local(cause) => Some(cause),
        Reading::AddressNotAvailable if used_up() => Some(LocalCause::Ports),
        Reading::AddressNotAvailable | Reading::Target => None,
    }
}

/// After a connect(2) to `peer` gave EADDRNOTAVAIL: was it for want of an ephemeral port?
///
/// The kernel gives the same errno where it has no source address for the destination (`::1` without IPv6).
/// A datagram socket's connect(2) looks for that address too but needs no free TCP port and sends nothing: where
/// it succeeds, ports are what was missing.
#[must_use]
pub fn ports_used_up(peer: &SocketAddr) -> bool {
    let connect = || {
        let socket = Socket::new(Domain::for_address(*peer), Type::DGRAM, Some(Protocol::UDP))?;
        socket.connect(&(*peer).into())
    };
    match connect() {
        Ok(()) => true,
        // Even datagrams find no port, or we cannot ask: then it is not the target that lacks something.
        Err(error) => matches!(
            error.raw_os_error(),
            Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
        ),
    }
}

/// Go's words for an errno, as they end its network errors; `errno 4095` for one it has no words for.
#[must_use]
pub fn wording(errno: i32) -> Cow<'static, str> {
    let words = match Errno::from_raw(errno) {
        Errno::EPERM => "operation not permitted",
        Errno::EINTR => "interrupted system call",
        Errno::EIO => "input/output error",
        Errno::EBADF => "bad file descriptor",
        Errno::EAGAIN => "resource temporarily unavailable",
        Errno::ENOMEM => "cannot allocate memory",
        Errno::EACCES => "permission denied",
        Errno::ENODEV => "no such device",
        Errno::EINVAL => "invalid argument",
        Errno::ENFILE => "too many open files in system",
        Errno::EMFILE => "too many open files",
        Errno::EPIPE => "broken pipe",
        Errno::ENOSYS => "function not implemented",
        Errno::EPROTO => "protocol error",
        Errno::EDESTADDRREQ => "destination address required",
        Errno::EMSGSIZE => "message too long",
        Errno::ENOPROTOOPT => "protocol not available",
        Errno::EPROTONOSUPPORT => "protocol not supported",
        Errno::EOPNOTSUPP => "operation not supported",
        Errno::EAFNOSUPPORT => "address family not supported by protocol",
        Errno::EADDRINUSE => "address already in use",
        Errno::EADDRNOTAVAIL => "cannot assign requested address",
        Errno::ENETDOWN => "network is down",
        Errno::ENETUNREACH => "network is unreachable",
        Errno::ENETRESET => "network dropped connection on reset",
        Errno::ECONNABORTED => "software caused connection abort",
        Errno::ECONNRESET => "connection reset by peer",
        Errno::ENOBUFS => "no buffer space available",
        Errno::EISCONN => "transport endpoint is already connected",
        Errno::ENOTCONN => "transport endpoint is not connected",
        Errno::ESHUTDOWN => "cannot send after transport endpoint shutdown",
        Errno::ETIMEDOUT => "connection timed out",
        Errno::ECONNREFUSED => "connection refused",
        Errno::EHOSTDOWN => "host is down",
        Errno::EHOSTUNREACH => "no route to host",
        Errno::EALREADY => "operation already in progress",
        Errno::EINPROGRESS => "operation now in progress",
        Errno::ECANCELED => "operation canceled",
        Errno::ENOKEY => "required key not available",
        _ => return Cow::Owned(format!("errno {errno}")),
    };
    Cow::Borrowed(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_shortages_are_local_and_everything_else_is_the_targets() {
        let local = [
            (libc::EMFILE, LocalCause::ProcessFiles),
            (libc::ENFILE, LocalCause::SystemFiles),
            (libc::ENOBUFS, LocalCause::Buffers),
            (libc::ENOMEM, LocalCause::Memory),
            (libc::ECANCELED, LocalCause::RingFull),
        ];
        for errno in 1..4_096 {
            let expected = local.iter().find(|(local, _)| *local == errno).map(|(_, cause)| *cause);
            if errno != libc::EADDRNOTAVAIL {
                assert_eq!(local_cause(errno, || unreachable!()), expected, "errno {errno}");
            }
        }
    }

    #[test]
    fn a_missing_source_address_is_a_failure_and_missing_ports_are_local() {
        assert_eq!(local_cause(libc::EADDRNOTAVAIL, || true), Some(LocalCause::Ports));
        assert_eq!(local_cause(libc::EADDRNOTAVAIL, || false), None);
    }

    #[test]
    fn the_loopback_address_never_lacks_a_source_address() {
        assert!(ports_used_up(&SocketAddr::from(([127, 0, 0, 1], 1))));
    }

    #[test]
    fn words_are_those_of_go() {
        assert_eq!(wording(libc::ECONNREFUSED), "connection refused");
        assert_eq!(wording(libc::EHOSTUNREACH), "no route to host");
        assert_eq!(wording(libc::ENETUNREACH), "network is unreachable");
        assert_eq!(wording(libc::ECONNRESET), "connection reset by peer");
        assert_eq!(wording(libc::ETIMEDOUT), "connection timed out");
        assert_eq!(wording(4_095), "errno 4095");
    }
}
