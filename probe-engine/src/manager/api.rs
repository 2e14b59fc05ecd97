//! What the API's source asks for, which is answered.

use std::collections::HashSet;
use std::sync::Arc;

use probe_core::id::PodUid;
use probe_core::spec::Pod;
use tokio::sync::oneshot;

use super::{Managed, Manager, ResultsGone, label, name_of};
use crate::limits;
use crate::source::SourceKind;
use crate::source::api::{Added, ApiUpdate, Refused};

impl Manager {
    /// Results has heard of all of it when the answer comes.
    pub(super) async fn handle_api(&mut self, update: ApiUpdate) -> Result<(), ResultsGone> {
        match update {
            ApiUpdate::Add(pods, answer) => {
                let mut answers = Vec::with_capacity(pods.len());
                for pod in pods {
                    answers.push(self.add_for_api(pod).await?);
                }
                tell(answer, answers);
            }
            ApiUpdate::End(uid, grace_seconds, answer) => {
                if self.pods.find(&uid).is_some_and(|managed| managed.source == SourceKind::Api) {
                    self.end_pod(&uid, grace_seconds).await?;
                }
                tell(answer, ());
            }
            ApiUpdate::Desired(desired, answer) => {
                let ended = self.cleanup_pods(&desired).await?;
                tell(answer, ended);
            }
            ApiUpdate::Status(uid, status, answer) => {
                self.handle_status(uid, status).await?;
                tell(answer, ());
            }
        }
        Ok(())
    }

    /// Nobody waits here for the end of another pod: whoever asked can ask again.
    async fn add_for_api(&mut self, pod: Arc<Pod>) -> Result<Result<Added, Refused>, ResultsGone> {
        let holder = self.pods.find(&pod.uid).or_else(|| self.pods.namesake(&pod));
        if let Some(holder) = holder {
            return Ok(held(holder, &pod));
        }
        if self.pods.len() >= limits::PODS_MAX {
            return Ok(Err(Refused::TooMany));
        }
        self.take_in(pod, SourceKind::Api).await?;
        Ok(Ok(Added::New))
    }

    /// Ends every pod of the API that is not among `desired` (housekeeping, `CleanupPods`); how many.
    async fn cleanup_pods(&mut self, desired: &HashSet<PodUid>) -> Result<usize, ResultsGone> {
        let is_undesired = |managed: &&Managed| {
            let is_wanted = desired.contains(&managed.pod.uid) || managed.terminating.is_some();
            managed.source == SourceKind::Api && !is_wanted
        };
        let undesired: Vec<PodUid> =
            self.pods.iter().filter(is_undesired).map(|managed| managed.pod.uid.clone()).collect();
        for uid in &undesired {
            self.end_pod(uid, None).await?;
        }
        Ok(undesired.len())
    }
}

/// A pod has the UID, or the namespace and name, of one that is to be added.
fn held(holder: &Managed, pod: &Pod) -> Result<Added, Refused> {
    let is_same = holder.pod.uid == pod.uid;
    let (holder_label, uid) = (label(&holder.pod).to_string(), holder.pod.uid.to_string());
    if holder.terminating.is_some() {
        return Err(Refused::Ending { pod: holder_label, uid });
    }
    match (is_same, name_of(&holder.pod) == name_of(pod), holder.source) {
        (true, true, SourceKind::Api) => Ok(Added::Known),
        (true, false, _) => Err(Refused::UidTaken { holder: holder_label, uid }),
        (_, _, from) => Err(Refused::NameTaken { pod: holder_label, uid, from: from.as_str() }),
    }
}

fn tell<T>(answer: oneshot::Sender<T>, value: T) {
    // Who asked may have gone.
    let _ = answer.send(value);
}
