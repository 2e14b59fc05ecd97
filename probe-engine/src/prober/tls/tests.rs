//! Attempts against small real servers on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use probe_core::spec::{HttpHeader, Port, ProbeSpec};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::limits::HTTP_BODY_BYTES_MAX;

/// A server of one behaviour. Ends, with all its threads, when it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    pub(crate) accepted: Arc<AtomicUsize>,
    /// https: connections that the client closed with a `close_notify`.
    goodbyes: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Hands every accepted connection to `behave`, each on a thread of its own.
    pub(crate) fn raw(behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (closing, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (over, count) = (Arc::clone(&closing), Arc::clone(&accepted));
        let behave = Arc::new(behave);
        let thread = std::thread::spawn(move || {
            let mut threads = Vec::new();
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let behave = Arc::clone(&behave);
                threads.push(std::thread::spawn(move || behave(stream)));
            }
            for thread in threads {
                thread.join().expect("a server's thread");
            }
        });
        let requests = Arc::default();
        let goodbyes = Arc::default();
        Server { addr, requests, accepted, goodbyes, closing, thread: Some(thread) }
    }

    /// Reads one request per connection and writes what `answer` makes of it.
    pub(crate) fn http(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&requests);
        let mut server = Server::raw(move |mut stream| {
            let request = read_request(&mut stream);
            let reply = answer(&request);
            log.lock().expect("no panic").push(request);
            let _ = stream.write_all(&reply);
            linger(&mut stream);
        });
        server.requests = requests;
        server
    }

    /// HTTPS with this certificate, answering 200 `ok`.
    fn https(certificate: rcgen::CertificateParams) -> Server {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = certificate.self_signed(&key).expect("a certificate").der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .expect("a usable certificate");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (config, goodbyes) = (Arc::new(config), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&goodbyes);
        let mut server = Server::raw(move |stream| {
            let tls = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut stream = rustls::StreamOwned::new(tls, stream);
            let _ = read_request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            // An end without a goodbye of TLS is an error.
            count.fetch_add(usize::from(read_to_the_end(&mut stream).is_ok()), Ordering::SeqCst);
        });
        server.goodbyes = goodbyes;
        server
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn read_request(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// Waits until the other end has closed, so that no reset overtakes what was written.
fn linger(stream: &mut impl Read) {
    let _ = read_to_the_end(stream);
}

fn read_to_the_end(stream: &mut impl Read) -> std::io::Result<()> {
    let mut rest = [0; 1_024];
    while stream.read(&mut rest)? > 0 {}
    Ok(())
}

fn ok(body: &str) -> Vec<u8> {
    answer(200, body)
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn redirect(status: u16, location: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} x\r\nLocation: {location}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nnever").into_bytes()
}

/// An httpGet request to an address.
fn request(scheme: Scheme, addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Request {
    let headers = headers.iter().map(|(name, value)| HttpHeader { name: (*name).into(), value: (*value).into() });
    Request {
        spec: Arc::new(ProbeSpec {
            handler: Handler::HttpGet(HttpGet {
                host: None,
                port: Port::Number(addr.port()),
                path: path.into(),
                scheme,
                headers: headers.collect(),
            }),
            initial_delay_seconds: 0,
            timeout_seconds: 5,
            period_seconds: 10,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        }),
        pod_ip: Some(addr.ip()),
        instance: None,
        label: "test".into(),
    }
}

fn with(request: &Request, change: impl FnOnce(&mut ProbeSpec, &mut HttpGet)) -> Request {
    let mut spec = (*request.spec).clone();
    let Handler::HttpGet(mut get) = spec.handler.clone() else { unreachable!("made above") };
    change(&mut spec, &mut get);
    spec.handler = Handler::HttpGet(get);
    Request { spec: Arc::new(spec), ..request.clone() }
}

fn in_one_second(request: &Request) -> Request {
    with(request, |spec, _| spec.timeout_seconds = 1)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn run(request: &Request) -> Attempted {
    block_on(attempt(request, clock::now(), None, 0))
}

fn outcome(request: &Request) -> Outcome {
    run(request).outcome
}

fn ask_path(server: &Server, path: &str) -> Outcome {
    outcome(&request(Scheme::Http, server.addr, path, &[]))
}

fn failure_text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failure(text) => text.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn h01_200_is_a_success_with_its_body() {
    let server = Server::http(|_| ok("ok body"));
    assert_eq!(ask_path(&server, "/"), Outcome::Success("ok body".into()));
    let attempted = run(&request(Scheme::Http, server.addr, "/", &[]));
    let phases = attempted.phases;
    assert!(phases.connect.is_some() && phases.first_byte.is_some() && phases.body.is_some());
    assert!(phases.resolve.is_none() && phases.tls.is_none());
    assert!(phases.total >= phases.connect.unwrap_or_default() + phases.first_byte.unwrap_or_default());
}

#[test]
fn h02_a_server_sees_exactly_the_default_lines() {
    let server = Server::http(ok);
    let want = format!(
        "GET /x?y HTTP/1.1\r\nHost: {}\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        server.addr
    );
    assert_eq!(ask_path(&server, "/x?y#z"), Outcome::Success(want.into()));
}

#[test]
fn h06_headers_of_the_user_arrive() {
    let server = Server::http(|request| {
        let arrived = request.contains("\r\nX-Muffins-Or-Cupcakes: muffins\r\n");
        answer(if arrived { 200 } else { 400 }, "")
    });
    let headers = [("X-Muffins-Or-Cupcakes", "muffins")];
    assert_eq!(outcome(&request(Scheme::Http, server.addr, "/", &headers)), Outcome::Success("".into()));
    assert!(matches!(ask_path(&server, "/"), Outcome::Failure(_)));
}

#[test]
fn h10_default_user_agent_begins_with_kube_probe() {
    let server =
        Server::http(|request| answer(if request.contains("\r\nUser-Agent: kube-probe/") { 200 } else { 400 }, ""));
    assert_eq!(ask_path(&server, "/"), Outcome::Success("".into()));
}

#[test]
fn h13_default_accept_is_anything() {
    let server = Server::http(|request| answer(if request.contains("\r\nAccept: */*\r\n") { 200 } else { 400 }, ""));
    assert_eq!(ask_path(&server, "/"), Outcome::Success("".into()));
}

#[test]
fn h14_host_header_does_not_change_the_dialed_address() {
    let server = Server::http(|request| {
        answer(if request.contains("\r\nHost: muffins.cupcakes.org\r\n") { 200 } else { 400 }, "")
    });
    let headers = [("Host", "muffins.cupcakes.org")];
    assert_eq!(outcome(&request(Scheme::Http, server.addr, "/", &headers)), Outcome::Success("".into()));
}

#[test]
fn h16_500_is_a_failure_without_its_body() {
    let server = Server::http(|_| answer(500, "secret"));
    assert_eq!(ask_path(&server, "/"), Outcome::Failure("HTTP probe failed with statuscode: 500".into()));
}

#[test]
fn h17_404_is_a_failure() {
    let server = Server::http(|_| answer(404, ""));
    assert_eq!(ask_path(&server, "/"), Outcome::Failure("HTTP probe failed with statuscode: 404".into()));
}

#[test]
fn h20_no_answer_in_time_is_a_failure() {
    let server = Server::raw(|mut stream| linger(&mut stream));
    let want = format!("Get \"http://{}/\": {}", server.addr, http::TIMEOUT_IN_HEAD);
    let attempted = run(&in_one_second(&request(Scheme::Http, server.addr, "/", &[])));
    assert_eq!(attempted.outcome, Outcome::Failure(want.into()));
    let total = attempted.phases.total;
    assert!(total >= Duration::from_secs(1) && total < Duration::from_secs(3), "{total:?}");
}

#[test]
fn h20_a_body_that_does_not_end_in_time_is_an_error() {
    let server = Server::http(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab".to_vec());
    let outcome = outcome(&in_one_second(&request(Scheme::Http, server.addr, "/", &[])));
    assert_eq!(outcome, Outcome::Error(http::TIMEOUT_IN_BODY.into()));
}

#[test]
fn h21_nothing_listening_is_a_failure() {
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let want = format!("Get \"http://{addr}/\": dial tcp {addr}: connect: connection refused");
    assert_eq!(outcome(&request(Scheme::Http, addr, "/", &[])), Outcome::Failure(want.into()));
}

#[test]
fn a_connection_that_ends_early_fails_by_where_it_ended() {
    for (sent, want) in
        [("", "EOF"), ("HTTP/1.1 200", "net/http: HTTP/1.x transport connection broken: unexpected EOF")]
    {
        let server = Server::raw(move |mut stream| {
            let _ = read_request(&mut stream);
            let _ = stream.write_all(sent.as_bytes());
        });
        let text = failure_text(ask_path(&server, "/"));
        assert_eq!(text, format!("Get \"http://{}/\": {want}", server.addr));
    }
    let server = Server::raw(|mut stream| {
        let _ = read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
    });
    assert_eq!(ask_path(&server, "/"), Outcome::Error("unexpected EOF".into()));
}

#[test]
fn a_reset_shows_both_ends() {
    let server = Server::raw(|mut stream| {
        let _ = read_request(&mut stream);
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    });
    let text = failure_text(run(&request(Scheme::Http, server.addr, "/", &[])).outcome);
    let end = format!("->{}: read: connection reset by peer", server.addr);
    assert!(text.contains(": read tcp 127.0.0.1:") && text.ends_with(&end), "{text}");
}

#[test]
fn h22_local_redirect_to_200_is_a_success() {
    for status in [301, 302, 303, 307, 308] {
        let server = Server::http(move |request| match request.split(' ').nth(1) {
            Some("/") => redirect(status, "/new"),
            _ => ok("arrived"),
        });
        assert_eq!(ask_path(&server, "/"), Outcome::Success("arrived".into()));
        let requests = server.requests();
        assert!(requests[1].contains(&format!("\r\nReferer: http://{}/\r\n", server.addr)));
    }
}

#[test]
fn h23_local_redirect_to_500_is_a_failure() {
    for status in [301, 302, 307, 308] {
        let server = Server::http(move |request| match request.split(' ').nth(1) {
            Some("/") => redirect(status, "/new"),
            _ => answer(500, ""),
        });
        assert_eq!(ask_path(&server, "/"), Outcome::Failure("HTTP probe failed with statuscode: 500".into()));
    }
}

#[test]
fn a_redirect_to_another_host_is_a_warning_with_its_body() {
    let server =
        Server::http(|_| b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.9/\r\nContent-Length: 5\r\n\r\nmoved".to_vec());
    let text = "Probe terminated redirects, Response body: moved";
    assert_eq!(ask_path(&server, "/"), Outcome::Warning(text.into()));
}

#[test]
fn a_redirect_to_https_on_the_same_host_is_followed() {
    let secure = Server::https(params(&["any"]));
    let location = format!("https://127.0.0.1:{}/", secure.addr.port());
    let server = Server::http(move |_| redirect(301, &location));
    assert_eq!(ask_path(&server, "/"), Outcome::Success("ok".into()));
}

#[test]
fn h29_a_redirect_loop_stops_after_ten_requests() {
    let server = Server::http(|_| redirect(302, "/loop"));
    let text = failure_text(run(&request(Scheme::Http, server.addr, "/loop", &[])).outcome);
    assert!(text.contains("stopped after 10 redirects"), "{text}");
    assert_eq!(server.requests().len(), 10);
}

#[test]
fn h29_requests_that_a_shard_has_made_count() {
    let server = Server::http(|_| redirect(302, "/loop"));
    let request = request(Scheme::Http, server.addr, "/loop", &[]);
    let Handler::HttpGet(get) = &request.spec.handler else { unreachable!("made above") };
    let plan = Plan::new(get, request.pod_ip).expect("a plan");
    let mut response = Response::new();
    response.feed(&redirect(302, "/loop")).expect("valid");
    let Some(Judgement::Redirect(target)) = http::judge_head(&plan, &response) else { panic!("a redirect") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let attempted = runtime.block_on(attempt(&request, clock::now(), Some(target), 1));
    assert!(failure_text(attempted.outcome).contains("stopped after 10 redirects"));
    assert_eq!(server.requests().len(), 9);
}

#[test]
fn h32_a_body_above_ten_kibibytes_is_cut() {
    let server = Server::http(|_| ok(&"x".repeat(HTTP_BODY_BYTES_MAX + 1)));
    assert_eq!(ask_path(&server, "/"), Outcome::Success("x".repeat(HTTP_BODY_BYTES_MAX).into()));
}

#[test]
fn h33_a_body_below_ten_kibibytes_is_whole() {
    let body = "x".repeat(HTTP_BODY_BYTES_MAX - 1);
    let sent = body.clone();
    let server = Server::http(move |_| ok(&sent));
    assert_eq!(ask_path(&server, "/"), Outcome::Success(body.into()));
}

#[test]
fn h35_an_infinite_body_is_a_success_at_once() {
    let server = Server::raw(|mut stream| {
        let _ = read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream
            .write_all(b"400\r\n")
            .and_then(|()| stream.write_all(&[b'x'; 1_024]))
            .and_then(|()| stream.write_all(b"\r\n"))
            .is_ok()
        {}
    });
    let attempted = run(&request(Scheme::Http, server.addr, "/", &[]));
    assert_eq!(attempted.outcome, Outcome::Success("x".repeat(HTTP_BODY_BYTES_MAX).into()));
    assert!(attempted.phases.total < Duration::from_secs(4));
}

#[test]
fn h37_proxy_variables_are_ignored() {
    let proxy = Server::raw(|_| ());
    let url = format!("http://{}", proxy.addr);
    let again = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "prober::tls::tests::h01_200_is_a_success_with_its_body"])
        .envs(["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"].map(|name| (name, &url)))
        .output()
        .expect("a process");
    let output = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && output.contains("1 passed"), "{output}");
    assert_eq!(proxy.accepted.load(Ordering::SeqCst), 0);
}

fn params(names: &[&str]) -> rcgen::CertificateParams {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    rcgen::CertificateParams::new(names).expect("valid names")
}

#[test]
fn h38_certificates_are_not_verified() {
    let mut expired = params(&["localhost"]);
    expired.not_before = rcgen::date_time_ymd(2000, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
    for certificate in [params(&["localhost", "127.0.0.1"]), expired, params(&["other.example"])] {
        let server = Server::https(certificate);
        let by_address = request(Scheme::Https, server.addr, "/", &[]);
        assert_eq!(outcome(&by_address), Outcome::Success("ok".into()));
        let by_name = with(&by_address, |_, get| get.host = Some("localhost".into()));
        let attempted = run(&by_name);
        assert_eq!(attempted.outcome, Outcome::Success("ok".into()));
        assert!(attempted.phases.resolve.is_some() && attempted.phases.tls.is_some());
    }
}

#[test]
fn a_server_hears_the_goodbye_of_tls() {
    let server = Server::https(params(&["localhost"]));
    let goodbyes = Arc::clone(&server.goodbyes);
    for _ in 0..3 {
        assert_eq!(https(&server), Outcome::Success("ok".into()));
    }
    // Its threads have ended.
    drop(server);
    assert_eq!(goodbyes.load(Ordering::SeqCst), 3);
}

#[test]
fn h39_https_to_a_plain_server_is_a_failure() {
    let server = Server::raw(|mut stream| {
        let _ = stream.write_all(&answer(400, "speak plainly"));
        linger(&mut stream);
    });
    let want = format!("Get \"https://{}/\": http: server gave HTTP response to HTTPS client", server.addr);
    assert_eq!(outcome(&request(Scheme::Https, server.addr, "/", &[])), Outcome::Failure(want.into()));
}

#[test]
fn broken_tls_handshakes_have_gos_words() {
    for (sent, want) in [
        (&b""[..], "EOF"),
        (b"SSH-2.0-x\r\n", "tls: first record does not look like a TLS handshake"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "remote error: tls: handshake failure"),
    ] {
        let server = Server::raw(move |mut stream| {
            let mut hello = [0; 64];
            let _ = stream.read(&mut hello);
            let _ = stream.write_all(sent);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            linger(&mut stream);
        });
        let text = failure_text(outcome(&request(Scheme::Https, server.addr, "/", &[])));
        assert_eq!(text, format!("Get \"https://{}/\": {want}", server.addr));
    }
}

#[test]
fn a_tls_handshake_that_stalls_ends_at_the_deadline() {
    let server = Server::raw(|mut stream| linger(&mut stream));
    let text = failure_text(outcome(&in_one_second(&request(Scheme::Https, server.addr, "/", &[]))));
    assert_eq!(text, format!("Get \"https://{}/\": {}", server.addr, http::TIMEOUT_IN_HEAD));
}

#[test]
fn an_attempt_that_is_dropped_closes_its_socket() {
    let (sender, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let (ready, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::raw(move |mut stream| {
        let _ = read_request(&mut stream);
        let _ = ready.send(());
        linger(&mut stream);
        let _ = sender.send(());
    });
    let request = request(Scheme::Http, server.addr, "/", &[]);
    block_on(async {
        tokio::select! {
            _ = attempt(&request, clock::now(), None, 0) => panic!("no answer comes"),
            _ = accepted.recv() => {}
        }
        // The runtime is still at work; the socket must not wait for its end.
        let seen = tokio::time::timeout(Duration::from_secs(5), closed.recv()).await;
        assert_eq!(seen, Ok(Some(())), "the server sees the end");
    });
}

/// What a TLS server saw of each connection: resumed, full, or failed within the handshake.
type Handshakes = Arc<Mutex<Vec<Option<rustls::HandshakeKind>>>>;

/// A TLS server of these versions that resumes as servers do, by tickets. `behave` is what it does instead of the handshake
/// with the connection of this number, which then ends.
fn resuming_server(
    versions: &[&'static rustls::SupportedProtocolVersion],
    behave: impl Fn(usize, &mut TcpStream) -> bool + Send + Sync + 'static,
) -> (Server, Handshakes) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["anyone".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a usable certificate");
    config.ticketer = rustls::crypto::ring::Ticketer::new().expect("random numbers");
    let (config, seen) = (Arc::new(config), Handshakes::default());
    let (log, number) = (Arc::clone(&seen), AtomicUsize::new(0));
    let server = Server::raw(move |mut stream| {
        if behave(number.fetch_add(1, Ordering::SeqCst), &mut stream) {
            log.lock().expect("no panic").push(None);
            return;
        }
        let tls = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
        let mut stream = rustls::StreamOwned::new(tls, stream);
        let _ = read_request(&mut stream);
        log.lock().expect("no panic").push(stream.conn.handshake_kind());
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        linger(&mut stream);
    });
    (server, seen)
}

const FULL: Option<rustls::HandshakeKind> = Some(rustls::HandshakeKind::Full);
const RESUMED: Option<rustls::HandshakeKind> = Some(rustls::HandshakeKind::Resumed);

fn https(server: &Server) -> Outcome {
    outcome(&request(Scheme::Https, server.addr, "/", &[]))
}

#[test]
fn later_attempts_resume_the_session_of_the_one_before_in_both_versions() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (server, seen) = resuming_server(&[version], |_, _| false);
        for _ in 0..3 {
            assert_eq!(https(&server), Outcome::Success("ok".into()));
        }
        assert_eq!(*seen.lock().expect("no panic"), [FULL, RESUMED, RESUMED]);
    }
}

#[test]
fn a_server_that_has_forgotten_the_session_makes_a_full_handshake_in_the_same_connection() {
    let (server, seen) = resuming_server(rustls::ALL_VERSIONS, |_, _| false);
    assert_eq!(https(&server), Outcome::Success("ok".into()));
    // A server with other keys, which is asked with a session of the first one.
    let (other, seen_by_other) = resuming_server(rustls::ALL_VERSIONS, |_, _| false);
    let plan = |server: &Server| {
        let request = request(Scheme::Https, server.addr, "/", &[]);
        let Handler::HttpGet(get) = &request.spec.handler else { unreachable!("made above") };
        Plan::new(get, request.pod_ip).expect("a plan")
    };
    let session = SESSIONS.take(&peer(&plan(&server)).expect("TLS"), clock::now()).expect("kept");
    let answer = block_on(async {
        let deadline = clock::now() + Duration::from_secs(5);
        let opened = open(&plan(&other), Some(session), deadline).await;
        exchange(&plan(&other), opened, deadline, &mut Phases::default()).await.map_err(|broken| broken.outcome)
    });
    assert_eq!(answer, Ok(Judgement::Final(Outcome::Success("ok".into()))));
    assert_eq!(
        (&*seen.lock().expect("no panic"), &*seen_by_other.lock().expect("no panic")),
        (&vec![FULL], &vec![FULL])
    );
    assert_eq!(other.accepted.load(Ordering::SeqCst), 1);
}

#[test]
fn a_server_that_fails_with_a_session_gets_a_full_handshake_in_the_same_attempt_and_then_no_more_sessions() {
    // Closes its second connection, which is the one with a session, at the ClientHello, and would close a fourth.
    let (server, seen) = resuming_server(rustls::ALL_VERSIONS, |number, stream| {
        let fails = number == 1;
        if fails {
            let _ = stream.read(&mut [0; 2_048]);
        }
        fails
    });
    for _ in 0..3 {
        assert_eq!(https(&server), Outcome::Success("ok".into()));
    }
    assert_eq!(*seen.lock().expect("no panic"), [FULL, None, FULL, FULL]);
}

#[test]
fn a_server_that_says_nothing_to_a_session_gets_a_full_handshake_beside_it() {
    let (server, seen) = resuming_server(rustls::ALL_VERSIONS, |number, stream| {
        let is_silent = number == 1;
        if is_silent {
            linger(stream);
        }
        is_silent
    });
    let request = in_one_second(&request(Scheme::Https, server.addr, "/", &[]));
    assert_eq!(outcome(&request), Outcome::Success("ok".into()));
    let attempted = run(&request);
    assert_eq!(attempted.outcome, Outcome::Success("ok".into()));
    assert!(attempted.phases.total >= Duration::from_millis(500), "{:?}", attempted.phases);
    drop(server);
    let mut seen = seen.lock().expect("no panic").clone();
    seen.sort_by_key(Option::is_none);
    assert_eq!(seen, [FULL, FULL, None]);
}

#[test]
fn an_attempt_that_fails_leaves_no_session_behind() {
    // The third connection, a resumed one, is closed before an answer, and so is the full one after it.
    let (server, seen) = resuming_server(rustls::ALL_VERSIONS, |number, _| (2..4).contains(&number));
    assert_eq!(https(&server), Outcome::Success("ok".into()));
    assert_eq!(https(&server), Outcome::Success("ok".into()));
    let text = failure_text(https(&server));
    assert!(text.ends_with(": EOF") || text.contains("reset by peer") || text.contains("broken pipe"), "{text}");
    assert_eq!(https(&server), Outcome::Success("ok".into()));
    assert_eq!(*seen.lock().expect("no panic"), [FULL, RESUMED, None, None, FULL]);
}
