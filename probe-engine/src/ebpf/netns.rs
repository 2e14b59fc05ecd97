//! Network namespaces: how a target names its own, and the ones that are held open.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// The namespace's number, which no other ever gets (since Linux 5.14).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// Where a target's address is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsRef {
    /// The daemon's own namespace.
    Own,
    /// The one that this path opens, as the runtime says.
    Path(Arc<str>),
}

/// The namespace's number of the calling thread.
///
/// # Errors
/// Those of socket(2); ENOPROTOOPT before Linux 5.14.
pub fn own_cookie() -> nix::Result<u64> {
    cookie_of(&socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// The number of the namespace in which this socket was made.
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub fn cookie_of(socket: &impl AsFd) -> nix::Result<u64> {
    getsockopt(socket, NetnsCookie)
}
