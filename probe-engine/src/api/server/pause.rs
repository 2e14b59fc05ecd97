//! PauseProbes.

use tonic::Status;

use super::Service;
use crate::api::v1;

/// See the proto.
pub(super) async fn pause(_: &Service, _: v1::PauseProbesRequest) -> Result<v1::PauseProbesResponse, Status> {
    Err(Status::unimplemented("not yet"))
}
