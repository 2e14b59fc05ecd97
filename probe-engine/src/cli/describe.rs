//! `probe-engine describe pod NAME`: kubectl's text, with what this engine knows of each probe below it.

use std::fmt::{Display, Write};

use jiff::Timestamp;

use super::client::{self, Link, error_of};
use super::get::DEFAULT_NAMESPACE;
use super::reference::Reference;
use super::{CliError, Exit, Globals, age, escape, events, output, pause, pod_list, pods, probes};
use crate::api::convert::timestamp_from;
use crate::api::v1::{self, container_state::State, watch_events_response::Item};
use crate::clock;

/// Arguments of `describe`.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// `pod NAME` or `pod/NAME`
    #[arg(value_name = "pod NAME", required = true, num_args = 1..=2)]
    pod: Vec<String>,
    /// The pod's namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

/// Describes a pod.
pub fn run(args: &DescribeArgs, globals: &Globals) -> Result<Exit, CliError> {
    let name = Reference::one_pod(&args.pod)?;
    client::block_on(async {
        let mut link = Link::open(globals).await?;
        let request = v1::GetPodRequest { namespace: args.namespace.clone(), name: name.clone() };
        let answer = link.client.get_pod(request).await.map_err(|s| error_of(&s))?.into_inner();
        let pod = answer.pod.ok_or_else(|| CliError::Unknown("the daemon's answer holds no pod".to_owned()))?;
        let happened = events_of(&mut link, &pod).await?;
        output::print(&text(&pod, &happened, &link.info, clock::wall()))?;
        Ok(Exit::Success)
    })
}

/// Everything that is known of a pod.
#[must_use]
pub fn text(pod: &v1::Pod, happened: &[v1::Event], info: &v1::GetInfoResponse, now: Timestamp) -> String {
    let cut = info.ebpf_loaded.then(|| probes::cut_percent(info));
    let mut page = Page { text: String::new(), now, cut };
    page.head(pod, &info.node_name);
    let is_init = |c: &&v1::Container| c.kind() != v1::ContainerKind::Regular;
    let (init, regular): (Vec<_>, Vec<_>) = pod.containers.iter().partition(is_init);
    if !init.is_empty() {
        page.line(0, "Init Containers:");
        init.iter().for_each(|c| page.container(c));
    }
    page.line(0, "Containers:");
    regular.iter().for_each(|c| page.container(c));
    page.conditions(pod);
    if !pod.ignored_fields.is_empty() {
        page.line(0, "Ignored Fields:");
        pod.ignored_fields.iter().for_each(|field| page.line(2, field));
    }
    page.events(happened);
    page.text
}

async fn events_of(link: &mut Link, pod: &v1::Pod) -> Result<Vec<v1::Event>, CliError> {
    let request =
        v1::WatchEventsRequest { namespace: pod.namespace.clone(), pod: pod.name.clone(), since: 0, follow: false };
    let mut parts = link.client.watch_events(request).await.map_err(|s| error_of(&s))?.into_inner();
    let mut happened = Vec::new();
    while let Some(part) = parts.message().await.map_err(|s| error_of(&s))? {
        if let Some(Item::Event(event)) = part.item
            && event.pod_uid == pod.uid
        {
            happened.push(event);
        }
    }
    Ok(happened)
}

struct Page {
    text: String,
    now: Timestamp,
    /// How much of the time passive answers of this node were cut short; `None` without eBPF.
    cut: Option<String>,
}

impl Page {
    fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{}", "", escape::line(text));
    }

    /// `name:` and its value, values of one indent under each other.
    fn field(&mut self, indent: usize, name: &str, value: impl Display) {
        let column = if indent == 0 { 18 } else { 20 - indent };
        let name = format!("{name}:");
        let value = value.to_string();
        let _ = writeln!(self.text, "{:indent$}{name:<column$}{}", "", escape::line(&value));
    }

    fn head(&mut self, pod: &v1::Pod, node_name: &str) {
        self.field(0, "Name", &pod.name);
        self.field(0, "Namespace", &pod.namespace);
        self.field(0, "UID", &pod.uid);
        self.field(0, "Source", pods::or_none(&pod.source));
        self.field(0, "Node", pods::or_none(node_name));
        self.field(0, "Start Time", date(pod.created_at.as_ref()));
        self.pairs("Labels", &pod.labels, "=");
        self.pairs("Annotations", &pod.annotations, ": ");
        let status = if pod.deleting { "Terminating" } else { pods::phase(pod.phase()) };
        self.field(0, "Status", status);
        if pod.deleting {
            self.field(0, "Grace Period", format!("{}s", pod.termination_grace_period_s));
        }
        self.field(0, "IP", pods::or_none(&pod.pod_ip));
    }

    fn pairs(&mut self, name: &str, pairs: &std::collections::HashMap<String, String>, separator: &str) {
        let mut pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}{separator}{value}")).collect();
        pairs.sort_unstable();
        let mut name = format!("{name}:");
        if pairs.is_empty() {
            pairs.push("<none>".to_owned());
        }
        for pair in pairs {
            let _ = writeln!(self.text, "{name:<18}{}", escape::line(&pair));
            name.clear();
        }
    }

    fn container(&mut self, container: &v1::Container) {
        self.line(2, &format!("{}:", container.name));
        self.field(4, "Container ID", &container.id);
        self.field(4, "Image", &container.image);
        for (name, words) in [("Command:", &container.command), ("Args:", &container.args)] {
            if !words.is_empty() {
                self.line(4, name);
                words.iter().for_each(|word| self.line(6, word));
            }
        }
        self.state("State", container.state.as_ref().and_then(|s| s.state.as_ref()));
        if let Some(how) = &container.last_termination {
            self.field(4, "Last State", "Terminated");
            self.termination(how);
        }
        self.field(4, "Ready", title(container.ready));
        self.field(4, "Restart Count", container.restart_count);
        for probe in &container.probes {
            self.probe(probe);
        }
    }

    fn state(&mut self, name: &str, state: Option<&State>) {
        match state {
            Some(State::Running(running)) => {
                self.field(4, name, "Running");
                self.field(6, "Started", date(running.started_at.as_ref()));
            }
            Some(State::Waiting(why)) => {
                self.field(4, name, "Waiting");
                self.some_field(6, "Reason", &why.reason);
                self.some_field(6, "Message", &why.message);
            }
            Some(State::Terminated(how)) => {
                self.field(4, name, "Terminated");
                self.termination(how);
            }
            None => self.field(4, name, "Waiting"),
        }
    }

    fn termination(&mut self, how: &v1::Termination) {
        self.some_field(6, "Reason", &how.reason);
        self.some_field(6, "Message", &how.message);
        self.field(6, "Exit Code", how.exit_code);
        if how.signal > 0 {
            self.field(6, "Signal", how.signal);
        }
        self.field(6, "Started", date(how.started_at.as_ref()));
        self.field(6, "Finished", date(how.finished_at.as_ref()));
    }

    fn some_field(&mut self, indent: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(indent, name, value);
        }
    }

    fn probe(&mut self, probe: &v1::Probe) {
        let described = probe.spec.as_ref().map_or_else(|| "<none>".to_owned(), probes::describe);
        self.field(4, probes::probe_type(probe.r#type()), described);
        let since = timestamp_from(probe.verdict_since.as_ref());
        let mut verdict = probes::verdict(probe.verdict()).to_owned();
        if since.is_some() {
            let _ = write!(verdict, " since {}", age::since(since, self.now));
        }
        if probe.on_hold {
            verdict.push_str(", on hold until the container is a new instance");
        }
        self.field(6, "Verdict", verdict);
        if let Some(until) = probes::paused_until(probe, self.now) {
            self.field(6, "Paused", format!("until {}", pause::moment(until, self.now)));
        }
        if probe.threshold > 0 {
            self.field(6, "Run", probes::run(probe.run, probe.threshold));
        }
        let last = timestamp_from(probe.last_at.as_ref());
        let mut seen = probes::outcome(probe.last()).to_owned();
        if last.is_some() {
            let _ = write!(seen, " {} ago, took {}", age::since(last, self.now), age::short(probe.last_duration_ns));
        }
        if !probe.last_message.is_empty() {
            let _ = write!(seen, ": {}", probe.last_message);
        }
        self.field(6, "Last", seen);
        let mut attempts = format!("{} succeeded, {} failed", probe.successful_count, probe.failed_count);
        if let Some(due) = timestamp_from(probe.due_at.as_ref()) {
            let _ = write!(attempts, ", next in {}", age::human(due.duration_since(self.now)));
        }
        self.field(6, "Attempts", attempts);
        if let Some(durations) = probes::durations(probe) {
            self.field(6, "Durations", durations);
        }
        if probe.near_miss_count > 0 {
            let at = age::since(timestamp_from(probe.near_miss_at.as_ref()), self.now);
            let near =
                format!("{}, the newest {at} ago: attempts that took 80 % of the timeout", probe.near_miss_count);
            self.field(6, "Near misses", near);
        }
        self.answers(probe);
    }

    /// Of a tcpSocket probe: with or without connections, and what that means for detection.
    fn answers(&mut self, probe: &v1::Probe) {
        if probe.worst_case_detection_s == 0 {
            return;
        }
        if let Some(answered) = probes::answered(probe) {
            self.field(6, "Answered", answered);
        }
        if let Some(cut) = self.cut.clone().filter(|_| probe.passive_count > 0) {
            self.field(6, "Cut short", format!("{cut} of the time on this node, by changes on the way"));
        }
        self.field(6, "Detection", probes::detection(probe));
    }

    fn conditions(&mut self, pod: &v1::Pod) {
        if !pod.readiness_gates.is_empty() {
            self.line(0, "Readiness Gates:");
            self.line(2, "Type              Status");
            for gate in &pod.readiness_gates {
                let found = pod.conditions.iter().find(|c| c.r#type == *gate);
                let status = found.map_or("<none>", |c| pod_list::condition_status(c.status()));
                self.line(2, &format!("{gate:<17} {status}"));
            }
        }
        if pod.conditions.is_empty() {
            return;
        }
        self.line(0, "Conditions:");
        self.line(2, "Type              Status  Since  Reason");
        for condition in &pod.conditions {
            let since = age::since(timestamp_from(condition.last_transition_at.as_ref()), self.now);
            let status = pod_list::condition_status(condition.status());
            let why = match (condition.reason.as_str(), condition.message.as_str()) {
                (reason, "") => reason.to_owned(),
                (reason, message) => format!("{reason}: {message}"),
            };
            let line = format!("{:<17} {status:<7} {since:<6} {why}", condition.r#type);
            self.line(2, line.trim_end());
        }
    }

    fn events(&mut self, happened: &[v1::Event]) {
        if happened.is_empty() {
            self.field(0, "Events", "<none>");
            return;
        }
        self.line(0, "Events:");
        let mut table = super::table::Table::new(vec!["Type", "Reason", "Age", "Container", "Run", "Message"]);
        for event in happened {
            table.push(vec![
                events::event_type(event).to_owned(),
                event.reason.clone(),
                events::last_seen(event, self.now),
                pods::or_none(&event.container),
                probes::run(event.run, event.threshold),
                event.message.clone(),
            ]);
        }
        // The table has escaped its cells.
        for line in table.text().lines() {
            let _ = writeln!(self.text, "  {line}");
        }
    }
}

/// RFC 1123 with the zone as a number, as kubectl writes it; in UTC.
fn date(at: Option<&prost_types::Timestamp>) -> String {
    timestamp_from(at)
        .map_or_else(|| "<unknown>".to_owned(), |at| at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string())
}

const fn title(yes: bool) -> &'static str {
    if yes { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::probe_spec::Handler;
    use crate::cli::pods::tests::{NOW, at, pod, running, termination};

    fn node() -> v1::GetInfoResponse {
        v1::GetInfoResponse { node_name: "node-1".to_owned(), ..v1::GetInfoResponse::default() }
    }

    #[test]
    fn a_pod_is_described_as_kubectl_does_with_its_verdicts() {
        let mut app = running("app", false);
        app.id = "process://abc".to_owned();
        app.restart_count = 1;
        app.last_termination = Some(termination(137, 9, "Error", 60));
        app.probes = vec![v1::Probe {
            r#type: v1::ProbeType::Liveness.into(),
            spec: Some(v1::ProbeSpec {
                handler: Some(Handler::HttpGet(v1::HttpGet {
                    port: Some(v1::Port { port: Some(v1::port::Port::Number(8080)) }),
                    path: "/healthz".to_owned(),
                    scheme: "http".to_owned(),
                    ..v1::HttpGet::default()
                })),
                timeout_s: 1,
                period_s: 10,
                success_threshold: 1,
                failure_threshold: 3,
                ..v1::ProbeSpec::default()
            }),
            verdict: v1::Verdict::Success.into(),
            on_hold: true,
            paused_until: at(-180),
            verdict_since: at(300),
            run: 2,
            threshold: 3,
            last: v1::OutcomeKind::Failure.into(),
            last_message: "HTTP probe failed with statuscode: 500\nX".to_owned(),
            last_at: at(4),
            last_duration_ns: 1_200_000,
            successful_count: 7,
            failed_count: 2,
            due_at: at(-6),
            ..v1::Probe::default()
        }];
        let mut of = pod(v1::PodPhase::Running, vec![app]);
        of.conditions = vec![v1::Condition {
            r#type: "Ready".to_owned(),
            status: v1::ConditionStatus::False.into(),
            reason: "ContainersNotReady".to_owned(),
            message: "containers with unready status: [app]".to_owned(),
            last_transition_at: at(20),
        }];
        of.ignored_fields = vec!["spec.affinity: not used".to_owned()];
        let event =
            v1::Event { at: at(4), reason: "Unhealthy".to_owned(), run: 2, threshold: 3, ..v1::Event::default() };
        let now = Timestamp::from_second(NOW).expect("in range");
        let text = text(&of, &[event], &node(), now);
        for line in [
            "Name:             web",
            "Start Time:       Tue, 14 Nov 2023 22:08:20 +0000",
            "Labels:           <none>",
            "    Container ID:   process://abc",
            "    State:          Running",
            "    Last State:     Terminated",
            "      Exit Code:    137",
            "      Signal:       9",
            "    Ready:          False",
            "    Liveness:       http-get http://:8080/healthz delay=0s timeout=1s period=10s #success=1 #failure=3",
            "      Verdict:      Success since 5m, on hold until the container is a new instance",
            "      Paused:       until 2023-11-14T22:16:20Z (3m)",
            "      Run:          2 of 3",
            "      Last:         failure 4s ago, took 1.2ms: HTTP probe failed with statuscode: 500\\nX",
            "      Attempts:     7 succeeded, 2 failed, next in 6s",
            "  Ready             False   20s    ContainersNotReady: containers with unready status: [app]",
            "  spec.affinity: not used",
            "  Normal   Unhealthy   4s    <none>      2 of 3   ",
        ] {
            assert!(text.lines().any(|l| l == line), "missing {line:?} in\n{text}");
        }
    }

    #[test]
    fn a_tcp_probe_tells_how_it_was_answered_and_how_long_detection_takes() {
        let probe = v1::Probe {
            r#type: v1::ProbeType::Readiness.into(),
            spec: Some(v1::ProbeSpec {
                handler: Some(Handler::TcpSocket(v1::TcpSocket::default())),
                period_s: 10,
                failure_threshold: 3,
                ..v1::ProbeSpec::default()
            }),
            answer: "passive".to_owned(),
            answer_real: "real: renewed".to_owned(),
            passive_count: 1_234,
            real_count: 21,
            worst_case_detection_s: 90,
            ..v1::Probe::default()
        };
        let mut app = running("app", true);
        app.probes = vec![
            probe.clone(),
            v1::Probe {
                answer: "real: taken by :15006".to_owned(),
                answer_real: "real: taken by :15006".to_owned(),
                passive_count: 0,
                ..probe
            },
        ];
        let of = pod(v1::PodPhase::Running, vec![app]);
        let info = v1::GetInfoResponse {
            ebpf_loaded: true,
            passive_held_ns: 80_000_000_000,
            passive_cut_ns: 2_000_000_000,
            ..node()
        };
        let text = text(&of, &[], &info, Timestamp::from_second(NOW).expect("in range"));
        for line in [
            "      Answered:     passive (1234 passive, 21 real; last real: renewed)",
            "      Cut short:    2.5% of the time on this node, by changes on the way",
            "      Answered:     real: taken by :15006 (0 passive, 21 real)",
            "      Detection:    90s at worst (passiveMaxAge 60s + 3 x 10s)",
        ] {
            assert!(text.lines().any(|l| l == line), "missing {line:?} in\n{text}");
        }
    }
}
