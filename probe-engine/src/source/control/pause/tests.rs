use probe_core::id::ContainerName;
use probe_core::spec::ContainerKind;
use tokio::sync::mpsc;

use super::*;
use crate::results::Input;
use crate::results::fixture::{self, Bench, SOON, container, pod};

const LIVENESS: &[ProbeType] = &[ProbeType::Liveness];

fn choice(named: Option<&str>) -> Choice {
    let wanted = named.map(str::to_owned);
    let selects = move |pod: &Pod| wanted.as_deref().is_none_or(|wanted| *pod.name == *wanted);
    Choice { selects: Arc::new(selects), named: named.map(|name| ("default".to_owned(), name.to_owned())) }
}

/// Pods `web` (c, d: liveness) and `api` (c: readiness), and a manager that tells results.
async fn control() -> (Bench, Control) {
    let bench = Bench::start(16, 16);
    let regular = |name, probes| container(name, ContainerKind::Regular, probes);
    bench.add(&pod("u1", "web", [regular("c", LIVENESS), regular("d", LIVENESS)]), None).await;
    bench.add(&pod("u2", "api", [regular("c", &[ProbeType::Readiness])]), None).await;
    let (updates, mut taken) = mpsc::channel(1);
    let control = Control::new(updates, bench.results.clone());
    let inputs = bench.inputs.clone();
    tokio::spawn(async move {
        while let Some(PodUpdate::Pause(uid, pause, shown)) = taken.recv().await {
            if inputs.send(Input::Pause(uid, pause, shown)).await.is_err() {
                return;
            }
        }
    });
    (bench, control)
}

async fn refused(named: Option<&str>, container: Option<&str>, types: &[ProbeType]) -> String {
    let (_bench, control) = control().await;
    let types = if types.is_empty() { ProbeTypes::ALL } else { types.iter().copied().collect() };
    let pause = Pause { container: container.map(ContainerName::from), types, ..fixture::pause(true) };
    control.pause(&choice(named), pause, SOON).await.expect_err("it is not there").to_string()
}

#[tokio::test]
async fn what_is_chosen_is_paused_shown_and_counted_and_goes_on() {
    let (bench, control) = control().await;
    let count = |chosen: Result<Chosen, ControlError>| chosen.map(|chosen| (chosen.probes_len, chosen.pods_len));
    let paused = |bench: &Bench| {
        let results = bench.results.clone();
        async move { results.read(|node| node.paused(clock::now()).count).await.expect("the stage runs") }
    };
    assert_eq!(count(control.pause(&choice(Some("web")), fixture::pause(true), SOON).await), Ok((2, 1)));
    assert_eq!(paused(&bench).await, 2);
    assert_eq!(count(control.pause(&choice(None), fixture::pause(true), SOON).await), Ok((3, 2)));
    assert_eq!(paused(&bench).await, 3);
    let one = Pause { container: Some(ContainerName::from("d")), ..fixture::pause(false) };
    assert_eq!(count(control.pause(&choice(None), one.clone(), SOON).await), Ok((1, 1)));
    assert_eq!(count(control.pause(&choice(None), one, SOON).await), Ok((0, 0)), "it goes on already");
    let trigger = |name, container, probe_type| control.trigger("default", name, container, probe_type, SOON);
    let refused = trigger("web", "c", ProbeType::Liveness).await.expect_err("it is paused").to_string();
    assert!(refused.starts_with("the livenessProbe of container c of pod default/web is paused until 20"), "{refused}");
    assert!(refused.ends_with(": resume it first"), "{refused}");
    assert_eq!(count(control.pause(&choice(None), fixture::pause(false), SOON).await), Ok((2, 2)));
    assert_eq!(paused(&bench).await, 0);
}

#[tokio::test]
async fn one_that_another_replaces_at_once_was_shown_all_the_same() {
    let (bench, control) = control().await;
    let choice = choice(None);
    let (first, second, third) = tokio::join!(
        control.pause(&choice, fixture::pause(true), SOON),
        control.pause(&choice, Pause { types: ProbeTypes::ALL, ..fixture::pause(false) }, SOON),
        control.pause(&choice, fixture::pause(true), SOON),
    );
    assert_eq!((first.map(|chosen| chosen.probes_len), third.map(|chosen| chosen.probes_len)), (Ok(3), Ok(3)));
    second.expect("whatever was paused when it looked goes on");
    drop(bench);
}

#[tokio::test]
async fn nothing_selected_is_no_error_and_what_is_named_must_be_there() {
    let (_bench, control) = control().await;
    let nobody = Choice { selects: Arc::new(|_| false), named: None };
    assert_eq!(control.pause(&nobody, fixture::pause(true), SOON).await, Ok(Chosen::default()));
    let unknown = refused(Some("wbe"), None, &[]).await;
    assert_eq!(unknown, "pod default/wbe not found (pods there: api, web)");
    let unknown = refused(Some("web"), Some("x"), &[]).await;
    assert_eq!(unknown, "pod default/web has no container \"x\" (it has: c, d)");
    let unknown = refused(Some("web"), Some("c"), &[ProbeType::Startup]).await;
    assert_eq!(unknown, "container c of pod default/web has no startupProbe (it has: livenessProbe)");
    let unknown = refused(Some("web"), None, &[ProbeType::Startup, ProbeType::Readiness]).await;
    assert_eq!(unknown, "none of the containers of pod default/web has a startupProbe or readinessProbe");
    assert_eq!(refused(None, Some("x"), &[]).await, "none of the 2 pods chosen has a container \"x\"");
    assert_eq!(refused(None, None, &[ProbeType::Startup]).await, "none of the 2 pods chosen has a startupProbe");
}
