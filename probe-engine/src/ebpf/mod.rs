//! Answers to tcpSocket probes from kernel state.
//!
//! ```text
//! kernel program --counters, connects (mapped)--> shard: Target::held, a few atomic loads
//!      |                                            ^ |
//!      +--ring buffer--> watch <--dumps, routes-- sweep
//!                          |  ^
//!                          |  +--- Target: voids, cuts ---> the same Target that the shard reads
//!                          +------ Group: looks, settled counters ---> of many targets at once
//! ```
//!
//! A shard that connected for real asks [`target::Target::grant`] for a lease; while it stands, an attempt is a few
//! atomic loads. `watch` (one thread) reads the ring buffer, keeps the listener table and publishes looks at the
//! listeners that probes depend on; `sweep` (another) makes the netlink calls that take milliseconds.
//!
//! **Invariant:** passive answers are only ever successes, and what a lease rests on is in mapped memory: it never waits
//! for the ring buffer. **Invariant:** without any of this the engine gives the same verdicts.

pub mod answer;
pub mod counters;
pub mod events;
pub mod feature;
pub mod group;
pub mod listen_drops;
pub mod listeners;
pub mod load;
mod netlink;
pub mod netns;
pub mod netstat;
pub mod offsets;
pub mod passive;
pub mod path;
mod prog_query;
pub mod settings;
pub mod sock_diag;
pub mod stats;
pub mod sweep;
pub mod target;
pub mod thread;
pub mod watch;

pub use answer::{Answer, Why};
pub use settings::{EbpfChoice, PassiveSettings};
pub use target::Target;
