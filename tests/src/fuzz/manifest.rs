//! Manifests: any bytes to pods, as `run` and as `validate` read them.

use probe_core::id::ProbeType;
use probe_core::spec::{Handler, Pod, ProbeSpec};
use probe_engine::limits::{PROBLEM_MESSAGE_BYTES_MAX, PROBLEM_PATH_BYTES_MAX};
use probe_engine::prober::http::Plan;
use probe_engine::source::parse::{self, Interner, Options, Parsed, Problem, RuntimeKind, Severity, Strictness};

use super::http_response::is_one_request;
use super::memory::Bound;

/// What anchors may stand for, as a tree and as Kubernetes' objects; beyond that so much for each byte of text.
pub const MEMORY: Bound = Bound { base: 64 * 1024 * 1024, per_byte: 4096 };

const FILE: &str = "fuzz.yaml";

/// What the daemon reads manifests for.
const RUN: [Options; 2] = [
    Options { strictness: Strictness::Run, runtime: Some(RuntimeKind::Process) },
    Options { strictness: Strictness::Run, runtime: Some(RuntimeKind::None) },
];

type Read = Result<Parsed, Vec<Problem>>;

/// See the module.
///
/// # Panics
/// Where a text means two things, a problem does not say where it is, or a pod that was taken cannot be used.
pub fn check(input: &[u8]) {
    let lines = 1 + input.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + line_separators(input);
    let mut documents = 0;
    let mut has_pods = false;
    for document in parse::documents(FILE, input) {
        documents += 1;
        has_pods |= document.kind() == Some("Pod");
        assert!(document.position().line >= 1, "a document without a place");
        for problem in parse::check(document) {
            is_well_said(&problem, lines);
        }
    }
    for options in &RUN {
        let interner = Interner::default();
        let first: Vec<Read> = parse::pods(FILE, input, options, &interner).collect();
        assert_eq!(first.len(), documents, "documents");
        for read in &first {
            match read {
                Ok(parsed) => is_taken(parsed, lines),
                Err(problems) => is_refused(problems, lines),
            }
        }
        if !has_pods {
            // Half of the time is spent on texts that are broken; once is enough for them.
            return;
        }
        // What repeats is held once: the second time by what was kept of the first.
        let again: Vec<Read> = parse::pods(FILE, input, options, &interner).collect();
        assert_eq!(again.len(), first.len(), "documents, read again");
        first.iter().zip(&again).for_each(|(first, again)| is_the_same(first, again));
        drop(again);
        interner.sweep();
        if let [Ok(parsed)] = &*first
            && input.trim_ascii_start().starts_with(b"{")
        {
            is_the_same_as_yaml(input, options, &parsed.pod);
        }
    }
}

/// What YAML takes for the end of a line beside CR and LF: nothing that counts, but a parser may.
fn line_separators(input: &[u8]) -> usize {
    input.windows(2).filter(|two| two == b"\xc2\x85").count()
        + input.windows(3).filter(|three| matches!(three, [0xe2, 0x80, 0xa8 | 0xa9])).count()
}

fn is_well_said(problem: &Problem, lines: usize) {
    assert_eq!(&*problem.file, FILE);
    assert!(problem.line >= 1 && problem.line as usize <= lines, "of {lines} lines: {problem:?}");
    assert!(!problem.message.is_empty(), "{problem:?}");
    let text = problem.to_string();
    assert!(text.starts_with(&format!("{FILE}:{}: ", problem.line)) && text.ends_with(&problem.message), "{text}");
    assert!(problem.path.len() <= PROBLEM_PATH_BYTES_MAX, "{} bytes of path", problem.path.len());
    assert!(problem.message.len() <= PROBLEM_MESSAGE_BYTES_MAX, "{} bytes of message", problem.message.len());
}

fn is_refused(problems: &[Problem], lines: usize) {
    assert!(problems.iter().any(|problem| problem.severity == Severity::Error), "refused for nothing");
    problems.iter().for_each(|problem| is_well_said(problem, lines));
}

fn is_taken(parsed: &Parsed, lines: usize) {
    for warning in &parsed.warnings {
        assert_ne!(warning.severity, Severity::Error, "taken all the same: {warning:?}");
        is_well_said(warning, lines);
    }
    for field in &parsed.unsupported {
        assert!(field.to_string().starts_with(&field.path) && !field.path.is_empty());
        assert!(field.line >= 1 && field.line as usize <= lines, "{field:?}");
    }
    is_usable(&parsed.pod);
}

fn is_usable(pod: &Pod) {
    assert!(!pod.uid.as_str().is_empty() && !pod.namespace.is_empty() && !pod.name.is_empty());
    assert!(!pod.containers.is_empty());
    let mut names: Vec<&str> = pod.all_containers().map(|container| container.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|two| two[0] != two[1]), "two containers of one name");
    assert!(names.iter().all(|name| !name.is_empty()));
    for container in pod.all_containers() {
        for probe_type in ProbeType::ALL {
            if let Some(probe) = container.probes.by_type(probe_type) {
                is_probe(probe, pod);
            }
        }
    }
}

fn is_probe(probe: &ProbeSpec, pod: &Pod) {
    assert!(probe.initial_delay_seconds >= 0);
    assert!(probe.timeout_seconds >= 1 && probe.period_seconds >= 1);
    assert!(probe.success_threshold >= 1 && probe.failure_threshold >= 1);
    match &probe.handler {
        Handler::HttpGet(get) => {
            if let Ok(plan) = Plan::new(get, pod.pod_ip.get()) {
                is_one_request(&plan);
            }
        }
        Handler::Exec(exec) => assert!(!exec.command.is_empty()),
        Handler::Grpc(grpc) => assert_ne!(grpc.port, 0),
        Handler::TcpSocket(_) => {}
    }
}

fn is_the_same(first: &Read, again: &Read) {
    match (first, again) {
        (Ok(first), Ok(again)) => {
            assert_eq!(first.pod, again.pod, "the pod, read again");
            assert_eq!(first.unsupported, again.unsupported, "what is not supported, read again");
            assert_eq!(first.warnings, again.warnings, "the warnings, read again");
        }
        (Err(first), Err(again)) => assert_eq!(first, again, "the problems, read again"),
        (first, again) => panic!("{first:?}, read again: {again:?}"),
    }
}

/// JSON that is in order is read by another parser: it must mean the same.
fn is_the_same_as_yaml(input: &[u8], options: &Options, pod: &Pod) {
    let mut documents = parse::documents(FILE, input);
    let document = documents.next().expect("the document that the pod is of");
    match parse::pod(document, options) {
        Ok(parsed) => assert_eq!(parsed.pod, *pod, "read as YAML"),
        Err(problems) => panic!("read as YAML: {problems:?}"),
    }
}
