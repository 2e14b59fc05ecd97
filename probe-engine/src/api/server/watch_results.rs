//! WatchResults: the stored results, for embedders.

use tonic::Status;

use super::{Backend, Parts};
use crate::api::v1;

/// See the proto.
pub(super) async fn watch(_: &Backend, _: v1::WatchResultsRequest) -> Result<Parts<v1::WatchResultsResponse>, Status> {
    Err(Status::unimplemented("not yet"))
}
