//! Load scenarios against the real daemon: its targets, and how it is watched from outside.
//!
//! Nothing here is engine code: what the engine did is read from the kernel, from the targets and from /metrics.

pub mod daemon;
pub mod kernel;
pub mod listeners;
pub mod passive;
pub mod steady;
pub mod targets;
