//! The kernel programs: both are for the tracepoint `sock:inet_sock_set_state` and do the same.
//!
//! The kernel calls it for every state change of every TCP (and DCCP, SCTP, MPTCP) socket of the node
//! (`inet_sk_set_state`, `inet_sk_state_store`), so nearly every run must end at once, before it reads any memory:
//!
//! | change | made by | what is done |
//! |---|---|---|
//! | to LISTEN | `inet_csk_listen_start` | [`listener`]: told, counted |
//! | LISTEN to CLOSE | `tcp_close`, `tcp_disconnect`, a failing `inet_csk_listen_start` | [`listener`]: told, counted |
//! | LISTEN to SYN_RECV | `inet_csk_clone_lock`: a child is born, no listener leaves | [`connect::child_born`], if the connect is ours |
//! | CLOSE to SYN_SENT | `tcp_v4_connect`, `tcp_v6_connect` | [`connect::started`], if the process is ours |
//! | SYN_SENT to ESTABLISHED | `tcp_finish_connect` | [`connect::established`], if the socket is ours |
//! | any other | | nothing |
//!
//! Invariant: a listener's event is in the ring buffer (or counted as dropped) before its change counter moves, and
//! the counter has moved when the system call that made the change returns.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "the BPF target has atomic adds, but no AtomicU64::fetch_add")]
#![feature(core_intrinsics)]

mod connect;
mod listener;
mod maps;
mod sock;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::{btf_tracepoint, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};

use crate::sock::Sock;

/// States of `include/net/tcp_states.h`.
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;
const LISTEN: i32 = 10;

/// The main program, attached through the kernel's BTF.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn inet_sock_set_state(context: BtfTracePointContext) -> i32 {
    state_changed(&context, Sock::at(context.arg(0)), context.arg(1), context.arg(2));
    0
}

/// The same for kernels that refuse BTF attach.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn inet_sock_set_state_raw(context: RawTracePointContext) -> i32 {
    state_changed(&context, Sock::at(context.arg(0)), context.arg(1), context.arg(2));
    0
}

#[inline(always)]
fn state_changed<H: Hook>(hook: &H, sock: Sock, old: i32, new: i32) {
    match (old, new) {
        (LISTEN, SYN_RECV) => connect::child_born(hook, sock),
        (_, LISTEN) => listener::changed(hook, sock, true),
        (LISTEN, _) => listener::changed(hook, sock, false),
        (CLOSE, SYN_SENT) => connect::started(hook, sock),
        (SYN_SENT, ESTABLISHED) => connect::established(sock),
        _ => {}
    }
}

/// What the two hooks do not have in common.
trait Hook: EbpfContext {
    /// The socket's cookie; 0 = not known.
    fn socket_cookie(&self, sock: Sock) -> u64;
}

impl Hook for BtfTracePointContext {
    /// Makes one where the socket has none yet.
    #[inline(always)]
    fn socket_cookie(&self, sock: Sock) -> u64 {
        // SAFETY: the helper wants a socket that the verifier knows as such: this hook's first argument is one.
        unsafe { bpf_get_socket_cookie(sock.address().cast_mut()) }
    }
}

impl Hook for RawTracePointContext {
    /// This hook is not offered the helper: 0 until something else asked for the cookie (SO_COOKIE, sock_diag).
    #[inline(always)]
    fn socket_cookie(&self, sock: Sock) -> u64 {
        sock.cookie()
    }
}

/// Nothing here can panic: were one left, the verifier would refuse this loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel offers these helpers only under a licence that it knows to be compatible with the GPL, as MIT is (one of
/// the project's two). This is its word for that.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
