//! WatchLatency: histograms, as deltas.

use tonic::Status;

use super::{Parts, Service};
use crate::api::v1;

/// See the proto.
pub(super) async fn watch(_: &Service, _: v1::WatchLatencyRequest) -> Result<Parts<v1::WatchLatencyResponse>, Status> {
    Err(Status::unimplemented("not yet"))
}
