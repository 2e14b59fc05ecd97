//! Hooks against small real servers on loopback, and a runtime that runs nothing.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use probe_core::spec::{Container, ContainerKind, HttpHeader, Port, Probes};

use super::*;
use crate::consumer::lifecycle::tests::Fake;
use crate::prober::tls::tests::Server;

fn get(host: &str, port: u16, path: &str, headers: &[(&str, &str)]) -> HttpGet {
    let header = |(name, value): &(&str, &str)| HttpHeader { name: (*name).into(), value: (*value).into() };
    HttpGet {
        host: (!host.is_empty()).then(|| host.into()),
        port: Port::Number(port),
        path: path.into(),
        scheme: Scheme::Http,
        headers: headers.iter().map(header).collect(),
    }
}

/// To a server of this test.
fn to(addr: SocketAddr, headers: &[(&str, &str)]) -> HttpGet {
    get("127.0.0.1", addr.port(), "/hook", headers)
}

fn url(get: &HttpGet, pod_ip: Option<&str>) -> String {
    let ip = pod_ip.map(|ip| ip.parse().expect("an address"));
    Plan::for_hook(get, ip).expect("a request").url
}

fn run(hook: Hook) -> HookRun {
    let container = Container::new("c".into(), ContainerKind::Regular, Probes::default());
    HookRun {
        pod: Arc::new(Pod::new("uid-1".into(), "shop", "web", [container])),
        container: "c".into(),
        id: "fake://c.0".into(),
        hook,
        runtime: Arc::new(Fake::default()),
        clock: TimerClock::new(),
    }
}

async fn ask(get: HttpGet) -> Result<Done, HookError> {
    run(Hook::HttpGet(get)).run().await
}

fn exec(command: &str) -> Hook {
    Hook::Exec(Exec { command: command.split(' ').map(Box::from).collect() })
}

fn answer(status: &str) -> Server {
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").into_bytes();
    Server::http(move |_| reply.clone())
}

#[test]
fn l01_host_port_and_path_make_the_url() {
    assert_eq!(url(&get("foo", 8080, "bar", &[]), None), "http://foo:8080/bar");
}

#[tokio::test]
async fn l02_headers_are_sent() {
    let server = answer("200 OK");
    assert_eq!(ask(to(server.addr, &[("Foo", "bar")])).await, Ok(Done::default()));
    let request = &server.requests()[0];
    assert!(request.starts_with("GET /hook HTTP/1.1\r\n") && request.contains("\r\nFoo: bar\r\n"), "{request}");
}

#[tokio::test]
async fn l05_with_a_host_the_pod_needs_no_address() {
    let server = answer("200 OK");
    // The fake runtime knows no address.
    assert_eq!(ask(to(server.addr, &[])).await, Ok(Done::default()));
}

#[test]
fn l06_without_a_host_the_pods_address_is_asked() {
    assert_eq!(url(&get("", 42, "foo", &[]), Some("233.252.0.1")), "http://233.252.0.1:42/foo");
}

#[tokio::test]
async fn l07_without_host_and_address_there_is_no_request() {
    let error = ask(get("", 42, "/foo", &[])).await.unwrap_err().to_string();
    let text = "HTTP lifecycle hook (/foo) for Container \"c\" in Pod \"web_shop(uid-1)\" failed - error: failed to find \
                networking container: the pod has no IP address";
    assert_eq!(error, text);
}

#[test]
fn l10_the_scheme_is_https_where_the_hook_says_so() {
    let secure = HttpGet { scheme: Scheme::Https, ..get("foo", 4430, "/bar", &[]) };
    assert_eq!(url(&secure, None), "https://foo:4430/bar");
}

#[test]
fn l12_a_query_is_sent_and_a_fragment_is_not() {
    let with_query = Plan::for_hook(&get("foo", 80, "/bar?k=v", &[]), None).expect("a request");
    assert!(with_query.request.starts_with(b"GET /bar?k=v HTTP/1.1\r\n"));
    let with_fragment = Plan::for_hook(&get("foo", 80, "/bar#frag", &[]), None).expect("a request");
    assert_eq!(with_fragment.url, "http://foo:80/bar#frag");
    assert!(with_fragment.request.starts_with(b"GET /bar HTTP/1.1\r\n"));
}

#[tokio::test]
async fn l13_a_host_header_overrides_the_requests_host() {
    let server = answer("200 OK");
    ask(to(server.addr, &[("Host", "from.header")])).await.expect("an answer");
    assert!(server.requests()[0].contains("\r\nHost: from.header\r\n"));
}

#[tokio::test]
async fn l14_the_user_agent_is_that_of_lifecycle() {
    let server = answer("200 OK");
    ask(to(server.addr, &[])).await.expect("an answer");
    assert!(server.requests()[0].contains("\r\nUser-Agent: kube-lifecycle/"), "{:?}", server.requests());
}

#[tokio::test]
async fn any_answer_is_a_success() {
    for status in ["204 No Content", "301 Moved Permanently", "404 Not Found", "500 Internal Server Error"] {
        assert_eq!(ask(to(answer(status).addr, &[])).await, Ok(Done::default()), "{status}");
    }
    let cut_short = Server::raw(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").expect("room for it");
    });
    assert_eq!(ask(to(cut_short.addr, &[])).await, Ok(Done::default()), "the body is nobody's business");
}

#[tokio::test]
async fn a_server_without_tls_is_asked_again_over_plain_http_and_without_authorization() {
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&requests);
    let plain = Server::raw(move |mut stream| {
        let mut bytes = [0; 4096];
        let len = stream.read(&mut bytes).expect("a request");
        let request = String::from_utf8_lossy(&bytes[..len]);
        let is_http = request.starts_with("GET ");
        let reply: &[u8] = match is_http {
            true => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            // As servers answer that take a TLS record for a request.
            false => b"HTTP/1.0 400 Bad Request\r\n\r\n",
        };
        // Before it is answered, since the answer is what is waited for.
        seen.lock().expect("no panic").push(request.into_owned());
        stream.write_all(reply).expect("room for it");
    });
    let headers = [("authorization", "secret"), ("Foo", "bar")];
    let done = ask(HttpGet { scheme: Scheme::Https, ..to(plain.addr, &headers) }).await;
    assert_eq!(done, Ok(Done { fell_back: Some(plain.addr.to_string().into()) }));
    let requests = requests.lock().expect("no panic");
    let request = requests.last().expect("a request");
    assert!(request.contains("\r\nFoo: bar\r\n") && !request.contains("secret"), "{request}");
}

#[tokio::test]
async fn l17_any_other_error_is_the_hooks_and_is_not_tried_again() {
    let silent = Server::raw(drop);
    let error = ask(HttpGet { scheme: Scheme::Https, ..to(silent.addr, &[]) }).await.unwrap_err().to_string();
    assert!(
        error.starts_with("HTTP lifecycle hook (/hook) for Container \"c\" in Pod \"web_shop(uid-1)\" failed"),
        "{error}"
    );
    assert_eq!(silent.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn l18_a_sleep_takes_its_seconds_and_zero_none() {
    let begun = tokio::time::Instant::now();
    assert_eq!(run(Hook::Sleep(0)).run().await, Ok(Done::default()));
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert_eq!(run(Hook::Sleep(1)).run().await, Ok(Done::default()));
    assert_eq!(begun.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_fails_is_told_with_its_output() {
    assert_eq!(run(exec("well")).run().await, Ok(Done::default()));
    let error = run(exec("fail -x")).run().await.unwrap_err().to_string();
    let text = "Exec lifecycle hook ([fail -x]) for Container \"c\" in Pod \"web_shop(uid-1)\" failed - error: command \
                'fail -x' exited with 3: \"cried\", message: \"saidcried\"";
    assert_eq!(error, text);
}

#[tokio::test]
async fn a_tcp_hook_cannot_be_run() {
    let error = run(Hook::TcpSocket).run().await.unwrap_err().to_string();
    assert_eq!(error, "Cannot run handler: invalid handler: tcpSocket");
}
