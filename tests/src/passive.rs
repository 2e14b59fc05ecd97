//! Passive answers on the real kernel: one shard, one watch and one sweep, driven on one thread by the test's clock, against
//! listeners that the test opens, closes, fills and moves.
//!
//! **Invariant:** what judges the engine (the oracle's plain connect, and the model of the listeners) shares no code with it.

pub mod bpf;
pub mod feed;
pub mod impatient;
pub mod listener;
pub mod oracle;
pub mod pod;
pub mod rig;
pub mod socket;
pub mod steps;
pub mod stray;
pub mod world;
