//! What the kernel programs and the daemon agree on. The programs themselves are not written yet (the daemon
//! makes a real connection for every tcpSocket attempt); this holds the part of the contract that does not
//! depend on them: where the change counters are and which one belongs to a listener.
//!
//! Invariant: both sides compile this file, so a slot means the same port in the kernel and in the daemon.
#![no_std]
#![forbid(unsafe_code)]

/// Change counters in the memory-mapped array; a power of two.
pub const COUNTERS_LEN: u32 = 65_536;

/// The counter of a listening port in a network namespace. Ports of two namespaces may share one: that costs a real
/// connect too many, never one too few.
#[must_use]
pub const fn counter_slot(netns_cookie: u64, port: u16) -> u32 {
    // The namespace is hashed (a multiply and a shift: the verifier knows both), the port only added: no two ports
    // of one namespace share a counter.
    let namespace = (netns_cookie.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u32;
    (namespace + port as u32) % COUNTERS_LEN
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
    fn ports_of_one_namespace_have_counters_of_their_own() {
        extern crate std;
        let slots: std::collections::BTreeSet<u32> = (1..=u16::MAX).map(|port| counter_slot(4_026, port)).collect();
        assert!(slots.len() > 40_000, "{} slots for 65,535 ports", slots.len());
    }
}
