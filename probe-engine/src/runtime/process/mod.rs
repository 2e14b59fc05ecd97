//! The embedded runtime: a container is a process group on this host, started from `command`, `args`, `env` and
//! `workingDir` (by default an empty directory of its own below the state directory).
//!
//! Each instance gets a cgroup of its own where cgroup v2 is writable, so that all of it can be killed however
//! it forked; a guardian process does so when the daemon is killed. When the first process ends the rest of
//! the container is killed, as the kernel does with a PID namespace.
//!
//! The environment is the manifest's alone, plus `PATH` and `HOME` where it has none, plus two marks
//! (`PROBE_ENGINE_CONTAINER`, `PROBE_ENGINE_DAEMON`) where there is no cgroup.

mod cgroup;
mod credentials;
mod guardian;
mod instance;
mod log;
mod reap;
mod scratch;
mod spawn;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::spec::{Container, Pod};
use tokio::sync::mpsc;

pub use self::cgroup::{Capabilities, NOT_COVERED, capabilities};
pub use self::guardian::guard;
use self::guardian::{Guarded, Guardian};
use self::instance::{Group, Handle, Instance, Instances, Surroundings, lock};
use self::log::{LogFile, LogThread, Rotation};
use self::scratch::Scratch;
use super::{BoxFuture, ContainerRuntime, RuntimeError, RuntimeEvent, Started};
use crate::prober::exec::{self, Execution};
use crate::{clock, limits};

/// What a container finds programs with where its manifest says nothing (the container runtimes' default).
/// Behind it stands the folder of our own program, for test servers (`probe-engine serve`).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NO_MEMORY: &str = "no memory limits: the memory controller cannot be enabled for our cgroup";

/// How the runtime is set up.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// Logs go to `<state_dir>/logs/<namespace>_<pod>_<uid>/<container>/<restart>.log`.
    pub state_dir: PathBuf,
    /// The program that is the guardian when called with `guardian_args`.
    pub guardian_program: PathBuf,
    /// See `guardian_program`.
    pub guardian_args: Vec<OsString>,
    /// Use cgroups where possible; false tries the way without.
    pub cgroups: bool,
    /// The address of pods whose manifest has none.
    pub pod_ip: IpAddr,
    /// Bytes of a log file before it is rotated.
    pub log_file_bytes_max: u64,
    /// Log files kept per container instance.
    pub log_files_max: usize,
}

impl ProcessConfig {
    /// The defaults, with our own program as the guardian.
    pub fn new(state_dir: PathBuf) -> io::Result<Self> {
        Ok(Self {
            state_dir,
            guardian_program: std::env::current_exe()?,
            guardian_args: vec!["guardian".into()],
            cgroups: true,
            pod_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            log_file_bytes_max: limits::LOG_FILE_BYTES_MAX,
            log_files_max: limits::LOG_FILES_MAX,
        })
    }
}

/// See the module. Dropped without [`ContainerRuntime::shutdown`] it leaves the killing to the guardian, at once.
#[derive(Debug)]
pub struct ProcessRuntime {
    inner: Arc<Inner>,
    events: Mutex<Option<mpsc::Receiver<RuntimeEvent>>>,
    reaper: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    config: ProcessConfig,
    logs: PathBuf,
    scratch: Scratch,
    tree: Result<cgroup::Tree, String>,
    guardian: Arc<Guardian>,
    log_thread: LogThread,
    instances: Instances,
    /// Log directories of the pods that are here.
    live_logs: Mutex<HashMap<PodUid, PathBuf>>,
    tell: mpsc::Sender<RuntimeEvent>,
    /// Marks this daemon's containers, where there is no cgroup.
    mark: String,
}

impl ProcessRuntime {
    /// Prepares cgroup, guardian and log thread. Must be called within a tokio runtime. Blocks shortly.
    pub fn open(config: ProcessConfig) -> Result<Self, RuntimeError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| RuntimeError::Io { what, source }
        };
        let logs = config.state_dir.join("logs");
        std::fs::create_dir_all(&logs).map_err(failed(&format!("mkdir {}", logs.display())))?;
        let scratch = Scratch::open(&config.state_dir)
            .map_err(failed(&format!("make a scratch directory in {}", config.state_dir.display())))?;
        let tree = match config.cgroups {
            true => cgroup::Tree::create(),
            false => Err("switched off".to_owned()),
        };
        let mark = format!("{:016x}", cgroup::random().map_err(failed("read /dev/urandom"))?);
        let guarded = match &tree {
            Ok(tree) => {
                tracing::info!(cgroup = %tree.path().display(), memory = tree.memory(), "containers get cgroups of their own");
                Guarded::Cgroup(tree.path().to_owned())
            }
            Err(why) => {
                tracing::warn!("no cgroup for containers: {why}; {NOT_COVERED}");
                Guarded::Marker(mark.clone())
            }
        };
        let program = &config.guardian_program;
        let guardian = Guardian::start(program.clone(), config.guardian_args.clone(), guarded)
            .map_err(failed(&format!("start the guardian {}", program.display())))?;
        let log_thread = LogThread::start().map_err(failed("start the log thread"))?;
        let (tell, events) = mpsc::channel(limits::RUNTIME_EVENTS_LEN_MAX);
        let inner = Inner {
            config,
            logs,
            scratch,
            tree,
            guardian: Arc::new(guardian),
            log_thread,
            instances: Arc::new(Mutex::new(HashMap::new())),
            live_logs: Mutex::default(),
            tell,
            mark,
        };
        Ok(Self { inner: Arc::new(inner), events: Mutex::new(Some(events)), reaper: tokio::spawn(reap::run()) })
    }

    /// What this runtime found and uses.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        let (cgroup, memory, missing) = match &self.inner.tree {
            Ok(tree) if tree.memory() => (true, true, vec![]),
            Ok(_) => (true, false, vec![NO_MEMORY.to_owned()]),
            Err(why) => (false, false, vec![format!("no cgroup for containers: {why}; {NOT_COVERED}")]),
        };
        Capabilities { cgroup, memory, missing }
    }

    fn handle(&self, id: &ContainerId) -> Option<Handle> {
        lock(&self.inner.instances).get(id).map(|(_, handle)| handle.clone())
    }
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        self.reaper.abort();
        self.inner.guardian.abandon();
    }
}

impl ContainerRuntime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    fn manages_containers(&self) -> bool {
        true
    }

    fn pod_ip(&self, pod: &Pod) -> Option<IpAddr> {
        pod.pod_ip.get().or(Some(self.inner.config.pod_ip))
    }

    fn start<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        container: &'a ContainerName,
        restart_count: u32,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        let (inner, pod, container) = (Arc::clone(&self.inner), Arc::clone(pod), container.clone());
        Box::pin(async move {
            // fork, exec, mkdir and the log's open may all take their time.
            tokio::task::spawn_blocking(move || inner.launch(&pod, &container, restart_count))
                .await
                .map_err(|e| RuntimeError::Io { what: "start a container".to_owned(), source: io::Error::other(e) })?
        })
    }

    fn stop<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            let Some(handle) = self.handle(id) else {
                return Ok(());
            };
            if handle.stop(grace).await {
                return Ok(());
            }
            Err(RuntimeError::Io {
                what: format!("container {id} is still there {:?} after SIGKILL", limits::KILL_MAX),
                source: io::ErrorKind::TimedOut.into(),
            })
        })
    }

    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        command: &'a [Box<str>],
        limit: Option<Duration>,
    ) -> BoxFuture<'a, Execution> {
        Box::pin(async move {
            let Some(instance) = lock(&self.inner.instances).get(id).map(|(i, _)| Arc::clone(i)) else {
                return Execution::NotRun { why: format!("container {id} is not running").into() };
            };
            let argv: Vec<&str> = command.iter().map(|arg| &**arg).collect();
            match instance.surroundings.command(&argv, false) {
                Ok(prepared) => exec::run(prepared, limit).await,
                Err(e) => Execution::NotRun { why: format!("cannot prepare {argv:?} in container {id}: {e}").into() },
            }
        })
    }

    fn remove_pod<'a>(&'a self, uid: &'a PodUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            let left: Vec<ContainerId> = lock(&self.inner.instances)
                .values()
                .filter(|(instance, _)| instance.pod == *uid)
                .map(|(instance, _)| instance.id.clone())
                .collect();
            for id in left {
                self.stop(&id, Duration::ZERO).await?;
            }
            let (inner, uid) = (Arc::clone(&self.inner), uid.clone());
            let _ = tokio::task::spawn_blocking(move || inner.prune_logs(&uid)).await;
            Ok(())
        })
    }

    fn log_files(&self, pod: &Pod, container: &ContainerName, previous: bool) -> Result<Vec<PathBuf>, RuntimeError> {
        let directory = log::directory(&self.inner.logs, pod, container);
        match log::files_of(&directory, previous) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            files => files.map_err(|source| RuntimeError::Io { what: format!("read {}", directory.display()), source }),
        }
    }

    fn take_events(&self) -> Option<mpsc::Receiver<RuntimeEvent>> {
        lock(&self.events).take()
    }

    fn shutdown<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let handles: Vec<Handle> = lock(&self.inner.instances).values().map(|(_, handle)| handle.clone()).collect();
            let mut stops = tokio::task::JoinSet::new();
            for handle in handles {
                stops.spawn(handle.stop(Duration::ZERO));
            }
            let all_ended = stops.join_all().await.into_iter().all(|ended| ended);
            let inner = Arc::clone(&self.inner);
            let removed = tokio::task::spawn_blocking(move || match &inner.tree {
                Ok(tree) => cgroup::destroy(tree.path(), Duration::from_secs(1)).is_ok(),
                Err(_) => true,
            });
            if all_ended && removed.await.unwrap_or(false) {
                self.inner.guardian.goodbye().await;
            } else {
                tracing::warn!("containers are left that cannot be killed; the guardian goes on trying");
            }
        })
    }
}

impl Inner {
    /// Blocks. Whatever was made for an instance that does not start is removed again.
    fn launch(&self, pod: &Arc<Pod>, name: &ContainerName, restart_count: u32) -> Result<Started, RuntimeError> {
        let container = pod.container(name.as_str()).ok_or_else(|| {
            let what = format!("pod {}/{} has no container {name}", pod.namespace, pod.name);
            RuntimeError::Io { what, source: io::ErrorKind::NotFound.into() }
        })?;
        let prepared = |what: &str, source| RuntimeError::Io {
            what: format!("prepare container {name} of pod {}/{}: {what}", pod.namespace, pod.name),
            source,
        };
        let id = format!("{:016x}", cgroup::random().map_err(|e| prepared("read /dev/urandom", e))?);
        let directory = log::directory(&self.logs, pod, name);
        let rotation =
            Rotation { file_bytes_max: self.config.log_file_bytes_max, files_max: self.config.log_files_max };
        lock(&self.live_logs).insert(pod.uid.clone(), log::pod_directory(&self.logs, pod));
        let log_file = LogFile::open(&directory, restart_count, rotation)
            .map_err(|e| prepared(&format!("open the log in {}", directory.display()), e))?;
        let credentials = credentials::of(&container.process).map_err(|(what, e)| prepared(&what, e))?;
        let working_dir = match container.process.working_dir.as_deref() {
            Some(named) => PathBuf::from(named),
            None => {
                let fresh = self.scratch.fresh(&log::pod_name(pod), name, &credentials);
                fresh.map_err(|e| prepared("make its directory", e))?
            }
        };
        let leaf = match &self.tree {
            Ok(tree) => {
                let leaf = cgroup::leaf_name(&pod.name, name.as_str(), restart_count, &id);
                let made = tree.leaf(&leaf, container.process.memory_limit_bytes);
                Some(made.map_err(|e| prepared(&format!("make the cgroup {leaf}"), e))?)
            }
            Err(_) => None,
        };
        let surroundings = Surroundings {
            env: self.environment(container, &id),
            working_dir: Some(working_dir),
            credentials,
            leaf: leaf.clone(),
        };
        let started = self.spawn(pod, container, id, surroundings, log_file);
        if let (Err(_), Some(leaf)) = (&started, &leaf) {
            let _ = leaf.remove();
        }
        started.map_err(|(what, source)| RuntimeError::Start {
            pod: format!("{}/{}", pod.namespace, pod.name),
            container: name.to_string(),
            what,
            source,
        })
    }

    fn spawn(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        id: String,
        surroundings: Surroundings,
        log_file: LogFile,
    ) -> Result<Started, (String, io::Error)> {
        let process = &container.process;
        let stop_signal = match process.stop_signal.as_deref() {
            None => libc::SIGTERM,
            Some(name) => signal_number(name)
                .ok_or_else(|| (format!("lifecycle.stopSignal {name}"), io::ErrorKind::InvalidInput.into()))?,
        };
        // Without `command` the image's entrypoint would take the `args`; there is no image here.
        let argv: Vec<&str> = process.command.iter().chain(&process.args).map(|arg| &**arg).collect();
        let argv = if process.command.is_empty() { &[][..] } else { &argv };
        let said = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| (what, e)
        };
        let mut command = surroundings.command(argv, true).map_err(said("command"))?;
        let (out, out_writer) = io::pipe().map_err(said("pipe"))?;
        let (err, err_writer) = io::pipe().map_err(said("pipe"))?;
        command.stdout(Stdio::from(out_writer)).stderr(Stdio::from(err_writer));
        let (child, pid) = {
            let _spawning = reap::spawning();
            let child = tokio::process::Command::from(command).spawn();
            let child = child.map_err(|e| (what_failed(argv, &surroundings), e))?;
            let pid = child.id().expect("a child that nobody waited for has its number");
            reap::own(pid);
            (child, pid)
        };
        let started_at = clock::now();
        let group = match &surroundings.leaf {
            Some(leaf) => Group::Cgroup(leaf.clone()),
            None => {
                self.guardian.add_session(pid);
                let marker = format!("{}={id}", instance::MARKER);
                Group::Session { leader: pid, marker, guardian: Arc::clone(&self.guardian) }
            }
        };
        let id = ContainerId::new(format!("process://{id}"));
        let instance = Instance {
            id: id.clone(),
            pod: pod.uid.clone(),
            container: container.name.clone(),
            pid,
            started_at,
            stop_signal,
            surroundings,
            group,
        };
        let output = self.log_thread.copy(log_file, out, err);
        instance::attend(Arc::new(instance), child, output, Arc::clone(&self.instances), self.tell.clone());
        Ok(Started { id, started_at, pid: Some(pid) })
    }

    fn environment(&self, container: &Container, id: &str) -> Vec<(String, String)> {
        let process = &container.process;
        let mut env: Vec<(String, String)> =
            vec![("PATH".to_owned(), path()), ("HOME".to_owned(), credentials::home(process.run_as_user))];
        env.extend(process.env.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        if self.tree.is_err() {
            env.push((instance::MARKER.to_owned(), id.to_owned()));
            env.push((guardian::MARKER.to_owned(), self.mark.clone()));
        }
        env
    }

    /// The pod's logs are those of a pod that is gone, from now on.
    fn prune_logs(&self, uid: &PodUid) {
        let mut live = lock(&self.live_logs);
        if let Some(name) = live.remove(uid).as_deref().and_then(Path::file_name).and_then(|name| name.to_str()) {
            self.scratch.remove(name);
        }
        log::prune(&self.logs, &|path: &Path| live.values().any(|p| p == path));
    }
}

fn path() -> String {
    let own = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_str()?.to_owned()));
    own.map_or_else(|| PATH.to_owned(), |own| format!("{PATH}:{own}"))
}

/// The likely culprit of a failed spawn: all its steps share one errno.
fn what_failed(argv: &[&str], surroundings: &Surroundings) -> String {
    if let Some(directory) = &surroundings.working_dir
        && !directory.is_dir()
    {
        return format!("workingDir {}", directory.display());
    }
    format!("exec {:?}", argv.first().copied().unwrap_or_default())
}

/// `SIGTERM`, `SIGUSR1`, `SIGRTMIN+3` ... as `lifecycle.stopSignal` has them.
fn signal_number(name: &str) -> Option<i32> {
    let real_time = |base: i32, text: &str| -> Option<i32> {
        let number = if text.is_empty() { base } else { base + text.parse::<i32>().ok()? };
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
    };
    if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        return real_time(libc::SIGRTMIN(), rest);
    }
    if let Some(rest) = name.strip_prefix("SIGRTMAX") {
        return real_time(libc::SIGRTMAX(), rest);
    }
    Signal::from_str(name).ok().map(|signal| signal as i32)
}
