//! What the kernel programs and the daemon agree on. The programs themselves are not written yet (the daemon
//! makes a real connection for every tcpSocket attempt); this holds the part of the contract that does not
//! depend on them: where the change counters are and which one belongs to a listener.
//!
//! Invariant: both sides compile this file, so a slot means the same port in the kernel and in the daemon.
#![no_std]
#![forbid(unsafe_code)]

/// Change counters in the memory-mapped array; a power of two.
pub const COUNTERS_LEN: u32 = 65_536;

/// The counter of a listening port in a network namespace. Two ports may share one: that costs a real connect
/// too many, never one too few.
#[must_use]
pub const fn counter_slot(netns_cookie: u64, port: u16) -> u32 {
    // A multiply and a shift (Fibonacci hashing): the verifier knows both, and neighbouring ports spread.
    let mixed =
        (netns_cookie ^ ((port as u64) << 48) ^ port as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 48) as u32 % COUNTERS_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_inside_the_array() {
        for port in 0..=u16::MAX {
            assert!(counter_slot(u64::MAX, port) < COUNTERS_LEN);
        }
    }

    #[test]
    fn ports_of_one_namespace_spread_over_the_array() {
        extern crate std;
        let slots: std::collections::BTreeSet<u32> = (1..=u16::MAX)
            .map(|port| counter_slot(4_026, port))
            .collect();
        assert!(
            slots.len() > 40_000,
            "{} slots for 65,535 ports",
            slots.len()
        );
    }
}
