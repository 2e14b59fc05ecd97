//! The runtime that somebody else is: a client of the API runs the containers, tells their states (UpdatePodStatus), and runs
//! the commands of exec probes in them (ServeExec). Nothing is started or killed here, and nothing is made up: what has not been
//! told is not known.

pub mod broker;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::spec::Pod;

use self::broker::Broker;
use super::{BoxFuture, ContainerRuntime, Instance, RuntimeError, RuntimeEvent, Started};
use crate::prober::exec::Execution;

/// Its name, and what `--runtime` takes.
pub const NAME: &str = "external";

/// See the module.
#[derive(Debug)]
pub struct ExternalRuntime {
    broker: Arc<Broker>,
}

impl ExternalRuntime {
    /// Commands go to whoever serves `broker`.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

fn unsupported(what: &'static str) -> RuntimeError {
    RuntimeError::Unsupported { runtime: NAME, what, why: "a client of the API runs the containers; ask that one" }
}

impl ContainerRuntime for ExternalRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn manages_containers(&self) -> bool {
        false
    }

    fn pod_ip(&self, pod: &Pod) -> Option<IpAddr> {
        pod.pod_ip.get()
    }

    fn start<'a>(
        &'a self,
        _: &'a Arc<Pod>,
        _: &'a ContainerName,
        _: u32,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        Box::pin(async { Err(unsupported("start a container")) })
    }

    fn stop<'a>(&'a self, _: &'a ContainerId, _: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Err(unsupported("stop a container")) })
    }

    /// Only a probe knows whose container it is: see [`ContainerRuntime::exec_in`].
    fn exec<'a>(&'a self, id: &'a ContainerId, _: &'a [Box<str>], _: Option<Duration>) -> BoxFuture<'a, Execution> {
        Box::pin(async move {
            let why =
                format!("cannot exec in {id}: a client of the API runs the containers, and is asked by probes only");
            Execution::NotRun { why: why.into() }
        })
    }

    fn exec_in<'a>(
        &'a self,
        instance: &'a Instance,
        command: &'a [Box<str>],
        limit: Option<Duration>,
    ) -> BoxFuture<'a, Execution> {
        Box::pin(self.broker.run(instance, command, limit))
    }

    fn remove_pod<'a>(&'a self, _: &'a PodUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    fn log_files(&self, _: &Pod, _: &ContainerName, _: bool) -> Result<Vec<PathBuf>, RuntimeError> {
        Err(unsupported("show logs"))
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
    use super::*;

    #[test]
    fn what_the_client_of_the_api_does_is_refused_with_a_sentence() {
        let runtime = ExternalRuntime::new(Arc::default());
        let pod = Pod::new("uid".into(), "default", "web", Vec::new());
        let error = runtime.log_files(&pod, &"c".into(), false).expect_err("there are none here").to_string();
        assert_eq!(error, "runtime external cannot show logs: a client of the API runs the containers; ask that one");
        assert_eq!((runtime.name(), runtime.manages_containers(), runtime.pod_ip(&pod)), ("external", false, None));
    }
}
