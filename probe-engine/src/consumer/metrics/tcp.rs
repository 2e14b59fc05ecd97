//! The control API over TCP: who was let in, and how its certificates stand.

use std::sync::atomic::{AtomicU64, Ordering};

use super::families;
use super::text::{Labels, Text};

/// What the listener counts.
#[derive(Debug, Default)]
pub struct TcpStats {
    /// Handshakes after which the client was let in.
    pub accepted: AtomicU64,
    /// Handshakes that failed: no certificate, one of another CA, no TLS.
    pub refused: AtomicU64,
    /// Handshakes that took too long.
    pub timed_out: AtomicU64,
    /// Handshakes that were ended for newer ones.
    pub displaced: AtomicU64,
    /// Clients with a good certificate for which there was no place.
    pub full: AtomicU64,
    /// When the daemon's certificate ends, in seconds since 1970; 0 = before that, or not known.
    pub certificate_expires_at_s: AtomicU64,
    /// Times that files were taken into use, the first included.
    pub certificate_loads: AtomicU64,
    /// 1 while the files are not what is in use, because they cannot be used.
    pub certificate_load_failed: AtomicU64,
}

pub(super) fn write(text: &mut Text, stats: &TcpStats) {
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let mut handshakes = text.family(&families::API_HANDSHAKES_TOTAL);
    let results = [
        ("accepted", &stats.accepted),
        ("displaced", &stats.displaced),
        ("full", &stats.full),
        ("refused", &stats.refused),
        ("timeout", &stats.timed_out),
    ];
    for (result, count) in results {
        handshakes.value(&Labels::of(&[("result", result)]), load(count));
    }
    let mut value = |spec, number| text.family(spec).value(&Labels::none(), load(number));
    value(&families::API_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS, &stats.certificate_expires_at_s);
    value(&families::API_CERTIFICATE_LOADS_TOTAL, &stats.certificate_loads);
    value(&families::API_CERTIFICATE_LOAD_FAILED, &stats.certificate_load_failed);
}
