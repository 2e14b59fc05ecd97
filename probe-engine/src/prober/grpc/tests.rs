use std::sync::Mutex;

use probe_core::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus as Serving;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bounded = async { timeout(Duration::from_secs(30), future).await };
    runtime.block_on(bounded).expect("the test is over in time")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

/// tonic-health's server, with one service of each status.
async fn health_server() -> SocketAddr {
    let (listener, address) = listen().await;
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", Serving::Serving).await;
    reporter.set_service_status("ill", Serving::NotServing).await;
    reporter.set_service_status("unsure", Serving::Unknown).await;
    let server = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

/// Answers every check with what `0` says; `None` = never.
struct Fixed(Option<Result<i32, Status>>);

#[tonic::async_trait]
impl Health for Fixed {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let agent = request.metadata().get("user-agent").cloned();
        assert!(agent.is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe/1.34 ")));
        match &self.0 {
            Some(Ok(status)) => Ok(tonic::Response::new(HealthCheckResponse { status: *status })),
            Some(Err(status)) => Err(status.clone()),
            None => std::future::pending().await,
        }
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

async fn fixed_server(answer: Option<Result<i32, Status>>) -> SocketAddr {
    let (listener, address) = listen().await;
    let server = Server::builder()
        .add_service(HealthServer::new(Fixed(answer)))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
    address
}

async fn probe(address: SocketAddr, service: &str, limit: Duration) -> Outcome {
    let started = clock::now();
    let attempted = attempt(Some(address.ip()), address.port(), service, started, limit).await;
    attempted.outcome
}

async fn probe_2s(address: SocketAddr, service: &str) -> Outcome {
    probe(address, service, Duration::from_secs(2)).await
}

fn failed(text: &str) -> Outcome {
    Outcome::Failure(text.into())
}

/// A port that is taken, so that nobody else listens on it, and refuses connections.
fn refusing_port() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("bind");
    let address = socket.local_addr().expect("its address");
    let port = address.as_socket().expect("an internet address").port();
    (socket, port)
}

#[test]
fn g01_a_closed_port_takes_the_whole_timeout_and_reports_it_without_a_host() {
    let (_socket, port) = refusing_port();
    let started = clock::now();
    let attempted = block_on(attempt(None, port, "", started, Duration::from_secs(1)));
    let text = format!("timeout: failed to connect service \":{port}\" within 1s: context deadline exceeded");
    assert_eq!(attempted.outcome, failed(&text));
    assert!(attempted.phases.total >= Duration::from_secs(1));
    assert_eq!(attempted.phases.connect, None);
}

#[test]
fn every_address_of_a_pod_makes_an_authority() {
    for ip in ["10.1.2.3", "0.0.0.0", "255.255.255.255", "::", "::1", "fd00::7", "fe80::1", "::ffff:10.1.2.3"] {
        let target = Target::new(Some(ip.parse().expect("an address")), 65_535);
        assert!(request(&target.authority, clock::now()).is_ok(), "{ip}");
    }
}

#[test]
fn g01_the_text_names_the_address_and_a_long_timeout_as_go_does() {
    let target = Target::new(Some("127.0.0.1".parse().expect("an address")), 32);
    assert_eq!(target.shown, "127.0.0.1:32");
    assert_eq!(Target::new(None, 32).shown, ":32");
    assert_eq!(Target::new(None, 32).authority, "localhost:32");
    let target = Target::new(Some("fd00::1".parse().expect("an address")), 32);
    assert_eq!(target.shown, "[fd00::1]:32");
    assert_eq!(
        rpc_timeout(GoDuration(Duration::from_secs(60))),
        failed("timeout: health rpc did not complete within 1m0s")
    );
}

#[test]
fn g04_not_serving_is_a_failure_that_names_the_status() {
    block_on(async {
        let address = health_server().await;
        assert_eq!(probe_2s(address, "ill").await, failed("service unhealthy (responded with \"NOT_SERVING\")"));
        assert_eq!(probe_2s(address, "unsure").await, failed("service unhealthy (responded with \"UNKNOWN\")"));
    });
}

#[test]
fn g05_an_rpc_that_is_too_slow_is_a_timeout_of_the_rpc() {
    block_on(async {
        let address = fixed_server(None).await;
        let started = clock::now();
        assert_eq!(probe_2s(address, "").await, failed("timeout: health rpc did not complete within 2s"));
        assert!(clock::now() - started < Duration::from_secs(10));
    });
}

/// Says that it was asked, and answers when it may.
struct OnDemand {
    asked: Mutex<Option<oneshot::Sender<()>>>,
    may_answer: Mutex<Option<oneshot::Receiver<()>>>,
}

#[tonic::async_trait]
impl Health for OnDemand {
    async fn check(
        &self,
        _request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let asked = self.asked.lock().expect("no panic").take().expect("asked once");
        let may_answer = self.may_answer.lock().expect("no panic").take().expect("asked once");
        asked.send(()).expect("the test listens");
        may_answer.await.expect("the test says so");
        Ok(tonic::Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

#[test]
fn an_answer_that_came_while_our_thread_was_held_up_is_not_late() {
    let (asked, was_asked) = oneshot::channel();
    let (answer, may_answer) = oneshot::channel();
    let service = OnDemand { asked: Mutex::new(Some(asked)), may_answer: Mutex::new(Some(may_answer)) };
    let (bound, binding) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        block_on(async {
            let (listener, address) = listen().await;
            bound.send(address).expect("the test listens");
            let served = Server::builder().add_service(HealthServer::new(service));
            let ended = async { drop(ended.await) };
            served.serve_with_incoming_shutdown(TcpIncoming::from(listener), ended).await.expect("it serves");
        });
    });
    let address = binding.recv().expect("a server");
    let limit = Duration::from_secs(1);
    let outcome = block_on(async {
        let deadline = clock::now() + limit;
        let attempt = tokio::spawn(probe(address, "", limit));
        was_asked.await.expect("the server is asked");
        answer.send(()).expect("the server waits");
        std::thread::sleep(clock::until(deadline) + Duration::from_millis(50)); // tidy: what is tested is a thread held up
        attempt.await.expect("no panic")
    });
    assert_eq!(outcome, Outcome::Success("service healthy".into()));
    drop(end);
    server.join().expect("no panic");
}

#[test]
fn g06_serving_is_a_success() {
    block_on(async {
        let address = health_server().await;
        let attempted = attempt(Some(address.ip()), address.port(), "", clock::now(), Duration::from_secs(2)).await;
        assert_eq!(attempted.outcome, Outcome::Success("service healthy".into()));
        let Phases { connect, first_byte, total, .. } = attempted.phases;
        assert!(connect.is_some_and(|connect| connect <= total));
        assert!(first_byte.is_some_and(|first_byte| first_byte <= total));
    });
}

#[test]
fn g08_an_unknown_service_is_a_failure_with_the_servers_status() {
    block_on(async {
        let address = health_server().await;
        let outcome = probe_2s(address, "nobody").await;
        let Outcome::Failure(text) = outcome else {
            panic!("{outcome:?}");
        };
        let start = "error: health rpc probe failed: rpc error: code = NotFound desc = ";
        assert!(text.starts_with(start), "{text}");
    });
}

#[test]
fn a_server_without_the_health_service_is_named_as_such() {
    block_on(async {
        let status = Status::unimplemented("unknown service grpc.health.v1.Health");
        let address = fixed_server(Some(Err(status))).await;
        assert_eq!(
            probe_2s(address, "").await,
            failed(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health"
            )
        );
    });
}

#[test]
fn statuses_are_written_as_grpc_go_writes_them() {
    let within = GoDuration(Duration::from_secs(1));
    let table = [
        (Code::Cancelled, "error: health rpc probe failed: rpc error: code = Canceled desc = x"),
        (Code::Unavailable, "error: health rpc probe failed: rpc error: code = Unavailable desc = x"),
        (Code::DeadlineExceeded, "timeout: health rpc did not complete within 1s"),
    ];
    for (code, text) in table {
        assert_eq!(judge_status(&Status::new(code, "x"), within, false), failed(text));
    }
    assert_eq!(judge_status(&Status::cancelled("Timeout expired"), within, true), rpc_timeout(within));
}

#[test]
fn the_user_agent_starts_as_that_of_httpget() {
    let agent = USER_AGENT;
    let agent = agent.to_str().expect("text");
    assert!(agent.starts_with(&format!("{} ", crate::prober::http::PROBE_USER_AGENT)));
}

#[test]
fn a_timeout_is_sent_in_at_most_eight_digits() {
    for (left, sent) in [
        (Duration::ZERO, "0u"),
        (Duration::from_millis(999), "999000u"),
        (Duration::from_micros(99_999_999), "99999999u"),
        (Duration::from_secs(100), "100000m"),
        (Duration::from_secs(3_600), "3600000m"),
    ] {
        assert_eq!(grpc_timeout(left), sent);
    }
}

/// What a plain HTTP/2 server does with the request: `answer` gets its end of the stream.
async fn raw_server(answer: impl Fn(h2::server::SendResponse<Bytes>) + Send + 'static) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.expect("a client");
            while let Some(Ok((request, respond))) = connection.accept().await {
                assert_eq!(request.headers()["te"], "trailers");
                assert_eq!(request.headers()["content-type"], "application/grpc");
                answer(respond);
            }
        }
    });
    address
}

fn head(status: u16) -> http::Response<()> {
    http::Response::builder().status(status).header("content-type", "application/grpc").body(()).expect("a head")
}

fn trailers(status: &'static str) -> http::HeaderMap {
    [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))].into_iter().collect()
}

/// A message in two pieces, then the status.
const SERVING: [&[u8]; 2] = [&[0, 0, 0, 0, 2, 8], &[1]];

#[test]
fn an_answer_in_pieces_is_one_answer() {
    block_on(async {
        let address = raw_server(|mut respond| {
            let mut body = respond.send_response(head(200), false).expect("open");
            for piece in SERVING {
                body.send_data(Bytes::from_static(piece), false).expect("open");
            }
            body.send_trailers(trailers("0")).expect("open");
        })
        .await;
        assert_eq!(probe_2s(address, "").await, Outcome::Success("service healthy".into()));
    });
}

#[test]
fn the_status_at_the_end_outweighs_the_message() {
    block_on(async {
        let address = raw_server(|mut respond| {
            let mut body = respond.send_response(head(200), false).expect("open");
            body.send_data(Bytes::from(SERVING.concat()), false).expect("open");
            body.send_trailers(trailers("13")).expect("open");
        })
        .await;
        assert_eq!(
            probe_2s(address, "").await,
            failed("error: health rpc probe failed: rpc error: code = Internal desc = ")
        );
    });
}

#[test]
fn what_is_no_answer_of_grpc_is_a_failure_that_says_so() {
    let start = "error: health rpc probe failed: rpc error: code = ";
    let whole = SERVING.concat();
    for (status, body, text) in [
        (200, whole.clone(), format!("{start}Unknown desc = protocol error: missing grpc-status trailer")),
        (
            503,
            Vec::new(),
            format!("{start}Unavailable desc = grpc-status header missing, mapped from HTTP status code 503"),
        ),
        (404, Vec::new(), "error: this server does not implement the grpc health protocol".to_owned()),
        (200, whole[..6].to_vec(), format!("{start}Internal desc = Unexpected EOF decoding stream.")),
        (
            200,
            vec![1, 0, 0, 0, 0],
            format!("{start}Internal desc = protocol error: received message with compressed-flag"),
        ),
        (
            200,
            vec![7, 0, 0, 0, 0],
            format!("{start}Internal desc = protocol error: received message with invalid compression flag: 7"),
        ),
        (
            200,
            vec![0, 0xff, 0, 0, 0],
            format!("{start}OutOfRange desc = Error, decoded message length too large: found 4278190080"),
        ),
        (200, vec![0, 0, 0, 0, 1, 0xff], format!("{start}Internal desc = failed to decode Protobuf message")),
    ] {
        block_on(async {
            let address = raw_server(move |mut respond| {
                let mut stream = respond.send_response(head(status), false).expect("open");
                stream.send_data(Bytes::from(body.clone()), true).expect("open");
            })
            .await;
            let Outcome::Failure(told) = probe_2s(address, "").await else { panic!("{text}") };
            assert!(told.starts_with(&text), "{told}");
        });
    }
}

#[test]
fn a_stream_that_the_server_resets_is_a_failure() {
    block_on(async {
        let address = raw_server(|mut respond| respond.send_reset(h2::Reason::REFUSED_STREAM)).await;
        let Outcome::Failure(text) = probe_2s(address, "").await else { panic!("no failure") };
        let start = "error: health rpc probe failed: rpc error: code = Unavailable desc = error reading from server: ";
        assert!(text.starts_with(start), "{text}");
    });
}

#[test]
fn a_status_number_that_nobody_knows_is_a_failure_with_the_number() {
    block_on(async {
        let address = fixed_server(Some(Ok(7))).await;
        assert_eq!(probe_2s(address, "").await, failed("service unhealthy (responded with \"7\")"));
    });
}

#[test]
fn a_server_that_says_nothing_was_never_connected() {
    block_on(async {
        let (listener, address) = listen().await;
        assert_eq!(
            probe(address, "", Duration::from_millis(200)).await,
            failed(&format!(
                "timeout: failed to connect service \"{address}\" within 200ms: context deadline exceeded"
            ))
        );
        drop(listener);
    });
}

#[test]
fn a_server_of_another_protocol_was_never_connected() {
    block_on(async {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        let outcome = probe(address, "", Duration::from_millis(200)).await;
        assert!(
            matches!(&outcome, Outcome::Failure(text) if text.starts_with("timeout: failed to connect service")),
            "{outcome:?}"
        );
    });
}

#[test]
fn a_port_that_opens_within_the_timeout_is_reached() {
    block_on(async {
        let (socket, port) = refusing_port();
        let prober = tokio::spawn(attempt(None, port, "", clock::now(), Duration::from_secs(20)));
        // The first connect(2) is made, and refused, before this task goes on; the second comes a second later.
        tokio::task::yield_now().await;
        socket.listen(16).expect("listen");
        socket.set_nonblocking(true).expect("non-blocking");
        let listener = TcpListener::from_std(socket.into()).expect("a listener");
        let server = Server::builder()
            .add_service(HealthServer::new(Fixed(Some(Ok(1)))))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        let attempted = prober.await.expect("no panic");
        assert_eq!(attempted.outcome, Outcome::Success("service healthy".into()));
        assert!(attempted.phases.connect >= Some(RETRY_FIRST), "{:?}", attempted.phases);
    });
}

#[test]
fn a_connection_that_breaks_under_the_call_is_unavailable() {
    block_on(async {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            // An empty SETTINGS frame, and the end after the request came: a DATA frame that ends stream 1, with no service's
            // name in it.
            let request = [0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0];
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("write");
            let mut buffer = [0; 4096];
            let mut seen = Vec::new();
            while !seen.windows(request.len()).any(|bytes| bytes == request) {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(len) => seen.extend_from_slice(&buffer[..len]),
                }
            }
        });
        let outcome = probe(address, "", Duration::from_secs(5)).await;
        let Outcome::Failure(text) = outcome else {
            panic!("{outcome:?}");
        };
        let start = "error: health rpc probe failed: rpc error: code = Unavailable desc = ";
        assert!(text.starts_with(start), "{text}");
    });
}

/// Connections that a server has accepted, and how many of them have ended.
#[derive(Default)]
struct Connections {
    opened: usize,
    closed: usize,
}

/// Accepts for ever, speaks nothing but an empty SETTINGS frame, counts.
async fn counting_server(speaks: bool) -> (SocketAddr, watch::Receiver<Connections>) {
    let (listener, address) = listen().await;
    let (counts, counted) = watch::channel(Connections::default());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counts.send_modify(|counts| counts.opened += 1);
            let counts = counts.clone();
            tokio::spawn(async move {
                if speaks {
                    let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                }
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
                counts.send_modify(|counts| counts.closed += 1);
            });
        }
    });
    (address, counted)
}

#[test]
fn connections_close_however_the_attempt_ends() {
    block_on(async {
        for speaks in [false, true] {
            let (address, mut counted) = counting_server(speaks).await;
            // Timed out while connecting, or while calling; and dropped in the middle.
            probe(address, "", Duration::from_millis(50)).await;
            let dropped = probe(address, "", Duration::from_secs(20));
            assert!(timeout(Duration::from_millis(50), dropped).await.is_err());
            let all = counted.wait_for(|counts| counts.closed == 2).await.expect("the server runs");
            assert_eq!(all.opened, 2);
        }
    });
}

#[test]
fn a_success_leaves_no_task_behind() {
    block_on(async {
        let address = health_server().await;
        let metrics = tokio::runtime::Handle::current().metrics();
        // The server's own tasks for a connection end after ours: wait for both.
        let before = metrics.num_alive_tasks();
        for _ in 0..20 {
            assert!(matches!(probe_2s(address, "").await, Outcome::Success(_)));
        }
        while metrics.num_alive_tasks() > before {
            // tidy: the runtime's count of tasks has no event
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_deadline_that_has_passed_is_a_failure_at_once() {
    block_on(async {
        let (_socket, port) = refusing_port();
        let outcome = attempt(None, port, "", Instant::ZERO, Duration::from_secs(1)).await.outcome;
        assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
    });
}
