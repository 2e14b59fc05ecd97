//! The pure core: what a kubelet decides about probes, as data in and actions out.
//!
//! Nothing here reads a clock, touches a descriptor or writes a log: time comes in as `now`, randomness as a
//! seed, work goes out as [`action::Action`]. So a run is a function of its inputs, and a test can replay it.
//!
//! Sources of the rules: kubernetes `pkg/kubelet/prober` (workers, thresholds), `pkg/kubelet/status/generate.go`
//! (conditions), `pkg/kubelet/kuberuntime` (restart), `client-go/util/flowcontrol/backoff.go` (back-off).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod time;

pub mod id;
pub mod outcome;
pub mod spec;
pub mod status;

pub mod schedule;
pub mod wheel;
pub mod worker;

pub mod container;
pub mod scheduler;

pub mod action;

pub mod backoff;
pub mod order;
pub mod pod;
pub mod restart;

#[cfg(test)]
mod fixture;
