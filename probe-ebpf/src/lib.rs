//! What the kernel programs and the daemon agree on: map names, globals, record layouts, and which change counter
//! belongs to a listener.
//!
//! Invariant: both sides compile this file, so a byte means the same in the kernel and in the daemon.
#![no_std]
#![forbid(unsafe_code)]

// The programs do not need it, and their object does not change with it.
#[cfg(not(target_arch = "bpf"))]
mod bytes;

/// The compiled kernel programs (`cargo xtask ebpf` made it, CI makes it again and compares), aligned as an ELF reader
/// wants it.
#[cfg(not(target_arch = "bpf"))]
pub static OBJECT: &[u8] = &ALIGNED.bytes;

/// Gives its bytes the alignment of a `u64`.
#[cfg(not(target_arch = "bpf"))]
#[repr(C)]
struct Aligned<Bytes: ?Sized> {
    alignment: [u64; 0],
    bytes: Bytes,
}

#[cfg(not(target_arch = "bpf"))]
static ALIGNED: &Aligned<[u8]> = &Aligned { alignment: [], bytes: *include_bytes!("../prebuilt/probe-ebpf.o") };

/// The program and the hook it is for: the tracepoint `sock:inet_sock_set_state`.
pub const PROGRAM_BTF: &str = "inet_sock_set_state";
/// The same for kernels that refuse BTF attach: on the raw tracepoint of that name.
pub const PROGRAM_RAW: &str = "inet_sock_set_state_raw";

/// Array of [`COUNTERS_LEN`] `u64`, memory-mapped: the change counters.
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Array of [`CONNECTS_LEN`] [`Connect`], memory-mapped: what became of our own connects.
pub const MAP_CONNECTS: &str = "CONNECTS";
/// Array of 65,536 `u64`: which of our connects (its cookie) has this local port. The program's own.
pub const MAP_PORTS: &str = "PORTS";
/// Ring buffer of [`ListenerEvent`].
pub const MAP_EVENTS: &str = "EVENTS";
/// The program does not wake the reader of [`MAP_EVENTS`] again so soon (ns). So a reader that took records looks again
/// after this long, until it finds none; then it may sleep until it is woken. The first event after a quiet moment is
/// told at once, the events of a burst this much later at most.
pub const WAKE_PAUSE_NS: u64 = 500_000;
/// Array of one `u64`, memory-mapped: listener events for which [`MAP_EVENTS`] had no room.
pub const MAP_DROPS: &str = "DROPS";

/// Global: [`Offsets`].
pub const GLOBAL_OFFSETS: &str = "OFFSETS";
/// Global: [`Identity`].
pub const GLOBAL_IDENTITY: &str = "IDENTITY";
/// Global, `u8`: 1 = the program logs through aya-log. At 0 the verifier removes the calls.
pub const GLOBAL_LOG: &str = "LOG";

/// Change counters in the memory-mapped array; a power of two.
pub const COUNTERS_LEN: u32 = 65_536;

/// Places for our own connects; a power of two. A connect's place is its socket cookie modulo this.
pub const CONNECTS_LEN: u32 = 65_536;

/// Places in [`MAP_PORTS`]: one for every port.
pub const PORTS_LEN: u32 = 65_536;

/// `AF_INET`, as in [`ListenerEvent::family`].
pub const FAMILY_V4: u16 = 2;
/// `AF_INET6`
pub const FAMILY_V6: u16 = 10;

/// The counter of a listening port in a network namespace. Ports of two namespaces may share one: that costs a real
/// connect too many, never one too few.
#[must_use]
pub const fn counter_slot(netns_cookie: u64, port: u16) -> u32 {
    // The namespace is hashed (a multiply and a shift: the verifier knows both), the port only added: no two ports
    // of one namespace share a counter.
    let namespace = (netns_cookie.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u32;
    (namespace + port as u32) % COUNTERS_LEN
}

/// The place in [`MAP_CONNECTS`] of the connect of this socket.
#[must_use]
pub const fn connect_place(socket_cookie: u64) -> u32 {
    (socket_cookie % CONNECTS_LEN as u64) as u32
}

/// Byte offsets of kernel fields, from the running kernel's BTF. Names are the kernel's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `sock_common.skc_net`
    pub skc_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `net.net_cookie`
    pub net_cookie: u32,
    /// `sock_common.skc_num`: local port, host order
    pub skc_num: u32,
    /// `sock_common.skc_dport`: remote port, network order
    pub skc_dport: u32,
    /// `sock_common.skc_family`
    pub skc_family: u32,
    /// `sock_common.skc_rcv_saddr`: local IPv4 address
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_daddr`: remote IPv4 address
    pub skc_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`: local IPv6 address
    pub skc_v6_rcv_saddr: u32,
    /// `sock_common.skc_v6_daddr`: remote IPv6 address
    pub skc_v6_daddr: u32,
    /// `sock_common.skc_cookie`
    pub skc_cookie: u32,
    /// `inet_sock.inet_sport`: local port, network order; there at every LISTEN -> CLOSE
    pub inet_sport: u32,
    /// `sock.sk_protocol`, 16 bits
    pub sk_protocol: u32,
    /// Byte of the bit field `sock_common.skc_ipv6only`
    pub skc_ipv6only: u32,
    /// Its bit in that byte
    pub skc_ipv6only_shift: u32,
}

/// Whose connects are ours: the daemon's process, in its own pid namespace (`bpf_get_ns_current_pid_tgid`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `st_dev` of `/proc/self/ns/pid`
    pub pidns_dev: u64,
    /// `st_ino` of it
    pub pidns_ino: u64,
    /// getpid(2)
    pub tgid: u32,
    /// Zero.
    pub padding: u32,
}

/// A listener opened or closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerEvent {
    /// `bpf_ktime_get_ns`: CLOCK_MONOTONIC
    pub time_ns: u64,
    /// The socket's, `idiag_cookie` of sock_diag; 0 = not known (raw tracepoint)
    pub socket_cookie: u64,
    /// `net.net_cookie`
    pub netns_cookie: u64,
    /// Local address as the kernel holds it; of IPv4 the first four bytes
    pub address: [u8; 16],
    /// `net.ns.inum`
    pub netns_inode: u32,
    /// Local port, host order; 0 = `listen()` without a bind, not chosen yet
    pub port: u16,
    /// [`FAMILY_V4`] or [`FAMILY_V6`]
    pub family: u16,
    /// 1 = CLOSE -> LISTEN, 0 = LISTEN -> CLOSE
    pub opened: u8,
    /// `skc_ipv6only`
    pub ipv6_only: u8,
    /// Zero.
    pub padding: [u8; 6],
}

/// One of our own connects, as the kernel saw it. Zero = not seen (an event can be missing). The program writes
/// `socket_cookie` last at SYN_SENT, and `child_ns` last when the child is born.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// Of our socket: whose place this is.
    pub socket_cookie: u64,
    /// CLOSE -> SYN_SENT
    pub started_ns: u64,
    /// SYN_SENT -> ESTABLISHED
    pub established_ns: u64,
    /// LISTEN -> SYN_RECV of the child that a listener made for it
    pub child_ns: u64,
    /// Where the child was born.
    pub child_netns_cookie: u64,
    /// The child's remote address: ours, unless somebody translates on the way
    pub child_remote: [u8; 16],
    /// The child's local port, host order: who really took the connect
    pub child_port: u16,
    /// Family of the child
    pub child_family: u16,
    /// Our local port, host order
    pub local_port: u16,
    /// Zero.
    pub padding: u16,
}

impl Offsets {
    /// What the object holds before the loader writes the running kernel's.
    pub const ZERO: Self = Self {
        skc_net: 0,
        net_inum: 0,
        net_cookie: 0,
        skc_num: 0,
        skc_dport: 0,
        skc_family: 0,
        skc_rcv_saddr: 0,
        skc_daddr: 0,
        skc_v6_rcv_saddr: 0,
        skc_v6_daddr: 0,
        skc_cookie: 0,
        inet_sport: 0,
        sk_protocol: 0,
        skc_ipv6only: 0,
        skc_ipv6only_shift: 0,
    };
}

impl Connect {
    /// Nothing seen.
    pub const ZERO: Self = Self {
        socket_cookie: 0,
        started_ns: 0,
        established_ns: 0,
        child_ns: 0,
        child_netns_cookie: 0,
        child_remote: [0; 16],
        child_port: 0,
        child_family: 0,
        local_port: 0,
        padding: 0,
    };
}

const _: () = assert!(size_of::<Offsets>() == 60);
const _: () = assert!(size_of::<Identity>() == 24);
const _: () = assert!(size_of::<ListenerEvent>() == 56);
const _: () = assert!(size_of::<Connect>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_an_elf_file_where_it_can_be_read_in_place() {
        assert!(OBJECT.starts_with(b"\x7fELF"));
        assert_eq!(OBJECT.as_ptr().addr() % 8, 0);
    }

    #[test]
    fn every_slot_is_inside_the_array() {
        for port in 0..=u16::MAX {
            assert!(counter_slot(u64::MAX, port) < COUNTERS_LEN);
        }
    }

    #[test]
    fn ports_of_one_namespace_have_counters_of_their_own() {
        extern crate std;
        let slots: std::collections::BTreeSet<u32> = (1..=u16::MAX).map(|port| counter_slot(4_026, port)).collect();
        assert!(slots.len() > 40_000, "{} slots for 65,535 ports", slots.len());
    }
}
