//! Pods of the control API: those that a client adds and takes away, and the set that an embedder wants.
//!
//! Texts are read as manifests are, off the threads of the control runtime. The manager answers, so that what is refused is the
//! caller's error, and what was taken in shows when the caller hears of it.
//!
//! Bounds: [`limits::API_MANIFEST_BYTES_MAX`] a pod; see [`sync`] for a set.

pub mod sync;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use probe_core::id::PodUid;
use probe_core::spec::Pod;
use probe_core::status::PodStatus;
use tokio::sync::{Mutex, oneshot};

use super::manifest::{self, ManifestConfig};
use super::parse::{self, Interner, Options, Problem, Severity};
use super::{PodUpdate, PodUpdateSender};
use crate::limits;
use crate::results::{PodRecord, ResultsError, ResultsHandle};

/// This source's name in [`PodUpdate::Synced`].
pub const NAME: &str = "api";

/// What a text of the API is called in problems.
const ORIGIN: &str = "manifest";

/// From this source to the manager, which answers when results has heard of it.
#[derive(Debug)]
pub enum ApiUpdate {
    /// New pods; the answer says of each what became of it.
    Add(Vec<Arc<Pod>>, oneshot::Sender<Vec<Result<Added, Refused>>>),
    /// End a pod of this source, within so many seconds (`None`: as its spec says); of one that is being ended that can only
    /// become shorter.
    End(PodUid, Option<u64>, oneshot::Sender<()>),
    /// Of this source's pods these are wanted and no others: every other one is ended. The answer says how many that were.
    Desired(HashSet<PodUid>, oneshot::Sender<usize>),
    /// An embedder's newest word on a pod.
    Status(PodUid, Arc<PodStatus>, oneshot::Sender<()>),
}

/// What became of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is there now.
    New,
    /// This source has it already; it stays as it is.
    Known,
}

/// Why a pod is not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Also where it is this very pod, from another source.
    #[error("pod {pod} is there already (UID {uid}, from {from})")]
    NameTaken {
        /// `namespace/name`
        pod: String,
        /// Of the one that is there.
        uid: String,
        /// Where that one comes from.
        from: &'static str,
    },
    /// Two pods cannot have one UID.
    #[error("pod {holder} has its UID {uid}")]
    UidTaken {
        /// `namespace/name` of the other.
        holder: String,
        /// The UID.
        uid: String,
    },
    /// The one that has its UID or name is on its way out.
    #[error("pod {pod} (UID {uid}) is being ended; try again when it has gone")]
    Ending {
        /// `namespace/name`
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// [`limits::PODS_MAX`]
    #[error("the daemon has {} pods, as many as it can have", limits::PODS_MAX)]
    TooMany,
}

/// Why a text is no pod that can be taken in.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// At least one error.
    pub problems: Vec<Problem>,
    /// Whom it is about.
    pub about: About,
}

/// Whom a text is about, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// `metadata.uid`
    pub uid: Option<String>,
    /// `metadata.namespace`
    pub namespace: Option<String>,
    /// `metadata.name`
    pub name: Option<String>,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.uid) {
            (Some(name), _) => write!(f, "{}/{name}", self.namespace.as_deref().unwrap_or("default")),
            (None, Some(uid)) => f.write_str(uid),
            (None, None) => Ok(()),
        }
    }
}

/// Why nothing came of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The manager has said so.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The manager has gone.
    #[error("the manager has ended: the daemon is shutting down")]
    Ended,
    /// Results has gone, or with it the pod.
    #[error(transparent)]
    Results(#[from] ResultsError),
}

/// See the module; cheap to clone.
#[derive(Clone)]
pub struct ApiSource {
    shared: Arc<Shared>,
}

struct Shared {
    updates: PodUpdateSender,
    results: ResultsHandle,
    /// What pods are read for.
    config: ManifestConfig,
    interner: Interner,
    /// One set at a time. Whether there was one.
    synced: Mutex<bool>,
}

impl ApiSource {
    /// Writes to `updates`, asks `results`. `config`: as for manifests, of which there are none here. `synced`: nobody waits for
    /// a first set.
    #[must_use]
    pub fn new(updates: PodUpdateSender, results: ResultsHandle, config: ManifestConfig, synced: bool) -> Self {
        let (interner, synced) = (Interner::default(), Mutex::new(synced));
        Self { shared: Arc::new(Shared { updates, results, config, interner, synced }) }
    }

    /// The pod of a text, which holds one document, with what is odd about it. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// All that is wrong with it, whom it is about.
    pub fn read(&self, manifest: &str) -> Result<(Pod, Vec<Problem>), Unreadable> {
        let unreadable = |problems| Unreadable { problems, about: about(manifest) };
        let alone = |message: String| {
            vec![Problem { severity: Severity::Error, path: String::new(), message, file: ORIGIN.into(), line: 0 }]
        };
        if manifest.len() > limits::API_MANIFEST_BYTES_MAX {
            let (len, max) = (manifest.len(), limits::API_MANIFEST_BYTES_MAX);
            // Not read at all, so nobody knows.
            let about = About::default();
            return Err(Unreadable { problems: alone(format!("{len} bytes; at most {max} are taken")), about });
        }
        let config = &self.shared.config;
        let options = Options { strictness: config.strictness, runtime: Some(config.runtime) };
        let mut pods = parse::pods(ORIGIN, manifest.as_bytes(), &options, &self.shared.interner);
        let parsed = match (pods.next(), pods.next()) {
            (None, _) => return Err(unreadable(alone("is empty; want one Pod as YAML or JSON".to_owned()))),
            (_, Some(_)) => {
                let what = "holds several documents; want one Pod";
                return Err(Unreadable { problems: alone(what.to_owned()), about: About::default() });
            }
            (Some(parsed), None) => parsed.map_err(unreadable)?,
        };
        let mut problems = Vec::new();
        match manifest::accept(parsed, &ORIGIN.into(), config, &mut problems) {
            Some(pod) => Ok((pod, problems)),
            None => Err(unreadable(problems)),
        }
    }

    /// Adds a pod; gives back how it is then. One whose place is taken, if only until another has gone, is refused.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn add(&self, pod: Pod) -> Result<PodRecord, ApiError> {
        let (uid, pod_label) = (pod.uid.clone(), format!("{}/{}", pod.namespace, pod.name));
        let answers = self.ask(|answer| ApiUpdate::Add(vec![Arc::new(pod)], answer)).await?;
        match answers.into_iter().next() {
            Some(Ok(Added::New)) => {}
            Some(Ok(Added::Known)) => {
                return Err(Refused::NameTaken { pod: pod_label, uid: uid.to_string(), from: NAME }.into());
            }
            Some(Err(refused)) => return Err(refused.into()),
            None => return Err(ApiError::Ended),
        }
        let record = self.shared.results.read(move |node| node.pods.get(&uid).cloned()).await?;
        // Taken away again meanwhile.
        record.ok_or(ApiError::Results(ResultsError::Removed))
    }

    /// An embedder's newest word on a pod that is known.
    ///
    /// # Errors
    /// [`ApiError::Ended`]
    pub async fn status(&self, uid: PodUid, status: PodStatus) -> Result<(), ApiError> {
        self.ask(|answer| ApiUpdate::Status(uid, Arc::new(status), answer)).await
    }

    /// The termination of a pod begins.
    ///
    /// # Errors
    /// [`ApiError::Ended`]
    pub async fn stop_liveness_and_startup(&self, uid: PodUid) -> Result<(), ApiError> {
        self.send(PodUpdate::StopLivenessAndStartup(uid)).await
    }

    async fn ask<T>(&self, update: impl FnOnce(oneshot::Sender<T>) -> ApiUpdate) -> Result<T, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.send(PodUpdate::Api(update(answer))).await?;
        answered.await.map_err(|_| ApiError::Ended)
    }

    async fn send(&self, update: PodUpdate) -> Result<(), ApiError> {
        self.shared.updates.send(update).await.map_err(|_| ApiError::Ended)
    }
}

/// Bytes of a name (DNS-1123 subdomain, RFC 1123) and of a UID at most.
const NAME_BYTES_MAX: usize = 253;

fn about(manifest: &str) -> About {
    let document = parse::documents(ORIGIN, manifest.as_bytes()).next();
    // What is longer names no pod: then nobody can tell which it is.
    let is_name = |text: &&str| text.len() <= NAME_BYTES_MAX;
    let text = |field| document.as_ref()?.text_at(&["metadata", field]).filter(is_name).map(str::to_owned);
    About { uid: text("uid"), namespace: text("namespace"), name: text("name") }
}

#[cfg(test)]
mod tests;
