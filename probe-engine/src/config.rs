//! The configuration of `run`: flags over environment over file over defaults.
//!
//! One list of settings ([`Settings`]) is the source of all three: the flag `--metrics-listen` is the key
//! `metricsListen` of the file and the variable `PROBE_ENGINE_METRICS_LISTEN`. Every layer is read by the same
//! parser, so a wrong value is refused in the same words wherever it stands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Command, FromArgMatches, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::certificates::CertificateFiles;
use crate::api::socket;
use crate::cli::logging::LogFormat;
use crate::ebpf::{EbpfChoice, PassiveSettings};
use crate::limits;
use crate::results::SeriesLevel;
use crate::shard::kernel::{CloseMode, IoChoice};

/// Prefix of every variable.
const ENV_PREFIX: &str = "PROBE_ENGINE_";

/// Variables of this prefix that are no settings of `run`; the last two mark containers of the process runtime.
const ENV_OTHER: [&str; 3] = ["PROBE_ENGINE_CONFIG", "PROBE_ENGINE_CONTAINER", "PROBE_ENGINE_DAEMON"];

/// Seconds that `--passive-max-age-seconds` takes.
const PASSIVE_MAX_AGE_SECONDS: RangeInclusive<i64> =
    limits::PASSIVE_MAX_AGE_MIN.as_secs() as i64..=limits::PASSIVE_MAX_AGE_MAX.as_secs() as i64;

/// Seconds that `--path-recheck-max-seconds` takes.
const PATH_RECHECK_MAX_SECONDS: RangeInclusive<i64> = 1..=limits::PATH_RECHECK_MAX.as_secs() as i64;

/// What `--passive-audit-per-second` takes.
const PASSIVE_AUDIT_PER_SECOND_MAX: i64 = limits::PASSIVE_AUDIT_PER_SECOND_MAX as i64;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config file {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Its errno.
        source: std::io::Error,
    },
    /// The file is no mapping of keys to values.
    #[error("config file {path}: {message}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What the parser says.
        message: String,
    },
    /// A key or variable that does not exist.
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// As written.
        key: String,
        /// The nearest known one.
        hint: String,
    },
    /// A value that is not allowed.
    #[error("{origin}: {message}")]
    Value {
        /// Where it stands.
        origin: String,
        /// Names the setting, the value and what is allowed.
        message: String,
    },
}

/// Which runtime starts and stops containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeChoice {
    /// Containers are processes of this host, started and restarted by the daemon
    Process,
    /// Nothing is started or killed: targets run by others are only watched
    None,
    /// A client of the control API runs the containers, tells their states and hears of verdicts
    External,
}

/// How connections are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloseChoice {
    /// close(2), as the kubelet: TIME_WAIT on this side
    Fin,
    /// SO_LINGER 0: no TIME_WAIT, but the target sees a reset
    Rst,
}

/// Where the dashboard is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DashboardListen {
    /// Nowhere.
    Off,
    /// Beside the metrics, where that is a place for it: see [`Settings::dashboard_listen`].
    Auto,
    /// There: an address of loopback.
    At(SocketAddr),
}

/// Whether tcpSocket probes may be answered from kernel state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassiveChoice {
    /// A tcpSocket probe is answered from kernel state while nothing has changed since a connect that succeeded
    On,
    /// Every attempt connects
    Off,
}

/// One layer of settings: what one origin says, `None` where it says nothing.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Pod manifests: a file, or a directory that is watched (repeatable)
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<PathBuf>>,
    /// Who starts and stops containers
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeChoice>,
    /// With `--runtime none`: run the commands of exec probes on this host, as the daemon's user and in its environment, instead
    /// of refusing them. With `--runtime process` they run beside their container in any case
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_exec: Option<bool>,
    /// Run pods in spite of fields that this runtime cannot honour (each is a warning and a line of `describe`)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_unsupported: Option<bool>,
    /// Where container logs and the daemon's own files live
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// How often the state file is looked at, and replaced where it would be another: so much of verdicts, counts and back-off
    /// is lost when the daemon is killed. On a node where that takes long it is done less often (1 to 60, 5)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=60))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_interval_seconds: Option<u16>,
    /// The control API's unix socket
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Address of the control API over TCP, with TLS; `off` for none. Whoever has a certificate of `--api-client-ca` may do there what
    /// root may do on the socket: with `--runtime process`, run any command on this host
    #[arg(long, value_name = "ADDR|off", value_parser = parse_api_listen)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_listen: Option<String>,
    /// With `--api-listen`: the daemon's certificate and what leads to its CA (PEM). Each of the three files is read again when it changes
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_tls_cert: Option<PathBuf>,
    /// With `--api-listen`: the private key of that certificate (PEM, not encrypted)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_tls_key: Option<PathBuf>,
    /// With `--api-listen`: the CA whose certificates clients must show, and its revocation list where there is one (PEM)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_client_ca: Option<PathBuf>,
    /// Address of /metrics, /livez, /readyz and /healthz; `off` for none
    #[arg(long, value_name = "ADDR|off", value_parser = parse_listen)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<String>,
    /// Address of the dashboard: one of loopback, as it asks nobody who they are. `auto`: with the metrics where these are on
    /// loopback, on 127.0.0.1:9750 where they are elsewhere (9752 where they have that port), off where they are off
    #[arg(long, value_name = "ADDR|off|auto", value_parser = parse_dashboard_listen)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dashboard_listen: Option<String>,
    /// What may have metric series of its own under the kubelet's and kube-state-metrics' names. A node with too many probes or
    /// pods has coarser ones in any case (`probe_engine_metric_series_level` tells)
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_series: Option<SeriesLevel>,
    /// Push the node's metrics to this OpenTelemetry collector: OTLP over gRPC, http:// or https://. Nothing of single pods or probes.
    /// Headers come from the variable OTEL_EXPORTER_OTLP_HEADERS
    #[arg(long, value_name = "URL", value_parser = parse_otlp_endpoint)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// How often metrics are pushed, in seconds (1 to 3600)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_interval_seconds: Option<u16>,
    /// How shards do their I/O
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<IoChoice>,
    /// Shard threads [default: the cores, up to 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=limits::SHARDS_MAX as i64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u16>,
    /// How probe connections are closed
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close: Option<CloseChoice>,
    /// Exec attempts at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_concurrent_max: Option<u16>,
    /// HTTPS and redirected HTTP attempts at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_concurrent_max: Option<u16>,
    /// gRPC attempts at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_concurrent_max: Option<u16>,
    /// Longest wait between restarts of a failing container, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=300))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash_loop_back_off_max_seconds: Option<u16>,
    /// Whether the kernel program (eBPF) is used that passive answers need
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ebpf: Option<EbpfChoice>,
    /// Answer tcpSocket probes from kernel state; a pod's annotation `probe-engine.io/passive` says otherwise
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveChoice>,
    /// Longest time between two real connects to a target that is answered passively, in seconds (1 to 3600): a part of
    /// the worst-case detection time of what the kernel does not announce. A probe whose period is not well below it
    /// connects nearly every time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(PASSIVE_MAX_AGE_SECONDS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_max_age_seconds: Option<u16>,
    /// Within how many seconds (1 to 300) a target is connected to again after a change on the way (nftables, routes) that
    /// need not concern it
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(PATH_RECHECK_MAX_SECONDS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_recheck_max_seconds: Option<u16>,
    /// Make an attempt at once when a listener closes that a tcpSocket probe depends on; it counts like any other. Only for
    /// probes that may be answered passively
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_detection: Option<bool>,
    /// At most so many passive answers per second, node-wide (and one of 50), are checked by a real connect; 0 for none (up
    /// to 1000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=PASSIVE_AUDIT_PER_SECOND_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_audit_per_second: Option<u16>,
    /// What is logged: error, warn, info, debug, trace, or tracing's directives
    #[arg(long, value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// How log lines look
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
}

/// The control API over TCP.
#[derive(Clone, Debug)]
pub struct ApiListen {
    /// See [`Settings::api_listen`].
    pub address: SocketAddr,
    /// All three are there.
    pub files: CertificateFiles,
}

/// The effective configuration, and where each value comes from.
#[derive(Clone, Debug)]
pub struct Config {
    /// See [`Settings::manifests`].
    pub manifests: Vec<PathBuf>,
    /// `None` = not chosen; `run` refuses that.
    pub runtime: Option<RuntimeChoice>,
    /// See [`Settings::host_exec`].
    pub host_exec: bool,
    /// See [`Settings::ignore_unsupported`].
    pub ignore_unsupported: bool,
    /// See [`Settings::state_dir`].
    pub state_dir: PathBuf,
    /// See [`Settings::state_interval_seconds`].
    pub state_interval: Duration,
    /// `None` = nowhere to put it: not root, and no runtime directory.
    pub socket: Option<PathBuf>,
    /// `None` = off.
    pub api_listen: Option<ApiListen>,
    /// `None` = off.
    pub metrics_listen: Option<SocketAddr>,
    /// See [`Settings::dashboard_listen`].
    pub dashboard_listen: DashboardListen,
    /// See [`Settings::metrics_series`].
    pub metrics_series: SeriesLevel,
    /// `None` = nothing is pushed.
    pub otlp_endpoint: Option<String>,
    /// See [`Settings::otlp_interval_seconds`].
    pub otlp_interval: Duration,
    /// See [`Settings::io`].
    pub io: IoChoice,
    /// See [`Settings::shards`].
    pub shards: usize,
    /// See [`Settings::close`].
    pub close: CloseMode,
    /// See [`Settings::exec_concurrent_max`].
    pub exec_concurrent_max: usize,
    /// See [`Settings::https_concurrent_max`].
    pub https_concurrent_max: usize,
    /// See [`Settings::grpc_concurrent_max`].
    pub grpc_concurrent_max: usize,
    /// See [`Settings::crash_loop_back_off_max_seconds`].
    pub crash_loop_back_off_max_seconds: u16,
    /// See [`Settings::ebpf`].
    pub ebpf: EbpfChoice,
    /// [`Settings::passive`] and what belongs to it.
    pub passive: PassiveSettings,
    /// See [`Settings::log_level`].
    pub log_level: String,
    /// See [`Settings::log_format`].
    pub log_format: LogFormat,
    /// Key, value and origin of every setting, for `config show`.
    pub origins: Vec<(String, Value, String)>,
}

impl Config {
    /// Flags over environment over `file` over defaults. Errors name the origin, the setting and what is allowed.
    pub fn load(flags: &Settings, file: Option<&Path>) -> Result<Config, ConfigError> {
        let env = environment(std::env::vars_os())?;
        let mut merged = BTreeMap::new();
        overlay(&mut merged, &defaults(), "default");
        if let Some(path) = file {
            overlay(&mut merged, &from_file(path)?, &path.display().to_string());
        }
        for (name, value) in env {
            overlay(&mut merged, &from_variable(&name, &value)?, &name);
        }
        overlay(&mut merged, flags, "flag");
        effective(merged)
    }
}

/// The settings among the variables of this process.
fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut settings = Vec::new();
    for (name, value) in variables {
        // Ours are all text; of the others nothing is asked.
        let Some(name) = name.to_str().filter(|name| is_setting(name)) else { continue };
        let value = value.into_string().map_err(|value| ConfigError::Value {
            origin: name.to_owned(),
            message: format!("{value:?} is not UTF-8 text"),
        })?;
        settings.push((name.to_owned(), value));
    }
    Ok(settings)
}

/// Kubernetes tells every pod of a Service named `probe-engine` by variables of our prefix
/// (`PROBE_ENGINE_SERVICE_HOST`, `PROBE_ENGINE_PORT_9750_TCP`; `pkg/kubelet/envvars/envvars.go`): no settings.
fn is_setting(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(ENV_PREFIX) else { return false };
    let of_service = rest == "PORT" || ["SERVICE_HOST", "SERVICE_PORT", "PORT_"].iter().any(|p| rest.starts_with(p));
    !ENV_OTHER.contains(&name) && !of_service && !rest.starts_with("TEST_")
}

fn default_state_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/probe-engine");
    }
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    std::env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from).join("probe-engine")
}

fn defaults() -> Settings {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let narrow = |bound: usize| u16::try_from(bound).unwrap_or(u16::MAX);
    let seconds = |duration: Duration| u16::try_from(duration.as_secs()).unwrap_or(u16::MAX);
    let passive = PassiveSettings::default();
    Settings {
        manifests: Some(Vec::new()),
        runtime: None,
        host_exec: Some(false),
        ignore_unsupported: Some(false),
        state_dir: Some(default_state_dir()),
        state_interval_seconds: Some(seconds(limits::STATE_INTERVAL)),
        socket: socket::default_path().ok(),
        api_listen: Some("off".to_owned()),
        api_tls_cert: None,
        api_tls_key: None,
        api_client_ca: None,
        metrics_listen: Some("127.0.0.1:9750".to_owned()),
        dashboard_listen: Some("auto".to_owned()),
        metrics_series: Some(SeriesLevel::Probe),
        otlp_endpoint: None,
        otlp_interval_seconds: Some(60),
        io: Some(IoChoice::Auto),
        shards: Some(narrow(cores.min(limits::SHARDS_MAX))),
        close: Some(CloseChoice::Fin),
        exec_concurrent_max: Some(narrow(limits::POOL_EXEC_CONCURRENT_MAX)),
        https_concurrent_max: Some(narrow(limits::POOL_HTTPS_CONCURRENT_MAX)),
        grpc_concurrent_max: Some(narrow(limits::POOL_GRPC_CONCURRENT_MAX)),
        crash_loop_back_off_max_seconds: Some(300),
        ebpf: Some(EbpfChoice::Auto),
        passive: Some(if passive.passive { PassiveChoice::On } else { PassiveChoice::Off }),
        passive_max_age_seconds: Some(seconds(passive.passive_max_age)),
        path_recheck_max_seconds: Some(seconds(passive.path_recheck_max)),
        early_detection: Some(passive.early_detection),
        passive_audit_per_second: Some(u16::try_from(passive.passive_audit_per_second).unwrap_or(u16::MAX)),
        log_level: Some("info".to_owned()),
        log_format: Some(LogFormat::Text),
    }
}

/// What a layer says lies over what was there.
fn overlay(merged: &mut BTreeMap<String, (Value, String)>, layer: &Settings, origin: &str) {
    let value = serde_json::to_value(layer).expect("settings are plain data");
    let Value::Object(map) = value else { unreachable!("a struct serialises to an object") };
    for (key, value) in map {
        merged.insert(key, (value, origin.to_owned()));
    }
}

fn effective(merged: BTreeMap<String, (Value, String)>) -> Result<Config, ConfigError> {
    let map = merged.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    let settings: Settings = serde_json::from_value(Value::Object(map)).expect("every layer was parsed by type");
    let passive = passive_settings(&settings);
    let api_listen = api_listen(&settings, &merged)?;
    let listen = settings.metrics_listen.expect("has a default");
    let dashboard = settings.dashboard_listen.expect("has a default");
    Ok(Config {
        manifests: settings.manifests.expect("has a default"),
        runtime: settings.runtime,
        host_exec: settings.host_exec.expect("has a default"),
        ignore_unsupported: settings.ignore_unsupported.expect("has a default"),
        state_dir: settings.state_dir.expect("has a default"),
        state_interval: Duration::from_secs(settings.state_interval_seconds.expect("has a default").into()),
        socket: settings.socket,
        api_listen,
        metrics_listen: (listen != "off").then(|| listen.parse().expect("checked by parse_listen")),
        dashboard_listen: match dashboard.as_str() {
            "auto" => DashboardListen::Auto,
            "off" => DashboardListen::Off,
            address => DashboardListen::At(address.parse().expect("checked by parse_dashboard_listen")),
        },
        metrics_series: settings.metrics_series.expect("has a default"),
        otlp_endpoint: settings.otlp_endpoint,
        otlp_interval: Duration::from_secs(settings.otlp_interval_seconds.expect("has a default").into()),
        io: settings.io.expect("has a default"),
        shards: usize::from(settings.shards.expect("has a default")),
        close: match settings.close.expect("has a default") {
            CloseChoice::Fin => CloseMode::Fin,
            CloseChoice::Rst => CloseMode::Rst,
        },
        exec_concurrent_max: usize::from(settings.exec_concurrent_max.expect("has a default")),
        https_concurrent_max: usize::from(settings.https_concurrent_max.expect("has a default")),
        grpc_concurrent_max: usize::from(settings.grpc_concurrent_max.expect("has a default")),
        crash_loop_back_off_max_seconds: settings.crash_loop_back_off_max_seconds.expect("has a default"),
        ebpf: settings.ebpf.expect("has a default"),
        passive,
        log_level: settings.log_level.expect("has a default"),
        log_format: settings.log_format.expect("has a default"),
        origins: merged.into_iter().map(|(key, (value, origin))| (key, value, origin)).collect(),
    })
}

/// Never without certificates, whatever the address: what is missing is an error.
fn api_listen(
    settings: &Settings,
    merged: &BTreeMap<String, (Value, String)>,
) -> Result<Option<ApiListen>, ConfigError> {
    let listen = settings.api_listen.as_deref().expect("has a default");
    if listen == "off" {
        return Ok(None);
    }
    let address = listen.parse().expect("checked by parse_api_listen");
    let (cert, key, client_ca) = (&settings.api_tls_cert, &settings.api_tls_key, &settings.api_client_ca);
    if let (Some(cert), Some(key), Some(client_ca)) = (cert.clone(), key.clone(), client_ca.clone()) {
        return Ok(Some(ApiListen { address, files: CertificateFiles { cert, key, client_ca } }));
    }
    let all = [("--api-tls-cert", cert), ("--api-tls-key", key), ("--api-client-ca", client_ca)];
    let missing: Vec<&str> = all.iter().filter(|(_, file)| file.is_none()).map(|(flag, _)| *flag).collect();
    Err(ConfigError::Value {
        origin: merged.get("apiListen").map_or_else(|| "default".to_owned(), |(_, origin)| origin.clone()),
        message: format!(
            "--api-listen {listen} needs {} too: over TCP the control API is served with certificates on both sides only",
            missing.join(" and ")
        ),
    })
}

fn passive_settings(settings: &Settings) -> PassiveSettings {
    let seconds = |of: Option<u16>| Duration::from_secs(u64::from(of.expect("has a default")));
    PassiveSettings {
        passive: settings.passive.expect("has a default") == PassiveChoice::On,
        passive_max_age: seconds(settings.passive_max_age_seconds),
        path_recheck_max: seconds(settings.path_recheck_max_seconds),
        early_detection: settings.early_detection.expect("has a default"),
        passive_audit_per_second: u32::from(settings.passive_audit_per_second.expect("has a default")),
    }
}

fn from_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    let syntax = |message: String| ConfigError::Syntax { path: path.into(), message };
    if text.trim().is_empty() {
        return Ok(Settings::default());
    }
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| syntax(error.to_string()))?;
    let map = match value {
        Value::Object(map) => map,
        Value::Null => return Ok(Settings::default()),
        _ => return Err(syntax("want a mapping of keys to values".to_owned())),
    };
    let mut arguments = Vec::new();
    for (key, value) in map {
        let origin = path.display().to_string();
        let long = long_of_key(&key).ok_or_else(|| unknown(&origin, &key, known().iter().map(|k| k.key.clone())))?;
        for text in scalars(&key, value).map_err(|message| ConfigError::Value { origin: origin.clone(), message })? {
            arguments.push(format!("--{long}={text}"));
        }
    }
    parse_layer(&path.display().to_string(), arguments)
}

/// A value of the file as the texts that the flag would get, one per occurrence.
fn scalars(key: &str, value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        // YAML reads `on` and `off` without quotes as booleans. `ebpf` has no `on`: an error tells of what was written.
        Value::Bool(false) if key == "ebpf" => Ok(vec!["off".to_owned()]),
        Value::Bool(flag) if ["apiListen", "dashboardListen", "metricsListen", "passive"].contains(&key) => {
            Ok(vec![if flag { "on" } else { "off" }.to_owned()])
        }
        Value::Bool(flag) => Ok(vec![flag.to_string()]),
        Value::Array(items) if key == "manifests" => {
            let nested: Result<Vec<_>, _> = items.into_iter().map(|item| scalars("", item)).collect();
            Ok(nested?.concat())
        }
        other => Err(format!("key `{key}`: {other} is not a plain value")),
    }
}

fn from_variable(name: &str, value: &str) -> Result<Settings, ConfigError> {
    let known = known();
    let Some(setting) = known.iter().find(|setting| setting.env == name) else {
        return Err(unknown("environment", name, known.iter().map(|k| k.env.clone())));
    };
    let values: Vec<&str> = if setting.key == "manifests" { value.split(':').collect() } else { vec![value] };
    parse_layer(name, values.iter().map(|value| format!("--{}={value}", setting.long)).collect())
}

/// Reads a layer with the flags' own parser.
fn parse_layer(origin: &str, arguments: Vec<String>) -> Result<Settings, ConfigError> {
    let value_error = |error: clap::Error| ConfigError::Value {
        origin: origin.to_owned(),
        message: error
            .to_string()
            .trim_start_matches("error: ")
            .lines()
            .take(2)
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" "),
    };
    let command = Settings::augment_args(Command::new("settings").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).map_err(value_error)?;
    Settings::from_arg_matches(&matches).map_err(value_error)
}

/// The three names of a setting.
struct Names {
    long: String,
    key: String,
    env: String,
}

fn known() -> Vec<Names> {
    let command = Settings::augment_args(Command::new("settings"));
    let longs = command.get_arguments().filter_map(|argument| argument.get_long());
    longs
        .map(|long| Names {
            long: long.to_owned(),
            key: camel(long),
            env: format!("{ENV_PREFIX}{}", long.replace('-', "_").to_uppercase()),
        })
        .collect()
}

fn long_of_key(key: &str) -> Option<String> {
    known().into_iter().find(|setting| setting.key == key).map(|setting| setting.long)
}

fn camel(long: &str) -> String {
    let mut words = long.split('-');
    let mut key = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        key.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        key.push_str(letters.as_str());
    }
    key
}

fn unknown(origin: &str, key: &str, known: impl Iterator<Item = String>) -> ConfigError {
    // One that was not written to its end is meant before any that looks alike.
    let nearest = known.map(|name| (!name.starts_with(key), strsim::damerau_levenshtein(&name, key), name)).min();
    let hint = match nearest {
        Some((is_other, distance, name)) if !is_other || distance <= 4 => format!("; did you mean `{name}`?"),
        _ => "; `probe-engine config show` lists all".to_owned(),
    };
    ConfigError::UnknownKey { origin: origin.to_owned(), key: key.to_owned(), hint }
}

fn parse_listen(text: &str) -> Result<String, String> {
    if text == "off" || text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is neither an IP address with a port (127.0.0.1:9750, [::1]:9750) nor `off`"))
}

fn parse_otlp_endpoint(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    match url {
        Some(url) if url.username().is_empty() && url.password().is_none() => Ok(text.to_owned()),
        Some(_) => Err("user and password do not belong in the URL: see OTEL_EXPORTER_OTLP_HEADERS".to_owned()),
        None => Err(format!("`{text}` is neither http://HOST:PORT nor https://HOST:PORT")),
    }
}

fn parse_dashboard_listen(text: &str) -> Result<String, String> {
    if text == "auto" {
        return Ok(text.to_owned());
    }
    parse_listen(text).map_err(|error| format!("{error} nor `auto`"))?;
    match text.parse::<SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() => Err(format!(
            "`{text}` is no address of loopback, and the dashboard asks nobody who they are; listen on 127.0.0.1:{port} and reach \
             it by `ssh -L {port}:127.0.0.1:{port} NODE`, or by a proxy that does ask",
            port = address.port()
        )),
        _ => Ok(text.to_owned()),
    }
}

fn parse_api_listen(text: &str) -> Result<String, String> {
    if text == "off" || text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is neither an IP address with a port (10.0.0.1:9751, [::1]:9751) nor `off`"))
}

#[cfg(test)]
mod tests;
