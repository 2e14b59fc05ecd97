//! What the suites of `tests/` share: the reference model, the simulation, target servers, what is fuzzed, and how a test skips.

#[cfg(feature = "engine")]
pub mod asleep;
#[cfg(feature = "engine")]
pub mod certificates;
#[cfg(feature = "engine")]
pub mod daemon;
#[cfg(feature = "engine")]
pub mod fuzz;
#[cfg(feature = "engine")]
pub mod kubelet;
pub mod model;
#[cfg(feature = "engine")]
pub mod netns;
#[cfg(feature = "engine")]
pub mod passive;
#[cfg(feature = "engine")]
pub mod simulation;
#[cfg(feature = "engine")]
pub mod skip;
#[cfg(feature = "engine")]
pub mod terminal;
