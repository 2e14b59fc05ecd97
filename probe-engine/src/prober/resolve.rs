//! Name resolution for attempts whose `host` is a name: the system's resolver, inside the attempt's deadline.
//!
//! `getaddrinfo` cannot be cancelled, so each lookup has a thread of its own that is left behind at the deadline;
//! [`RESOLVES_CONCURRENT_MAX`] bounds how many there are. (A runtime's blocking pool would make the runtime wait
//! for them when it ends.)

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::LazyLock;

use probe_core::outcome::LocalCause;
use probe_core::time::Instant;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::clock;
use crate::limits::{RESOLVED_ADDRS_MAX, RESOLVES_CONCURRENT_MAX};

use super::errno;

static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(RESOLVES_CONCURRENT_MAX)));

/// Why a name has no address. Texts as Go's `net.DNSError`.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The resolver knows no such name.
    #[error("lookup {host}: no such host")]
    NoSuchHost {
        /// As asked.
        host: String,
    },
    /// The deadline passed.
    #[error("lookup {host}: i/o timeout")]
    Timeout {
        /// As asked.
        host: String,
    },
    /// The resolver failed otherwise.
    #[error("lookup {host}: {}", words(source))]
    Resolver {
        /// As asked.
        host: String,
        /// From getaddrinfo(3).
        source: io::Error,
    },
    /// All places for lookups were taken until the deadline.
    #[error("lookup {host}: {RESOLVES_CONCURRENT_MAX} lookups are under way (a resolver that hangs?)")]
    Busy {
        /// As asked.
        host: String,
    },
    /// No thread could be made.
    #[error("lookup {host}: cannot make a thread: {source} (a limit on threads, TasksMax?)")]
    Thread {
        /// As asked.
        host: String,
        /// From clone(2).
        source: io::Error,
    },
}

impl ResolveError {
    /// The cause where this says nothing of the target.
    #[must_use]
    pub fn local_cause(&self) -> Option<LocalCause> {
        match self {
            ResolveError::Busy { .. } => Some(LocalCause::Pool),
            ResolveError::Thread { .. } => Some(LocalCause::Processes),
            ResolveError::Resolver { source, .. } => {
                source.raw_os_error().and_then(|code| errno::local_cause(code, || false))
            }
            ResolveError::NoSuchHost { .. } | ResolveError::Timeout { .. } => None,
        }
    }
}

/// The addresses of `host`, in the resolver's order, at most [`RESOLVED_ADDRS_MAX`], never none.
///
/// # Errors
/// See [`ResolveError`].
pub async fn lookup(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, ResolveError> {
    let host = host.to_owned();
    let place = Arc::clone(&PLACES).acquire_owned();
    let Ok(Ok(place)) = timeout(clock::until(deadline), place).await else {
        return Err(ResolveError::Busy { host });
    };
    let (sender, answer) = oneshot::channel();
    let name = host.clone();
    let spawned = std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
        let addrs =
            (name.as_str(), port).to_socket_addrs().map(|addrs| addrs.take(RESOLVED_ADDRS_MAX).collect::<Vec<_>>());
        drop(place);
        // Nobody waits any more: the deadline has passed.
        let _ = sender.send(addrs);
    });
    if let Err(source) = spawned {
        return Err(ResolveError::Thread { host, source });
    }
    match timeout(clock::until(deadline), answer).await {
        Err(_) => Err(ResolveError::Timeout { host }),
        Ok(Ok(Ok(addrs))) if !addrs.is_empty() => Ok(addrs),
        Ok(Ok(Ok(_)) | Err(_)) => Err(ResolveError::NoSuchHost { host }),
        Ok(Ok(Err(source))) => Err(failed(host, source)),
    }
}

fn failed(host: String, source: io::Error) -> ResolveError {
    let words = words(&source);
    let unknown = ["Name or service not known", "No address associated", "nodename nor servname"];
    if source.kind() == io::ErrorKind::InvalidInput || unknown.iter().any(|w| words.starts_with(w)) {
        ResolveError::NoSuchHost { host }
    } else {
        ResolveError::Resolver { host, source }
    }
}

/// The resolver's words without those of the standard library before them.
fn words(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(code) => errno::wording(code).into_owned(),
        None => {
            let text = source.to_string();
            let bare = text.strip_prefix("failed to lookup address information: ");
            bare.unwrap_or(&text).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_local_host_has_loopback_addresses() {
        let deadline = clock::now() + Duration::from_secs(10);
        let addrs = lookup("localhost", 80, deadline).await.expect("in /etc/hosts");
        assert!(addrs.iter().all(|a| a.ip().is_loopback() && a.port() == 80), "{addrs:?}");
    }

    #[test]
    fn failures_have_gos_words() {
        let error = |text: &str| {
            let text = format!("failed to lookup address information: {text}");
            failed("foo".to_owned(), io::Error::other(text)).to_string()
        };
        assert_eq!(error("Name or service not known"), "lookup foo: no such host");
        assert_eq!(error("Temporary failure in name resolution"), "lookup foo: Temporary failure in name resolution");
        let full = failed("foo".to_owned(), io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(full.local_cause(), Some(LocalCause::ProcessFiles));
    }
}
