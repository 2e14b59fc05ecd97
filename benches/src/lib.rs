//! Load scenarios against the real daemon: its targets, and how it is watched from outside.
//!
//! What the engine did is read from the kernel, from the targets, from its log and from its pages. Only [`ebpf`], which
//! measures the kernel program without a daemon, uses engine code: its loader. [`floor`], [`task_per_probe`] and [`haproxy`]
//! are what its cost is compared with.
//!
//! ```text
//! suite > scenarios::* : netns, load > targets, daemon > window (flips) > truth > beside > report > table, compare
//! ```

pub mod against;
pub mod aim;
mod any_certificate;
pub mod beside;
pub mod compare;
pub mod daemon;
pub mod due;
pub mod ebpf;
pub mod flips;
pub mod floor;
pub mod handler;
pub mod haproxy;
pub mod kernel;
pub mod latency;
pub mod listeners;
pub mod load;
pub mod netns;
pub mod options;
pub mod passive;
pub mod quantile;
pub mod repeat;
pub mod report;
pub mod scenario;
pub mod scenarios;
pub mod strangers;
pub mod suite;
pub mod table;
pub mod targets;
pub mod task_per_probe;
pub mod truth;
pub mod usage;
pub mod window;
