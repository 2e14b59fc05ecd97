//! Socket options that no safe wrapper has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// setsockopt(2) with these bytes.
pub fn set_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is `len` bytes that live through the call, and the kernel only reads them; none of the options used
    // here holds a pointer.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Of a listener: connections that wait to be accepted, and the backlog (`tcpi_unacked`, `tcpi_sacked` of TCP_INFO).
pub fn accept_queue(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    let mut info = [0_u32; 64];
    let mut len = size_of_val(&info) as libc::socklen_t;
    let name = libc::TCP_INFO;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `info` has room for `len` bytes and both live through the call; the kernel writes at most `len` of them.
    let result = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, name, info.as_mut_ptr().cast(), &mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // struct tcp_info: 8 bytes, then u32: rto, ato, snd_mss, rcv_mss, unacked, sacked.
    Ok((info[6], info[7]))
}
