//! Maps and globals. The names of the statics are those that the daemon asks for.

use core::ptr;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use probe_ebpf::{CONNECTS_LEN, COUNTERS_LEN, Connect, Identity, Offsets, PORTS_LEN, WAKE_PAUSE_NS};

/// Bytes of the ring buffer, unless the loader sets another size. Full: the event is counted in [`DROPS`].
const EVENTS_BYTES: u32 = 1 << 20;

#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(COUNTERS_LEN, BPF_F_MMAPABLE);

#[map]
static CONNECTS: Array<Connect> = Array::with_max_entries(CONNECTS_LEN, BPF_F_MMAPABLE);

#[map]
static PORTS: Array<u64> = Array::with_max_entries(PORTS_LEN, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// When the reader of [`EVENTS`] was woken last.
#[map]
static WOKEN: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static DROPS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Set by the loader, read-only from then on: the verifier takes each field for the constant it is.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::ZERO;

/// Set by the loader.
#[unsafe(no_mangle)]
static IDENTITY: Identity = Identity { pidns_dev: 0, pidns_ino: 0, tgid: 0, padding: 0 };

/// Set by the loader.
#[unsafe(no_mangle)]
static LOG: u8 = 0;

/// The value of a field of a global as the loader set it, not as it was compiled.
macro_rules! global {
    ($field:expr) => {
        // SAFETY: a live static of this object, of that type, written by nobody after the load.
        unsafe { core::ptr::read_volatile(&raw const $field) }
    };
}
pub(crate) use global;

/// Who we are.
#[inline(always)]
pub(crate) fn identity() -> Identity {
    Identity {
        pidns_dev: global!(IDENTITY.pidns_dev),
        pidns_ino: global!(IDENTITY.pidns_ino),
        tgid: global!(IDENTITY.tgid),
        padding: 0,
    }
}

/// Whether the program logs. At `false` the verifier removes what follows.
#[inline(always)]
pub(crate) fn logs() -> bool {
    global!(LOG) != 0
}

/// A listener of this slot opened or closed.
#[inline(always)]
pub(crate) fn count_change(slot: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        add_one(counter);
    }
}

/// The ring buffer had no room.
#[inline(always)]
pub(crate) fn count_drop() {
    if let Some(drops) = DROPS.get_ptr_mut(0) {
        add_one(drops);
    }
}

/// The flags of a record's submission: whether it wakes the reader. Waking is an interrupt that the CPU sends itself, in
/// this program's time, and costs several times what all the rest does.
#[inline(always)]
pub(crate) fn wakeup(now_ns: u64) -> u64 {
    let Some(woken) = WOKEN.get_ptr_mut(0) else {
        return u64::from(BPF_RB_FORCE_WAKEUP);
    };
    // SAFETY: a value of the array. Two CPUs may both find that it is time: the reader wakes once more.
    unsafe {
        if now_ns.wrapping_sub(ptr::read_volatile(woken)) < WAKE_PAUSE_NS {
            return u64::from(BPF_RB_NO_WAKEUP);
        }
        ptr::write_volatile(woken, now_ns);
    }
    // Not the kernel's own rule (wake if the reader has seen all before): a record that was left without a wake-up, and
    // that the reader has not looked for yet, would forbid it.
    u64::from(BPF_RB_FORCE_WAKEUP)
}

/// The place of a connect in [`CONNECTS`].
#[inline(always)]
pub(crate) fn connect(place: u32) -> Option<*mut Connect> {
    CONNECTS.get_ptr_mut(place)
}

/// Which of our connects was the last with this local port; 0 = none.
#[inline(always)]
pub(crate) fn port_owner(port: u16) -> u64 {
    PORTS.get(u32::from(port)).copied().unwrap_or(0)
}

/// This connect has that local port.
#[inline(always)]
pub(crate) fn own_port(port: u16, socket_cookie: u64) {
    if let Some(owner) = PORTS.get_ptr_mut(u32::from(port)) {
        // SAFETY: a value of the array, eight bytes on an eight-byte boundary. Of two writers either may win: the
        // reader compares the cookie with that of the connect's place.
        unsafe { ptr::write_volatile(owner, socket_cookie) };
    }
}

#[inline(always)]
fn add_one(value: *mut u64) {
    // SAFETY: the caller has it from an array of u64. The add is atomic, since other CPUs add too; its result is not
    // used, since not every kernel's JIT gives one.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(value, 1);
    }
}
