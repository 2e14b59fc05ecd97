//! What the daemon before this one knew.

use super::*;
use crate::state::{ContainerState as ContainerPast, TerminationState};

/// Of container `a`, restarted three times, with a back-off of 40 s since its newest known end, which was `ago` seconds ago.
fn past(ago: u64, has_ended: bool, is_waiting: bool, exit_code: i32) -> ContainerPast {
    let ended_at_ns =
        i64::try_from(clock::wall().as_nanosecond()).unwrap() - i64::try_from(ago).unwrap() * 1_000_000_000;
    let termination = TerminationState {
        exit_code,
        reason: "Error".to_owned(),
        started_at_ns: ended_at_ns,
        finished_at_ns: ended_at_ns,
        backoff_ms: 40_000,
        backoff_at_ns: ended_at_ns,
        ..TerminationState::default()
    };
    ContainerPast {
        name: "a".to_owned(),
        restart_count: 3,
        termination: Some(termination),
        has_ended,
        is_waiting,
        ..ContainerPast::default()
    }
}

impl World {
    async fn add_with(&self, pod: &Arc<Pod>, container: ContainerPast, is_over: bool) {
        let past = PodState { uid: "uid-1".to_owned(), containers: vec![container], is_over, ..PodState::default() };
        self.send(LifecycleInput::Add(Arc::clone(pod), Some(Arc::new(past)))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_ran_is_started_in_its_place_with_its_count_and_its_back_off() {
    let mut world = World::new();
    world.add_with(&pod(&["a"], RestartPolicy::Always), past(5, false, false, 1), false).await;
    let status = world.state(running).await;
    assert_eq!((status.containers[0].restart_count, world.asked()), (3, vec!["start a 3".to_owned()]));
    assert_eq!(status.containers[0].last_termination.as_ref().unwrap().exit_code, 1);
    let ended_at = world.clock.now();
    world.exit("fake://a.3", 1).await;
    let status = world.instance(4).await;
    assert_eq!((world.clock.now() - ended_at).as_secs(), 40, "the wait that was in force");
    let backoff = &status.containers[0].last_termination.as_ref().unwrap().backoff;
    assert_eq!(backoff.current().as_secs(), 80);
}

#[tokio::test(start_paused = true)]
async fn what_waited_goes_on_waiting() {
    let mut world = World::new();
    let begun = world.clock.now();
    world.add_with(&pod(&["a"], RestartPolicy::Always), past(5, false, true, 1), false).await;
    let status = world.state(waiting).await;
    assert_eq!(status.containers[0].restart_count, 3);
    world.instance(4).await;
    assert!((34..=35).contains(&(world.clock.now() - begun).as_secs()));
}

#[tokio::test(start_paused = true)]
async fn what_had_ended_for_good_stays_so() {
    let mut world = World::new();
    let pod = pod(&["a"], RestartPolicy::OnFailure);
    world.add_with(&pod, past(5, true, false, 0), true).await;
    let status = world.state(ended).await;
    assert_eq!((status.phase, world.asked()), (PodPhase::Succeeded, Vec::<String>::new()));
    let mut world = World::new();
    let mut both = pod_of([container("a"), container("b")]);
    both.restart_policy = RestartPolicy::OnFailure;
    world.add_with(&Arc::new(both), past(5, true, false, 0), false).await;
    let status = world.status(|s| ended(&s.containers[0].state) && running(&s.containers[1].state)).await;
    assert_eq!((status.phase, world.asked()), (PodPhase::Running, vec!["start b 0".to_owned()]));
}
