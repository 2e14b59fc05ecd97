//! What the suites of `tests/` share: the reference model, the simulation, target servers, and how a test skips.

pub mod model;
#[cfg(feature = "engine")]
pub mod skip;
