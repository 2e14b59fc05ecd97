//! `get -w`: what there is, and then a line for everything that changes.
//!
//! As with kubectl, what is gone is shown once more as it was last, and `--output-watch-events` says which it is.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::follow::{Follower, News};
use super::get::{GetArgs, nothing};
use super::output::{self, DataFormat, Format};
use super::pods::{self, Columns};
use super::table::Table;
use super::{CliError, Exit, Globals, escape, pod_list, probes};
use crate::api::server::is_failing;
use crate::api::v1;
use crate::clock;

/// What happened to an item, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Added,
    Modified,
    Deleted,
}

impl Event {
    const fn as_str(self) -> &'static str {
        match self {
            Event::Added => "ADDED",
            Event::Modified => "MODIFIED",
            Event::Deleted => "DELETED",
        }
    }
}

/// A pod, or one of its probes.
#[derive(Clone, Debug)]
pub(super) enum Row {
    Pod(Box<v1::Pod>),
    Probe(Box<v1::ProbeRow>),
}

/// Which of a pod's rows: container and type of probe.
type Key = (String, i32);

/// What is shown of pods.
#[derive(Clone, Copy, Debug)]
pub(super) enum View {
    Pods(Columns),
    Probes { wide: bool, failing: bool },
}

impl View {
    fn table(self) -> Table {
        match self {
            View::Pods(columns) => pods::table(columns),
            View::Probes { wide, .. } => probes::table(wide),
        }
    }

    /// In the plural.
    pub(super) fn what(self) -> &'static str {
        match self {
            View::Pods(_) => "pods",
            View::Probes { failing: false, .. } => "probes",
            View::Probes { failing: true, .. } => "failing probes",
        }
    }

    fn rows(self, pod: v1::Pod) -> Vec<(Key, Row)> {
        match self {
            View::Pods(_) => vec![((String::new(), 0), Row::Pod(Box::new(pod)))],
            View::Probes { .. } => probes::rows_of(pod)
                .map(|row| {
                    let probe_type = row.probe.as_ref().map_or(0, |probe| probe.r#type);
                    ((row.container.clone(), probe_type), Row::Probe(Box::new(row)))
                })
                .collect(),
        }
    }

    fn is_wanted(self, row: &Row) -> bool {
        match (self, row) {
            (View::Probes { failing: true, .. }, Row::Probe(row)) => is_failing(row),
            _ => true,
        }
    }

    fn cells(self, row: &Row, node_name: &str, now: Timestamp) -> Vec<String> {
        match (self, row) {
            (View::Pods(columns), Row::Pod(pod)) => pods::row(pod, columns, node_name, now),
            (View::Probes { wide, .. }, Row::Probe(row)) => probes::row(row, wide, now),
            (View::Pods(_), Row::Probe(_)) | (View::Probes { .. }, Row::Pod(_)) => Vec::new(),
        }
    }
}

impl Row {
    /// Namespace, pod, container, type: the order of a list.
    fn order(&self) -> (String, String, String, i32) {
        match self {
            Row::Pod(pod) => (pod.namespace.clone(), pod.name.clone(), String::new(), 0),
            Row::Probe(row) => {
                let probe_type = row.probe.as_ref().map_or(0, |probe| probe.r#type);
                (row.namespace.clone(), row.pod.clone(), row.container.clone(), probe_type)
            }
        }
    }

    /// What tells that it changed: what a table shows, and of a pod as an object all of it.
    fn change(&self, whole: bool, node_name: &str) -> Result<String, CliError> {
        Ok(match self {
            Row::Pod(_) if whole => self.value(node_name)?.to_string(),
            Row::Pod(pod) => format!("{:?}", pods::change_key(pod)),
            Row::Probe(row) => format!("{:?}", probes::change_key(row)),
        })
    }

    fn value(&self, node_name: &str) -> Result<Value, CliError> {
        match self {
            Row::Pod(pod) => serde_json::to_value(pod_list::pod(pod, node_name))
                .map_err(|error| CliError::Failed(format!("cannot write the answer: {error}"))),
            Row::Probe(row) => Ok(probes::value(row)),
        }
    }

    fn name(&self) -> String {
        match self {
            Row::Pod(pod) => format!("pod/{}", pod.name),
            Row::Probe(row) => probes::name(row),
        }
    }
}

/// Shows it until the user ends it, or whoever reads it has gone.
pub(super) async fn run(
    args: &GetArgs,
    globals: &Globals,
    names: &[String],
    filter: v1::PodFilter,
    view: View,
) -> Result<Exit, CliError> {
    let mut follower = Follower::open(globals, filter).await?;
    let mut shown = Shown::new(args, view, follower.node_name());
    let mut fresh: Option<Vec<v1::Pod>> = None;
    let mut is_first = true;
    loop {
        let news = tokio::select! {
            news = follower.next() => news?,
            () = output::reader_gone() => return Ok(Exit::Success),
        };
        match (news, &mut fresh) {
            (News::Restart, fresh) => *fresh = Some(Vec::new()),
            (News::Pod(pod), _) if !names.is_empty() && !names.contains(&pod.name) => {}
            (News::Pod(pod), Some(fresh)) => fresh.push(*pod),
            (News::Pod(pod), None) => shown.update(*pod)?,
            (News::Gone(gone), Some(fresh)) => fresh.retain(|pod| pod.uid != gone.uid),
            (News::Gone(gone), None) => shown.remove(&gone.uid)?,
            (News::Synced, _) => match fresh.take() {
                Some(pods) if is_first => {
                    args.all_there(names, &pods)?;
                    shown.begin(pods)?;
                    is_first = false;
                }
                Some(pods) => shown.replace(pods)?,
                None => {}
            },
        }
    }
}

/// What was shown, and how.
struct Shown<'a> {
    args: &'a GetArgs,
    view: View,
    node_name: String,
    table: Table,
    headers: bool,
    /// By UID of the pod: each row with what tells that it changed.
    known: BTreeMap<String, BTreeMap<Key, (String, Row)>>,
}

impl<'a> Shown<'a> {
    fn new(args: &'a GetArgs, view: View, node_name: &str) -> Self {
        let table = view.table();
        let table = if args.output_watch_events { table.with_first("EVENT") } else { table };
        Self { args, view, node_name: node_name.to_owned(), table, headers: !args.no_headers, known: BTreeMap::new() }
    }

    /// The first of all.
    fn begin(&mut self, pods: Vec<v1::Pod>) -> Result<(), CliError> {
        let mut events = Vec::new();
        for pod in pods {
            events.extend(self.take(pod)?);
        }
        if self.args.watch_only {
            return Ok(());
        }
        if events.is_empty() && self.args.has_table() {
            nothing(self.view.what(), &self.args.namespaces);
        }
        events.sort_by_cached_key(|(_, row)| row.order());
        self.print(&events)
    }

    /// All of them anew: what has changed meanwhile is shown.
    fn replace(&mut self, pods: Vec<v1::Pod>) -> Result<(), CliError> {
        let there: HashSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        let gone: Vec<String> = self.known.keys().filter(|uid| !there.contains(uid.as_str())).cloned().collect();
        gone.iter().try_for_each(|uid| self.remove(uid))?;
        pods.into_iter().try_for_each(|pod| self.update(pod))
    }

    fn update(&mut self, pod: v1::Pod) -> Result<(), CliError> {
        let events = self.take(pod)?;
        self.print(&events)
    }

    fn remove(&mut self, uid: &str) -> Result<(), CliError> {
        let rows = self.known.remove(uid).unwrap_or_default();
        let events: Vec<_> = rows.into_values().map(|(_, row)| (Event::Deleted, row)).collect();
        self.print(&events)
    }

    /// What is other than before.
    fn take(&mut self, pod: v1::Pod) -> Result<Vec<(Event, Row)>, CliError> {
        let uid = pod.uid.clone();
        let mut before = self.known.remove(&uid).unwrap_or_default();
        let mut after = BTreeMap::new();
        let mut events = Vec::new();
        for (key, row) in self.view.rows(pod) {
            let known = before.remove(&key);
            if !self.view.is_wanted(&row) {
                // It is shown as it is now: why it is not shown any more.
                events.extend(known.map(|_| (Event::Deleted, row)));
                continue;
            }
            let change = self.change(&row)?;
            match known {
                Some((before, _)) if before == change => {}
                Some(_) => events.push((Event::Modified, row.clone())),
                None => events.push((Event::Added, row.clone())),
            }
            after.insert(key, (change, row));
        }
        events.extend(before.into_values().map(|(_, row)| (Event::Deleted, row)));
        if !after.is_empty() {
            self.known.insert(uid, after);
        }
        Ok(events)
    }

    fn change(&self, row: &Row) -> Result<String, CliError> {
        row.change(!self.args.has_table(), &self.node_name)
    }

    fn print(&mut self, events: &[(Event, Row)]) -> Result<(), CliError> {
        if events.is_empty() {
            return Ok(());
        }
        let text = match self.args.output {
            None | Some(Format::Wide) => self.lines(events),
            Some(Format::Name) => {
                events.iter().map(|(_, row)| format!("{}\n", escape::line(&row.name()))).collect::<String>()
            }
            Some(Format::Json) => {
                let values = events.iter().map(|(event, row)| Ok(output::json_line(&self.value(*event, row)?)));
                values.collect::<Result<_, CliError>>()?
            }
            Some(Format::Yaml) => {
                let document = |(event, row): &(Event, Row)| {
                    Ok(format!("---\n{}", output::data(&self.value(*event, row)?, DataFormat::Yaml)?))
                };
                events.iter().map(document).collect::<Result<_, CliError>>()?
            }
        };
        output::print(&text)
    }

    fn value(&self, event: Event, row: &Row) -> Result<Value, CliError> {
        let object = row.value(&self.node_name)?;
        let with_event = self.args.output_watch_events;
        Ok(if with_event { json!({ "type": event.as_str(), "object": object }) } else { object })
    }

    fn lines(&mut self, events: &[(Event, Row)]) -> String {
        let now = clock::wall();
        self.table.clear_rows();
        for (event, row) in events {
            let mut cells = self.view.cells(row, &self.node_name, now);
            if self.args.output_watch_events {
                cells.insert(0, event.as_str().to_owned());
            }
            self.table.push(cells);
        }
        let headers = std::mem::replace(&mut self.headers, false);
        if headers { self.table.text() } else { self.table.rows_text() }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::pods::tests::{pod, running};
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> GetArgs {
        let words = std::iter::once("probe-engine").chain(line.split(' '));
        match Cli::try_parse_from(words).expect("arguments").command {
            Command::Get(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn web(uid: &str, ready: bool, verdict: v1::Verdict) -> v1::Pod {
        let mut container = running("c", ready);
        let probe =
            v1::Probe { r#type: v1::ProbeType::Liveness.into(), verdict: verdict.into(), ..v1::Probe::default() };
        container.probes = vec![probe];
        v1::Pod { uid: uid.to_owned(), name: uid.to_owned(), ..pod(v1::PodPhase::Running, vec![container]) }
    }

    /// Event and name of what would be shown.
    fn told(events: &[(Event, Row)]) -> Vec<(Event, String)> {
        events.iter().map(|(event, row)| (*event, row.name())).collect()
    }

    #[test]
    fn what_does_not_show_is_no_change() {
        let args = args("get pods -w");
        let mut shown = Shown::new(&args, View::Pods(Columns::default()), "node-1");
        let mut take = |pod| told(&shown.take(pod).expect("events"));
        assert_eq!(take(web("a", true, v1::Verdict::Success)), [(Event::Added, "pod/a".to_owned())]);
        assert_eq!(take(web("a", true, v1::Verdict::Failure)), [], "a verdict alone is no column");
        assert_eq!(take(web("a", false, v1::Verdict::Failure)), [(Event::Modified, "pod/a".to_owned())]);
    }

    #[test]
    fn as_objects_all_of_a_pod_is_compared_and_an_event_stands_beside_it() {
        let args = args("get pods -w -o json --output-watch-events");
        let mut shown = Shown::new(&args, View::Pods(Columns::default()), "node-1");
        let mut pod = web("a", true, v1::Verdict::Success);
        assert_eq!(shown.take(pod.clone()).expect("events").len(), 1);
        assert!(shown.take(pod.clone()).expect("events").is_empty());
        pod.pod_ip = "10.0.0.1".to_owned();
        let events = shown.take(pod).expect("events");
        let value = shown.value(events[0].0, &events[0].1).expect("a value");
        assert_eq!(
            (value["type"].as_str(), value["object"]["status"]["podIP"].as_str()),
            (Some("MODIFIED"), Some("10.0.0.1"))
        );
        assert_eq!(output::json_line(&value).lines().count(), 1);
    }

    #[test]
    fn of_failing_probes_the_recovery_shows_too_and_a_pod_that_goes_takes_its_probes_along() {
        let args = args("get probes --failing -w --output-watch-events");
        let mut shown = Shown::new(&args, View::Probes { wide: false, failing: true }, "node-1");
        let probe = |uid: &str| format!("probe/{uid}/c/liveness");
        let mut take = |uid: &str, verdict| told(&shown.take(web(uid, true, verdict)).expect("events"));
        assert_eq!(take("a", v1::Verdict::Success), []);
        assert_eq!(take("a", v1::Verdict::Failure), [(Event::Added, probe("a"))]);
        assert_eq!(take("a", v1::Verdict::Success), [(Event::Deleted, probe("a"))]);
        assert_eq!(take("b", v1::Verdict::Failure), [(Event::Added, probe("b"))]);
        assert_eq!(shown.known.keys().collect::<Vec<_>>(), ["b"]);
        let events = shown.take(v1::Pod { uid: "b".to_owned(), ..v1::Pod::default() }).expect("events");
        assert_eq!(told(&events), [(Event::Deleted, probe("b"))]);
    }

    #[test]
    fn later_rows_stand_under_the_first_ones() {
        let args = args("get pods -w --output-watch-events");
        let mut shown = Shown::new(&args, View::Pods(Columns::default()), "node-1");
        let long = shown.take(web("a-long-name-of-a-pod", true, v1::Verdict::Success)).expect("events");
        let first = shown.lines(&long);
        let short = shown.take(web("b", false, v1::Verdict::Success)).expect("events");
        let second = shown.lines(&short);
        assert!(first.starts_with("EVENT   NAME                   READY   STATUS"), "{first}");
        assert!(second.starts_with("ADDED   b                      0/1     Running"), "{second}");
    }
}
