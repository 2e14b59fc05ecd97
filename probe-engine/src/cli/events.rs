//! `probe-engine events`: what is kept, and with -f what happens. A daemon that goes is waited for, and what it has to tell since
//! the last event that was seen is told then.

use std::path::PathBuf;

use serde_json::json;
use tonic::Status;

use super::client::{self, Link, error_of};
use super::get::Namespaces;
use super::output::{self, DataFormat};
use super::reconnect::{self, Retry, is_for_good};
use super::reference::Reference;
use super::table::Table;
use super::{CliError, Exit, Globals, age, escape, probes, style};
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
    /// Go on with what happens, until it is ended; a daemon that goes is waited for
    #[arg(short, long)]
    follow: bool,
    /// The same, as kubectl has it
    #[arg(short, long)]
    watch: bool,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE", ignore_case = true)]
    event_type: Option<EventTypeArg>,
    /// Only events with one of these reasons: `Unhealthy,Killing`
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
    /// How it is written; with -f one JSON object a line
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// `--type`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EventTypeArg {
    /// What goes as it should
    Normal,
    /// What may need somebody
    Warning,
}

impl EventsArgs {
    const fn is_followed(&self) -> bool {
        self.follow || self.watch
    }

    fn is_asked_for(&self, event: &v1::Event) -> bool {
        let is_type = match self.event_type {
            None => true,
            Some(EventTypeArg::Warning) => event.r#type() == v1::EventType::Warning,
            Some(EventTypeArg::Normal) => event.r#type() != v1::EventType::Warning,
        };
        is_type && (self.reason.is_empty() || self.reason.iter().any(|r| r.eq_ignore_ascii_case(&event.reason)))
    }
}

/// Shows events, oldest first.
pub fn run(args: &EventsArgs, globals: &Globals) -> Result<Exit, CliError> {
    let pod = match &args.of {
        Some(of) => Reference::one_pod(std::slice::from_ref(of))?,
        None => String::new(),
    };
    if args.is_followed() && args.output == Some(DataFormat::Yaml) {
        return Err(CliError::usage("-f writes lines: only -o json may stand beside it"));
    }
    client::block_on(async {
        let path = client::socket_path(globals)?;
        let link = Link::open(globals).await?;
        let table = table(args.namespaces.all_namespaces).coloured(style::colours(&std::io::stdout()));
        let mut shown = Shown { args, pod, table, has_header: false, newest: 0, is_live: false };
        if args.is_followed() {
            return shown.follow(path, link).await;
        }
        shown.kept(link).await
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

/// What was shown, and how.
struct Shown<'a> {
    args: &'a EventsArgs,
    /// Whose; empty = of all.
    pod: String,
    table: Table,
    has_header: bool,
    /// The newest event that was heard of, whether it was asked for or not.
    newest: u64,
    /// Everything that was kept has been shown.
    is_live: bool,
}

impl Shown<'_> {
    /// What is kept, and that is all.
    async fn kept(&mut self, mut link: Link) -> Result<Exit, CliError> {
        let mut events = Vec::new();
        let mut parts = self.open(&mut link).await.map_err(|s| error_of(&s))?;
        while let Some(part) = parts.message().await.map_err(|s| error_of(&s))? {
            match part.item {
                Some(Item::Event(event)) if self.args.is_asked_for(&event) => events.push(event),
                Some(Item::PlaceLost(lost)) => eprintln!("warning: {}", lost_text(lost.missed_count)),
                _ => {}
            }
        }
        if let Some(format) = self.args.output {
            let items: Vec<_> = events.iter().map(value).collect();
            output::print_data(&json!({ "kind": "EventList", "items": items }), format)?;
        } else if events.is_empty() {
            eprintln!("No events found");
        } else {
            self.print(&events)?;
        }
        Ok(Exit::Success)
    }

    /// Until it is ended, or nobody reads it any more.
    async fn follow(&mut self, path: PathBuf, mut link: Link) -> Result<Exit, CliError> {
        loop {
            let ended = tokio::select! {
                ended = self.session(&mut link) => ended?,
                () = output::reader_gone() => return Ok(Exit::Success),
            };
            let why = match ended {
                Ok(()) => reconnect::ENDED.to_owned(),
                Err(status) if is_for_good(&status) => return Err(error_of(&status)),
                Err(status) => escape::line(status.message()).into_owned(),
            };
            reconnect::tell_lost(&path, &why);
            let known = (link.info.instance.clone(), link.info.pid);
            let mut retry = Retry::new();
            link = tokio::select! {
                link = retry.link(&path) => link,
                () = output::reader_gone() => return Ok(Exit::Success),
            };
            if (&link.info.instance, link.info.pid) == (&known.0, known.1) {
                eprintln!("warning: found the daemon (it is the same); going on");
            } else {
                // Its sequence numbers begin anew.
                self.newest = 0;
                eprintln!("warning: found the daemon (it was started again); going on with its events");
            }
        }
    }

    /// One stream, to its end.
    async fn session(&mut self, link: &mut Link) -> Result<Result<(), Status>, CliError> {
        let mut parts = match self.open(link).await {
            Ok(parts) => parts,
            Err(status) => return Ok(Err(status)),
        };
        // What was kept at first is one table.
        let mut kept = Vec::new();
        loop {
            let part = match parts.message().await {
                Ok(Some(part)) => part,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            match part.item {
                Some(Item::Event(event)) => {
                    self.newest = event.sequence;
                    match self.args.is_asked_for(&event) {
                        true if self.is_live => self.print(std::slice::from_ref(&event))?,
                        true => kept.push(event),
                        false => {}
                    }
                }
                Some(Item::PlaceLost(lost)) => eprintln!("warning: {}", lost_text(lost.missed_count)),
                Some(Item::CaughtUp(_)) => {
                    self.is_live = true;
                    self.print(&std::mem::take(&mut kept))?;
                }
                None => {}
            }
        }
    }

    async fn open(&self, link: &mut Link) -> Result<tonic::Streaming<v1::WatchEventsResponse>, Status> {
        let request = v1::WatchEventsRequest {
            namespace: self.args.namespaces.filter(),
            pod: self.pod.clone(),
            since: self.newest,
            follow: self.args.is_followed(),
        };
        Ok(link.client.watch_events(request).await?.into_inner())
    }

    fn print(&mut self, events: &[v1::Event]) -> Result<(), CliError> {
        if self.args.output.is_some() {
            return events.iter().try_for_each(|event| output::print(&output::json_line(&value(event))));
        }
        if events.is_empty() {
            return Ok(());
        }
        let now = clock::wall();
        self.table.clear_rows();
        for event in events {
            self.table.push(row(event, self.args.namespaces.all_namespaces, now));
        }
        let has_header = std::mem::replace(&mut self.has_header, true);
        output::print(&if has_header { self.table.rows_text() } else { self.table.text() })
    }
}

fn lost_text(missed_count: u64) -> String {
    match missed_count {
        0 => "events were dropped before they could be shown".to_owned(),
        count => format!("{count} events were dropped before they could be shown"),
    }
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
    fn type_and_reason_choose_events() {
        use clap::Parser;
        let chosen = |line: &str, event_type: v1::EventType, reason: &str| {
            let words = ["probe-engine", "events"].into_iter().chain(line.split_whitespace());
            let cli = super::super::Cli::try_parse_from(words).expect(line);
            let super::super::Command::Events(args) = cli.command else { panic!("{line}") };
            let event = v1::Event { r#type: event_type.into(), reason: reason.to_owned(), ..v1::Event::default() };
            args.is_asked_for(&event)
        };
        use v1::EventType::{Normal, Warning};
        assert!(chosen("", Normal, "Started"));
        assert!(chosen("--type warning", Warning, "Unhealthy") && !chosen("--type Warning", Normal, "Started"));
        assert!(chosen("--type Normal", Normal, "Started") && !chosen("--type normal", Warning, "Unhealthy"));
        assert!(chosen("--reason Killing,unhealthy", Warning, "Unhealthy"));
        assert!(!chosen("--reason Killing --type Warning", Warning, "Unhealthy"));
    }

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
