//! One thread each: a scheduler, a kernel, and the attempts between them.

pub mod epoll;
pub mod flight;
pub mod inbox;
pub mod kernel;
pub mod metrics;
pub mod once;
pub mod ring;
pub mod token;
pub mod turn;
