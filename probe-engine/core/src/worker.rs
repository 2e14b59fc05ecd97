//! One probe's state machine.

/// Tries of one call of the prober, all in all (`prober.go`, `maxProbeRetries`).
pub const ATTEMPTS_MAX: u8 = 3;
