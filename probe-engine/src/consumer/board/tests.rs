use std::time::Duration;

use probe_core::id::ProbeType;
use probe_core::outcome::Verdict;
use serde_json::Value;

use super::*;
use crate::results::Input;
use crate::results::fixture::{Bench, SOON, publish, running, simple_pod};

/// A board over a running results stage; a frame is made for each overview that is sent.
struct Desk {
    bench: Bench,
    board: Board,
    overviews: watch::Sender<Arc<Overview>>,
    _stop: watch::Sender<bool>,
}

impl Desk {
    fn start() -> Self {
        let bench = Bench::start(16, 16);
        let (overviews, newest) = watch::channel(Arc::default());
        let board = Board::new(bench.results.clone(), newest, watch::channel(Arc::from([])).1);
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(board.clone().run(stopping));
        Self { bench, board, overviews, _stop: stop }
    }

    async fn add(&self, uid: &str) {
        let pod = simple_pod(uid, &[ProbeType::Readiness]);
        self.bench.add(&pod, Some(running(&pod, "id"))).await;
        self.bench.revision().await;
    }

    /// The next frame for which the table was looked at.
    async fn frame(&self, frames: &mut watch::Receiver<Option<Arc<str>>>) -> Value {
        loop {
            let frame = self.any_frame(frames).await;
            if frame["sequence"].as_u64().is_some_and(|sequence| sequence % LOOK_EVERY == 1) {
                return frame;
            }
        }
    }

    async fn any_frame(&self, frames: &mut watch::Receiver<Option<Arc<str>>>) -> Value {
        self.overviews.send_replace(Arc::default());
        tokio::time::timeout(SOON, frames.changed()).await.expect("in time").expect("the board runs");
        let frame = frames.borrow_and_update().clone().expect("a frame");
        serde_json::from_str(&frame).expect("JSON")
    }
}

fn names(rows: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        rows.as_array().expect("rows").iter().map(|row| row[2].as_str().expect("a name").to_owned()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_frame_holds_what_changed_since_the_one_before() {
    let desk = Desk::start();
    desk.add("a").await;
    desk.add("b").await;
    let mut frames = desk.board.frames();
    let first = desk.frame(&mut frames).await;
    assert_eq!((&first["table"]["rows"], &first["table"]["podsCount"]), (&Value::Array(Vec::new()), &2.into()));
    let quiet = desk.frame(&mut frames).await;
    assert_eq!(
        (&quiet["table"]["rows"], &quiet["table"]["from"]),
        (&Value::Array(Vec::new()), &quiet["table"]["version"])
    );
    desk.bench.push(publish("b", ProbeType::Readiness, "id", Some(Verdict::Success)));
    let changed = desk.frame(&mut frames).await;
    assert_eq!(names(&changed["table"]["rows"]), ["b"]);
    assert_eq!(changed["table"]["from"], first["table"]["version"]);
    desk.bench.input(Input::Removed("a".into())).await;
    let gone = desk.frame(&mut frames).await;
    assert_eq!((&gone["table"]["gone"][0], &gone["table"]["podsCount"]), (&"a".into(), &1.into()));
}

#[tokio::test]
async fn the_table_with_the_frames_after_it_is_what_is_there() {
    let desk = Desk::start();
    desk.add("a").await;
    let mut frames = desk.board.frames();
    let first = desk.frame(&mut frames).await;
    let table = serde_json::to_value(desk.board.table().await.expect("it runs")).expect("plain data");
    assert_eq!((names(&table["rows"]), &table["version"]), (vec!["a".to_owned()], &first["table"]["version"]));
    desk.add("b").await;
    let next = desk.frame(&mut frames).await;
    assert_eq!((names(&next["table"]["rows"]), &next["table"]["from"]), (vec!["b".to_owned()], &table["version"]));
}

#[tokio::test]
async fn who_comes_back_after_nobody_looked_must_read_the_table_anew() {
    let desk = Desk::start();
    desk.add("a").await;
    let mut frames = desk.board.frames();
    let first = desk.frame(&mut frames).await;
    drop(frames);
    desk.overviews.send_replace(Arc::default());
    while desk.board.frames.borrow().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await; // tidy: what nobody looks at gives no event
    }
    let mut frames = desk.board.frames();
    let again = desk.frame(&mut frames).await;
    assert!(again["table"]["from"].as_u64() > first["table"]["version"].as_u64());
}

#[tokio::test]
async fn more_changes_than_a_frame_holds_come_with_the_next_ones() {
    let mut pods = HashMap::new();
    let record = |uid: &str| {
        let pod = simple_pod(uid, &[]);
        PodRecord::new(pod, &[], None, crate::clock::wall())
    };
    let records = ["a", "b", "c"].map(record);
    let told = |pods: &mut HashMap<PodUid, ToldPod>, round| {
        let changed = changed_of(records.iter(), pods, round, 2, false);
        changed.iter().map(|record| record.pod.uid.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut pods, 1), ["a", "b"]);
    assert_eq!(told(&mut pods, 2), ["c"]);
    assert!(told(&mut pods, 3).is_empty());
}

#[tokio::test]
async fn rows_are_given_of_the_pods_that_are_there() {
    let desk = Desk::start();
    desk.add("a").await;
    let rows = desk.board.rows(vec!["a".into(), "nobody".into()]).await.expect("it runs");
    assert_eq!(names(&serde_json::to_value(rows).expect("plain data")), ["a"]);
}
