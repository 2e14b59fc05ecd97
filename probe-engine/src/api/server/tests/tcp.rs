//! Over TCP: who is let in, and what those who are not can hold.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::*;
use crate::api::certificates::fixture::{Ca, Files, Pair};
use crate::api::server::tcp::Bounds;
use crate::api::v1::control_client::ControlClient;
use crate::consumer::metrics::TcpStats;

/// A daemon that listens on loopback, and what its clients need.
struct Remote {
    daemon: Daemon,
    address: SocketAddr,
    stats: Arc<TcpStats>,
    server_ca: Ca,
    client_ca: Ca,
    files: Files,
}

impl Remote {
    async fn start() -> Self {
        Self::start_with(Bounds::default(), "").await
    }

    /// Serial numbers of revoked certificates stand beside the client CA.
    async fn start_with(bounds: Bounds, revoked: &str) -> Self {
        let (server_ca, client_ca) = (Ca::new("server CA"), Ca::new("client CA"));
        let revoked: Vec<u64> = revoked.split_whitespace().map(|serial| serial.parse().expect("a serial")).collect();
        let list = if revoked.is_empty() { String::new() } else { client_ca.revokes(&revoked) };
        let files = Files::write(&server_ca.server(), &(client_ca.pem() + &list));
        let any = "127.0.0.1:0".parse().expect("an address");
        let tcp = Tcp::bind(any, &files.named()).await.expect("bound").with_bounds(bounds);
        let (address, stats) = (tcp.address(), tcp.stats());
        let daemon = Daemon::start_with(none(), Some(tcp)).await;
        Self { daemon, address, stats, server_ca, client_ca, files }
    }

    async fn connect(&self, identity: Option<&Pair>) -> Result<Client, tonic::transport::Error> {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.server_ca.pem())).domain_name("localhost");
        if let Some(Pair { cert, key }) = identity {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).expect("a URI");
        let channel: Channel = endpoint.tls_config(tls).expect("usable").connect().await?;
        Ok(ControlClient::new(channel))
    }

    /// What its first request meets.
    async fn ask(&self, identity: Option<&Pair>) -> Result<String, String> {
        let asked = async {
            let mut client = self.connect(identity).await.map_err(|error| format!("{error:?}"))?;
            let info = client.get_info(v1::GetInfoRequest {}).await.map_err(|status| format!("{status:?}"))?;
            Ok(info.into_inner().node_name)
        };
        timeout(SOON, asked).await.expect("in time")
    }

    async fn counted(&self, of: impl Fn(&TcpStats) -> &AtomicU64, count: u64) {
        let counted = async {
            while of(&self.stats).load(Ordering::Relaxed) < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, counted).await.expect("in time");
        assert_eq!(of(&self.stats).load(Ordering::Relaxed), count);
    }
}

#[tokio::test]
async fn a_client_with_a_certificate_of_the_ca_is_served_and_no_other() {
    let remote = Remote::start_with(Bounds::default(), "13").await;
    let good = remote.client_ca.client(12);
    assert_eq!(remote.ask(Some(&good)).await.as_deref(), Ok("node-1"));
    let others = [
        ("none", None),
        ("of another CA", Some(Ca::new("client CA").client(12))),
        ("of the server's CA", Some(remote.server_ca.client(12))),
        ("expired", Some(remote.client_ca.client_until(14, 2020))),
        ("revoked", Some(remote.client_ca.client(13))),
        ("for servers", Some(remote.client_ca.server())),
    ];
    for (count, (what, identity)) in (1..).zip(&others) {
        assert!(remote.ask(identity.as_ref()).await.is_err(), "{what}");
        remote.counted(|stats| &stats.refused, count).await;
    }
    assert_eq!(remote.ask(Some(&good)).await.as_deref(), Ok("node-1"));
    remote.counted(|stats| &stats.accepted, 2).await;
}

#[tokio::test]
async fn plain_text_and_older_tls_are_refused() {
    let remote = Remote::start().await;
    let channel = Endpoint::from_shared(format!("http://{}", remote.address)).expect("a URI").connect().await;
    let plain = match channel {
        Ok(channel) => ControlClient::new(channel).get_info(v1::GetInfoRequest {}).await.is_ok(),
        Err(_) => false,
    };
    assert!(!plain);
    remote.counted(|stats| &stats.refused, 1).await;

    let mut roots = rustls::RootCertStore::empty();
    let pem = remote.server_ca.pem();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).expect("PEM");
    roots.add(ca).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let older = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("there")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(remote.address).await.expect("it listens");
    let name = "localhost".try_into().expect("a name");
    let error = tokio_rustls::TlsConnector::from(Arc::new(older)).connect(name, stream).await.expect_err("too old");
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    remote.counted(|stats| &stats.refused, 2).await;
}

#[tokio::test]
async fn peers_who_say_nothing_keep_nobody_out() {
    let bounds = Bounds { handshakes_max: 4, ..Bounds::default() };
    let remote = Remote::start_with(bounds, "").await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(remote.address).await.expect("it listens"));
    }
    remote.counted(|stats| &stats.displaced, 6).await;
    let good = remote.client_ca.client(1);
    assert_eq!(remote.ask(Some(&good)).await.as_deref(), Ok("node-1"));
    remote.counted(|stats| &stats.displaced, 7).await;
    let mut oldest = silent.remove(0);
    assert!(matches!(timeout(SOON, oldest.read(&mut [0])).await.expect("in time"), Ok(0) | Err(_)), "it was closed");
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_closed() {
    let bounds = Bounds { handshake_max: Duration::from_millis(50), ..Bounds::default() };
    let remote = Remote::start_with(bounds, "").await;
    let mut slow = TcpStream::connect(remote.address).await.expect("it listens");
    // The beginning of a handshake's record.
    slow.write_all(&[0x16, 0x03, 0x01]).await.expect("written");
    assert!(matches!(timeout(SOON, slow.read(&mut [0])).await.expect("in time"), Ok(0) | Err(_)));
    remote.counted(|stats| &stats.timed_out, 1).await;
}

#[tokio::test]
async fn full_places_over_tcp_close_the_next_client_and_leave_the_socket_alone() {
    let bounds = Bounds { connections_max: 1, handshake_max: Duration::from_millis(300), ..Bounds::default() };
    let mut remote = Remote::start_with(bounds, "").await;
    let good = remote.client_ca.client(1);
    let mut first = remote.connect(Some(&good)).await.expect("a place");
    first.get_info(v1::GetInfoRequest {}).await.expect("served");
    assert!(remote.ask(Some(&good)).await.is_err());
    remote.counted(|stats| &stats.full, 1).await;
    remote.daemon.client.get_info(v1::GetInfoRequest {}).await.expect("served on the socket");
    // The last client of the channel closes it.
    drop(first);
    let again = async { while remote.ask(Some(&good)).await.is_err() {} };
    timeout(SOON, again).await.expect("its place is free again");
}

#[tokio::test]
async fn a_connection_goes_on_under_a_new_certificate_and_ends_with_its_ca() {
    let bounds = Bounds { look_every: Duration::from_millis(10), ..Bounds::default() };
    let mut remote = Remote::start_with(bounds, "").await;
    let good = remote.client_ca.client(1);
    let mut client = remote.connect(Some(&good)).await.expect("let in");
    let request = v1::WatchEventsRequest { follow: true, ..Default::default() };
    let mut events = client.watch_events(request).await.expect("a stream").into_inner();
    events.message().await.expect("no error").expect("caught up");

    remote.server_ca = Ca::new("next server CA");
    let next = remote.server_ca.server();
    remote.files.replace("key.pem", &next.key);
    remote.files.replace("cert.pem", &next.cert);
    remote.counted(|stats| &stats.certificate_loads, 2).await;
    assert_eq!(remote.ask(Some(&good)).await.as_deref(), Ok("node-1"), "the new one is shown");
    remote.daemon.tell("Unhealthy", "heard").await;
    let heard = timeout(SOON, events.message()).await.expect("in time").expect("no error").expect("an event");
    assert!(matches!(heard.item, Some(Item::Event(event)) if event.message == "heard"));

    remote.files.replace("ca.pem", &(remote.client_ca.pem() + &remote.client_ca.revokes(&[1])));
    remote.counted(|stats| &stats.certificate_loads, 3).await;
    remote.daemon.tell("Unhealthy", "not heard").await;
    assert!(timeout(SOON, events.message()).await.expect("in time").is_err(), "it was cut off");
    assert!(remote.ask(Some(&good)).await.is_err(), "it is revoked");
    let other = remote.client_ca.client(2);
    assert_eq!(remote.ask(Some(&other)).await.as_deref(), Ok("node-1"));
}

#[tokio::test]
async fn a_daemon_that_ends_closes_its_address_and_ends_watches_over_tcp() {
    let remote = Remote::start().await;
    let good = remote.client_ca.client(1);
    let mut client = remote.connect(Some(&good)).await.expect("let in");
    let request = v1::WatchEventsRequest { follow: true, ..Default::default() };
    let mut events = client.watch_events(request).await.expect("a stream").into_inner();
    events.message().await.expect("no error").expect("caught up");
    let Remote { daemon, address, .. } = remote;
    daemon.end.send(()).expect("it listens");
    timeout(SOON, daemon.server).await.expect("in time").expect("no panic").expect("no error");
    assert!(timeout(SOON, events.message()).await.expect("in time").is_ok_and(|message| message.is_none()));
    assert!(TcpStream::connect(address).await.is_err());
}
