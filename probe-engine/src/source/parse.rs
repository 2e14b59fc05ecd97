//! From the text of a manifest to pods: YAML or JSON -> a located tree -> known fields and types -> Kubernetes'
//! types, defaulted and validated -> `probe_core::spec::Pod`. Every error at once, each with file, line, field
//! path and the API server's words.
//!
//! A spec that has been read before without anything to say about it is not read again: pods of one Deployment have
//! the same ([`Interner`]).
//!
//! Bounds: `limits::MANIFEST_BYTES_MAX` a file, `MANIFEST_DEPTH_MAX`, `MANIFEST_ALIAS_NODES_MAX`, `INTERNED_LEN_MAX`;
//! of what is said: `DOCUMENT_PROBLEMS_LEN_MAX` problems a document, `PROBLEM_PATH_BYTES_MAX`, `PROBLEM_MESSAGE_BYTES_MAX`.

mod convert;
mod de;
mod defaults;
mod expand;
mod field;
mod fields;
mod fragment;
mod identity;
mod intern;
mod json;
mod names;
mod quantity;
mod report;
mod scalar;
mod schema;
mod tree;
mod unsupported;
mod validate;

use std::sync::Arc;

use granit_parser::{Event, Parser, StrInput};
use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use probe_core::spec::Pod;
use serde::Deserialize;

use self::field::{Errors, Path};
use self::report::Report;
use self::tree::{Builder, Flaw, Node, Value};
use self::validate::{Owner, Rules};
use crate::limits;

pub use self::intern::Interner;
pub use self::report::{Problem, Severity};
pub use self::tree::Position;
pub use self::unsupported::{Unsupported, UnsupportedKind};

/// How strictly a manifest is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strictness {
    /// As the API server with strict field validation: unknown fields are errors, images are required.
    Validate,
    /// Unknown fields are warnings, images are not needed.
    Run,
}

/// The runtime that a pod is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuntimeKind {
    /// Processes of this host.
    Process,
    /// Nothing is started or killed.
    None,
    /// As `None`, and commands of exec probes are run on this host.
    NoneWithHostExec,
    /// Containers are run by a client of the API, whose business is all that probes do not need.
    External,
}

/// What to read a pod for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// How strictly.
    pub strictness: Strictness,
    /// Whose limits apply besides; `None` = nobody's.
    pub runtime: Option<RuntimeKind>,
}

/// A pod that can be run.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The pod.
    pub pod: Pod,
    /// What the runtime will not do of it, in the order of the fields.
    pub unsupported: Vec<Unsupported>,
    /// What is wrong with the manifest all the same.
    pub warnings: Vec<Problem>,
}

/// One document of a file, read but not looked into.
#[derive(Debug)]
pub struct Document<'t> {
    file: Arc<str>,
    root: Option<Node<'t>>,
    flaws: Vec<Flaw>,
    /// How many did not go in there.
    flaws_more: usize,
}

impl Document<'_> {
    /// Its `kind`, if it has one.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.root.as_ref()?.field("kind")?.as_str()
    }

    /// The text at this place, if there is one.
    #[must_use]
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.root.as_ref()?.descend(path)?.as_str().filter(|text| !text.is_empty())
    }

    /// Where it begins.
    #[must_use]
    pub fn position(&self) -> Position {
        let at = self.root.as_ref().map(|root| root.at);
        at.or(self.flaws.first().map(|f| f.at)).unwrap_or_default()
    }
}

/// Reads all documents of a text; `origin` is its name in errors. Empty documents are left out. Where the text
/// itself is broken, the document says so, and the next one begins at the next `---`.
#[must_use]
pub fn parse_documents<'t>(origin: &str, bytes: &'t [u8]) -> Vec<Document<'t>> {
    documents(origin, bytes).collect()
}

/// As [`parse_documents`], one at a time.
pub fn documents<'t>(origin: &str, bytes: &'t [u8]) -> Documents<'t> {
    let text = text(bytes);
    let options = granit_parser::options! {
        flow_nesting_limit: limits::MANIFEST_DEPTH_MAX * 2,
        block_nesting_limit: limits::MANIFEST_DEPTH_MAX * 2,
    };
    let (text, broken) = match text {
        Ok(text) => (text, None),
        Err(flaw) => ("", Some(flaw)),
    };
    Documents {
        file: origin.into(),
        parser: Parser::new_from_str_with_options(text, options),
        broken,
        ended: false,
        failed_at: None,
    }
}

/// Iterator over the documents of a text.
pub struct Documents<'t> {
    file: Arc<str>,
    parser: Parser<'t, StrInput<'t>>,
    broken: Option<Flaw>,
    ended: bool,
    /// Where the last error was: a second one at the same place would be the first of endlessly many.
    failed_at: Option<usize>,
}

impl<'t> Iterator for Documents<'t> {
    type Item = Document<'t>;

    fn next(&mut self) -> Option<Document<'t>> {
        if let Some(flaw) = self.broken.take() {
            self.ended = true;
            return Some(self.document(None, vec![flaw], 0));
        }
        while !self.ended {
            let mut builder = Builder::default();
            let document = match self.read(&mut builder) {
                Ok(()) => {
                    let (root, flaws, more) = builder.finish();
                    self.document(root, flaws, more)
                }
                Err(flaw) => {
                    self.skip_document();
                    let (_, mut flaws, more) = builder.finish();
                    flaws.push(flaw);
                    self.document(None, flaws, more)
                }
            };
            let is_empty = document.root.as_ref().is_none_or(|root| root.value == Value::Null);
            if !is_empty || !document.flaws.is_empty() {
                return Some(document);
            }
        }
        None
    }
}

impl<'t> Documents<'t> {
    fn document(&self, root: Option<Node<'t>>, flaws: Vec<Flaw>, flaws_more: usize) -> Document<'t> {
        Document { file: Arc::clone(&self.file), root, flaws, flaws_more }
    }

    /// Reads one document, or the end of the text.
    fn read(&mut self, builder: &mut Builder<'t>) -> Result<(), Flaw> {
        loop {
            match self.parser.next_event() {
                None | Some(Ok((Event::StreamEnd, _))) => {
                    self.ended = true;
                    return Ok(());
                }
                Some(Ok((Event::DocumentEnd, _))) => return Ok(()),
                Some(Ok((event, span))) => builder.event(event, span)?,
                Some(Err(error)) => {
                    let index = Some(error.marker().index());
                    self.ended = self.failed_at == index;
                    self.failed_at = index;
                    return Err(Flaw::of_scan(&error));
                }
            }
        }
    }

    fn skip_document(&mut self) {
        if !self.ended && !matches!(self.parser.proceed_next_document(), Ok(true)) {
            self.ended = true;
        }
    }
}

/// The bytes as text, within its bound.
fn text(bytes: &[u8]) -> Result<&str, Flaw> {
    let flaw = |line: usize, what: String| Flaw {
        at: Position { line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 },
        path: String::new(),
        what,
    };
    if bytes.len() as u64 > limits::MANIFEST_BYTES_MAX {
        let max = limits::MANIFEST_BYTES_MAX;
        return Err(flaw(1, format!("larger than {max} bytes")));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        flaw(line, "not UTF-8 text".to_owned())
    })
}

/// The pods of a text, each as [`pod`] gives it, with what repeats held once.
///
/// One JSON object about which there is nothing to say is read without its places; anything else, and JSON with an
/// error or a warning too, by the parser that knows them.
pub fn pods<'t>(
    origin: &str,
    bytes: &'t [u8],
    options: &'t Options,
    interner: &'t Interner,
) -> impl Iterator<Item = Result<Parsed, Vec<Problem>>> + use<'t> {
    let clean = text(bytes).ok().and_then(json::tree).and_then(|root| {
        let document = Document { file: origin.into(), root: Some(root), flaws: Vec::new(), flaws_more: 0 };
        let parsed = pod_sharing(document, options, interner).ok()?;
        (parsed.unsupported.is_empty() && parsed.warnings.is_empty()).then_some(Ok(parsed))
    });
    let rest = if clean.is_none() { Some(documents(origin, bytes)) } else { None };
    let rest = rest.into_iter().flatten().map(|document| pod_sharing(document, options, interner));
    clean.into_iter().chain(rest)
}

/// Reads a Pod to run it.
///
/// # Errors
/// All that is wrong with it, warnings included; at least one of them is an error.
pub fn pod(document: Document<'_>, options: &Options) -> Result<Parsed, Vec<Problem>> {
    pod_sharing(document, options, &Interner::default())
}

fn pod_sharing(document: Document<'_>, options: &Options, interner: &Interner) -> Result<Parsed, Vec<Problem>> {
    let mut report = Report::new(&document, options.strictness);
    let Some(mut root) = document.root else {
        return Err(report.into_problems());
    };
    let path = Path::ROOT;
    let errors_before = report.error_count();
    match report.kind(&root, &path) {
        Some(kind) if kind.template.is_empty() => {}
        Some(kind) => {
            report.not_a_pod(&root, kind.kind);
            return Err(report.into_problems());
        }
        None => {
            if report.error_count() > errors_before {
                fragment::inspect(&mut root, &mut report);
            } else {
                let kind = root.field("kind").and_then(Node::as_str).unwrap_or_default();
                report.not_a_pod(&root, kind);
            }
            return Err(report.into_problems());
        }
    }
    let has_uid = root.descend(&["metadata", "uid"]).and_then(Node::as_str).is_some_and(|uid| !uid.is_empty());
    // A UID that has to be made is made of the spec itself.
    let digest = root.field("spec").filter(|_| has_uid).map(|spec| interner.digest(spec, options));
    let known = digest.and_then(|digest| interner.lock().spec(digest));
    if known.is_some()
        && let Some(spec) = root.field_mut("spec")
    {
        // It was read before, with nothing to say about it.
        spec.value = Value::Null;
    }
    let rules = rules(options.strictness, Owner::Pod);
    let parts = read_pod(&mut root, &path, rules, options.runtime, known.is_some(), &mut report);
    let Some((meta, spec, status)) = parts.filter(|_| !report.has_errors()) else {
        return Err(report.into_problems());
    };
    let mut unsupported = match options.runtime {
        Some(RuntimeKind::Process) => unsupported::by_process(&meta, &spec, &path),
        Some(RuntimeKind::None | RuntimeKind::NoneWithHostExec | RuntimeKind::External) | None => Vec::new(),
    };
    for field in &mut unsupported {
        field.line = root.locate(&field.path).line;
    }
    let warnings = report.into_problems();
    let pod_ip = convert::pod_ip(status.as_ref());
    let tables = &mut *interner.lock();
    let ours = known.unwrap_or_else(|| Arc::new(convert::spec(&spec, tables)));
    let pod = convert::pod(&meta, &spec, Arc::clone(&ours), pod_ip, tables);
    if let Some(digest) = digest.filter(|_| unsupported.is_empty() && warnings.is_empty()) {
        tables.keep_spec(digest, ours);
    }
    Ok(Parsed { pod, unsupported, warnings })
}

/// Looks into any document as `validate` does: pods, pod templates, lists of them. Kinds without a pod template
/// give a [`Severity::Note`].
#[must_use]
pub fn check(document: Document<'_>) -> Vec<Problem> {
    let mut report = Report::new(&document, Strictness::Validate);
    if let Some(mut root) = document.root {
        check_object(&mut root, &Path::ROOT, &mut report);
    }
    report.into_problems()
}

fn check_object(root: &mut Node<'_>, path: &Path<'_>, report: &mut Report) {
    if let Some(items) = list_items(root) {
        let path = path.child("items");
        for (i, item) in items.iter_mut().enumerate() {
            // A list in a list is as deep as the tree's depth bound allows.
            check_object(item, &path.index(i), report);
        }
        return;
    }
    if root.field("kind").and_then(Node::as_str) == Some("List") {
        let mut errors = Errors::default();
        errors.required(&path.child("items"), "");
        report.field_errors(root, path, errors);
        return;
    }
    let errors_before = report.error_count();
    let Some(kind) = report.kind(root, path) else {
        if report.error_count() == errors_before {
            report.skipped(root, path);
        } else if path.to_string().is_empty() {
            fragment::inspect(root, report);
        }
        return;
    };
    let owner = match kind.kind {
        "Pod" => Owner::Pod,
        "Job" | "CronJob" => Owner::Job,
        "PodTemplate" => Owner::PodTemplate,
        _ => Owner::Controller,
    };
    let rules = rules(Strictness::Validate, owner);
    if owner == Owner::Pod {
        // Reports what is wrong; the pod itself is not needed.
        let _ = read_pod(root, path, rules, None, false, report);
    } else {
        read_template(root, kind, path, rules, report);
    }
}

fn rules(strictness: Strictness, owner: Owner) -> Rules {
    Rules { image_required: strictness == Strictness::Validate, owner }
}

/// The items of a `List` (also `PodList` and the like, whose items say their kind).
fn list_items<'a, 't>(root: &'a mut Node<'t>) -> Option<&'a mut Vec<Node<'t>>> {
    let is_list = root.field("kind").and_then(Node::as_str).is_some_and(|kind| kind.ends_with("List"));
    let Value::Map(entries) = &mut root.value else {
        return None;
    };
    let items = entries.iter_mut().find(|e| e.key == "items")?;
    match &mut items.node.value {
        Value::List(items) if is_list => Some(items),
        _ => None,
    }
}

type PodParts = (ObjectMeta, PodSpec, Option<PodStatus>);

/// Checks a pod in whole, or all but its spec. `None` = it could not even be read, which is reported.
fn read_pod(
    root: &mut Node<'_>,
    path: &Path<'_>,
    rules: Rules,
    runtime: Option<RuntimeKind>,
    is_spec_known: bool,
    report: &mut Report,
) -> Option<PodParts> {
    report.fields(root, &schema::named("core.v1.Pod"), path);
    let meta: ObjectMeta = report.read(root, &["metadata"], path)?;
    let mut spec: PodSpec = report.read(root, &["spec"], path)?;
    let status: Option<PodStatus> = report.read(root, &["status"], path)?;
    let mut errors = Errors::default();
    let meta_path = path.child("metadata");
    validate::metadata(&meta, &meta_path, &mut errors);
    let spec_path = path.child("spec");
    if !is_spec_known {
        defaults::pod_spec(&mut spec);
        validate::pod_spec(&spec, rules, &spec_path, &mut errors);
    }
    if let Some(status) = &status {
        validate::pod_status(status, &path.child("status"), &mut errors);
    }
    if let Some(runtime) = runtime {
        if meta.name.as_deref().unwrap_or_default().is_empty() && meta.generate_name.is_some() {
            let detail = "names are not generated here";
            errors.required(&meta_path.child("name"), detail);
        }
        match runtime {
            _ if is_spec_known => {}
            RuntimeKind::Process => {
                unsupported::require_commands(&spec, &spec_path, &mut errors);
            }
            RuntimeKind::None => unsupported::refuse_exec_probes(&spec, &spec_path, &mut errors),
            RuntimeKind::NoneWithHostExec | RuntimeKind::External => {}
        }
    }
    report.field_errors(root, path, errors);
    Some((meta, spec, status))
}

/// Checks an object for its pod template.
fn read_template(root: &mut Node<'_>, kind: &schema::Kind, path: &Path<'_>, rules: Rules, report: &mut Report) {
    report.fields(root, &kind.shape(), path);
    let mut errors = Errors::default();
    if let Some(meta) = report.read::<ObjectMeta>(root, &["metadata"], path) {
        validate::metadata(&meta, &path.child("metadata"), &mut errors);
    }
    let template_path = kind.template.join(".");
    let template_path = path.child(&template_path);
    let part = |name: &'static str| {
        let mut names = kind.template.to_vec();
        names.push(name);
        names
    };
    if let Some(meta) = report.read::<ObjectMeta>(root, &part("metadata"), path) {
        validate::labels_and_annotations(&meta, &template_path.child("metadata"), &mut errors);
    }
    if let Some(mut spec) = report.read::<PodSpec>(root, &part("spec"), path) {
        defaults::pod_spec(&mut spec);
        validate::pod_spec(&spec, rules, &template_path.child("spec"), &mut errors);
    }
    report.field_errors(root, path, errors);
}

/// Reads one Kubernetes type from the tree; what is not there reads as empty.
fn read_type<'de, T: Deserialize<'de>>(
    node: Option<&'de Node<'_>>,
    absent: &'de Node<'_>,
) -> Result<T, serde::de::value::Error> {
    T::deserialize(node.unwrap_or(absent))
}
