//! How much of the heap a function takes: an allocator that counts, thread by thread, and hands on to the system's.
//!
//! A binary that measures declares it: `#[global_allocator] static ALLOCATOR: Counting = Counting;`. In others every
//! peak is 0.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// See the module.
pub struct Counting;

/// Bytes that a check may hold at once.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Whatever the input.
    pub base: usize,
    /// More for each byte of the input.
    pub per_byte: usize,
}

impl Bound {
    /// For an input of this size.
    #[must_use]
    pub const fn bytes_max(self, input_len: usize) -> usize {
        self.base + self.per_byte * input_len
    }
}

/// The most that `run` held at once of what it allocated on this thread, in bytes.
pub fn peak(run: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    run();
    usize::try_from(PEAK.get() - before).unwrap_or_default()
}

fn count(change: isize) {
    // A thread that is ending has no counters any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to `System` as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there at once.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, handed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
