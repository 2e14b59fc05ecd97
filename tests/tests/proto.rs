//! The control API's contract: what was once released keeps its name, number, type and cardinality.
//!
//! `tests/data/proto/v1.txt` has a line for each message, field, enum value and RPC. After an addition `BLESS=1` adds its lines;
//! lines that are there it leaves alone: to change one is to break somebody's client, and is done by hand, with a reason.
#![cfg(feature = "engine")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use probe_engine::api::DESCRIPTORS;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto,
};

const PACKAGE: &str = "probeengine.v1";

/// What a line must keep, by what it is about: `message`, or `field 3`, of a full name.
type Lines = BTreeMap<String, String>;

fn file() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("a descriptor set");
    let mut files = set.file.into_iter().filter(|file| file.package() == PACKAGE);
    files.next().filter(|_| files.next().is_none()).expect("one file of the package")
}

/// Every line of the contract; keys sort as fields are numbered.
fn contract(file: &FileDescriptorProto) -> Lines {
    let mut lines = Lines::new();
    for message in &file.message_type {
        add_message(&mut lines, PACKAGE, message);
    }
    for an_enum in &file.enum_type {
        add_enum(&mut lines, PACKAGE, an_enum);
    }
    for service in &file.service {
        for method in &service.method {
            let key = format!("rpc {PACKAGE}.{}.{}", service.name(), method.name());
            lines.insert(key, signature(method));
        }
    }
    lines
}

fn add_message(lines: &mut Lines, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    // The entry of a map is what its field says it is.
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        lines.insert(format!("message {name}"), "map_entry".to_owned());
    } else {
        lines.insert(format!("message {name}"), "{}".to_owned());
    }
    for field in &message.field {
        lines.insert(format!("field {name} {:>3}", field.number()), field_text(message, field));
    }
    for nested in &message.nested_type {
        add_message(lines, &name, nested);
    }
    for an_enum in &message.enum_type {
        add_enum(lines, &name, an_enum);
    }
}

fn add_enum(lines: &mut Lines, scope: &str, an_enum: &EnumDescriptorProto) {
    let name = format!("{scope}.{}", an_enum.name());
    for value in &an_enum.value {
        lines.insert(format!("enum {name} {:>3}", value.number()), value.name().to_owned());
    }
}

fn field_text(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let cardinality = match (field.label(), field.oneof_index) {
        (Label::Repeated, _) => "repeated".to_owned(),
        // How descriptors say `optional`: a oneof of one.
        _ if field.proto3_optional() => "optional".to_owned(),
        (_, Some(index)) => {
            let oneof = usize::try_from(index).ok().and_then(|index| message.oneof_decl.get(index));
            format!("oneof {}", oneof.expect("of the message").name())
        }
        (_, None) => "singular".to_owned(),
    };
    let type_name = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    format!("{} {cardinality} {type_name}", field.name())
}

fn signature(method: &MethodDescriptorProto) -> String {
    let side =
        |streams: bool, name: &str| format!("{}{}", if streams { "stream " } else { "" }, name.trim_start_matches('.'));
    let (request, response) =
        (side(method.client_streaming(), method.input_type()), side(method.server_streaming(), method.output_type()));
    format!("({request}) returns ({response})")
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/proto/v1.txt")
}

fn written(lines: &Lines) -> String {
    let mut text = String::from(
        "# The released contract of probeengine.v1. Lines are only ever added: `BLESS=1 cargo xtask test every_released_line`.\n",
    );
    for (key, value) in lines {
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

fn read(text: &str) -> Lines {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let split = |line: &str| {
        let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("no ` = ` in: {line}"));
        (key.to_owned(), value.to_owned())
    };
    lines.map(split).collect()
}

/// What the proto no longer keeps of what was released.
fn broken(released: &Lines, now: &Lines) -> Vec<String> {
    let changed = |(key, value): (&String, &String)| match now.get(key) {
        Some(kept) if kept == value => None,
        Some(other) => Some(format!("{key}: was `{value}`, is `{other}`")),
        None => Some(format!("{key}: was `{value}`, is gone")),
    };
    released.iter().filter_map(changed).collect()
}

#[test]
fn every_released_line_of_the_contract_is_kept() {
    let released = read(&fs::read_to_string(path()).unwrap_or_default());
    let now = contract(&file());
    let broken = broken(&released, &now);
    assert!(broken.is_empty(), "clients that were built before would break:\n{}", broken.join("\n"));
    let added: Vec<&String> = now.keys().filter(|key| !released.contains_key(*key)).collect();
    if !added.is_empty() && std::env::var_os("BLESS").is_some() {
        fs::write(path(), written(&now)).expect("the file is written");
        return;
    }
    assert!(added.is_empty(), "new in the proto; `BLESS=1` adds the lines to {}:\n{added:#?}", path().display());
}

#[test]
fn a_changed_number_name_type_or_cardinality_is_noticed() {
    let mut file = file();
    let released = contract(&file);
    let message = file.message_type.iter_mut().find(|message| message.name() == "RemovePodRequest").expect("there");
    let [namespace, pod, grace] = &mut message.field[..] else { panic!("three fields") };
    namespace.number = Some(9);
    pod.name = Some("pod_name".to_owned());
    grace.r#type = Some(Type::Uint64.into());
    let service: &mut ServiceDescriptorProto = &mut file.service[0];
    service.method[0].server_streaming = Some(true);
    let pod = file.message_type.iter_mut().find(|message| message.name() == "Pod").expect("there");
    pod.field[0].label = Some(Label::Repeated.into());
    let phase = file.enum_type.iter_mut().find(|an_enum| an_enum.name() == "PodPhase").expect("there");
    phase.value.pop();
    let found = broken(&released, &contract(&file)).join("\n");
    let expected = "\
enum probeengine.v1.PodPhase   4: was `POD_PHASE_FAILED`, is gone
field probeengine.v1.Pod   1: was `uid singular string`, is `uid repeated string`
field probeengine.v1.RemovePodRequest   1: was `namespace singular string`, is gone
field probeengine.v1.RemovePodRequest   2: was `pod singular string`, is `pod_name singular string`
field probeengine.v1.RemovePodRequest   3: was `grace_period_seconds optional uint32`, is `grace_period_seconds optional uint64`
rpc probeengine.v1.Control.GetInfo: was `(probeengine.v1.GetInfoRequest) returns (probeengine.v1.GetInfoResponse)`, is `(probeengine.v1.GetInfoRequest) returns (stream probeengine.v1.GetInfoResponse)`";
    assert_eq!(found, expected);
}

#[test]
fn every_service_rpc_and_field_of_the_proto_has_a_comment() {
    let file = file();
    let mut places = Vec::new();
    // Paths as descriptor.proto numbers its own fields: 4 = message_type, 2 = field of it, 6 = service, 2 = method of it.
    for (index, message) in (0..).zip(&file.message_type) {
        assert!(
            message.nested_type.iter().all(|nested| nested.options.as_ref().is_some_and(|options| options.map_entry())),
            "{}: a nested message is not looked at here",
            message.name()
        );
        for (field_index, field) in (0..).zip(&message.field) {
            places.push((vec![4, index, 2, field_index], format!("{}.{}", message.name(), field.name())));
        }
    }
    for (index, service) in (0..).zip(&file.service) {
        places.push((vec![6, index], service.name().to_owned()));
        for (method_index, method) in (0..).zip(&service.method) {
            places.push((vec![6, index, 2, method_index], format!("{}.{}", service.name(), method.name())));
        }
    }
    let info = file.source_code_info.as_ref().expect("comments are kept");
    let has_comment = |path: &Vec<i32>| {
        let mut found = info.location.iter().filter(|location| location.path == *path);
        found.any(|location| !location.leading_comments().trim().is_empty())
    };
    let bare: Vec<String> = places.into_iter().filter(|(path, _)| !has_comment(path)).map(|(_, name)| name).collect();
    assert!(bare.is_empty(), "no comment says what these are: {bare:#?}");
}
