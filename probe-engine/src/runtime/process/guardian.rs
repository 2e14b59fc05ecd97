//! The guardian: a small process that outlives a killed daemon by a moment, to leave no orphan.
//!
//! It is our own program again (`probe-engine guardian`), in its own session so that a terminal's Ctrl-C does
//! not reach it, and reads a pipe whose only writer is the daemon. When the pipe ends without a goodbye, the
//! daemon died: everything in its cgroup (or, without one, of its sessions) is killed.
//!
//! Invariant: containers do not hold the pipe's writing end (O_CLOEXEC), so its end means the daemon's.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, BufRead, PipeWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::SigSet;

use super::spawn::{self, Credentials, Plan};
use super::{cgroup, reap, walk};

/// How long the guardian tries to kill what is left.
const PATIENCE: Duration = Duration::from_secs(60);
/// Wait before a guardian that died is replaced.
const RESPAWN_WAIT: Duration = Duration::from_secs(1);
/// How long the daemon waits for the guardian after the goodbye.
const GOODBYE_WAIT: Duration = Duration::from_secs(5);

/// Name of the environment variable that marks a daemon's containers where there is no cgroup.
pub(super) const MARKER: &str = "PROBE_ENGINE_DAEMON";

/// What is guarded.
#[derive(Clone, Debug)]
pub(super) enum Guarded {
    /// Everything in this cgroup.
    Cgroup(PathBuf),
    /// Everything whose environment has `PROBE_ENGINE_DAEMON=<this>`, and the sessions told one by one.
    Marker(String),
}

/// The daemon's side.
#[derive(Debug)]
pub(super) struct Guardian {
    shared: Arc<Shared>,
    /// Ends when the guardian has, after a goodbye.
    keeper: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    program: PathBuf,
    args: Vec<OsString>,
    guarded: Guarded,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pipe: Option<PipeWriter>,
    /// Told again to a guardian that replaces one that died.
    sessions: HashSet<u32>,
    leaving: bool,
}

impl Guardian {
    /// Starts one. Must be called within a tokio runtime, before the first container is started.
    pub(super) fn start(program: PathBuf, args: Vec<OsString>, guarded: Guarded) -> io::Result<Self> {
        let shared = Arc::new(Shared { program, args, guarded, state: Mutex::default() });
        let child = shared.spawn()?;
        let keeper = tokio::spawn(keep(Arc::clone(&shared), child));
        Ok(Self { shared, keeper: Mutex::new(Some(keeper)) })
    }

    /// A session to kill; needed only where there is no cgroup.
    pub(super) fn add_session(&self, leader: u32) {
        self.shared.with_state(|state| {
            state.sessions.insert(leader);
            state.say(&format!("session {leader}\n"));
        });
    }

    /// Nothing of this session is left.
    pub(super) fn remove_session(&self, leader: u32) {
        self.shared.with_state(|state| {
            state.sessions.remove(&leader);
            state.say(&format!("ended {leader}\n"));
        });
    }

    /// The daemon goes without having ended its containers: the guardian does it now.
    pub(super) fn abandon(&self) {
        self.shared.with_state(|state| {
            state.leaving = true;
            state.pipe = None;
        });
    }

    /// The daemon ends in order, with nothing left to kill: so does the guardian.
    pub(super) async fn goodbye(&self) {
        self.shared.with_state(|state| {
            state.leaving = true;
            state.say("goodbye\n");
            state.pipe = None;
        });
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper
            && tokio::time::timeout(GOODBYE_WAIT, keeper).await.is_err()
        {
            tracing::warn!("the guardian has not ended after the goodbye");
        }
    }
}

impl Shared {
    fn with_state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spawn(&self) -> io::Result<tokio::process::Child> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir("/").stdin(Stdio::from(reader)).stdout(Stdio::null());
        spawn::arm(&mut command, Plan { cgroup_procs: None, credentials: Credentials::default(), new_session: true });
        let child = {
            let _spawning = reap::spawning();
            let child = tokio::process::Command::from(command).spawn()?;
            child.id().into_iter().for_each(reap::own);
            child
        };
        self.with_state(|state| {
            state.pipe = Some(writer);
            state.say(&match &self.guarded {
                Guarded::Cgroup(path) => format!("cgroup {}\n", path.display()),
                Guarded::Marker(marker) => format!("marker {marker}\n"),
            });
            for leader in state.sessions.clone() {
                state.say(&format!("session {leader}\n"));
            }
        });
        Ok(child)
    }
}

impl State {
    /// A guardian that does not listen any more is replaced by its keeper, and told all again.
    fn say(&mut self, line: &str) {
        if let Some(pipe) = &mut self.pipe {
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

async fn keep(shared: Arc<Shared>, mut child: tokio::process::Child) {
    loop {
        let pid = child.id();
        let status = child.wait().await;
        pid.into_iter().for_each(reap::disown);
        if shared.with_state(|state| state.leaving) {
            return;
        }
        tracing::warn!(?status, "the guardian ended; starting another, until then a killed daemon leaves orphans");
        child = loop {
            tokio::time::sleep(RESPAWN_WAIT).await;
            if shared.with_state(|state| state.leaving) {
                return;
            }
            match shared.spawn() {
                Ok(child) => break child,
                Err(e) => {
                    tracing::warn!(error = %e, program = %shared.program.display(), "cannot start the guardian")
                }
            }
        };
    }
}

/// The guardian's side: reads `daemon`'s lines to their end and cleans up if it did not say goodbye.
/// Returns the process's exit code: 0 when nothing is left.
pub fn guard(daemon: impl BufRead) -> u8 {
    // A supervisor signals the whole group of its service; the guardian must be the last to go.
    if let Err(e) = SigSet::all().thread_block() {
        eprintln!("probe-engine guardian: cannot block signals: {e}");
    }
    let told = Told::read(daemon);
    if told.goodbye || told.nothing() {
        return 0;
    }
    if told.clean_up() {
        eprintln!("probe-engine guardian: the daemon died; its containers were killed");
        return 0;
    }
    eprintln!("probe-engine guardian: the daemon died, and some of its containers cannot be killed");
    1
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    cgroup: Option<PathBuf>,
    marker: Option<String>,
    sessions: HashSet<i32>,
    goodbye: bool,
}

impl Told {
    fn read(daemon: impl BufRead) -> Self {
        let mut told = Self::default();
        for line in daemon.lines() {
            let Ok(line) = line else { break };
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("cgroup", path) => told.cgroup = Some(path.into()),
                ("marker", marker) => told.marker = Some(marker.to_owned()),
                ("session", leader) => told.sessions.extend(leader.parse::<i32>()),
                ("ended", leader) => told.sessions.retain(|s| leader.parse() != Ok(*s)),
                ("goodbye", _) => told.goodbye = true,
                _ => {}
            }
        }
        told
    }

    fn nothing(&self) -> bool {
        self.cgroup.is_none() && self.marker.is_none() && self.sessions.is_empty()
    }

    fn clean_up(&self) -> bool {
        if let Some(cgroup) = &self.cgroup {
            return cgroup::destroy(Path::new(cgroup), PATIENCE).is_ok();
        }
        let entry = self.marker.as_ref().map(|marker| format!("{MARKER}={marker}"));
        walk::kill_all(
            &|process| {
                self.sessions.contains(&process.session)
                    || self.sessions.contains(&process.group)
                    || entry.as_ref().is_some_and(|entry| process.carries(entry))
            },
            PATIENCE,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_ended_are_not_killed() {
        let told = Told::read(&b"marker 0f\nsession 7\nsession 8\nended 7\n"[..]);
        assert_eq!(told.marker.as_deref(), Some("0f"));
        assert_eq!(told.sessions, HashSet::from([8]));
        assert!(!told.goodbye);
    }

    #[test]
    fn a_daemon_that_told_nothing_needs_no_cleaning() {
        assert!(Told::read(&b""[..]).nothing());
        assert!(Told::read(&b"cgroup /x\ngoodbye\n"[..]).goodbye);
    }
}
