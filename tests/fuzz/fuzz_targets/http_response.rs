//! `cargo xtask fuzz http_response`
#![no_main]

probe_fuzz::target!(probe_tests::fuzz::HTTP_RESPONSE);
