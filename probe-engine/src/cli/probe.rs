//! `probe-engine probe`: one attempt, of a probe given here exactly as the daemon would make it, or of a running
//! pod's configured probe, made by the daemon.

mod target;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use probe_core::spec::{Exec, Grpc, Handler, HttpGet, HttpHeader, Port, ProbeSpec, TcpSocket};
use serde_json::json;

use self::target::{Host, HttpTarget};
use super::client::{self, Link, error_of};
use super::get::DEFAULT_NAMESPACE;
use super::output::{self, DataFormat};
use super::reference::Reference;
use super::{CliError, Exit, Globals, age, escape, probes};
use crate::api::{convert, v1};
use crate::clock;
use crate::prober::pool::{ExecBy, Means};
use crate::prober::{Attempted, Phases, Request, http, pool};
use crate::shard::kernel::IoChoice;
use crate::shard::once::{Once, attempt_once};

/// Arguments of `probe`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ProbeArgs {
    #[command(subcommand)]
    once: Option<OnceCommand>,
    /// `pod/NAME` or `pod NAME`: a running pod whose probe the daemon makes now
    #[arg(value_name = "pod/NAME", required = true, num_args = 1..=2)]
    pod: Vec<String>,
    /// The pod's namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Which container; needed where several have such a probe
    #[arg(short, long, value_name = "CONTAINER", default_value = "", hide_default_value = true)]
    container: String,
    /// Which of its probes
    #[arg(long = "type", value_name = "TYPE", ignore_case = true, required = true)]
    probe_type: Option<ProbeTypeArg>,
    /// How the answer is written
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// `--type`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProbeTypeArg {
    /// startupProbe
    Startup,
    /// readinessProbe
    Readiness,
    /// livenessProbe
    Liveness,
}

#[derive(Debug, Subcommand)]
enum OnceCommand {
    /// httpGet: `probe http http://127.0.0.1:8080/healthz`
    Http {
        /// `[http[s]://]HOST[:PORT][/PATH]`
        #[arg(value_name = "URL")]
        url: String,
        /// A request header, `Name: value`; repeatable
        #[arg(short = 'H', long, value_name = "HEADER")]
        header: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// tcpSocket: `probe tcp 127.0.0.1:5432`
    Tcp {
        /// `HOST:PORT`
        #[arg(value_name = "HOST:PORT")]
        target: String,
        #[command(flatten)]
        common: Common,
    },
    /// grpc: `probe grpc 127.0.0.1:50051 --service readiness`
    Grpc {
        /// `ADDRESS:PORT`
        #[arg(value_name = "ADDRESS:PORT")]
        target: String,
        /// The health request's service
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        service: String,
        #[command(flatten)]
        common: Common,
    },
    /// exec, on this host: `probe exec -- cat /tmp/healthy`
    Exec {
        #[command(flatten)]
        common: Common,
        /// Program and arguments; no shell
        #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// Deadline of the attempt, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// What plain attempts are made with
    #[arg(long, value_name = "IO", default_value = "auto")]
    io: IoChoice,
    /// How the answer is written
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// Makes the attempt and tells what came of it: exit 0 success or warning, 1 failure, 3 error or local trouble.
pub fn run(args: &ProbeArgs, globals: &Globals) -> Result<Exit, CliError> {
    let Some(once) = &args.once else { return triggered(args, globals) };
    let (request, common) = request(once)?;
    let attempted = attempt(&request, common.io)?;
    let (kind, message) = convert::outcome(&attempted.outcome);
    match common.output {
        Some(format) => {
            let phases: serde_json::Map<_, _> = parts(&attempted.phases)
                .into_iter()
                .map(|(name, took)| (format!("{name}Ns"), json!(nanos(took))))
                .collect();
            let value = json!({ "outcome": probes::outcome(kind), "message": message, "phases": phases });
            output::print_data(&value, format)?;
        }
        None => {
            let mut text = outcome_line(kind, &message);
            for (name, took) in parts(&attempted.phases) {
                let _ = writeln!(text, "  {name:<10} {}", age::short(nanos(took)));
            }
            output::print(&text)?;
        }
    }
    Ok(exit_of(kind))
}

/// Makes one attempt the way the daemon would: plain ones on a shard's kernel, the others as the pool does.
pub fn attempt(request: &Request, io: IoChoice) -> Result<Attempted, CliError> {
    let started = clock::now();
    let once = attempt_once(request, io).map_err(|error| CliError::Failed(error.to_string()))?;
    let (resume, requests_made, so_far) = match once {
        Once::Attempted(attempted) => return Ok(attempted),
        Once::Redirect { target, phases } => (Some(target), 1, phases),
        Once::Pool => (None, 0, Phases::default()),
    };
    let mut attempted = on_pool(request, started, resume, requests_made)?;
    attempted.phases.connect = attempted.phases.connect.or(so_far.connect);
    attempted.phases.total = clock::now() - started;
    Ok(attempted)
}

fn on_pool(
    request: &Request,
    started: probe_core::time::Instant,
    resume: Option<http::Target>,
    requests_made: u8,
) -> Result<Attempted, CliError> {
    let means = Means { exec: ExecBy::Host, exec_probe_timeout: true };
    client::block_on(async {
        let local = tokio::task::LocalSet::new();
        Ok(local.run_until(pool::attempt(request, started, resume, requests_made, means)).await)
    })
}

fn request(once: &OnceCommand) -> Result<(Request, &Common), CliError> {
    let (handler, pod_ip, common) = match once {
        OnceCommand::Http { url, header, common } => {
            let target = HttpTarget::parse(url)?;
            let (host, pod_ip) = target.host.split();
            let headers = header.iter().map(|h| parse_header(h)).collect::<Result<_, _>>()?;
            let port = Port::Number(target.port);
            let get = HttpGet { host, port, path: target.path.into(), scheme: target.scheme, headers };
            (Handler::HttpGet(get), pod_ip, common)
        }
        OnceCommand::Tcp { target, common } => {
            let (host, port) = target::host_port(target, None)?;
            let (host, pod_ip) = host.split();
            (Handler::TcpSocket(TcpSocket { host, port: Port::Number(port) }), pod_ip, common)
        }
        OnceCommand::Grpc { target, service, common } => {
            let (host, port) = target::host_port(target, None)?;
            let Host::Address(ip) = host else {
                return Err(CliError::usage(format!(
                    "{target:?}: a grpc probe has no host, it goes to the pod's address: give an IP address"
                )));
            };
            (Handler::Grpc(Grpc { port, service: service.as_str().into() }), Some(ip), common)
        }
        OnceCommand::Exec { common, command } => {
            let command = command.iter().map(|word| word.as_str().into()).collect();
            (Handler::Exec(Exec { command }), None, common)
        }
    };
    let spec = ProbeSpec {
        handler,
        initial_delay_seconds: 0,
        timeout_seconds: common.timeout,
        period_seconds: 10,
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace_period_seconds: None,
    };
    let request = Request { spec: Arc::new(spec), pod_ip, instance: None, label: "command line".into() };
    Ok((request, common))
}

fn parse_header(text: &str) -> Result<HttpHeader, CliError> {
    let unreadable = || CliError::usage(format!("header {text:?} is not `Name: value`"));
    let (name, value) = text.split_once(':').ok_or_else(unreadable)?;
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(unreadable());
    }
    Ok(HttpHeader { name: name.into(), value: value.trim().into() })
}

/// The daemon makes the attempt; it counts.
fn triggered(args: &ProbeArgs, globals: &Globals) -> Result<Exit, CliError> {
    let pod = Reference::one_pod(&args.pod)?;
    let probe_type = match args.probe_type {
        Some(ProbeTypeArg::Startup) => v1::ProbeType::Startup,
        Some(ProbeTypeArg::Readiness) => v1::ProbeType::Readiness,
        Some(ProbeTypeArg::Liveness) => v1::ProbeType::Liveness,
        None => return Err(CliError::usage("--type is missing: startup, readiness or liveness")),
    };
    let request = v1::TriggerProbeRequest {
        namespace: args.namespace.clone(),
        pod: pod.clone(),
        container: args.container.clone(),
        r#type: probe_type.into(),
    };
    let answer = client::block_on(async {
        let mut link = Link::open(globals).await?;
        Ok(link.client.trigger_probe(request).await.map_err(|s| error_of(&s))?.into_inner())
    })?;
    match args.output {
        Some(format) => output::print_data(&triggered_value(&answer), format)?,
        None => output::print(&triggered_text(&answer))?,
    }
    Ok(exit_of(answer.outcome()))
}

fn triggered_text(answer: &v1::TriggerProbeResponse) -> String {
    let mut text = outcome_line(answer.outcome(), &answer.message);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {}", escape::line(value));
    };
    line("container", &answer.container);
    line("took", &age::short(answer.duration_ns));
    if answer.threshold > 0 {
        line("run", &probes::run(answer.run, answer.threshold));
    } else {
        line("run", "discarded: it says nothing of the container");
    }
    let (before, after) = (probes::verdict(answer.verdict_before()), probes::verdict(answer.verdict()));
    if before == after {
        line("verdict", &format!("{after} (as before)"));
    } else {
        line("verdict", &format!("{after} (was {before})"));
    }
    text
}

fn triggered_value(answer: &v1::TriggerProbeResponse) -> serde_json::Value {
    json!({
        "container": answer.container,
        "outcome": probes::outcome(answer.outcome()),
        "message": answer.message,
        "durationNs": answer.duration_ns,
        "run": answer.run,
        "threshold": answer.threshold,
        "verdictBefore": probes::verdict(answer.verdict_before()),
        "verdict": probes::verdict(answer.verdict()),
    })
}

fn outcome_line(kind: v1::OutcomeKind, message: &str) -> String {
    if message.is_empty() {
        return format!("{}\n", probes::outcome(kind));
    }
    format!("{}: {}\n", probes::outcome(kind), escape::line(message))
}

const fn exit_of(kind: v1::OutcomeKind) -> Exit {
    match kind {
        v1::OutcomeKind::Success | v1::OutcomeKind::Warning => Exit::Success,
        v1::OutcomeKind::Failure => Exit::Failure,
        v1::OutcomeKind::Error | v1::OutcomeKind::Local | v1::OutcomeKind::Unspecified => Exit::Unknown,
    }
}

/// The parts that were reached, in their order.
fn parts(phases: &Phases) -> Vec<(&'static str, Duration)> {
    let parts = [
        ("resolve", phases.resolve),
        ("connect", phases.connect),
        ("tls", phases.tls),
        ("firstByte", phases.first_byte),
        ("body", phases.body),
        ("total", Some(phases.total)),
    ];
    parts.into_iter().filter_map(|(name, took)| Some((name, took?))).collect()
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_core::outcome::Outcome;
    use std::net::TcpListener;

    fn common(io: IoChoice) -> Common {
        Common { timeout: 2, io, output: None }
    }

    fn tcp(target: String, io: IoChoice) -> Outcome {
        let once = OnceCommand::Tcp { target, common: common(io) };
        let (request, common) = request(&once).expect("a request");
        attempt(&request, common.io).expect("an attempt").outcome
    }

    #[test]
    fn a_tcp_probe_of_a_listener_succeeds_and_of_a_closed_port_fails() {
        for io in [IoChoice::Auto, IoChoice::Epoll] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let target = listener.local_addr().expect("address").to_string();
            assert!(matches!(tcp(target.clone(), io), Outcome::Success(_)), "{io:?}");
            drop(listener);
            assert!(matches!(tcp(target, io), Outcome::Failure(_)), "{io:?}");
        }
    }

    #[test]
    fn an_exec_probe_runs_on_this_host() {
        let run = |word: &str| {
            let once = OnceCommand::Exec { common: common(IoChoice::Auto), command: vec![word.to_owned()] };
            let (request, common) = request(&once).expect("a request");
            attempt(&request, common.io).expect("an attempt").outcome
        };
        assert!(matches!(run("true"), Outcome::Success(_)));
        assert!(matches!(run("false"), Outcome::Failure(_)));
    }

    #[test]
    fn a_triggered_probe_tells_the_verdict_it_led_to() {
        let answer = v1::TriggerProbeResponse {
            container: "app".to_owned(),
            verdict_before: v1::Verdict::Success.into(),
            outcome: v1::OutcomeKind::Failure.into(),
            message: "no\x1b".to_owned(),
            duration_ns: 2_000_000,
            run: 3,
            threshold: 3,
            verdict: v1::Verdict::Failure.into(),
        };
        let text = triggered_text(&answer);
        assert!(text.starts_with("failure: no\\x1b\n"), "{text}");
        assert!(text.contains("run        3 of 3") && text.contains("Failure (was Success)"), "{text}");
        assert_eq!(exit_of(answer.outcome()), Exit::Failure);
    }

    #[test]
    fn headers_are_read_or_refused() {
        let header = parse_header("X-A: b: c").expect("a header");
        assert_eq!((&*header.name, &*header.value), ("X-A", "b: c"));
        assert!(parse_header("no colon").is_err() && parse_header(": x").is_err() && parse_header("a b: x").is_err());
    }
}
