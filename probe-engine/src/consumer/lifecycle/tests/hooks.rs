//! postStart and preStop.

use probe_core::spec::{Hook, Hooks};

use super::*;

fn exec(command: &str) -> Option<Hook> {
    Some(Hook::Exec(Exec { command: Box::new([command.into()]) }))
}

fn with_hooks(name: &str, post_start: Option<Hook>, pre_stop: Option<Hook>) -> Container {
    Container { hooks: Some(Arc::new(Hooks { post_start, pre_stop })), ..container(name) }
}

fn graceful(containers: impl IntoIterator<Item = Container>, grace_seconds: u64) -> Arc<Pod> {
    let mut pod = pod_of(containers);
    pod.termination_grace_period_seconds = grace_seconds;
    Arc::new(pod)
}

const STARTED: [&str; 2] = ["Created: Created container: a", "Started: Started container a"];

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_holds_later_containers_back_and_hides_its_own_until_it_is_done() {
    let mut world = World::new();
    let begun = world.clock.now();
    world.add(&graceful([with_hooks("a", Some(Hook::Sleep(7)), None), container("b")], 30)).await;
    assert_eq!(world.events().await, STARTED);
    let shown = world.state(running).await;
    assert_eq!((world.clock.now() - begun).as_secs(), 7, "shown once its hook is done");
    assert!(!running(&shown.containers[1].state));
    let [_, started] = world.events().await;
    assert_eq!(started, "Started: Started container b");
    assert_eq!(world.asked(), ["start a 0", "start b 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_that_fails_kills_and_counts_as_a_start() {
    let mut world = World::new();
    world.add(&graceful([with_hooks("a", exec("fail"), None), container("b")], 30)).await;
    let failed = ["FailedPostStartHook: PostStartHook failed", "Killing: FailedPostStartHook"];
    assert_eq!(world.events::<4>().await, [STARTED, failed].concat()[..]);
    // The kill is part of the sync: what comes after it waits. Then the first restart, at once.
    let [created, started] = world.events().await;
    assert_eq!([created, started], ["Created: Created container: b", "Started: Started container b"]);
    let status = world.state(waiting).await;
    let ContainerState::Waiting(why) = &status.containers[0].state else { unreachable!("it waits") };
    assert_eq!(&*why.reason, "PostStartHookError");
    assert!(why.message.starts_with("Exec lifecycle hook ([fail]) for Container \"a\""), "{}", why.message);
    assert_eq!(world.events::<4>().await, [STARTED, failed].concat()[..]);
    assert_eq!(world.event().await, BACK_OFF);
    let status = world.state(|s| matches!(s, ContainerState::Waiting(why) if &*why.reason == "CrashLoopBackOff")).await;
    assert_eq!(status.containers[0].restart_count, 1);
    assert_eq!(status.containers[0].last_termination.as_ref().unwrap().exit_code, 143);
    let asked = world.asked();
    assert_eq!(asked[..5], ["start a 0", "exec fake://a.0 fail", "stop fake://a.0 30s", "start b 0", "start a 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_hook_fails_with_its_instance() {
    let mut world = World::new();
    world.add(&graceful([with_hooks("a", Some(Hook::Sleep(100)), None)], 30)).await;
    assert_eq!(world.events().await, STARTED);
    world.exit("fake://a.0", 1).await;
    assert_eq!(world.event().await, "FailedPostStartHook: PostStartHook failed");
    assert_eq!(world.events().await, STARTED, "the first restart is at once");
    assert_eq!(world.stats.sleeps_cut_off(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_runs_before_the_stop_signal_and_is_taken_off_the_grace() {
    let mut world = World::new();
    let probe = Probes { liveness: exec_probe(Some(10)), ..Probes::default() };
    let pod = graceful([Container { probes: probe, ..with_hooks("a", None, Some(Hook::Sleep(4))) }], 30);
    world.add(&pod).await;
    world.instance(0).await;
    world.fail("a", "fake://a.0", ProbeType::Liveness).await;
    let begun = world.clock.now();
    world.instance(1).await;
    assert_eq!((world.clock.now() - begun).as_secs(), 4);
    assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 6s", "start a 1"]);
    let [created, started, killing] = world.events().await;
    assert_eq!([created.as_str(), started.as_str()], STARTED);
    assert_eq!(killing, "Killing: Container a failed liveness probe, will be restarted");
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_that_fails_is_told_and_the_kill_goes_on() {
    let mut world = World::new();
    world.add(&graceful([with_hooks("a", None, exec("fail"))], 30)).await;
    world.instance(0).await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    let [_, _, killing, failed] = world.events().await;
    assert_eq!([killing, failed], ["Killing: Stopping container a", "FailedPreStopHook: PreStopHook failed"]);
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!(world.asked(), ["start a 0", "exec fake://a.0 fail", "stop fake://a.0 30s", "remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_hung_pre_stop_hook_is_waited_for_as_long_as_the_grace_and_ends_with_the_container() {
    let mut world = World::new();
    world.add(&graceful([with_hooks("a", None, exec("hang"))], 30)).await;
    world.instance(0).await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    let begun = world.clock.now();
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!((world.clock.now() - begun).as_secs(), 30);
    assert_eq!(world.asked(), ["start a 0", "exec fake://a.0 hang", "stop fake://a.0 2s", "remove uid-1"]);
    let [.., killing, failed] = world.events::<4>().await;
    assert_eq!([killing, failed], ["Killing: Stopping container a", "FailedPreStopHook: PreStopHook failed"]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecars_hook_runs_beside_the_others_end_and_its_turn_is_waited_for_after_it() {
    let mut world = World::new();
    let mut pod = pod_of([with_hooks("a", None, Some(Hook::Sleep(5)))]);
    let sidecar = Container::new("s".into(), ContainerKind::Sidecar, Probes::default());
    let hooks = Hooks { post_start: None, pre_stop: Some(Hook::Sleep(2)) };
    pod.init_containers = Arc::new([Container { hooks: Some(Arc::new(hooks)), ..sidecar }]);
    world.add(&Arc::new(pod)).await;
    world.status(|s| s.containers.iter().all(|c| running(&c.state))).await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!(world.asked(), ["start s 0", "start a 0", "stop fake://a.0 25s", "stop fake://s.0 25s", "remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_removed_during_a_post_start_hook_does_not_wait_for_it() {
    let mut world = World::new();
    world.add(&graceful([with_hooks("a", exec("hang"), None), container("b")], 30)).await;
    assert_eq!(world.events().await, STARTED);
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    let [failed, killing] = world.events().await;
    assert_eq!([failed, killing], ["FailedPostStartHook: PostStartHook failed", "Killing: Stopping container a"]);
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!(world.asked(), ["start a 0", "exec fake://a.0 hang", "stop fake://a.0 30s", "remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_during_a_kill_runs_the_pre_stop_hook_only_once() {
    let mut world = World::new();
    let probe = Probes { liveness: exec_probe(None), ..Probes::default() };
    world.add(&graceful([Container { probes: probe, ..with_hooks("a", None, exec("well")) }], 30)).await;
    world.instance(0).await;
    world.fail("a", "fake://a.0", ProbeType::Liveness).await;
    let [.., killing] = world.events::<3>().await;
    assert_eq!(killing, "Killing: Container a failed liveness probe, will be restarted");
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    assert_eq!(world.event().await, "Killing: Stopping container a");
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!(world.asked(), ["start a 0", "exec fake://a.0 well", "stop fake://a.0 30s", "remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_is_said_again_can_only_make_the_grace_shorter() {
    let mut world = World::new();
    world.runtime.stubborn.lock().unwrap().insert("a");
    world.add(&graceful([container("a")], 300)).await;
    world.instance(0).await;
    world.send(LifecycleInput::Remove("uid-1".into(), Some(100))).await;
    let begun = world.clock.now();
    assert_eq!(world.events::<3>().await[2], "Killing: Stopping container a");
    world.send(LifecycleInput::Remove("uid-1".into(), Some(200))).await;
    world.send(LifecycleInput::Remove("uid-1".into(), Some(20))).await;
    world.state(ended).await;
    assert!((20..22).contains(&(world.clock.now() - begun).as_secs()));
    assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 100s", "stop fake://a.0 20s"]);
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_does_not_wait_for_hooks() {
    let mut world = World::new();
    world.add(&graceful([with_hooks("a", None, exec("hang"))], 30)).await;
    world.instance(0).await;
    world.send(LifecycleInput::Shutdown { now: false }).await;
    assert_eq!(world.events::<3>().await[2], "Killing: Stopping container a");
    world.send(LifecycleInput::Shutdown { now: true }).await;
    let begun = world.clock.now();
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert!((world.clock.now() - begun).as_secs() < 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_told_while_a_hook_runs_kills_after_it() {
    let mut world = World::new();
    let probe = Probes { liveness: exec_probe(None), ..Probes::default() };
    let probed = Container { probes: probe, ..container("b") };
    world.add(&graceful([with_hooks("a", Some(Hook::Sleep(7)), None), probed], 30)).await;
    world.status(|s| s.containers.iter().all(|c| running(&c.state))).await;
    world.exit("fake://a.0", 1).await;
    // The restart of `a`, with its hook, is under way.
    while !world.asked().contains(&"start a 1".to_owned()) {
        tokio::task::yield_now().await;
    }
    let begun = world.clock.now();
    world.fail("b", "fake://b.0", ProbeType::Liveness).await;
    let status = world.status(|s| s.containers[1].restart_count == 1).await;
    assert_eq!((world.clock.now() - begun).as_secs(), 7);
    assert!(status.containers.iter().all(|c| running(&c.state)));
}
