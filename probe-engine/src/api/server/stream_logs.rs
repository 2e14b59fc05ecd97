//! StreamLogs: what a container wrote, from a thread that may wait for files.

use std::sync::Arc;

use probe_core::id::{ContainerName, PodUid};
use probe_core::spec::Pod;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Parts, Service};
use crate::api::{logs, v1};
use crate::limits;
use crate::results::ResultsHandle;
use crate::runtime::RuntimeError;

/// See the proto.
pub(super) async fn stream(
    service: &Service,
    request: v1::StreamLogsRequest,
) -> Result<Parts<v1::StreamLogsResponse>, Status> {
    let record = service.pod(&request.namespace, &request.pod).await?;
    let pod = Arc::clone(&record.pod);
    let container = logged_container(&pod, &request.container)?;
    let runtime = Arc::clone(&service.backend.runtime);
    let previous = request.previous;
    // Asked once here, so that what the runtime cannot do is the answer and not the end of a stream.
    let found = runtime.log_files(&pod, &container, previous).map_err(|error| log_error(&error))?;
    if found.is_empty() && previous {
        return Err(Status::not_found(format!(
            "container {container:?} of pod {:?} has no previous instance",
            pod.name
        )));
    }
    let place = Arc::clone(&service.log_streams).try_acquire_owned().map_err(|_| {
        Status::resource_exhausted(format!("{} logs are being streamed already", limits::API_LOG_STREAMS_MAX))
    })?;
    let options = logs::Options { follow: request.follow && !previous, tail_lines_count: request.tail_lines_count };
    let (to, from) = mpsc::channel(limits::API_PARTS_AHEAD_MAX);
    let mut sink = LogSink {
        to,
        ended: service.ended.clone(),
        results: service.backend.results.clone(),
        uid: pod.uid.clone(),
        handle: tokio::runtime::Handle::current(),
    };
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let files = || runtime.log_files(&pod, &container, previous).map_err(std::io::Error::other);
        if let Err(error) = logs::stream(files, options, &mut sink) {
            let _ = sink.to.blocking_send(Err(Status::internal(format!("cannot read the log: {error}"))));
        }
    });
    Ok(ReceiverStream::new(from))
}

/// The way from the thread that reads a log to its stream.
struct LogSink {
    to: mpsc::Sender<Result<v1::StreamLogsResponse, Status>>,
    ended: watch::Receiver<bool>,
    results: ResultsHandle,
    uid: PodUid,
    handle: tokio::runtime::Handle,
}

impl logs::Sink for LogSink {
    fn send(&mut self, part: Vec<u8>) -> bool {
        self.to.blocking_send(Ok(v1::StreamLogsResponse { data: part })).is_ok()
    }

    fn is_over(&mut self) -> bool {
        if *self.ended.borrow() || self.to.is_closed() {
            return true;
        }
        let uid = self.uid.clone();
        let known = self.handle.block_on(self.results.read(move |node| node.pods.contains_key(&uid)));
        known != Ok(true)
    }
}

fn logged_container(pod: &Pod, name: &str) -> Result<ContainerName, Status> {
    if !name.is_empty() {
        return pod.container(name).map(|c| c.name.clone()).ok_or_else(|| no_container(pod, name));
    }
    match &*pod.containers {
        [one] => Ok(one.name.clone()),
        several => Err(Status::invalid_argument(format!(
            "pod {:?} has several containers; name one with -c: {}",
            pod.name,
            joined(&several.iter().map(|c| &c.name).collect::<Vec<_>>())
        ))),
    }
}

fn no_container(pod: &Pod, name: &str) -> Status {
    let names: Vec<&ContainerName> = pod.all_containers().map(|c| &c.name).collect();
    Status::not_found(format!("pod {:?} has no container {name:?}; it has {}", pod.name, joined(&names)))
}

fn joined(names: &[&ContainerName]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn log_error(error: &RuntimeError) -> Status {
    match error {
        RuntimeError::Unsupported { .. } => Status::failed_precondition(error.to_string()),
        RuntimeError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Status::not_found("there is no log: the container was never started")
        }
        _ => Status::internal(error.to_string()),
    }
}
