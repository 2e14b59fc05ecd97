//! The door to what only libc offers here: what a child does between fork and exec, and signals to processes.
//!
//! Invariant: between fork and exec nothing but async-signal-safe calls is made and nothing is allocated; all
//! that the child needs was made by the parent ([`Plan`]).
#![expect(unsafe_code, reason = "pre_exec and three libc calls have no safe form; each proves its conditions")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::Pid;

/// File mode mask of containers (runc's default), whatever the daemon's own is.
const UMASK: libc::mode_t = 0o022;

/// Signal numbers are 1..=64 on the architectures of this runtime.
const SIGNALS_MAX: i32 = 64;

/// Whose rights a process gets; `None` = those of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    /// Real, effective and saved user.
    pub(super) uid: Option<u32>,
    /// Real, effective and saved group.
    pub(super) gid: Option<u32>,
    /// All supplementary groups.
    pub(super) groups: Option<Box<[u32]>>,
}

/// What the child does before it becomes the program.
#[derive(Debug)]
pub(super) struct Plan {
    /// `cgroup.procs` of the cgroup to enter, open for writing.
    pub(super) cgroup_procs: Option<OwnedFd>,
    /// Taken on after the cgroup was entered.
    pub(super) credentials: Credentials,
    /// Lead a session (and with it a process group) of its own.
    pub(super) new_session: bool,
}

/// Makes `command`'s child carry out `plan` before exec. A step that fails makes `spawn` fail with its errno.
pub(super) fn arm(command: &mut Command, plan: Plan) {
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed:
    // `carry_out` makes only those listed there, takes no lock, and touches no memory but `plan`'s.
    unsafe { command.pre_exec(move || plan.carry_out()) };
}

impl Plan {
    /// setsid, signal, umask, write, setgroups, setresgid, setresuid, close_range: system calls, or (`signal`,
    /// the set*id family) wrappers that std itself uses in this place. No allocation: `last_os_error` makes none.
    fn carry_out(&self) -> io::Result<()> {
        if self.new_session {
            // SAFETY: no arguments; fails only with EPERM for a group leader, which a fresh child is not.
            check(unsafe { libc::setsid() })?;
        }
        for number in 1..=SIGNALS_MAX {
            // A program expects default dispositions; SIGKILL, SIGSTOP and libc's own signals refuse, which is fine.
            // SAFETY: SIG_DFL is a valid disposition for every number, and this process has one thread.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        // SAFETY: takes any mode, cannot fail.
        unsafe { libc::umask(UMASK) };
        if let Some(procs) = &self.cgroup_procs {
            // "0" names the writing process itself.
            // SAFETY: the descriptor is owned by `self` and open; the buffer is a static byte.
            let written = unsafe { libc::write(procs.as_raw_fd(), b"0".as_ptr().cast(), 1) };
            if written != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        self.credentials.take_on()?;
        // Nothing of the daemon's is inherited, even where someone forgot O_CLOEXEC.
        // SAFETY: plain numbers; the flag only marks descriptors, so std's own exec-error pipe stays usable.
        // An old kernel's ENOSYS is fine: every descriptor of ours is O_CLOEXEC already.
        unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    }
}

impl Credentials {
    fn take_on(&self) -> io::Result<()> {
        if let Some(groups) = &self.groups {
            // SAFETY: pointer and length are those of a live slice of gid_t (u32).
            check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
        }
        if let Some(gid) = self.gid {
            // SAFETY: plain numbers.
            check(unsafe { libc::setresgid(gid, gid, gid) })?;
        }
        if let Some(uid) = self.uid {
            // SAFETY: plain numbers.
            check(unsafe { libc::setresuid(uid, uid, uid) })?;
        }
        Ok(())
    }
}

/// Sends signal `number` (real-time signals included) to a child that has not been reaped yet: only then is
/// the number surely still its own.
pub(super) fn signal_child(pid: Pid, number: i32) -> io::Result<()> {
    // SAFETY: plain numbers; which process is meant is the caller's to know.
    check(unsafe { libc::kill(pid.as_raw(), number) })
}

/// A process by a handle that no other process can take over (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub(super) struct PidFd(OwnedFd);

impl PidFd {
    /// ESRCH when there is no such process.
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: plain numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0u32) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        check(fd)?;
        // SAFETY: the call above just made this descriptor (close-on-exec by itself), and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// SIGKILL to exactly this process; ESRCH when it has been reaped.
    pub(super) fn kill(&self) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open; a null siginfo is documented as "like kill(2)".
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, no_info, 0u32) };
        check(i32::try_from(sent).map_err(io::Error::other)?)
    }

    /// Readable once the process has ended.
    #[cfg(test)]
    pub(super) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }
}

fn check(returned: i32) -> io::Result<()> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
