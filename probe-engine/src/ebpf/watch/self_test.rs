//! A listener of the daemon's own, by which it knows that the program still reports.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};

use probe_ebpf::counter_slot;
use socket2::{Domain, Socket, Type};

/// Something that makes the program report: a listener, or a test that fails.
pub trait SelfTest {
    /// The counter that must move.
    fn slot(&self) -> u32;

    /// Opens a listener there and closes it: two events.
    ///
    /// # Errors
    /// Of listen(2) or shutdown(2).
    fn listen_and_stop(&mut self) -> io::Result<()>;
}

/// A socket bound to a port of 127.0.0.1, in the daemon's namespace. shutdown(2) ends its listening and leaves it the port.
#[derive(Debug)]
pub struct OwnListener {
    socket: Socket,
    slot: u32,
}

impl OwnListener {
    /// `netns_cookie`: of the calling thread's namespace.
    ///
    /// # Errors
    /// Of socket(2), bind(2), getsockname(2).
    pub fn new(netns_cookie: u64) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let port = socket.local_addr()?.as_socket().map_or(0, |addr| addr.port());
        Ok(Self { socket, slot: counter_slot(netns_cookie, port) })
    }
}

impl SelfTest for OwnListener {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn listen_and_stop(&mut self) -> io::Result<()> {
        self.socket.listen(1)?;
        self.socket.shutdown(Shutdown::Read)
    }
}
