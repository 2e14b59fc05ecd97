//! The pods as they change: WatchPods as the command line needs it. When the daemon goes it waits for it, and goes on.

use std::path::PathBuf;
use std::time::Duration;

use tonic::{Status, Streaming};

use super::client::{self, Link, error_of};
use super::reconnect::{self, Retry, is_for_good};
use super::{CliError, Globals, escape};
use crate::api::v1::{self, watch_pods_response::Item};

/// How long a daemon that was started again has to read its sources: before that it knows of no pod.
const SOURCES_WAIT: Duration = Duration::from_secs(10);

/// Time between two looks whether it has.
const SOURCES_LOOK: Duration = Duration::from_millis(250);

/// What is told next.
#[derive(Debug)]
pub enum News {
    /// All pods follow, and [`News::Synced`]: whatever is not among them is gone.
    Restart,
    /// A pod as it is now.
    Pod(Box<v1::Pod>),
    /// One that is gone; it may never have been told.
    Gone(v1::PodGone),
    /// All that was to be told has been; what follows happens from now on.
    Synced,
}

/// See the module.
pub struct Follower {
    path: PathBuf,
    filter: v1::PodFilter,
    stream: Streaming<v1::WatchPodsResponse>,
    place: Option<v1::Place>,
    info: v1::GetInfoResponse,
}

impl Follower {
    /// Begins; a daemon that is not there now is an error.
    pub async fn open(globals: &Globals, filter: v1::PodFilter) -> Result<Self, CliError> {
        let path = client::socket_path(globals)?;
        let mut link = Link::open(globals).await?;
        let stream = watch(&mut link, &filter, None).await.map_err(|status| error_of(&status))?;
        Ok(Self { path, filter, stream, place: None, info: link.info })
    }

    /// The node's name, as the daemon says.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.info.node_name
    }

    /// Waits for it, also while there is no daemon. What the user should know of that is told on standard error.
    ///
    /// # Errors
    /// The daemon refuses to go on, for good.
    pub async fn next(&mut self) -> Result<News, CliError> {
        loop {
            match self.stream.message().await {
                Ok(Some(response)) => {
                    self.place = response.place.or(self.place.take());
                    if let Some(news) = response.item.map(|item| self.news(item)) {
                        return Ok(news);
                    }
                }
                Ok(None) => self.find_again(reconnect::ENDED).await?,
                Err(status) if is_for_good(&status) => return Err(error_of(&status)),
                Err(status) => self.find_again(status.message()).await?,
            }
        }
    }

    fn news(&self, item: Item) -> News {
        match item {
            Item::Pod(pod) => News::Pod(Box::new(pod)),
            Item::Gone(gone) => News::Gone(gone),
            Item::Synced(_) => News::Synced,
            Item::Restart(restart) => {
                if restart.place_lost && self.place.as_ref().is_some_and(|place| place.instance == self.info.instance) {
                    eprintln!(
                        "warning: too slow for what changes; some of it was not seen. Going on with what is there now"
                    );
                }
                News::Restart
            }
        }
    }

    /// Tries until there is a daemon that goes on.
    async fn find_again(&mut self, why: &str) -> Result<(), CliError> {
        reconnect::tell_lost(&self.path, &escape::line(why));
        let mut retry = Retry::new();
        loop {
            let mut link = retry.link(&self.path).await;
            let is_another = link.info.instance != self.info.instance;
            if is_another {
                await_sources(&mut link).await;
            }
            match watch(&mut link, &self.filter, self.place.clone()).await {
                Ok(stream) => {
                    let how = if is_another { "it was started again" } else { "it is the same" };
                    eprintln!("warning: found the daemon ({how}); going on");
                    (self.stream, self.info) = (stream, link.info);
                    return Ok(());
                }
                Err(status) if is_for_good(&status) => return Err(error_of(&status)),
                Err(_) => {}
            }
        }
    }
}

async fn watch(
    link: &mut Link,
    filter: &v1::PodFilter,
    since: Option<v1::Place>,
) -> Result<Streaming<v1::WatchPodsResponse>, Status> {
    let request = v1::WatchPodsRequest { filter: Some(filter.clone()), since };
    link.client.watch_pods(request).await.map(tonic::Response::into_inner)
}

/// So that pods are not told to be gone that the new daemon has yet to read. One that does not get there is taken as it is.
async fn await_sources(link: &mut Link) {
    let read = async {
        while !link.info.sources.iter().all(|source| source.synced) {
            tokio::time::sleep(SOURCES_LOOK).await;
            match link.client.get_info(v1::GetInfoRequest {}).await {
                Ok(info) => link.info = info.into_inner(),
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(SOURCES_WAIT, read).await;
}
