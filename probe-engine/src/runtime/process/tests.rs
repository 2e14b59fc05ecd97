//! Real processes on this host. Those that need a cgroup do without one where there is none.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use probe_core::spec::{Container, ContainerKind, Probes, Process};
use probe_core::status::Termination;
use tempfile::TempDir;

use probe_core::outcome::Outcome;

use super::spawn::PidFd;
use super::*;

/// Nothing here takes longer, on a busy machine either.
const LIMIT: Duration = Duration::from_secs(30);

struct World {
    dir: TempDir,
    runtime: Arc<ProcessRuntime>,
    events: mpsc::Receiver<RuntimeEvent>,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ProcessConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        let runtime = Arc::new(ProcessRuntime::open(config).unwrap());
        let events = runtime.take_events().unwrap();
        Self { dir, runtime, events }
    }

    async fn start(&self, process: Process) -> (Arc<Pod>, Started) {
        let pod = pod(process);
        let name = pod.containers[0].name.clone();
        let started = self.runtime.start(&pod, &name, 0).await.unwrap();
        (pod, started)
    }

    async fn exited(&mut self) -> Termination {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await.expect("an end in time");
        let RuntimeEvent::Exited { termination, .. } = event.unwrap();
        termination
    }

    /// Starts it and waits for its end; with what it wrote, without times.
    async fn run(&mut self, process: Process) -> (Termination, Vec<String>) {
        let (pod, _) = self.start(process).await;
        let termination = self.exited().await;
        (termination, self.log(&pod))
    }

    fn log(&self, pod: &Pod) -> Vec<String> {
        let files = self.runtime.log_files(pod, &pod.containers[0].name, false).unwrap();
        let text: String = files.iter().rev().map(|f| fs::read_to_string(f).unwrap()).collect();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        path
    }

    /// The children of the daemon's cgroup.
    fn cgroups(&self) -> usize {
        let tree = self.runtime.inner.tree.as_ref().unwrap().path();
        fs::read_dir(tree).unwrap().flatten().filter(|e| e.path().is_dir()).count()
    }
}

fn config(dir: &Path) -> ProcessConfig {
    let guardian = ["--exact", "runtime::process::tests::guardian_entry", "--nocapture", "as-guardian"];
    ProcessConfig { guardian_args: guardian.map(Into::into).into(), ..ProcessConfig::new(dir.to_owned()).unwrap() }
}

fn pod(process: Process) -> Arc<Pod> {
    let container = Container {
        process: Arc::new(process),
        ..Container::new("main".into(), ContainerKind::Regular, Probes::default())
    };
    static PODS: AtomicU32 = AtomicU32::new(0);
    let number = PODS.fetch_add(1, Ordering::Relaxed);
    Arc::new(Pod::new(format!("uid-{number}").as_str().into(), "default", "web", [container]))
}

fn command(argv: &[&str]) -> Process {
    Process { command: argv.iter().map(|arg| Box::from(*arg)).collect(), ..Process::default() }
}

fn sh(script: &str) -> Process {
    command(&["/bin/sh", "-c", script])
}

/// What is written into a FIFO by the first who opens it.
async fn read_fifo(path: &Path) -> String {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || fs::read_to_string(path).unwrap());
    tokio::time::timeout(LIMIT, read).await.expect("a writer in time").unwrap().trim().to_owned()
}

async fn read_pid(path: &Path) -> PidFd {
    PidFd::open(Pid::from_raw(read_fifo(path).await.parse().unwrap())).unwrap()
}

/// Waits for the end of a process.
async fn ended(process: PidFd) {
    assert!(tokio::task::spawn_blocking(move || has_ended(&process)).await.unwrap(), "the process still runs");
}

fn has_ended(process: &PidFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::try_from(LIMIT).unwrap()) {
            // SIGCHLD arrives here too.
            Err(nix::errno::Errno::EINTR) => {}
            readable => return readable.unwrap() == 1,
        }
    }
}

/// A background process in a session of its own whose parent is gone, and that tells its number.
fn escaping(fifo: &Path) -> String {
    format!("(setsid sh -c 'echo $$ > {}; exec sleep 1000' &)", fifo.display())
}

#[tokio::test]
async fn a_container_ends_with_its_first_process_exit_code_or_signal() {
    let mut world = World::new();
    for (script, code, signal, reason) in [
        ("exit 0", 0, 0, "Completed"),
        ("exit 3", 3, 0, "Error"),
        ("kill -9 $$", 137, 9, "Error"),
        ("kill -TERM $$", 143, 15, "Error"),
    ] {
        let (end, _) = world.run(sh(script)).await;
        assert_eq!((end.exit_code, end.signal, &*end.reason), (code, signal, reason), "{script}");
        assert!(end.finished_at >= end.started_at);
    }
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn every_instance_has_an_id_of_its_own() {
    let mut world = World::new();
    let (_, first) = world.start(sh("true")).await;
    world.exited().await;
    let (_, second) = world.start(sh("true")).await;
    world.exited().await;
    assert_ne!(first.id, second.id);
    assert!(first.id.as_str().starts_with("process://"));
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_named_and_leaves_nothing() {
    let world = World::new();
    let start = async |process: Process| {
        let pod = pod(process);
        world.runtime.start(&pod, &"main".into(), 0).await.unwrap_err().to_string()
    };
    let missing = start(command(&["no-such-program"])).await;
    assert_eq!(
        missing,
        "cannot start container main of pod default/web: exec \"no-such-program\": No such file or directory (os error 2)"
    );
    let not_a_program = start(command(&["/etc/passwd"])).await;
    assert!(not_a_program.contains("exec \"/etc/passwd\": Permission denied"), "{not_a_program}");
    let no_directory = start(Process { working_dir: Some("/no/such".into()), ..sh("true") }).await;
    assert!(no_directory.contains("workingDir /no/such: No such file"), "{no_directory}");
    let nothing = start(Process::default()).await;
    assert!(nothing.contains("no command is given"), "{nothing}");
    let no_signal = start(Process { stop_signal: Some("SIGNOPE".into()), ..sh("true") }).await;
    assert!(no_signal.contains("lifecycle.stopSignal SIGNOPE"), "{no_signal}");
    if world.runtime.capabilities().cgroup {
        assert_eq!(world.cgroups(), 0);
    }
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn the_environment_is_the_manifests_with_a_path_and_a_home() {
    let mut world = World::new();
    let env = [("GREETING".into(), "hello world".into()), ("PATH".into(), "/bin:/usr/bin".into())];
    let (_, log) = world.run(Process { env: Box::new(env), ..command(&["env"]) }).await;
    let mut names: Vec<&str> =
        log.iter().filter_map(|l| l.strip_prefix("stdout F ")).map(|l| l.split_once('=').unwrap().0).collect();
    names.retain(|name| !name.starts_with("PROBE_ENGINE_"));
    names.sort_unstable();
    assert_eq!(names, ["GREETING", "HOME", "PATH"]);
    assert!(log.contains(&"stdout F GREETING=hello world".to_owned()));
    assert!(log.contains(&"stdout F PATH=/bin:/usr/bin".to_owned()));
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn it_runs_in_its_working_directory_with_default_signals_and_no_descriptor_of_ours() {
    let mut world = World::new();
    let inherited = fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&inherited, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let script = format!("pwd; umask; [ -e /proc/self/fd/{} ] || echo clean", inherited.as_raw_fd());
    let process = Process { working_dir: Some("/proc".into()), ..sh(&script) };
    let (_, log) = world.run(process).await;
    assert_eq!(log, ["stdout F /proc", "stdout F 0022", "stdout F clean"]);
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn it_gets_the_users_rights_that_were_asked_for() {
    let mut world = World::new();
    let process =
        Process { run_as_user: Some(54_321), supplemental_groups: Box::new([777]), ..sh("id -u; id -g; id -G") };
    if !geteuid().is_root() {
        let pod = pod(process);
        let error = world.runtime.start(&pod, &"main".into(), 0).await.unwrap_err().to_string();
        assert!(error.contains("runAsUser 54321: the daemon is not root"), "{error}");
        return;
    }
    let (_, log) = world.run(process).await;
    assert_eq!(log, ["stdout F 54321", "stdout F 54321", "stdout F 54321 777"]);
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn the_stop_signal_goes_to_the_first_process_alone() {
    let mut world = World::new();
    let fifo = world.fifo("ready");
    let heard = world.dir.path().join("heard");
    let script = format!(
        "sh -c 'trap \"echo x > {}\" USR1; echo > {}; while :; do sleep 1000 & wait; done' & \
         trap 'exit 7' USR1; wait; wait",
        heard.display(),
        fifo.display()
    );
    let (_, started) = world.start(Process { stop_signal: Some("SIGUSR1".into()), ..sh(&script) }).await;
    read_fifo(&fifo).await;
    world.runtime.stop(&started.id, LIMIT).await.unwrap();
    let end = world.exited().await;
    assert!(matches!(end.exit_code, 7 | 138), "7 unless the signal came before the trap: {end:?}");
    assert!(!heard.exists(), "the child heard the stop signal too");
    world.runtime.stop(&started.id, LIMIT).await.expect("stopping an ended instance is no error");
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn what_ignores_the_stop_signal_is_killed_whole_after_the_grace() {
    let mut world = World::new();
    let fifo = world.fifo("pid");
    let script = format!("trap '' TERM; sleep 1000 & echo $! > {}; wait; sleep 1000", fifo.display());
    let (_, started) = world.start(sh(&script)).await;
    let child = read_pid(&fifo).await;
    world.runtime.stop(&started.id, Duration::from_millis(50)).await.unwrap();
    let end = world.exited().await;
    assert_eq!((end.exit_code, end.signal), (137, 9));
    assert!(end.finished_at - end.started_at >= Duration::from_millis(50));
    ended(child).await;
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn a_background_child_does_not_delay_the_end_and_does_not_outlive_it() {
    for cgroups in [true, false] {
        let mut world = World::with(|config| config.cgroups = cgroups);
        let fifo = world.fifo("pid");
        let (_, _) = world.start(sh(&format!("sleep 1000 & echo $! > {}; exit 0", fifo.display()))).await;
        let child = tokio::time::timeout(LIMIT, read_fifo(&fifo)).await.unwrap();
        let end = world.exited().await;
        assert_eq!((end.exit_code, &*end.reason), (0, "Completed"));
        assert!(walk::Process::read(child.parse().unwrap()).is_none_or(|p| p.state == 'Z'));
        world.runtime.shutdown().await;
    }
}

#[tokio::test]
async fn a_double_forked_child_in_its_own_session_dies_with_its_container() {
    for cgroups in [true, false] {
        let mut world = World::with(|config| config.cgroups = cgroups);
        let fifo = world.fifo("pid");
        let (_, started) = world.start(sh(&format!("{}; exec sleep 1000", escaping(&fifo)))).await;
        let child = read_pid(&fifo).await;
        world.runtime.stop(&started.id, Duration::ZERO).await.unwrap();
        assert_eq!(world.exited().await.exit_code, 137);
        ended(child).await;
        world.runtime.shutdown().await;
    }
}

#[tokio::test]
async fn orphans_of_a_container_are_reaped() {
    let mut world = World::new();
    let fifo = world.fifo("pid");
    let (_, started) = world.start(sh(&format!("{}; exec sleep 1000", escaping(&fifo)))).await;
    let pid: i32 = read_fifo(&fifo).await.parse().unwrap();
    let child = PidFd::open(Pid::from_raw(pid)).unwrap();
    world.runtime.stop(&started.id, Duration::ZERO).await.unwrap();
    world.exited().await;
    ended(child).await;
    while !reap::reap_orphans() {
        tokio::task::yield_now().await;
    }
    assert_eq!(walk::Process::read(pid), None);
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn cgroups_go_with_their_containers_and_the_daemon() {
    if !capabilities().cgroup {
        eprintln!("no cgroup here: nothing to see");
        return;
    }
    let mut world = World::new();
    let tree = world.runtime.inner.tree.as_ref().unwrap().path().to_owned();
    let (_, started) = world.start(sh("mkdir /proc/none; exec sleep 1000")).await;
    assert_eq!(world.cgroups(), 1);
    world.runtime.stop(&started.id, Duration::ZERO).await.unwrap();
    world.exited().await;
    assert_eq!(world.cgroups(), 0);
    let (_, _) = world.start(sh("exec sleep 1000")).await;
    world.runtime.shutdown().await;
    assert_eq!(world.exited().await.exit_code, 137, "shutdown ends what is left");
    assert!(!tree.exists());
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_removed_at_start_and_a_living_ones_is_not() {
    if !capabilities().cgroup {
        eprintln!("no cgroup here: nothing to see");
        return;
    }
    let living = World::new();
    let tree = living.runtime.inner.tree.as_ref().unwrap().path().to_owned();
    let left_over = tree.parent().unwrap().join(format!("probe-engine-0-{}", std::process::id()));
    fs::create_dir_all(left_over.join("web-main-0")).unwrap();
    let second = World::new();
    assert!(!left_over.exists());
    assert!(tree.exists());
    second.runtime.shutdown().await;
    living.runtime.shutdown().await;
}

#[tokio::test]
async fn both_streams_are_logged_and_rotated() {
    let mut world = World::with(|config| (config.log_file_bytes_max, config.log_files_max) = (4096, 3));
    let (_, log) = world.run(sh("echo out; echo err >&2; printf end")).await;
    assert!(log.contains(&"stdout F out".to_owned()) && log.contains(&"stderr F err".to_owned()));
    assert!(log.contains(&"stdout F end".to_owned()));
    let (pod, _) = world.start(sh("i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done")).await;
    world.exited().await;
    let files = world.runtime.log_files(&pod, &"main".into(), false).unwrap();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 4096));
    assert_eq!(world.log(&pod).last().unwrap(), "stdout F line 999");
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn a_flooding_container_holds_up_nobody() {
    let mut world = World::with(|config| (config.log_file_bytes_max, config.log_files_max) = (65_536, 2));
    let fifo = world.fifo("flooding");
    let (pod, started) = world.start(sh(&format!("echo > {}; exec yes", fifo.display()))).await;
    read_fifo(&fifo).await;
    let (end, log) = world.run(sh("echo quiet; exit 5")).await;
    assert_eq!((end.exit_code, log), (5, vec!["stdout F quiet".to_owned()]));
    world.runtime.stop(&started.id, LIMIT).await.unwrap();
    assert_eq!(world.exited().await.exit_code, 143);
    let files = world.runtime.log_files(&pod, &"main".into(), false).unwrap();
    assert!(files.len() <= 2 && files.iter().all(|file| fs::metadata(file).unwrap().len() <= 65_536));
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn a_command_is_executed_beside_the_container_in_its_surroundings() {
    let mut world = World::new();
    let env = [("ANSWER".into(), "42".into())];
    let process = Process { env: Box::new(env), working_dir: Some("/proc".into()), ..command(&["sleep", "1000"]) };
    let (_, started) = world.start(process).await;
    let argv = |script: &str| ["sh", "-c", script].map(Box::from);
    let run = async |world: &World, script: &str, limit| {
        let command = argv(script);
        world.runtime.exec(&started.id, &command, Some(limit)).await.outcome(&command)
    };
    let exec = async |world: &World, script: &str| run(world, script, LIMIT).await;
    assert!(matches!(exec(&world, "[ $ANSWER = 42 ] && [ $(pwd) = /proc ]").await, Outcome::Success(_)));
    assert!(matches!(exec(&world, "exit 1").await, Outcome::Failure(_)));
    let beside = run(&world, "sleep 1000", Duration::from_millis(20)).await;
    assert!(matches!(beside, Outcome::Failure(_)), "{beside:?}");
    world.runtime.stop(&started.id, Duration::ZERO).await.unwrap();
    world.exited().await;
    let gone = exec(&world, "true").await;
    assert_eq!(gone, Outcome::Error(format!("container {} is not running", started.id).into()));
    world.runtime.shutdown().await;
}

#[tokio::test]
async fn a_runtime_dropped_without_shutdown_leaves_its_containers_to_the_guardian() {
    for cgroups in [true, false] {
        let world = World::with(|config| config.cgroups = cgroups);
        let fifo = world.fifo("pid");
        world.start(sh(&format!("{}; exec sleep 1000", escaping(&fifo)))).await;
        let child = read_pid(&fifo).await;
        drop(world.runtime);
        ended(child).await;
    }
}

#[test]
fn nothing_outlives_a_daemon_that_was_killed() {
    for (role, cgroups) in [("as-daemon", true), ("as-daemon-without-cgroups", false)] {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("pid");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "runtime::process::tests::daemon_entry", "--nocapture", role])
            .env("PROBE_ENGINE_TEST_DIR", dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let child = fs::read_to_string(&fifo).unwrap();
        let child = PidFd::open(Pid::from_raw(child.trim().parse().unwrap())).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let mut said = String::new();
        // Its end is the end of the daemon and the guardian, which have nobody else to share it with.
        daemon.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("the daemon died; its containers were killed"), "{said}");
        assert!(has_ended(&child), "it outlived the daemon");
        if cgroups && let Ok(tree) = fs::read_to_string(dir.path().join("tree")) {
            assert!(!Path::new(&tree).exists(), "{tree} is left");
        }
    }
}

/// Not a test: what [`config`] starts as the guardian.
#[test]
fn guardian_entry() {
    if std::env::args().any(|arg| arg == "as-guardian") {
        std::process::exit(guard(std::io::stdin().lock()).into());
    }
}

/// Not a test: the daemon that [`nothing_outlives_a_daemon_that_was_killed`] kills.
#[test]
fn daemon_entry() {
    let Some(role) = std::env::args().find(|arg| arg.starts_with("as-daemon")) else {
        return;
    };
    let dir = PathBuf::from(std::env::var_os("PROBE_ENGINE_TEST_DIR").unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cgroups = role == "as-daemon";
        let runtime = ProcessRuntime::open(ProcessConfig { cgroups, ..config(&dir) }).unwrap();
        if let Ok(tree) = &runtime.inner.tree {
            fs::write(dir.join("tree"), tree.path().to_str().unwrap()).unwrap();
        }
        let pod = pod(sh(&format!("{}; exec sleep 1000", escaping(&dir.join("pid")))));
        runtime.start(&pod, &"main".into(), 0).await.unwrap();
        // Until it is killed, or the test has died.
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
        runtime.shutdown().await;
    });
}
