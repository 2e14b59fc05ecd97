//! `probe-engine get pods|probes`

use serde_json::json;

use super::client::{self, Link, error_of};
use super::output::{self, DataFormat, Format};
use super::pods::{self, Columns};
use super::reference::{Kind, Reference};
use super::table::Table;
use super::watch::{self, View};
use super::{CliError, Exit, Globals, escape, pod_list, probes, style};
use crate::api::selector::Selector;
use crate::{api::v1, clock};

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
    pub(super) namespaces: Namespaces,
    /// Only what these labels select: `app=web,tier!=db,env in (a,b),!canary`
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,
    /// How it is written; with -w one JSON object a line, one YAML document each
    #[arg(short, long, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
    /// Go on, with a line for everything that changes, until it is ended; a daemon that goes is waited for
    #[arg(short, long)]
    watch: bool,
    /// As -w, without what is there at first
    #[arg(long)]
    pub(super) watch_only: bool,
    /// With -w: whether it was ADDED, MODIFIED or DELETED, as a column, or as `type` beside `object`
    #[arg(long)]
    pub(super) output_watch_events: bool,
    /// No column names
    #[arg(long)]
    pub(super) no_headers: bool,
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
    if args.near_miss && args.watch {
        return Err(CliError::usage("--near-miss does not go with -w: a near miss is no change of its probe"));
    }
    if args.near_miss && reference.kind != Kind::Probe {
        return Err(CliError::usage("--near-miss is about probes: `probe-engine get probes --near-miss`"));
    }
    if !reference.names.is_empty() && (args.namespaces.all_namespaces || !args.selector.is_empty()) {
        return Err(CliError::usage("names go with one namespace: neither -A nor -l may stand beside them"));
    }
    if args.output_watch_events && !args.is_watch() {
        return Err(CliError::usage("--output-watch-events goes with -w or --watch-only"));
    }
    client::block_on(async {
        if args.is_watch() {
            let filter = args.filter(&reference.names);
            return watch::run(args, globals, &reference.names, filter, args.view(reference.kind)).await;
        }
        let link = Link::open(globals).await?;
        match reference.kind {
            Kind::Pod => Pods { args, names: reference.names, link }.run().await,
            Kind::Probe => Probes { args, names: reference.names, link }.run().await,
        }
    })
}

impl GetArgs {
    const fn is_watch(&self) -> bool {
        self.watch || self.watch_only
    }

    fn is_wide(&self) -> bool {
        self.output == Some(Format::Wide)
    }

    pub(super) fn has_table(&self) -> bool {
        self.output.is_none() || self.is_wide()
    }

    fn view(&self, kind: Kind) -> View {
        match kind {
            Kind::Pod => View::Pods(self.columns()),
            Kind::Probe => View::Probes { wide: self.is_wide(), failing: self.failing },
        }
    }

    fn columns(&self) -> Columns {
        Columns { namespace: self.namespaces.all_namespaces, wide: self.is_wide() }
    }

    fn filter(&self, names: &[String]) -> v1::PodFilter {
        v1::PodFilter { namespace: self.namespaces.filter(), name: only(names), label_selector: self.selector.clone() }
    }

    /// An error where one of these names is not among the pods.
    pub(super) fn all_there(&self, names: &[String], pods: &[v1::Pod]) -> Result<(), CliError> {
        let is_there = |name: &&String| pods.iter().any(|pod| pod.name == **name);
        let missing: Vec<String> = names.iter().filter(|name| !is_there(name)).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(not_found(&missing, &self.namespaces)) }
    }
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
            None | Some(Format::Wide) => self.show(&pods, &node)?,
            Some(Format::Name) => {
                output::print(&pods.iter().map(|p| format!("pod/{}\n", escape::line(&p.name))).collect::<String>())?;
            }
            Some(Format::Json) => self.print_objects(&pods, &node, DataFormat::Json)?,
            Some(Format::Yaml) => self.print_objects(&pods, &node, DataFormat::Yaml)?,
        }
        self.args.all_there(&self.names, &pods).map(|()| Exit::Success)
    }

    async fn list(&mut self) -> Result<Vec<v1::Pod>, CliError> {
        let mut pods = list_pods(&mut self.link, self.args.filter(&self.names)).await?;
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

    fn show(&self, pods: &[v1::Pod], node: &str) -> Result<(), CliError> {
        if pods.is_empty() && self.names.is_empty() {
            nothing("pods", &self.args.namespaces);
        }
        let columns = self.args.columns();
        let now = clock::wall();
        let rows = pods.iter().map(|pod| pods::row(pod, columns, node, now));
        print_table(pods::table(columns), rows, !self.args.no_headers)
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
            None | Some(Format::Wide) => self.show(&rows)?,
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
        let filter = self.args.filter(&self.names);
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

    fn show(&self, rows: &[v1::ProbeRow]) -> Result<(), CliError> {
        let view = self.args.view(Kind::Probe);
        if rows.is_empty() {
            let what = match (self.args.failing, self.args.near_miss) {
                (_, false) => view.what(),
                (false, true) => "probes with near misses",
                (true, true) => "failing probes with near misses",
            };
            nothing(what, &self.args.namespaces);
        }
        let (wide, now) = (self.args.is_wide(), clock::wall());
        print_table(probes::table(wide), rows.iter().map(|row| probes::row(row, wide, now)), !self.args.no_headers)
    }
}

fn objects(rows: &[v1::ProbeRow]) -> serde_json::Value {
    json!({ "kind": "ProbeList", "items": rows.iter().map(probes::value).collect::<Vec<_>>() })
}

/// Nothing where there are no rows.
fn print_table(table: Table, rows: impl ExactSizeIterator<Item = Vec<String>>, headers: bool) -> Result<(), CliError> {
    if rows.len() == 0 {
        return Ok(());
    }
    let mut table = table.coloured(style::colours(&std::io::stdout()));
    rows.for_each(|row| table.push(row));
    output::print(&if headers { table.text() } else { table.rows_text() })
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

pub(super) fn nothing(what: &str, namespaces: &Namespaces) {
    if namespaces.all_namespaces {
        eprintln!("No {what} found");
    } else {
        eprintln!("No {what} found in {} namespace.", escape::line(&namespaces.namespace));
    }
}
