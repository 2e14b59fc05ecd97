//! One instance of a container, from its process's start until nothing of it is left.
//!
//! Invariant: `Exited` is told exactly once, after every process of the instance is gone and its output written.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;
use probe_core::backoff::Backoff;
use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::status::Termination;
use probe_core::time::Instant;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

use super::cgroup::{Leaf, Looks};
use super::guardian::Guardian;
use super::log::Copying;
use super::spawn::{self, Credentials, Plan};
use super::{reap, walk};
use crate::runtime::RuntimeEvent;
use crate::{clock, limits};

/// Name of the environment variable that marks a container's processes where there is no cgroup.
pub(super) const MARKER: &str = "PROBE_ENGINE_CONTAINER";

/// Requests waiting for one instance: a signal and a kill per caller of `stop`, of which there are few.
const REQUESTS_MAX: usize = 4;

/// Instances that have not ended, by their ids.
pub(super) type Instances = Arc<Mutex<HashMap<ContainerId, (Arc<Instance>, Handle)>>>;

/// What holds an instance's processes together.
#[derive(Clone, Debug)]
pub(super) enum Group {
    /// Surely all of them.
    Cgroup(Leaf),
    /// Those of the leader's session or process group, and those that carry the marker in their environment.
    Session { leader: u32, marker: String, guardian: Arc<Guardian> },
}

/// What the instance's program and the commands executed beside it have in common.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) env: Vec<(String, String)>,
    pub(super) working_dir: Option<PathBuf>,
    pub(super) credentials: Credentials,
    pub(super) leaf: Option<Leaf>,
}

impl Surroundings {
    /// `argv` with this environment, directory, user and cgroup; stdin is empty.
    pub(super) fn command(&self, argv: &[&str], new_session: bool) -> io::Result<Command> {
        let (program, args) =
            argv.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command is given"))?;
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(self.env.iter().map(|(k, v)| (k, v))).stdin(Stdio::null());
        if let Some(directory) = &self.working_dir {
            command.current_dir(directory);
        }
        let cgroup_procs = self.leaf.as_ref().map(Leaf::procs).transpose()?;
        let plan = Plan { cgroup_procs, credentials: self.credentials.clone(), new_session };
        spawn::arm(&mut command, plan);
        Ok(command)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: ContainerId,
    pub(super) pod: PodUid,
    pub(super) container: ContainerName,
    pub(super) pid: u32,
    pub(super) started_at: Instant,
    pub(super) stop_signal: i32,
    pub(super) surroundings: Surroundings,
    pub(super) group: Group,
}

/// How to ask a running instance to end.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    stop_signal: i32,
    requests: mpsc::Sender<Request>,
    ended: watch::Receiver<bool>,
}

#[derive(Debug)]
enum Request {
    /// To the first process only.
    Signal(i32),
    /// Everything, at once.
    Kill,
}

impl Handle {
    /// The stop signal, then after `grace` SIGKILL to the whole group; true once nothing is left, false when
    /// something is still there [`limits::KILL_MAX`] after that.
    pub(super) async fn stop(mut self, grace: Duration) -> bool {
        if !grace.is_zero() {
            let _ = self.requests.send(Request::Signal(self.stop_signal)).await;
            tokio::select! {
                biased;
                _ = self.ended.wait_for(|ended| *ended) => return true,
                () = clock::sleep_until(clock::now() + grace) => {}
            }
        }
        // What is killed is gone in a moment, or never.
        let _hold = clock::hold();
        let _ = self.requests.send(Request::Kill).await;
        tokio::time::timeout(limits::KILL_MAX, self.ended.wait_for(|ended| *ended)).await.is_ok()
    }
}

/// Watches over a started instance in a task of its own, until it told its end.
pub(super) fn attend(
    instance: Arc<Instance>,
    child: Child,
    output: Copying,
    table: Instances,
    events: mpsc::Sender<RuntimeEvent>,
) {
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let (ended, watch_ended) = watch::channel(false);
    let handle = Handle { stop_signal: instance.stop_signal, requests, ended: watch_ended };
    lock(&table).insert(instance.id.clone(), (Arc::clone(&instance), handle));
    tokio::spawn(async move {
        let status = run(&instance, child, asked).await;
        let finished_at = clock::now();
        // Until its end is told: it is waited for in real time that all of it is gone.
        let _hold = clock::hold();
        reap::disown(instance.pid);
        let killed_whole = instance.group.end().await;
        let oom_killed = instance.group.oom_kills() > 0;
        output.finish(limits::LOG_DRAIN_MAX).await;
        instance.group.forget();
        if !killed_whole {
            tracing::warn!(container = %instance.id, "processes of an ended container cannot be killed");
        }
        lock(&table).remove(&instance.id);
        let termination = termination(status, oom_killed, instance.started_at, finished_at);
        let _ = ended.send(true);
        let exited = RuntimeEvent::Exited {
            pod: instance.pod.clone(),
            container: instance.container.clone(),
            id: instance.id.clone(),
            termination,
        };
        let _ = events.send(exited).await;
    });
}

/// Until the first process has ended.
async fn run(instance: &Instance, mut child: Child, mut asked: mpsc::Receiver<Request>) -> io::Result<ExitStatus> {
    loop {
        let request = tokio::select! {
            biased;
            status = child.wait() => return status,
            Some(request) = asked.recv() => request,
        };
        match request {
            // `id` is None once the child has been reaped, and its number may be another's.
            Request::Signal(number) => {
                if let Some(pid) = child.id()
                    && let Err(e) = spawn::signal_child(Pid::from_raw(pid.cast_signed()), number)
                {
                    tracing::warn!(container = %instance.id, signal = number, error = %e, "cannot signal a container");
                }
            }
            Request::Kill => instance.group.kill().await,
        }
    }
}

impl Group {
    /// SIGKILL to all, once.
    async fn kill(&self) {
        match self {
            Group::Cgroup(leaf) => {
                if let Err(e) = leaf.kill() {
                    tracing::warn!(cgroup = %leaf.path().display(), error = %e, "cannot kill a cgroup");
                }
            }
            Group::Session { .. } => {
                self.walk(Duration::ZERO).await;
            }
        }
    }

    /// SIGKILL until none is left, at most for [`limits::KILL_MAX`]; whether none is.
    async fn end(&self) -> bool {
        let Group::Cgroup(leaf) = self else {
            return self.walk(limits::KILL_MAX).await;
        };
        let (mut looks, mut waited) = (Looks::new(), Duration::ZERO);
        while leaf.is_populated() {
            if waited >= limits::KILL_MAX {
                return false;
            }
            let _ = leaf.kill();
            let wait = looks.next_wait();
            tokio::time::sleep(wait).await;
            waited += wait;
        }
        true
    }

    async fn walk(&self, patience: Duration) -> bool {
        let Group::Session { leader, marker, .. } = self else {
            return true;
        };
        let (leader, marker) = (leader.cast_signed(), marker.clone());
        let walked = tokio::task::spawn_blocking(move || {
            walk::kill_all(&|p| p.session == leader || p.group == leader || p.carries(&marker), patience)
        });
        walked.await.unwrap_or(false)
    }

    fn oom_kills(&self) -> u64 {
        match self {
            Group::Cgroup(leaf) => leaf.oom_kills(),
            Group::Session { .. } => 0,
        }
    }

    fn forget(&self) {
        match self {
            Group::Cgroup(leaf) => {
                if let Err(e) = leaf.remove() {
                    tracing::warn!(cgroup = %leaf.path().display(), error = %e, "cannot remove a cgroup");
                }
            }
            Group::Session { leader, guardian, .. } => guardian.remove_session(*leader),
        }
    }
}

/// The kubelet's words for an end: `Completed`, `Error`, or `OOMKilled` when the kernel killed for memory in
/// this very container and it did not end well.
fn termination(
    status: io::Result<ExitStatus>,
    oom_killed: bool,
    started_at: Instant,
    finished_at: Instant,
) -> Termination {
    let (exit_code, signal, message) = match status {
        Ok(status) => {
            let signal = status.signal().unwrap_or(0);
            (status.code().unwrap_or(128 + signal), signal, String::new())
        }
        Err(e) => (255, 0, format!("cannot wait for the process: {e}")),
    };
    let reason = match (exit_code, oom_killed) {
        (0, _) => "Completed",
        (_, true) => "OOMKilled",
        (_, false) => "Error",
    };
    Termination {
        exit_code,
        signal,
        backoff: Backoff::new(),
        reason: reason.into(),
        message: message.into(),
        started_at,
        finished_at,
        restart_allowed: None,
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(raw: i32, oom_killed: bool) -> (i32, i32, Box<str>) {
        let t = termination(Ok(ExitStatus::from_raw(raw)), oom_killed, Instant::ZERO, Instant::ZERO);
        (t.exit_code, t.signal, t.reason)
    }

    #[test]
    fn exit_codes_and_signals_have_the_kubelets_numbers_and_words() {
        assert_eq!(ended(0, false), (0, 0, "Completed".into()));
        assert_eq!(ended(3 << 8, false), (3, 0, "Error".into()));
        assert_eq!(ended(15, false), (143, 15, "Error".into()));
        assert_eq!(ended(9, false), (137, 9, "Error".into()));
    }

    #[test]
    fn a_sigkill_is_an_oom_kill_only_when_the_counter_moved() {
        assert_eq!(ended(9, true), (137, 9, "OOMKilled".into()));
        assert_eq!(ended(0, true), (0, 0, "Completed".into()), "a child was killed, the container coped");
    }
}
