//! AddPod and RemovePod: pods that come and go through the API.

use tonic::Status;

use super::{Service, control_error, namespace_or_default};
use crate::api::v1;

/// See the proto.
pub(super) async fn add(_: &Service, _: v1::AddPodRequest) -> Result<v1::AddPodResponse, Status> {
    Err(Status::unimplemented("AddPod"))
}

/// See the proto.
pub(super) async fn remove(service: &Service, request: v1::RemovePodRequest) -> Result<v1::RemovePodResponse, Status> {
    let v1::RemovePodRequest { namespace, pod, grace_period_seconds } = request;
    let namespace = namespace_or_default(namespace);
    let grace_seconds = grace_period_seconds.unwrap_or(u32::MAX);
    let shortened = service.backend.control.shorten_grace(&namespace, &pod, grace_seconds).await;
    shortened.map_err(|error| control_error(&error))?;
    Ok(v1::RemovePodResponse {})
}
