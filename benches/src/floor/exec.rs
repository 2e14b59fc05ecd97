//! exec: posix_spawn(3), and waitpid(2) for whatever has ended. Output goes to /dev/null.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::thread;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawnp};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::pace::{Floor, Tally};
use crate::aim::Aim;
use crate::usage::now;

/// See the module.
pub(super) struct Children {
    commands: Vec<Vec<CString>>,
    environment: Vec<CString>,
    actions: PosixSpawnFileActions,
    attributes: PosixSpawnAttr,
    running: BTreeSet<i32>,
    closed: bool,
    tally: Tally,
}

impl Children {
    pub(super) fn new(aims: &[Aim], closed: bool) -> anyhow::Result<Self> {
        let command = |aim: &Aim| -> anyhow::Result<Vec<CString>> {
            aim.command()?.iter().map(|argument| Ok(CString::new(argument.as_bytes())?)).collect()
        };
        let variable = |(name, value): (String, String)| CString::new(format!("{name}={value}"));
        let mut actions = PosixSpawnFileActions::init()?;
        for (fd, access) in [(0, OFlag::O_RDONLY), (1, OFlag::O_WRONLY), (2, OFlag::O_WRONLY)] {
            actions.add_open(fd, "/dev/null", access, Mode::empty())?;
        }
        Ok(Self {
            commands: aims.iter().map(command).collect::<Result<_, _>>()?,
            environment: std::env::vars().map(variable).collect::<Result<_, _>>()?,
            actions,
            attributes: PosixSpawnAttr::init()?,
            running: BTreeSet::new(),
            closed,
            tally: Tally::default(),
        })
    }

    fn ended(&mut self, status: WaitStatus) {
        let Some(pid) = status.pid() else { return };
        if self.running.remove(&pid.as_raw()) {
            self.tally.in_flight -= 1;
            self.tally.ended += 1;
            self.tally.failed += u64::from(!matches!(status, WaitStatus::Exited(_, 0)));
        }
    }
}

impl Floor for Children {
    fn start(&mut self, target: usize) -> io::Result<()> {
        let command = &self.commands[target];
        match posix_spawnp(&command[0], &self.actions, &self.attributes, command, &self.environment) {
            Ok(pid) => {
                self.running.insert(pid.as_raw());
                self.tally.in_flight += 1;
            }
            // As for a probe: no such program is a failure of the attempt.
            Err(_) => {
                self.tally.ended += 1;
                self.tally.failed += 1;
            }
        }
        Ok(())
    }

    /// The closed loop sleeps until one child has ended; a paced one until its tick.
    fn wait(&mut self, until: Instant) -> io::Result<()> {
        let any = Pid::from_raw(-1);
        if self.closed && !self.running.is_empty() {
            waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        } else {
            thread::sleep(until.saturating_duration_since(now()));
        }
        while !self.running.is_empty() {
            match waitpid(any, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => break,
                status => self.ended(status),
            }
        }
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}
