//! One attempt with the usual crates: tokio, hyper, tokio-rustls, tonic.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, LazyLock};

use anyhow::Context;
use hyper::Request;
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::aim::{Aim, USER_AGENT};
use crate::any_certificate;
use crate::handler::Handler;

/// One for all, without sessions to resume: every attempt makes the whole handshake, as the kubelet's do.
static TLS: LazyLock<Arc<ClientConfig>> =
    LazyLock::new(|| any_certificate::client(true, 0).expect("the ring provider has suites for TLS 1.2 and 1.3"));

/// What a probe's task knows.
pub(super) enum Prober {
    Tcp(SocketAddr),
    Http(SocketAddr, Box<str>),
    Https(SocketAddr, Box<str>),
    Grpc(Box<str>),
    Exec(Box<[Box<str>]>),
}

impl Prober {
    pub(super) fn new(handler: Handler, aim: &Aim) -> anyhow::Result<Self> {
        let path = || aim.net().map(|(peer, path)| (peer, Box::from(path)));
        Ok(match handler {
            Handler::Tcp => Prober::Tcp(aim.net()?.0),
            Handler::Http => path().map(|(peer, path)| Prober::Http(peer, path))?,
            Handler::Https => path().map(|(peer, path)| Prober::Https(peer, path))?,
            Handler::Grpc => Prober::Grpc(format!("http://{}", aim.net()?.0).into()),
            Handler::Exec => Prober::Exec(aim.command()?.into()),
        })
    }

    /// Did it succeed? An error is a failure, too.
    pub(super) async fn attempt(&self) -> anyhow::Result<bool> {
        match self {
            Prober::Tcp(peer) => {
                TcpStream::connect(peer).await?;
                Ok(true)
            }
            Prober::Http(peer, path) => ask(TcpStream::connect(peer).await?, *peer, path).await,
            Prober::Https(peer, path) => {
                let name = ServerName::IpAddress(peer.ip().into());
                let stream = TcpStream::connect(peer).await?;
                ask(TlsConnector::from(Arc::clone(&TLS)).connect(name, stream).await?, *peer, path).await
            }
            Prober::Grpc(url) => {
                let channel = Endpoint::from_shared(url.to_string())?.user_agent(USER_AGENT)?.connect().await?;
                let answer = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await?;
                Ok(answer.get_ref().status() == ServingStatus::Serving)
            }
            Prober::Exec(command) => {
                let (program, arguments) = command.split_first().context("an empty command")?;
                let mut command = Command::new(&**program);
                command.args(arguments.iter().map(|argument| &**argument)).stdin(Stdio::null()).kill_on_drop(true);
                Ok(command.output().await?.status.success())
            }
        }
    }
}

/// The kubelet's request, and the whole answer.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    path: &str,
) -> anyhow::Result<bool> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; its error is the sender's, too.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("Host", peer.to_string())
        .header("User-Agent", USER_AGENT)
        .header("Accept", "*/*")
        .header("Connection", "close")
        .body(String::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        frame?;
    }
    Ok(status.is_success() || status.is_redirection())
}
