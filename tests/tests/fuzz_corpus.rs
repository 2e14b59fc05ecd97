//! Every input of the kept corpora through the function that is fuzzed, on stable Rust. `cargo xtask fuzz` makes new ones.
#![cfg(feature = "engine")]

use std::fs;
use std::path::{Path, PathBuf};

use probe_tests::fuzz::{self, Target, memory::Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Files of one corpus. More: the set has not been minimised.
const FILES_MAX: usize = 500;

/// Bytes of one corpus.
const BYTES_MAX: usize = 1024 * 1024;

/// All inputs of a target's corpus.
fn inputs(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fuzz").join(target.name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    assert!(!files.is_empty() && files.len() <= FILES_MAX, "{} files in {}", files.len(), folder.display());
    let read = |file: PathBuf| {
        let input = fs::read(&file).expect("a readable file");
        (file, input)
    };
    let inputs: Vec<_> = files.into_iter().map(read).collect();
    let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes in {}", folder.display());
    inputs
}

fn every_input_keeps_every_promise(target: &Target) {
    for (file, input) in inputs(target) {
        let done = std::panic::catch_unwind(|| target.run(&input));
        assert!(done.is_ok(), "{} breaks a promise", file.display());
    }
}

#[test]
fn manifest() {
    every_input_keeps_every_promise(&fuzz::MANIFEST);
}

#[test]
fn http_response() {
    every_input_keeps_every_promise(&fuzz::HTTP_RESPONSE);
}

#[test]
fn state() {
    every_input_keeps_every_promise(&fuzz::STATE);
    for (_, input) in inputs(&fuzz::STATE) {
        let directory = tempfile::tempdir().expect("a directory");
        fuzz::state::check_file(&input, directory.path());
    }
}

#[test]
fn every_target_has_a_folder_and_a_file() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    for target in fuzz::TARGETS {
        assert!(tests.join("data/fuzz").join(target.name).is_dir(), "{}", target.name);
        assert!(tests.join("fuzz/fuzz_targets").join(target.name).with_extension("rs").is_file(), "{}", target.name);
    }
}
