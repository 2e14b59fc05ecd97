//! SyncPods: the complete set of pods, sent in parts.

use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::{Backend, api_error};
use crate::api::v1;
use crate::source::api::sync::{Desired, SyncProblem, Synced};

/// See the proto. `ended`: true once the server is to end.
pub(super) async fn sync(
    backend: &Backend,
    mut parts: Streaming<v1::SyncPodsRequest>,
    ended: watch::Receiver<bool>,
) -> Result<v1::SyncPodsResponse, Status> {
    let mut desired = Desired::default();
    while let Some(part) = parts.message().await? {
        let source = backend.pods.clone();
        let read = move || desired.read(&source, part.pods.iter().map(|pod| &*pod.manifest));
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| Status::internal(format!("reading a part: {error}")))?;
        desired = read.map_err(|too_many| Status::resource_exhausted(too_many.to_string()))?;
    }
    let source = backend.pods.clone();
    // A task of its own: what was begun is finished, whether or not the caller waits for it.
    let taken_in = tokio::spawn(async move { source.sync(desired, || *ended.borrow()).await });
    let taken_in = taken_in.await.map_err(|error| Status::internal(format!("taking the set in: {error}")))?;
    taken_in.map(answer).map_err(|error| api_error(&error))
}

fn answer(of: Synced) -> v1::SyncPodsResponse {
    let problem = |SyncProblem { index, pod, problems }| v1::PodProblem { index, pod, problems };
    v1::SyncPodsResponse {
        added_count: of.added,
        kept_count: of.kept,
        removed_count: of.removed,
        problems: of.problems.into_iter().map(problem).collect(),
        problems_count: of.problems_count,
    }
}
