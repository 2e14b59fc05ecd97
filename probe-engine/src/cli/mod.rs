//! The command line: one file per subcommand, with kubectl's habits.
//!
//! Exit codes: 0 success, 1 failure, 2 usage, 3 unknown (the daemon cannot be reached, or an outcome says nothing
//! of its target).

pub mod add;
pub mod age;
pub mod client;
pub mod completions;
pub mod config;
mod delete;
pub mod demo;
pub mod describe;
pub mod doctor;
pub mod escape;
pub mod events;
pub mod follow;
pub mod get;
pub mod guardian;
pub mod logging;
pub mod logs;
pub mod man;
pub mod output;
pub mod pause;
pub mod pod_list;
pub mod pods;
pub mod probe;
pub mod probes;
pub mod progress;
mod reconnect;
pub mod reference;
pub mod run;
pub mod serve;
pub mod set;
pub mod style;
pub mod table;
pub mod top;
pub mod validate;
pub mod version;
mod watch;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Kubernetes probes for nodes with very many of them.
#[derive(Debug, Parser)]
#[command(
    name = "probe-engine",
    version = version::LINE,
    about,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What every subcommand takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every subcommand.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// The daemon's control socket [default: /run/probe-engine/api.sock; without root
    /// $XDG_RUNTIME_DIR/probe-engine/api.sock]
    #[arg(long, global = true, env = crate::api::socket::SOCKET_ENV, hide_env_values = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, trace, or tracing's directives
    /// [default: info for the daemon, warn for everything else]
    #[arg(long, global = true, env = "PROBE_ENGINE_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How it is logged [default: text]
    #[arg(long, global = true, env = "PROBE_ENGINE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<logging::LogFormat>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: pods from manifests, probed and restarted
    Run(run::RunArgs),
    /// Check manifests without running anything
    Validate(validate::ValidateArgs),
    /// Show pods or probes
    Get(get::GetArgs),
    /// Show one pod with all that is known of it
    Describe(describe::DescribeArgs),
    /// Print what a container wrote
    Logs(logs::LogsArgs),
    /// Show what happened
    Events(events::EventsArgs),
    /// The node, its pods and their probes as they are, in the terminal
    Top(top::TopArgs),
    /// Make one attempt: of a probe given here, or of a running pod's
    Probe(probe::ProbeArgs),
    /// Set a readiness gate of a pod
    Set(set::SetArgs),
    /// Add pods that stay until they are deleted, or the daemon ends
    Add(add::AddArgs),
    /// Make no attempts of some probes for a while; their verdicts stay
    Pause(pause::PauseArgs),
    /// End pauses of probes
    Resume(pause::ResumeArgs),
    /// End a pod that was added, or make the grace period of one that is being ended shorter
    Delete(delete::DeleteArgs),
    /// Say what this kernel and these privileges allow
    Doctor(doctor::DoctorArgs),
    /// Run the daemon on embedded examples, and tell what happens
    Demo(demo::DemoArgs),
    /// Run servers to probe
    Serve(serve::ServeArgs),
    /// Show the effective configuration of `run`
    Config(config::ConfigArgs),
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one per subcommand
    Man(man::ManArgs),
    /// Print this program's version, and the daemon's
    Version(version::VersionArgs),
}

/// How a subcommand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Success,
    /// 1
    Failure,
    /// 2
    Usage,
    /// 3
    Unknown,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Unknown => 3,
        })
    }
}

/// Why a subcommand could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// What was asked for is not there, or cannot be done.
    #[error("{0}")]
    Failed(String),
    /// The daemon, or what it should have said, cannot be had.
    #[error("{0}")]
    Unknown(String),
    /// Standard output is gone or full.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// The arguments make no sense.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// What the program ends with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            // Whoever read our output has seen enough (`| head`).
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
            CliError::Usage(_) => Exit::Usage,
            CliError::Failed(_) | CliError::Output(_) => Exit::Failure,
            CliError::Unknown(_) => Exit::Unknown,
        }
    }
}

/// Runs the subcommand; what it has to say is on standard output and standard error.
#[must_use]
pub fn dispatch(cli: &Cli) -> ExitCode {
    let globals = &cli.globals;
    let result = match &cli.command {
        Command::Run(args) => run::run(args, |_| {}),
        Command::Validate(args) => validated(args),
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => return serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Get(args) => get::run(args, globals),
        Command::Describe(args) => describe::run(args, globals),
        Command::Logs(args) => logs::run(args, globals),
        Command::Events(args) => events::run(args, globals),
        Command::Top(args) => top::run(args, globals),
        Command::Probe(args) => probe::run(args, globals),
        Command::Set(args) => set::run(args, globals),
        Command::Add(args) => add::run(args, globals),
        Command::Pause(args) => pause::pause(args, globals),
        Command::Resume(args) => pause::resume(args, globals),
        Command::Delete(args) => delete::run(args, globals),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Version(args) => version::run(args, globals),
    };
    let exit = result.unwrap_or_else(|error| {
        let exit = error.exit();
        if exit != Exit::Success {
            eprintln!("error: {}", escape::block(&error.to_string()));
        }
        exit
    });
    exit.into()
}

fn validated(args: &validate::ValidateArgs) -> Result<Exit, CliError> {
    let code = validate::run(args, &mut io::stdout().lock(), &mut io::stderr())?;
    Ok(if code == 0 { Exit::Success } else { Exit::Failure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kubectls_habits_are_accepted() {
        for line in [
            "get pods -A -o wide",
            "get pods -n kube-system -l app=web -w",
            "get pods --watch-only --output-watch-events -o json",
            "get pod web -o yaml",
            "get pod/web -ojson",
            "get po -owide --socket /tmp/x.sock",
            "get probes --failing",
            "describe pod web -n default",
            "describe pod/web",
            "logs web -c app -f --tail 10",
            "logs pod/web --previous",
            "events -w --for pod/web",
            "add -f pods.yaml --filename=more -o json",
            "add -f -",
            "delete pod web",
            "delete pod/web -n default --grace-period=5",
            "events -f -A --type Warning --reason Unhealthy,Killing",
            "top",
            "top --once",
            "top -o json",
            "probe tcp 127.0.0.1:80",
            "probe http http://127.0.0.1:80/healthz --timeout 2",
            "probe grpc 127.0.0.1:50051 --service x",
            "probe exec -- cat /tmp/healthy",
            "probe pod/web -c app --type liveness",
            "probe pod web --type Readiness",
            "doctor -o json",
            "completions bash",
            "man",
            "version",
        ] {
            let words = std::iter::once("probe-engine").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let pipe = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(pipe.exit(), Exit::Success);
        assert_eq!(CliError::Output(io::ErrorKind::StorageFull.into()).exit(), Exit::Failure);
        assert_eq!(CliError::usage("x").exit(), Exit::Usage);
        assert_eq!(CliError::Unknown("x".into()).exit(), Exit::Unknown);
    }
}
