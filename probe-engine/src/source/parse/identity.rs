//! What stays the same over restarts: a UID for pods that have none, and the hash of a container's definition.
//! Both are made of the defaulted Kubernetes objects as JSON, whose field order is fixed.

use std::io;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// UUID-shaped (version 8, RFC 9562), from SHA-256 of namespace, name and spec.
pub(super) fn derived_uid(namespace: &str, name: &str, spec: &PodSpec) -> String {
    let mut sha = Sha256::new();
    for part in [namespace, name] {
        sha.update(part);
        sha.update([0]);
    }
    write_json(spec, |bytes| sha.update(bytes));
    let digest = sha.finalize();
    let mut id: [u8; 16] = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].map(hex).join("-")
}

/// FNV-1a, 64 bits, of the container's definition.
pub(super) fn container_hash(container: &Container) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET_BASIS;
    write_json(container, |bytes| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    });
    hash
}

fn write_json(value: &impl Serialize, sink: impl FnMut(&[u8])) {
    let mut writer = io::BufWriter::with_capacity(1024, Sink(sink));
    // The sink takes everything, and these types have no maps with keys that JSON cannot hold.
    let written = serde_json::to_writer(&mut writer, value);
    debug_assert!(written.is_ok(), "{written:?}");
    let flushed = io::Write::flush(&mut writer);
    debug_assert!(flushed.is_ok(), "{flushed:?}");
}

struct Sink<F>(F);

impl<F: FnMut(&[u8])> io::Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
