//! SyncPods: the complete set of pods that an embedder wants. It is read part by part and takes effect as a whole.
//!
//! Bounds: [`limits::PODS_MAX`] pods; of the texts nothing is kept; [`limits::SYNC_PROBLEMS_LEN_MAX`] pods with problems are
//! told, the rest is counted.
//!
//! **Invariant:** a pod that could not be read is neither added nor ended: where it cannot even be told which it is, none is ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use probe_core::id::PodUid;
use probe_core::spec::Pod;
use tracing::{info, warn};

use super::{About, Added, ApiError, ApiSource, ApiUpdate, NAME, Unreadable};
use crate::limits;
use crate::results::{Node, PodRecord};
use crate::source::{PodUpdate, SourceKind};

/// What has come of a set so far.
#[derive(Debug, Default)]
pub struct Desired {
    pods: Vec<(u64, Arc<Pod>)>,
    uids: HashSet<PodUid>,
    /// Pods that could not be read.
    unreadable: Vec<About>,
    outcome: Synced,
    len: u64,
}

/// What came of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Pods that were not known.
    pub added: u64,
    /// Pods that stay as they are.
    pub kept: u64,
    /// Pods that are ended.
    pub removed: u64,
    /// Pods that were not taken in, at most [`limits::SYNC_PROBLEMS_LEN_MAX`].
    pub problems: Vec<SyncProblem>,
    /// All of them.
    pub problems_count: u64,
}

/// A pod that was not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncProblem {
    /// Place in the set, from 0.
    pub index: u64,
    /// `namespace/name`, as far as it could be read.
    pub pod: String,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// There are more than [`limits::PODS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {} pods, which is as many as the daemon can have", limits::PODS_MAX)]
pub struct TooMany;

impl Desired {
    /// Reads a part of the set. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// [`TooMany`]
    pub fn read<'a>(
        mut self,
        source: &ApiSource,
        manifests: impl IntoIterator<Item = &'a str>,
    ) -> Result<Desired, TooMany> {
        for manifest in manifests {
            let index = self.len;
            self.len += 1;
            if index >= limits::PODS_MAX as u64 {
                return Err(TooMany);
            }
            match source.read(manifest) {
                Ok((pod, _)) if self.uids.insert(pod.uid.clone()) => self.pods.push((index, Arc::new(pod))),
                Ok((pod, _)) => {
                    let why =
                        format!("metadata.uid: Duplicate value: \"{}\": another pod of this call has it", pod.uid);
                    self.outcome.refuse(index, || format!("{}/{}", pod.namespace, pod.name), [why]);
                }
                Err(Unreadable { problems, about }) => {
                    let told = problems.iter().filter(|p| p.severity == super::Severity::Error).map(told);
                    self.outcome.refuse(index, || about.to_string(), told);
                    self.unreadable.push(about);
                }
            }
        }
        Ok(self)
    }
}

impl Synced {
    fn refuse(&mut self, index: u64, pod: impl FnOnce() -> String, problems: impl IntoIterator<Item = String>) {
        self.problems_count += 1;
        if self.problems.len() >= limits::SYNC_PROBLEMS_LEN_MAX {
            return;
        }
        let mut problems = problems.into_iter();
        let mut told: Vec<String> = problems.by_ref().take(limits::SYNC_PROBLEMS_PER_POD_MAX).collect();
        let more = problems.count();
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        self.problems.push(SyncProblem { index, pod: pod(), problems: told });
    }
}

impl ApiSource {
    /// Makes the set the one that is wanted: those that are not in it go first, so that a name is free for who comes. One set
    /// after the other; one that was begun is finished, unless `is_ending` says that the daemon ends.
    ///
    /// # Errors
    /// [`ApiError::Ended`], and where results has.
    pub async fn sync(&self, desired: Desired, is_ending: impl Fn() -> bool) -> Result<Synced, ApiError> {
        let Desired { pods, mut uids, unreadable, mut outcome, .. } = desired;
        let mut synced = self.shared.synced.lock().await;
        let ends_nobody = unreadable.iter().any(|about| about.uid.is_none() && about.name.is_none());
        if ends_nobody {
            warn!("a pod of SyncPods cannot be told which it is: no pod is ended");
        } else {
            uids.extend(self.spared(unreadable).await?);
            outcome.removed = self.ask(|answer| ApiUpdate::Desired(uids, answer)).await? as u64;
        }
        let mut pods = pods.into_iter();
        loop {
            let part: Vec<_> = pods.by_ref().take(limits::API_PODS_ADDED_PER_PART).collect();
            if part.is_empty() {
                break;
            }
            if is_ending() {
                return Err(ApiError::Ended);
            }
            let added = part.iter().map(|(_, pod)| Arc::clone(pod)).collect();
            let answers = self.ask(|answer| ApiUpdate::Add(added, answer)).await?;
            for ((index, pod), answer) in part.into_iter().zip(answers) {
                match answer {
                    Ok(Added::New) => outcome.added += 1,
                    Ok(Added::Known) => outcome.kept += 1,
                    Err(why) => {
                        outcome.refuse(index, || format!("{}/{}", pod.namespace, pod.name), [why.to_string()]);
                    }
                }
            }
        }
        let Synced { added, kept, removed, problems_count, .. } = outcome;
        info!(added, kept, removed, problems = problems_count, "pods of SyncPods");
        if !*synced {
            self.send(PodUpdate::Synced { source: NAME, is_whole: problems_count == 0 }).await?;
            *synced = true;
        }
        self.shared.interner.sweep();
        Ok(outcome)
    }

    /// The pods of this source that texts are about which could not be read.
    async fn spared(&self, unreadable: Vec<About>) -> Result<Vec<PodUid>, ApiError> {
        if unreadable.is_empty() {
            return Ok(Vec::new());
        }
        let mut spared: Vec<PodUid> =
            unreadable.iter().flat_map(|about| &about.uid).map(|uid| (&**uid).into()).collect();
        let named = unreadable
            .into_iter()
            .filter_map(|about| Some((about.name?, about.namespace.unwrap_or_else(|| "default".to_owned()))));
        let mut names: HashMap<String, HashSet<String>> = HashMap::new();
        for (name, namespace) in named {
            names.entry(namespace).or_default().insert(name);
        }
        let names = Arc::new(names);
        for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
            let names = Arc::clone(&names);
            let look = move |node: &Node| {
                let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART)?;
                let is_named = |record: &&PodRecord| {
                    let names = names.get(&*record.pod.namespace);
                    record.source == SourceKind::Api && names.is_some_and(|names| names.contains(&*record.pod.name))
                };
                Some(part.filter(is_named).map(|record| record.pod.uid.clone()).collect::<Vec<_>>())
            };
            match self.shared.results.read(look).await? {
                Some(part) => spared.extend(part),
                None => break,
            }
        }
        Ok(spared)
    }
}

/// A problem as it stands beside its pod: without the name of a file.
fn told(problem: &super::Problem) -> String {
    match &*problem.path {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    }
}
