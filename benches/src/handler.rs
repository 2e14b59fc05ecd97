//! The five ways to probe, as options, orders and figures name them.

use serde::Serialize;

/// A probe's handler; HTTPS counts as one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Handler {
    /// tcpSocket
    Tcp,
    /// httpGet over HTTP
    Http,
    /// httpGet over HTTPS
    Https,
    /// grpc
    Grpc,
    /// exec
    Exec,
}

impl Handler {
    /// As in the daemon's metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Handler::Tcp => "tcp",
            Handler::Http => "http",
            Handler::Https => "https",
            Handler::Grpc => "grpc",
            Handler::Exec => "exec",
        }
    }

    /// Whether each real attempt opens a connection.
    #[must_use]
    pub const fn connects(self) -> bool {
        !matches!(self, Handler::Exec)
    }
}
