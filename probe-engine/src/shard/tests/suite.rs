//! What both kernels do alike, on real sockets of the loopback interface.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use probe_core::outcome::{LocalCause, Outcome};
use probe_core::spec::Handler;
use socket2::{Domain, SockRef, Socket, Type};

use super::{failure_text, http_get, launch, tcp_socket};
use crate::clock;
use crate::shard::epoll::Epoll;
use crate::shard::flight::{End, Flights, Landed, Launch, Look, Rules};
use crate::shard::kernel::{CloseMode, Completion, Kernel, Waker};
use crate::shard::local_port_range;
use crate::shard::ring::Ring;
use crate::shard::token::{Op, Token};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECOND: Duration = Duration::from_secs(1);
/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each test runs once per kernel; where this host refuses io_uring, the ring's half says so and passes.
macro_rules! on_both_kernels {
    ($($test:ident)*) => {
        mod uring {
            $(#[test]
            fn $test() {
                let waker = super::Waker::new().expect("an eventfd");
                match super::Ring::new(&waker) {
                    Ok(mut ring) => super::$test(&mut ring, &waker),
                    Err(error) => crate::skip::skip(concat!("uring::", stringify!($test)), &error.to_string()),
                }
            })*
        }
        mod epoll {
            $(#[test]
            fn $test() {
                let waker = super::Waker::new().expect("an eventfd");
                super::$test(&mut super::Epoll::new(&waker).expect("epoll"), &waker);
            })*
        }
    };
}

on_both_kernels! {
    t01_a_listening_port_is_a_success_that_says_nothing
    t03_a_closed_port_is_a_failure_connection_refused
    t04_a_target_that_drops_syns_fails_after_the_timeout_and_leaves_no_socket
    t06_an_ipv6_listener_is_a_success
    h01_a_response_in_one_piece_is_a_success_with_its_body
    h16_a_server_error_is_a_failure_without_the_body
    h20_a_silent_server_fails_after_the_timeout
    h21_nothing_listening_is_a_failure_in_gos_words
    a_response_in_single_bytes_is_read_to_its_end
    a_reset_before_the_head_is_a_failure_and_an_end_in_the_body_an_error
    a_close_before_the_head_is_a_failure_eof
    a_redirect_lands_for_somebody_else_to_follow
    a_redirect_with_a_broken_body_is_followed_all_the_same
    a_port_that_answers_itself_is_refused
    a_hundred_timeouts_at_once_are_reaped_and_closed
    linger_zero_leaves_no_time_wait
    bytes_go_out_and_come_back_with_their_buffers
    a_cancelled_receive_completes_once_and_gives_its_buffer_back
    a_wait_ends_at_its_time_and_at_the_wakers_ring
    a_socket_closed_too_early_is_closed_when_its_operation_has_ended
}

fn t01_a_listening_port_is_a_success_that_says_nothing(kernel: &mut impl Kernel, _: &Waker) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("addr").port();
    let held = held_towards(port);
    let landed = fly(kernel, launch(&tcp_socket(port), LOCALHOST, SECOND));
    assert_eq!(outcome(&landed), &Outcome::Success("".into()));
    assert!(landed.phases.connect.is_some());
    assert!(held_towards(port).is_subset(&held));
}

fn t03_a_closed_port_is_a_failure_connection_refused(kernel: &mut impl Kernel, _: &Waker) {
    let port = closed_port();
    let landed = fly(kernel, launch(&tcp_socket(port), LOCALHOST, SECOND));
    let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(failure_text(outcome(&landed)), expected);
}

fn t04_a_target_that_drops_syns_fails_after_the_timeout_and_leaves_no_socket(kernel: &mut impl Kernel, _: &Waker) {
    let hole = Blackhole::new();
    let held = held_towards(hole.port);
    let landed = fly(kernel, launch(&tcp_socket(hole.port), LOCALHOST, SECOND));
    assert_eq!(failure_text(outcome(&landed)), format!("dial tcp 127.0.0.1:{}: i/o timeout", hole.port));
    assert!(landed.phases.total >= SECOND && landed.phases.total < 2 * SECOND, "{:?}", landed.phases.total);
    assert_eq!(sockets_towards(hole.port, SYN_SENT), 0);
    assert!(held_towards(hole.port).is_subset(&held));
}

fn t06_an_ipv6_listener_is_a_success(kernel: &mut impl Kernel, _: &Waker) {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return crate::skip::skip("t06_an_ipv6_listener_is_a_success", "no IPv6 on the loopback interface");
    };
    let port = listener.local_addr().expect("addr").port();
    let landed = fly(kernel, launch(&tcp_socket(port), IpAddr::V6(Ipv6Addr::LOCALHOST), SECOND));
    assert_eq!(outcome(&landed), &Outcome::Success("".into()));
}

fn h01_a_response_in_one_piece_is_a_success_with_its_body(kernel: &mut impl Kernel, _: &Waker) {
    let server = Server::new(|stream| {
        let request = read_request(stream);
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\n"), "{request}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nok body").expect("write");
    });
    let landed = fly(kernel, launch(&http_get(server.port, "/healthz"), LOCALHOST, SECOND));
    assert_eq!(outcome(&landed), &Outcome::Success("ok body".into()));
    assert!(landed.phases.first_byte.is_some() && landed.phases.body.is_some());
    assert!(landed.errand.is_some(), "the errand comes back for the next attempt");
    server.join();
}

fn h16_a_server_error_is_a_failure_without_the_body(kernel: &mut impl Kernel, _: &Waker) {
    let landed = ask(kernel, b"HTTP/1.1 500 no\r\nContent-Length: 6\r\n\r\nsecret");
    assert_eq!(failure_text(outcome(&landed)), "HTTP probe failed with statuscode: 500");
}

fn h20_a_silent_server_fails_after_the_timeout(kernel: &mut impl Kernel, _: &Waker) {
    let (release, hold) = mpsc::channel::<()>();
    let server = Server::new(move |stream| {
        read_request(stream);
        let _ = hold.recv_timeout(PATIENCE);
    });
    let landed = fly(kernel, launch(&http_get(server.port, "/"), LOCALHOST, SECOND));
    let expected = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert!(failure_text(outcome(&landed)).ends_with(expected), "{landed:?}");
    assert_eq!(sockets_towards(server.port, ESTABLISHED), 0);
    drop(release);
    server.join();
}

fn h21_nothing_listening_is_a_failure_in_gos_words(kernel: &mut impl Kernel, _: &Waker) {
    let port = closed_port();
    let landed = fly(kernel, launch(&http_get(port, "/x"), LOCALHOST, SECOND));
    let expected = format!("Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(failure_text(outcome(&landed)), expected);
}

fn a_response_in_single_bytes_is_read_to_its_end(kernel: &mut impl Kernel, _: &Waker) {
    let server = Server::new(|stream| {
        stream.set_nodelay(true).expect("nodelay");
        read_request(stream);
        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" {
            stream.write_all(&[*byte]).expect("write");
        }
    });
    let landed = fly(kernel, launch(&http_get(server.port, "/"), LOCALHOST, PATIENCE));
    assert_eq!(outcome(&landed), &Outcome::Success("abc".into()));
    server.join();
}

fn a_reset_before_the_head_is_a_failure_and_an_end_in_the_body_an_error(kernel: &mut impl Kernel, _: &Waker) {
    let server = Server::new(|stream| {
        read_request(stream);
        SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).expect("linger");
    });
    let landed = fly(kernel, launch(&http_get(server.port, "/"), LOCALHOST, SECOND));
    assert!(failure_text(outcome(&landed)).ends_with("read: connection reset by peer"), "{landed:?}");
    server.join();
    let server = Server::new(|stream| {
        read_request(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").expect("write");
    });
    let landed = fly(kernel, launch(&http_get(server.port, "/"), LOCALHOST, SECOND));
    assert_eq!(outcome(&landed), &Outcome::Error("unexpected EOF".into()));
    server.join();
}

fn a_close_before_the_head_is_a_failure_eof(kernel: &mut impl Kernel, _: &Waker) {
    let landed = ask(kernel, b"");
    assert!(failure_text(outcome(&landed)).ends_with("/\": EOF"), "{landed:?}");
}

fn a_redirect_lands_for_somebody_else_to_follow(kernel: &mut impl Kernel, _: &Waker) {
    let landed = ask(kernel, b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 100\r\n\r\n");
    let End::Redirect(target) = &landed.end else { panic!("{landed:?}") };
    assert!(target.url().ends_with("/next"), "{target:?}");
}

fn a_redirect_with_a_broken_body_is_followed_all_the_same(kernel: &mut impl Kernel, _: &Waker) {
    let landed = ask(kernel, b"HTTP/1.1 302 Found\r\nLocation: /next\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n");
    let End::Redirect(target) = &landed.end else { panic!("{landed:?}") };
    assert!(target.url().ends_with("/next"), "{target:?}");
}

/// The kernel goes through the ephemeral ports in steps of two, so a closed one of the right parity is met sooner or
/// later; what then connects is the attempt's own SYN.
fn a_port_that_answers_itself_is_refused(kernel: &mut impl Kernel, _: &Waker) {
    let mut with_parity = local_port_range().step_by(2).skip(1_000);
    let port = with_parity.find(|port| TcpListener::bind((LOCALHOST, *port)).is_ok()).expect("a free port");
    let peer = SocketAddr::new(LOCALHOST, port);
    let mut met = false;
    for generation in 0..100_000 {
        let socket = kernel.socket(&peer, CloseMode::Fin).expect("socket");
        kernel.connect(Token::new(0, generation, Op::Connect), socket, peer).expect("room");
        let connected = one(kernel).result.is_ok();
        if connected {
            let info = kernel.connect_info(socket).expect("info");
            assert_eq!(info.local, info.peer);
            met = true;
        }
        kernel.close(socket);
        if met {
            break;
        }
    }
    assert!(met, "no connect to :{port} met itself");
}

fn a_hundred_timeouts_at_once_are_reaped_and_closed(kernel: &mut impl Kernel, _: &Waker) {
    let hole = Blackhole::new();
    let held = held_towards(hole.port);
    let mut flights = flights(CloseMode::Fin);
    let now = clock::now();
    for _ in 0..100 {
        flights.start(kernel, launch(&tcp_socket(hole.port), LOCALHOST, SECOND / 5), now);
    }
    let landed = land_all(kernel, &mut flights);
    assert_eq!(landed.len(), 100);
    assert!(landed.iter().all(|landed| failure_text(outcome(landed)).ends_with("i/o timeout")));
    assert_eq!(kernel.pending(), 0);
    assert_eq!(sockets_towards(hole.port, SYN_SENT), 0);
    assert!(held_towards(hole.port).is_subset(&held));
}

fn linger_zero_leaves_no_time_wait(kernel: &mut impl Kernel, _: &Waker) {
    for (close, time_waits) in [(CloseMode::Fin, 1), (CloseMode::Rst, 0)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("addr").port();
        let mut flights = flights(close);
        flights.start(kernel, launch(&tcp_socket(port), LOCALHOST, SECOND), clock::now());
        land_all(kernel, &mut flights);
        // Our FIN, or RST, is answered by the other end's close.
        let (mut accepted, ours) = listener.accept().expect("accept");
        let end = accepted.read(&mut [0]);
        assert_eq!(end.is_err(), close == CloseMode::Rst, "{end:?}");
        drop(accepted);
        // By both ports: the TIME_WAIT sockets of an earlier listener on this port are still there.
        let is_ours = |row: &Row| row.local_port == ours.port() && row.state == TIME_WAIT;
        wait_until(|| rows_towards(port).iter().filter(|row| is_ours(row)).count() == time_waits);
    }
}

fn bytes_go_out_and_come_back_with_their_buffers(kernel: &mut impl Kernel, _: &Waker) {
    let (socket, mut peer) = connected(kernel);
    let text: Box<[u8]> = Box::from(*b"..hello");
    kernel.send(Token::new(1, 1, Op::Send), socket, text, 2).expect("room");
    let sent = one(kernel);
    assert_eq!((sent.token, sent.result), (Token::new(1, 1, Op::Send), Ok(5)));
    assert_eq!(sent.buffer.as_deref(), Some(b"..hello".as_slice()));
    let mut received = [0; 5];
    peer.read_exact(&mut received).expect("read");
    assert_eq!(&received, b"hello");

    kernel.recv(Token::new(1, 1, Op::Recv), socket, Box::new([0; 3])).expect("room");
    peer.write_all(b"worlds").expect("write");
    let first = one(kernel);
    assert_eq!((first.result, first.buffer.as_deref()), (Ok(3), Some(b"wor".as_slice())));
    peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
    kernel.recv(Token::new(1, 1, Op::Recv), socket, Box::new([0; 8])).expect("room");
    let rest = one(kernel);
    assert_eq!(rest.result, Ok(3));
    assert_eq!(&rest.buffer.expect("a buffer")[..3], b"lds");
    kernel.recv(Token::new(1, 1, Op::Recv), socket, Box::new([0; 8])).expect("room");
    assert_eq!(one(kernel).result, Ok(0));
    kernel.close(socket);
    assert_eq!(kernel.pending(), 0);
}

fn a_cancelled_receive_completes_once_and_gives_its_buffer_back(kernel: &mut impl Kernel, _: &Waker) {
    let (socket, _peer) = connected(kernel);
    let token = Token::new(3, 7, Op::Recv);
    kernel.recv(token, socket, Box::new([0; 16])).expect("room");
    nothing(kernel);
    kernel.cancel(Token::new(3, 8, Op::Recv), socket);
    nothing(kernel);
    kernel.cancel(token, socket);
    kernel.cancel(token, socket);
    let ended = one(kernel);
    assert_eq!((ended.token, ended.result), (token, Err(libc::ECANCELED)));
    assert_eq!(ended.buffer.map(|buffer| buffer.len()), Some(16));
    kernel.cancel(token, socket);
    nothing(kernel);
    kernel.close(socket);
}

fn a_wait_ends_at_its_time_and_at_the_wakers_ring(kernel: &mut impl Kernel, waker: &Waker) {
    let mut completions = Vec::new();
    let before = clock::now();
    kernel.flush(Some(SECOND / 20), &mut completions).expect("flush");
    assert!(clock::now() - before >= SECOND / 20);
    for _ in 0..3 {
        let ringer = waker.clone();
        let thread = thread::spawn(move || ringer.wake());
        let before = clock::now();
        kernel.flush(Some(PATIENCE), &mut completions).expect("flush");
        assert!(clock::now() - before < PATIENCE);
        thread.join().expect("the ringer");
    }
    assert!(completions.is_empty());
}

fn a_socket_closed_too_early_is_closed_when_its_operation_has_ended(kernel: &mut impl Kernel, _: &Waker) {
    let hole = Blackhole::new();
    let held = held_towards(hole.port);
    let peer = SocketAddr::new(LOCALHOST, hole.port);
    let socket = kernel.socket(&peer, CloseMode::Fin).expect("socket");
    kernel.connect(Token::new(0, 0, Op::Connect), socket, peer).expect("room");
    nothing(kernel);
    kernel.close(socket);
    assert_eq!(one(kernel).result, Err(libc::ECANCELED));
    assert_eq!(sockets_towards(hole.port, SYN_SENT), 0);
    assert!(held_towards(hole.port).is_subset(&held));
    assert!(kernel.connect(Token::new(0, 1, Op::Connect), socket, peer).is_err());
}

#[test]
fn a_ring_dropped_in_mid_air_leaves_no_socket() {
    let waker = Waker::new().expect("an eventfd");
    let Ok(mut ring) = Ring::new(&waker) else {
        return crate::skip::skip("a_ring_dropped_in_mid_air_leaves_no_socket", "io_uring is refused here");
    };
    let hole = Blackhole::new();
    let peer = SocketAddr::new(LOCALHOST, hole.port);
    for generation in 0..50 {
        let socket = ring.socket(&peer, CloseMode::Fin).expect("socket");
        ring.connect(Token::new(0, generation, Op::Connect), socket, peer).expect("room");
    }
    ring.flush(None, &mut Vec::new()).expect("flush");
    // /proc/net/tcp is no snapshot: while other tests make sockets, one reading may miss a row.
    wait_until(|| sockets_towards(hole.port, SYN_SENT) == 50);
    drop(ring);
    wait_until(|| sockets_towards(hole.port, SYN_SENT) == 0);
}

/// In a process of its own, because the limit holds for all of it.
#[test]
fn without_descriptors_an_attempt_is_local_and_the_reserve_still_makes_one() {
    const CHILD: &str = "PROBE_ENGINE_TEST_EMFILE_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let name = "shard::tests::suite::without_descriptors_an_attempt_is_local_and_the_reserve_still_makes_one";
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args([name, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("a child");
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("addr").port();
    let waker = Waker::new().expect("an eventfd");
    let mut kernel = Epoll::new(&waker).expect("epoll");
    let limit = 64;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit).expect("setrlimit");
    let fillers: Vec<fs::File> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    assert!(!fillers.is_empty());

    let landed = fly(&mut kernel, launch(&tcp_socket(port), LOCALHOST, SECOND));
    assert_eq!(outcome(&landed), &Outcome::Local(LocalCause::ProcessFiles));
    kernel.release_reserve();
    let landed = fly(&mut kernel, launch(&tcp_socket(port), LOCALHOST, SECOND));
    assert_eq!(outcome(&landed), &Outcome::Success("".into()));
    kernel.restore_reserve();
    let landed = fly(&mut kernel, launch(&tcp_socket(port), LOCALHOST, SECOND));
    assert_eq!(outcome(&landed), &Outcome::Local(LocalCause::ProcessFiles));
}

const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const TIME_WAIT: u8 = 6;

fn flights(close: CloseMode) -> Flights {
    Flights::new(Rules { close, local_ports: local_port_range(), connects: None })
}

fn fly<K: Kernel>(kernel: &mut K, launch: Launch) -> Landed {
    let mut flights = flights(CloseMode::Fin);
    flights.start(kernel, launch, clock::now());
    let mut landed = land_all(kernel, &mut flights);
    assert_eq!(landed.len(), 1, "{landed:?}");
    landed.remove(0)
}

/// Runs until every flight has landed and its socket is closed.
fn land_all<K: Kernel>(kernel: &mut K, flights: &mut Flights) -> Vec<Landed> {
    let deadline = clock::now() + PATIENCE;
    let mut completions = Vec::new();
    let mut landed = Vec::new();
    let mut before = clock::now();
    loop {
        landed.extend(std::iter::from_fn(|| flights.poll_landed()));
        if flights.is_empty() {
            return landed;
        }
        assert!(clock::now() < deadline, "{} flights do not land", flights.len());
        let wait = flights.poll_timeout().map_or(Duration::from_millis(1), clock::until);
        kernel.flush(Some(wait), &mut completions).expect("flush");
        let now = clock::now();
        kernel.flush(None, &mut completions).expect("flush");
        for completion in completions.drain(..) {
            flights.complete(kernel, completion, Look { now, before });
        }
        flights.judge(kernel, Look { now, before });
        before = now;
    }
}

fn outcome(landed: &Landed) -> &Outcome {
    match &landed.end {
        End::Outcome(outcome) => outcome,
        End::Redirect(target) => panic!("redirected to {}", target.url()),
    }
}

/// The one completion that comes.
fn one<K: Kernel>(kernel: &mut K) -> Completion {
    let mut completions = Vec::new();
    let deadline = clock::now() + PATIENCE;
    while completions.is_empty() {
        assert!(clock::now() < deadline, "no completion");
        kernel.flush(Some(SECOND), &mut completions).expect("flush");
    }
    assert_eq!(completions.len(), 1, "{completions:?}");
    completions.remove(0)
}

fn nothing<K: Kernel>(kernel: &mut K) {
    let mut completions = Vec::new();
    for _ in 0..3 {
        kernel.flush(None, &mut completions).expect("flush");
    }
    assert!(completions.is_empty(), "{completions:?}");
}

fn connected<K: Kernel>(kernel: &mut K) -> (super::super::kernel::SocketId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = listener.local_addr().expect("addr");
    let socket = kernel.socket(&peer, CloseMode::Fin).expect("socket");
    kernel.connect(Token::new(0, 0, Op::Connect), socket, peer).expect("room");
    assert_eq!(one(kernel).result, Ok(0));
    (socket, listener.accept().expect("accept").0)
}

/// Sends `response` to one request, then closes.
fn ask<K: Kernel>(kernel: &mut K, response: &'static [u8]) -> Landed {
    let server = Server::new(move |stream| {
        read_request(stream);
        stream.write_all(response).expect("write");
    });
    let handler: Handler = http_get(server.port, "/");
    let landed = fly(kernel, launch(&handler, LOCALHOST, SECOND));
    server.join();
    landed
}

struct Server {
    port: u16,
    thread: JoinHandle<()>,
}

impl Server {
    /// Serves one connection.
    fn new(serve: impl FnOnce(&mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("addr").port();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            serve(&mut stream);
        });
        Self { port, thread }
    }

    fn join(self) {
        self.thread.join().expect("the server");
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a request");
        request.extend_from_slice(&byte);
    }
    String::from_utf8(request).expect("text")
}

/// A listener whose accept queue is full: the kernel drops further SYNs (`tcp_conn_request`).
struct Blackhole {
    port: u16,
    _listener: Socket,
    _queued: TcpStream,
}

impl Blackhole {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        listener.bind(&SocketAddr::new(LOCALHOST, 0).into()).expect("bind");
        // A queue of n takes n + 1.
        listener.listen(0).expect("listen");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("addr");
        let queued = TcpStream::connect(address).expect("connect");
        Self { port: address.port(), _listener: listener, _queued: queued }
    }
}

/// A port that nothing listens on, kept from other tests for as long as they ask the kernel for one.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("addr").port()
}

/// Sockets in this state whose other end has this port.
fn sockets_towards(port: u16, state: u8) -> usize {
    rows_towards(port).into_iter().filter(|row| row.state == state).count()
}

/// Near ports of the sockets whose other end has this port and that are held, by a descriptor or by an operation. Those of
/// an earlier owner of the port may be among them: compare with what was there before.
fn held_towards(port: u16) -> BTreeSet<u16> {
    rows_towards(port).into_iter().filter(|row| row.inode != 0).map(|row| row.local_port).collect()
}

struct Row {
    local_port: u16,
    state: u8,
    inode: u64,
}

fn rows_towards(port: u16) -> Vec<Row> {
    let rows_of = |path| fs::read_to_string(path).unwrap_or_default();
    let text = rows_of("/proc/self/net/tcp") + &rows_of("/proc/self/net/tcp6");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port_of = |field: Option<&&str>| u16::from_str_radix(field?.rsplit(':').next()?, 16).ok();
        let (local_port, remote_port) = (port_of(fields.get(1))?, port_of(fields.get(2))?);
        let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        (remote_port == port).then_some(Row { local_port, state, inode })
    };
    text.lines().filter_map(row).collect()
}

fn wait_until(mut reached: impl FnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !reached() {
        assert!(clock::now() < deadline, "not reached");
        thread::yield_now();
    }
}
