//! `probe-engine set gate POD TYPE=True|False|Unknown`

use serde_json::json;

use super::client::{self, Link, error_of};
use super::get::DEFAULT_NAMESPACE;
use super::output::LineFormat;
use super::reference::Reference;
use super::{CliError, Exit, Globals, output, pod_list};
use crate::api::v1;

/// Arguments of `set`.
#[derive(Debug, clap::Args)]
pub struct SetArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Set a pod's readiness gates: it is Ready when its containers are and every gate is True
    Gate(GateArgs),
}

#[derive(Debug, clap::Args)]
struct GateArgs {
    /// `NAME` or `pod/NAME`
    #[arg(value_name = "POD")]
    pod: String,
    /// `TYPE=True`, `TYPE=False` or `TYPE=Unknown`; `TYPE-` takes the condition away
    #[arg(value_name = "TYPE=STATUS", required = true)]
    gates: Vec<String>,
    /// The pod's namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// How it is written: an object a line
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<LineFormat>,
}

/// Sets what was said, in the order in which it was said; ends at the first that is refused.
pub fn run(args: &SetArgs, globals: &Globals) -> Result<Exit, CliError> {
    let What::Gate(args) = &args.what;
    let pod = Reference::one_pod(std::slice::from_ref(&args.pod))?;
    let gates = args.gates.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    client::block_on(async {
        let mut link = Link::open(globals).await?;
        for (condition_type, status) in gates {
            let request = v1::SetReadinessGateRequest {
                namespace: args.namespace.clone(),
                pod: pod.clone(),
                condition_type: condition_type.to_owned(),
                status: status.into(),
            };
            let answer = link.client.set_readiness_gate(request).await.map_err(|s| error_of(&s))?.into_inner();
            let shown = answer.pod.ok_or_else(|| CliError::Unknown("the daemon's answer holds no pod".to_owned()))?;
            output::print(&match args.output {
                None => line(&shown, condition_type, status),
                Some(LineFormat::Json) => output::json_line(&value(&shown, condition_type, status)),
            })?;
        }
        Ok(Exit::Success)
    })
}

/// `TYPE=STATUS` or `TYPE-`.
fn parse(text: &str) -> Result<(&str, v1::ConditionStatus), CliError> {
    if let Some((condition_type, status)) = text.split_once('=') {
        let status = match status {
            "True" => v1::ConditionStatus::True,
            "False" => v1::ConditionStatus::False,
            "Unknown" => v1::ConditionStatus::Unknown,
            _ => {
                return Err(CliError::usage(format!(
                    "{text:?}: {status:?} is no status; it is True, False or Unknown"
                )));
            }
        };
        return Ok((condition_type, status));
    }
    let taken_away = text.strip_suffix('-').map(|condition_type| (condition_type, v1::ConditionStatus::Unspecified));
    taken_away.ok_or_else(|| CliError::usage(format!("{text:?} is neither TYPE=True|False|Unknown nor TYPE-")))
}

fn line(pod: &v1::Pod, condition_type: &str, status: v1::ConditionStatus) -> String {
    let word = |status| match status {
        v1::ConditionStatus::Unspecified => "<none>",
        known => pod_list::condition_status(known),
    };
    let ready = pod.conditions.iter().find(|condition| condition.r#type == "Ready");
    let ready = ready.map_or(v1::ConditionStatus::Unspecified, v1::Condition::status);
    format!("pod/{}: {condition_type} is {}, Ready is {}\n", pod.name, word(status), word(ready))
}

/// What was set, and what the pod's readiness is with it.
fn value(pod: &v1::Pod, condition_type: &str, status: v1::ConditionStatus) -> serde_json::Value {
    let ready = pod.conditions.iter().find(|condition| condition.r#type == "Ready");
    json!({
        "namespace": pod.namespace,
        "pod": pod.name,
        "type": condition_type,
        "status": (status != v1::ConditionStatus::Unspecified).then(|| pod_list::condition_status(status)),
        "ready": ready.map(|condition| pod_list::condition_status(condition.status())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_set_or_taken_away() {
        let parsed = |text| parse(text).map_err(|error| error.to_string());
        assert_eq!(parsed("example.com/lb=True"), Ok(("example.com/lb", v1::ConditionStatus::True)));
        assert_eq!(parsed("a-b=Unknown"), Ok(("a-b", v1::ConditionStatus::Unknown)));
        assert_eq!(parsed("example.com/lb-"), Ok(("example.com/lb", v1::ConditionStatus::Unspecified)));
        assert_eq!(parsed("lb=true").unwrap_err(), r#""lb=true": "true" is no status; it is True, False or Unknown"#);
        assert_eq!(parsed("lb").unwrap_err(), r#""lb" is neither TYPE=True|False|Unknown nor TYPE-"#);
    }

    #[test]
    fn what_was_set_is_told_with_what_it_led_to() {
        let ready = v1::Condition {
            r#type: "Ready".to_owned(),
            status: v1::ConditionStatus::False.into(),
            ..v1::Condition::default()
        };
        let pod = v1::Pod { name: "web".to_owned(), conditions: vec![ready], ..v1::Pod::default() };
        assert_eq!(line(&pod, "a/b", v1::ConditionStatus::True), "pod/web: a/b is True, Ready is False\n");
        assert_eq!(line(&pod, "a/b", v1::ConditionStatus::Unspecified), "pod/web: a/b is <none>, Ready is False\n");
    }
}
