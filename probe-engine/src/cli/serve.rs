//! `probe-engine serve`: small servers to be probed, with the troubles that probes are there to find.
//!
//! They stand in for applications in the demo, in examples and in tests, so they start at once, end at once on
//! SIGTERM, and do on purpose what applications do by mistake: start late, fail after a while, stall, reset.

use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;
use tokio::signal::unix::{SignalKind, signal};

mod door;
mod grpc;
mod health;
mod http;
mod tcp;

#[cfg(test)]
mod tests;

use door::{Door, Manner};
use health::{Health, Schedule};

/// Arguments of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Which server.
    #[command(subcommand)]
    pub server: Server,
}

/// The servers.
#[derive(Clone, Debug, Subcommand)]
pub enum Server {
    /// An HTTP server: /healthz, /readyz, /startupz and /control, /slow, /redirect; any other path answers 200
    Http(HttpArgs),
    /// The same over TLS, with a self-signed certificate made at the start
    Https(HttpArgs),
    /// A TCP server that listens while it is healthy
    Tcp(TcpArgs),
    /// A gRPC server with the health service grpc.health.v1
    Grpc(GrpcArgs),
}

/// What all servers take.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Where to listen; port 0 takes any free one, which is printed as `listening on ADDR`
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Be up only this long after the start
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub start_after: Duration,
    /// What happens until then
    #[arg(long, value_enum, default_value_t = StartMode::Refuse)]
    pub start_mode: StartMode,
    /// Fail this long after being up: /healthz and /readyz answer 503, TCP refuses, gRPC says NOT_SERVING
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub fail_after: Option<Duration>,
    /// Recover this long after each failure, to fail again after --fail-after, and so on
    #[arg(long, value_name = "DURATION", requires = "fail_after", value_parser = duration)]
    pub recover_after: Option<Duration>,
    /// Accept connections and never answer
    #[arg(long, conflicts_with_all = ["reset", "hang"])]
    pub stall: bool,
    /// Accept connections and reset them
    #[arg(long, conflicts_with = "hang")]
    pub reset: bool,
    /// Listen and never accept: the first connections are made by the kernel, later ones are not
    #[arg(long)]
    pub hang: bool,
}

/// What a server does before it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StartMode {
    /// Does not listen
    Refuse,
    /// Listens and answers 503, or NOT_SERVING (TCP: does not listen)
    Fail,
}

/// Arguments of `serve http` and `serve https`.
#[derive(Clone, Debug, Args)]
pub struct HttpArgs {
    /// What all servers take.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Answer every path but /control with a redirect (302) to this URL
    #[arg(long, value_name = "URL", value_parser = header_value)]
    pub redirect: Option<String>,
    /// Status of good answers
    #[arg(long, value_name = "CODE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=999))]
    pub status: u16,
    /// Body of good answers
    #[arg(long, value_name = "TEXT", default_value = "ok\n")]
    pub body: String,
    /// Wait this long before every answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub delay: Duration,
}

/// Arguments of `serve tcp`.
#[derive(Clone, Debug, Args)]
pub struct TcpArgs {
    /// What all servers take.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Sent to every connection
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub body: String,
    /// Where to listen for `POST /control?healthy=false`
    #[arg(long, value_name = "ADDR:PORT")]
    pub control: Option<SocketAddr>,
}

/// Arguments of `serve grpc`.
#[derive(Clone, Debug, Args)]
pub struct GrpcArgs {
    /// What all servers take.
    #[command(flatten)]
    pub common: CommonArgs,
    /// A service and its status, SERVING or NOT_SERVING; may be repeated. The service without a name is always there
    #[arg(long = "service", value_name = "NAME=STATUS", value_parser = grpc::Service::parse)]
    pub services: Vec<grpc::Service>,
    /// Wait this long before every answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub delay: Duration,
    /// Where to listen for `POST /control?healthy=false`
    #[arg(long, value_name = "ADDR:PORT")]
    pub control: Option<SocketAddr>,
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {addr}: {source} (taken by another process, or not an address of this host?)")]
    Listen {
        /// As asked for.
        addr: SocketAddr,
        /// From socket(2), bind(2) or listen(2).
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// No runtime.
    #[error("cannot start: {0} (out of descriptors?)")]
    Runtime(#[from] io::Error),
    /// gRPC ended by itself.
    #[error("gRPC server: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// What a server tells while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It listens.
    Listening(SocketAddr),
    /// It has stopped listening, for now.
    Closed(SocketAddr),
    /// Its control path listens.
    Control(SocketAddr),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Listening(addr) => write!(f, "listening on {addr}"),
            Notice::Closed(addr) => write!(f, "not listening on {addr}"),
            Notice::Control(addr) => write!(f, "control on {addr}"),
        }
    }
}

/// Where notices go.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// Runs the server until SIGTERM or SIGINT; notices go to standard output.
#[must_use]
pub fn run(args: &ServeArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(until_signal(args)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn until_signal(args: &ServeArgs) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tell: Tell = Arc::new(|notice| {
        let mut out = io::stdout().lock();
        // Whoever does not read what is said does not stop the server.
        let _ = writeln!(out, "{notice}").and_then(|()| out.flush());
    });
    tokio::select! {
        result = serve(args, tell) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Runs the server until it is dropped, on the current tokio runtime.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(args: &ServeArgs, tell: Tell) -> Result<(), ServeError> {
    let common = args.common();
    let health = Health::new();
    let door = Door::bind(common.listen, common.manner(), Arc::clone(&tell))?;
    let schedule = Schedule {
        start_after: common.start_after,
        fail_after: common.fail_after,
        recover_after: common.recover_after,
    };
    let control = async {
        match args.control() {
            Some(addr) => {
                let door = Door::bind(addr, Manner::Serve, of_control(&tell))?;
                http::control(door, health.clone()).await
            }
            None => std::future::pending().await,
        }
    };
    let server = async {
        match &args.server {
            Server::Http(args) => http::serve(args, door, health.clone(), None).await,
            Server::Https(args) => {
                let tls = http::acceptor()?;
                http::serve(args, door, health.clone(), Some(tls)).await
            }
            Server::Tcp(args) => tcp::serve(args, door, health.clone()).await,
            Server::Grpc(args) => grpc::serve(args, door, health.clone()).await,
        }
    };
    let clockwork = async {
        schedule.run(&health).await;
        std::future::pending().await
    };
    tokio::select! {
        result = server => result,
        result = control => result,
        result = clockwork => result,
    }
}

/// Tells of the control path what is told of a server.
fn of_control(tell: &Tell) -> Tell {
    let tell = Arc::clone(tell);
    Arc::new(move |notice| {
        if let Notice::Listening(addr) = notice {
            tell(Notice::Control(addr));
        }
    })
}

impl ServeArgs {
    fn common(&self) -> &CommonArgs {
        match &self.server {
            Server::Http(args) | Server::Https(args) => &args.common,
            Server::Tcp(args) => &args.common,
            Server::Grpc(args) => &args.common,
        }
    }

    fn control(&self) -> Option<SocketAddr> {
        match &self.server {
            // Theirs is a path beside the others.
            Server::Http(_) | Server::Https(_) => None,
            Server::Tcp(args) => args.control,
            Server::Grpc(args) => args.control,
        }
    }
}

impl CommonArgs {
    fn manner(&self) -> Manner {
        match (self.stall, self.reset, self.hang) {
            (true, ..) => Manner::Stall,
            (_, true, _) => Manner::Reset,
            (.., true) => Manner::Hang,
            _ => Manner::Serve,
        }
    }

    /// Whether a server that shows its health in its answers listens.
    fn listens(&self) -> impl Fn(&health::State) -> bool + Send + use<> {
        let early = self.start_mode == StartMode::Fail;
        move |state| early || state.started
    }
}

/// A duration as people write it: `5s`, `500ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<SignedDuration> = text.parse().ok();
    parsed
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "not a duration like 5s, 500ms or 1m30s".to_owned())
}

fn header_value(text: &str) -> Result<String, String> {
    match hyper::header::HeaderValue::from_str(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("holds a line end or a control character".to_owned()),
    }
}
