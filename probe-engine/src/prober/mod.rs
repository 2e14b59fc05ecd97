//! How an attempt is made: which handler, which way (ring or pool), and what its result means.

pub mod dial;
pub mod duration;
pub mod errno;
pub mod exec;
pub mod grpc;
pub mod http;
pub mod http1;
pub mod pool;
pub(crate) mod quote;
pub mod resolve;
pub mod stream;
pub mod tcp;
pub mod tls;
mod url;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_core::outcome::Outcome;
use probe_core::spec::ProbeSpec;

use crate::runtime::Instance;

/// One attempt, described whole: what the pool and the command line make attempts from.
#[derive(Clone, Debug)]
pub struct Request {
    /// The probe.
    pub spec: Arc<ProbeSpec>,
    /// The pod's address; `None` = not known, which dials the local host as the kubelet does.
    pub pod_ip: Option<IpAddr>,
    /// The instance for exec; `None` outside a pod.
    pub instance: Option<Instance>,
    /// `namespace/pod` and container, for messages.
    pub label: Arc<str>,
}

/// How long each part of an attempt took; `None` where it was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Name resolution.
    pub resolve: Option<Duration>,
    /// TCP handshake.
    pub connect: Option<Duration>,
    /// The same as the kernel measured it, where it was asked; `None` where a segment was sent again.
    pub handshake: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// From the request's first byte to the response's first byte.
    pub first_byte: Option<Duration>,
    /// From the response's first byte to the end of what is read.
    pub body: Option<Duration>,
    /// All of it.
    pub total: Duration,
}

/// One attempt, made.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// What it saw.
    pub outcome: Outcome,
    /// How long its parts took.
    pub phases: Phases,
}
