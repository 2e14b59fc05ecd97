use super::*;
use crate::results::fixture::{SOON, container, pod};

fn new_event(uid: &str, message: &str) -> NewEvent {
    let sidecar = container("side", ContainerKind::Sidecar, &[]);
    NewEvent {
        pod: pod(uid, uid, [container("c", ContainerKind::Regular, &[]), sidecar]),
        container: Some(ContainerName::from("c")),
        event_type: EventType::Warning,
        reason: "Unhealthy",
        message: message.to_owned(),
        probe_type: Some(ProbeType::Liveness),
        run: 1,
        threshold: 3,
        cause: None,
        at: clock::now(),
    }
}

async fn next(watch: &mut EventWatch) -> Watched {
    tokio::time::timeout(SOON, watch.next()).await.expect("in time").expect("the stage runs")
}

#[test]
fn repeats_are_one_entry_that_counts_and_moves_to_the_end() {
    let mut history = History::default();
    let first = history.push(new_event("a", "no"));
    history.push(new_event("a", "other"));
    let again = history.push(NewEvent { run: 2, ..new_event("a", "no") });
    assert_eq!((again.count, again.run, again.sequence), (2, 2, 3));
    assert_eq!((&again.name, again.first_at), (&first.name, first.first_at));
    let kept: Vec<(u64, u32)> = history.since(0).map(|event| (event.sequence, event.count)).collect();
    assert_eq!(kept, [(2, 1), (3, 2)]);
}

#[test]
fn the_same_text_of_another_pod_container_or_reason_is_another_series() {
    let mut history = History::default();
    history.push(new_event("a", "no"));
    history.push(new_event("b", "no"));
    history.push(NewEvent { container: Some(ContainerName::from("side")), ..new_event("a", "no") });
    history.push(NewEvent { reason: "ProbeWarning", ..new_event("a", "no") });
    assert!(history.since(0).all(|event| event.count == 1));
    assert_eq!(history.since(0).count(), 4);
}

#[test]
fn the_oldest_series_make_room_and_begin_anew_when_they_come_again() {
    let mut history = History::default();
    for index in 0..=limits::EVENTS_LEN_MAX {
        history.push(new_event("a", &index.to_string()));
    }
    assert_eq!(history.since(0).count(), limits::EVENTS_LEN_MAX);
    assert_eq!(history.since(0).next().map(|event| event.sequence), Some(2));
    assert!(history.has_lost(0) && !history.has_lost(1));
    assert_eq!(history.push(new_event("a", "0")).count, 1);
    assert_eq!(history.series.len(), limits::EVENTS_LEN_MAX);
}

#[test]
fn the_message_is_cut_between_characters_and_the_field_path_tells_the_list() {
    let mut history = History::default();
    let long = format!("x{}", "ä".repeat(limits::MESSAGE_BYTES_MAX));
    let event = history.push(new_event("a", &long));
    assert_eq!(event.message.len(), limits::MESSAGE_BYTES_MAX - 1);
    assert_eq!(event.field_path().as_deref(), Some("spec.containers{c}"));
    let sidecar = history.push(NewEvent { container: Some(ContainerName::from("side")), ..new_event("a", "") });
    assert_eq!(sidecar.field_path().as_deref(), Some("spec.initContainers{side}"));
    let whole = history.push(NewEvent { container: None, ..new_event("a", "") });
    assert_eq!(whole.field_path(), None);
}

#[tokio::test]
async fn a_watcher_gets_what_is_kept_then_what_happens_each_occurrence() {
    let (sender, handle, inbox) = channel();
    let stage = tokio::spawn(run(inbox));
    sender.send(new_event("a", "no")).await.expect("it runs");
    let mut watch = loop {
        let watch = handle.watch(0).await.expect("it runs");
        if !watch.backlog.is_empty() {
            break watch;
        }
    };
    assert!(matches!(next(&mut watch).await, Watched::Event(event) if event.count == 1));
    assert_eq!(next(&mut watch).await, Watched::CaughtUp);
    for count in [2, 3] {
        sender.send(new_event("a", "no")).await.expect("it runs");
        assert!(matches!(next(&mut watch).await, Watched::Event(event) if event.count == count));
    }
    assert_eq!(watch.sequence(), 3);
    let resumed = handle.watch(2).await.expect("it runs");
    assert_eq!(resumed.backlog.iter().map(|event| event.sequence).collect::<Vec<_>>(), [3]);
    drop(sender);
    tokio::time::timeout(SOON, stage).await.expect("in time").expect("no panic");
    assert_eq!(watch.next().await, None);
    assert_eq!(handle.history().await, Err(EventsEnded));
}

#[tokio::test]
async fn a_slow_watcher_is_told_what_it_lost_and_finds_it_in_history() {
    let (sender, handle, inbox) = channel();
    tokio::spawn(run(inbox));
    let mut watch = handle.watch(0).await.expect("it runs");
    assert_eq!(next(&mut watch).await, Watched::CaughtUp);
    let extra = 10;
    for index in 0..limits::EVENT_WATCH_LAG_MAX + extra {
        sender.send(new_event("a", &index.to_string())).await.expect("it runs");
    }
    while handle.history().await.expect("it runs").len() < limits::EVENT_WATCH_LAG_MAX + extra {}
    assert_eq!(next(&mut watch).await, Watched::Lost(extra as u64));
    let mut again = handle.watch(watch.sequence()).await.expect("it runs");
    assert!(matches!(next(&mut again).await, Watched::Event(event) if event.sequence == 1));
}

#[tokio::test]
async fn a_place_from_an_earlier_daemon_is_lost_and_begins_with_all_that_is_kept() {
    let (sender, handle, inbox) = channel();
    tokio::spawn(run(inbox));
    sender.send(new_event("a", "no")).await.expect("it runs");
    while handle.history().await.expect("it runs").is_empty() {}
    let mut watch = handle.watch(1_000).await.expect("it runs");
    assert_eq!(next(&mut watch).await, Watched::Lost(0));
    assert!(matches!(next(&mut watch).await, Watched::Event(event) if event.sequence == 1));
}
