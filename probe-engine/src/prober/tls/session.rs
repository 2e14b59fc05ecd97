//! TLS sessions that later attempts resume: a handshake without certificate and signature, where the server agrees.
//!
//! A resumed handshake verifies as much as a full one does here, that is nothing but that the server still has the secrets
//! of a connection that went well. So that it hides nothing for long and spoils nothing, a session is kept only from an
//! exchange that was answered, goes to one attempt, and descends from a full handshake at most [`TLS_FULL_HANDSHAKE_EVERY`]
//! ago; a server that fails with one gets the full handshake in the same attempt ([`super`]) and no further session for
//! [`TLS_RESUMPTION_PAUSE`].
//!
//! Bound: [`TLS_SESSIONS_PEERS_MAX`] servers with [`TLS_SESSIONS_PER_PEER_MAX`] sessions each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use probe_core::time::Instant;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use crate::limits::{
    TLS_FULL_HANDSHAKE_EVERY, TLS_RESUMPTION_PAUSE, TLS_SESSIONS_PEERS_MAX, TLS_SESSIONS_PER_PEER_MAX,
};

/// Which server a session is with: where it was reached, and the name that it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) host: Box<str>,
}

/// What one connection left behind for the next.
#[derive(Debug)]
enum Secrets {
    Tls12(Tls12ClientSessionValue),
    Tls13(Tls13ClientSessionValue),
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    secrets: Secrets,
    /// The full handshake that it descends from.
    proven_at: Instant,
}

/// All sessions, of all threads.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_peer: Mutex<HashMap<Peer, Kept>>,
}

#[derive(Debug)]
enum Kept {
    /// Newest last.
    Sessions(Vec<Session>),
    /// It failed with one.
    Refused { at: Instant },
}

impl Kept {
    fn is_stale(&self, now: Instant) -> bool {
        match self {
            Kept::Sessions(sessions) => {
                sessions.last().is_none_or(|session| now - session.proven_at >= TLS_FULL_HANDSHAKE_EVERY)
            }
            Kept::Refused { at } => now - *at >= TLS_RESUMPTION_PAUSE,
        }
    }
}

impl Sessions {
    /// The newest session with this server, which is no longer kept.
    pub(super) fn take(&self, peer: &Peer, now: Instant) -> Option<Session> {
        let mut by_peer = self.lock();
        let Some(Kept::Sessions(sessions)) = by_peer.get_mut(peer) else { return None };
        sessions.pop().filter(|session| now - session.proven_at < TLS_FULL_HANDSHAKE_EVERY)
    }

    /// Keeps what a connection that went well has gained. `proven_at`: the full handshake that it descends from.
    pub(super) fn keep(&self, peer: Peer, gained: &Gained, proven_at: Instant, now: Instant) {
        let gained = std::mem::take(&mut *gained.lock());
        if gained.is_empty() {
            return;
        }
        let mut by_peer = self.lock();
        if by_peer.len() >= TLS_SESSIONS_PEERS_MAX && !by_peer.contains_key(&peer) {
            by_peer.retain(|_, kept| !kept.is_stale(now));
            if by_peer.len() >= TLS_SESSIONS_PEERS_MAX {
                return;
            }
        }
        let kept = by_peer.entry(peer).or_insert_with(|| Kept::Sessions(Vec::new()));
        if kept.is_stale(now) {
            *kept = Kept::Sessions(Vec::with_capacity(TLS_SESSIONS_PER_PEER_MAX));
        }
        let Kept::Sessions(sessions) = kept else { return };
        for secrets in gained {
            if sessions.len() >= TLS_SESSIONS_PER_PEER_MAX {
                sessions.remove(0);
            }
            sessions.push(Session { secrets, proven_at });
        }
    }

    /// This server fails when a session is offered: none is, for a while.
    pub(super) fn refuse(&self, peer: Peer, now: Instant) {
        let mut by_peer = self.lock();
        if by_peer.len() < TLS_SESSIONS_PEERS_MAX || by_peer.contains_key(&peer) {
            by_peer.insert(peer, Kept::Refused { at: now });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, Kept>> {
        // A map is whole between two calls, whoever panicked.
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection has gained so far.
#[derive(Debug, Default)]
pub(super) struct Gained(Mutex<Vec<Secrets>>);

impl Gained {
    fn lock(&self) -> MutexGuard<'_, Vec<Secrets>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, secrets: Secrets) {
        let mut gained = self.lock();
        // A server may send tickets without end: the newest count.
        if gained.len() >= TLS_SESSIONS_PER_PEER_MAX {
            gained.remove(0);
        }
        gained.push(secrets);
    }
}

/// The store that one connection's TLS sees: what it may offer, and where it puts what it gains.
#[derive(Debug)]
pub(super) struct Store {
    offered: Mutex<Option<Session>>,
    gained: Arc<Gained>,
}

impl Store {
    pub(super) fn new(offered: Option<Session>, gained: Arc<Gained>) -> Self {
        Self { offered: Mutex::new(offered), gained }
    }

    fn offered(&self) -> MutexGuard<'_, Option<Session>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// When the full handshake was that this descends from.
    pub(super) const fn proven_at(&self) -> Instant {
        self.proven_at
    }
}

/// Names are not looked at: a store is of one connection. Key exchange groups are not remembered, every server of today
/// takes the first one.
impl ClientSessionStore for Store {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.gained.push(Secrets::Tls12(value));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        match self.offered().as_ref().map(|session| &session.secrets) {
            Some(Secrets::Tls12(value)) => Some(value.clone()),
            _ => None,
        }
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.offered() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.gained.push(Secrets::Tls13(value));
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut offered = self.offered();
        match offered.take() {
            Some(Session { secrets: Secrets::Tls13(value), .. }) => Some(value),
            other => {
                *offered = other;
                None
            }
        }
    }
}
