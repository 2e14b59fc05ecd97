//! `probe-engine add -f FILE..|-`: pods that stay until they are deleted, or the daemon ends.

use std::path::PathBuf;

use tonic::Code;

use super::client::{self, Link, error_of};
use super::output::DataFormat;
use super::validate::{files, origin, read};
use super::{CliError, Exit, Globals, escape, output, pod_list};
use crate::api::v1;
use crate::limits;
use crate::source::parse;

/// Arguments of `add`.
///
/// Adds each Pod of the manifests to the running daemon. It stays until it is deleted or the daemon ends; a pod that is to
/// outlive the daemon belongs into a manifest that it reads.
#[derive(Debug, clap::Args)]
pub struct AddArgs {
    /// Files, directories (their *.yaml, *.yml and *.json files), or - for standard input (repeatable)
    #[arg(short, long, value_name = "FILE|-", required = true)]
    filename: Vec<PathBuf>,
    /// The pods as the daemon has them, instead of a line for each
    #[arg(short, long, value_enum)]
    output: Option<DataFormat>,
}

/// Adds what can be added, and tells what is wrong with the rest.
pub fn run(args: &AddArgs, globals: &Globals) -> Result<Exit, CliError> {
    client::block_on(async {
        let link = Link::open(globals).await?;
        let mut adding = Adding { link, output: args.output, pods: Vec::new(), problems: 0 };
        for path in &args.filename {
            let mut unreadable = Vec::new();
            for file in files(path, &mut unreadable) {
                match read(&file) {
                    Ok(bytes) => adding.file(&origin(&file), &bytes).await?,
                    Err(error) => adding.problem(&origin(&file), 0, &format!("cannot be read: {error}")),
                }
            }
            unreadable.iter().for_each(|problem| adding.problem(&problem.file, problem.line, &problem.message));
        }
        adding.finish()
    })
}

struct Adding {
    link: Link,
    output: Option<DataFormat>,
    pods: Vec<v1::Pod>,
    problems: usize,
}

impl Adding {
    async fn file(&mut self, origin: &str, bytes: &[u8]) -> Result<(), CliError> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            self.problem(origin, 0, "not UTF-8 text");
            return Ok(());
        };
        let mut is_empty = true;
        for (line, document) in documents(text) {
            if parse::documents(origin, document.as_bytes()).next().is_some() {
                is_empty = false;
                self.document(origin, line, document).await?;
            }
        }
        if is_empty {
            self.problem(origin, 0, "holds no pod");
        }
        Ok(())
    }

    /// One that begins on this line of its file, from 1.
    async fn document(&mut self, origin: &str, line: usize, document: &str) -> Result<(), CliError> {
        if document.len() > limits::API_MANIFEST_BYTES_MAX {
            let (len, max) = (document.len(), limits::API_MANIFEST_BYTES_MAX);
            self.problem(origin, number(line), &format!("{len} bytes; at most {max} are taken"));
            return Ok(());
        }
        let added = self.link.client.add_pod(v1::AddPodRequest { manifest: placed(document, line) }).await;
        let added = match added {
            Ok(added) => added.into_inner(),
            Err(status) => {
                match status.code() {
                    Code::InvalidArgument => {
                        status.message().lines().for_each(|problem| {
                            let (line, text) = located(problem, line);
                            self.problem(origin, line, text);
                        });
                    }
                    Code::AlreadyExists | Code::ResourceExhausted => {
                        self.problem(origin, number(line), status.message());
                    }
                    _ => return Err(error_of(&status)),
                }
                return Ok(());
            }
        };
        for warning in &added.warnings {
            eprintln!("warning: {}: {}", escape::line(origin), escape::line(warning));
        }
        let pod = added.pod.ok_or_else(|| CliError::Unknown("the daemon's answer holds no pod".to_owned()))?;
        if self.output.is_none() {
            output::print(&format!("pod/{} added\n", escape::line(&pod.name)))?;
        }
        self.pods.push(pod);
        Ok(())
    }

    fn problem(&mut self, origin: &str, line: u32, text: &str) {
        self.problems += 1;
        let place = if line == 0 { String::new() } else { format!(":{line}") };
        eprintln!("error: {}{place}: {}", escape::line(origin), escape::line(text));
    }

    fn finish(self) -> Result<Exit, CliError> {
        let node = &self.link.info.node_name;
        match (self.output, &*self.pods) {
            (Some(format), [pod]) => output::print_data(&pod_list::pod(pod, node), format)?,
            (Some(format), pods) => output::print_data(&pod_list::list(pods, node), format)?,
            (None, _) => {}
        }
        Ok(if self.problems == 0 { Exit::Success } else { Exit::Failure })
    }
}

/// The documents of a text, each with its first line, from 1. `---` at the beginning of a line stands nowhere within one (YAML
/// 1.2, 9.1.2).
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut begin, mut begin_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let is_marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if is_marker && at > begin {
            documents.push((begin_line, &text[begin..at]));
            (begin, begin_line) = (at, index + 1);
        }
        at += line.len();
    }
    documents.push((begin_line, &text[begin..]));
    documents
}

/// A document on the lines that it has in its file, so that the daemon names those; where there is no room for that, on its own.
fn placed(document: &str, line: usize) -> String {
    let above = line.saturating_sub(1);
    if above + document.len() > limits::API_MANIFEST_BYTES_MAX {
        return document.to_owned();
    }
    "\n".repeat(above) + document
}

/// The line that a problem names, else that of its document.
fn located(problem: &str, line: usize) -> (u32, &str) {
    let named = problem.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let named = named.and_then(|(line, text)| Some((line.parse().ok()?, text)));
    named.unwrap_or((number(line), problem))
}

fn number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_taken_apart_where_its_documents_begin() {
        assert_eq!(documents("a: 1\n"), [(1, "a: 1\n")]);
        assert_eq!(
            documents("---\na: 1\n--- # two\nb: |\n  ---\n---x: 1\n"),
            [(1, "---\na: 1\n"), (3, "--- # two\nb: |\n  ---\n---x: 1\n")]
        );
        assert_eq!(documents("# only\n---"), [(1, "# only\n"), (2, "---")]);
        assert_eq!(documents(""), [(1, "")]);
    }

    #[test]
    fn a_document_keeps_the_lines_of_its_file() {
        assert_eq!(placed("a: 1\n", 3), "\n\na: 1\n");
        let large = "x".repeat(limits::API_MANIFEST_BYTES_MAX);
        assert_eq!(placed(&large, 3), large);
        assert_eq!(located("line 7: spec: Required value", 3), (7, "spec: Required value"));
        assert_eq!(located("is empty", 3), (3, "is empty"));
        assert_eq!(located("line of thought: x", 3), (3, "line of thought: x"));
    }
}
