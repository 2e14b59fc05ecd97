//! A piece of a pod without `apiVersion` and `kind`: an error as a whole, but what it seems to be a piece of is
//! said, and the probes in it are checked, so that documentation can be checked too.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::defaults;
use super::field::{Errors, Path};
use super::report::Report;
use super::schema::{self, Shape};
use super::tree::{Node, Value};
use super::validate;

/// What a fragment may be a piece of: type, and where it stands in a Pod.
const PIECES: [(&str, &str); 4] = [
    ("core.v1.Pod", ""),
    ("core.v1.PodSpec", "spec"),
    ("core.v1.Container", "spec.containers[]"),
    ("core.v1.Probe", "spec.containers[].livenessProbe"),
];

/// Reports on a document that is not an object of its own.
pub(super) fn inspect(root: &mut Node<'_>, report: &mut Report) {
    let has = |field| root.field(field).is_some_and(|n| n.value != Value::Null);
    if has("kind") && has("apiVersion") {
        return;
    }
    let Some((name, place)) = best(root) else {
        return;
    };
    if !place.is_empty() {
        report.looks_like(root, place);
    }
    report.fields(root, &schema::named(name), &Path::ROOT);
    let mut errors = Errors::default();
    match name {
        "core.v1.Container" => {
            if let Some(mut container) = report.read::<Container>(root, &[], &Path::ROOT) {
                defaults::container(&mut container);
                probes(&container, defaults::GRACE_SECONDS, &Path::ROOT, &mut errors);
            }
        }
        "core.v1.PodSpec" => spec(root, &[], &Path::ROOT, report, &mut errors),
        "core.v1.Pod" => {
            let path = Path::ROOT.child("spec");
            spec(root, &["spec"], &path, report, &mut errors);
        }
        _ => {}
    }
    report.field_errors(root, &Path::ROOT, errors);
}

fn spec(root: &Node<'_>, names: &[&str], path: &Path<'_>, report: &mut Report, errors: &mut Errors) {
    let Some(mut spec) = report.read::<PodSpec>(root, names, &Path::ROOT) else {
        return;
    };
    defaults::pod_spec(&mut spec);
    let grace = spec.termination_grace_period_seconds.unwrap_or(defaults::GRACE_SECONDS);
    let path = path.child("containers");
    for (i, container) in spec.containers.iter().enumerate() {
        probes(container, grace, &path.index(i), errors);
    }
}

fn probes(container: &Container, grace: i64, path: &Path<'_>, errors: &mut Errors) {
    validate::probes_and_lifecycle(container, grace, path, errors);
}

/// The type that knows most of the fragment's fields.
fn best(root: &Node<'_>) -> Option<(&'static str, &'static str)> {
    let Value::Map(entries) = &root.value else {
        return None;
    };
    let known = |name: &str| match schema::named(name) {
        Shape::Object(id) => {
            let object = schema::object(id);
            entries.iter().filter(|e| object.field(&e.key).is_some()).count()
        }
        _ => 0,
    };
    let pieces = PIECES.map(|piece| (known(piece.0), piece));
    let most = pieces.iter().map(|(count, _)| *count).max()?;
    let first = pieces.iter().find(|(count, _)| *count == most && most > 0);
    first.map(|(_, piece)| *piece)
}
