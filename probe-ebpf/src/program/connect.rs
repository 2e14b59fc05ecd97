//! Our own connects: when they began and succeeded by the kernel's clock, and which listener's child answers them.
//!
//! Other people's connects end here, too: each function leaves at the first thing that shows that it is not ours.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::bindings::bpf_pidns_info;
use aya_ebpf::helpers::generated::{bpf_get_ns_current_pid_tgid, bpf_ktime_get_ns};
use aya_log_ebpf::debug;
use probe_ebpf::{Connect, connect_place};

use crate::Hook;
use crate::maps;
use crate::sock::Sock;

/// A child is born within the handshake; after this long it belongs to somebody who has that port now.
const CHILD_AGE_MAX_NS: u64 = 10_000_000_000;

/// CLOSE -> SYN_SENT, by the process that connects (an io_uring worker is one of its threads); the local port is not
/// chosen yet.
#[inline(always)]
pub(crate) fn started<H: Hook>(hook: &H, sock: Sock) {
    if !process_is_ours() || !sock.is_tcp() {
        return;
    }
    let cookie = hook.socket_cookie(sock);
    if cookie == 0 {
        return;
    }
    let Some(connect) = maps::connect(connect_place(cookie)) else {
        return;
    };
    // SAFETY: a value of the array. Whoever reads it compares the cookie before and after.
    unsafe {
        publish(&raw mut (*connect).socket_cookie, 0);
        ptr::write(connect, Connect { started_ns: bpf_ktime_get_ns(), ..Connect::ZERO });
        publish(&raw mut (*connect).socket_cookie, cookie);
    }
}

/// SYN_SENT -> ESTABLISHED, in a softirq of whatever process. Nobody has asked for the cookie of most foreign sockets.
#[inline(always)]
pub(crate) fn established(sock: Sock) {
    let cookie = sock.cookie();
    if cookie == 0 {
        return;
    }
    let Some(connect) = ours(cookie) else {
        return;
    };
    let port = sock.local_port();
    // SAFETY: a value of the array, found to be that of this socket, which is in no other state change.
    unsafe {
        ptr::write_volatile(&raw mut (*connect).local_port, port);
        publish(&raw mut (*connect).established_ns, bpf_ktime_get_ns());
    }
    maps::own_port(port, cookie);
}

/// LISTEN -> SYN_RECV: `sock` is the child, already with the addresses and ports of its connection (before Linux 6.15
/// `inet_csk_clone_lock` set them after this event: its remote port is 0 here, which is nobody's, and nothing is
/// told).
#[inline(always)]
pub(crate) fn child_born<H: Hook>(hook: &H, sock: Sock) {
    let cookie = maps::port_owner(sock.remote_port());
    if cookie == 0 {
        return;
    }
    let Some(connect) = ours(cookie) else {
        return;
    };
    // SAFETY: a value of the array, read as three plain words.
    let (established_ns, child_ns, now_ns) = unsafe {
        (
            ptr::read_volatile(&raw const (*connect).established_ns),
            ptr::read_volatile(&raw const (*connect).child_ns),
            bpf_ktime_get_ns(),
        )
    };
    let age_ns = now_ns.wrapping_sub(established_ns);
    if established_ns == 0 || child_ns != 0 || age_ns > CHILD_AGE_MAX_NS || !sock.is_tcp() {
        return;
    }
    let family = sock.family();
    let netns_cookie = sock.netns().cookie();
    let remote = sock.remote_address(family);
    let port = sock.local_port();
    // SAFETY: a value of the array; of two children that claim one connect the later one wins, whole or not: the
    // reader compares all with what it asked for.
    unsafe {
        ptr::write_volatile(&raw mut (*connect).child_netns_cookie, netns_cookie);
        ptr::write_volatile(&raw mut (*connect).child_remote, remote);
        ptr::write_volatile(&raw mut (*connect).child_port, port);
        ptr::write_volatile(&raw mut (*connect).child_family, family);
        publish(&raw mut (*connect).child_ns, now_ns);
    }
    if maps::logs() {
        debug!(hook, "connect {} was taken by port {}", cookie, port);
    }
}

/// The place of the connect with this cookie, if it is one of ours and no later one took it.
#[inline(always)]
fn ours(cookie: u64) -> Option<*mut Connect> {
    let connect = maps::connect(connect_place(cookie))?;
    // SAFETY: a value of the array, its first word.
    let owner = unsafe { ptr::read_volatile(&raw const (*connect).socket_cookie) };
    (owner == cookie).then_some(connect)
}

/// Whether the current task is a thread of the daemon, by the ids of the daemon's own pid namespace.
#[inline(always)]
fn process_is_ours() -> bool {
    let identity = maps::identity();
    let mut ids = MaybeUninit::<bpf_pidns_info>::zeroed();
    let size = size_of::<bpf_pidns_info>() as u32;
    // SAFETY: `ids` has that size; the helper zeroes it where the task has no ids in that namespace.
    unsafe { bpf_get_ns_current_pid_tgid(identity.pidns_dev, identity.pidns_ino, ids.as_mut_ptr(), size) };
    // SAFETY: zeroed, and any bytes are a pair of u32.
    let tgid = unsafe { ids.assume_init() }.tgid;
    tgid != 0 && tgid == identity.tgid
}

/// A store that is seen after every one before it: an exchange is a full barrier in BPF, a plain store is none.
///
/// # Safety
/// `field` is a word of a map's value.
#[inline(always)]
unsafe fn publish(field: *mut u64, value: u64) {
    // SAFETY: as the caller says.
    unsafe {
        core::intrinsics::atomic_xchg::<u64, { core::intrinsics::AtomicOrdering::SeqCst }>(field, value);
    }
}
