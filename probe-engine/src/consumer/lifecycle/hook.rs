//! postStart and preStop hooks: one run of one (`pkg/kubelet/lifecycle/handlers.go`, rule 3.6).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerId, ContainerName};
use probe_core::outcome::{LocalCause, Outcome};
use probe_core::spec::{Exec, Hook, HttpGet, Pod, Scheme};

use super::TimerClock;
use crate::prober::exec::{self, Execution};
use crate::prober::http::Plan;
use crate::prober::quote::quoted;
use crate::prober::tls;
use crate::runtime::ContainerRuntime;
use crate::{clock, limits};

/// How Go's client ends the error of a server that speaks plain HTTP where TLS was expected.
const PLAIN_HTTP: &str = "http: server gave HTTP response to HTTPS client";

/// Between two tries of a hook that trouble of our own kept from being run.
const HOOK_LOCAL_WAIT: Duration = Duration::from_secs(1);

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    PostStart,
    PreStop,
}

impl When {
    /// Of the event of a hook that failed.
    pub(super) const fn failed(self) -> (&'static str, &'static str) {
        match self {
            When::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
            When::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
        }
    }
}

/// One run, described whole.
pub(super) struct HookRun {
    pub(super) pod: Arc<Pod>,
    pub(super) container: ContainerName,
    pub(super) id: ContainerId,
    pub(super) hook: Hook,
    pub(super) runtime: Arc<dyn ContainerRuntime>,
    pub(super) clock: TimerClock,
}

/// A hook that went well.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// `host:port` of a server that was to speak TLS and answered over plain HTTP.
    pub(super) fell_back: Option<Box<str>>,
}

/// The kubelet's texts for a hook that went wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HookError {
    #[error(
        "Exec lifecycle hook ([{command}]) for Container \"{container}\" in Pod \"{pod}\" failed - error: {error}, message: {output}"
    )]
    Exec { command: String, container: ContainerName, pod: String, error: String, output: String },
    #[error("HTTP lifecycle hook ({path}) for Container \"{container}\" in Pod \"{pod}\" failed - error: {error}")]
    Http { path: Arc<str>, container: ContainerName, pod: String, error: Box<str> },
    #[error("Cannot run handler: invalid handler: {0}")]
    Invalid(&'static str),
}

impl HookRun {
    /// Runs it to its end; dropped, it is cut off: a command is killed, a connection closed.
    pub(super) async fn run(self) -> Result<Done, HookError> {
        match &self.hook {
            Hook::Exec(exec) => self.exec(exec).await,
            Hook::HttpGet(get) => {
                let answered = self.http_get(get).await;
                answered.map_err(|error| HookError::Http {
                    path: Arc::clone(&get.path),
                    container: self.container.clone(),
                    pod: self.pod_name(),
                    error,
                })
            }
            Hook::Sleep(seconds) => {
                self.clock.sleep_until(self.clock.now() + Duration::from_secs(*seconds)).await;
                Ok(Done::default())
            }
            Hook::TcpSocket => Err(HookError::Invalid("tcpSocket")),
        }
    }

    async fn exec(&self, exec: &Exec) -> Result<Done, HookError> {
        let give_up_at = self.clock.now() + limits::HOOK_LOCAL_MAX;
        let execution = loop {
            match self.runtime.exec(&self.id, &exec.command, None).await {
                // Trouble of our own is not the container's: for a while it is tried again.
                Execution::Local(cause) if self.clock.now() < give_up_at => self.try_later(cause).await,
                execution => break execution,
            }
        };
        let (error, output) = match execution {
            Execution::Exited { exit_code: 0, .. } => return Ok(Done::default()),
            Execution::Exited { exit_code, stdout, stderr } => {
                let command = exec.command.join(" ");
                let error = quoted(&stderr);
                (format!("command '{command}' exited with {exit_code}: {error}"), exec::text_of(stdout, &stderr))
            }
            not_run => match not_run.outcome(&exec.command) {
                Outcome::Local(cause) => (cause.sentence().to_owned(), Box::default()),
                Outcome::Error(text) | Outcome::Failure(text) | Outcome::Success(text) | Outcome::Warning(text) => {
                    (text.into(), Box::default())
                }
            },
        };
        Err(HookError::Exec {
            command: exec.command.join(" "),
            container: self.container.clone(),
            pod: self.pod_name(),
            error,
            output: quoted(output.as_bytes()),
        })
    }

    async fn try_later(&self, cause: LocalCause) {
        tracing::warn!(pod = %self.pod.name, container = %self.container, cause = cause.as_str(), "a hook is tried again");
        self.clock.sleep_until(self.clock.now() + HOOK_LOCAL_WAIT).await;
    }

    /// One request, and where a TLS server turns out to speak plain HTTP a second one, without `Authorization`. The error is the
    /// first one's.
    async fn http_get(&self, get: &HttpGet) -> Result<Done, Box<str>> {
        let has_host = get.host.as_ref().is_some_and(|host| !host.is_empty());
        let pod_ip = if has_host { None } else { self.runtime.pod_ip(&self.pod) };
        if !has_host && pod_ip.is_none() {
            return Err("failed to find networking container: the pod has no IP address".into());
        }
        let error = match self.ask(get, pod_ip).await {
            Ok(_) => return Ok(Done::default()),
            Err(error) => error,
        };
        if get.scheme == Scheme::Https && error.ends_with(PLAIN_HTTP) {
            let is_secret = |name: &str| name.eq_ignore_ascii_case("Authorization");
            let headers = get.headers.iter().filter(|header| !is_secret(&header.name)).cloned().collect();
            let plain = HttpGet { scheme: Scheme::Http, headers, ..get.clone() };
            if let Ok(address) = self.ask(&plain, pod_ip).await {
                return Ok(Done { fell_back: Some(address) });
            }
        }
        Err(error)
    }

    /// The address that answered.
    async fn ask(&self, get: &HttpGet, pod_ip: Option<IpAddr>) -> Result<Box<str>, Box<str>> {
        let give_up_at = self.clock.now() + limits::HOOK_LOCAL_MAX;
        loop {
            let plan = Plan::for_hook(get, pod_ip).map_err(text_of)?;
            let address: Box<str> = plan.dial_address().into();
            let outcome = {
                // Of no attempt, and on real time.
                let _hold = clock::hold();
                tls::hook(plan).await
            };
            match outcome {
                Outcome::Success(_) | Outcome::Warning(_) => return Ok(address),
                Outcome::Local(cause) if self.clock.now() < give_up_at => self.try_later(cause).await,
                failed => return Err(text_of(failed)),
            }
        }
    }

    /// As the kubelet writes it (`format.Pod`).
    fn pod_name(&self) -> String {
        format!("{}_{}({})", self.pod.name, self.pod.namespace, self.pod.uid)
    }
}

fn text_of(outcome: Outcome) -> Box<str> {
    match outcome {
        Outcome::Success(text) | Outcome::Warning(text) | Outcome::Failure(text) | Outcome::Error(text) => text,
        Outcome::Local(cause) => cause.sentence().into(),
    }
}

#[cfg(test)]
mod tests;
