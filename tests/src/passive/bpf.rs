//! The smallest kernel programs there are, for what a test puts in the way: each returns a constant.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

/// A program type, how it attaches, and what it returns.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    program: u32,
    attach: u32,
    returns: i32,
}

/// XDP_DROP at a link: `BPF_PROG_TYPE_XDP`, `BPF_XDP`.
pub const XDP_DROP: Kind = Kind { program: 6, attach: 37, returns: 1 };
/// At a link's tc hook (TCX): `BPF_PROG_TYPE_SCHED_CLS`, `BPF_TCX_INGRESS`; `TC_ACT_SHOT`.
pub const TCX_DROP: Kind = Kind { program: 3, attach: 46, returns: 2 };
/// At a cgroup: `BPF_PROG_TYPE_CGROUP_SKB`, `BPF_CGROUP_INET_INGRESS`; 0 drops.
pub const CGROUP_DROP: Kind = Kind { program: 8, attach: 0, returns: 0 };
/// At a network namespace: `BPF_PROG_TYPE_SK_LOOKUP`, `BPF_SK_LOOKUP`; SK_PASS without a choice.
pub const SK_LOOKUP_PASS: Kind = Kind { program: 30, attach: 36, returns: 1 };

const PROG_LOAD: c_long = 5;
const LINK_CREATE: c_long = 28;

/// Attached as long as it lives.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// Loads it and attaches it: `target` is a link's index, or the descriptor of a cgroup or network namespace.
///
/// # Errors
/// Of bpf(2): EPERM without CAP_BPF, CAP_NET_ADMIN; EINVAL where this kernel has no such hook.
pub fn attach(kind: Kind, target: u32) -> io::Result<Attached> {
    // r0 = returns; exit
    let code: [u64; 2] = [0xB7 | u64::from(kind.returns.cast_unsigned()) << 32, 0x95];
    let license = *b"GPL\0";
    let mut load = [0_u8; 72];
    put(&mut load, 0, &kind.program.to_ne_bytes());
    put(&mut load, 4, &2_u32.to_ne_bytes());
    put(&mut load, 8, &(code.as_ptr() as u64).to_ne_bytes());
    put(&mut load, 16, &(license.as_ptr() as u64).to_ne_bytes());
    // expected_attach_type
    put(&mut load, 68, &kind.attach.to_ne_bytes());
    let program = bpf(PROG_LOAD, &load)?;
    let mut link = [0_u8; 16];
    put(&mut link, 0, &program.as_raw_fd().to_ne_bytes());
    put(&mut link, 4, &target.to_ne_bytes());
    put(&mut link, 8, &kind.attach.to_ne_bytes());
    Ok(Attached { _link: bpf(LINK_CREATE, &link)? })
}

/// The descriptor as a target.
pub fn target_of(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn put(attributes: &mut [u8], at: usize, bytes: &[u8]) {
    attributes[at..at + bytes.len()].copy_from_slice(bytes);
}

fn bpf(command: c_long, attributes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a `union bpf_attr` of that length, which the kernel reads only; what it points to (the code and
    // the license) lives in the caller's frame. Both commands give a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
