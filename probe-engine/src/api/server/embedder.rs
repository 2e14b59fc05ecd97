//! The service for embedders: programs that run the containers themselves.

use std::sync::Arc;

use probe_core::id::PodUid;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status, Streaming};

use super::{Backend, Parts, api_error, exec_calls, sync_pods, unavailable, watch_results};
use crate::api::convert::embedded;
use crate::api::v1;
use crate::api::v1::embedder_server::Embedder as EmbedderApi;
use crate::results::PodRecord;
use crate::runtime::external::broker::Broker;

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
        request: Request<Streaming<v1::SyncPodsRequest>>,
    ) -> Result<Response<v1::SyncPodsResponse>, Status> {
        self.broker()?;
        sync_pods::sync(&self.backend, request.into_inner(), self.ended.clone()).await.map(Response::new)
    }

    async fn update_pod_status(
        &self,
        request: Request<v1::UpdatePodStatusRequest>,
    ) -> Result<Response<v1::UpdatePodStatusResponse>, Status> {
        self.broker()?;
        let request = request.into_inner();
        let record = self.pod(&request.pod_uid).await?;
        let status = embedded::status(request, &record).map_err(Status::invalid_argument)?;
        let told = self.backend.pods.status(record.pod.uid.clone(), status).await;
        told.map_err(|error| api_error(&error))?;
        Ok(Response::new(v1::UpdatePodStatusResponse {}))
    }

    async fn stop_liveness_and_startup(
        &self,
        request: Request<v1::StopLivenessAndStartupRequest>,
    ) -> Result<Response<v1::StopLivenessAndStartupResponse>, Status> {
        self.broker()?;
        let record = self.pod(&request.into_inner().pod_uid).await?;
        let stopped = self.backend.pods.stop_liveness_and_startup(record.pod.uid.clone()).await;
        stopped.map_err(|error| api_error(&error))?;
        Ok(Response::new(v1::StopLivenessAndStartupResponse {}))
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
        let broker = self.broker()?;
        Ok(Response::new(exec_calls::serve(broker, request.into_inner(), self.ended.clone())))
    }
}

impl Embedder {
    /// It is there where somebody else runs the containers.
    fn broker(&self) -> Result<&Arc<Broker>, Status> {
        let name = self.backend.runtime.name();
        self.backend.broker.as_ref().ok_or_else(|| {
            Status::failed_precondition(format!(
                "the daemon runs with --runtime {name}; embedders need one that runs with --runtime external"
            ))
        })
    }

    async fn pod(&self, uid: &str) -> Result<PodRecord, Status> {
        if uid.is_empty() {
            return Err(Status::invalid_argument("pod_uid: is missing"));
        }
        let asked = PodUid::from(uid);
        let found = self.backend.results.read(move |node| node.pods.get(&asked).cloned()).await.map_err(unavailable)?;
        found.ok_or_else(|| Status::not_found(format!("pod_uid: no pod has the UID {uid:?}")))
    }
}
