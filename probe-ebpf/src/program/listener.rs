//! A listener opened or closed.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_log_ebpf::{info, warn};
use probe_ebpf::{ListenerEvent, counter_slot};

use crate::Hook;
use crate::maps::{self, EVENTS};
use crate::sock::Sock;

/// `opened`: CLOSE -> LISTEN, which `inet_csk_listen_start` does before it takes the port, so that it may still fail
/// (then LISTEN -> CLOSE follows). Else LISTEN -> CLOSE.
///
/// An MPTCP listener is told by its TCP socket; its own LISTEN -> LISTEN is no change at all.
#[inline(always)]
pub(crate) fn changed<H: Hook>(hook: &H, sock: Sock, opened: bool) {
    if !sock.is_tcp() {
        return;
    }
    let event = describe(hook, sock, opened);
    // The order is the invariant: first the event (or its loss), then the counter.
    match EVENTS.reserve::<ListenerEvent>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(maps::wakeup(event.time_ns));
        }
        None => {
            maps::count_drop();
            if maps::logs() {
                warn!(hook, "no room for the event of port {} in netns {}", event.port, event.netns_inode);
            }
        }
    }
    maps::count_change(counter_slot(event.netns_cookie, event.port));
    if maps::logs() {
        info!(
            hook,
            "port {} in netns {}: opened={}, socket {}",
            event.port,
            event.netns_inode,
            event.opened,
            event.socket_cookie
        );
    }
}

#[inline(always)]
fn describe<H: Hook>(hook: &H, sock: Sock, opened: bool) -> ListenerEvent {
    let beginning = sock.beginning();
    let netns = beginning.netns();
    let family = beginning.family();
    ListenerEvent {
        // SAFETY: the helper wants nothing.
        time_ns: unsafe { bpf_ktime_get_ns() },
        socket_cookie: hook.socket_cookie(sock),
        netns_cookie: netns.cookie(),
        address: beginning.local_address(family),
        netns_inode: netns.inode(),
        port: sock.source_port(),
        family,
        opened: u8::from(opened),
        ipv6_only: u8::from(beginning.ipv6_only()),
        padding: [0; 6],
    }
}
