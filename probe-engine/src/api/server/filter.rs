//! Which pods a call is about.

use std::sync::Arc;

use probe_core::spec::Pod;
use tonic::Status;

use crate::api::selector::Selector;
use crate::api::v1;
use crate::limits;
use crate::results::{GonePod, Select};

/// A readable [`v1::PodFilter`].
pub(super) struct Filter {
    pub(super) namespace: String,
    pub(super) name: String,
    selector: Selector,
}

impl Filter {
    pub(super) fn read(filter: Option<v1::PodFilter>) -> Result<Self, Status> {
        let v1::PodFilter { namespace, name, label_selector } = filter.unwrap_or_default();
        // It is asked of every pod, on the results task.
        let (len, max) = (label_selector.len(), limits::API_SELECTOR_BYTES_MAX);
        if len > max {
            return Err(Status::invalid_argument(format!("filter.label_selector: {len} bytes; at most {max}")));
        }
        let selector = Selector::parse(&label_selector).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Self { namespace, name, selector })
    }

    pub(super) fn selects(&self, pod: &Pod) -> bool {
        self.selects_named(&pod.namespace, &pod.name, &pod.labels)
    }

    /// `labels`: sorted by key.
    fn selects_named(&self, namespace: &str, name: &str, labels: &[(Arc<str>, Arc<str>)]) -> bool {
        let label = |key: &str| {
            let place = labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
            Some(&*labels[place].1)
        };
        (self.namespace.is_empty() || self.namespace == namespace)
            && (self.name.is_empty() || self.name == name)
            && self.selector.matches(label)
    }
}

impl Select for Filter {
    fn pod(&self, pod: &Pod) -> bool {
        self.selects(pod)
    }

    fn gone(&self, gone: &GonePod) -> bool {
        self.selects_named(&gone.namespace, &gone.name, &gone.labels)
    }
}
