use std::time::Duration;

use probe_core::id::ProbeType;
use probe_core::outcome::Verdict;
use probe_core::spec::{Container, ContainerKind, Pod, Probes};

use super::record::{ConditionState, GateState, timestamp};
use super::*;
use crate::clock;

fn probe() -> ProbeState {
    ProbeState { probe_type: ProbeType::Liveness.index() as u32, verdict: 2, since_ns: 7, has_failed: true, run: 3 }
}

fn pod(uid: &str) -> PodState {
    let termination = TerminationState {
        exit_code: 137,
        signal: 9,
        reason: "Error".to_owned(),
        message: String::new(),
        backoff_ms: 40_000,
        started_ns: 1,
        finished_ns: 2,
        backoff_ns: 3,
        ..TerminationState::default()
    };
    let container = ContainerState {
        name: "app".to_owned(),
        spec_hash: u64::MAX,
        restart_count: 5,
        termination: Some(termination),
        has_ended: false,
        is_waiting: true,
        probes: vec![probe()],
        id: "cri://1".to_owned(),
    };
    PodState {
        uid: uid.to_owned(),
        added_at_ns: 1_795_000_000_000_000_000,
        conditions: vec![ConditionState { status: 2, since_ns: 4 }],
        containers: vec![container],
        is_over: false,
        gates: vec![GateState {
            condition_type: "example.com/lb".to_owned(),
            condition: Some(ConditionState { status: 1, since_ns: 5 }),
        }],
        phase: 2,
        pauses: Vec::new(),
        is_of_earlier_boot: false,
    }
}

fn finished(pods: &[PodState]) -> Content {
    let mut writer = Writer::default();
    pods.iter().for_each(|pod| writer.push(pod));
    assert_eq!(writer.left_out(), 0);
    writer.finish(&Whole::now())
}

fn content(pods: &[PodState]) -> Vec<u8> {
    finished(pods).to_bytes()
}

/// With a digest that is right whatever the rest is.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}

#[test]
fn what_was_written_is_read_once_per_pod() {
    let mut state = State::parse(content(&[pod("a"), pod("b")])).expect("a state");
    assert_eq!(state.len(), 2);
    assert_eq!(state.take(&"b".into()), Some(pod("b")));
    assert_eq!((state.take(&"b".into()), state.take(&"c".into())), (None, None));
    assert_eq!(state.take(&"a".into()), Some(pod("a")));
    assert!(state.is_empty());
}

#[test]
fn every_byte_that_is_another_and_every_length_is_found_out() {
    let whole = content(&[pod("a")]);
    for index in 0..whole.len() {
        let mut other = whole.clone();
        other[index] ^= 1;
        assert!(State::parse(other).is_err(), "byte {index}");
        assert!(State::parse(whole[..index].to_vec()).is_err(), "cut to {index} bytes");
    }
}

#[test]
fn a_right_digest_makes_nothing_else_right() {
    let header = |version, count: u32| [MAGIC.as_slice(), &[version], &count.to_le_bytes()].concat();
    let told = |bytes| State::parse(sealed(bytes)).expect_err("it is of no use").to_string();
    assert_eq!(
        told(header(VERSION + 1, 0)),
        format!("version {} is later than {VERSION}, the last that this daemon knows", VERSION + 1)
    );
    let whole = |count| [header(VERSION, count), vec![0]].concat();
    assert!(told(header(VERSION, 0)).starts_with("what it says of the whole: "));
    assert_eq!(told([whole(0), vec![1]].concat()), "pod 4294967295: bytes after the last");
    assert!(told(whole(u32::MAX)).starts_with("pod 0: "));
    let too_long = [whole(1), vec![0xFF, 0xFF, 0xFF, 0xFF, 0x0F]].concat();
    assert_eq!(told(too_long), "pod 0: 4294967295 bytes are too many");
    assert!(told([whole(1), vec![2, 0x0A, 0x05]].concat()).starts_with("pod 0: "));
    assert_eq!(told(b"something else that is long enough to be one".to_vec()), "not a state file");
}

#[test]
fn a_pod_that_is_too_large_is_left_out_and_counted() {
    let mut writer = Writer::default();
    writer.push(&PodState { uid: "x".repeat(STATE_POD_BYTES_MAX + 1), ..pod("a") });
    writer.push(&pod("b"));
    assert_eq!(writer.left_out(), 1);
    assert_eq!(State::parse(writer.finish(&Whole::now()).to_bytes()).expect("a state").len(), 1);
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, aside) = (directory.path().join(FILE_NAME), directory.path().join(ASIDE_NAME));
    assert!(State::read(directory.path()).is_empty(), "no file is no trouble");
    replace(directory.path(), &finished(&[pod("a")])).expect("written");
    assert_eq!(State::read(directory.path()).len(), 1);
    std::fs::write(&path, "trouble").expect("written");
    assert!(State::read(directory.path()).is_empty());
    assert!(!path.exists());
    assert_eq!(std::fs::read(&aside).expect("it is kept"), b"trouble");
}

#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    replace(directory.path(), &finished(&[])).expect("written");
    let mode = std::fs::metadata(directory.path().join(FILE_NAME)).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn points_in_time_survive_and_none_lies_ahead() {
    let state = pod("a");
    assert_eq!(state.added_at(), timestamp(1_795_000_000_000_000_000));
    let ended = |finished_ns| {
        let termination = state.containers[0].termination.clone().expect("it ended");
        TerminationState { finished_ns, ..termination }.termination().finished_at
    };
    let five_ago = clock::now().saturating_sub(Duration::from_secs(5));
    assert_eq!(ended(five_ago.as_nanos()), five_ago, "to the nanosecond");
    let begun = clock::now();
    assert!(ended(u64::MAX) <= clock::now() && ended(u64::MAX) >= begun);
}

/// What is read of a pod that was written `ago` before now under another boot, its end a second before that.
fn of_an_earlier_boot(ago: Duration) -> PodState {
    let wall_ns = i64::try_from(clock::wall().as_nanosecond()).expect("this century");
    let whole = Whole {
        boot_id: "another".to_owned(),
        wall_ns: wall_ns - i64::try_from(ago.as_nanos()).expect("not so long"),
        monotonic_ns: 10_000_000_000,
    };
    let mut written = pod("a");
    let end = written.containers[0].termination.as_mut().expect("it ended");
    (end.finished_ns, end.backoff_ns) = (9_000_000_000, 9_000_000_000);
    let mut writer = Writer::default();
    writer.push(&written);
    State::parse(writer.finish(&whole).to_bytes()).expect("a state").take(&"a".into()).expect("the pod")
}

#[test]
fn after_a_reboot_no_instance_goes_on_and_waits_are_over_by_the_wall_clock() {
    let container = Container::new("app".into(), ContainerKind::Regular, Probes::default());
    let spec = Pod::new("a".into(), "default", "a", [Container { spec_hash: u64::MAX, ..container }]);
    assert!(pod("a").is_of_same_instances(&spec));
    let soon = of_an_earlier_boot(Duration::from_secs(4));
    assert!(!soon.is_of_same_instances(&spec));
    let end = soon.containers[0].termination.as_ref().expect("it ended").termination();
    assert_eq!((clock::now() - end.finished_at).as_secs(), 5, "a second before it was written");
    assert!(soon.containers[0].is_waiting, "40 s are not over");
    assert!(!of_an_earlier_boot(Duration::from_secs(60)).containers[0].is_waiting);
    let mut other = spec.clone();
    std::sync::Arc::make_mut(&mut other.containers)[0].spec_hash = 1;
    assert!(!pod("a").is_of_same_instances(&other), "another definition is another instance");
}

#[test]
fn what_was_taken_takes_no_memory_and_the_rest_is_still_there() {
    let mut state = State::parse(content(&[pod("a"), pod("b"), pod("c")])).expect("a state");
    assert!(state.take(&"b".into()).is_some());
    let before = state.bytes.len();
    state.compact();
    assert!(state.bytes.len() < before);
    let mut left: Vec<String> = state.left().into_iter().map(|pod| pod.uid).collect();
    left.sort_unstable();
    assert_eq!(left, ["a", "c"]);
    assert_eq!((state.take(&"c".into()), state.take(&"a".into())), (Some(pod("c")), Some(pod("a"))));
    assert!(state.bytes.is_empty());
}

#[test]
fn numbers_out_of_range_are_not_known_or_cut() {
    assert_eq!(ProbeState { verdict: 3, ..probe() }.memory(ProbeType::Liveness), None);
    let memory = probe().memory(ProbeType::Liveness).expect("a verdict");
    assert_eq!((memory.verdict(), memory.run()), (Verdict::Failure, (false, 0)), "on hold the run begins anew");
    assert_eq!(ConditionState { status: 9, since_ns: 0 }.status(), probe_core::pod::ConditionStatus::Unknown);
    let forever =
        TerminationState { backoff_ms: u64::MAX, ..pod("a").containers[0].termination.clone().expect("it ended") };
    assert_eq!(forever.backoff().current(), Duration::from_secs(300));
}

#[test]
fn a_pause_is_kept_per_probe_within_its_bounds_and_takes_nothing_else() {
    let now = clock::wall();
    let ns = |seconds: i64| {
        let at = now.checked_add(jiff::SignedDuration::from_secs(seconds)).expect("in range");
        i64::try_from(at.as_nanosecond()).expect("this century")
    };
    let pause = |since_ns, until_ns| PauseState {
        container: "app".to_owned(),
        probe_type: ProbeType::Liveness.index() as u32,
        since_ns,
        until_ns,
    };
    let paused = |pause: PauseState| {
        let bytes = content(&[PodState { pauses: vec![pause], ..pod("a") }]);
        let state = State::parse(bytes).expect("a state").take(&"a".into()).expect("the pod");
        assert_eq!(state.paused("app", ProbeType::Readiness), None);
        assert_eq!(state.paused("db", ProbeType::Liveness), None);
        state.paused("app", ProbeType::Liveness)
    };
    let is_about = |at: probe_core::time::Instant, seconds: u64| {
        let ahead = at - clock::now();
        ahead <= Duration::from_secs(seconds) && ahead + Duration::from_secs(30) > Duration::from_secs(seconds)
    };
    let half = paused(pause(ns(-60), ns(1_800))).expect("it goes on");
    assert_eq!([half.since, half.until], [ns(-60), ns(1_800)].map(|at| timestamp(at).into()));
    assert!(is_about(half.until_at, 1_800));
    assert_eq!([paused(pause(ns(-60), ns(-1))), paused(pause(0, 0)), paused(pause(0, i64::MIN))], [None; 3], "over");
    let forever = paused(pause(i64::MAX, i64::MAX)).expect("it goes on");
    assert!(is_about(forever.until_at, 24 * 3_600) && forever.since <= clock::wall().into());
    let one = content(&[pod("a")]).len();
    assert!(content(&[PodState { pauses: vec![pause(1, 2)], ..pod("a") }]).len() <= one + 40);
    assert_eq!(content(&[PodState { pauses: Vec::new(), ..pod("a") }]).len(), one);
}

/// A daemon that does not know of pauses reads a file with them, and one that does reads a file without.
#[test]
fn pauses_came_without_a_version_of_their_own() {
    let folder = format!("{}/../tests/data/state", env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read(format!("{folder}/{name}")).expect("a file");
    let mut without = State::parse(read("version-2")).expect("a state");
    assert_eq!(without.take(&"a".into()).map(arrived), Some(arrived(pod("a"))));
    let mut with = State::parse(read("version-2-paused")).expect("a state").take(&"a".into()).expect("the pod");
    assert_eq!(with.pauses[0].until_ns, 1_795_003_600_000_000_000);
    with.pauses.clear();
    assert_eq!(arrived(with), arrived(pod("a")));
}

/// Without what another boot's clock makes other numbers of.
fn arrived(mut state: PodState) -> PodState {
    state.is_of_earlier_boot = true;
    let container = &mut state.containers[0];
    container.is_waiting = false;
    let end = container.termination.as_mut().expect("it ended");
    (end.started_ns, end.finished_ns, end.backoff_ns) = (0, 0, 0);
    state
}

#[test]
fn files_of_every_earlier_version_are_read() {
    for version in 1..VERSION {
        let path = format!("{}/../tests/data/state/version-{version}", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).expect("a file of each version");
        assert_eq!(bytes[MAGIC.len()], version);
        let mut state = State::parse(bytes).expect("a state");
        let crashing = state.take(&"v1-crashing".into()).expect("the pod");
        let app = &crashing.containers[0];
        let end = app.termination.as_ref().expect("it has ended").termination();
        assert_eq!((app.restart_count, end.exit_code), (1, 3));
        assert!(!app.is_waiting, "its wait is over by the wall clock");
        assert_eq!(end.backoff.current(), Duration::from_secs(10));
        let waits = state.take(&"v1-waits".into()).expect("the pod");
        let readiness = waits.containers[0].probe(ProbeType::Readiness).expect("the probe");
        assert_eq!(readiness.memory(ProbeType::Readiness).expect("a verdict").run(), (false, 3));
        assert!(waits.gates.is_empty() && state.is_empty());
    }
}
