//! What is asked of the C library's malloc. A named unsafe door.

#![expect(unsafe_code, reason = "mallopt(3) has no safe form; it proves its conditions")]

/// From this size on a table has pages of its own. It is glibc's own first value, which grows to 32 MiB with the largest
/// buffer that was ever given back (a manifest file's text): tables then grow inside a thread's heap, where each copy leaves
/// a hole of half its size. A mapping grows without a copy, and goes back to the kernel whole.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 128 * 1024;

/// Keeps large tables out of the heaps for good. To be called before any other thread is started; false = refused, which
/// costs memory and nothing else.
#[cfg(target_env = "gnu")]
#[must_use]
pub fn map_large_tables() -> bool {
    // SAFETY: mallopt reads its two numbers and takes the allocator's lock; no memory that was handed out changes.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) == 1 }
}

/// Another C library has nothing to be asked for.
#[cfg(not(target_env = "gnu"))]
#[must_use]
pub fn map_large_tables() -> bool {
    true
}
