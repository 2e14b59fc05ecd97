//! probe-engine: Kubernetes' probes for nodes with very many of them.
//!
//! The modules stand in the order of the flow, which has one direction:
//!
//! ```text
//! source -PodUpdate-> manager -Command-> shard[ wheel > attempt > Outcome > Worker ] -Update-> results -> consumer
//!   ^                                                                                            |
//!   +---- the world (container started, exited, new ContainerId) and API writes come back as a source ----+
//! ```
//!
//! `probe_core` holds every decision; what is here carries them out. docs/ARCHITECTURE.md is the one-page map.
#![deny(unsafe_code)]

pub use probe_core as core;

pub mod clock;
pub mod config;
pub mod limits;
pub mod malloc;
mod shutdown;

pub mod source;

pub mod manager;

pub mod ebpf;
pub mod prober;
pub mod shard;

pub mod results;
pub mod state;

pub mod consumer;
pub mod runtime;

pub mod api;

pub mod cli;
pub mod engine;

/// How a test says that it could not run; the suites of `tests/` share it.
#[cfg(test)]
#[path = "../../tests/src/skip.rs"]
pub mod skip;
