//! The runtime that starts and kills nothing: containers count as running since their pod was added. For
//! targets that others run, and for load tests.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::outcome::Outcome;
use probe_core::spec::Pod;

use super::{BoxFuture, ContainerRuntime, RuntimeError, RuntimeEvent, Started};
use crate::clock;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct NoneRuntime {
    pod_ip: IpAddr,
}

impl Default for NoneRuntime {
    fn default() -> Self {
        Self { pod_ip: IpAddr::V4(Ipv4Addr::LOCALHOST) }
    }
}

impl NoneRuntime {
    /// Pods whose manifest has no `status.podIP` are at `pod_ip`.
    #[must_use]
    pub fn new(pod_ip: IpAddr) -> Self {
        Self { pod_ip }
    }
}

impl ContainerRuntime for NoneRuntime {
    fn name(&self) -> &'static str {
        "none"
    }

    fn manages_containers(&self) -> bool {
        false
    }

    fn pod_ip(&self, pod: &Pod) -> Option<IpAddr> {
        pod.pod_ip.or(Some(self.pod_ip))
    }

    /// Starts nothing; the id is the same at every call with the same `restart_count`.
    fn start<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        container: &'a ContainerName,
        restart_count: u32,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        Box::pin(async move {
            Ok(Started {
                id: ContainerId::new(format!("none://{}/{container}/{restart_count}", pod.uid)),
                started_at: clock::now(),
                pid: None,
            })
        })
    }

    fn stop<'a>(&'a self, _: &'a ContainerId, _: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, _: &'a [Box<str>], _: Duration) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let text = format!("cannot exec in {id}: runtime none runs no containers; use --runtime process");
            Outcome::Error(text.into())
        })
    }

    fn remove_pod<'a>(&'a self, _: &'a PodUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn log_files(&self, _: &Pod, _: &ContainerName, _: bool) -> Result<Vec<PathBuf>, RuntimeError> {
        Err(RuntimeError::Unsupported {
            runtime: "none",
            what: "show logs",
            why: "it runs no containers; look where the target itself logs",
        })
    }

    fn take_events(&self) -> Option<tokio::sync::mpsc::Receiver<RuntimeEvent>> {
        None
    }

    fn shutdown<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}
