//! AddPod and RemovePod: pods that come and go through the API.

use tonic::Status;

use super::serving::encoded_len;
use super::{Service, api_error, control_error, namespace_or_default};
use crate::api::{convert, v1};
use crate::limits;
use crate::source::parse::{Problem, Severity};

/// See the proto.
pub(super) async fn add(service: &Service, request: v1::AddPodRequest) -> Result<v1::AddPodResponse, Status> {
    let source = service.backend.pods.clone();
    // Reading a mebibyte takes longer than a thread of the control runtime may be held up.
    let read = tokio::task::spawn_blocking(move || source.read(&request.manifest));
    let read = read.await.map_err(|error| Status::internal(format!("reading the manifest: {error}")))?;
    let (pod, warnings) = read.map_err(|unreadable| invalid_manifest(&unreadable.problems))?;
    let record = service.backend.pods.add(pod).await.map_err(|error| api_error(&error))?;
    Ok(v1::AddPodResponse {
        pod: Some(convert::pod(&record, service.passive().as_deref())),
        warnings: warnings.iter().map(told).collect(),
    })
}

/// See the proto.
pub(super) async fn remove(service: &Service, request: v1::RemovePodRequest) -> Result<v1::RemovePodResponse, Status> {
    let v1::RemovePodRequest { namespace, pod, grace_period_seconds } = request;
    let namespace = namespace_or_default(namespace);
    let ended = service.backend.control.end_pod(&namespace, &pod, grace_period_seconds).await;
    ended.map_err(|error| control_error(&error))?;
    Ok(v1::RemovePodResponse {})
}

/// The last line of errors that are not all told, in a trailer.
const COUNT_BYTES_MAX: usize = 64;

/// All errors, one a line, as far as the trailer of an answer may hold them.
fn invalid_manifest(problems: &[Problem]) -> Status {
    let mut text = String::new();
    let mut room = limits::API_ERROR_BYTES_MAX - COUNT_BYTES_MAX;
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    let mut left_out = 0;
    for problem in errors {
        let line = match problem.line {
            0 => told(problem),
            line => format!("line {line}: {}", told(problem)),
        };
        let bytes = encoded_len(&line) + encoded_len("\n");
        if left_out > 0 || bytes > room {
            left_out += 1;
            continue;
        }
        room -= bytes;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&line);
    }
    if left_out > 0 {
        text.push_str(&format!("\nand {left_out} more"));
    }
    Status::invalid_argument(text)
}

fn told(problem: &Problem) -> String {
    match &*problem.path {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(severity: Severity, path: &str, message: &str, line: u32) -> Problem {
        Problem { severity, path: path.to_owned(), message: message.to_owned(), file: "manifest".into(), line }
    }

    #[test]
    fn every_error_of_a_manifest_is_told_with_its_line_and_path() {
        let status = invalid_manifest(&[
            problem(Severity::Error, "spec.containers", "Required value", 3),
            problem(Severity::Warning, "spec.x", "unknown field", 4),
            problem(Severity::Error, "", "is empty", 0),
        ]);
        assert_eq!(status.message(), "line 3: spec.containers: Required value\nis empty");
    }

    #[test]
    fn what_has_no_room_in_the_trailer_is_counted() {
        let many: Vec<Problem> =
            (1..=1_000).map(|line| problem(Severity::Error, "spec.x", "Forbidden: ä", line)).collect();
        let text = invalid_manifest(&many).message().to_owned();
        let told = text.lines().filter(|line| line.starts_with("line ")).count();
        assert!(told > 50 && text.ends_with(&format!("and {} more", 1_000 - told)), "{told}");
        assert!(encoded_len(&text) <= limits::API_ERROR_BYTES_MAX);
    }
}
