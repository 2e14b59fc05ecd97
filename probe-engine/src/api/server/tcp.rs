//! The control API over TCP: TLS with a certificate on both sides, or nothing.
//!
//! Bounds: [`limits::API_HANDSHAKES_MAX`] handshakes of [`limits::API_HANDSHAKE_MAX`] each, and
//! [`limits::API_TCP_CONNECTIONS_MAX`] connections beside them. **Invariant:** no byte of HTTP/2 is read from a peer whose certificate
//! was not verified.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use probe_core::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info};

use super::connection::{ACCEPT_RETRY, Connection};
use crate::api::certificates::{CertificateError, CertificateFiles, Certificates, Newest};
use crate::consumer::metrics::TcpStats;
use crate::{clock, limits};

/// A client whose certificate was verified.
pub(super) type Verified = Connection<TlsStream<TcpStream>>;

/// Why the control API is not served over TCP.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The address is another program's.
    #[error(
        "--api-listen {address}: another program listens there (`ss -ltnp 'sport = :{}'` names it); choose another \
         address, or `off`: {source}", .address.port()
    )]
    Taken {
        /// As configured.
        address: SocketAddr,
        /// EADDRINUSE
        source: io::Error,
    },
    /// Anything else.
    #[error("--api-listen {address}: cannot listen: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Its errno.
        source: io::Error,
    },
    /// What it would be known by.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
}

/// What holds back peers, and how old certificates may be; [`limits`] but in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) handshakes_max: usize,
    pub(super) handshake_max: Duration,
    pub(super) connections_max: usize,
    pub(super) look_every: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshakes_max: limits::API_HANDSHAKES_MAX,
            handshake_max: limits::API_HANDSHAKE_MAX,
            connections_max: limits::API_TCP_CONNECTIONS_MAX,
            look_every: limits::API_CERTIFICATES_LOOK_EVERY,
        }
    }
}

/// A listener with certificates.
pub struct Tcp {
    listener: TcpListener,
    address: SocketAddr,
    certificates: Certificates,
    stats: Arc<TcpStats>,
    bounds: Bounds,
}

impl Tcp {
    /// Reads the certificates and takes the address (port 0 = any free one).
    ///
    /// # Errors
    /// Certificates that cannot be used, an address that cannot be had.
    pub async fn bind(address: SocketAddr, files: &CertificateFiles) -> Result<Self, TcpError> {
        let stats = Arc::new(TcpStats::default());
        let certificates = Certificates::load(files, Arc::clone(&stats))?;
        let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => TcpError::Taken { address, source },
            _ => TcpError::Listen { address, source },
        })?;
        let address = listener.local_addr().map_err(|source| TcpError::Listen { address, source })?;
        Ok(Self { listener, address, certificates, stats, bounds: Bounds::default() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> Arc<TcpStats> {
        Arc::clone(&self.stats)
    }

    #[cfg(test)]
    pub(super) fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Accepts for as long as the stream is held.
    pub(super) fn incoming(self) -> ReceiverStream<io::Result<Verified>> {
        let (to, from) = mpsc::channel(1);
        let newest = self.certificates.newest();
        tokio::spawn(self.certificates.follow(self.bounds.look_every));
        let door = Door {
            newest,
            places: Arc::new(Semaphore::new(self.bounds.connections_max)),
            bounds: self.bounds,
            handshakes: VecDeque::new(),
            stats: self.stats,
            told_at: None,
            untold_count: 0,
        };
        tokio::spawn(door.keep(self.listener, to));
        ReceiverStream::new(from)
    }
}

/// How a handshake ended without a connection.
enum Refusal {
    Tls(io::Error),
    TimedOut,
    Full,
}

type Handshake = Pin<Box<dyn Future<Output = Result<Verified, Refusal>> + Send>>;

/// Where peers come in. All handshakes are made by one task: they never take more than one of the threads that others need.
struct Door {
    newest: Newest,
    places: Arc<Semaphore>,
    bounds: Bounds,
    /// Oldest first.
    handshakes: VecDeque<(SocketAddr, Handshake)>,
    stats: Arc<TcpStats>,
    /// When a refusal was last told.
    told_at: Option<Instant>,
    untold_count: u64,
}

impl Door {
    async fn keep(mut self, listener: TcpListener, to: mpsc::Sender<io::Result<Verified>>) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.begin(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on the control API's address (out of descriptors?)");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                (peer, ended) = next(&mut self.handshakes) => match ended {
                    Ok(connection) => {
                        self.stats.accepted.fetch_add(1, Ordering::Relaxed);
                        debug!(%peer, certificate = connection.certificate(), "API client let in");
                        if to.send(Ok(connection)).await.is_err() {
                            return;
                        }
                    }
                    Err(refusal) => self.refused(peer, &refusal),
                },
                () = to.closed() => return,
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.handshakes.len() >= self.bounds.handshakes_max
            && let Some((oldest, _)) = self.handshakes.pop_front()
        {
            self.stats.displaced.fetch_add(1, Ordering::Relaxed);
            self.tell(oldest, "others came while its handshake was under way");
        }
        // Answers are small, and wanted at once.
        let _ = stream.set_nodelay(true);
        let (credentials, trust) = self.newest.credentials();
        let (places, handshake_max) = (Arc::clone(&self.places), self.bounds.handshake_max);
        let handshake = async move {
            let deadline = tokio::time::Instant::now() + handshake_max;
            let accept = TlsAcceptor::from(Arc::clone(&credentials.tls)).accept(stream);
            let accepted = tokio::time::timeout_at(deadline, accept).await.map_err(|_| Refusal::TimedOut)?;
            let stream = accepted.map_err(Refusal::Tls)?;
            match tokio::time::timeout_at(deadline, places.acquire_owned()).await {
                Ok(Ok(place)) => Ok(Connection::verified(stream, trust, place)),
                _ => Err(Refusal::Full),
            }
        };
        self.handshakes.push_back((peer, Box::pin(handshake)));
    }

    fn refused(&mut self, peer: SocketAddr, refusal: &Refusal) {
        let (counter, why) = match refusal {
            Refusal::Tls(error) => (&self.stats.refused, error.to_string()),
            Refusal::TimedOut => (&self.stats.timed_out, "no handshake in time".to_owned()),
            Refusal::Full => (&self.stats.full, "there are as many connections as there may be".to_owned()),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.tell(peer, &why);
    }

    /// Who knocks is for strangers to choose: one line a minute.
    fn tell(&mut self, peer: SocketAddr, why: &str) {
        let now = clock::now();
        if self.told_at.is_some_and(|told_at| now - told_at < limits::API_REFUSALS_TOLD_EVERY) {
            self.untold_count += 1;
            debug!(%peer, why, "API client refused");
            return;
        }
        info!(%peer, why, others_since_the_last_line = self.untold_count, "API client refused");
        self.told_at = Some(now);
        self.untold_count = 0;
    }
}

/// The next handshake that ends; waits for ever where there is none. Cancel-safe.
async fn next(handshakes: &mut VecDeque<(SocketAddr, Handshake)>) -> (SocketAddr, Result<Verified, Refusal>) {
    poll_fn(|cx: &mut Context<'_>| {
        for index in 0..handshakes.len() {
            let (peer, handshake) = &mut handshakes[index];
            if let Poll::Ready(ended) = handshake.as_mut().poll(cx) {
                let peer = *peer;
                handshakes.remove(index);
                return Poll::Ready((peer, ended));
            }
        }
        Poll::Pending
    })
    .await
}
