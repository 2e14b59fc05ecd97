//! Push of the node's metrics to an OpenTelemetry collector (OTLP over gRPC): off unless `--otlp-endpoint` names one.
//!
//! What is sent is what `/metrics` has, but for what there is per pod or per probe. Bound: one request at a time, given up after
//! [`limits::OTLP_TIMEOUT`]; nothing is kept for later, as counters are cumulative.
//!
//! **Invariant:** nobody waits for this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request};
use tracing::{info, warn};

use crate::consumer::metrics::{Metrics, attribute};
use crate::{limits, shutdown};

/// The variable that headers come from (OpenTelemetry's name for it).
pub const HEADERS_ENV: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// Characters of a collector's answer that are logged.
const ANSWER_LEN_MAX: usize = 200;

/// Why nothing can be pushed.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The address.
    #[error("--otlp-endpoint {endpoint}: {source}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// A header; its value is not told.
    #[error("{HEADERS_ENV}: header {index} {what}; want name=value,name=value with values percent-encoded")]
    Header {
        /// From 1.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What is counted, for `/metrics`.
#[derive(Debug, Default)]
pub struct OtlpStats {
    /// Requests that the collector took.
    pub pushes: AtomicU64,
    /// Requests that it did not take, or not in full.
    pub failures: AtomicU64,
}

/// Where metrics go, and how often.
pub struct Collector {
    endpoint: String,
    interval: Duration,
    headers: MetadataMap,
    client: MetricsServiceClient<Channel>,
}

impl Collector {
    /// `endpoint`: `http://HOST:PORT` or `https://HOST:PORT`; `headers`: the text of [`HEADERS_ENV`]. Connects only when there is
    /// something to push, so a collector may come later. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with address or headers.
    pub fn new(endpoint: &str, interval: Duration, headers: &str) -> Result<Self, OtlpError> {
        let failed = |source| OtlpError::Endpoint { endpoint: endpoint.to_owned(), source };
        let mut channel = Endpoint::from_shared(endpoint.to_owned()).map_err(failed)?;
        if channel.uri().scheme_str() == Some("https") {
            channel = channel.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(failed)?;
        }
        let channel = channel.connect_timeout(limits::OTLP_TIMEOUT).timeout(limits::OTLP_TIMEOUT);
        let client = MetricsServiceClient::new(channel.connect_lazy());
        Ok(Self { endpoint: endpoint.to_owned(), interval, headers: parsed(headers)?, client })
    }
}

/// The text of [`HEADERS_ENV`].
///
/// # Errors
/// It is not UTF-8.
pub fn headers_of_environment() -> Result<String, OtlpError> {
    let text = std::env::var_os(HEADERS_ENV).unwrap_or_default();
    text.into_string().map_err(|_| OtlpError::Header { index: 1, what: "is not UTF-8 text" })
}

/// Pushes.
pub struct Push {
    /// Where to.
    pub collector: Collector,
    /// What.
    pub metrics: Metrics,
    /// Of this node: told as `host.name`, `k8s.node.name` and `service.instance.id`.
    pub node_name: String,
    /// Told in `/metrics`.
    pub stats: Arc<OtlpStats>,
}

impl Push {
    /// Pushes until `shutdown` turns true (or its sender goes), or results has ended.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut ticks = interval(self.collector.interval);
        let mut is_told = false;
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown::told(&mut shutdown) => return,
                _ = ticks.tick() => {}
            }
            let Ok(metrics) = self.metrics.pushed().await else { return };
            tokio::select! {
                () = shutdown::told(&mut shutdown) => return,
                failure = self.push(metrics) => self.count(failure, &mut is_told),
            }
        }
    }

    /// What went wrong.
    async fn push(&mut self, metrics: Vec<Metric>) -> Option<String> {
        let mut request = Request::new(self.request(metrics));
        *request.metadata_mut() = self.collector.headers.clone();
        match self.collector.client.export(request).await {
            Ok(answer) => {
                let partial = answer.into_inner().partial_success?;
                (partial.rejected_data_points > 0).then(|| {
                    format!("{} points refused: {}", partial.rejected_data_points, told(&partial.error_message))
                })
            }
            Err(status) if status.code() == Code::Cancelled => {
                Some(format!("no answer within {} s", limits::OTLP_TIMEOUT.as_secs()))
            }
            Err(status) => Some(format!("{:?}: {}", status.code(), told(status.message()))),
        }
    }

    fn request(&self, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        let node = &self.node_name;
        let attributes = [
            ("service.name", "probe-engine"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", node),
            ("host.name", node),
            ("k8s.node.name", node),
        ];
        let attributes = attributes.map(|(name, value)| attribute(name, value.to_owned())).to_vec();
        let scope = InstrumentationScope { name: "probe-engine".to_owned(), ..InstrumentationScope::default() };
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(Resource { attributes, ..Resource::default() }),
                scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
                ..ResourceMetrics::default()
            }],
        }
    }

    /// `is_told`: the push before failed, which has been logged.
    fn count(&self, failure: Option<String>, is_told: &mut bool) {
        let endpoint = &self.collector.endpoint;
        let was_told = std::mem::replace(is_told, failure.is_some());
        match failure {
            Some(error) => {
                self.stats.failures.fetch_add(1, Ordering::Relaxed);
                if !was_told {
                    warn!(endpoint, error, "metrics cannot be pushed; trying again at each interval");
                }
            }
            None => {
                self.stats.pushes.fetch_add(1, Ordering::Relaxed);
                if was_told {
                    info!(endpoint, "metrics are pushed again");
                }
            }
        }
    }
}

/// A bounded text of the collector's, without control characters.
fn told(text: &str) -> String {
    text.chars().take(ANSWER_LEN_MAX).flat_map(char::escape_debug).collect()
}

/// `name=value,name=value`, values percent-encoded (OpenTelemetry's specification of the exporter, "Specifying headers").
fn parsed(text: &str) -> Result<MetadataMap, OtlpError> {
    let mut headers = MetadataMap::new();
    for (index, header) in (1..).zip(text.split(',').filter(|header| !header.trim().is_empty())) {
        let failed = |what| OtlpError::Header { index, what };
        let (name, value) = header.split_once('=').ok_or(failed("has no `=`"))?;
        let name = name.trim().to_ascii_lowercase();
        let name: MetadataKey<Ascii> = name.parse().map_err(|_| failed("has a name that no header can have"))?;
        let value = decoded(value.trim()).ok_or(failed("has a value that is not percent-encoded text"))?;
        let mut value: MetadataValue<Ascii> =
            value.parse().map_err(|_| failed("has a value that no header can have"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
