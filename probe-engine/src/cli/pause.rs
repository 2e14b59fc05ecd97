//! `probe-engine pause` and `probe-engine resume`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::client::{self, Link, error_of};
use super::get::Namespaces;
use super::output::{self, DataFormat};
use super::reference::{Kind, Reference};
use super::{CliError, Exit, Globals, age, escape};
use crate::api::selector::Selector;
use crate::api::{convert, v1};
use crate::clock;
use crate::limits::PAUSE_MAX;

/// Whose probes, and which.
#[derive(Debug, clap::Args)]
pub struct ChoiceArgs {
    /// `pod NAME...`, `pod/NAME...`; `pods` with -l or --all
    #[arg(value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    /// All pods of the namespace; with -A of all namespaces
    #[arg(long)]
    all: bool,
    /// Only pods that these labels select: `app=web,tier!=db,env in (a,b),!canary`
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,
    #[command(flatten)]
    namespaces: Namespaces,
    /// Only probes of containers of this name
    #[arg(short, long, value_name = "CONTAINER", default_value = "", hide_default_value = true)]
    container: String,
    /// Only probes of these types
    #[arg(long = "type", value_name = "TYPE,...", value_delimiter = ',', ignore_case = true)]
    types: Vec<TypeArg>,
    /// How it is written
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// A type of probe, as a flag says it.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TypeArg {
    Startup,
    Readiness,
    Liveness,
}

/// Arguments of `pause`.
///
/// A probe that is paused makes no attempts; its verdict stays, and so do the pod's conditions. An attempt that is being made
/// counts. The pause goes on over a restart of the container, and of the daemon, and ends by itself.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("end").required(true),
    override_usage = "probe-engine pause [OPTIONS] <--for D | --until TIME> TYPE[/NAME]..."
)]
pub struct PauseArgs {
    #[command(flatten)]
    choice: ChoiceArgs,
    /// For so long, at most 24 hours: `30m`, `1h30m`
    #[arg(long = "for", value_name = "DURATION", group = "end", value_parser = duration)]
    length: Option<Duration>,
    /// Until then, at most 24 hours from now: `2026-11-28T14:00:00Z`
    #[arg(long, value_name = "TIME", group = "end", value_parser = time)]
    until: Option<Timestamp>,
}

/// Arguments of `resume`.
///
/// Ends pauses before their time. Each probe goes on at its next due time, which is where it always was.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    choice: ChoiceArgs,
}

/// Pauses what was chosen.
pub(super) fn pause(args: &PauseArgs, globals: &Globals) -> Result<Exit, CliError> {
    let now = clock::wall();
    let until = match (args.length, args.until) {
        (Some(length), _) => now.checked_add(length).map_err(|error| CliError::usage(error.to_string()))?,
        (None, until) => until.unwrap_or(now),
    };
    if until <= now {
        return Err(CliError::usage(format!("--until {until} has passed; `probe-engine resume` ends a pause")));
    }
    run(&args.choice, Some(until), globals)
}

/// Ends the pauses of what was chosen.
pub(super) fn resume(args: &ResumeArgs, globals: &Globals) -> Result<Exit, CliError> {
    run(&args.choice, None, globals)
}

fn run(args: &ChoiceArgs, until: Option<Timestamp>, globals: &Globals) -> Result<Exit, CliError> {
    let filters = filters(args)?;
    client::block_on(async {
        let mut link = Link::open(globals).await?;
        let mut all = Vec::with_capacity(filters.len());
        for filter in filters {
            let request = v1::PauseProbesRequest {
                filter: Some(filter.clone()),
                container: args.container.clone(),
                types: args.types.iter().map(|wanted| wanted.on_wire().into()).collect(),
                until: until.map(convert::timestamp),
            };
            let answer = link.client.pause_probes(request).await.map_err(|s| error_of(&s))?.into_inner();
            match args.output {
                None => tell(&filter.name, &answer, until)?,
                Some(_) => all.push((filter.name, answer)),
            }
        }
        if let Some(format) = args.output {
            output::print_data(&object(&all, until), format)?;
        }
        Ok(Exit::Success)
    })
}

impl TypeArg {
    fn on_wire(self) -> v1::ProbeType {
        match self {
            TypeArg::Startup => v1::ProbeType::Startup,
            TypeArg::Readiness => v1::ProbeType::Readiness,
            TypeArg::Liveness => v1::ProbeType::Liveness,
        }
    }
}

/// What to ask for: one question per name, else one. Nothing chosen is no choice: never all by accident.
fn filters(args: &ChoiceArgs) -> Result<Vec<v1::PodFilter>, CliError> {
    let names = if args.what.is_empty() {
        Vec::new()
    } else {
        let reference = Reference::parse(&args.what)?;
        if reference.kind != Kind::Pod {
            return Err(CliError::usage(
                "pods are named here; -c and --type narrow the choice to some of their probes",
            ));
        }
        reference.names
    };
    Selector::parse(&args.selector).map_err(|error| CliError::usage(error.to_string()))?;
    let namespace = args.namespaces.filter();
    if names.is_empty() {
        if !args.all && args.selector.is_empty() {
            return Err(CliError::usage("say which: `pod NAME`, `pods -l SELECTOR`, or --all"));
        }
        let label_selector = args.selector.clone();
        return Ok(vec![v1::PodFilter { namespace, name: String::new(), label_selector }]);
    }
    if args.all || args.namespaces.all_namespaces || !args.selector.is_empty() {
        return Err(CliError::usage("names go with one namespace: none of --all, -A and -l may stand beside them"));
    }
    let of = |name| v1::PodFilter { namespace: namespace.clone(), name, label_selector: String::new() };
    Ok(names.into_iter().map(of).collect())
}

/// One line, as kubectl has it; that there was nothing goes to standard error.
fn tell(name: &str, answer: &v1::PauseProbesResponse, until: Option<Timestamp>) -> Result<(), CliError> {
    match line(name, answer, until, clock::wall()) {
        Some(line) => output::print(&format!("{line}\n")),
        None => {
            let what = if until.is_some() { "No probes found" } else { "No paused probes found" };
            eprintln!(
                "{what}{}",
                if name.is_empty() { String::new() } else { format!(" of pod {}", escape::line(name)) }
            );
            Ok(())
        }
    }
}

fn line(name: &str, answer: &v1::PauseProbesResponse, until: Option<Timestamp>, now: Timestamp) -> Option<String> {
    let count = |count: u64, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let probes = count(answer.probes_count, "probe");
    let whose = match name {
        "" => format!("{probes} of {}", count(answer.pods_count, "pod")),
        name => format!("pod/{}: {probes}", escape::line(name)),
    };
    (answer.probes_count > 0).then(|| match until {
        Some(until) => format!("{whose} paused until {}", moment(until, now)),
        None => format!("{whose} resumed"),
    })
}

/// `2026-11-28T14:00:00Z (30m)`
#[must_use]
pub fn moment(until: Timestamp, now: Timestamp) -> String {
    let second = until.strftime("%Y-%m-%dT%H:%M:%SZ");
    // Rounded up, as it was said: half an hour is not 29m59s right after that.
    let left = until.duration_since(now) + SignedDuration::from_millis(999);
    format!("{second} ({})", age::human(left.max(SignedDuration::ZERO)))
}

fn object(answers: &[(String, v1::PauseProbesResponse)], until: Option<Timestamp>) -> serde_json::Value {
    let sum = |of: fn(&v1::PauseProbesResponse) -> u64| answers.iter().map(|(_, answer)| of(answer)).sum::<u64>();
    json!({
        "kind": "ProbePause",
        "pausedUntil": until.map(|until| until.to_string()),
        "podsCount": sum(|answer| answer.pods_count),
        "probesCount": sum(|answer| answer.probes_count),
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|_| "no duration; it is written 90s, 30m or 1h30m".to_owned())?;
    let length = Duration::try_from(parsed).ok().filter(|length| !length.is_zero() && *length <= PAUSE_MAX);
    length.ok_or_else(|| format!("not within 0 and {} hours", PAUSE_MAX.as_secs() / 3_600))
}

/// RFC 3339.
fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "no time; it is written 2026-11-28T14:00:00Z or 2026-11-28T15:00:00+01:00".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use jiff::ToSpan;

    use super::*;
    use crate::cli::{Cli, Command};

    fn choice_of(line: &str) -> Result<ChoiceArgs, String> {
        let words = std::iter::once("probe-engine").chain(line.split(' '));
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Pause(args) => Ok(args.choice),
            Command::Resume(args) => Ok(args.choice),
            other => Err(format!("{other:?}")),
        }
    }

    fn chosen(line: &str) -> Result<Vec<(String, String, String)>, String> {
        let filters = filters(&choice_of(line)?).map_err(|error| error.to_string())?;
        Ok(filters.into_iter().map(|of| (of.namespace, of.name, of.label_selector)).collect())
    }

    fn one(namespace: &str, name: &str, selector: &str) -> Vec<(String, String, String)> {
        vec![(namespace.to_owned(), name.to_owned(), selector.to_owned())]
    }

    #[test]
    fn pods_are_chosen_as_kubectl_chooses_them() {
        assert_eq!(chosen("pause pod web --for 30m"), Ok(one("default", "web", "")));
        assert_eq!(chosen("pause pod/web -n shop --for 30m"), Ok(one("shop", "web", "")));
        assert_eq!(chosen("pause pods -l app=web --until 2026-11-28T14:00:00Z"), Ok(one("default", "", "app=web")));
        assert_eq!(chosen("resume -l app=web -A"), Ok(one("", "", "app=web")));
        assert_eq!(chosen("resume pods --all -n shop"), Ok(one("shop", "", "")));
        assert_eq!(chosen("resume --all -A"), Ok(one("", "", "")));
        assert_eq!(chosen("resume pod web api").map(|all| all.len()), Ok(2));
    }

    #[test]
    fn nothing_chosen_is_never_everything() {
        for line in [
            "resume",
            "resume pods",
            "resume pods -n shop",
            "resume pods -A",
            "resume --type liveness",
            "resume -c app",
        ] {
            let error = chosen(line).expect_err(line);
            assert!(error.starts_with("say which: "), "{line}: {error}");
        }
        for line in ["resume pod web --all", "resume pod web -A", "resume pod web -l app=web"] {
            assert!(chosen(line).expect_err(line).starts_with("names go with one namespace"), "{line}");
        }
        assert!(chosen("resume probes web").expect_err("no pods").starts_with("pods are named here"));
        assert!(chosen("resume -l app=").is_ok() && chosen("resume -l =").is_err());
    }

    #[test]
    fn a_pause_has_one_end_within_its_bounds() {
        for (line, why) in [
            ("pause --all", "required"),
            ("pause --all --for 1h --until 2026-11-28T14:00:00Z", "cannot be used with"),
            ("pause --all --for 25h", "not within 0 and 24 hours"),
            ("pause --all --for 0s", "not within 0 and 24 hours"),
            ("pause --all --for=-1h", "not within 0 and 24 hours"),
            ("pause --all --for soon", "it is written 90s, 30m or 1h30m"),
            ("pause --all --until noon", "it is written 2026-11-28T14:00:00Z"),
            ("pause --all --for 1h --type live", "possible values: startup, readiness, liveness"),
        ] {
            let error = choice_of(line).map(|_| ()).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
        for line in ["pause --all --for 24h", "pause --all --for=1h30m --type Liveness,readiness -c app -o json"] {
            assert!(choice_of(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_was_done_is_told_in_one_line() {
        let now: Timestamp = "2026-11-28T13:30:00.4Z".parse().expect("a time");
        let until = Some(now.checked_add(30.minutes()).expect("in range"));
        let answer = |probes_count, pods_count| v1::PauseProbesResponse { probes_count, pods_count };
        let told = |name, answer, until| line(name, &answer, until, now);
        let expected = "pod/web: 3 probes paused until 2026-11-28T14:00:00Z (30m)";
        assert_eq!(told("web", answer(3, 1), until).as_deref(), Some(expected));
        let expected = "1 probe of 1 pod paused until 2026-11-28T14:00:00Z (30m)";
        assert_eq!(told("", answer(1, 1), until).as_deref(), Some(expected));
        assert_eq!(told("", answer(12, 4), None).as_deref(), Some("12 probes of 4 pods resumed"));
        assert_eq!(told("we\x1bb", answer(2, 1), None).as_deref(), Some("pod/we\\x1bb: 2 probes resumed"));
        assert_eq!(told("web", answer(0, 0), None), None);
        let both = [("a".to_owned(), answer(3, 1)), ("b".to_owned(), answer(1, 1))];
        let object = object(&both, until);
        assert_eq!(
            (&object["kind"], &object["podsCount"], &object["probesCount"]),
            (&json!("ProbePause"), &json!(2), &json!(4))
        );
        assert_eq!(object["pausedUntil"], "2026-11-28T14:00:00.4Z");
    }
}
