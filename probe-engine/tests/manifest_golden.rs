//! `validate` on whole files: for each file of tests/data/manifests, what it prints is what stands beside it in
//! `<file>.expected`. `BLESS=1` writes those files anew; read the difference before you commit it.

use std::fs;
use std::path::{Path, PathBuf};

use probe_engine::cli::validate::{self, Output, ValidateArgs};

fn data(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/manifests").join(directory)
}

/// What `validate FILE` prints, with the file's name in place of its path, and its exit code.
fn validate(file: &Path) -> (String, u8) {
    let args = ValidateArgs { files: vec![file.to_owned()], output: Output::Text };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = validate::run(&args, &mut out, &mut err).unwrap();
    out.extend_from_slice(&err);
    let name = file.file_name().unwrap().to_str().unwrap();
    let text = String::from_utf8(out).unwrap();
    (text.replace(file.to_str().unwrap(), name), code)
}

/// Checks every file of a directory; returns how many gave exit code 0 and 1.
fn check(directory: &str) -> (usize, usize) {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    let mut codes = (0, 0);
    for entry in fs::read_dir(data(directory)).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|e| e == "expected") {
            continue;
        }
        let (text, code) = validate(&file);
        match code {
            0 => codes.0 += 1,
            _ => codes.1 += 1,
        }
        let expected = PathBuf::from(format!("{}.expected", file.display()));
        if bless {
            fs::write(&expected, &text).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
    codes
}

#[test]
fn every_seed_manifest_gives_what_is_written_beside_it() {
    let (valid, invalid) = check("seed");
    assert_eq!(valid + invalid, 56);
}

#[test]
fn each_of_twenty_broken_manifests_gives_what_is_written_beside_it() {
    assert_eq!(check("broken"), (0, 20));
}

#[test]
fn good_manifests_give_no_error() {
    assert_eq!(check("good"), (5, 0));
}
