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

/// A socket bound to a port of 127.0.0.1, in the daemon's namespace. shutdown(2) ends its listening and leaves it the port,
/// because it was bound by number: `tcp_disconnect` takes away a port that the kernel chose.
#[derive(Debug)]
pub struct OwnListener {
    socket: Socket,
    /// For which the kernel chose the port.
    _holder: Socket,
    slot: u32,
}

impl OwnListener {
    /// `netns_cookie`: of the calling thread's namespace.
    ///
    /// # Errors
    /// Of socket(2), bind(2), getsockname(2).
    pub fn new(netns_cookie: u64) -> io::Result<Self> {
        let holder = bound(0)?;
        let port = holder.local_addr()?.as_socket().map_or(0, |addr| addr.port());
        Ok(Self { socket: bound(port)?, _holder: holder, slot: counter_slot(netns_cookie, port) })
    }
}

/// Two of these may share a port while at most one listens.
fn bound(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_its_port_however_often_it_listens() {
        let mut own = OwnListener::new(7).expect("a socket");
        for _ in 0..3 {
            own.listen_and_stop().expect("listen and shutdown");
            let port = own.socket.local_addr().expect("an address").as_socket().expect("an address").port();
            assert_eq!(counter_slot(7, port), own.slot());
        }
    }
}
