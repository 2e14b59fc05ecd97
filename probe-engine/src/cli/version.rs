//! `probe-engine version`

use serde_json::{Value, json};

use super::client::{self, Link, VERSION};
use super::output::DataFormat;
use super::{CliError, Exit, Globals, age, escape, output, probes};
use crate::api::convert::timestamp_from;
use crate::api::v1::GetInfoResponse;
use crate::ebpf::load::OBJECT_SHA256;
use std::fmt::Write;

/// What `--version` says: the program, and the kernel programs in it.
pub const LINE: &str = concat!(env!("CARGO_PKG_VERSION"), " (kernel programs sha256:", env!("EBPF_OBJECT_SHA256"), ")");

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// Only this program's
    #[arg(long)]
    client: bool,
    /// How it is written
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// Prints this program's version, and what the daemon says of itself if there is one.
pub fn run(args: &VersionArgs, globals: &Globals) -> Result<Exit, CliError> {
    if let Some(format) = args.output {
        return data(args, globals, format);
    }
    output::print(&format!(
        "Client: {VERSION} ({})\n  eBPF:     kernel programs sha256:{OBJECT_SHA256}\n",
        crate::api::server::BUILD
    ))?;
    if args.client {
        return Ok(Exit::Success);
    }
    let info = client::block_on(async { Ok(Link::open(globals).await?.info) })?;
    output::print(&daemon_text(&info))?;
    Ok(Exit::Success)
}

fn data(args: &VersionArgs, globals: &Globals, format: DataFormat) -> Result<Exit, CliError> {
    let client = json!({ "version": VERSION, "build": crate::api::server::BUILD, "ebpfObjectSha256": OBJECT_SHA256 });
    let mut value = json!({ "client": client });
    if !args.client {
        let info = client::block_on(async { Ok(Link::open(globals).await?.info) })?;
        value["daemon"] = daemon_value(&info);
    }
    output::print_data(&value, format)?;
    Ok(Exit::Success)
}

/// Names as in the API.
fn daemon_value(info: &GetInfoResponse) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let shards = info
        .shards
        .iter()
        .map(|shard| json!({ "index": shard.index, "io": shard.io, "fallbackReason": some(&shard.fallback_reason) }));
    let sources = info.sources.iter().map(|source| {
        json!({
            "kind": source.kind,
            "place": source.place,
            "synced": source.synced,
            "podsCount": source.pods_count,
            "error": some(&source.error),
        })
    });
    json!({
        "version": info.version,
        "build": info.build,
        "startedAt": timestamp_from(info.started_at.as_ref()).map(|at| at.to_string()),
        "uptimeNs": info.uptime_ns,
        "pid": info.pid,
        "nodeName": info.node_name,
        "runtime": info.runtime,
        "instance": info.instance,
        "shards": shards.collect::<Vec<_>>(),
        "ebpf": info.ebpf,
        "ebpfLoaded": info.ebpf_loaded,
        "passiveHeldCount": info.passive_held_count,
        "passiveHeldNs": info.passive_held_ns,
        "passiveCutNs": info.passive_cut_ns,
        "podsCount": info.pods_count,
        "probesCount": info.probes_count,
        "stuckProbesCount": info.stuck_probes_count,
        "sources": sources.collect::<Vec<_>>(),
        "metricsAddress": some(&info.metrics_address),
        "dashboardAddress": some(&info.dashboard_address),
        "apiAddress": some(&info.api_address),
    })
}

fn daemon_text(info: &GetInfoResponse) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<9} {}", escape::line(value));
    };
    line("Version:", &format!("{} ({})", info.version, info.build));
    let uptime = i64::try_from(info.uptime_ns).unwrap_or(i64::MAX);
    line("Uptime:", &age::human(jiff::SignedDuration::from_nanos(uptime)));
    line("PID:", &info.pid.to_string());
    line("Node:", &info.node_name);
    line("Runtime:", &info.runtime);
    for shard in &info.shards {
        let why = match shard.fallback_reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        line("Shard:", &format!("{} {}{why}", shard.index, shard.io));
    }
    line("eBPF:", &info.ebpf);
    if info.ebpf_loaded {
        let cut = probes::cut_percent(info);
        line("Passive:", &format!("{} targets now; cut short {cut} of the time", info.passive_held_count));
    }
    let counts = format!("{} pods, {} probes", info.pods_count, info.probes_count);
    line("Holds:", &counts);
    if info.stuck_probes_count > 0 {
        let stuck =
            format!("{} probes have nothing but local trouble; see `probe-engine events`", info.stuck_probes_count);
        line("Trouble:", &stuck);
    }
    for source in &info.sources {
        let state = match (source.error.as_str(), source.synced) {
            ("", true) => "read".to_owned(),
            ("", false) => "not read yet".to_owned(),
            (error, _) => format!("error: {error}"),
        };
        let place = if source.place.is_empty() { String::new() } else { format!(" {}", source.place) };
        line("Source:", &format!("{}{place}: {state}, {} pods", source.kind, source.pods_count));
    }
    if !info.metrics_address.is_empty() {
        line("Metrics:", &format!("http://{}/metrics", info.metrics_address));
    }
    if !info.dashboard_address.is_empty() {
        line("Dashboard:", &format!("http://{}/", info.dashboard_address));
    }
    if !info.api_address.is_empty() {
        line("API:", &format!("{} over TLS, beside the socket", info.api_address));
    }
    format!("Daemon:\n{text}")
}
