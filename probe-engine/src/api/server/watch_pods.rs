//! WatchPods: a snapshot, SYNCED, and what changes.

use tonic::Status;

use super::{Parts, Service};
use crate::api::v1;

/// See the proto.
pub(super) async fn watch(_: &Service, _: v1::WatchPodsRequest) -> Result<Parts<v1::WatchPodsResponse>, Status> {
    Err(Status::unimplemented("not yet"))
}
