//! Processes found by walking /proc: how a container is killed whole where there is no cgroup, and which
//! orphans the daemon has to reap.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use super::cgroup::Looks;
use super::spawn::PidFd;

/// One process, from /proc/PID/stat (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) state: char,
    pub(super) group: i32,
    pub(super) session: i32,
}

impl Process {
    /// The process of this number; `None` when it is gone.
    pub(super) fn read(pid: i32) -> Option<Self> {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether it still runs: a zombie only waits for its parent.
    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// Whether the environment it was started with has this entry (`NAME=value`).
    pub(super) fn carries(&self, entry: &str) -> bool {
        fs::read(format!("/proc/{}/environ", self.pid))
            .is_ok_and(|environ| environ.split(|b| *b == 0).any(|e| e == entry.as_bytes()))
    }
}

/// Kills what `is_meant` accepts, again and again until a whole walk finds none, or `patience` is over.
/// Returns whether none is left. Blocks.
pub(super) fn kill_all(is_meant: &dyn Fn(&Process) -> bool, patience: Duration) -> bool {
    let mut looks = Looks::new();
    let mut waited = Duration::ZERO;
    loop {
        if !kill_once(is_meant) {
            return true;
        }
        if waited >= patience {
            return false;
        }
        let wait = looks.next_wait();
        std::thread::sleep(wait);
        waited += wait;
    }
}

/// One walk; returns whether any living process was meant.
fn kill_once(is_meant: &dyn Fn(&Process) -> bool) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    let own = std::process::id().cast_signed();
    let mut found = false;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if pid == own || !Process::read(pid).is_some_and(|p| p.is_alive() && is_meant(&p)) {
            continue;
        }
        // The handle first, then the second look: what the handle names is what was looked at.
        let Ok(handle) = PidFd::open(Pid::from_raw(pid)) else {
            continue;
        };
        if Process::read(pid).is_some_and(|p| p.is_alive() && is_meant(&p)) {
            found = true;
            let _ = handle.kill();
        }
    }
    found
}

/// `pid (comm) state ppid pgrp session ...`; comm may hold anything, parentheses and spaces included.
fn parse_stat(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let mut fields = rest.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse::<i32>().ok();
    let _parent = number()?;
    Some(Process { pid: pid.parse().ok()?, state, group: number()?, session: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_full_of_parentheses_does_not_confuse_the_walk() {
        let process = parse_stat("42 (a) Z 1 (b) S 7 40 39 0 -1 4194560 1").unwrap();
        assert_eq!(process, Process { pid: 42, state: 'S', group: 40, session: 39 });
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn this_process_is_found_with_its_session() {
        let own = Process::read(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        assert_eq!(own.session, nix::unistd::getsid(None).unwrap().as_raw());
    }
}
