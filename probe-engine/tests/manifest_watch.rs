//! The manifests source over real files: what it tells the manager, in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use probe_engine::source::PodUpdate;
use probe_engine::source::manifest::{self, ManifestConfig, SourceStatus};
use probe_engine::source::parse::{RuntimeKind, Strictness};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

struct Source {
    updates: mpsc::Receiver<PodUpdate>,
    status: watch::Receiver<SourceStatus>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Source {
    fn of(paths: &[PathBuf]) -> Self {
        Self::with(paths, |_| {})
    }

    fn with(paths: &[PathBuf], change: impl FnOnce(&mut ManifestConfig)) -> Self {
        let mut config = ManifestConfig {
            paths: paths.to_vec(),
            strictness: Strictness::Run,
            runtime: RuntimeKind::Process,
            ignore_unsupported: false,
            memory_limits: false,
        };
        change(&mut config);
        let (sender, updates) = mpsc::channel(64);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let (shutdown, down) = watch::channel(false);
        let task = tokio::spawn(manifest::run(config, sender, status_sender, down));
        Self { updates, status, shutdown, task }
    }

    /// The next update: `+name`, `-uid` or `synced`.
    async fn next(&mut self) -> String {
        let update = timeout(PATIENCE, self.updates.recv()).await;
        match update.expect("an update in time").expect("a source") {
            PodUpdate::Add(pod) => format!("+{}@{}", pod.name, pod.uid),
            PodUpdate::Remove(uid, _) => format!("-{uid}"),
            PodUpdate::Synced { source, .. } => format!("synced {source}"),
            other => panic!("{other:?}"),
        }
    }

    async fn expect(&mut self, updates: &[&str]) {
        for expected in updates {
            assert_eq!(self.next().await, *expected);
        }
    }

    /// Waits until the errors are as wanted; they are published after the updates of the same reading.
    async fn errors(&mut self, wanted: impl Fn(&[String]) -> bool) {
        let texts = |status: &SourceStatus| -> Vec<String> {
            let problems = status.errors.values().flatten();
            problems.map(ToString::to_string).collect()
        };
        let status = self.status.wait_for(|s| s.synced && wanted(&texts(s)));
        let found = timeout(PATIENCE, status).await.is_ok_and(|s| s.is_ok());
        assert!(found, "{:?}", texts(&self.status.borrow()));
    }

    async fn end(self) {
        self.shutdown.send(true).unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

fn pod(name: &str, uid: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: \"{uid}\"}}\nspec: {{containers: [{{name: app, command: [app]}}]}}\n"
    )
}

/// As an editor saves: a new file under the old name.
fn replace(file: &Path, text: &str) {
    let temporary = file.with_extension("tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(&temporary, file).unwrap();
}

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

#[tokio::test]
async fn files_are_read_once_in_order_then_the_source_is_synced() {
    let (_guard, dir) = directory();
    fs::write(dir.join("b.yml"), pod("b", "2")).unwrap();
    fs::write(dir.join("a.yaml"), pod("a", "1") + &pod("a2", "1b")).unwrap();
    fs::write(dir.join(".hidden.yaml"), pod("hidden", "h")).unwrap();
    fs::write(dir.join("c.yaml~"), pod("old", "o")).unwrap();
    fs::write(dir.join("notes.txt"), "x").unwrap();
    fs::create_dir(dir.join("inner")).unwrap();
    fs::write(dir.join("inner/d.yaml"), pod("inner", "i")).unwrap();
    let mut source = Source::of(&[dir]);
    source.expect(&["+a@1", "+a2@1b", "+b@2", "synced manifests"]).await;
    source.end().await;
}

#[tokio::test]
async fn new_changed_and_removed_files_add_replace_and_end_pods() {
    let (_guard, dir) = directory();
    let mut source = Source::of(std::slice::from_ref(&dir));
    source.expect(&["synced manifests"]).await;
    let file = dir.join("a.yaml");
    fs::write(&file, pod("a", "1") + &pod("b", "2")).unwrap();
    source.expect(&["+a@1", "+b@2"]).await;
    replace(&file, &(pod("a", "1") + &pod("b", "3")));
    source.expect(&["-2", "+b@3"]).await;
    // The same UID with another content is a replacement too.
    let changed = pod("a", "1").replace("command: [app]", "command: [other]");
    replace(&file, &(changed + &pod("b", "3")));
    source.expect(&["-1", "+a@1"]).await;
    fs::remove_file(&file).unwrap();
    source.expect(&["-1", "-3"]).await;
    source.end().await;
}

#[tokio::test]
async fn a_file_that_becomes_broken_keeps_its_pods() {
    let (_guard, dir) = directory();
    let file = dir.join("a.yaml");
    fs::write(&file, pod("a", "1") + &pod("b", "2")).unwrap();
    let mut source = Source::of(std::slice::from_ref(&file));
    source.expect(&["+a@1", "+b@2", "synced manifests"]).await;
    source.errors(|errors| errors.is_empty()).await;
    // One document is broken, one is new: the new one is taken, nothing is lost.
    replace(&file, &(pod("c", "3") + &pod("a", "1").replace("spec:", "spec: [")));
    source.expect(&["+c@3"]).await;
    source.errors(|errors| errors.len() == 1 && errors[0].contains("a.yaml:")).await;
    replace(&file, &pod("c", "3"));
    source.expect(&["-1", "-2"]).await;
    source.errors(|errors| errors.is_empty()).await;
    source.end().await;
}

#[tokio::test]
async fn of_two_files_with_one_name_the_first_stays_and_the_other_takes_over() {
    let (_guard, dir) = directory();
    fs::write(dir.join("b.yaml"), pod("web", "1")).unwrap();
    let mut source = Source::of(std::slice::from_ref(&dir));
    source.expect(&["+web@1", "synced manifests"]).await;
    fs::write(dir.join("a.yaml"), pod("web", "2")).unwrap();
    source
        .errors(|errors| {
            errors.len() == 1
                && errors[0].contains("a.yaml: pod default/web is already defined in ")
                && errors[0].contains("b.yaml; that one stays")
        })
        .await;
    fs::remove_file(dir.join("b.yaml")).unwrap();
    source.expect(&["-1", "+web@2"]).await;
    source.errors(|errors| errors.is_empty()).await;
    source.end().await;
}

#[tokio::test]
async fn paths_may_appear_vanish_and_come_back() {
    let (_guard, dir) = directory();
    let late = dir.join("later/still");
    let mut source = Source::of(std::slice::from_ref(&late));
    source.expect(&["synced manifests"]).await;
    source.errors(|errors| errors.len() == 1).await;
    for uid in ["1", "2"] {
        fs::create_dir_all(&late).unwrap();
        fs::write(late.join("a.yaml"), pod("a", uid)).unwrap();
        source.expect(&[&format!("+a@{uid}")]).await;
        fs::remove_dir_all(dir.join("later")).unwrap();
        source.expect(&[&format!("-{uid}")]).await;
    }
    source.end().await;
}

// Paused: the clock runs on by itself while everything waits.
#[tokio::test(start_paused = true)]
async fn a_change_behind_a_symbolic_link_is_found_by_looking() {
    let (_guard, dir) = directory();
    let (_elsewhere_guard, elsewhere) = directory();
    fs::write(elsewhere.join("real"), pod("a", "1")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("real"), dir.join("a.yaml")).unwrap();
    let mut source = Source::of(&[dir]);
    source.expect(&["+a@1", "synced manifests"]).await;
    replace(&elsewhere.join("real"), &pod("a", "2"));
    source.expect(&["-1", "+a@2"]).await;
    source.end().await;
}

#[tokio::test]
async fn what_the_runtime_cannot_do_is_refused_or_with_the_flag_left_out() {
    let (_guard, dir) = directory();
    let file = dir.join("a.yaml");
    let limits = "command: [app], resources: {limits: {memory: 1Mi}}, securityContext: {privileged: true}";
    fs::write(&file, pod("a", "1").replace("command: [app]", limits)).unwrap();
    let paths = std::slice::from_ref(&file);

    let mut source = Source::of(paths);
    source.expect(&["synced manifests"]).await;
    source
        .errors(|errors| {
            errors.len() == 2
                && errors[0].contains("a.yaml:5: spec.containers[0].securityContext.privileged: Forbidden: ")
        })
        .await;
    source.end().await;

    let mut source = Source::with(paths, |config| {
        config.ignore_unsupported = true;
        config.memory_limits = true;
    });
    let update = timeout(PATIENCE, source.updates.recv()).await.unwrap();
    let Some(PodUpdate::Add(pod)) = update else {
        panic!("{update:?}");
    };
    assert_eq!(pod.ignored_fields.len(), 1, "{:?}", pod.ignored_fields);
    assert_eq!(pod.containers[0].process.memory_limit_bytes, Some(1 << 20));
    source.end().await;
}

#[tokio::test]
async fn a_source_nobody_listens_to_ends() {
    let (_guard, dir) = directory();
    fs::write(dir.join("a.yaml"), pod("a", "1")).unwrap();
    let Source { updates, task, shutdown, .. } = Source::of(&[dir]);
    drop(updates);
    timeout(PATIENCE, task).await.unwrap().unwrap();
    drop(shutdown);
}
