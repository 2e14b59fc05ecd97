//! What an embedder says of a pod, as the core has it. Every refusal names the field, the value and what is allowed.
//!
//! Times come on the wall clock and are kept on the monotonic one. Those of an instance are taken once: when the wall clock is set,
//! what was said of an instance that has not changed stays as it is.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use probe_core::backoff::Backoff;
use probe_core::container::Flags;
use probe_core::id::{ContainerId, ContainerName};
use probe_core::pod;
use probe_core::spec::Pod;
use probe_core::status::{ContainerState, ContainerStatus, PodStatus, Termination};
use probe_core::time::Instant;

use super::timestamp_from;
use crate::api::v1;
use crate::api::v1::container_state::State;
use crate::ebpf::settings;
use crate::results::{PodRecord, cut};
use crate::{clock, limits};

/// Bytes of a value that a refusal shows.
const SHOWN_BYTES_MAX: usize = 128;

/// The whole state of a pod. `record`: the pod as it stands, from which comes what was said before of the same instances.
///
/// # Errors
/// The first field that cannot be taken.
pub fn status(of: v1::UpdatePodStatusRequest, record: &PodRecord) -> Result<PodStatus, String> {
    let pod_ip = match &*of.pod_ip {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| format!("pod_ip: {} is no IP address", shown(text)))?),
    };
    let netns = match &*of.netns {
        "" => settings::annotation(&record.pod, settings::ANNOTATION_NETNS).map(Arc::from),
        path => Some(netns(path)?),
    };
    let mut names = HashSet::new();
    let mut containers = Vec::with_capacity(of.containers.len());
    for (index, container) in of.containers.into_iter().enumerate() {
        let at = |field: &str| format!("containers[{index}].{field}");
        let name = name_of(&record.pod, &container.name).map_err(|why| format!("{}: {why}", at("name")))?;
        if !names.insert(name.clone()) {
            return Err(format!("{}: {name:?} is there twice", at("name")));
        }
        let known = record.status.as_ref().and_then(|status| status.container(&name));
        containers.push(self::container(container, name, known, &at)?);
    }
    let flags = |name: &ContainerName| {
        record.container(name).map(|c| Flags { started: c.started, ready: c.ready }).unwrap_or_default()
    };
    let has_ended = |c: &ContainerStatus| matches!(c.state, ContainerState::Terminated(_));
    let all_ended = containers.len() == record.pod.all_containers().count() && containers.iter().all(has_ended);
    Ok(PodStatus {
        phase: pod::phase(&record.pod, &containers, &flags, of.deleting && all_ended),
        deleting: of.deleting,
        pod_ip,
        netns,
        containers: containers.into(),
    })
}

fn netns(path: &str) -> Result<Arc<str>, String> {
    let why = match path {
        _ if path.len() > limits::PATH_BYTES_MAX => {
            return Err(format!("netns: {} bytes; a path has at most {}", path.len(), limits::PATH_BYTES_MAX));
        }
        _ if !path.starts_with('/') => "is no absolute path",
        _ if path.contains('\0') => "holds a NUL",
        path => return Ok(path.into()),
    };
    Err(format!("netns: {} {why}", shown(path)))
}

fn name_of(pod: &Pod, name: &str) -> Result<ContainerName, String> {
    pod.container(name).map(|container| container.name.clone()).ok_or_else(|| {
        let there: Vec<&str> = pod.all_containers().map(|container| container.name.as_str()).collect();
        let (pod, there) = (format!("{}/{}", pod.namespace, pod.name), there.join(", "));
        format!("{} is no container of pod {pod}, which has {}", shown(name), cut(&there, SHOWN_BYTES_MAX))
    })
}

fn container(
    of: v1::EmbeddedContainer,
    name: ContainerName,
    known: Option<&ContainerStatus>,
    at: &impl Fn(&str) -> String,
) -> Result<ContainerStatus, String> {
    if of.id.len() > limits::CONTAINER_ID_BYTES_MAX {
        let max = limits::CONTAINER_ID_BYTES_MAX;
        return Err(format!("{}: {} bytes; at most {max} are taken", at("id"), of.id.len()));
    }
    let Some(state) = of.state.and_then(|state| state.state) else {
        return Err(format!("{}: is missing; it is waiting, running or terminated", at("state")));
    };
    let id = (!of.id.is_empty()).then(|| ContainerId::new(of.id));
    if id.is_none() && !matches!(state, State::Waiting(_)) {
        return Err(format!("{}: is missing; only a container that was never started has none", at("id")));
    }
    let before = known.filter(|known| known.id == id).map(|known| &known.state);
    let state = match state {
        State::Waiting(why) => ContainerState::waiting(message(&why.reason), message(&why.message)),
        State::Running(running) => {
            let field = at("state.running.started_at");
            let told = time(running.started_at.as_ref(), &field)?;
            let told = told.ok_or_else(|| format!("{field}: is missing; delays count from then"))?;
            let started_at = match before {
                Some(ContainerState::Running { started_at }) => *started_at,
                _ => told.instant(&field)?,
            };
            ContainerState::Running { started_at }
        }
        State::Terminated(how) => {
            let restart_allowed = Some(of.restart_allowed);
            let end = match before {
                Some(ContainerState::Terminated(known)) => Termination {
                    started_at: known.started_at,
                    finished_at: known.finished_at,
                    ..ended(&how, restart_allowed)
                },
                _ => termination(&how, restart_allowed, &|field| at(&format!("state.terminated.{field}")))?,
            };
            ContainerState::Terminated(Box::new(end))
        }
    };
    let last_termination = match &of.last_termination {
        Some(how) => Some(Box::new(termination(how, None, &|field| at(&format!("last_termination.{field}")))?)),
        None => last_termination(known, id.as_ref(), &state),
    };
    Ok(ContainerStatus { name, id, state, last_termination, restart_count: of.restart_count })
}

/// As this daemon saw it: of a waiting container its newest instance, of any other the one before.
fn last_termination(
    known: Option<&ContainerStatus>,
    id: Option<&ContainerId>,
    state: &ContainerState,
) -> Option<Box<Termination>> {
    let known = known?;
    let is_same = known.id.as_ref() == id;
    match (&known.state, state) {
        (ContainerState::Terminated(end), ContainerState::Waiting(_)) if is_same => Some(end.clone()),
        (ContainerState::Terminated(end), _) if !is_same => Some(end.clone()),
        _ => known.last_termination.clone(),
    }
}

/// Without a time of its own it has ended now, and lived for no time.
fn termination(
    how: &v1::Termination,
    restart_allowed: Option<bool>,
    at: &impl Fn(&str) -> String,
) -> Result<Termination, String> {
    let (started_field, finished_field) = (at("started_at"), at("finished_at"));
    let (started, finished) =
        (time(how.started_at.as_ref(), &started_field)?, time(how.finished_at.as_ref(), &finished_field)?);
    if let (Some(Told(started)), Some(Told(finished))) = (started, finished)
        && finished < started
    {
        return Err(format!("{finished_field}: {finished} is before started_at, {started}"));
    }
    let finished_at = finished.map_or_else(|| Ok(clock::now()), |told| told.instant(&finished_field))?;
    let started_at = started.map_or(Ok(finished_at), |told| told.instant(&started_field))?.min(finished_at);
    Ok(Termination { started_at, finished_at, ..ended(how, restart_allowed) })
}

/// Without its times.
fn ended(how: &v1::Termination, restart_allowed: Option<bool>) -> Termination {
    let reason = match (&*how.reason, how.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => message(reason),
    };
    Termination {
        exit_code: how.exit_code,
        signal: how.signal,
        backoff: Backoff::new(),
        reason: reason.into(),
        message: message(&how.message).into(),
        started_at: Instant::ZERO,
        finished_at: Instant::ZERO,
        restart_allowed,
    }
}

/// A time as it was told.
#[derive(Clone, Copy)]
struct Told(Timestamp);

fn time(at: Option<&prost_types::Timestamp>, field: &str) -> Result<Option<Told>, String> {
    let Some(wire) = at else { return Ok(None) };
    match timestamp_from(at) {
        Some(at) => Ok(Some(Told(at))),
        None => Err(format!("{field}: {} s since 1970 is no time that can be told", wire.seconds)),
    }
}

impl Told {
    /// On the monotonic clock; what lies before the node's start counts as that.
    fn instant(self, field: &str) -> Result<Instant, String> {
        let (wall, Told(at)) = (clock::wall(), self);
        let ahead = at.duration_since(wall);
        if ahead > limits::EMBEDDER_CLOCK_AHEAD_MAX.try_into().unwrap_or_default() {
            return Err(format!("{field}: {at} lies in the future; the daemon's clock says {wall}"));
        }
        let ago = wall.duration_since(at).try_into().unwrap_or_default();
        Ok(clock::now().saturating_sub(ago))
    }
}

fn message(text: &str) -> &str {
    cut(text, limits::MESSAGE_BYTES_MAX)
}

fn shown(text: &str) -> String {
    format!("{:?}", cut(text, SHOWN_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use probe_core::id::ProbeType;
    use probe_core::spec::ContainerKind;
    use probe_core::status::PodPhase;

    use super::*;
    use crate::api::convert::timestamp;
    use crate::manager::slots_of;
    use crate::results::fixture;

    fn record() -> PodRecord {
        let containers =
            ["app", "side"].map(|name| fixture::container(name, ContainerKind::Regular, &[ProbeType::Liveness]));
        let pod = fixture::pod("uid", "web", containers);
        PodRecord::new(Arc::clone(&pod), &slots_of(&pod), None, clock::wall())
    }

    fn ago(seconds: i64) -> Option<prost_types::Timestamp> {
        let at = clock::wall().checked_sub(jiff::SignedDuration::from_secs(seconds)).expect("in range");
        Some(timestamp(at))
    }

    fn running(name: &str, id: &str, seconds_ago: i64) -> v1::EmbeddedContainer {
        let state = State::Running(v1::Running { started_at: ago(seconds_ago) });
        v1::EmbeddedContainer {
            name: name.to_owned(),
            id: id.to_owned(),
            state: Some(v1::ContainerState { state: Some(state) }),
            ..v1::EmbeddedContainer::default()
        }
    }

    fn ended(name: &str, id: &str, exit_code: i32, restart_allowed: bool) -> v1::EmbeddedContainer {
        let how = v1::Termination { exit_code, started_at: ago(60), finished_at: ago(5), ..v1::Termination::default() };
        let state = Some(v1::ContainerState { state: Some(State::Terminated(how)) });
        v1::EmbeddedContainer { state, restart_allowed, ..running(name, id, 0) }
    }

    fn waiting(name: &str, id: &str) -> v1::EmbeddedContainer {
        let why = v1::Waiting { reason: "CrashLoopBackOff".to_owned(), message: String::new() };
        let state = Some(v1::ContainerState { state: Some(State::Waiting(why)) });
        v1::EmbeddedContainer { state, ..running(name, id, 0) }
    }

    fn request(containers: impl IntoIterator<Item = v1::EmbeddedContainer>) -> v1::UpdatePodStatusRequest {
        let containers = containers.into_iter().collect();
        v1::UpdatePodStatusRequest { containers, ..v1::UpdatePodStatusRequest::default() }
    }

    /// Takes it in as the results stage does.
    fn tell(record: &mut PodRecord, request: v1::UpdatePodStatusRequest) {
        let told = status(request, record).expect("it can be taken");
        crate::consumer::status::accept(record, Arc::new(told));
    }

    fn refused(change: impl FnOnce(&mut v1::UpdatePodStatusRequest)) -> String {
        let mut request = request([running("app", "cri://1", 60)]);
        change(&mut request);
        status(request, &record()).expect_err("it cannot be taken")
    }

    #[test]
    fn what_cannot_be_taken_is_named_with_its_field() {
        assert_eq!(refused(|r| r.pod_ip = "10.0.0".to_owned()), "pod_ip: \"10.0.0\" is no IP address");
        assert_eq!(refused(|r| r.netns = "run/x".to_owned()), "netns: \"run/x\" is no absolute path");
        assert_eq!(refused(|r| r.netns = "/run/\0".to_owned()), "netns: \"/run/\\0\" holds a NUL");
        assert!(refused(|r| r.netns = format!("/{}", "x".repeat(5_000))).starts_with("netns: 5001 bytes"));
        assert_eq!(
            refused(|r| r.containers[0].name = "ap".to_owned()),
            "containers[0].name: \"ap\" is no container of pod default/web, which has app, side"
        );
        let twice = refused(|r| r.containers.push(running("app", "cri://2", 1)));
        assert_eq!(twice, "containers[1].name: \"app\" is there twice");
        assert!(refused(|r| r.containers[0].id.clear()).starts_with("containers[0].id: is missing"));
        assert!(refused(|r| r.containers[0].id = "x".repeat(600)).starts_with("containers[0].id: 600 bytes"));
        assert!(refused(|r| r.containers[0].state = None).starts_with("containers[0].state: is missing"));
        let untold = refused(|r| {
            r.containers[0] = v1::EmbeddedContainer {
                state: Some(v1::ContainerState { state: Some(State::Running(v1::Running { started_at: None })) }),
                ..running("app", "cri://1", 0)
            }
        });
        assert!(untold.starts_with("containers[0].state.running.started_at: is missing"), "{untold}");
        let ahead = refused(|r| r.containers[0] = running("app", "cri://1", -3_600));
        assert!(ahead.starts_with("containers[0].state.running.started_at: ") && ahead.contains("future"), "{ahead}");
        let backwards = refused(|r| {
            r.containers[0] = ended("app", "cri://1", 0, true);
            if let Some(State::Terminated(how)) = r.containers[0].state.as_mut().and_then(|s| s.state.as_mut()) {
                how.finished_at = ago(90);
            }
        });
        assert!(backwards.starts_with("containers[0].state.terminated.finished_at: "), "{backwards}");
        let beyond = refused(|r| {
            let far = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
            r.containers[0].last_termination =
                Some(v1::Termination { started_at: Some(far), ..v1::Termination::default() });
        });
        assert!(beyond.starts_with("containers[0].last_termination.started_at: "), "{beyond}");
    }

    #[test]
    fn a_pod_runs_at_its_address_since_its_containers_were_started() {
        let mut request = request([running("app", "cri://1", 60), running("side", "cri://2", -5)]);
        (request.pod_ip, request.netns, request.deleting) = ("fd00::1".to_owned(), "/run/netns/web".to_owned(), true);
        let told = status(request, &record()).expect("it can be taken");
        assert_eq!((told.phase, told.deleting), (PodPhase::Running, true));
        assert_eq!((told.pod_ip, told.netns.as_deref()), ("fd00::1".parse().ok(), Some("/run/netns/web")));
        let ContainerState::Running { started_at } = told.containers[0].state else { panic!("it runs") };
        let age = clock::now() - started_at;
        assert!(age >= Duration::from_secs(60) && age < Duration::from_secs(90), "{age:?}");
        let ContainerState::Running { started_at } = told.containers[1].state else { panic!("it runs") };
        assert!(started_at <= clock::now(), "a little ahead is now");
    }

    #[test]
    fn nothing_is_made_up_of_containers_that_there_is_no_word_on() {
        let told = status(request([running("app", "cri://1", 60)]), &record()).expect("it can be taken");
        assert_eq!((told.phase, told.containers.len(), told.pod_ip), (PodPhase::Pending, 1, None));
    }

    #[test]
    fn the_times_of_an_instance_are_taken_once() {
        let mut record = record();
        let started = |record: &PodRecord| match record.status.as_ref().expect("a status").containers[0].state {
            ContainerState::Running { started_at } => started_at,
            _ => panic!("it runs"),
        };
        tell(&mut record, request([running("app", "cri://1", 60)]));
        let first = started(&record);
        // As after a step of the wall clock by an hour, one way and the other.
        for seconds_ago in [3_660, -3_540] {
            tell(&mut record, request([running("app", "cri://1", seconds_ago)]));
            assert_eq!(started(&record), first);
        }
        tell(&mut record, request([running("app", "cri://2", 1)]));
        assert!(started(&record) > first, "another instance");
    }

    #[test]
    fn the_end_of_the_instance_before_is_kept_as_it_was_seen_unless_it_is_told() {
        let mut record = record();
        let last = |record: &PodRecord| {
            let status = record.status.as_ref().expect("a status");
            status.containers[0].last_termination.as_ref().map(|end| end.exit_code)
        };
        tell(&mut record, request([ended("app", "cri://1", 3, true)]));
        assert_eq!(last(&record), None);
        tell(&mut record, request([waiting("app", "cri://1")]));
        assert_eq!(last(&record), Some(3), "waiting, it carries the ID of the one that died");
        tell(&mut record, request([running("app", "cri://2", 1)]));
        assert_eq!(last(&record), Some(3));
        tell(&mut record, request([ended("app", "cri://2", 4, true)]));
        tell(&mut record, request([running("app", "cri://3", 1)]));
        assert_eq!(last(&record), Some(4));
        let said = v1::Termination { exit_code: 9, ..v1::Termination::default() };
        tell(
            &mut record,
            request([v1::EmbeddedContainer { last_termination: Some(said), ..running("app", "cri://3", 1) }]),
        );
        assert_eq!(last(&record), Some(9));
    }

    #[test]
    fn the_embedders_word_on_restarts_makes_the_phase() {
        let phase = |restart_allowed, deleting| {
            let both = ["app", "side"].map(|name| ended(name, "cri://1", 0, restart_allowed));
            let request = v1::UpdatePodStatusRequest { deleting, ..request(both) };
            status(request, &record()).expect("it can be taken").phase
        };
        assert_eq!([phase(true, false), phase(false, false)], [PodPhase::Running, PodPhase::Succeeded]);
        assert_eq!(phase(true, true), PodPhase::Succeeded, "a pod that is deleted and has ended has completed");
    }
}
