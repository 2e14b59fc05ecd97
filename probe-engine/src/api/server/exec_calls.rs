//! ServeExec: commands of exec probes, run by the embedder.

use tonic::{Status, Streaming};

use super::{Backend, Parts};
use crate::api::v1;

/// See the proto.
pub(super) async fn serve(
    _: &Backend,
    _: Streaming<v1::ServeExecRequest>,
) -> Result<Parts<v1::ServeExecResponse>, Status> {
    Err(Status::unimplemented("not yet"))
}
