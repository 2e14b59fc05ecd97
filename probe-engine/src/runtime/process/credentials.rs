//! Whose rights a container gets: `runAsUser`, `runAsGroup` and `supplementalGroups` on this host.
//!
//! Nothing asked = the daemon's own. A user without a group gets that user's group from the user database, or
//! the group of the same number: the container runtimes' 0 would, on a host, be more than what was asked for.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Uid, User, getegid, geteuid, getgroups};
use probe_core::spec::Process;

use super::spawn::Credentials;

/// What a child has to take on; EPERM (with the field) where this daemon may not give it.
pub(super) fn of(process: &Process) -> Result<Credentials, (String, io::Error)> {
    let (user, group) = (process.run_as_user, process.run_as_group);
    if user.is_none() && group.is_none() && process.supplemental_groups.is_empty() {
        return Ok(Credentials::default());
    }
    let group = group.or_else(|| user.map(primary_group));
    if geteuid().is_root() {
        return Ok(Credentials { uid: user, gid: group, groups: Some(process.supplemental_groups.clone()) });
    }
    // Not root: only what we already are can be given.
    let refuse = |field: &str, id: u32| Err((format!("{field} {id}: the daemon is not root"), Errno::EPERM.into()));
    match (user, group) {
        (Some(uid), _) if uid != geteuid().as_raw() => return refuse("runAsUser", uid),
        (_, Some(gid)) if gid != getegid().as_raw() => return refuse("runAsGroup", gid),
        _ => {}
    }
    let ours = getgroups().map_err(|e| ("getgroups".to_owned(), e.into()))?;
    match process.supplemental_groups.iter().find(|g| ours.iter().all(|o| o.as_raw() != **g)) {
        Some(gid) => refuse("supplementalGroups", *gid),
        None => Ok(Credentials::default()),
    }
}

/// The home directory of a user, `/` where the user database has none (as runc does).
pub(super) fn home(user: Option<u32>) -> String {
    User::from_uid(user.map_or_else(geteuid, Uid::from_raw))
        .ok()
        .flatten()
        .and_then(|user| user.dir.into_os_string().into_string().ok())
        .unwrap_or_else(|| "/".to_owned())
}

fn primary_group(user: u32) -> u32 {
    User::from_uid(Uid::from_raw(user)).ok().flatten().map_or(user, |user| user.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_asks_for_nothing_keeps_the_daemons_rights() {
        assert_eq!(of(&Process::default()).unwrap(), Credentials::default());
    }

    #[test]
    fn a_user_alone_brings_its_group_and_drops_all_others() {
        let process = Process { run_as_user: Some(54_321), ..Process::default() };
        match of(&process) {
            Ok(credentials) => {
                assert!(geteuid().is_root());
                assert_eq!(credentials.gid, Some(54_321));
                assert_eq!(credentials.groups.as_deref(), Some(&[][..]));
            }
            Err((what, source)) => {
                assert!(!geteuid().is_root());
                assert_eq!(what, "runAsUser 54321: the daemon is not root");
                assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
            }
        }
    }
}
