//! The same pods as JSON and as YAML, in one file and in a file each.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::load::Load;

/// How the pods are written down.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    OneJson,
    EachJson,
    OneYaml,
    EachYaml,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::OneJson => "json_one_file",
            Form::EachJson => "json_a_file_each",
            Form::OneYaml => "yaml_one_file",
            Form::EachYaml => "yaml_a_file_each",
        }
    }

    /// Into a folder of their own.
    pub(super) fn write(self, load: &Load, folder: &Path) -> anyhow::Result<PathBuf> {
        let manifests = folder.join(self.name());
        fs::create_dir(&manifests)?;
        let (is_yaml, is_each) =
            (matches!(self, Form::OneYaml | Form::EachYaml), matches!(self, Form::EachJson | Form::EachYaml));
        let extension = if is_yaml { "yaml" } else { "json" };
        let mut all = String::new();
        for pod in 0..load.pods.len() {
            let manifest = load.manifest(pod);
            let text = if is_yaml { yaml(&manifest) } else { format!("{manifest}\n") };
            if is_each {
                fs::write(manifests.join(format!("pod-{pod:06}.{extension}")), text)?;
            } else {
                all.push_str(if all.is_empty() { "" } else { "---\n" });
                all.push_str(&text);
            }
        }
        if !is_each {
            fs::write(manifests.join(format!("pods.{extension}")), all)?;
        }
        Ok(manifests)
    }
}

/// Block style, as people and `kubectl` write it; texts as JSON has them, which YAML reads as such.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(&mut text, value, 0);
    text
}

fn write_yaml(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                text.push_str(&format!("{indent}{key}:"));
                write_nested(text, value, depth + 1);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut of_item = String::new();
                write_yaml(&mut of_item, item, depth + 1);
                // The dash stands in the place of the first line's indent.
                text.push_str(&format!("{indent}- {}", of_item.trim_start()));
            }
        }
        scalar => text.push_str(&format!("{indent}{scalar}\n")),
    }
}

fn write_nested(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(_) | Value::Array(_) => {
            text.push('\n');
            write_yaml(text, value, depth);
        }
        scalar => text.push_str(&format!(" {scalar}\n")),
    }
}

#[cfg(test)]
mod tests {
    use probe_engine::source::parse::{self, Interner, RuntimeKind, Strictness};

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_manifest_is_the_same_pod_in_yaml() {
        let load = Load::plan(Scenario::Http.mix(), 8, 10, Path::new("/nonexistent"));
        let options = parse::Options { strictness: Strictness::Run, runtime: Some(RuntimeKind::None) };
        let pod = |text: &str| {
            let interner = Interner::default();
            let parsed: Vec<_> = parse::pods("p", text.as_bytes(), &options, &interner).collect();
            parsed.into_iter().map(|parsed| parsed.expect("a pod").pod).collect::<Vec<_>>()
        };
        let manifest = load.manifest(1);
        let from_json = pod(&manifest.to_string());
        assert_eq!(from_json.len(), 1);
        assert_eq!(pod(&yaml(&manifest)), from_json);
    }
}
