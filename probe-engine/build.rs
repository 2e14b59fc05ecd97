//! Compiles the control API's proto without `protoc`, keeps what it says for reflection, and tells the code what it is built from.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message;
use sha2::{Digest, Sha256};

/// The kernel programs that `probe_ebpf` embeds.
const OBJECT: &str = "../probe-ebpf/prebuilt/probe-ebpf.o";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/probeengine/v1/control.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("control.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    // What `version` and GetInfo say of the build.
    println!("cargo::rustc-env=BUILD_TARGET={}", std::env::var("TARGET")?);
    println!("cargo::rerun-if-changed={OBJECT}");
    println!("cargo::rustc-env=EBPF_OBJECT_SHA256={:x}", Sha256::digest(std::fs::read(OBJECT)?));
    Ok(())
}
