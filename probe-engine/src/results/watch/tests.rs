use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use probe_core::id::{PodUid, ProbeType};
use probe_core::outcome::{Outcome, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::fixture::{Bench, SOON, pod, publish, report, running, simple_pod};
use super::super::{Input, PodRecord};
use super::*;
use crate::clock;

/// What a watcher has made of what it was told: for each pod a mark of its state.
type Picture = BTreeMap<String, u16>;

/// Those whose UID does not end so.
struct Without(char);

impl Select for Without {
    fn pod(&self, pod: &Pod) -> bool {
        !pod.uid.as_str().ends_with(self.0)
    }

    fn gone(&self, gone: &GonePod) -> bool {
        !gone.uid.as_str().ends_with(self.0)
    }
}

struct All;

impl Select for All {
    fn pod(&self, _: &Pod) -> bool {
        true
    }

    fn gone(&self, _: &GonePod) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Pod so and so comes, where there is none of its UID; or another takes its place.
    Add(u8),
    Change(u8),
    Remove(u8),
    /// The watcher looks.
    Look,
    /// The watcher's stream ends, and a new one goes on.
    Resume,
    /// A new one begins that knows of an older place, or of nothing.
    ResumeAt(Option<u64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        3 => (0..12_u8).prop_map(Step::Add),
        3 => (0..12_u8).prop_map(Step::Change),
        2 => (0..12_u8).prop_map(Step::Remove),
        6 => Just(Step::Look),
        1 => Just(Step::Resume),
        1 => proptest::option::of(0..40_u64).prop_map(Step::ResumeAt),
    ];
    vec(one, 0..120)
}

const SMALL: Bounds = Bounds { looked_max: 3, copied_max: 2 };

/// A watcher that keeps what it is told, and how far it is.
struct Watcher {
    cursor: Cursor,
    picture: Picture,
    /// UIDs told since a restart, until it is synced.
    told: Option<BTreeSet<String>>,
    synced: bool,
    place: Option<u64>,
}

impl Watcher {
    fn new(since: Option<u64>) -> Self {
        let cursor = Cursor::new(since, Arc::new(Without('7')), SMALL);
        Self { cursor, picture: Picture::new(), told: None, synced: false, place: since }
    }

    /// A stream that goes on from the newest place.
    fn resume(&mut self) {
        self.cursor = Cursor::new(self.place, Arc::new(Without('7')), SMALL);
        self.synced = false;
    }

    /// `false` where nothing was new.
    fn look(&mut self, node: &Node) -> bool {
        let news = self.cursor.look(node);
        self.cursor.sort();
        match news {
            None => return false,
            Some(News::Restart { .. }) => (self.told, self.synced) = (Some(BTreeSet::new()), false),
            Some(News::Synced(revision)) => {
                if let Some(told) = self.told.take() {
                    self.picture.retain(|uid, _| told.contains(uid));
                }
                (self.synced, self.place) = (true, Some(revision));
            }
            Some(News::Part(part)) => self.take(&part),
        }
        true
    }

    fn take(&mut self, part: &Part) {
        assert!(part.pods.len() <= SMALL.copied_max && part.gone.len() <= SMALL.looked_max);
        for gone in &part.gone {
            self.picture.remove(gone.uid.as_str());
        }
        for record in &part.pods {
            let uid = record.pod.uid.to_string();
            self.told.iter_mut().for_each(|told| _ = told.insert(uid.clone()));
            self.picture.insert(uid, record.shard.expect("a mark"));
        }
        assert!(part.revision.is_none() || self.synced);
        self.place = part.revision.or(self.place);
    }
}

fn picture_of(node: &Node) -> Picture {
    let wanted = node.pods.values().filter(|record| Without('7').pod(&record.pod));
    wanted.map(|record| (record.pod.uid.to_string(), record.shard.expect("a mark"))).collect()
}

/// Carries out what the world does.
fn carry_out(node: &mut Node, step: &Step, mark: u16) {
    match step {
        Step::Add(number) => {
            let mut record = PodRecord::new(simple_pod(&format!("u{number}"), &[]), &[], None, clock::wall());
            record.shard = Some(mark);
            node.insert(record);
        }
        Step::Change(number) => {
            if let Some(record) = node.touch(&PodUid::from(format!("u{number}").as_str())) {
                record.shard = Some(mark);
            }
        }
        Step::Remove(number) => {
            node.remove(&PodUid::from(format!("u{number}").as_str()));
        }
        Step::Look | Step::Resume | Step::ResumeAt(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_and_however_seldom_it_looks_a_watcher_ends_with_the_node_s_picture(
        steps in steps(),
        gone_len_max in 1..6_usize,
    ) {
        let mut node = Node::default();
        node.pods.keep_gone(gone_len_max);
        let mut watcher = Watcher::new(None);
        for (mark, step) in (0..).zip(&steps) {
            carry_out(&mut node, step, mark);
            match step {
                Step::Look => _ = watcher.look(&node),
                Step::Resume => watcher.resume(),
                // It knows what was there then, or nothing: what it is told makes up for it either way.
                Step::ResumeAt(None) => watcher = Watcher::new(None),
                Step::ResumeAt(Some(revision)) if Some(*revision) < watcher.place => {
                    watcher.place = Some(*revision);
                    watcher.resume();
                }
                _ => {}
            }
        }
        let mut looks = 0;
        while watcher.look(&node) {
            looks += 1;
            prop_assert!(looks < 1_000, "it never ends");
        }
        prop_assert!(watcher.synced);
        prop_assert_eq!(watcher.picture, picture_of(&node));
        prop_assert_eq!(watcher.place, Some(node.revision));
    }

    #[test]
    fn a_watcher_gets_to_synced_while_everything_goes_on_changing(seed in 0..1_000_u16) {
        let mut node = Node::default();
        node.pods.keep_gone(8);
        for number in 0..10 {
            carry_out(&mut node, &Step::Add(number), 0);
        }
        let mut watcher = Watcher::new(None);
        for mark in 0..100 {
            for number in 0..10 {
                carry_out(&mut node, &Step::Change((number + (seed % 7) as u8) % 10), mark);
            }
            carry_out(&mut node, &Step::Remove((mark % 10) as u8), mark);
            carry_out(&mut node, &Step::Add((mark % 10) as u8), mark);
            watcher.look(&node);
            if watcher.synced {
                return Ok(());
            }
        }
        prop_assert!(false, "never synced");
    }
}

async fn next(watch: &mut PodWatch) -> News {
    tokio::time::timeout(SOON, watch.next()).await.expect("in time").expect("the stage runs")
}

/// Up to and with [`News::Synced`]: what was gone, what was there, whether it began anew, and the revision.
async fn until_synced(watch: &mut PodWatch) -> (Vec<String>, Vec<String>, bool, u64) {
    let (mut gone, mut there, mut restarted) = (Vec::new(), Vec::new(), false);
    loop {
        match next(watch).await {
            News::Restart { .. } => restarted = true,
            News::Part(part) => {
                gone.extend(part.gone.iter().map(|gone| gone.uid.to_string()));
                there.extend(part.pods.iter().map(|record| record.pod.uid.to_string()));
            }
            News::Synced(revision) => return (gone, there, restarted, revision),
        }
    }
}

/// The next part in which there is something.
async fn next_part(watch: &mut PodWatch) -> Part {
    loop {
        match next(watch).await {
            News::Part(part) if part.gone.is_empty() && part.pods.is_empty() => {}
            News::Part(part) => return part,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn every_kind_of_change_is_told_and_what_is_no_change_is_not() {
    let bench = Bench::start(64, 16);
    let web = simple_pod("web", &[ProbeType::Readiness, ProbeType::Liveness]);
    let mut gated = (*web).clone();
    let mut spec = (*gated.spec).clone();
    spec.readiness_gates = [Arc::from("example.com/gate")].into();
    gated.spec = Arc::new(spec);
    let web = Arc::new(gated);
    bench.add(&web, None).await;
    let mut watch = PodWatch::new(bench.results.clone(), None, Arc::new(All));
    let (_, there, restarted, _) = until_synced(&mut watch).await;
    assert!(restarted && there == ["web"]);
    let uid = || PodUid::from("web");
    bench.input(Input::Status(uid(), Arc::new(running(&web, "fake://1")))).await;
    assert!(next_part(&mut watch).await.pods[0].status.is_some());
    bench.push(publish("web", ProbeType::Liveness, "fake://1", Some(Verdict::Success)));
    let verdict = |part: &Part| part.pods[0].container_at(0).and_then(|c| c.probe(ProbeType::Liveness)?.verdict);
    assert_eq!(verdict(&next_part(&mut watch).await), Some(Verdict::Success));
    bench.input(Input::Gate(uid(), "example.com/gate".into(), Some(probe_core::pod::ConditionStatus::True))).await;
    assert_eq!(next_part(&mut watch).await.pods[0].gates.len(), 1);
    bench.push(report("web", ProbeType::Liveness, Outcome::Failure("no".into())));
    let last =
        |part: &Part| part.pods[0].container_at(0)?.probe(ProbeType::Liveness)?.last().map(|l| l.message.clone());
    assert_eq!(last(&next_part(&mut watch).await).as_deref(), Some("no"));
    // The same verdict again, and a trouble of our own twice: one change.
    bench.push(publish("web", ProbeType::Liveness, "fake://1", Some(Verdict::Success)));
    for _ in 0..2 {
        let cause = probe_core::outcome::LocalCause::ProcessFiles;
        bench.push(report("web", ProbeType::Liveness, Outcome::Local(cause)));
    }
    let told = next_part(&mut watch).await;
    assert_eq!(told.revision, Some(bench.revision().await));
    bench.input(Input::Deleting(uid())).await;
    assert!(next_part(&mut watch).await.pods[0].deleting);
    bench.input(Input::Removed(uid())).await;
    let part = next_part(&mut watch).await;
    assert!(part.pods.is_empty() && part.gone[0].uid == uid());
    assert_eq!(part.revision, Some(bench.revision().await));
}

#[tokio::test]
async fn a_watch_goes_on_where_another_ended() {
    let bench = Bench::start(16, 16);
    for uid in ["a", "b", "c"] {
        bench.add(&simple_pod(uid, &[]), None).await;
    }
    let mut watch = PodWatch::new(bench.results.clone(), None, Arc::new(All));
    let (_, mut there, _, revision) = until_synced(&mut watch).await;
    there.sort();
    assert_eq!(there, ["a", "b", "c"]);
    drop(watch);
    bench.input(Input::Deleting(PodUid::from("b"))).await;
    bench.input(Input::Removed(PodUid::from("c"))).await;
    let mut watch = PodWatch::new(bench.results.clone(), Some(revision), Arc::new(All));
    let (gone, there, restarted, _) = until_synced(&mut watch).await;
    assert_eq!((gone, there, restarted), (vec!["c".to_owned()], vec!["b".to_owned()], false));
    // A place that lies ahead is another daemon's.
    let mut watch = PodWatch::new(bench.results.clone(), Some(u64::MAX), Arc::new(All));
    assert!(matches!(next(&mut watch).await, News::Restart { place_lost: true }));
}

#[tokio::test]
async fn a_large_node_comes_in_parts_and_a_pod_of_the_same_name_is_another() {
    let bench = Bench::start(16, 16);
    let count = 2 * limits::API_PODS_PER_PART + 1;
    for number in 0..count {
        bench.add(&simple_pod(&format!("p{number}"), &[]), None).await;
    }
    let mut watch = PodWatch::new(bench.results.clone(), None, Arc::new(All));
    let (_, there, ..) = until_synced(&mut watch).await;
    assert_eq!(there.len(), count);
    bench.input(Input::Removed(PodUid::from("p0"))).await;
    bench.add(&pod("other", "p0", []), None).await;
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    while there.is_empty() {
        let part = next_part(&mut watch).await;
        gone.extend(part.gone);
        there.extend(part.pods);
    }
    assert_eq!((gone[0].uid.as_str(), there[0].pod.uid.as_str()), ("p0", "other"));
    // All of them change at once: the oldest change is told first.
    for number in 1..count {
        bench.input(Input::Deleting(PodUid::from(format!("p{number}").as_str()))).await;
    }
    let mut told = Vec::new();
    while told.len() < count - 1 {
        told.extend(next_part(&mut watch).await.pods.iter().map(|record| record.pod.uid.to_string()));
    }
    assert_eq!((told[0].as_str(), told.len()), ("p1", count - 1));
}

// Paused: time goes on by itself where nothing else does.
#[tokio::test(start_paused = true)]
async fn the_first_change_is_told_at_once_and_many_ten_times_a_second() {
    let bench = Bench::start(16, 16);
    bench.add(&simple_pod("a", &[]), None).await;
    let mut watch = PodWatch::new(bench.results.clone(), None, Arc::new(All));
    until_synced(&mut watch).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // tidy: time is paused, and moves by itself
    let change = async || bench.input(Input::Deleting(PodUid::from("a"))).await;
    let started = tokio::time::Instant::now();
    change().await;
    next_part(&mut watch).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    for _ in 0..10 {
        change().await;
        next_part(&mut watch).await;
    }
    assert!(started.elapsed() >= 9 * limits::WATCH_LOOK_EVERY, "{:?}", started.elapsed());
}
