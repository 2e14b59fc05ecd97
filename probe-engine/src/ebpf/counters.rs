//! The arrays that the kernel program writes and the daemon reads in place: change counters, and what became of our own
//! connects.

use std::sync::atomic::{AtomicU64, Ordering};

use probe_ebpf::{COUNTERS_LEN, Connect};

/// The change counters: each moves at every event that opens or closes a listener of its slot, before the system call
/// that caused it returns.
#[derive(Debug)]
pub struct Counters {
    memory: Box<[AtomicU64]>,
}

impl Counters {
    /// Of memory of our own, that [`Counters::bump`] moves: simulations and tests.
    #[must_use]
    pub fn fake() -> Self {
        Self { memory: (0..COUNTERS_LEN).map(|_| AtomicU64::new(0)).collect() }
    }

    /// What the program has written. A slot beyond the array is taken modulo its length.
    #[inline]
    #[must_use]
    pub fn load(&self, slot: u32) -> u64 {
        self.memory[(slot % COUNTERS_LEN) as usize].load(Ordering::SeqCst)
    }

    /// A change, where no kernel makes them. Nothing for mapped memory.
    pub fn bump(&self, slot: u32) {
        self.memory[(slot % COUNTERS_LEN) as usize].fetch_add(1, Ordering::SeqCst);
    }
}

/// Our own connects, as the program saw them.
#[derive(Debug)]
pub struct Connects {}

impl Connects {
    /// One that never knows anything.
    #[must_use]
    pub fn fake() -> Self {
        Self {}
    }

    /// What is known of the connect of this socket; `None` = nothing (its event is missing, or its place was taken by a
    /// newer connect).
    #[must_use]
    pub fn read(&self, _socket_cookie: u64) -> Option<Connect> {
        None
    }
}
