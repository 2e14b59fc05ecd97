//! docs/CLI.md names every subcommand and every flag, in the words of their help. `BLESS=1` writes what is made from the command
//! line's own tree; the text between is written by hand.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use probe_engine::cli::Cli;

fn page() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CLI.md")
}

/// What is made stands between two such lines.
fn fence(name: &str) -> (String, String) {
    (format!("<!-- flags of {name} -->\n"), "<!-- end of flags -->".to_owned())
}

/// Every command with its name as it is typed: `probe-engine`, `get`, `probe http`.
fn commands() -> Vec<(String, Command)> {
    let mut root = Cli::command();
    root.build();
    let mut all = Vec::new();
    for sub in root.get_subcommands().filter(|sub| sub.get_name() != "help") {
        all.push((sub.get_name().to_owned(), sub.clone()));
        for of in sub.get_subcommands().filter(|of| of.get_name() != "help") {
            all.push((format!("{} {}", sub.get_name(), of.get_name()), of.clone()));
        }
    }
    all.insert(0, ("probe-engine".to_owned(), root));
    all
}

fn is_own(arg: &&Arg, name: &str) -> bool {
    let is_help = matches!(arg.get_id().as_str(), "help" | "version");
    // Those of every command stand at the top alone.
    !is_help && (name == "probe-engine" || !arg.is_global_set())
}

/// `-o, --output FORMAT`
fn spelling(arg: &Arg) -> String {
    let names: Vec<String> = [arg.get_short().map(|c| format!("-{c}")), arg.get_long().map(|long| format!("--{long}"))]
        .into_iter()
        .flatten()
        .collect();
    let values = arg.get_value_names().unwrap_or_default();
    let takes = if arg.get_action().takes_values() { values.join(" ") } else { String::new() };
    let spelt = [names.join(", "), takes].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    spelt.join(" ")
}

fn block(name: &str, command: &Command) -> String {
    let mut text = String::new();
    // The daemon's settings once.
    if name == "config show" {
        return "The flags are those of `run`.\n".to_owned();
    }
    for arg in command.get_arguments().filter(|arg| is_own(arg, name)) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, "* `{}`: {}", spelling(arg), help.replace('\n', " "));
        let values = arg.get_possible_values();
        let values: Vec<&str> =
            values.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name()).collect();
        if arg.get_action().takes_values() && !values.is_empty() {
            let _ = write!(text, " ({})", values.join(", "));
        }
        text.push('\n');
    }
    if text.is_empty() { "No flags of its own.\n".to_owned() } else { text }
}

#[test]
fn the_page_names_every_subcommand_and_every_flag() {
    let mut text = std::fs::read_to_string(page()).expect("docs/CLI.md");
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for (name, command) in commands() {
        let (begin, end) = fence(&name);
        let place = text.find(&begin).map(|at| at + begin.len());
        let Some((from, to)) = place.and_then(|from| Some((from, from + text[from..].find(&end)?))) else {
            wrong.push(format!("{name:?} is not on the page: write its section, with {begin:?} and {end:?} in it"));
            continue;
        };
        let made = block(&name, &command);
        if text[from..to] != made {
            if bless {
                text.replace_range(from..to, &made);
            } else {
                wrong.push(format!("the flags of {name:?} have changed; they are\n{made}"));
            }
        }
    }
    if bless {
        std::fs::write(page(), &text).expect("docs/CLI.md");
    }
    let known: Vec<String> = commands().into_iter().map(|(name, _)| name).collect();
    for line in text.lines().filter_map(|line| line.strip_prefix("<!-- flags of ")?.strip_suffix(" -->")) {
        if !known.iter().any(|name| name == line) {
            wrong.push(format!("{line:?} is on the page, and no command"));
        }
    }
    assert!(wrong.is_empty(), "BLESS=1 writes flags anew\n{}", wrong.join("\n"));
}
