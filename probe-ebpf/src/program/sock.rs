//! Reading a `struct sock` (its beginning is a `sock_common`, and it is the beginning of an `inet_sock`) at the offsets
//! of the running kernel.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use probe_ebpf::{FAMILY_V4, FAMILY_V6};

use crate::maps::{OFFSETS, global};

/// `IPPROTO_TCP`. MPTCP, SCTP and DCCP come through the same tracepoint.
const PROTOCOL_TCP: u16 = 6;

/// A socket that is changing its state; the caller in the kernel holds it.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const c_void);

/// A network namespace.
pub(crate) struct Netns(*const c_void);

impl Sock {
    #[inline(always)]
    pub(crate) fn at(address: *const c_void) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub(crate) fn address(self) -> *const c_void {
        self.0
    }

    #[inline(always)]
    pub(crate) fn is_tcp(self) -> bool {
        read::<u16>(self.0, global!(OFFSETS.sk_protocol)) == PROTOCOL_TCP
    }

    /// 0 = nobody asked for it yet.
    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        read(self.0, global!(OFFSETS.skc_cookie))
    }

    #[inline(always)]
    pub(crate) fn netns(self) -> Netns {
        Netns(read::<u64>(self.0, global!(OFFSETS.skc_net)) as *const c_void)
    }

    #[inline(always)]
    pub(crate) fn family(self) -> u16 {
        read(self.0, global!(OFFSETS.skc_family))
    }

    /// The local port as `skc_num` has it: 0 at LISTEN -> CLOSE of a listener that was not bound to a port.
    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        read(self.0, global!(OFFSETS.skc_num))
    }

    /// The local port as `inet_sport` has it: `inet_csk_listen_start` and `inet_put_port` leave it alone, so that it
    /// is there at every LISTEN -> CLOSE.
    #[inline(always)]
    pub(crate) fn source_port(self) -> u16 {
        u16::from_be(read(self.0, global!(OFFSETS.inet_sport)))
    }

    #[inline(always)]
    pub(crate) fn remote_port(self) -> u16 {
        u16::from_be(read(self.0, global!(OFFSETS.skc_dport)))
    }

    #[inline(always)]
    pub(crate) fn remote_address(self, family: u16) -> [u8; 16] {
        match family {
            FAMILY_V6 => read(self.0, global!(OFFSETS.skc_v6_daddr)),
            FAMILY_V4 => v4(read(self.0, global!(OFFSETS.skc_daddr))),
            _ => [0; 16],
        }
    }

    /// The beginning of it, read at once.
    #[inline(always)]
    pub(crate) fn beginning(self) -> Beginning {
        Beginning { sock: self.0, words: read(self.0, 0) }
    }
}

/// Bytes of a [`Beginning`]: more than reach to the last field that it is asked for.
const BEGINNING_BYTES: usize = 96;

/// The first bytes of a socket. One call of the helper costs as much as it to read one field.
pub(crate) struct Beginning {
    sock: *const c_void,
    words: [u64; BEGINNING_BYTES / 8],
}

impl Beginning {
    #[inline(always)]
    pub(crate) fn netns(&self) -> Netns {
        Netns(self.field::<u64>(global!(OFFSETS.skc_net)) as *const c_void)
    }

    #[inline(always)]
    pub(crate) fn family(&self) -> u16 {
        self.field(global!(OFFSETS.skc_family))
    }

    #[inline(always)]
    pub(crate) fn ipv6_only(&self) -> bool {
        let byte = self.field::<u8>(global!(OFFSETS.skc_ipv6only));
        (byte >> (global!(OFFSETS.skc_ipv6only_shift) & 7)) & 1 != 0
    }

    #[inline(always)]
    pub(crate) fn local_address(&self, family: u16) -> [u8; 16] {
        match family {
            FAMILY_V6 => {
                let words: [u32; 4] = self.field(global!(OFFSETS.skc_v6_rcv_saddr));
                let mut bytes = [0; 16];
                for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
                    place.copy_from_slice(&word.to_ne_bytes());
                }
                bytes
            }
            FAMILY_V4 => v4(self.field::<u32>(global!(OFFSETS.skc_rcv_saddr)).to_ne_bytes()),
            _ => [0; 16],
        }
    }

    /// A field that lies further behind is read alone. The verifier knows the offset, and keeps one of the two ways.
    #[inline(always)]
    fn field<T: Plain>(&self, offset: u32) -> T {
        let at = offset as usize;
        if at > BEGINNING_BYTES - size_of::<T>() || at % align_of::<T>() != 0 {
            return read(self.sock, offset);
        }
        // SAFETY: inside `words` and aligned, as just checked; any bytes are a `T`.
        unsafe { self.words.as_ptr().byte_add(at).cast::<T>().read() }
    }
}

impl Netns {
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        read(self.0, global!(OFFSETS.net_cookie))
    }

    #[inline(always)]
    pub(crate) fn inode(&self) -> u32 {
        read(self.0, global!(OFFSETS.net_inum))
    }
}

#[inline(always)]
fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

/// Types that any bytes are a value of.
trait Plain: Copy {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<T: Plain, const LEN: usize> Plain for [T; LEN] {}

#[inline(always)]
fn read<T: Plain>(base: *const c_void, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let from = base.wrapping_byte_add(offset as usize);
    // SAFETY: the helper checks `from` itself, and writes all of `value`: what it read, or zeroes where it could not.
    unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from) };
    // SAFETY: written above; any bytes are a `T`.
    unsafe { value.assume_init() }
}
