use std::collections::HashSet;

use tokio::sync::mpsc;

use super::sync::{Desired, SyncProblem, Synced, TooMany};
use super::*;
use crate::results::Input;
use crate::results::fixture::Bench;
use crate::source::SourceKind;
use crate::source::parse::{RuntimeKind, Strictness};

/// A source over a results stage, with a manager that takes in what it is told.
struct World {
    source: ApiSource,
    bench: Bench,
    /// What the manager was told besides.
    synced: mpsc::Receiver<bool>,
}

impl World {
    fn new(runtime: RuntimeKind) -> Self {
        let bench = Bench::start_with(&[NAME]);
        let config = ManifestConfig {
            paths: Vec::new(),
            strictness: Strictness::Run,
            runtime,
            ignore_unsupported: false,
            memory_limits: false,
        };
        let (updates, mut taken) = mpsc::channel(4);
        let (told, synced) = mpsc::channel(4);
        let inputs = bench.inputs.clone();
        tokio::spawn(async move {
            let mut there: HashSet<PodUid> = HashSet::new();
            while let Some(update) = taken.recv().await {
                match update {
                    PodUpdate::Api(ApiUpdate::Add(pods, answer)) => {
                        let mut answers = Vec::new();
                        for pod in pods {
                            let is_new = there.insert(pod.uid.clone());
                            answers.push(Ok(if is_new { Added::New } else { Added::Known }));
                            let (slots, source) = (crate::manager::slots_of(&pod), SourceKind::Api);
                            if is_new {
                                let added = Input::Added { pod, slots, shard: None, status: None, past: None, source };
                                inputs.send(added).await.expect("the stage runs");
                            }
                        }
                        answer.send(answers).expect("it is waited for");
                    }
                    PodUpdate::Api(ApiUpdate::Desired(desired, answer)) => {
                        let undesired: Vec<PodUid> = there.difference(&desired).cloned().collect();
                        for uid in &undesired {
                            there.remove(uid);
                            inputs.send(Input::Removed(uid.clone())).await.expect("the stage runs");
                        }
                        answer.send(undesired.len()).expect("it is waited for");
                    }
                    PodUpdate::Synced { source: NAME, is_whole } => told.send(is_whole).await.expect("room"),
                    other => panic!("not asked for: {other:?}"),
                }
            }
        });
        let source = ApiSource::new(updates, bench.results.clone(), config, false);
        Self { source, bench, synced }
    }

    async fn sync(&self, manifests: &[&str]) -> Synced {
        let desired = Desired::default().read(&self.source, manifests.iter().copied()).expect("not too many");
        self.source.sync(desired, || false).await.expect("the manager runs")
    }

    async fn uids(&self) -> Vec<String> {
        let uids = |node: &crate::results::Node| node.pods.values().map(|r| r.pod.uid.to_string()).collect::<Vec<_>>();
        let mut uids = self.bench.results.read(uids).await.expect("it runs");
        uids.sort_unstable();
        uids
    }
}

fn manifest(uid: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: {uid}}}\nspec:\n  containers:\n  - name: app\n    \
         livenessProbe: {{exec: {{command: [cat, /healthy]}}}}\n"
    )
}

fn problems(unreadable: &Unreadable) -> Vec<String> {
    unreadable.problems.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_text_is_one_pod_or_every_reason_why_not_by_line_and_path() {
    let world = World::new(RuntimeKind::External);
    let (pod, warnings) = world.source.read(&manifest("u1", "web")).expect("a pod");
    assert_eq!((pod.uid.as_str(), &*pod.name, warnings.len()), ("u1", "web", 0), "commands are the embedder's to run");
    let json =
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}]}}"#;
    assert!(world.source.read(json).is_ok());
    let wrong =
        manifest("u1", "web").replace("command: [cat, /healthy]", "command: []").replace("name: app", "name: A");
    let unreadable = world.source.read(&wrong).expect_err("two errors");
    let told = problems(&unreadable);
    assert!(told[0].starts_with("manifest:6: spec.containers[0].name: Invalid value: \"A\""), "{told:?}");
    assert!(told[1].starts_with("manifest:7: spec.containers[0].livenessProbe.exec.command: Required"), "{told:?}");
    assert_eq!((unreadable.about.uid.as_deref(), unreadable.about.to_string().as_str()), (Some("u1"), "default/web"));
    for (text, why) in [
        ("# nothing\n", "manifest: is empty; want one Pod as YAML or JSON"),
        ("kind: Deployment\napiVersion: apps/v1\n", "Unsupported value: \"Deployment\""),
        (&*format!("{0}---\n{0}", manifest("u1", "web")), "manifest: holds several documents; want one Pod"),
        (&*"x".repeat(limits::API_MANIFEST_BYTES_MAX + 1), "manifest: 1048577 bytes; at most 1048576 are taken"),
    ] {
        let told = problems(&world.source.read(text).expect_err(why));
        assert!(told.iter().any(|problem| problem.contains(why)), "{told:?}");
    }
}

#[tokio::test]
async fn what_the_runtime_cannot_do_is_refused_as_of_a_manifest() {
    let world = World::new(RuntimeKind::None);
    let told = problems(&world.source.read(&manifest("u1", "web")).expect_err("it has no container"));
    assert!(told[0].contains("livenessProbe.exec: Forbidden: runtime none has no container"), "{told:?}");
    let world = World::new(RuntimeKind::Process);
    let privileged = manifest("u1", "web")
        .replace("  - name: app\n", "  - name: app\n    command: [sleep]\n    securityContext: {privileged: true}\n");
    let told = problems(&world.source.read(&privileged).expect_err("processes are not privileged"));
    assert!(told[0].contains("manifest:8: spec.containers[0].securityContext.privileged: Forbidden"), "{told:?}");
}

#[tokio::test]
async fn an_added_pod_shows_when_the_answer_comes_and_is_added_once() {
    let world = World::new(RuntimeKind::External);
    let pod = || world.source.read(&manifest("u1", "web")).expect("a pod").0;
    let record = world.source.add(pod()).await.expect("it is new");
    assert_eq!((record.pod.uid.as_str(), record.source), ("u1", SourceKind::Api));
    let again = world.source.add(pod()).await.expect_err("it is there").to_string();
    assert_eq!(again, "pod default/web is there already (UID u1, from api)");
}

#[tokio::test]
async fn a_set_adds_what_is_new_keeps_what_is_known_and_ends_the_rest() {
    let mut world = World::new(RuntimeKind::External);
    let [a, b, c] = [("a", "a"), ("b", "b"), ("c", "c")].map(|(uid, name)| manifest(uid, name));
    let first = world.sync(&[&a, &b]).await;
    assert_eq!((first.added, first.kept, first.removed), (2, 0, 0));
    assert_eq!(world.synced.recv().await, Some(true));
    let second = world.sync(&[&b, &c]).await;
    assert_eq!((second.added, second.kept, second.removed, second.problems_count), (1, 1, 1, 0));
    assert_eq!(world.uids().await, ["b", "c"]);
    assert_eq!(world.sync(&[]).await.removed, 2);
    assert!(world.synced.try_recv().is_err(), "told once");
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_neither_added_nor_ended() {
    let mut world = World::new(RuntimeKind::External);
    let [a, b, c] = [("a", "a"), ("b", "b"), ("c", "c")].map(|(uid, name)| manifest(uid, name));
    world.sync(&[&a, &b, &c]).await;
    world.synced.recv().await;
    let broken = |text: &str| text.replace("name: app", "name: A");
    // One by its UID, one by its name; the third is not wanted any more.
    let by_name = broken(&b).replace(", uid: b", "");
    let outcome = world.sync(&[&broken(&a), &by_name]).await;
    assert_eq!((outcome.added, outcome.removed, outcome.problems_count), (0, 1, 2));
    assert_eq!(world.uids().await, ["a", "b"]);
    let SyncProblem { index, pod, problems } = &outcome.problems[1];
    assert_eq!((*index, pod.as_str()), (1, "default/b"));
    assert!(problems[0].starts_with("spec.containers[0].name: Invalid value"), "{problems:?}");
    // Nobody knows which one this is.
    assert_eq!(world.sync(&["{", &a]).await.removed, 0);
    assert_eq!(world.uids().await, ["a", "b"]);
}

#[tokio::test]
async fn a_first_set_with_a_problem_is_not_whole() {
    let mut world = World::new(RuntimeKind::External);
    let outcome = world.sync(&["nothing: 1\n"]).await;
    assert_eq!((outcome.problems_count, world.synced.recv().await), (1, Some(false)));
}

#[tokio::test]
async fn the_second_of_one_uid_is_a_problem_and_problems_beyond_the_bound_are_counted() {
    let world = World::new(RuntimeKind::External);
    let mut all = vec![manifest("a", "a"), manifest("a", "b")];
    all.extend((0..limits::SYNC_PROBLEMS_LEN_MAX).map(|_| manifest("a", "c")));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let outcome = world.sync(&all).await;
    assert_eq!((outcome.added, outcome.problems_count), (1, limits::SYNC_PROBLEMS_LEN_MAX as u64 + 1));
    assert_eq!(outcome.problems.len(), limits::SYNC_PROBLEMS_LEN_MAX);
    assert_eq!(
        outcome.problems[0],
        SyncProblem {
            index: 1,
            pod: "default/b".to_owned(),
            problems: vec!["metadata.uid: Duplicate value: \"a\": another pod of this call has it".to_owned()],
        }
    );
}

#[tokio::test]
async fn more_pods_than_the_daemon_can_have_are_refused_as_a_whole() {
    let world = World::new(RuntimeKind::External);
    let read = Desired::default().read(&world.source, std::iter::repeat_n("", limits::PODS_MAX + 1));
    assert_eq!(read.err(), Some(TooMany));
    assert!(world.uids().await.is_empty());
}
