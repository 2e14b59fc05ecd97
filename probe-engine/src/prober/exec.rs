//! `exec`: a command run as a probe on this host (`pkg/probe/exec`, and what a CRI runtime's ExecSync does).
//!
//! The verdict comes when the first process ends: what it left in the background neither delays it nor is
//! killed, as a runtime leaves it alive in the container (it goes with the container); its later output is
//! cut off. At the timeout, and when the attempt is given up, the whole process group is killed. What left
//! the group (setsid) is out of reach here; it stays in the container's cgroup and goes with that.
//!
//! Invariant: the group is signalled only while its first process is not reaped, so its number is not reused.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use probe_core::outcome::{LocalCause, Outcome};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::time::timeout;

use super::duration::GoDuration;
use crate::consumer::otlp::HEADERS_ENV;
use crate::limits;

/// Runs `command`; `limit` `None` = no timeout (lifecycle hooks). The caller has set the program, its arguments, environment,
/// directory and user; stdin, stdout, stderr and the process group are set here (so nothing may call setsid before the exec).
///
/// Needs a tokio runtime with I/O and time.
pub async fn run(command: Command, limit: Option<Duration>) -> Execution {
    run_for_status(command, limit).await.unwrap_or_else(|not_run| not_run)
}

/// The command of an exec probe, to be run on this host as this user, with this process's environment but for its secrets.
#[must_use]
pub fn host_command(command: &[Box<str>]) -> Command {
    let (program, arguments) = command.split_first().map_or(("", &[][..]), |(p, a)| (&**p, a));
    let mut host = Command::new(program);
    host.args(arguments.iter().map(|argument| &**argument));
    // It may hold the collector's token.
    host.env_remove(HEADERS_ENV);
    host
}

/// The kubelet's text for a command that ran out of time (`pkg/kubelet/cri/remote`, `ExecSync`).
#[must_use]
pub fn timeout_text(shown: &[Box<str>], after: Duration) -> Box<str> {
    format!("command timed out: \"{}\" timed out after {}", shown.join(" "), GoDuration(after)).into()
}

/// How the run of a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// By itself.
    Exited {
        /// 128 and its number for a signal.
        exit_code: i32,
        /// The first bytes of standard output, at most [`limits::EXEC_OUTPUT_BYTES_MAX`].
        stdout: Vec<u8>,
        /// The same of standard error.
        stderr: Vec<u8>,
    },
    /// It was killed at its limit.
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// It could not be run.
    NotRun {
        /// Why.
        why: Box<str>,
    },
    /// The system had no room for a process.
    Local(LocalCause),
}

impl Execution {
    /// As a probe sees it: exit 0 is a success, any other end and the timeout are failures, a command that cannot be run is an
    /// error, a system without room for a process is trouble of our own. `shown`: the command as the probe has it.
    #[must_use]
    pub fn outcome(self, shown: &[Box<str>]) -> Outcome {
        match self {
            Execution::Exited { exit_code: 0, stdout, stderr } => Outcome::Success(text_of(stdout, &stderr)),
            Execution::Exited { stdout, stderr, .. } => Outcome::Failure(text_of(stdout, &stderr)),
            Execution::TimedOut { after } => Outcome::Failure(timeout_text(shown, after)),
            Execution::NotRun { why } => Outcome::Error(why),
            Execution::Local(cause) => Outcome::Local(cause),
        }
    }
}

/// stdout followed by stderr, cut at [`limits::EXEC_OUTPUT_BYTES_MAX`]; what is no UTF-8 is replaced.
#[must_use]
pub fn text_of(stdout: Vec<u8>, stderr: &[u8]) -> Box<str> {
    let mut bytes = stdout;
    bytes.extend_from_slice(stderr);
    bytes.truncate(limits::EXEC_OUTPUT_BYTES_MAX);
    let mut text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    text.truncate(text.floor_char_boundary(limits::EXEC_OUTPUT_BYTES_MAX));
    text.into()
}

/// Both sides of the result are ends; the error is one of a command that did not run.
async fn run_for_status(mut command: Command, limit: Option<Duration>) -> Result<Execution, Execution> {
    let (mut stdout, stdout_writer) = Captured::pipe()?;
    let (mut stderr, stderr_writer) = Captured::pipe()?;
    command.stdin(nothing()).stdout(stdout_writer).stderr(stderr_writer);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = {
        // The command holds the writing ends: it must go, or the pipes never end.
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        command.spawn().map_err(|error| {
            let directory = command.as_std().get_current_dir();
            let program = Path::new(command.as_std().get_program());
            not_run(&error, program, directory)
        })?
    };
    let mut group = Group::of(&child);

    let status = {
        let reading = async {
            tokio::time::sleep(limits::EXEC_UNREAD_MAX).await;
            tokio::join!(stdout.read_on(), stderr.read_on());
            // Both closed early; the process may well live on.
            std::future::pending::<()>().await;
        };
        let expiry = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            status = child.wait() => Some(status),
            () = reading => None,
            () = expiry => child.try_wait().transpose(),
        }
    };
    match status {
        Some(Ok(status)) => {
            group.forget();
            stdout.take_rest();
            stderr.take_rest();
            let exit_code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            Ok(Execution::Exited { exit_code, stdout: stdout.kept, stderr: stderr.kept })
        }
        Some(Err(error)) => Err(Execution::NotRun { why: format!("cannot wait for a command: {error}").into() }),
        None => {
            group.kill();
            // Longer than this only where it hangs in the kernel: then tokio reaps it when it ends.
            if timeout(limits::EXEC_REAP_MAX, child.wait()).await.is_ok() {
                group.forget();
            }
            Ok(Execution::TimedOut { after: limit.unwrap_or_default() })
        }
    }
}

/// `/dev/null`, which std would open anew for every process.
fn nothing() -> Stdio {
    static NOTHING: LazyLock<Option<File>> = LazyLock::new(|| File::open("/dev/null").ok());
    let copy = NOTHING.as_ref().and_then(|nothing| nothing.try_clone().ok());
    copy.map_or_else(Stdio::null, Stdio::from)
}

fn not_run(error: &io::Error, program: &Path, directory: Option<&Path>) -> Execution {
    let why = match (error.raw_os_error(), error.kind()) {
        (Some(libc::EAGAIN), _) => return Execution::Local(LocalCause::Processes),
        (Some(libc::EMFILE), _) => return Execution::Local(LocalCause::ProcessFiles),
        (Some(libc::ENFILE), _) => return Execution::Local(LocalCause::SystemFiles),
        (Some(libc::ENOMEM), _) => return Execution::Local(LocalCause::Memory),
        (_, ErrorKind::NotFound | ErrorKind::NotADirectory)
            if directory.is_some_and(|directory| !directory.is_dir()) =>
        {
            let directory = directory.unwrap_or(Path::new("")).display();
            format!("working directory {directory}: no such directory")
        }
        (_, ErrorKind::NotFound) if !program.as_os_str().as_encoded_bytes().contains(&b'/') => {
            "executable file not found in $PATH".to_owned()
        }
        (Some(errno), _) => Errno::from_raw(errno).desc().to_lowercase(),
        (None, _) => error.to_string(),
    };
    Execution::NotRun { why: format!("failed to start exec: exec: \"{}\": {why}", program.display()).into() }
}

/// A process group that dies with this value, unless it was forgotten.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.map(Pid::from_raw))
    }

    fn kill(&self) {
        if let Some(pgid) = self.0 {
            // ESRCH: nothing is left. EPERM: what is left has changed its user, and is the runtime's to end.
            let _ = killpg(pgid, Signal::SIGKILL);
        }
    }

    /// The first process is reaped: from now on the number may be anyone's.
    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The reading end of a process's pipe, and the first [`limits::EXEC_OUTPUT_BYTES_MAX`] bytes that came.
struct Captured {
    pipe: Pipe,
    kept: Vec<u8>,
}

enum Pipe {
    /// Not looked at: the reactor knows nothing of it, and a process that ends soon wakes us once and not for each pipe too.
    Unread(OwnedFd),
    /// Read as output comes.
    Read(pipe::Receiver),
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Pipe::Unread(pipe) => pipe.as_fd(),
            Pipe::Read(pipe) => pipe.as_fd(),
        }
    }
}

impl Captured {
    fn pipe() -> Result<(Self, Stdio), Execution> {
        let failed = |error: io::Error| not_run(&error, Path::new("pipe/"), None);
        let (reader, writer) = io::pipe().map_err(failed)?;
        let reader = OwnedFd::from(reader);
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed(errno.into()))?;
        Ok((Self { pipe: Pipe::Unread(reader), kept: Vec::new() }, Stdio::from(writer)))
    }

    /// Reads until the other end is closed, so that a talkative process does not wait for us.
    async fn read_on(&mut self) {
        let mut buffer = Vec::with_capacity(4096);
        loop {
            let pipe = match &mut self.pipe {
                Pipe::Read(pipe) => pipe,
                Pipe::Unread(pipe) => {
                    let Ok(registered) = pipe.try_clone().and_then(pipe::Receiver::from_owned_fd) else {
                        // No room for it: what the pipe holds is taken at the end.
                        return;
                    };
                    self.pipe = Pipe::Read(registered);
                    continue;
                }
            };
            buffer.clear();
            // Not readable() and try_read(): those never yield, and a process can write without end.
            match pipe.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.keep(&buffer),
            }
        }
    }

    /// Takes what is in the pipe now. Asks the pipe itself: the reactor may not have looked since the last
    /// write. Ends when what is kept is full, however much a process in the background goes on writing.
    fn take_rest(&mut self) {
        let mut buffer = [0; 4096];
        while self.kept.len() < limits::EXEC_OUTPUT_BYTES_MAX {
            match nix::unistd::read(&self.pipe, &mut buffer) {
                Ok(0) => return,
                Ok(len) => self.keep(&buffer[..len]),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&mut self, new: &[u8]) {
        let room = limits::EXEC_OUTPUT_BYTES_MAX - self.kept.len();
        self.kept.extend_from_slice(&new[..new.len().min(room)]);
    }
}

#[cfg(test)]
mod tests;
