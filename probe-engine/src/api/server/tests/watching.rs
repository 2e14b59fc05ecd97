//! WatchPods and WatchResults.

use std::collections::BTreeMap;

use tonic::Streaming;

use super::*;
use crate::api::v1::embedder_client::EmbedderClient;
use crate::api::v1::{Place, watch_pods_response, watch_results_response};
use crate::results::Input;

/// Pods by UID, as a watcher has them.
#[derive(Default)]
struct Pods {
    known: BTreeMap<String, v1::Pod>,
    /// Those sent since a restart, until SYNCED.
    fresh: Option<BTreeMap<String, v1::Pod>>,
    restarts: Vec<bool>,
    gone: Vec<String>,
    place: Option<Place>,
    is_synced: bool,
}

impl Pods {
    /// `true` = it was SYNCED.
    fn take(&mut self, response: v1::WatchPodsResponse) -> bool {
        use watch_pods_response::Item;
        let mut synced = false;
        match response.item.expect("an item") {
            Item::Restart(restart) => {
                self.restarts.push(restart.place_lost);
                self.is_synced = false;
                self.fresh = Some(BTreeMap::new());
            }
            Item::Pod(pod) => drop(self.fresh.as_mut().unwrap_or(&mut self.known).insert(pod.uid.clone(), pod)),
            Item::Gone(gone) => {
                self.fresh.as_mut().unwrap_or(&mut self.known).remove(&gone.uid);
                self.gone.push(gone.uid);
            }
            Item::Synced(_) => {
                synced = true;
                self.known = self.fresh.take().unwrap_or_else(|| std::mem::take(&mut self.known));
            }
        }
        self.is_synced |= synced;
        assert!(self.is_synced || response.place.is_none(), "no place before all is known");
        self.place = response.place.or(self.place.take());
        synced
    }

    fn uids(&self) -> Vec<&str> {
        self.known.keys().map(String::as_str).collect()
    }
}

async fn message<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(SOON, stream.message()).await.expect("in time").expect("no error").expect("goes on")
}

async fn until_synced(stream: &mut Streaming<v1::WatchPodsResponse>, pods: &mut Pods) {
    while !pods.take(message(stream).await) {}
}

fn request(label_selector: &str, since: Option<Place>) -> v1::WatchPodsRequest {
    let filter = v1::PodFilter { label_selector: label_selector.to_owned(), ..v1::PodFilter::default() };
    v1::WatchPodsRequest { filter: Some(filter), since }
}

impl Daemon {
    async fn watch(&mut self, request: v1::WatchPodsRequest) -> Streaming<v1::WatchPodsResponse> {
        self.client.watch_pods(request).await.expect("served").into_inner()
    }

    async fn results(&self, since: Option<Place>) -> Streaming<v1::WatchResultsResponse> {
        let channel = client::channel(&self.path).await.expect("connect");
        let watched = EmbedderClient::new(channel).watch_results(v1::WatchResultsRequest { since }).await;
        watched.expect("served").into_inner()
    }
}

#[tokio::test]
async fn a_watcher_gets_all_pods_and_then_what_changes_and_goes() {
    let mut daemon = Daemon::start(none()).await;
    let mut stream = daemon.watch(request("", None)).await;
    let mut pods = Pods::default();
    until_synced(&mut stream, &mut pods).await;
    assert_eq!((pods.uids(), pods.restarts.as_slice()), (vec!["u1", "u2"], &[false][..]));
    let synced_at = pods.place.clone().expect("a place");
    assert_eq!(synced_at.instance, "this-one");
    daemon.bench.input(Input::Deleting(PodUid::from("u1"))).await;
    pods.take(message(&mut stream).await);
    assert!(pods.known["u1"].deleting && !pods.known["u2"].deleting);
    assert!(pods.place.as_ref().expect("a place").revision > synced_at.revision);
    daemon.bench.input(Input::Removed(PodUid::from("u2"))).await;
    pods.take(message(&mut stream).await);
    assert_eq!(pods.uids(), ["u1"]);
    // Another goes on where the first one was when it was synced.
    let mut stream = daemon.watch(request("", Some(synced_at.clone()))).await;
    let mut later = Pods::default();
    until_synced(&mut stream, &mut later).await;
    assert!(later.restarts.is_empty());
    assert_eq!((later.uids(), later.gone.as_slice()), (vec!["u1"], &["u2".to_owned()][..]));
    // What another daemon said is no place here.
    let elsewhere = Place { instance: "another".to_owned(), ..synced_at };
    let mut stream = daemon.watch(request("", Some(elsewhere))).await;
    let mut anew = Pods::default();
    until_synced(&mut stream, &mut anew).await;
    assert_eq!((anew.uids(), anew.restarts.as_slice()), (vec!["u1"], &[true][..]));
}

#[tokio::test]
async fn a_filter_holds_for_the_snapshot_for_changes_and_for_ends() {
    let mut daemon = Daemon::start(none()).await;
    let mut stream = daemon.watch(request("app=web", None)).await;
    let mut pods = Pods::default();
    until_synced(&mut stream, &mut pods).await;
    assert_eq!(pods.uids(), ["u1"]);
    for uid in ["u2", "u1"] {
        daemon.bench.input(Input::Deleting(PodUid::from(uid))).await;
        daemon.bench.input(Input::Removed(PodUid::from(uid))).await;
    }
    while pods.gone.is_empty() {
        pods.take(message(&mut stream).await);
    }
    assert_eq!(pods.gone, ["u1"], "and nothing of the other one");
    let refused = daemon.client.watch_pods(request("app in web", None)).await.expect_err("no selector");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_watcher_that_reads_nothing_holds_nobody_up_and_sees_the_newest_state_later() {
    let mut daemon = Daemon::start(none()).await;
    let mut slow = daemon.watch(request("", None)).await;
    let mut pods = Pods::default();
    until_synced(&mut slow, &mut pods).await;
    // More than all buffers on the way hold: each time all pods are new, and large.
    let containers = || (0..20).map(|n| container(&format!("c{n}"), ContainerKind::Regular, &ProbeType::ALL));
    let count = limits::API_PODS_PER_PART;
    for round in 0..4 {
        for number in 0..count {
            let uid = format!("{round}-{number}");
            daemon.bench.add(&pod(&uid, &uid, containers()), None).await;
            if round > 0 {
                daemon.bench.input(Input::Removed(PodUid::from(format!("{}-{number}", round - 1).as_str()))).await;
            }
        }
    }
    let mut fresh = daemon.watch(request("", None)).await;
    let mut newest = Pods::default();
    until_synced(&mut fresh, &mut newest).await;
    assert_eq!(newest.known.len(), count + 2);
    let revision = newest.place.as_ref().expect("a place").revision;
    while pods.place.as_ref().is_none_or(|place| place.revision < revision) {
        pods.take(message(&mut slow).await);
    }
    assert_eq!(pods.uids(), newest.uids());
    assert_eq!(pods.restarts, [false], "it lost no place");
}

#[tokio::test]
async fn there_are_as_many_watchers_as_may_be_and_one_that_goes_makes_room() {
    let mut daemon = Daemon::start(none()).await;
    let mut streams = Vec::new();
    for _ in 0..limits::API_POD_WATCHERS_MAX {
        streams.push(daemon.watch(request("", None)).await);
    }
    let refused = daemon.client.watch_pods(request("", None)).await.expect_err("no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(streams.pop());
    let again = async {
        // The server hears of it after the client has.
        while daemon.client.watch_pods(request("", None)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("room");
}

#[tokio::test]
async fn watchers_end_with_the_daemon() {
    let mut daemon = Daemon::start(none()).await;
    let mut stream = daemon.watch(request("", None)).await;
    until_synced(&mut stream, &mut Pods::default()).await;
    daemon.end.send(()).expect("it serves");
    tokio::time::timeout(SOON, daemon.server).await.expect("in time").expect("no panic").expect("served");
    assert!(matches!(stream.message().await, Ok(None) | Err(_)));
}

/// `pod/container/type=result(instance)` of the next message; the place where it has one.
async fn result(stream: &mut Streaming<v1::WatchResultsResponse>) -> (String, Option<Place>) {
    use watch_results_response::Item;
    let response = message(stream).await;
    let text = match response.item.expect("an item") {
        Item::Result(result) => {
            let probe = result.probe.as_ref().expect("whose");
            let (of, stored) = (probe.r#type().as_str_name(), result.result().as_str_name());
            format!("{}/{}/{of}={stored}({})", probe.pod_uid, probe.container, result.container_id)
        }
        Item::Synced(_) => "SYNCED".to_owned(),
        Item::Restart(restart) => format!("RESTART {}", restart.place_lost),
    };
    (text.replace("PROBE_TYPE_", "").replace("VERDICT_", ""), response.place)
}

#[tokio::test]
async fn results_are_told_when_instance_or_verdict_changes_and_when_they_go() {
    let daemon = Daemon::start(none()).await;
    daemon.bench.push(publish("u1", ProbeType::Liveness, "fake://1", Some(Verdict::Success)));
    daemon.bench.revision().await;
    let mut stream = daemon.results(None).await;
    let mut next = async || result(&mut stream).await.0;
    assert_eq!(next().await, "RESTART false");
    assert_eq!(next().await, "u1/c/LIVENESS=SUCCESS(fake://1)");
    assert_eq!(next().await, "SYNCED");
    // A change of the pod that is none of its results, then one.
    daemon.bench.input(Input::Deleting(PodUid::from("u1"))).await;
    daemon.bench.push(publish("u1", ProbeType::Liveness, "fake://1", Some(Verdict::Failure)));
    assert_eq!(next().await, "u1/c/LIVENESS=FAILURE(fake://1)");
    daemon.bench.push(publish("u1", ProbeType::Liveness, "fake://2", Some(Verdict::Failure)));
    assert_eq!(next().await, "u1/c/LIVENESS=FAILURE(fake://2)");
    daemon.bench.push(publish("u1", ProbeType::Liveness, "fake://2", None));
    assert_eq!(next().await, "u1/c/LIVENESS=UNSPECIFIED()");
    daemon.bench.push(publish("u1", ProbeType::Liveness, "fake://2", Some(Verdict::Success)));
    assert_eq!(next().await, "u1/c/LIVENESS=SUCCESS(fake://2)");
    daemon.bench.input(Input::Removed(PodUid::from("u2"))).await;
    daemon.bench.input(Input::Removed(PodUid::from("u1"))).await;
    assert_eq!(next().await, "u1//UNSPECIFIED=UNSPECIFIED()", "of u2 nothing was ever told");
}

#[tokio::test]
async fn a_stream_of_results_goes_on_with_all_results_of_the_pods_that_changed() {
    let daemon = Daemon::start(none()).await;
    daemon.bench.push(publish("u1", ProbeType::Liveness, "fake://1", Some(Verdict::Success)));
    daemon.bench.push(publish("u2", ProbeType::Readiness, "fake://1", Some(Verdict::Success)));
    daemon.bench.revision().await;
    let mut stream = daemon.results(None).await;
    let place = loop {
        let (text, place) = result(&mut stream).await;
        if text == "SYNCED" {
            break place;
        }
    };
    drop(stream);
    daemon.bench.push(publish("u2", ProbeType::Readiness, "fake://1", None));
    daemon.bench.revision().await;
    let mut stream = daemon.results(place).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "SYNCED") {
        told.push(result(&mut stream).await.0);
    }
    let none = |container: &str, of: &str| format!("u2/{container}/{of}=UNSPECIFIED()");
    let all = [none("c", "STARTUP"), none("c", "READINESS"), none("d", "STARTUP"), none("d", "READINESS")];
    assert_eq!(told[..4], all);
    assert_eq!(told.len(), 5, "nothing of u1: {told:?}");
    daemon.bench.input(Input::Removed(PodUid::from("u1"))).await;
    assert_eq!(result(&mut stream).await.0, "u1//UNSPECIFIED=UNSPECIFIED()", "the client may know of some");
}
