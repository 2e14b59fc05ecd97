//! The one bpf(2) command that aya does not offer: which sk_lookup programs a network namespace has. A named unsafe door.

#![expect(unsafe_code, reason = "BPF_PROG_QUERY has no safe form; it proves its conditions")]

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// `enum bpf_cmd`
const BPF_PROG_QUERY: libc::c_long = 16;
/// `enum bpf_attach_type`
const BPF_SK_LOOKUP: u32 = 36;

/// The `query` member of `union bpf_attr`, as long as it was when sk_lookup came (Linux 5.9); the kernel takes what a
/// shorter one leaves out as zero (`bpf_check_uarg_tail_zero`).
#[repr(C)]
#[derive(Debug, Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

const _: () = assert!(size_of::<QueryAttr>() == 32);

/// How many sk_lookup programs are attached to the namespace that this descriptor opens.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN (`bpf_prog_query`); EINVAL before Linux 5.9.
pub(crate) fn sk_lookup_programs(netns: &impl AsFd) -> nix::Result<u32> {
    let mut attr = QueryAttr {
        target_fd: u32::try_from(netns.as_fd().as_raw_fd()).map_err(|_| Errno::EBADF)?,
        attach_type: BPF_SK_LOOKUP,
        ..QueryAttr::default()
    };
    // SAFETY: bpf(2) reads and writes at most `size` bytes at its second argument; that is `attr`, exclusively borrowed for
    // the call, of exactly that size, and any bytes are valid in it (integers only). BPF_PROG_QUERY follows one pointer,
    // `prog_ids`, and only where the caller has room for ids: it is null and `prog_cnt` is 0 (`netns_bpf_prog_query` then
    // only writes the count into `attr`). The descriptor is borrowed, so it is open during the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<QueryAttr>()) };
    Errno::result(result).map(|_| attr.prog_cnt)
}
