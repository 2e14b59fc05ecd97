//! `probe-engine get pods|probes`

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::client::{self, Link, error_of};
use super::output::{self, DataFormat, Format};
use super::pods::{self, Columns};
use super::reference::{Kind, Reference};
use super::table::Table;
use super::{CliError, Exit, Globals, escape, pod_list, probes};
use crate::api::selector::Selector;
use crate::{api::v1, clock};

/// How often `-w` asks again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The namespace where none is said.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Which namespaces, as kubectl takes them.
#[derive(Clone, Debug, clap::Args)]
pub struct Namespaces {
    /// The namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

impl Namespaces {
    /// As the API takes it: empty = all.
    #[must_use]
    pub fn filter(&self) -> String {
        if self.all_namespaces { String::new() } else { self.namespace.clone() }
    }
}

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// `pods`, `probes`, `pod NAME`, `pod/NAME`; probes of a pod: `probes POD`
    #[arg(value_name = "TYPE[/NAME]", required = true, num_args = 1..)]
    what: Vec<String>,
    #[command(flatten)]
    namespaces: Namespaces,
    /// Only what these labels select: `app=web,tier!=db,env in (a,b),!canary`
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,
    /// How it is written
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Go on, with a line for everything that changes
    #[arg(short, long)]
    watch: bool,
    /// No column names
    #[arg(long)]
    no_headers: bool,
    /// Only probes whose verdict is Failure, or whose last attempt did not end well
    #[arg(long)]
    failing: bool,
    /// Only probes with an attempt that took 80 % of its timeout or more, and succeeded
    #[arg(long)]
    near_miss: bool,
}

/// Shows pods or probes.
pub fn run(args: &GetArgs, globals: &Globals) -> Result<Exit, CliError> {
    let reference = Reference::parse(&args.what)?;
    Selector::parse(&args.selector).map_err(|error| CliError::usage(error.to_string()))?;
    if args.failing && reference.kind != Kind::Probe {
        return Err(CliError::usage("--failing is about probes: `probe-engine get probes --failing`"));
    }
    if args.near_miss && reference.kind != Kind::Probe {
        return Err(CliError::usage("--near-miss is about probes: `probe-engine get probes --near-miss`"));
    }
    if !reference.names.is_empty() && (args.namespaces.all_namespaces || !args.selector.is_empty()) {
        return Err(CliError::usage("names go with one namespace: neither -A nor -l may stand beside them"));
    }
    if args.watch && !matches!(args.output, None | Some(Format::Wide)) {
        return Err(CliError::usage("-w shows a table: only -o wide may stand beside it"));
    }
    client::block_on(async {
        let link = Link::open(globals).await?;
        match reference.kind {
            Kind::Pod => Pods { args, names: reference.names, link }.run().await,
            Kind::Probe => Probes { args, names: reference.names, link }.run().await,
        }
    })
}

/// All pods that a filter selects.
pub async fn list_pods(link: &mut Link, filter: v1::PodFilter) -> Result<Vec<v1::Pod>, CliError> {
    let request = v1::ListPodsRequest { filter: Some(filter) };
    let mut parts = link.client.list_pods(request).await.map_err(|s| error_of(&s))?.into_inner();
    let mut pods = Vec::new();
    while let Some(part) = parts.message().await.map_err(|s| error_of(&s))? {
        pods.extend(part.pods);
    }
    Ok(pods)
}

struct Pods<'a> {
    args: &'a GetArgs,
    names: Vec<String>,
    link: Link,
}

impl Pods<'_> {
    async fn run(mut self) -> Result<Exit, CliError> {
        let pods = self.list().await?;
        let node = self.link.info.node_name.clone();
        match self.args.output {
            None | Some(Format::Wide) => self.show(&pods).await?,
            Some(Format::Name) => {
                output::print(&pods.iter().map(|p| format!("pod/{}\n", escape::line(&p.name))).collect::<String>())?;
            }
            Some(Format::Json) => self.print_objects(&pods, &node, DataFormat::Json)?,
            Some(Format::Yaml) => self.print_objects(&pods, &node, DataFormat::Yaml)?,
        }
        self.missing(&pods)
    }

    async fn list(&mut self) -> Result<Vec<v1::Pod>, CliError> {
        let filter = v1::PodFilter {
            namespace: self.args.namespaces.filter(),
            name: only(&self.names),
            label_selector: self.args.selector.clone(),
        };
        let mut pods = list_pods(&mut self.link, filter).await?;
        if !self.names.is_empty() {
            pods.retain(|pod| self.names.contains(&pod.name));
        }
        Ok(pods)
    }

    fn print_objects(&self, pods: &[v1::Pod], node: &str, format: DataFormat) -> Result<(), CliError> {
        // As kubectl: one name is one object, anything else a list.
        match (self.names.as_slice(), pods) {
            ([_], [pod]) => output::print_data(&pod_list::pod(pod, node), format),
            ([_], []) => Ok(()),
            _ => output::print_data(&pod_list::list(pods, node), format),
        }
    }

    async fn show(&mut self, first: &[v1::Pod]) -> Result<(), CliError> {
        let columns =
            Columns { namespace: self.args.namespaces.all_namespaces, wide: self.args.output == Some(Format::Wide) };
        let node = self.link.info.node_name.clone();
        let mut watch = Watch::new(pods::table(columns), self.args);
        let key = |pod: &v1::Pod| (pod.uid.clone(), pods::change_key(pod));
        let row = |pod: &v1::Pod, now| pods::row(pod, columns, &node, now);
        watch.first(first, key, row)?;
        if first.is_empty() && self.names.is_empty() {
            nothing("pods", &self.args.namespaces);
        }
        while self.args.watch {
            tokio::time::sleep(LOOK_EVERY).await;
            let pods = self.list().await?;
            watch.next(&pods, key, row)?;
        }
        Ok(())
    }

    fn missing(&self, pods: &[v1::Pod]) -> Result<Exit, CliError> {
        let is_there = |name: &&String| pods.iter().any(|p| p.name == **name);
        let names: Vec<String> = self.names.iter().filter(|name| !is_there(name)).cloned().collect();
        if names.is_empty() { Ok(Exit::Success) } else { Err(not_found(&names, &self.args.namespaces)) }
    }
}

struct Probes<'a> {
    args: &'a GetArgs,
    /// Of pods.
    names: Vec<String>,
    link: Link,
}

impl Probes<'_> {
    async fn run(mut self) -> Result<Exit, CliError> {
        let rows = self.list().await?;
        // A pod without such probes is there all the same.
        let missing = self.missing(&rows).await?;
        if rows.is_empty() && !missing.is_empty() {
            return Err(not_found(&missing, &self.args.namespaces));
        }
        match self.args.output {
            None | Some(Format::Wide) => self.show(&rows).await?,
            Some(Format::Name) => {
                let lines = rows.iter().map(|r| format!("{}\n", escape::line(&probes::name(r))));
                output::print(&lines.collect::<String>())?;
            }
            Some(Format::Json) => output::print_data(&objects(&rows), DataFormat::Json)?,
            Some(Format::Yaml) => output::print_data(&objects(&rows), DataFormat::Yaml)?,
        }
        if missing.is_empty() { Ok(Exit::Success) } else { Err(not_found(&missing, &self.args.namespaces)) }
    }

    /// The named pods that do not exist.
    async fn missing(&mut self, rows: &[v1::ProbeRow]) -> Result<Vec<String>, CliError> {
        let mut names: Vec<String> =
            self.names.iter().filter(|name| !rows.iter().any(|row| row.pod == **name)).cloned().collect();
        if !names.is_empty() {
            let filter = v1::PodFilter { namespace: self.args.namespaces.filter(), ..v1::PodFilter::default() };
            let pods = list_pods(&mut self.link, filter).await?;
            names.retain(|name| !pods.iter().any(|pod| pod.name == *name));
        }
        Ok(names)
    }

    async fn list(&mut self) -> Result<Vec<v1::ProbeRow>, CliError> {
        let filter = v1::PodFilter {
            namespace: self.args.namespaces.filter(),
            name: only(&self.names),
            label_selector: self.args.selector.clone(),
        };
        let GetArgs { failing, near_miss, .. } = *self.args;
        let request = v1::ListProbesRequest { filter: Some(filter), failing, near_miss };
        let answer = self.link.client.list_probes(request).await.map_err(|s| error_of(&s))?;
        let mut parts = answer.into_inner();
        let mut rows = Vec::new();
        while let Some(part) = parts.message().await.map_err(|s| error_of(&s))? {
            rows.extend(part.probes);
        }
        if !self.names.is_empty() {
            rows.retain(|row| self.names.contains(&row.pod));
        }
        Ok(rows)
    }

    async fn show(&mut self, first: &[v1::ProbeRow]) -> Result<(), CliError> {
        let wide = self.args.output == Some(Format::Wide);
        let mut watch = Watch::new(probes::table(wide), self.args);
        let key = |of: &v1::ProbeRow| {
            let probe_type = of.probe.as_ref().map_or(0, |p| p.r#type);
            ((of.pod_uid.clone(), of.container.clone(), probe_type), probes::change_key(of))
        };
        let row = |of: &v1::ProbeRow, now| probes::row(of, wide, now);
        watch.first(first, key, row)?;
        if first.is_empty() {
            let what = match (self.args.failing, self.args.near_miss) {
                (false, false) => "probes",
                (true, false) => "failing probes",
                (false, true) => "probes with near misses",
                (true, true) => "failing probes with near misses",
            };
            nothing(what, &self.args.namespaces);
        }
        while self.args.watch {
            tokio::time::sleep(LOOK_EVERY).await;
            let rows = self.list().await?;
            watch.next(&rows, key, row)?;
        }
        Ok(())
    }
}

fn objects(rows: &[v1::ProbeRow]) -> serde_json::Value {
    json!({ "kind": "ProbeList", "items": rows.iter().map(probes::value).collect::<Vec<_>>() })
}

/// A table, and what was shown in it: each look adds a line for everything that is new or changed.
struct Watch<K, V> {
    table: Table,
    headers: bool,
    shown: HashMap<K, V>,
}

impl<K: Eq + Hash, V: PartialEq> Watch<K, V> {
    fn new(table: Table, args: &GetArgs) -> Self {
        Self { table, headers: !args.no_headers, shown: HashMap::new() }
    }

    fn first<T>(
        &mut self,
        items: &[T],
        key: impl Fn(&T) -> (K, V),
        row: impl Fn(&T, Timestamp) -> Vec<String>,
    ) -> Result<(), CliError> {
        let now = clock::wall();
        for item in items {
            self.table.push(row(item, now));
        }
        self.shown = items.iter().map(key).collect();
        if !items.is_empty() {
            let text = if self.headers { self.table.text() } else { self.table.rows_text() };
            output::print(&text)?;
            self.headers = false;
        }
        Ok(())
    }

    fn next<T>(
        &mut self,
        items: &[T],
        key: impl Fn(&T) -> (K, V),
        row: impl Fn(&T, Timestamp) -> Vec<String>,
    ) -> Result<(), CliError> {
        let now = clock::wall();
        self.table.clear_rows();
        let mut changed = false;
        let mut seen = HashMap::with_capacity(items.len());
        for item in items {
            let (name, value) = key(item);
            if self.shown.get(&name) != Some(&value) {
                self.table.push(row(item, now));
                changed = true;
            }
            seen.insert(name, value);
        }
        self.shown = seen;
        if changed {
            let text = if self.headers { self.table.text() } else { self.table.rows_text() };
            self.headers = false;
            output::print(&text)?;
        }
        Ok(())
    }
}

/// One name narrows the question; more are picked from the answer.
fn only(names: &[String]) -> String {
    match names {
        [name] => name.clone(),
        _ => String::new(),
    }
}

fn not_found(names: &[String], namespaces: &Namespaces) -> CliError {
    let line = |name: &String| format!("pods {name:?} not found in namespace {:?}", namespaces.namespace);
    CliError::Failed(names.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn nothing(what: &str, namespaces: &Namespaces) {
    if namespaces.all_namespaces {
        eprintln!("No {what} found");
    } else {
        eprintln!("No {what} found in {} namespace.", escape::line(&namespaces.namespace));
    }
}
