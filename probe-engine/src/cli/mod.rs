//! cli
pub mod guardian;
