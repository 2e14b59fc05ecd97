//! What the operator is told once, at INFO, and not again with every look or try.

use std::collections::HashSet;

use nix::errno::Errno;

use crate::ebpf::netns::{NetnsError, NetnsRef};
use crate::limits;

/// See the module. The functions return whether they told.
#[derive(Debug, Default)]
pub(super) struct Notices {
    sk_lookup: bool,
    nftables: bool,
    /// Those told of that have not been opened since. At most [`limits::NAMESPACES_MAX`]: any more are told at DEBUG.
    unopened: HashSet<NetnsRef>,
}

impl Notices {
    /// Whether sk_lookup programs are there may not be asked.
    pub(super) fn sk_lookup_refused(&mut self, errno: Errno) -> bool {
        let is_new = !std::mem::replace(&mut self.sk_lookup, true);
        if is_new {
            tracing::info!(
                %errno,
                "BPF_PROG_QUERY: whether sk_lookup programs redirect connections may not be asked, so there are no passive \
                 answers; it needs CAP_NET_ADMIN",
            );
        }
        is_new
    }

    /// Changes of nftables rules are not announced to us.
    pub(super) fn nftables_refused(&mut self, errno: Errno) -> bool {
        let is_new = !std::mem::replace(&mut self.nftables, true);
        if is_new {
            tracing::info!(
                %errno,
                "changes of nftables rules are not heard of, so that one which cuts a target off is noticed after \
                 passiveMaxAgeSeconds; {}",
                nftables_cause(errno),
            );
        }
        is_new
    }

    /// The targets there connect for real, until it opens.
    pub(super) fn not_opened(&mut self, netns: &NetnsRef, error: &NetnsError) -> bool {
        let has_room = self.unopened.len() < limits::NAMESPACES_MAX;
        if has_room && self.unopened.insert(netns.clone()) {
            tracing::info!(%error, "network namespace not usable: its probes connect for real until it is");
            return true;
        }
        tracing::debug!(%error, "network namespace not usable: its probes connect for real");
        false
    }

    /// If it cannot be opened another time, that is told again.
    pub(super) fn opened(&mut self, netns: &NetnsRef) {
        if self.unopened.remove(netns) {
            tracing::info!(path = %netns.path(), "network namespace opened");
        }
    }

    /// Forgets namespaces in which no target waits any more.
    pub(super) fn retain<'n>(&mut self, waiting: impl Iterator<Item = &'n NetnsRef>) {
        if self.unopened.is_empty() {
            return;
        }
        let waiting: HashSet<&NetnsRef> = waiting.collect();
        self.unopened.retain(|netns| waiting.contains(netns));
    }
}

/// Why the group of nftables could not be joined (`netlink_bind`, `netlink_create`).
const fn nftables_cause(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "it needs CAP_NET_ADMIN",
        Errno::EPROTONOSUPPORT => "the kernel has no nf_tables (CONFIG_NF_TABLES)",
        _ => "is the daemon out of descriptors?",
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn named(number: usize) -> NetnsRef {
        NetnsRef::at(format!("/run/netns/{number}"))
    }

    fn error(netns: &NetnsRef) -> NetnsError {
        NetnsError::Open { path: netns.path(), source: io::Error::from_raw_os_error(libc::ENOENT) }
    }

    #[test]
    fn what_is_refused_is_told_once() {
        let mut notices = Notices::default();
        assert!(notices.sk_lookup_refused(Errno::EPERM) && !notices.sk_lookup_refused(Errno::EPERM));
        assert!(notices.nftables_refused(Errno::EPERM) && !notices.nftables_refused(Errno::EPROTONOSUPPORT));
        assert!(nftables_cause(Errno::EPERM).contains("CAP_NET_ADMIN"));
        assert!(nftables_cause(Errno::EPROTONOSUPPORT).contains("nf_tables"));
    }

    #[test]
    fn a_namespace_that_does_not_open_is_told_once_until_it_opens_again() {
        let mut notices = Notices::default();
        let (one, two) = (named(1), named(2));
        assert!(notices.not_opened(&one, &error(&one)) && !notices.not_opened(&one, &error(&one)));
        assert!(notices.not_opened(&two, &error(&two)), "another one");
        notices.opened(&one);
        assert!(notices.not_opened(&one, &error(&one)), "opened in between");
        notices.retain([&two].into_iter());
        assert!(notices.not_opened(&one, &error(&one)), "nobody waited for it");
        assert!(!notices.not_opened(&two, &error(&two)));
    }

    #[test]
    fn namespaces_that_do_not_open_are_bounded() {
        let mut notices = Notices::default();
        let told = (0..2 * limits::NAMESPACES_MAX).map(named).filter(|netns| notices.not_opened(netns, &error(netns)));
        assert_eq!(told.count(), limits::NAMESPACES_MAX);
    }
}
