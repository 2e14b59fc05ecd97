//! Compiles the control API's proto without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/probeengine/v1/control.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    // What `version` and GetInfo say of the build.
    println!("cargo::rustc-env=BUILD_TARGET={}", std::env::var("TARGET")?);
    Ok(())
}
