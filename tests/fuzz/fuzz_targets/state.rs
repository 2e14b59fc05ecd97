//! `cargo xtask fuzz state`
#![no_main]

probe_fuzz::target!(probe_tests::fuzz::STATE);
