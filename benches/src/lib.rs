//! Load scenarios against the real daemon: its targets, and how it is watched from outside.
//!
//! What the engine did is read from the kernel, from the targets and from /metrics. Only [`ebpf`], which measures the
//! kernel program without a daemon, uses engine code: its loader.

pub mod daemon;
pub mod ebpf;
pub mod kernel;
pub mod listeners;
pub mod passive;
pub mod steady;
pub mod strangers;
pub mod targets;
