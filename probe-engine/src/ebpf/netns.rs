//! Network namespaces: how a target names its own, and the ones that are held open.
//!
//! **Invariant:** a namespace held here is known by its cookie, which no other ever gets; while it is held its inode is its
//! own too. The daemon's threads stay in their namespace: sockets of another one are opened by a thread that enters it and
//! then ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use nix::{getsockopt_impl, sockopt_impl};

use super::listen_drops::Recounted;
use super::netstat::Netstat;
use super::path::monitor::Monitor;
use super::path::query::Routes;
use super::prog_query;
use super::sock_diag::{ChildLookups, SockDiag};

/// Where a target's address is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsRef {
    /// The daemon's own namespace.
    Own,
    /// The one that this path opens, as the runtime says. (In a box it is one word, as there is one in every target; those
    /// with a path are in the few namespaces that can be held open at a time.)
    Path(Box<Arc<str>>),
}

/// A namespace that is held open, with the sockets in it. Dropping it lets the namespace end.
#[derive(Debug)]
pub struct Namespace {
    /// SO_NETNS_COOKIE
    pub cookie: u64,
    /// `net.ns.inum`, for people.
    pub inode: u64,
    file: File,
    /// For dumps.
    pub(crate) diag: SockDiag,
    /// For shards.
    pub(crate) lookups: Arc<ChildLookups>,
    /// For paths.
    pub(crate) routes: Routes,
    /// What changes.
    pub(crate) monitor: Monitor,
    /// Where lost connection requests are counted; `None` = it could not be opened, so any drop may be one.
    pub(crate) netstat: Option<Netstat>,
    /// What dumps and that file told of them.
    pub(crate) listen_drops: Recounted,
}

/// A namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// open(2)
    #[error("open {path}: {source}; {}", open_cause(.source))]
    Open {
        /// Of which reference.
        path: Arc<str>,
        /// Why.
        source: io::Error,
    },
    /// The path opens something else.
    #[error("{path} is not a network namespace")]
    NotNetns {
        /// Of which reference.
        path: Arc<str>,
    },
    /// setns(2)
    #[error("setns {path}: {source}; is CAP_SYS_ADMIN missing? Entering another namespace needs it")]
    Enter {
        /// Of which reference.
        path: Arc<str>,
        /// Why.
        source: Errno,
    },
    /// A netlink socket in it.
    #[error(
        "{socket} socket in {path}: {source}; is the daemon out of descriptors, or the protocol not in this kernel?"
    )]
    Socket {
        /// Which.
        socket: &'static str,
        /// Of which reference.
        path: Arc<str>,
        /// Why.
        source: Errno,
    },
    /// The thread that was to enter it.
    #[error("a thread to enter {path}: {source}")]
    Thread {
        /// Of which reference.
        path: Arc<str>,
        /// Why.
        source: io::Error,
    },
}

/// `/proc/PID/ns/net` of another user's process opens for whom may trace it (`proc_ns_get_link`).
fn open_cause(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "is CAP_SYS_PTRACE (for /proc/PID/ns/net) or CAP_SYS_ADMIN missing?",
        _ => "has the pod ended, or is the path of another mount namespace?",
    }
}

/// The calling thread's.
const OWN: &str = "/proc/thread-self/ns/net";

sockopt_impl!(
    /// The namespace's number, which no other ever gets (since Linux 5.14).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

impl NetnsRef {
    /// The one that this path opens.
    #[must_use]
    pub fn at(path: impl Into<Arc<str>>) -> Self {
        Self::Path(Box::new(path.into()))
    }

    /// As in messages.
    #[must_use]
    pub fn path(&self) -> Arc<str> {
        match self {
            NetnsRef::Own => Arc::from(OWN),
            NetnsRef::Path(path) => Arc::clone(path),
        }
    }

    /// What it names now: a namespace; that it is one of the network is found out when it is entered.
    ///
    /// # Errors
    /// Those of open(2), and what is no namespace.
    pub fn file(&self) -> Result<File, NetnsError> {
        let path = self.path();
        let failed = |source| NetnsError::Open { path: Arc::clone(&path), source };
        // The path comes from an annotation. O_PATH opens nothing: a device would notice, a FIFO would wait.
        let place = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_PATH).open(&*path);
        let place = place.map_err(failed)?;
        let kind = fstatfs(&place).map_err(|errno| failed(errno.into()))?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(NetnsError::NotNetns { path });
        }
        let opened = OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", place.as_raw_fd()));
        opened.map_err(failed)
    }
}

/// Device and inode of a namespace: while one is held open, no other has them.
///
/// # Errors
/// Those of fstat(2).
pub fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Namespace {
    /// Opens it and its sockets. [`NetnsRef::Own`] is the calling thread's, and is not entered: no privilege is needed.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn open(netns: &NetnsRef) -> Result<Self, NetnsError> {
        Self::hold(netns, netns.file()?)
    }

    /// The same for one that is open already.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn hold(netns: &NetnsRef, file: File) -> Result<Self, NetnsError> {
        let path = netns.path();
        if *netns == NetnsRef::Own {
            return Self::inside(path, file);
        }
        let entering = Arc::clone(&path);
        let inside = thread::Builder::new().name("ebpf-netns".into()).spawn(move || {
            match setns(&file, CloneFlags::CLONE_NEWNET) {
                Ok(()) => Self::inside(entering, file),
                Err(Errno::EINVAL) => Err(NetnsError::NotNetns { path: entering }),
                Err(source) => Err(NetnsError::Enter { path: entering, source }),
            }
        });
        let joined = inside.map_err(|source| NetnsError::Thread { path: Arc::clone(&path), source })?.join();
        joined.unwrap_or_else(|_| {
            Err(NetnsError::Thread { path, source: io::Error::other("it panicked: a bug of probe-engine") })
        })
    }

    /// On a thread that is in it.
    fn inside(path: Arc<str>, file: File) -> Result<Self, NetnsError> {
        let fail = |socket: &'static str| {
            let path = Arc::clone(&path);
            move |source| NetnsError::Socket { socket, path, source }
        };
        let inode = identity(&file).map_or(0, |(_, inode)| inode);
        let diag = SockDiag::open().map_err(fail("sock_diag"))?;
        let netstat = Netstat::open();
        if let Err(error) = &netstat {
            tracing::debug!(%error, inode, "no netstat: every drop of a listener counts as a lost request");
        }
        Ok(Self {
            cookie: cookie_of(&diag).map_err(fail("SO_NETNS_COOKIE of a"))?,
            inode,
            file,
            diag,
            lookups: Arc::new(ChildLookups::open().map_err(fail("sock_diag"))?),
            routes: Routes::open().map_err(fail("rtnetlink"))?,
            monitor: Monitor::open().map_err(fail("rtnetlink"))?,
            netstat: netstat.ok(),
            listen_drops: Recounted::default(),
        })
    }

    /// Device and inode.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        identity(&self.file)
    }

    /// Whether an sk_lookup program can redirect its connections (BPF_PROG_QUERY).
    ///
    /// # Errors
    /// EPERM: it may not be asked.
    pub fn has_sk_lookup(&self) -> nix::Result<bool> {
        prog_query::sk_lookup_programs(&self.file).map(|programs| programs > 0)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_does_not_open_tells_what_may_be_missing() {
        let text = |errno: i32| {
            NetnsError::Open { path: Arc::from("/proc/7/ns/net"), source: io::Error::from_raw_os_error(errno) }
                .to_string()
        };
        assert!(text(libc::ENOENT).contains("has the pod ended") && !text(libc::ENOENT).contains("CAP_"));
        assert!(text(libc::EACCES).contains("CAP_SYS_PTRACE"), "{}", text(libc::EACCES));
        let entering = NetnsError::Enter { path: Arc::from("/run/netns/a"), source: Errno::EPERM }.to_string();
        assert!(entering.contains("CAP_SYS_ADMIN"), "{entering}");
    }
}
