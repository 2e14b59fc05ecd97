//! How pods look in a table: the rules of kubectl's `printPod` (`pkg/printers/internalversion/printers.go`).

use jiff::Timestamp;

use super::age;
use super::table::Table;
use crate::api::convert::timestamp_from;
use crate::api::v1::{self, container_state::State};

/// The columns asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// NAMESPACE first.
    pub namespace: bool,
    /// IP and NODE at the end.
    pub wide: bool,
}

/// An empty table with these columns.
#[must_use]
pub fn table(columns: Columns) -> Table {
    let mut header = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE", "GATES"];
    if columns.namespace {
        header.insert(0, "NAMESPACE");
    }
    if columns.wide {
        header.extend(["IP", "NODE"]);
    }
    Table::new(header)
}

/// The row of a pod.
#[must_use]
pub fn row(pod: &v1::Pod, columns: Columns, node_name: &str, now: Timestamp) -> Vec<String> {
    let summary = summary(pod);
    let mut cells = vec![
        pod.name.clone(),
        format!("{}/{}", summary.ready_count, summary.containers_count),
        summary.status,
        restarts(summary.restarts, summary.last_restart, now),
        age::since(timestamp_from(pod.created_at.as_ref()), now),
        gates(pod),
    ];
    if columns.namespace {
        cells.insert(0, pod.namespace.clone());
    }
    if columns.wide {
        cells.push(or_none(&pod.pod_ip));
        cells.push(or_none(node_name));
    }
    cells
}

/// What of a row tells that the pod changed: all of it but what only time changes.
#[must_use]
pub fn change_key(pod: &v1::Pod) -> (String, String, u32, String, String) {
    let summary = summary(pod);
    let ready = format!("{}/{}", summary.ready_count, summary.containers_count);
    (ready, summary.status, summary.restarts, gates(pod), pod.pod_ip.clone())
}

/// What READY, STATUS and RESTARTS are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Containers (sidecars included) that are ready.
    pub ready_count: usize,
    /// Containers and sidecars.
    pub containers_count: usize,
    /// STATUS
    pub status: String,
    /// Restarts of all containers that count in the pod's stage of life.
    pub restarts: u32,
    /// When the newest instance that was restarted had ended.
    pub last_restart: Option<Timestamp>,
}

/// Sums a pod up.
#[must_use]
pub fn summary(pod: &v1::Pod) -> Summary {
    let is = |kind: v1::ContainerKind| move |c: &&v1::Container| c.kind() == kind;
    let all = pod.containers.iter();
    let regular: Vec<&v1::Container> = all.clone().filter(is(v1::ContainerKind::Regular)).collect();
    let init: Vec<&v1::Container> = all.filter(|c| c.kind() != v1::ContainerKind::Regular).collect();
    let sidecars_count = init.iter().filter(|c| c.kind() == v1::ContainerKind::Sidecar).count();
    let mut summary = Summary {
        containers_count: regular.len() + sidecars_count,
        status: phase(pod.phase()).to_owned(),
        ..Summary::default()
    };
    let initializing = sum_init(&init, &mut summary);
    if !initializing || is_true(pod, "Initialized") {
        let (mut restarts, mut last) = (0_u32, None);
        for sidecar in init.iter().filter(|c| c.kind() == v1::ContainerKind::Sidecar) {
            restarts = restarts.saturating_add(sidecar.restart_count);
            last = last.max(ended_before(sidecar));
        }
        (summary.restarts, summary.last_restart) = (restarts, last);
        sum_regular(&regular, is_true(pod, "Ready"), &mut summary);
    }
    let is_over = matches!(pod.phase(), v1::PodPhase::Succeeded | v1::PodPhase::Failed);
    if pod.deleting && !is_over {
        summary.status = "Terminating".to_owned();
    }
    summary
}

/// `status.phase`
#[must_use]
pub const fn phase(phase: v1::PodPhase) -> &'static str {
    match phase {
        v1::PodPhase::Unspecified => "Unknown",
        v1::PodPhase::Pending => "Pending",
        v1::PodPhase::Running => "Running",
        v1::PodPhase::Succeeded => "Succeeded",
        v1::PodPhase::Failed => "Failed",
    }
}

/// `2`, or `2 (30s ago)` where it is known when.
#[must_use]
pub fn restarts(count: u32, last: Option<Timestamp>, now: Timestamp) -> String {
    match last {
        Some(_) if count > 0 => format!("{count} ({} ago)", age::since(last, now)),
        _ => count.to_string(),
    }
}

/// `<none>` for what is empty.
#[must_use]
pub fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

/// Whether a condition is True.
#[must_use]
pub fn is_true(pod: &v1::Pod, condition_type: &str) -> bool {
    pod.conditions.iter().any(|c| c.r#type == condition_type && c.status() == v1::ConditionStatus::True)
}

/// True gates of all, `<none>` without any.
fn gates(pod: &v1::Pod) -> String {
    if pod.readiness_gates.is_empty() {
        return "<none>".to_owned();
    }
    let true_count = pod.readiness_gates.iter().filter(|gate| is_true(pod, gate)).count();
    format!("{true_count}/{}", pod.readiness_gates.len())
}

/// Goes through the init containers up to the first that is not done; `true` where there is one.
fn sum_init(init: &[&v1::Container], summary: &mut Summary) -> bool {
    for (index, container) in init.iter().enumerate() {
        // A container the runtime has said nothing of yet has no status in Kubernetes, and is not looked at there.
        let Some(state) = state(container) else { continue };
        summary.restarts = summary.restarts.saturating_add(container.restart_count);
        summary.last_restart = summary.last_restart.max(ended_before(container));
        let is_sidecar = container.kind() == v1::ContainerKind::Sidecar;
        match state {
            State::Terminated(how) if how.exit_code == 0 => continue,
            _ if is_sidecar && container.started => {
                summary.ready_count += usize::from(container.ready);
                continue;
            }
            State::Terminated(how) => summary.status = format!("Init:{}", ended(how)),
            State::Waiting(why) if !why.reason.is_empty() && why.reason != "PodInitializing" => {
                summary.status = format!("Init:{}", why.reason);
            }
            _ => summary.status = format!("Init:{index}/{}", init.len()),
        }
        return true;
    }
    false
}

/// The first container that is not well gives the status.
fn sum_regular(containers: &[&v1::Container], pod_is_ready: bool, summary: &mut Summary) {
    let mut any_running = false;
    for container in containers.iter().rev() {
        summary.restarts = summary.restarts.saturating_add(container.restart_count);
        summary.last_restart = summary.last_restart.max(ended_before(container));
        match state(container) {
            Some(State::Waiting(why)) if !why.reason.is_empty() => summary.status = why.reason.clone(),
            Some(State::Terminated(how)) => summary.status = ended(how),
            Some(State::Running(_)) if container.ready => {
                any_running = true;
                summary.ready_count += 1;
            }
            _ => {}
        }
    }
    if summary.status == "Completed" && any_running {
        summary.status = if pod_is_ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn state(container: &v1::Container) -> Option<&State> {
    container.state.as_ref()?.state.as_ref()
}

fn ended(how: &v1::Termination) -> String {
    match (how.reason.as_str(), how.signal) {
        ("", 0) => format!("ExitCode:{}", how.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn ended_before(container: &v1::Container) -> Option<Timestamp> {
    timestamp_from(container.last_termination.as_ref()?.finished_at.as_ref())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::convert::timestamp;

    pub(in super::super) const NOW: i64 = 1_700_000_000;

    pub(in super::super) fn at(seconds_ago: i64) -> Option<prost_types::Timestamp> {
        Some(timestamp(Timestamp::from_second(NOW - seconds_ago).expect("in range")))
    }

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).expect("in range")
    }

    pub(in super::super) fn running(name: &str, ready: bool) -> v1::Container {
        container(name, State::Running(v1::Running { started_at: at(60) }), ready)
    }

    fn waiting(name: &str, reason: &str) -> v1::Container {
        let why = v1::Waiting { reason: reason.to_owned(), message: String::new() };
        container(name, State::Waiting(why), false)
    }

    fn over(name: &str, exit_code: i32, signal: i32, reason: &str) -> v1::Container {
        container(name, State::Terminated(termination(exit_code, signal, reason, 5)), false)
    }

    pub(in super::super) fn termination(exit_code: i32, signal: i32, reason: &str, ago: i64) -> v1::Termination {
        v1::Termination {
            exit_code,
            signal,
            reason: reason.to_owned(),
            finished_at: at(ago),
            started_at: at(ago + 10),
            ..v1::Termination::default()
        }
    }

    fn container(name: &str, state: State, ready: bool) -> v1::Container {
        v1::Container {
            name: name.to_owned(),
            kind: v1::ContainerKind::Regular.into(),
            state: Some(v1::ContainerState { state: Some(state) }),
            started: ready,
            ready,
            ..v1::Container::default()
        }
    }

    fn init(mut container: v1::Container, sidecar: bool) -> v1::Container {
        let kind = if sidecar { v1::ContainerKind::Sidecar } else { v1::ContainerKind::Init };
        container.kind = kind.into();
        container
    }

    pub(in super::super) fn pod(phase: v1::PodPhase, containers: Vec<v1::Container>) -> v1::Pod {
        v1::Pod {
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "u-1".to_owned(),
            phase: phase.into(),
            created_at: at(300),
            containers,
            ..v1::Pod::default()
        }
    }

    fn condition(condition_type: &str, status: v1::ConditionStatus) -> v1::Condition {
        v1::Condition { r#type: condition_type.to_owned(), status: status.into(), ..v1::Condition::default() }
    }

    fn shown(pod: &v1::Pod) -> String {
        row(pod, Columns::default(), "", now()).join(" | ")
    }

    #[test]
    fn status_and_ready_follow_kubectl() {
        use v1::PodPhase::{Failed, Pending, Running, Succeeded};
        for (phase, containers, expected) in [
            (Running, vec![running("a", true)], "1/1 | Running"),
            (Running, vec![running("a", true), running("b", false)], "1/2 | Running"),
            (Pending, vec![waiting("a", "ContainerCreating")], "0/1 | ContainerCreating"),
            (Pending, vec![waiting("a", "")], "0/1 | Pending"),
            (Running, vec![waiting("a", "CrashLoopBackOff"), running("b", true)], "1/2 | CrashLoopBackOff"),
            (Running, vec![over("a", 1, 0, "Error")], "0/1 | Error"),
            (Running, vec![over("a", 137, 9, "OOMKilled")], "0/1 | OOMKilled"),
            (Failed, vec![over("a", 3, 0, "")], "0/1 | ExitCode:3"),
            (Failed, vec![over("a", 137, 9, "")], "0/1 | Signal:9"),
            (Succeeded, vec![over("a", 0, 0, "Completed")], "0/1 | Completed"),
            (Running, vec![over("a", 0, 0, "Completed"), running("b", true)], "1/2 | NotReady"),
            // The first container in the manifest's order has the last word.
            (Running, vec![over("a", 1, 0, "Error"), waiting("b", "CrashLoopBackOff")], "0/2 | Error"),
        ] {
            let line = shown(&pod(phase, containers));
            assert!(line.starts_with(&format!("web | {expected} | ")), "{line} is not {expected}");
        }
    }

    #[test]
    fn a_completed_container_beside_a_ready_pod_shows_running() {
        let mut pod = pod(v1::PodPhase::Running, vec![over("a", 0, 0, "Completed"), running("b", true)]);
        pod.conditions = vec![condition("Ready", v1::ConditionStatus::True)];
        assert_eq!(summary(&pod).status, "Running");
    }

    #[test]
    fn a_pod_being_deleted_is_terminating_unless_it_is_over() {
        let mut pod = pod(v1::PodPhase::Running, vec![running("a", true)]);
        pod.deleting = true;
        assert_eq!(summary(&pod).status, "Terminating");
        pod.phase = v1::PodPhase::Succeeded.into();
        assert_eq!(summary(&pod).status, "Succeeded");
    }

    #[test]
    fn init_containers_show_how_far_they_are() {
        let later = || waiting("app", "PodInitializing");
        for (containers, expected) in [
            (vec![init(running("i", false), false), later()], "Init:0/1"),
            (vec![init(over("i", 0, 0, "Completed"), false), init(running("j", false), false), later()], "Init:1/2"),
            (vec![init(over("i", 2, 0, "Error"), false), later()], "Init:Error"),
            (vec![init(over("i", 2, 0, ""), false), later()], "Init:ExitCode:2"),
            (vec![init(waiting("i", "CrashLoopBackOff"), false), later()], "Init:CrashLoopBackOff"),
            (vec![init(waiting("i", "PodInitializing"), false), later()], "Init:0/1"),
        ] {
            assert_eq!(summary(&pod(v1::PodPhase::Pending, containers)).status, expected);
        }
    }

    #[test]
    fn sidecars_count_as_containers() {
        let pod = pod(v1::PodPhase::Running, vec![init(running("proxy", true), true), running("app", true)]);
        let summary = summary(&pod);
        assert_eq!((summary.ready_count, summary.containers_count, summary.status.as_str()), (2, 2, "Running"));
    }

    #[test]
    fn restarts_are_summed_and_dated_by_the_newest() {
        let mut first = running("a", true);
        first.restart_count = 2;
        first.last_termination = Some(termination(1, 0, "Error", 30));
        let mut second = running("b", true);
        second.restart_count = 1;
        second.last_termination = Some(termination(1, 0, "Error", 400));
        let line = shown(&pod(v1::PodPhase::Running, vec![first, second]));
        assert_eq!(line, "web | 2/2 | Running | 3 (30s ago) | 5m | <none>");
        assert_eq!(restarts(0, Some(now()), now()), "0");
        assert_eq!(restarts(4, None, now()), "4");
    }

    #[test]
    fn restarts_beyond_what_a_number_holds_stay_at_its_end() {
        let mut often = running("a", true);
        often.restart_count = u32::MAX;
        let mut sidecars = [init(running("p", true), true), init(running("q", true), true)];
        sidecars.iter_mut().for_each(|sidecar| sidecar.restart_count = u32::MAX);
        let [first, second] = sidecars;
        assert_eq!(summary(&pod(v1::PodPhase::Running, vec![first, second, often.clone(), often])).restarts, u32::MAX);
    }

    #[test]
    fn restarts_of_init_containers_end_to_count_once_the_pod_runs() {
        let mut done = init(over("i", 0, 0, "Completed"), false);
        done.restart_count = 5;
        let mut sidecar = init(running("proxy", true), true);
        sidecar.restart_count = 1;
        let pod = pod(v1::PodPhase::Running, vec![done, sidecar, running("app", true)]);
        assert_eq!(summary(&pod).restarts, 1);
    }

    #[test]
    fn gates_and_wide_columns_are_shown() {
        let mut pod = pod(v1::PodPhase::Running, vec![running("a", true)]);
        pod.readiness_gates = vec!["x/one".to_owned(), "x/two".to_owned()];
        pod.conditions = vec![condition("x/one", v1::ConditionStatus::True)];
        pod.pod_ip = "127.0.0.1".to_owned();
        let columns = Columns { namespace: true, wide: true };
        assert_eq!(
            row(&pod, columns, "node-1", now()).join(" | "),
            "default | web | 1/1 | Running | 0 | 5m | 1/2 | 127.0.0.1 | node-1"
        );
        let mut table = table(columns);
        table.push(row(&pod, columns, "node-1", now()));
        assert!(table.text().starts_with("NAMESPACE   NAME   READY   STATUS"), "{}", table.text());
    }
}
