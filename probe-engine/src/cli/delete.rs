//! `probe-engine delete pod NAME [--grace-period SECONDS]`

use serde_json::json;

use super::client::{self, Link, error_of};
use super::get::DEFAULT_NAMESPACE;
use super::output::DataFormat;
use super::reference::Reference;
use super::{CliError, Exit, Globals, output};
use crate::api::v1;

/// Arguments of `delete`.
///
/// Ends a pod that came through the API (`add`). One of a manifest is ended by taking that away; while it ends this hurries it.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// `pod NAME` or `pod/NAME`
    #[arg(value_name = "pod NAME", required = true, num_args = 1..=2)]
    pod: Vec<String>,
    /// Seconds from the beginning of the pod's end until its containers are killed; while it ends it can only become shorter
    /// [default: as its spec says]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    grace_period: Option<u32>,
    /// The pod's namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// How it is written
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// Asks for it; what comes of it is told by events.
pub(super) fn run(args: &DeleteArgs, globals: &Globals) -> Result<Exit, CliError> {
    let pod = Reference::one_pod(&args.pod)?;
    client::block_on(async {
        let mut link = Link::open(globals).await?;
        let request = v1::RemovePodRequest {
            namespace: args.namespace.clone(),
            pod: pod.clone(),
            grace_period_seconds: args.grace_period,
        };
        link.client.remove_pod(request).await.map_err(|s| error_of(&s))?;
        match args.output {
            None => {
                let within = args.grace_period.map(|seconds| format!(" within {seconds} s")).unwrap_or_default();
                output::print(&format!("pod/{pod}: ends{within}\n"))?;
            }
            Some(format) => {
                let value = json!({
                    "namespace": args.namespace,
                    "pod": pod,
                    "gracePeriodSeconds": args.grace_period,
                });
                output::print_data(&value, format)?;
            }
        }
        Ok(Exit::Success)
    })
}
