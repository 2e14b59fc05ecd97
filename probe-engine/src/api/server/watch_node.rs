//! WatchNode: the node at a glance, each second.

use tonic::Status;

use super::{Parts, Service};
use crate::api::v1;

/// See the proto.
pub(super) async fn watch(_: &Service, _: v1::WatchNodeRequest) -> Result<Parts<v1::WatchNodeResponse>, Status> {
    Err(Status::unimplemented("not yet"))
}
