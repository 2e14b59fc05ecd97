//! A [`Kernel`] that waits no longer than a few milliseconds of real time: due times and deadlines are the test clock's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use probe_engine::shard::kernel::{CloseMode, Completion, ConnectInfo, Full, Kernel, SocketId};
use probe_engine::shard::token::Token;

/// Longest real wait for a completion. On loopback and veth a connect that is answered at all is answered by then.
pub const PATIENCE: Duration = Duration::from_millis(2);

/// Connects submitted, by where to.
pub type Connects = Rc<RefCell<BTreeMap<SocketAddr, u64>>>;

/// See the module.
pub struct Impatient<K> {
    inner: K,
    connects: Connects,
}

impl<K> Impatient<K> {
    /// And the count of its connects: what really was attempted.
    pub fn new(inner: K) -> (Self, Connects) {
        let connects = Connects::default();
        (Self { inner, connects: Rc::clone(&connects) }, connects)
    }
}

impl<K: Kernel> Kernel for Impatient<K> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn socket(&mut self, peer: &SocketAddr, close: CloseMode) -> io::Result<SocketId> {
        self.inner.socket(peer, close)
    }

    fn connect(&mut self, token: Token, socket: SocketId, peer: SocketAddr) -> Result<(), Full> {
        *self.connects.borrow_mut().entry(peer).or_default() += 1;
        self.inner.connect(token, socket, peer)
    }

    fn send(
        &mut self,
        token: Token,
        socket: SocketId,
        buffer: Box<[u8]>,
        from: usize,
    ) -> Result<(), (Full, Box<[u8]>)> {
        self.inner.send(token, socket, buffer, from)
    }

    fn recv(&mut self, token: Token, socket: SocketId, buffer: Box<[u8]>) -> Result<(), (Full, Box<[u8]>)> {
        self.inner.recv(token, socket, buffer)
    }

    fn cancel(&mut self, token: Token, socket: SocketId) {
        self.inner.cancel(token, socket);
    }

    fn close(&mut self, socket: SocketId) {
        self.inner.close(socket);
    }

    fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.inner.flush(wait.map(|wait| wait.min(PATIENCE)), completions)
    }

    fn connect_info(&self, socket: SocketId) -> io::Result<ConnectInfo> {
        self.inner.connect_info(socket)
    }

    fn cookie(&self, socket: SocketId) -> io::Result<u64> {
        self.inner.cookie(socket)
    }

    fn ports_used_up(&self, peer: &SocketAddr) -> bool {
        self.inner.ports_used_up(peer)
    }

    fn pending(&self) -> usize {
        self.inner.pending()
    }

    fn release_reserve(&mut self) {
        self.inner.release_reserve();
    }

    fn restore_reserve(&mut self) {
        self.inner.restore_reserve();
    }
}
