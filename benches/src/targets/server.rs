//! tcp, http and https targets: one thread, one epoll, nothing between it and the system calls, so that a target costs
//! less than what probes it.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustix::net::SocketFlags;
use rustls::{ServerConfig, ServerConnection};
use socket2::{Domain, Socket, Type};

use super::{Done, Order, Orders, tls};
use crate::handler::Handler;
use crate::netns::SOMAXCONN;

/// Connections that wait to be accepted, per listener; of a wildcard as many as the namespace allows.
pub(super) const BACKLOG: i32 = 1_024;

/// A SYN that has no answer by then was dropped: on loopback the kernel answers within the call.
const ANSWERED_WITHIN: Duration = Duration::from_millis(100);

/// What an httpGet probe gets.
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// End of a request without a body.
const END: &[u8] = b"\r\n\r\n";

/// Bytes of a request that are kept. Longer: the connection is closed.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Epoll data of standard input; of connections: their place, from here on.
const STDIN: u64 = u64::MAX;
const CONNECTIONS: u64 = 1 << 32;

/// Serves until standard input ends.
pub(super) fn serve(handler: Handler, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let mut server = Server {
        addresses,
        handler,
        config: (handler == Handler::Https).then(tls::config).transpose()?,
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        listeners: (0..addresses.len()).map(|_| None).collect(),
        connections: Vec::new(),
        free: Vec::new(),
    };
    for place in 0..addresses.len() {
        server.open(place)?;
    }
    server.epoll.add(std::io::stdin().as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN))?;
    println!("ready");
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let ready = match server.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        for event in &events[..ready] {
            match event.data() {
                STDIN => {
                    line.clear();
                    if input.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    let orders = Orders::parse(&line)?;
                    println!("{}", Done::of(|| server.obey(&orders))?.line());
                }
                connection if connection >= CONNECTIONS => server.serve((connection - CONNECTIONS) as usize),
                place => server.accept(place as usize)?,
            }
        }
    }
}

/// What listens at a place.
struct Listener {
    socket: Socket,
    kind: Kind,
}

enum Kind {
    Serving,
    /// Its queue is full, and nothing is ever taken out; the connection that fills it, unless a probe was quicker.
    Full {
        _held: Option<TcpStream>,
    },
}

/// An accepted connection whose request is not complete yet.
struct Connection {
    socket: TcpStream,
    request: Vec<u8>,
    tls: Option<Box<ServerConnection>>,
}

/// What is to be done with a connection.
enum Next {
    Wait,
    Close,
}

struct Server<'a> {
    addresses: &'a [SocketAddr],
    handler: Handler,
    config: Option<Arc<ServerConfig>>,
    epoll: Epoll,
    listeners: Vec<Option<Listener>>,
    connections: Vec<Option<Connection>>,
    /// Unused places of `connections`.
    free: Vec<usize>,
}

impl Server<'_> {
    fn obey(&mut self, orders: &Orders) -> anyhow::Result<()> {
        for place in orders.places.iter().copied() {
            // The old one first: the address is the same.
            *self.listeners.get_mut(place).context("no such place")? = None;
            match orders.order {
                Order::Close => {}
                Order::Open => self.open(place)?,
                Order::Drop => self.open_full(place)?,
            }
        }
        Ok(())
    }

    fn open(&mut self, place: usize) -> anyhow::Result<()> {
        let socket = self.bound(place)?;
        socket.listen(if self.addresses[place].ip().is_unspecified() { SOMAXCONN } else { BACKLOG })?;
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
        self.listeners[place] = Some(Listener { socket, kind: Kind::Serving });
        Ok(())
    }

    fn open_full(&mut self, place: usize) -> anyhow::Result<()> {
        let socket = self.bound(place)?;
        socket.listen(0)?;
        let held = fill(&self.addresses[place])?;
        self.listeners[place] = Some(Listener { socket, kind: Kind::Full { _held: held } });
        Ok(())
    }

    fn bound(&self, place: usize) -> anyhow::Result<Socket> {
        let address = self.addresses[place];
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
        Ok(socket)
    }

    fn accept(&mut self, place: usize) -> anyhow::Result<()> {
        // An event of this round may be of the listener that was here before this one.
        while let Some(Some(listener @ Listener { kind: Kind::Serving, .. })) = self.listeners.get(place) {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = rustix::net::accept_with(&listener.socket, flags) else { return Ok(()) };
            if self.handler != Handler::Tcp {
                self.welcome(socket)?;
            }
        }
        Ok(())
    }

    fn welcome(&mut self, socket: OwnedFd) -> anyhow::Result<()> {
        let tls = self.config.as_ref().map(|config| ServerConnection::new(Arc::clone(config)).map(Box::new));
        let mut connection = Connection { socket: TcpStream::from(socket), request: Vec::new(), tls: tls.transpose()? };
        if matches!(connection.serve(), Next::Close) {
            return Ok(());
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.epoll.add(&connection.socket, EpollEvent::new(EpollFlags::EPOLLIN, CONNECTIONS + place as u64))?;
        self.connections[place] = Some(connection);
        Ok(())
    }

    fn serve(&mut self, place: usize) {
        // An event of this round may be of a connection that an earlier one closed.
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        if matches!(connection.serve(), Next::Close) {
            self.connections[place] = None;
            self.free.push(place);
        }
    }
}

/// A backlog of 0 holds one connection; once it is there, further SYNs are dropped. `None`: a probe's came first.
fn fill(address: &SocketAddr) -> std::io::Result<Option<TcpStream>> {
    match TcpStream::connect_timeout(address, ANSWERED_WITHIN) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(error),
    }
}

impl Connection {
    /// Reads what is there and answers once the request is complete.
    fn serve(&mut self) -> Next {
        match &mut self.tls {
            Some(tls) => serve_tls(&mut self.socket, tls, &mut self.request),
            None => serve_plain(&mut self.socket, &mut self.request),
        }
    }
}

fn serve_plain(socket: &mut TcpStream, request: &mut Vec<u8>) -> Next {
    let mut buffer = [0; 2_048];
    match socket.read(&mut buffer) {
        Ok(0) => Next::Close,
        // The usual case without a copy: the request comes in one piece.
        Ok(len) if request.is_empty() && buffer[..len].ends_with(END) => answer(socket),
        Ok(len) => {
            request.extend_from_slice(&buffer[..len]);
            if request.ends_with(END) {
                return answer(socket);
            }
            if request.len() > REQUEST_BYTES_MAX { Next::Close } else { Next::Wait }
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Wait,
        Err(_) => Next::Close,
    }
}

/// So short an answer always fits the socket's buffer.
fn answer(socket: &mut TcpStream) -> Next {
    let _ = socket.write(RESPONSE);
    Next::Close
}

fn serve_tls(socket: &mut TcpStream, tls: &mut ServerConnection, request: &mut Vec<u8>) -> Next {
    match tls.read_tls(socket) {
        Ok(0) => return Next::Close,
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
        Err(_) => return Next::Close,
    }
    let valid = tls.process_new_packets().is_ok();
    let mut buffer = [0; 2_048];
    while let Ok(len @ 1..) = tls.reader().read(&mut buffer) {
        request.extend_from_slice(&buffer[..len]);
    }
    let complete = request.ends_with(END);
    if complete {
        let _ = tls.writer().write(RESPONSE);
        tls.send_close_notify();
    }
    while tls.wants_write() {
        if tls.write_tls(socket).is_err() {
            return Next::Close;
        }
    }
    if complete || !valid || request.len() > REQUEST_BYTES_MAX { Next::Close } else { Next::Wait }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(addresses: &[SocketAddr]) -> Server<'_> {
        Server {
            addresses,
            handler: Handler::Tcp,
            config: None,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll"),
            listeners: vec![None],
            connections: Vec::new(),
            free: Vec::new(),
        }
    }

    fn address() -> SocketAddr {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.local_addr().expect("its address")
    }

    fn is_answered(address: SocketAddr) -> bool {
        fill(&address).expect("an answer, or none").is_some()
    }

    #[test]
    fn what_drops_goes_on_dropping_after_an_event_of_the_listener_before_it() {
        let addresses = [address()];
        let mut server = server(&addresses);
        server.open(0).expect("it listens");
        assert!(is_answered(addresses[0]));
        // The event of that connection is read, but another one of the same round is an order.
        server.obey(&Orders { order: Order::Drop, places: vec![0] }).expect("it drops");
        server.accept(0).expect("nothing to accept");
        assert!(!is_answered(addresses[0]));
        server.obey(&Orders { order: Order::Open, places: vec![0] }).expect("it serves again");
        assert!(is_answered(addresses[0]));
    }

    #[test]
    fn whoever_comes_first_fills_a_queue() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("an address");
        socket.listen(0).expect("it listens");
        let address = socket.local_addr().expect("its address").as_socket().expect("of IPv4");
        let probe = TcpStream::connect(address).expect("an empty queue takes it");
        assert!(fill(&address).expect("no answer").is_none());
        drop(probe);
        assert!(fill(&address).expect("no answer").is_none());
    }
}
