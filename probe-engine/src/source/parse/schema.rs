//! Which fields Kubernetes' objects have, and of which types: compiled once, at first use, from the JSON schemas
//! that k8s-openapi carries with its types.

use std::collections::HashMap;
use std::sync::OnceLock;

use k8s_openapi::api::{apps, batch, core};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

/// What a field's value must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// Not checked.
    Any,
    String,
    /// RFC 3339.
    Timestamp,
    Bool,
    Int32,
    Int64,
    Number,
    IntOrString,
    Quantity,
    List(Box<Shape>),
    /// Any keys, values of one shape.
    Map(Box<Shape>),
    Object(ObjectId),
}

/// A place in [`Schemas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObjectId(usize);

/// A type with known fields.
#[derive(Debug, Default)]
pub(super) struct Object {
    /// Sorted by name.
    fields: Vec<(Box<str>, Shape)>,
}

impl Object {
    pub(super) fn field(&self, name: &str) -> Option<&Shape> {
        let found = self.fields.binary_search_by(|(field, _)| (**field).cmp(name));
        found.ok().map(|i| &self.fields[i].1)
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.fields.iter().map(|(name, shape)| (&**name, shape))
    }
}

/// All compiled types.
#[derive(Debug)]
pub(super) struct Schemas {
    objects: Vec<Object>,
    by_name: HashMap<String, ObjectId>,
}

/// A kind that is, or holds, a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) kind: &'static str,
    pub(super) api_version: &'static str,
    /// Where its pod template is; empty = it is a pod.
    pub(super) template: &'static [&'static str],
    definition: &'static str,
}

/// The kinds that [`super::check`] looks into.
pub(super) const KINDS: [Kind; 9] = [
    kind("Pod", "v1", &[], "core.v1.Pod"),
    kind("PodTemplate", "v1", &["template"], "core.v1.PodTemplate"),
    kind("ReplicationController", "v1", &["spec", "template"], "core.v1.ReplicationController"),
    kind("Deployment", "apps/v1", &["spec", "template"], "apps.v1.Deployment"),
    kind("StatefulSet", "apps/v1", &["spec", "template"], "apps.v1.StatefulSet"),
    kind("DaemonSet", "apps/v1", &["spec", "template"], "apps.v1.DaemonSet"),
    kind("ReplicaSet", "apps/v1", &["spec", "template"], "apps.v1.ReplicaSet"),
    kind("Job", "batch/v1", &["spec", "template"], "batch.v1.Job"),
    kind("CronJob", "batch/v1", &["spec", "jobTemplate", "spec", "template"], "batch.v1.CronJob"),
];

const fn kind(
    kind: &'static str,
    api_version: &'static str,
    template: &'static [&'static str],
    definition: &'static str,
) -> Kind {
    Kind { kind, api_version, template, definition }
}

impl Kind {
    /// The shape of the whole object.
    pub(super) fn shape(&self) -> Shape {
        named(self.definition)
    }
}

/// The shape of a type by the end of its name: `core.v1.Container`.
pub(super) fn named(name: &str) -> Shape {
    let id = schemas().by_name.get(name);
    id.map_or(Shape::Any, |id| Shape::Object(*id))
}

/// The type at `id`.
pub(super) fn object(id: ObjectId) -> &'static Object {
    &schemas().objects[id.0]
}

fn schemas() -> &'static Schemas {
    static SCHEMAS: OnceLock<Schemas> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let mut generator = SchemaGenerator::default();
        add::<core::v1::Pod>(&mut generator);
        add::<core::v1::PodTemplate>(&mut generator);
        add::<core::v1::ReplicationController>(&mut generator);
        add::<apps::v1::Deployment>(&mut generator);
        add::<apps::v1::StatefulSet>(&mut generator);
        add::<apps::v1::DaemonSet>(&mut generator);
        add::<apps::v1::ReplicaSet>(&mut generator);
        add::<batch::v1::Job>(&mut generator);
        add::<batch::v1::CronJob>(&mut generator);
        compile(generator.definitions())
    })
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    // The schema is also kept as a definition under the type's name, which is what is read afterwards.
    let _ = generator.subschema_for::<T>();
}

fn compile(definitions: &serde_json::Map<String, Value>) -> Schemas {
    let ids: HashMap<&str, ObjectId> = definitions
        .iter()
        .filter(|(_, schema)| schema.get("properties").is_some())
        .enumerate()
        .map(|(i, (name, _))| (name.as_str(), ObjectId(i)))
        .collect();
    let mut objects: Vec<Object> = Vec::new();
    objects.resize_with(ids.len(), Object::default);
    for (name, id) in &ids {
        let properties = definitions[*name]["properties"].as_object();
        let mut fields: Vec<(Box<str>, Shape)> = properties
            .into_iter()
            .flatten()
            .map(|(field, schema)| (Box::from(field.as_str()), shape(schema, definitions, &ids)))
            .collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        objects[id.0].fields = fields;
    }
    let short = |name: &str| name.trim_start_matches("io.k8s.api.").to_owned();
    let by_name = ids.iter().map(|(name, id)| (short(name), *id)).collect();
    Schemas { objects, by_name }
}

fn shape(schema: &Value, definitions: &serde_json::Map<String, Value>, ids: &HashMap<&str, ObjectId>) -> Shape {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        if name.ends_with(".Quantity") {
            return Shape::Quantity;
        }
        return match (ids.get(name), definitions.get(name)) {
            (Some(id), _) => Shape::Object(*id),
            // A named type without fields: an alias of a plain one.
            (None, Some(definition)) => shape(definition, definitions, ids),
            (None, None) => Shape::Any,
        };
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Shape::IntOrString;
    }
    let format = schema.get("format").and_then(Value::as_str);
    match (schema.get("type").and_then(Value::as_str), format) {
        (Some("string"), Some("date-time")) => Shape::Timestamp,
        (Some("string"), _) => Shape::String,
        (Some("boolean"), _) => Shape::Bool,
        (Some("integer"), Some("int32")) => Shape::Int32,
        (Some("integer"), _) => Shape::Int64,
        (Some("number"), _) => Shape::Number,
        (Some("array"), _) => {
            let items = schema.get("items");
            let items = items.map_or(Shape::Any, |s| shape(s, definitions, ids));
            Shape::List(Box::new(items))
        }
        (Some("object"), _) => match schema.get("additionalProperties") {
            Some(values) => Shape::Map(Box::new(shape(values, definitions, ids))),
            None => Shape::Any,
        },
        _ => Shape::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields_of(name: &str) -> &'static Object {
        match named(name) {
            Shape::Object(id) => object(id),
            other => panic!("{name} is {other:?}"),
        }
    }

    #[test]
    fn every_kind_is_an_object_with_known_fields() {
        for kind in &KINDS {
            let Shape::Object(id) = kind.shape() else {
                panic!("{} has no schema", kind.kind);
            };
            assert!(object(id).field("metadata").is_some(), "{}", kind.kind);
        }
    }

    #[test]
    fn the_types_of_a_probe_are_known() {
        let probe = fields_of("core.v1.Probe");
        assert_eq!(probe.field("periodSeconds"), Some(&Shape::Int32));
        assert_eq!(probe.field("terminationGracePeriodSeconds"), Some(&Shape::Int64));
        assert_eq!(probe.field("port"), None);
        let http = fields_of("core.v1.HTTPGetAction");
        assert_eq!(http.field("port"), Some(&Shape::IntOrString));
        let resources = fields_of("core.v1.ResourceRequirements");
        let quantities = Shape::Map(Box::new(Shape::Quantity));
        assert_eq!(resources.field("limits"), Some(&quantities));
        let exec = fields_of("core.v1.ExecAction");
        assert_eq!(exec.field("command"), Some(&Shape::List(Box::new(Shape::String))));
    }
}
