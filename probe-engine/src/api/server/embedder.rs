//! The service for embedders: programs that run the containers themselves.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status, Streaming};

use super::{Backend, Parts, exec_calls, watch_results};
use crate::api::v1;
use crate::api::v1::embedder_server::Embedder as EmbedderApi;

/// See the proto.
pub(super) struct Embedder {
    pub(super) backend: Backend,
    /// True once the server is to end.
    pub(super) ended: watch::Receiver<bool>,
    pub(super) result_watchers: Arc<Semaphore>,
}

#[tonic::async_trait]
impl EmbedderApi for Embedder {
    async fn sync_pods(
        &self,
        _: Request<Streaming<v1::SyncPodsRequest>>,
    ) -> Result<Response<v1::SyncPodsResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn update_pod_status(
        &self,
        _: Request<v1::UpdatePodStatusRequest>,
    ) -> Result<Response<v1::UpdatePodStatusResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn stop_liveness_and_startup(
        &self,
        _: Request<v1::StopLivenessAndStartupRequest>,
    ) -> Result<Response<v1::StopLivenessAndStartupResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    type WatchResultsStream = Parts<v1::WatchResultsResponse>;

    async fn watch_results(
        &self,
        request: Request<v1::WatchResultsRequest>,
    ) -> Result<Response<Self::WatchResultsStream>, Status> {
        watch_results::watch(self, request.into_inner()).await.map(Response::new)
    }

    type ServeExecStream = Parts<v1::ServeExecResponse>;

    async fn serve_exec(
        &self,
        request: Request<Streaming<v1::ServeExecRequest>>,
    ) -> Result<Response<Self::ServeExecStream>, Status> {
        exec_calls::serve(&self.backend, request.into_inner()).await.map(Response::new)
    }
}
