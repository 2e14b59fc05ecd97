//! The runtime that starts and kills nothing: containers count as running since their pod was added. For
//! targets that others run, and for load tests. Exec probes have no container to run in: they are refused, or, where that was
//! asked for, run on this host as the daemon's user.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::spec::Pod;

use super::{BoxFuture, ContainerRuntime, RuntimeError, RuntimeEvent, Started};
use crate::clock;
use crate::prober::exec::{self, Execution};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct NoneRuntime {
    pod_ip: IpAddr,
    host_exec: bool,
}

impl Default for NoneRuntime {
    fn default() -> Self {
        Self::new(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl NoneRuntime {
    /// Pods whose manifest has no `status.podIP` are at `pod_ip`.
    #[must_use]
    pub fn new(pod_ip: IpAddr) -> Self {
        Self { pod_ip, host_exec: false }
    }

    /// Runs the commands of exec probes on this host, with the rights, environment and directory of the daemon.
    #[must_use]
    pub const fn with_host_exec(self) -> Self {
        Self { host_exec: true, ..self }
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
        pod.pod_ip.get().or(Some(self.pod_ip))
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

    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        command: &'a [Box<str>],
        limit: Option<Duration>,
    ) -> BoxFuture<'a, Execution> {
        Box::pin(async move {
            if self.host_exec {
                return exec::run(exec::host_command(command), limit).await;
            }
            let text = format!(
                "cannot exec in {id}: runtime none runs no containers; use --runtime process, or --host-exec to run commands on this host"
            );
            Execution::NotRun { why: text.into() }
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

#[cfg(test)]
mod tests {
    use probe_core::outcome::Outcome;

    use super::*;

    fn run(runtime: NoneRuntime, script: &str) -> Outcome {
        let command: Vec<Box<str>> = ["/bin/sh", "-c", script].map(Box::from).into();
        let id = ContainerId::new("none://pod/app/0".to_owned());
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio.block_on(runtime.exec(&id, &command, Some(Duration::from_secs(10)))).outcome(&command)
    }

    #[test]
    fn a_command_is_refused_unless_it_may_run_on_this_host() {
        let Outcome::Error(text) = run(NoneRuntime::default(), "exit 0") else { panic!("it ran") };
        assert!(text.contains("--runtime process") && text.contains("--host-exec"), "{text}");
        let host = NoneRuntime::default().with_host_exec();
        assert_eq!(run(host, "echo well"), Outcome::Success("well\n".into()));
        assert_eq!(run(host, "echo ill >&2; exit 3"), Outcome::Failure("ill\n".into()));
    }
}
