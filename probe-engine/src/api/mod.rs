//! The control API (gRPC over a unix socket, and over TCP with TLS) and the HTTP servers: admin and dashboard.

pub mod admin;
pub mod certificates;
pub mod convert;
pub mod dashboard;
pub mod logs;
pub mod selector;
pub mod server;
pub mod socket;

/// The wire contract, generated from `proto/probeengine/v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the proto file holds the docs"
)]
pub mod v1 {
    tonic::include_proto!("probeengine.v1");
}

/// The proto files and those they import, comments included, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control.descriptors"));
