//! `probe-engine events`

use serde_json::json;

use super::client::{self, Link, error_of};
use super::get::Namespaces;
use super::output::{self, DataFormat};
use super::reference::Reference;
use super::table::Table;
use super::{CliError, Exit, Globals, age, probes};
use crate::api::convert::timestamp_from;
use crate::api::v1::{self, watch_events_response::Item};
use crate::clock;
use crate::consumer::events::SOURCE_COMPONENT;

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    #[command(flatten)]
    namespaces: Namespaces,
    /// Only what happened to this pod: `pod/NAME`
    #[arg(long = "for", value_name = "pod/NAME")]
    of: Option<String>,
    /// Go on with what happens
    #[arg(short, long)]
    watch: bool,
    /// How it is written; with -w one JSON object a line
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// Shows events, oldest first.
pub fn run(args: &EventsArgs, globals: &Globals) -> Result<Exit, CliError> {
    let pod = match &args.of {
        Some(of) => Reference::one_pod(std::slice::from_ref(of))?,
        None => String::new(),
    };
    if args.watch && args.output == Some(DataFormat::Yaml) {
        return Err(CliError::usage("-w writes lines: only -o json may stand beside it"));
    }
    client::block_on(async {
        let mut link = Link::open(globals).await?;
        let request = v1::WatchEventsRequest { namespace: args.namespaces.filter(), pod, since: 0, follow: args.watch };
        let answer = link.client.watch_events(request).await.map_err(|s| error_of(&s))?;
        show(answer.into_inner(), args).await
    })
}

/// An empty table of events.
#[must_use]
pub fn table(with_namespace: bool) -> Table {
    let mut header = vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "RUN", "MESSAGE"];
    if with_namespace {
        header.insert(0, "NAMESPACE");
    }
    Table::new(header)
}

/// The row of an event: repeats are told after the age, as `kubectl describe` does.
#[must_use]
pub fn row(event: &v1::Event, with_namespace: bool, now: jiff::Timestamp) -> Vec<String> {
    let mut cells = vec![
        last_seen(event, now),
        event_type(event).to_owned(),
        event.reason.clone(),
        object(event),
        probes::run(event.run, event.threshold),
        event.message.clone(),
    ];
    if with_namespace {
        cells.insert(0, event.namespace.clone());
    }
    cells
}

/// `30s`, or `30s (x4 over 2m)`.
#[must_use]
pub fn last_seen(event: &v1::Event, now: jiff::Timestamp) -> String {
    let last = age::since(timestamp_from(event.at.as_ref()), now);
    if event.count < 2 {
        return last;
    }
    format!("{last} (x{} over {})", event.count, age::since(timestamp_from(event.first_at.as_ref()), now))
}

/// `Normal` or `Warning`.
#[must_use]
pub fn event_type(event: &v1::Event) -> &'static str {
    match event.r#type() {
        v1::EventType::Warning => "Warning",
        v1::EventType::Normal | v1::EventType::Unspecified => "Normal",
    }
}

fn object(event: &v1::Event) -> String {
    if event.container.is_empty() {
        return format!("pod/{}", event.pod);
    }
    format!("pod/{}:{}", event.pod, event.container)
}

async fn show(mut events: tonic::Streaming<v1::WatchEventsResponse>, args: &EventsArgs) -> Result<Exit, CliError> {
    let with_namespace = args.namespaces.all_namespaces;
    let mut shown = table(with_namespace);
    let (mut kept, mut live, mut lines) = (Vec::new(), false, 0_usize);
    while let Some(part) = events.message().await.map_err(|s| error_of(&s))? {
        match part.item {
            Some(Item::Event(event)) if live && args.output.is_some() => output::print(&json_line(&event)?)?,
            Some(Item::Event(event)) if live => {
                shown.clear_rows();
                shown.push(row(&event, with_namespace, clock::wall()));
                output::print(&if lines == 0 { shown.text() } else { shown.rows_text() })?;
                lines += 1;
            }
            Some(Item::Event(event)) => kept.push(event),
            Some(Item::PlaceLost(lost)) => eprintln!("warning: {}", lost_text(lost.missed_count)),
            Some(Item::CaughtUp(_)) => {
                live = true;
                lines += show_kept(&std::mem::take(&mut kept), &mut shown, args)?;
            }
            None => {}
        }
    }
    if !live {
        lines += show_kept(&kept, &mut shown, args)?;
    }
    if args.watch {
        return Err(CliError::Unknown("the daemon ended the stream: it is shutting down".to_owned()));
    }
    if lines == 0 && args.output.is_none() {
        eprintln!("No events found");
    }
    Ok(Exit::Success)
}

fn show_kept(kept: &[v1::Event], shown: &mut Table, args: &EventsArgs) -> Result<usize, CliError> {
    match args.output {
        Some(_) if args.watch => {
            for event in kept {
                output::print(&json_line(event)?)?;
            }
        }
        Some(format) => {
            let items: Vec<_> = kept.iter().map(value).collect();
            output::print_data(&json!({ "kind": "EventList", "items": items }), format)?;
        }
        None if kept.is_empty() => {}
        None => {
            let now = clock::wall();
            for event in kept {
                shown.push(row(event, args.namespaces.all_namespaces, now));
            }
            output::print(&shown.text())?;
        }
    }
    Ok(kept.len())
}

fn lost_text(missed_count: u64) -> String {
    match missed_count {
        0 => "events were dropped before they could be shown".to_owned(),
        count => format!("{count} events were dropped before they could be shown"),
    }
}

fn json_line(event: &v1::Event) -> Result<String, CliError> {
    let text = serde_json::to_string(&value(event))
        .map_err(|error| CliError::Failed(format!("cannot write the event: {error}")))?;
    Ok(format!("{}\n", super::escape::json(&text)))
}

/// An event as data.
fn value(event: &v1::Event) -> serde_json::Value {
    let time = |at: Option<&prost_types::Timestamp>| timestamp_from(at).map(|at| at.to_string());
    json!({
        "sequence": event.sequence,
        "lastTimestamp": time(event.at.as_ref()),
        "firstTimestamp": time(event.first_at.as_ref()),
        "count": event.count,
        "type": event_type(event),
        "reason": event.reason,
        "message": event.message,
        "namespace": event.namespace,
        "pod": event.pod,
        "podUID": event.pod_uid,
        "container": event.container,
        "probeType": probes::probe_type(event.probe_type()),
        "run": event.run,
        "threshold": event.threshold,
        "cause": event.cause,
        "source": { "component": SOURCE_COMPONENT },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pods::tests::{NOW, at};

    #[test]
    fn an_event_has_its_run_beside_its_text() {
        let event = v1::Event {
            at: at(30),
            first_at: at(150),
            count: 4,
            r#type: v1::EventType::Warning.into(),
            reason: "Unhealthy".to_owned(),
            message: "Liveness probe failed: \x1b]0;x\x07".to_owned(),
            namespace: "default".to_owned(),
            pod: "web".to_owned(),
            container: "app".to_owned(),
            run: 2,
            threshold: 3,
            ..v1::Event::default()
        };
        let now = jiff::Timestamp::from_second(NOW).expect("in range");
        let mut table = table(true);
        table.push(row(&event, true, now));
        assert_eq!(value(&event)["source"]["component"], "probe-engine");
        assert_eq!(
            table.text(),
            "NAMESPACE   LAST SEEN             TYPE      REASON      OBJECT        RUN      MESSAGE\n\
             default     30s (x4 over 2m30s)   Warning   Unhealthy   pod/web:app   2 of 3   Liveness probe failed: \\x1b]0;x\\x07\n"
        );
    }
}
