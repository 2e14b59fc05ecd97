//! Init containers and sidecars: whose turn it is, at the beginning and at the end.

use super::*;

fn of_kind(name: &str, kind: ContainerKind) -> Container {
    Container::new(name.into(), kind, Probes::default())
}

/// These init containers, and a regular container `a`.
fn with_init(init: Vec<Container>, restart_policy: RestartPolicy) -> Pod {
    let mut pod = pod_of([container("a")]);
    pod.init_containers = init.into();
    pod.restart_policy = restart_policy;
    pod
}

impl World {
    async fn say_started(&self, container: &str, id: &str) {
        let started =
            LifecycleInput::Started { pod: "uid-1".into(), container: container.into(), container_id: id.into() };
        self.send(started).await;
    }

    /// Until the container of this name runs.
    async fn runs(&mut self, name: &str) -> Arc<PodStatus> {
        self.status(|s| s.containers.iter().any(|c| c.name.as_str() == name && running(&c.state))).await
    }

    async fn has_ended(&mut self, name: &str) -> Arc<PodStatus> {
        self.status(|s| s.containers.iter().any(|c| c.name.as_str() == name && ended(&c.state))).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_container_completes_before_the_next_one_begins() {
    let mut world = World::new();
    let init = ["i", "j"].map(|name| of_kind(name, ContainerKind::Init)).into();
    world.add(&Arc::new(with_init(init, RestartPolicy::Always))).await;
    let status = world.runs("i").await;
    assert_eq!(status.phase, PodPhase::Pending);
    let ContainerState::Waiting(why) = &status.containers[2].state else { unreachable!("a waits") };
    assert_eq!(&*why.reason, "PodInitializing");
    assert_eq!(world.asked(), ["start i 0"]);
    world.exit("fake://i.0", 0).await;
    world.runs("j").await;
    assert_eq!(world.asked(), ["start j 0"]);
    world.exit("fake://j.0", 0).await;
    let status = world.runs("a").await;
    assert_eq!((status.phase, world.asked()), (PodPhase::Running, vec!["start a 0".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_container_is_started_again_unless_the_policy_is_never() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        let mut world = World::new();
        world.add(&Arc::new(with_init(vec![of_kind("i", ContainerKind::Init)], policy))).await;
        world.runs("i").await;
        world.exit("fake://i.0", 1).await;
        if policy == RestartPolicy::Never {
            assert_eq!(world.has_ended("i").await.phase, PodPhase::Failed);
            assert_eq!(world.asked(), ["start i 0"]);
            continue;
        }
        world.instance(1).await;
        world.exit("fake://i.1", 1).await;
        world.instance(2).await;
        world.exit("fake://i.2", 0).await;
        world.runs("a").await;
        assert_eq!(world.asked(), ["start i 0", "start i 1", "start i 2", "start a 0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_holds_the_others_back_until_its_startup_probe_has_succeeded() {
    let mut world = World::new();
    let mut slow = of_kind("s", ContainerKind::Sidecar);
    slow.probes.startup = exec_probe(None);
    let init = vec![slow, of_kind("t", ContainerKind::Sidecar)];
    world.add(&Arc::new(with_init(init, RestartPolicy::Always))).await;
    world.runs("s").await;
    world.say_started("s", "fake://s.7").await;
    world.fail("s", "fake://s.0", ProbeType::Startup).await;
    world.instance(1).await;
    // The success of an instance that is gone says nothing of this one.
    world.say_started("s", "fake://s.0").await;
    world.say_started("s", "fake://s.1").await;
    let status = world.runs("a").await;
    assert_eq!(status.phase, PodPhase::Running);
    let asked = world.asked();
    assert_eq!(asked, ["start s 0", "stop fake://s.0 30s", "start s 1", "start t 0", "start a 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_ends_later_is_started_again_and_holds_nobody_back() {
    let mut world = World::new();
    let init = vec![of_kind("s", ContainerKind::Sidecar), of_kind("i", ContainerKind::Init)];
    world.add(&Arc::new(with_init(init, RestartPolicy::Never))).await;
    world.runs("i").await;
    for n in 0..2 {
        world.exit(&format!("fake://s.{n}"), 0).await;
        if n == 0 {
            world.instance(1).await;
        }
    }
    // It waits 10 s for its next start; what comes after it does not.
    world.exit("fake://i.0", 0).await;
    world.runs("a").await;
    assert_eq!(world.asked(), ["start s 0", "start i 0", "start s 1", "start a 0"]);
    world.instance(2).await;
}

#[tokio::test(start_paused = true)]
async fn sidecars_are_stopped_when_the_regular_containers_have_ended_for_good() {
    let mut world = World::new();
    let init = ["s", "t"].map(|name| of_kind(name, ContainerKind::Sidecar)).into();
    world.add(&Arc::new(with_init(init, RestartPolicy::Never))).await;
    world.runs("a").await;
    world.asked();
    world.exit("fake://a.0", 0).await;
    let status = world.has_ended("s").await;
    assert_eq!((status.phase, status.deleting), (PodPhase::Succeeded, false));
    assert_eq!(world.asked(), ["stop fake://t.0 30s", "stop fake://s.0 30s"]);
    let events: [String; 8] = world.events().await;
    assert_eq!(events[6..], ["Killing: Stopping container s", "Killing: Stopping container t"]);
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!(world.asked(), ["remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_pod_ends_its_sidecars_last_and_from_what_is_left_of_their_grace() {
    let mut world = World::new();
    world.runtime.stubborn.lock().unwrap().insert("t");
    let init = ["s", "t"].map(|name| of_kind(name, ContainerKind::Sidecar)).into();
    let mut pod = with_init(init, RestartPolicy::Always);
    pod.termination_grace_period_seconds = 20;
    world.add(&Arc::new(pod)).await;
    world.runs("a").await;
    world.asked();
    let asked_at = world.clock.now();
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    // `t` uses up its grace period, and with it that of `s`, which is asked at its end and gets the least there is.
    assert_eq!((world.clock.now() - asked_at).as_secs(), 20);
    assert_eq!(world.asked(), ["stop fake://a.0 20s", "stop fake://t.0 20s", "stop fake://s.0 2s", "remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_removed_while_it_initializes_starts_nothing_more() {
    let mut world = World::new();
    let init = vec![of_kind("s", ContainerKind::Sidecar), of_kind("i", ContainerKind::Init)];
    world.add(&Arc::new(with_init(init, RestartPolicy::Always))).await;
    world.runs("i").await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    let asked = world.asked();
    assert_eq!(asked[..2], ["start s 0", "start i 0"]);
    assert!(asked.contains(&"stop fake://s.0 30s".to_owned()) && asked.contains(&"stop fake://i.0 30s".to_owned()));
    assert!(!asked.iter().any(|asked| asked.starts_with("start a")), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_waits_for_nobodys_turn() {
    let mut world = World::new();
    world.runtime.stubborn.lock().unwrap().insert("a");
    let init = vec![of_kind("s", ContainerKind::Sidecar)];
    world.add(&Arc::new(with_init(init, RestartPolicy::Always))).await;
    world.runs("a").await;
    let asked_at = world.clock.now();
    world.send(LifecycleInput::Shutdown { now: false }).await;
    world.send(LifecycleInput::Shutdown { now: true }).await;
    world.status(|s| s.containers.iter().all(|c| ended(&c.state))).await;
    assert_eq!(world.clock.now(), asked_at);
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_restarts_a_container_that_ends_well_under_on_failure() {
    let mut world = World::new();
    world.runtime.polite.lock().unwrap().insert("a");
    world.add(&pod(&["a"], RestartPolicy::OnFailure)).await;
    world.instance(0).await;
    world.fail("a", "fake://a.0", ProbeType::Liveness).await;
    let status = world.instance(1).await;
    assert_eq!(
        (status.phase, status.containers[0].last_termination.as_ref().unwrap().exit_code),
        (PodPhase::Running, 0)
    );
    world.fail("a", "fake://a.1", ProbeType::Liveness).await;
    // Once it has ended by itself, it has.
    world.instance(2).await;
    world.exit("fake://a.2", 0).await;
    assert_eq!(world.has_ended("a").await.phase, PodPhase::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_init_container_that_has_failed_for_good_ends_the_sidecars() {
    let mut world = World::new();
    let init = vec![of_kind("s", ContainerKind::Sidecar), of_kind("i", ContainerKind::Init)];
    world.add(&Arc::new(with_init(init, RestartPolicy::Never))).await;
    world.runs("i").await;
    world.exit("fake://i.0", 1).await;
    let status = world.has_ended("s").await;
    assert_eq!(status.phase, PodPhase::Failed);
    assert_eq!(world.asked(), ["start s 0", "start i 0", "stop fake://s.0 30s"]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_waits_for_the_end_of_what_is_still_being_started() {
    let mut world = World::new();
    world.add(&Arc::new(with_init(vec![of_kind("s", ContainerKind::Sidecar)], RestartPolicy::Always))).await;
    world.runs("s").await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    let stops: Vec<String> = world.asked().into_iter().filter(|asked| asked.starts_with("stop")).collect();
    assert_eq!(stops, ["stop fake://a.0 30s", "stop fake://s.0 30s"]);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_made_waits_for_its_turn_again() {
    let mut world = World::new();
    world.runtime.refused.lock().unwrap().insert("i");
    let init = vec![of_kind("s", ContainerKind::Sidecar), of_kind("i", ContainerKind::Init)];
    world.add(&Arc::new(with_init(init, RestartPolicy::Always))).await;
    world.status(|s| waiting(&s.containers[1].state)).await;
    world.runtime.refused.lock().unwrap().clear();
    world.exit("fake://s.0", 1).await;
    world.instance(1).await;
    // tidy: how long the instance lives, in paused time: its next start comes after the retry of `i`
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.exit("fake://s.1", 1).await;
    world.instance(2).await;
    world.runs("i").await;
    assert_eq!(world.asked(), ["start s 0", "start i 0", "start s 1", "start s 2", "start i 0"]);
}
