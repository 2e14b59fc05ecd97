//! What the daemon before this one knew.

use super::*;
use crate::state::{ContainerState as ContainerPast, TerminationState};

/// Of container `a`, restarted three times, with a back-off of 40 s since its newest known end, which was `ago` seconds ago.
fn past(ago: u64, has_ended: bool, is_waiting: bool, exit_code: i32) -> ContainerPast {
    let ended_ns = clock::now().saturating_sub(Duration::from_secs(ago)).as_nanos();
    let termination = TerminationState {
        exit_code,
        reason: "Error".to_owned(),
        started_ns: ended_ns,
        finished_ns: ended_ns,
        backoff_ms: 40_000,
        backoff_ns: ended_ns,
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

#[tokio::test(start_paused = true)]
async fn init_containers_are_run_again_and_what_comes_after_them_comes() {
    let mut world = World::new();
    let mut pod = pod_of([container("b")]);
    pod.init_containers = Arc::new([Container::new("a".into(), ContainerKind::Init, Probes::default())]);
    world.add_with(&Arc::new(pod), past(5, true, false, 0), false).await;
    world.state(running).await;
    world.exit("fake://a.3", 0).await;
    world.status(|s| running(&s.containers[1].state)).await;
    assert_eq!(world.asked(), ["start a 3", "start b 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_of_a_pod_whose_work_was_done_is_not_left_alone() {
    let mut world = World::new();
    let mut pod = pod_of([container("a")]);
    pod.restart_policy = RestartPolicy::OnFailure;
    pod.init_containers = Arc::new([Container::new("s".into(), ContainerKind::Sidecar, Probes::default())]);
    world.add_with(&Arc::new(pod), past(5, true, false, 0), false).await;
    let status = world.status(|s| ended(&s.containers[0].state)).await;
    assert!(ended(&status.containers[1].state));
    assert_eq!(world.asked(), ["start s 0", "stop fake://s.0 30s"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_to_be_started_again_is_whatever_its_exit_code() {
    let mut world = World::new();
    // Killed by a probe, ended well, its restart on its way.
    world.add_with(&pod(&["a"], RestartPolicy::OnFailure), past(60, false, true, 0), false).await;
    world.instance(4).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_over_under_another_policy_is_started() {
    let mut world = World::new();
    world.add_with(&pod(&["a"], RestartPolicy::Always), past(60, true, false, 0), true).await;
    world.instance(4).await;
}
