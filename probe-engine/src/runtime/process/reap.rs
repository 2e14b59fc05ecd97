//! Reaps orphans: processes that containers left behind and that the kernel gave to this daemon, their
//! nearest subreaper (or PID 1 of its namespace).
//!
//! Invariant: a child that somebody here waits for is never reaped. Container leaders are registered before
//! they can be looked at ([`spawning`]); other children of the daemon (exec probes) stay in its session and
//! lead their own process group or stay in the daemon's, which an orphan of a container never does.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::walk::Process;

/// How soon to look again while the oldest zombie is one that somebody else is about to reap.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waiting is a matter of the whole process, so the register is too.
static OWNED: LazyLock<Mutex<HashSet<i32>>> = LazyLock::new(Mutex::default);
static SPAWNING: RwLock<()> = RwLock::new(());

/// Held while a child is spawned and registered with [`own`].
pub(super) fn spawning() -> RwLockReadGuard<'static, ()> {
    SPAWNING.read().unwrap_or_else(PoisonError::into_inner)
}

/// This child has an owner who waits for it.
pub(super) fn own(pid: u32) {
    owned(|set| set.insert(pid.cast_signed()));
}

/// Its owner has reaped it.
pub(super) fn disown(pid: u32) {
    owned(|set| set.remove(&pid.cast_signed()));
}

/// Makes this process the one that orphans below it are given to, and reaps them until the runtime ends.
pub(super) async fn run() {
    if let Err(e) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::warn!(error = %e, "cannot become subreaper; orphans of containers go to init");
    }
    let mut children = match signal(SignalKind::child()) {
        Ok(children) => children,
        Err(e) => {
            tracing::warn!(error = %e, "cannot listen for SIGCHLD; orphans of containers stay zombies");
            return;
        }
    };
    while children.recv().await.is_some() {
        while !reap_orphans() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Reaps orphans until none is left (true) or one that is not ours to reap stands first (false).
pub(super) fn reap_orphans() -> bool {
    loop {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let pid = match waitid(Id::All, peek) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid,
            _ => return true,
        };
        let _none_spawning = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
        if !is_orphan(pid) {
            return false;
        }
        if let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            tracing::trace!(pid = pid.as_raw(), "reaped an orphan");
        }
    }
}

fn is_orphan(pid: Pid) -> bool {
    if owned(|set| set.contains(&pid.as_raw())) {
        return false;
    }
    let own_session = nix::unistd::getsid(None).map_or(0, Pid::as_raw);
    let own_group = nix::unistd::getpgrp().as_raw();
    Process::read(pid.as_raw()).is_some_and(|process| {
        process.session != own_session || (process.group != process.pid && process.group != own_group)
    })
}

fn owned<T>(ask: impl FnOnce(&mut HashSet<i32>) -> T) -> T {
    ask(&mut OWNED.lock().unwrap_or_else(PoisonError::into_inner))
}
