//! Where `top` has its data from: the control API alone. One task that connects, tells what it hears, and connects again.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Code, Streaming};

use crate::api::v1::{self, watch_events_response, watch_pods_response};
use crate::cli::CliError;
use crate::cli::client::{Client, Link, error_of};

/// Between two attempts to reach a daemon that was lost.
const RETRY: Duration = Duration::from_secs(1);
/// How often the rows on the screen are asked for: a watch tells changes, and an attempt that saw what the one before it saw is none.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often the pod of a page is asked for.
const PAGE_EVERY: Duration = Duration::from_secs(1);

/// What a pod is asked for by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodKey {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What is asked for besides the node and the changes of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// The pod that is looked at on its own, with its events.
    pub(super) page: Option<PodKey>,
    /// The rows on the screen.
    pub(super) looked_at: Vec<PodKey>,
}

/// What the feed tells.
#[derive(Debug)]
pub(super) enum Message {
    /// The daemon answers.
    Connected(Box<v1::GetInfoResponse>),
    /// It does not any more; the next word is `Connected`, or why it still does not.
    Lost(String),
    /// The node's newest state.
    Node(Box<v1::WatchNodeResponse>),
    /// All pods follow, then `Synced`: whatever is not among them is gone.
    Snapshot,
    /// Pods, new or changed.
    Pods(Vec<v1::Pod>),
    /// Pods that were asked for because they are on the screen.
    Looked(Vec<v1::Pod>),
    /// The pod of this UID is gone.
    Gone(String),
    /// All pods are known.
    Synced,
    /// The page's pod; none = there is none of that name.
    Page(PodKey, Option<Box<v1::Pod>>),
    /// Something that happened to the page's pod.
    Event(PodKey, Box<v1::Event>),
}

/// The other end has gone: nobody is told any more.
struct Unheard;

/// Why a connection ended.
enum End {
    Lost(String),
    Unheard,
}

impl From<Unheard> for End {
    fn from(_: Unheard) -> Self {
        End::Unheard
    }
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        End::Lost(error_of(&status).to_string())
    }
}

/// Feeds until nobody listens. `link` is the first connection.
pub(super) async fn run(path: PathBuf, link: Link, wants: watch::Receiver<Wants>, tell: mpsc::Sender<Message>) {
    let mut link = Some(link);
    loop {
        let ended = match link.take() {
            Some(link) => session(link, wants.clone(), &tell).await,
            None => match Link::open_at(&path).await {
                Ok(opened) => {
                    link = Some(opened);
                    continue;
                }
                Err(error) => Err(End::Lost(error.to_string())),
            },
        };
        let Err(End::Lost(why)) = ended else { return };
        if tell.send(Message::Lost(why)).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The node's newest state alone.
pub(super) async fn node_of(client: &mut Client) -> Result<v1::WatchNodeResponse, CliError> {
    let mut parts = client.watch_node(v1::WatchNodeRequest {}).await.map_err(|s| error_of(&s))?.into_inner();
    let first = parts.message().await.map_err(|s| error_of(&s))?;
    first.ok_or_else(|| CliError::Unknown("the daemon ended the stream: it is shutting down".to_owned()))
}

/// One connection, until it ends.
async fn session(link: Link, mut wants: watch::Receiver<Wants>, tell: &mpsc::Sender<Message>) -> Result<(), End> {
    let Link { mut client, info } = link;
    say(tell, Message::Connected(Box::new(info))).await?;
    let mut node = client.watch_node(v1::WatchNodeRequest {}).await?.into_inner();
    let request = v1::WatchPodsRequest { filter: None, since: None };
    let mut pods = client.watch_pods(request).await?.into_inner();
    let mut look = every(LOOK_EVERY);
    let mut page = PageFeed::default();
    let wanted = wants.borrow_and_update().page.clone();
    page.follow(&mut client, wanted).await?;
    loop {
        tokio::select! {
            part = node.message() => say(tell, Message::Node(Box::new(part?.ok_or_else(ended)?))).await?,
            part = pods.message() => {
                if let Some(message) = pods_message(part?.ok_or_else(ended)?) {
                    say(tell, message).await?;
                }
            }
            news = page.news() => {
                let message = match news? {
                    News::Event(message) => message,
                    News::Due(key) => {
                        let pod = pod_of(&mut client, &key).await?;
                        Message::Page(key, pod.map(Box::new))
                    }
                };
                say(tell, message).await?;
            }
            changed = wants.changed() => {
                changed.map_err(|_| End::Unheard)?;
                let wanted = wants.borrow_and_update().page.clone();
                page.follow(&mut client, wanted).await?;
            }
            _ = look.tick() => {
                let keys = wants.borrow().looked_at.clone();
                let mut looked = Vec::with_capacity(keys.len());
                for key in &keys {
                    looked.extend(pod_of(&mut client, key).await?);
                }
                say(tell, Message::Looked(looked)).await?;
            }
        }
    }
}

/// What is heard of one pod that is looked at on its own.
#[derive(Default)]
struct PageFeed {
    key: Option<PodKey>,
    events: Option<Streaming<v1::WatchEventsResponse>>,
    due: Option<Interval>,
}

/// What there is to tell, or to ask, of the pod of a page.
enum News {
    Event(Message),
    Due(PodKey),
}

impl PageFeed {
    /// Goes to another pod, or to none.
    async fn follow(&mut self, client: &mut Client, key: Option<PodKey>) -> Result<(), End> {
        if self.key == key {
            return Ok(());
        }
        *self = Self::default();
        let Some(key) = key else { return Ok(()) };
        let request =
            v1::WatchEventsRequest { namespace: key.namespace.clone(), pod: key.name.clone(), since: 0, follow: true };
        self.events = Some(client.watch_events(request).await?.into_inner());
        self.due = Some(every(PAGE_EVERY));
        self.key = Some(key);
        Ok(())
    }

    /// What is next; never anything where no pod is followed. Cancel-safe.
    async fn news(&mut self) -> Result<News, End> {
        let (Some(events), Some(due), Some(key)) = (&mut self.events, &mut self.due, &self.key) else {
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                part = events.message() => {
                    // The newest are shown, and more than those are nowhere promised: a place that was lost is not told.
                    if let Some(watch_events_response::Item::Event(event)) = part?.ok_or_else(ended)?.item {
                        return Ok(News::Event(Message::Event(key.clone(), Box::new(event))));
                    }
                }
                _ = due.tick() => return Ok(News::Due(key.clone())),
            }
        }
    }
}

fn pods_message(part: v1::WatchPodsResponse) -> Option<Message> {
    use watch_pods_response::Item;
    Some(match part.item? {
        Item::Pod(pod) => Message::Pods(vec![pod]),
        Item::Gone(gone) => Message::Gone(gone.uid),
        Item::Synced(_) => Message::Synced,
        Item::Restart(_) => Message::Snapshot,
    })
}

/// A pod; `None` where there is none of that name.
async fn pod_of(client: &mut Client, key: &PodKey) -> Result<Option<v1::Pod>, End> {
    let request = v1::GetPodRequest { namespace: key.namespace.clone(), name: key.name.clone() };
    match client.get_pod(request).await {
        Ok(answer) => Ok(answer.into_inner().pod),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

async fn say(tell: &mpsc::Sender<Message>, message: Message) -> Result<(), Unheard> {
    tell.send(message).await.map_err(|_| Unheard)
}

fn ended() -> End {
    End::Lost("the daemon ended the stream: it is shutting down".to_owned())
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
