//! The state file: any bytes, and any content under a digest that is right.
//!
//! An input is a file without its digest, which no mutation would ever make right. The boot `this` in it is the node's.

use std::borrow::Cow;
use std::path::Path;
use std::sync::OnceLock;

use probe_core::id::{ContainerId, ContainerName, ProbeType};
use probe_core::spec::{Container, ContainerKind, Pod, Probes};
use probe_core::time::Instant;
use probe_core::worker::Worker;
use probe_engine::clock;
use probe_engine::limits::{MESSAGE_BYTES_MAX, PAUSE_MAX, STATE_BACKOFF_MAX};
use probe_engine::state::{
    self, ContainerState, PauseState, PodState, State, TerminationState, VERSION, Whole, Writer,
};
use prost::Message;
use sha2::{Digest, Sha256};

use super::memory::Bound;
use super::mutation::Draw;

/// The file, one pod's message decoded (two bytes of it may be an empty container), and all of them for the harness.
pub const MEMORY: Bound = Bound { base: 64 * 1024, per_byte: 1_024 };

/// Stands for the boot of the node that runs the check.
const THIS: &str = "this";

/// What stands before the pods.
const HEADER_BYTES: usize = 20;

/// See the module.
///
/// # Panics
/// Where a file is taken that is damaged, or a number in it has no bound, or what was read is not what is written again.
pub fn check(input: &[u8]) {
    let input = &*at_this_boot(input);
    assert!(State::parse(input.to_vec()).is_err(), "taken without a digest");
    let content = [input, &Sha256::digest(input)].concat();
    let mut state = match State::parse(content) {
        Ok(state) => state,
        Err(error) => {
            assert!(error.to_string().len() <= MESSAGE_BYTES_MAX, "{} bytes of error", error.to_string().len());
            return;
        }
    };
    assert!((1..=VERSION).contains(&input[HEADER_BYTES - 5]), "a version that nobody knows");
    let pods = pods(input).expect("what was taken can be read");
    assert!(state.len() <= pods.len() && state.is_empty() == pods.is_empty());
    let mut writer = Writer::default();
    for (index, pod) in pods.iter().enumerate() {
        if index == pods.len() / 2 {
            state.compact();
        }
        // Of two with one UID the first is found, once.
        let first = pods.iter().find(|other| other.uid == pod.uid);
        if let Some(found) = state.take(&pod.uid.as_str().into()) {
            is_usable(&found);
            assert_eq!(Some(timeless(&found)), first.map(timeless));
        }
        assert_eq!(state.take(&pod.uid.as_str().into()), None, "taken twice");
        writer.push(pod);
    }
    assert!(state.is_empty());
    assert_eq!(writer.left_out(), 0);
    let again = writer.finish(this_boot()).to_bytes();
    let written = again.get(..again.len() - 32).and_then(self::pods);
    assert_eq!(written.as_ref(), Some(&pods), "written and read again");
    assert!(State::parse(again).is_ok());
}

/// What is said of the whole of a file that is written now.
fn this_boot() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(Whole::now)
}

/// The input, with the node's boot in the place of [`THIS`].
fn at_this_boot(input: &[u8]) -> Cow<'_, [u8]> {
    let whole = input.get(HEADER_BYTES..).and_then(|mut rest| Whole::decode_length_delimited(&mut rest).ok());
    match (whole, whole_end(input)) {
        (Some(whole), Some(end)) if whole.boot_id == THIS => {
            let whole = Whole { boot_id: this_boot().boot_id.clone(), ..whole };
            Cow::Owned([&input[..HEADER_BYTES], &whole.encode_length_delimited_to_vec(), &input[end..]].concat())
        }
        _ => Cow::Borrowed(input),
    }
}

/// The same content as a file: it is read, or set aside.
///
/// # Panics
/// Where the file means something else than its content.
pub fn check_file(input: &[u8], directory: &Path) {
    let input = &*at_this_boot(input);
    let content = [input, &Sha256::digest(input)].concat();
    std::fs::write(directory.join(state::FILE_NAME), &content).expect("a directory that can be written to");
    let read = State::read(directory);
    let is_aside = directory.join(state::ASIDE_NAME).exists();
    assert_eq!(is_aside, !directory.join(state::FILE_NAME).exists());
    match State::parse(content) {
        Ok(state) => assert_eq!((is_aside, read.len()), (false, state.len())),
        Err(_) => assert!(is_aside && read.is_empty()),
    }
}

/// Without what another boot's clock makes other numbers of.
fn timeless(state: &PodState) -> PodState {
    let mut state = PodState { is_of_earlier_boot: false, ..state.clone() };
    for container in &mut state.containers {
        container.is_waiting = false;
        if let Some(end) = &mut container.termination {
            (end.started_ns, end.finished_ns, end.backoff_ns) = (0, 0, 0);
        }
    }
    state
}

/// Where the pods begin: behind what is said of the whole, since version 2.
fn whole_end(input: &[u8]) -> Option<usize> {
    let mut rest = input.get(HEADER_BYTES..)?;
    if input[HEADER_BYTES - 5] >= 2 {
        Whole::decode_length_delimited(&mut rest).ok()?;
    }
    Some(input.len() - rest.len())
}

/// All pods of a file without its digest.
fn pods(input: &[u8]) -> Option<Vec<PodState>> {
    let mut rest = &input[whole_end(input)?..];
    let mut pods = Vec::new();
    while !rest.is_empty() {
        pods.push(PodState::decode_length_delimited(&mut rest).ok()?);
    }
    Some(pods)
}

/// Everything that a daemon which starts asks of it.
fn is_usable(state: &PodState) {
    let _ = state.added_at();
    assert!(state.added_at_instant() <= clock::now());
    let of = |known: &ContainerState| Container {
        spec_hash: known.spec_hash,
        ..Container::new(ContainerName::from(known.name.as_str()), ContainerKind::Regular, Probes::default())
    };
    let containers: Vec<Container> = state.containers.iter().map(of).collect();
    let mut pod = Pod::new(state.uid.as_str().into(), "default", "pod", containers);
    pod.readiness_gates = state.gates.iter().map(|gate| gate.condition_type.as_str().into()).collect();
    let _ = state.is_of_same_instances(&pod);
    assert!(state.gates(&pod).count() <= pod.readiness_gates.len());
    for pause in &state.pauses {
        for probe_type in ProbeType::ALL {
            let Some(paused) = state.paused(&pause.container, probe_type) else { continue };
            assert!(
                paused.until_at <= clock::now() + PAUSE_MAX && paused.since <= clock::wall().into(),
                "it lies ahead"
            );
        }
    }
    for condition in &state.conditions {
        let _ = (condition.status(), condition.since());
    }
    for known in &state.containers {
        let _ = state.container(&pod, &known.name);
        known.termination.iter().for_each(is_termination);
        for probe_type in ProbeType::ALL {
            let Some(probe) = known.probe(probe_type) else { continue };
            let _ = probe.since();
            if let Some(memory) = probe.memory(probe_type) {
                let worker = Worker::remembering(probe_type, ContainerId::from("fuzz://1"), memory);
                assert_eq!(worker.verdict(), Some(memory.verdict()));
            }
        }
    }
}

fn is_termination(known: &TerminationState) {
    let termination = known.termination();
    assert!(termination.reason.len() <= MESSAGE_BYTES_MAX && termination.message.len() <= MESSAGE_BYTES_MAX);
    assert!(known.backoff().current() <= STATE_BACKOFF_MAX);
    let updated = known.backoff().parts().map_or(Instant::ZERO, |(_, updated)| updated);
    assert!(termination.started_at.max(termination.finished_at).max(updated) <= clock::now(), "it lies ahead");
}

/// A changed copy whose lengths and number of pods are right again; `None` where there is nothing to change.
#[must_use]
pub fn mutate(input: &[u8], _dictionary: &str, len_max: usize, seed: u64) -> Option<Vec<u8>> {
    let mut draw = Draw::new(seed);
    let mut pods = pods(input)?;
    let mut whole = Whole::decode_length_delimited(input.get(HEADER_BYTES..)?).unwrap_or_default();
    match draw.below(8) {
        0 => THIS.clone_into(&mut whole.boot_id),
        1 => (whole.wall_ns, whole.monotonic_ns) = (number(&mut draw) as i64, number(&mut draw)),
        2 => whole.boot_id = text(&mut draw),
        _ => {}
    }
    for _ in 0..=draw.below(3) {
        change(&mut pods, &mut draw);
    }
    let mut output = input[..HEADER_BYTES - 4].to_vec();
    output.extend_from_slice(&(pods.len() as u32).to_le_bytes());
    if input[HEADER_BYTES - 5] >= 2 {
        whole.encode_length_delimited(&mut output).ok()?;
    }
    for pod in &pods {
        pod.encode_length_delimited(&mut output).ok()?;
    }
    (output.len() <= len_max).then_some(output)
}

fn change(pods: &mut Vec<PodState>, draw: &mut Draw) {
    if draw.below(4) == 0 {
        return edit_list(pods, draw);
    }
    let index = draw.below(pods.len());
    let Some(pod) = pods.get_mut(index) else { return };
    match draw.below(7) {
        0 => pod.uid = text(draw),
        1 => pod.added_at_ns = number(draw) as i64,
        2 => edit_list(&mut pod.conditions, draw),
        3 => edit_list(&mut pod.gates, draw),
        4 => edit_list(&mut pod.containers, draw),
        5 => {
            let (since_ns, until_ns) = (number(draw) as i64, number(draw) as i64);
            pod.pauses.push(PauseState { container: text(draw), probe_type: draw.below(4) as u32, since_ns, until_ns });
        }
        _ => {
            let index = draw.below(pod.containers.len());
            if let Some(container) = pod.containers.get_mut(index) {
                change_container(container, draw);
            }
        }
    }
    for gate in &mut pod.gates {
        gate.condition = pod.conditions.get(draw.below(4)).cloned();
    }
    for condition in &mut pod.conditions {
        if draw.below(2) == 0 {
            continue;
        }
        (condition.status, condition.since_ns) = (number(draw) as u32, number(draw) as i64);
    }
}

fn change_container(container: &mut ContainerState, draw: &mut Draw) {
    match draw.below(5) {
        0 => container.name = text(draw),
        1 => container.restart_count = number(draw) as u32,
        2 => edit_list(&mut container.probes, draw),
        3 => {
            let index = draw.below(container.probes.len());
            if let Some(probe) = container.probes.get_mut(index) {
                (probe.probe_type, probe.verdict) = (draw.below(5) as u32, draw.below(5) as u32);
                (probe.since_ns, probe.run) = (number(draw) as i64, number(draw) as u32);
            }
        }
        _ => {
            let end = container.termination.get_or_insert_default();
            (end.started_at_ns, end.finished_at_ns) = (number(draw) as i64, number(draw) as i64);
            (end.backoff_ms, end.backoff_at_ns) = (number(draw), number(draw) as i64);
            (end.started_ns, end.finished_ns, end.backoff_ns) = (number(draw), number(draw), number(draw));
            (end.exit_code, end.signal) = (number(draw) as i32, number(draw) as i32);
            (end.reason, end.message) = (text(draw), text(draw));
        }
    }
}

/// One more, one less, one twice.
fn edit_list<T: Clone + Default>(list: &mut Vec<T>, draw: &mut Draw) {
    let at = draw.below(list.len());
    match draw.below(3) {
        0 => list.insert(at, T::default()),
        1 if !list.is_empty() => drop(list.remove(at)),
        _ => list.extend(list.get(at).cloned()),
    }
}

fn number(draw: &mut Draw) -> u64 {
    let edges = [0, 1, 2, 3, 300_000, 1_795_000_000_000_000_000, u32::MAX.into(), i64::MAX as u64, u64::MAX];
    edges[draw.below(edges.len())].wrapping_add(draw.below(3) as u64).wrapping_sub(1)
}

fn text(draw: &mut Draw) -> String {
    let texts = ["", "a", "v1-crashing", "é", "\0", "OOMKilled"];
    texts[draw.below(texts.len())].repeat([1, 1, 1, 2, 200][draw.below(5)])
}
