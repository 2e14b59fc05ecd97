//! Load scenarios against the real daemon: its targets, and how it is watched from outside.
//!
//! What the engine did is read from the kernel, from the targets and from /metrics. Only [`ebpf`], which measures the
//! kernel program without a daemon, uses engine code: its loader. [`floor`], [`task_per_probe`] and [`haproxy`] are what
//! its cost is compared with.

pub mod aim;
mod any_certificate;
pub mod daemon;
pub mod ebpf;
pub mod floor;
pub mod haproxy;
pub mod kernel;
pub mod listeners;
pub mod passive;
pub mod steady;
pub mod strangers;
pub mod targets;
pub mod task_per_probe;
pub mod usage;
