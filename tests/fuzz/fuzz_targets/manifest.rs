//! `cargo xtask fuzz manifest`
#![no_main]

probe_fuzz::target!(probe_tests::fuzz::MANIFEST);
