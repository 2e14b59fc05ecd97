//! What starts, stops and asks containers, as a trait: `process` (this host, embedded), `external` (a client of the API) and
//! `none`.

pub mod external;
pub mod none;
pub mod process;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::spec::Pod;
use probe_core::status::Termination;
use probe_core::time::Instant;

use crate::prober::exec::Execution;

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The container's program could not be started.
    #[error("cannot start container {container} of pod {pod}: {what}: {source}")]
    Start {
        /// `namespace/name`
        pod: String,
        /// The container.
        container: String,
        /// The call and its argument.
        what: String,
        /// Its errno.
        source: std::io::Error,
    },
    /// No such instance.
    #[error("no container {0}")]
    UnknownContainer(ContainerId),
    /// The runtime does not do this.
    #[error("runtime {runtime} cannot {what}: {why}")]
    Unsupported {
        /// Its name.
        runtime: &'static str,
        /// What was asked.
        what: &'static str,
        /// What to do instead.
        why: &'static str,
    },
    /// Anything else the system refused.
    #[error("{what}: {source}")]
    Io {
        /// The call and its argument.
        what: String,
        /// Its errno.
        source: std::io::Error,
    },
}

/// What a runtime tells unasked.
#[derive(Clone, Debug)]
pub enum RuntimeEvent {
    /// An instance ended, by itself or stopped.
    Exited {
        /// Its pod.
        pod: PodUid,
        /// Its container.
        container: ContainerName,
        /// The instance.
        id: ContainerId,
        /// How.
        termination: Termination,
    },
}

/// A started instance.
#[derive(Clone, Debug)]
pub struct Started {
    /// `process://...`: unique for ever.
    pub id: ContainerId,
    /// When its process was started.
    pub started_at: Instant,
    /// Its process, where it is one of this host.
    pub pid: Option<u32>,
}

/// One instance of a container, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The pod.
    pub pod: PodUid,
    /// The container within it.
    pub container: ContainerName,
    /// The instance.
    pub id: ContainerId,
}

/// See the module. Methods may be called from any thread.
pub trait ContainerRuntime: Send + Sync + 'static {
    /// `process`, `none` or `external`: for logs, ContainerIds and messages.
    fn name(&self) -> &'static str;

    /// Whether containers are started and killed by it (lifecycle acts only then).
    fn manages_containers(&self) -> bool;

    /// The address of the pod, from `status.podIP` or the runtime's own.
    fn pod_ip(&self, pod: &Pod) -> Option<std::net::IpAddr>;

    /// Starts a new instance of a container; `restart_count` instances came before it.
    fn start<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        container: &'a ContainerName,
        restart_count: u32,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>>;

    /// Sends the stop signal to the first process, waits up to `grace`, then kills the whole group; returns
    /// once nothing of the instance is left. `Exited` is told besides. Stopping an ended instance is no error.
    fn stop<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Runs a command in a container (`ExecSync` of the CRI), for `limit` at most; `None` = as long as it takes, or until the
    /// future is dropped, which kills it.
    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        command: &'a [Box<str>],
        limit: Option<Duration>,
    ) -> BoxFuture<'a, Execution>;

    /// The same for a probe, which knows whose container it is.
    fn exec_in<'a>(
        &'a self,
        instance: &'a Instance,
        command: &'a [Box<str>],
        limit: Option<Duration>,
    ) -> BoxFuture<'a, Execution> {
        self.exec(&instance.id, command, limit)
    }

    /// Forgets a pod whose containers have all ended: cgroups, bookkeeping. Its logs stay until `purge`.
    fn remove_pod<'a>(&'a self, uid: &'a PodUid) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Where an instance's output is: newest file first. `previous` = of the instance before the newest.
    fn log_files(&self, pod: &Pod, container: &ContainerName, previous: bool) -> Result<Vec<PathBuf>, RuntimeError>;

    /// The stream of events; given out once.
    fn take_events(&self) -> Option<tokio::sync::mpsc::Receiver<RuntimeEvent>>;

    /// Ends everything that is left at once (the daemon is going).
    fn shutdown<'a>(&'a self) -> BoxFuture<'a, ()>;
}
