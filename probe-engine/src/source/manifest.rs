//! manifest

use std::io;
use std::path::{Path, PathBuf};

/// The manifest files of a directory, sorted by name: `*.yaml`, `*.yml` and `*.json`, not those of directories
/// inside it, nor hidden and temporary ones (`.x`, `#x#`, `x~`).
///
/// # Errors
/// What reading the directory gives.
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let extension = path.extension().and_then(|extension| extension.to_str());
    name.is_some_and(|name| !name.starts_with(['.', '#']))
        && matches!(extension, Some("yaml" | "yml" | "json"))
}
