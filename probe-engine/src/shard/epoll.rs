//! [`Kernel`] over epoll and non-blocking sockets: what shards use where io_uring is refused.
//!
//! An operation is tried when it is submitted; one that would block waits for the socket to become ready. Either way
//! its completion comes out of the next [`Kernel::flush`].
//!
//! **Invariant:** one-shot interest: a socket is armed in the epoll instance iff one of its operations waits.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll as Instance, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use socket2::Socket;

use super::kernel::{CloseMode, Completion, ConnectInfo, Full, Kernel, Reserve, SocketId, Waker};
use super::ring;
use super::token::Token;
use crate::prober::errno;

/// Events taken by one epoll_wait. More: the next flush takes them.
const EVENTS_LEN: usize = 256;

/// epoll data of the waker. No socket has it: their lower halves are slab keys.
const WAKER: u64 = u64::MAX;

/// See the module.
pub struct Epoll {
    instance: Instance,
    sockets: Slab<Endpoint>,
    /// Counts up with every socket: an event of an earlier one in the same place (a child process may hold its
    /// description between fork and exec) is recognised.
    generation: u32,
    ready: Vec<Completion>,
    waiting: usize,
    events: Box<[EpollEvent; EVENTS_LEN]>,
    waker: Waker,
    reserve: Reserve,
}

struct Endpoint {
    socket: Socket,
    data: u64,
    /// Known to the epoll instance (armed or not).
    added: bool,
    /// A connect or a send.
    writer: Option<Operation>,
    /// A recv.
    reader: Option<Operation>,
}

struct Operation {
    token: Token,
    work: Work,
}

enum Work {
    Connect(SocketAddr),
    Send { buffer: Box<[u8]>, from: usize },
    Recv(Box<[u8]>),
}

impl Epoll {
    /// An epoll instance that hears `waker`.
    pub fn new(waker: &Waker) -> io::Result<Self> {
        let instance = Instance::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        instance.add(waker.fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKER))?;
        Ok(Self {
            instance,
            sockets: Slab::new(),
            generation: 0,
            ready: Vec::new(),
            waiting: 0,
            events: Box::new([EpollEvent::empty(); EVENTS_LEN]),
            waker: waker.clone(),
            reserve: Reserve::new(),
        })
    }

    /// Tries an operation at once; it waits where it would block.
    fn submit(&mut self, socket: SocketId, mut op: Operation) -> Result<(), Work> {
        let Some(endpoint) = self.sockets.get_mut(socket.0 as usize) else { return Err(op.work) };
        let place = if matches!(op.work, Work::Recv(_)) { &endpoint.reader } else { &endpoint.writer };
        if place.is_some() {
            return Err(op.work);
        }
        match op.work.start(&endpoint.socket) {
            Some(result) => self.ready.push(op.end(result)),
            None => self.park(socket, op),
        }
        Ok(())
    }

    fn park(&mut self, socket: SocketId, op: Operation) {
        let endpoint = &mut self.sockets[socket.0 as usize];
        let place = if matches!(op.work, Work::Recv(_)) { &mut endpoint.reader } else { &mut endpoint.writer };
        *place = Some(op);
        self.waiting += 1;
        self.arm(socket);
    }

    /// Tells the epoll instance what the socket's operations wait for; they fail if it cannot be told.
    fn arm(&mut self, socket: SocketId) {
        let endpoint = &mut self.sockets[socket.0 as usize];
        let mut flags = EpollFlags::EPOLLONESHOT;
        flags.set(EpollFlags::EPOLLOUT, endpoint.writer.is_some());
        flags.set(EpollFlags::EPOLLIN, endpoint.reader.is_some());
        let mut event = EpollEvent::new(flags, endpoint.data);
        let armed = if endpoint.added {
            self.instance.modify(&endpoint.socket, &mut event)
        } else {
            self.instance.add(&endpoint.socket, event)
        };
        match armed {
            Ok(()) => endpoint.added = true,
            // Whatever it was (ENOSPC: fs.epoll.max_user_watches), the target has no part in it.
            Err(_) => {
                let failed = endpoint.writer.take().into_iter().chain(endpoint.reader.take());
                for op in failed {
                    self.waiting -= 1;
                    self.ready.push(op.end(Err(libc::ENOBUFS)));
                }
            }
        }
    }

    /// A socket is ready: its waiting operations go on.
    fn advance(&mut self, data: u64) {
        let socket = SocketId(data as u32);
        let Some(endpoint) = self.sockets.get_mut(socket.0 as usize).filter(|endpoint| endpoint.data == data) else {
            return;
        };
        for place in [&mut endpoint.writer, &mut endpoint.reader] {
            if let Some(op) = place
                && let Some(result) = op.work.resume(&endpoint.socket)
                && let Some(op) = place.take()
            {
                self.waiting -= 1;
                self.ready.push(op.end(result));
            }
        }
        if endpoint.writer.is_some() || endpoint.reader.is_some() {
            self.arm(socket);
        }
    }

    fn wait(&mut self, wait: Option<Duration>) -> io::Result<()> {
        // Rounded up: a wait that ends early would spin until its time has come.
        let millis = wait.map_or(0, |wait| wait.as_nanos().div_ceil(1_000_000));
        let timeout = EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::ZERO);
        let count = match self.instance.wait(&mut self.events[..], timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for at in 0..count {
            match self.events[at].data() {
                WAKER => {
                    // Readable, and nobody else reads it: this does not block.
                    self.waker.fd().read()?;
                    self.waker.heard();
                }
                data => self.advance(data),
            }
        }
        Ok(())
    }
}

impl Work {
    /// The first try; `None` = it would block.
    fn start(&mut self, socket: &Socket) -> Option<Result<usize, i32>> {
        match self {
            Work::Connect(peer) => match socket.connect(&(*peer).into()) {
                Ok(()) => Some(Ok(0)),
                Err(error) => match errno_of(&error) {
                    libc::EINPROGRESS => None,
                    errno => Some(Err(errno)),
                },
            },
            Work::Send { .. } | Work::Recv(_) => self.resume(socket),
        }
    }

    /// A further try, the socket being ready; `None` = it would block all the same.
    fn resume(&mut self, socket: &Socket) -> Option<Result<usize, i32>> {
        let result = match self {
            Work::Connect(_) => match socket.take_error() {
                Ok(Some(error)) | Err(error) => Err(error),
                // Ready and without an error, but not connected: the event was of an earlier state.
                Ok(None) => socket.peer_addr().map(|_| 0).map_err(|error| match errno_of(&error) {
                    libc::ENOTCONN => io::Error::from_raw_os_error(libc::EAGAIN),
                    _ => error,
                }),
            },
            // A peer that is gone is an errno of this attempt, not a signal to the daemon.
            Work::Send { buffer, from } => socket.send_with_flags(&buffer[*from..], libc::MSG_NOSIGNAL),
            Work::Recv(buffer) => (&*socket).read(buffer),
        };
        match result {
            Ok(bytes) => Some(Ok(bytes)),
            Err(error) => match errno_of(&error) {
                libc::EAGAIN | libc::EINTR => None,
                errno => Some(Err(errno)),
            },
        }
    }
}

impl Operation {
    fn end(self, result: Result<usize, i32>) -> Completion {
        let buffer = self.work.into_buffer();
        Completion { token: self.token, result, buffer }
    }
}

impl Work {
    fn into_buffer(self) -> Option<Box<[u8]>> {
        match self {
            Work::Connect(_) => None,
            Work::Send { buffer, .. } | Work::Recv(buffer) => Some(buffer),
        }
    }
}

impl Kernel for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn socket(&mut self, peer: &SocketAddr, close: CloseMode) -> io::Result<SocketId> {
        let socket = ring::tcp_socket(peer, close)?;
        self.generation = self.generation.wrapping_add(1);
        let entry = self.sockets.vacant_entry();
        let id = SocketId(entry.key() as u32);
        let data = (u64::from(self.generation) << 32) | u64::from(id.0);
        entry.insert(Endpoint { socket, data, added: false, writer: None, reader: None });
        Ok(id)
    }

    fn connect(&mut self, token: Token, socket: SocketId, peer: SocketAddr) -> Result<(), Full> {
        let op = Operation { token, work: Work::Connect(peer) };
        self.submit(socket, op).map_err(|_| Full)
    }

    fn send(
        &mut self,
        token: Token,
        socket: SocketId,
        buffer: Box<[u8]>,
        from: usize,
    ) -> Result<(), (Full, Box<[u8]>)> {
        let from = from.min(buffer.len());
        let op = Operation { token, work: Work::Send { buffer, from } };
        self.submit(socket, op).map_err(|work| (Full, work.into_buffer().unwrap_or_default()))
    }

    fn recv(&mut self, token: Token, socket: SocketId, buffer: Box<[u8]>) -> Result<(), (Full, Box<[u8]>)> {
        let op = Operation { token, work: Work::Recv(buffer) };
        self.submit(socket, op).map_err(|work| (Full, work.into_buffer().unwrap_or_default()))
    }

    fn cancel(&mut self, token: Token, socket: SocketId) {
        let Some(endpoint) = self.sockets.get_mut(socket.0 as usize) else { return };
        for place in [&mut endpoint.writer, &mut endpoint.reader] {
            if let Some(op) = place.take_if(|op| op.token == token) {
                self.waiting -= 1;
                self.ready.push(op.end(Err(libc::ECANCELED)));
            }
        }
    }

    fn close(&mut self, socket: SocketId) {
        let Some(endpoint) = self.sockets.try_remove(socket.0 as usize) else { return };
        if endpoint.added {
            // Not left to close(2): a child between fork and exec holds the description, and its events would come.
            let _ = self.instance.delete(endpoint.socket.as_fd());
        }
        for op in endpoint.writer.into_iter().chain(endpoint.reader) {
            self.waiting -= 1;
            self.ready.push(op.end(Err(libc::ECANCELED)));
        }
    }

    fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let wait = wait.filter(|_| self.ready.is_empty());
        self.wait(wait)?;
        completions.append(&mut self.ready);
        Ok(())
    }

    fn connect_info(&self, socket: SocketId) -> io::Result<ConnectInfo> {
        let endpoint = self.sockets.get(socket.0 as usize).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        ring::connect_info(&endpoint.socket)
    }

    fn cookie(&self, socket: SocketId) -> io::Result<u64> {
        let endpoint = self.sockets.get(socket.0 as usize).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        endpoint.socket.cookie()
    }

    fn ports_used_up(&self, peer: &SocketAddr) -> bool {
        errno::ports_used_up(peer)
    }

    fn pending(&self) -> usize {
        self.waiting + self.ready.len()
    }

    fn release_reserve(&mut self) {
        self.reserve.release();
    }

    fn restore_reserve(&mut self) {
        self.reserve.restore();
    }
}

/// Errors of std that carry no errno do not come out of socket calls.
fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
