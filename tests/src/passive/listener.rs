//! A listener of the test's own, and the accept queue behind it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::oracle::{Answer, Call};
use super::socket::accept_queue;
use crate::netns::TestNetns;

/// Room for every connection that one round of attempts can leave in a queue.
pub const BACKLOG: i32 = 64;

/// What a listener is made with.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Where; wildcards too.
    pub bind: SocketAddr,
    /// IPV6_V6ONLY
    pub only_v6: bool,
    /// IPPROTO_MPTCP, as Go makes them.
    pub mptcp: bool,
}

impl Form {
    /// Plain TCP, dual stack where it is `[::]`.
    #[must_use]
    pub const fn tcp(bind: SocketAddr) -> Self {
        Self { bind, only_v6: false, mptcp: false }
    }

    /// SO_REUSEADDR and, unless it is to stand alone, SO_REUSEPORT; bound in the calling thread's namespace, not listening.
    pub fn bound(self, shared: bool) -> io::Result<Socket> {
        let protocol = if self.mptcp { Protocol::MPTCP } else { Protocol::TCP };
        let socket = Socket::new(Domain::for_address(self.bind), Type::STREAM.nonblocking(), Some(protocol))?;
        socket.set_reuse_address(true)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        // So that it can be bound before its address is there.
        if self.bind.is_ipv6() {
            socket.set_only_v6(self.only_v6)?;
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
        socket.bind(&self.bind.into())?;
        Ok(socket)
    }
}

/// An open socket that listens, or did until it was shut down.
#[derive(Debug)]
pub struct Listener {
    /// What it was made with.
    pub form: Form,
    /// For options that a test sets on it.
    pub socket: Socket,
    /// In LISTEN.
    pub listening: bool,
    /// Whoever connects is accepted at once.
    pub accepting: bool,
    /// The other ends of what a test put into its queue.
    held: Vec<Call>,
}

impl Listener {
    /// Opens one in this namespace.
    pub fn open(netns: &TestNetns, form: Form) -> io::Result<Self> {
        let socket = netns.run(|| {
            let socket = form.bound(true)?;
            socket.listen(BACKLOG)?;
            io::Result::Ok(socket)
        })?;
        Ok(Self::of(form, socket))
    }

    /// Two sockets at one place, of which the second's listen(2) fails: the kernel announces both.
    pub fn open_beside_a_failing_one(netns: &TestNetns, form: Form) -> io::Result<Self> {
        let socket = netns.run(|| {
            let (first, second) = (form.bound(false)?, form.bound(false)?);
            first.listen(BACKLOG)?;
            assert!(second.listen(BACKLOG).is_err(), "two listeners at {} without SO_REUSEPORT", form.bind);
            io::Result::Ok(first)
        })?;
        Ok(Self::of(form, socket))
    }

    /// Of a socket that listens.
    #[must_use]
    pub fn of(form: Form, socket: Socket) -> Self {
        Self { form, socket, listening: true, accepting: true, held: Vec::new() }
    }

    /// LISTEN -> CLOSE; the socket keeps its port.
    pub fn shut_down(&mut self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Read)?;
        self.listening = false;
        self.held.clear();
        Ok(())
    }

    /// listen(2) on the same socket again, or with another backlog.
    pub fn listen(&mut self, backlog: i32) -> io::Result<()> {
        self.socket.listen(backlog)?;
        self.listening = true;
        Ok(())
    }

    /// The socket under another descriptor: what its maker handed on, and closed its own.
    pub fn hand_over(&mut self) -> io::Result<()> {
        self.socket = self.socket.try_clone()?;
        Ok(())
    }

    /// No room is left in its accept queue: the backlog is `backlog` now, and nobody accepts. `from` is where one can
    /// connect to it from; the others of a SO_REUSEPORT group get connections too, of which `others` are emptied.
    pub fn fill(&mut self, from: &TestNetns, to: SocketAddr, backlog: u32) -> io::Result<()> {
        self.accepting = false;
        self.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let calls: io::Result<Vec<Call>> = from.run(|| {
            let mut calls = Vec::new();
            // Of a group some calls go elsewhere: more of them than places, and an end.
            for _ in 0..(backlog + 1) * 16 {
                if self.is_full() {
                    break;
                }
                calls.push(Call::new(to)?);
            }
            Ok(calls)
        });
        self.held.extend(calls?);
        Ok(())
    }

    /// Strictly more connections than the backlog wait: the kernel drops what comes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.listening && accept_queue(&self.socket).is_ok_and(|(len, max)| len > max)
    }

    /// Connections that wait.
    #[must_use]
    pub fn queue_len(&self) -> u32 {
        if self.listening { accept_queue(&self.socket).map_or(0, |(len, _)| len) } else { 0 }
    }

    /// Takes the oldest out of the queue.
    pub fn accept_one(&self) -> bool {
        // A reset one is an error of accept(2), and out of the queue as well.
        self.queue_len() > 0 && !matches!(self.socket.accept(), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Accepts, as long as there is something.
    pub fn drain(&mut self) {
        while self.listening && self.accept_one() {}
        self.held.clear();
    }

    /// An application that accepts again.
    pub fn resume(&mut self) -> io::Result<()> {
        self.accepting = true;
        self.drain();
        self.listen(BACKLOG)
    }
}

/// The wildcard of this address's family.
#[must_use]
pub fn wildcard(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, addr.port()).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, addr.port()).into(),
    }
}

/// One connect from this namespace, and its answer within `patience`.
pub fn connects(from: &TestNetns, to: SocketAddr, patience: std::time::Duration) -> Answer {
    from.run(|| Call::new(to).and_then(|mut call| call.wait(patience))).expect("a socket of the test's own")
}
