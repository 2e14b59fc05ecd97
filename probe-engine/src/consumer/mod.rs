//! What is done with results: containers restarted, conditions and events made, metrics served.

pub mod board;
pub mod events;
pub mod lifecycle;
pub mod metrics;
pub mod otlp;
pub mod overview;
mod process;
pub mod state;
pub mod status;
