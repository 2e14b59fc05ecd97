//! `$(VAR)` references: what they stand for has a bound (`limits::EXPANDED_BYTES_MAX`), so that a pod takes no more
//! memory than its manifest lets expect.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Probe};

use super::super::expand::expanded_len;
use super::super::field::{Errors, Path};
use crate::limits::EXPANDED_BYTES_MAX;

/// An error at the first text with which the pod's are too long.
pub(super) fn bounded(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let mut left = EXPANDED_BYTES_MAX;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (field, containers) in [("initContainers", init), ("containers", &spec.containers)] {
        let path = path.child(field);
        for (i, container) in containers.iter().enumerate() {
            if !in_container(container, &path.index(i), &mut left, errors) {
                return;
            }
        }
    }
}

/// False where it becomes too much, which is reported.
fn in_container(container: &Container, path: &Path<'_>, left: &mut usize, errors: &mut Errors) -> bool {
    let env = container.env.as_deref().unwrap_or_default();
    let literal = || env.iter().filter(|variable| variable.value_from.is_none());
    let value = |variable: &'_ EnvVar| variable.value.as_ref().map_or(0, String::len);
    let raw: HashMap<&str, usize> = literal().map(|variable| (&*variable.name, value(variable))).collect();
    let mut expanded: HashMap<&str, usize> = HashMap::with_capacity(raw.len());
    let mut take = |text: &str, known: &HashMap<&str, usize>, path: &Path<'_>| {
        let len = expanded_len(text, |name| known.get(name).copied());
        let taken = if text.contains("$(") { len } else { 0 };
        match left.checked_sub(taken) {
            Some(rest) => {
                *left = rest;
                Some(len)
            }
            None => {
                let detail = format!("$(VAR) references stand for more than {EXPANDED_BYTES_MAX} bytes in this pod");
                errors.forbidden(path, &detail);
                None
            }
        }
    };
    let env_path = path.child("env");
    for (i, variable) in env.iter().enumerate().filter(|(_, variable)| variable.value_from.is_none()) {
        let text = variable.value.as_deref().unwrap_or_default();
        let Some(len) = take(text, &expanded, &env_path.index(i).child("value")) else { return false };
        expanded.insert(&variable.name, len);
    }
    for (field, list) in [("command", &container.command), ("args", &container.args)] {
        let path = path.child(field);
        for (i, text) in list.iter().flatten().enumerate() {
            if take(text, &expanded, &path.index(i)).is_none() {
                return false;
            }
        }
    }
    // Exec probes see the values as they are written.
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let path = path.child(field);
        let path = path.child("exec");
        let path = path.child("command");
        for (i, text) in command_of(probe.as_ref()).iter().enumerate() {
            if take(text, &raw, &path.index(i)).is_none() {
                return false;
            }
        }
    }
    true
}

fn command_of(probe: Option<&Probe>) -> &[String] {
    let exec = probe.and_then(|probe| probe.exec.as_ref());
    exec.and_then(|exec| exec.command.as_deref()).unwrap_or_default()
}
