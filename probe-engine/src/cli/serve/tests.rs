//! The servers, asked by this project's own probes.

use std::net::IpAddr;

use clap::Parser;
use probe_core::outcome::Outcome;
use probe_core::spec::{Handler, HttpGet, Port, ProbeSpec, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::clock;
use crate::prober::{Request, grpc as grpc_prober, tls};

const LONG: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: ServeArgs,
}

fn parse(line: &str) -> Result<ServeArgs, clap::Error> {
    Line::try_parse_from(["serve"].into_iter().chain(line.split_whitespace())).map(|line| line.args)
}

/// A running server; ends when it is dropped.
struct Running {
    notices: UnboundedReceiver<Notice>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    fn start(line: &str) -> Running {
        let args = parse(line).expect(line);
        let (sender, notices) = unbounded_channel();
        let tell: Tell = Arc::new(move |notice| {
            let _ = sender.send(notice);
        });
        let task = tokio::spawn(async move { serve(&args, tell).await });
        Running { notices, task }
    }

    async fn notice(&mut self) -> Notice {
        timeout(LONG, self.notices.recv()).await.expect("a notice in time").expect("the server runs")
    }

    async fn listening(&mut self) -> SocketAddr {
        loop {
            if let Notice::Listening(addr) = self.notice().await {
                return addr;
            }
        }
    }

    async fn control(&mut self) -> SocketAddr {
        loop {
            if let Notice::Control(addr) = self.notice().await {
                return addr;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn get(scheme: Scheme, addr: SocketAddr, path: &str) -> Outcome {
    let get = HttpGet { host: None, port: Port::Number(addr.port()), path: path.into(), scheme, headers: Box::new([]) };
    let spec = ProbeSpec {
        handler: Handler::HttpGet(get),
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: 10,
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace_period_seconds: None,
    };
    let request = Request { spec: Arc::new(spec), pod_ip: Some(addr.ip()), instance: None, label: "test".into() };
    tls::attempt(&request, clock::now(), None, 0).await.outcome
}

async fn post(addr: SocketAddr, target: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("a listener");
    let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

async fn check(addr: SocketAddr, service: &str) -> Outcome {
    grpc_prober::attempt(Some(addr.ip()), addr.port(), service, clock::now(), LONG).await.outcome
}

fn ok() -> Outcome {
    Outcome::Success("ok\n".into())
}

fn failed(status: u16) -> Outcome {
    Outcome::Failure(format!("HTTP probe failed with statuscode: {status}").into())
}

#[tokio::test]
async fn http_paths_answer_and_the_control_path_toggles_them() {
    let mut server = Running::start("http");
    let addr = server.listening().await;
    for path in ["/healthz", "/readyz", "/startupz", "/anything", "/slow?for=1ms", "/redirect", "/redirect?to=/readyz"]
    {
        assert_eq!(get(Scheme::Http, addr, path).await, ok(), "{path}");
    }
    let answer = post(addr, "/control?healthy=false").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("healthy=false ready=true\n"), "{answer}");
    assert_eq!(get(Scheme::Http, addr, "/healthz").await, failed(503));
    assert_eq!(get(Scheme::Http, addr, "/readyz").await, failed(503));
    assert_eq!(get(Scheme::Http, addr, "/anything").await, ok());
    post(addr, "/control?healthy=true&ready=false").await;
    assert_eq!(get(Scheme::Http, addr, "/healthz").await, ok());
    assert_eq!(get(Scheme::Http, addr, "/readyz").await, failed(503));
    assert!(post(addr, "/control?healthy=maybe").await.starts_with("HTTP/1.1 400"));
    assert!(post(addr, "/control?wealthy=true").await.contains("known are healthy, ready and started"));
    assert!(matches!(get(Scheme::Http, addr, "/slow").await, Outcome::Failure(_)));
}

#[tokio::test]
async fn https_answers_with_a_certificate_of_its_own() {
    let mut server = Running::start("https");
    let addr = server.listening().await;
    assert_eq!(get(Scheme::Https, addr, "/healthz").await, ok());
}

#[tokio::test]
async fn good_answers_are_as_they_are_asked_for() {
    let mut server = Running::start("http --status 204");
    let addr = server.listening().await;
    assert_eq!(get(Scheme::Http, addr, "/healthz").await, Outcome::Success("".into()));
    let mut server = Running::start("http --body hello --delay 50ms");
    let addr = server.listening().await;
    let begun = clock::now();
    assert_eq!(get(Scheme::Http, addr, "/").await, Outcome::Success("hello".into()));
    assert!(clock::now() - begun >= Duration::from_millis(50));
    let mut server = Running::start("http --redirect http://127.0.0.9/");
    let addr = server.listening().await;
    assert!(matches!(get(Scheme::Http, addr, "/healthz").await, Outcome::Warning(_)));
}

#[tokio::test]
async fn a_late_starter_refuses_or_fails_until_it_is_up() {
    let mut server = Running::start("http --start-after 100ms");
    let begun = clock::now();
    let addr = server.listening().await;
    assert!(clock::now() - begun >= Duration::from_millis(90));
    assert_eq!(get(Scheme::Http, addr, "/startupz").await, ok());
    let mut server = Running::start("http --start-after 1h --start-mode fail");
    let addr = server.listening().await;
    assert_eq!(get(Scheme::Http, addr, "/startupz").await, failed(503));
    post(addr, "/control?started=true").await;
    assert_eq!(get(Scheme::Http, addr, "/startupz").await, ok());
}

#[tokio::test]
async fn a_server_fails_after_its_time_and_recovers() {
    let mut server = Running::start("http --fail-after 30ms --recover-after 30ms");
    let addr = server.listening().await;
    for (wanted, what) in [(failed(503), "fails"), (ok(), "recovers"), (failed(503), "fails again")] {
        let until = clock::now() + LONG;
        while get(Scheme::Http, addr, "/healthz").await != wanted {
            assert!(clock::now() < until, "the server never {what}");
        }
    }
}

#[tokio::test]
async fn tcp_listens_only_while_it_is_well() {
    let mut server = Running::start("tcp --body hi --fail-after 100ms --recover-after 100ms");
    let addr = server.listening().await;
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    let mut banner = [0; 2];
    stream.read_exact(&mut banner).await.expect("a banner");
    assert_eq!(&banner, b"hi");
    assert_eq!(server.notice().await, Notice::Closed(addr));
    assert_eq!(server.notice().await, Notice::Listening(addr), "the same address again");
}

#[tokio::test]
async fn tcp_is_toggled_over_its_control_address() {
    let mut server = Running::start("tcp --control 127.0.0.1:0 --start-after 50ms");
    let control = server.control().await;
    let addr = server.listening().await;
    post(control, "/control?ready=false").await;
    assert_eq!(server.notice().await, Notice::Closed(addr));
    let refused = TcpStream::connect(addr).await.expect_err("closed");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(post(control, "/else").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn grpc_says_how_its_services_are() {
    let mut server = Running::start("grpc --service shop=SERVING --service old=NOT_SERVING --control 127.0.0.1:0");
    let (mut addr, mut control) = (None, None);
    while addr.is_none() || control.is_none() {
        match server.notice().await {
            Notice::Listening(at) => addr = Some(at),
            Notice::Control(at) => control = Some(at),
            Notice::Closed(_) => {}
        }
    }
    let (addr, control) = (addr.expect("set"), control.expect("set"));
    let unhealthy = Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into());
    let healthy = Outcome::Success("service healthy".into());
    assert_eq!(check(addr, "").await, healthy);
    assert_eq!(check(addr, "shop").await, healthy);
    assert_eq!(check(addr, "old").await, unhealthy);
    assert!(matches!(check(addr, "none").await, Outcome::Failure(text) if text.contains("NotFound")));
    post(control, "/control?healthy=false").await;
    assert_eq!(check(addr, "").await, unhealthy);
    assert_eq!(check(addr, "shop").await, unhealthy);
}

#[tokio::test]
async fn troubles_are_made_on_purpose() {
    let mut server = Running::start("http --stall");
    let addr = server.listening().await;
    assert!(matches!(get(Scheme::Http, addr, "/").await, Outcome::Failure(text) if text.contains("awaiting headers")));
    let mut server = Running::start("http --reset");
    let addr = server.listening().await;
    assert!(matches!(get(Scheme::Http, addr, "/").await, Outcome::Failure(_)));
    let mut stream = TcpStream::connect(addr).await.expect("the kernel connects");
    let reset = stream.read(&mut [0]).await.expect_err("a reset");
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    let mut server = Running::start("tcp --hang");
    let addr = server.listening().await;
    let _held = TcpStream::connect(addr).await.expect("the queue has one place");
    let second = timeout(Duration::from_millis(100), TcpStream::connect(addr)).await;
    assert!(second.is_err(), "nobody accepts");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let mut first = Running::start("tcp");
    let addr = first.listening().await;
    let args = parse(&format!("tcp --listen {addr}")).expect("valid");
    let error = serve(&args, Arc::new(|_| ())).await.expect_err("taken");
    assert!(error.to_string().starts_with(&format!("cannot listen on {addr}: ")), "{error}");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for line in [
        "http --listen localhost",
        "http --start-after soon",
        "http --start-after -5s",
        "http --recover-after 5s",
        "http --stall --reset",
        "http --status 99",
        "grpc --service shop",
        "grpc --service shop=UP",
        "",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    let args = parse("http --listen 127.0.0.1:18181 --start-after 1m30s --fail-after=20s").expect("valid");
    let common = args.common();
    assert_eq!((common.start_after, common.fail_after), (Duration::from_secs(90), Some(Duration::from_secs(20))));
    assert_eq!(common.listen.ip(), IpAddr::from([127, 0, 0, 1]));
}
