//! What the scenarios do. Each is a function of the run's options that gives a [`crate::report::Report`], and runs in a
//! process of its own, which it moves into a network namespace of its own first.

pub mod steady;
