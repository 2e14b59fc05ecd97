//! Whether this process and all its descendants are asleep, thread by thread (/proc).
//!
//! A thread that is woken counts as running at once, scheduled or not, and one that has run and sleeps again has been switched
//! once more. So of two looks that find every thread asleep, with the same counts, there was a moment in between at which all of them were: nobody
//! had anything to do, and no message of theirs was on its way to another, or that one would have been awake.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::str::FromStr;

use nix::unistd::gettid;

/// What one look has seen, where every thread was asleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// How often each has been switched, by process and thread.
    switches: BTreeMap<(u32, u32), u64>,
}

/// One thread's entry of /proc.
#[derive(Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    state: char,
    switches: u64,
}

impl Look {
    /// At every thread but the calling one; who was not asleep where one was not.
    ///
    /// # Errors
    /// Its process, thread, name and state.
    pub fn take() -> Result<Self, String> {
        let own = std::process::id();
        let mut switches = BTreeMap::new();
        // This process first: it is the one that is awake most often, and costs least to look at.
        look_at(own, &mut switches)?;
        for (process, parent) in descendants(own) {
            match parent {
                // Whoever has left it unreaped does not care.
                Some(parent) if parent != own && is_zombie(process) => {}
                _ => look_at(process, &mut switches)?,
            }
        }
        Ok(Self { switches })
    }
}

fn look_at(process: u32, switches: &mut BTreeMap<(u32, u32), u64>) -> Result<(), String> {
    let own = u32::try_from(gettid().as_raw()).expect("a thread's number");
    for thread in numbers(&format!("/proc/{process}/task")).filter(|thread| *thread != own) {
        // It may end between two lines of this.
        let Some(seen) = thread_of(&read(&format!("/proc/{process}/task/{thread}/status"))) else {
            return Err(format!("process {process}, thread {thread} ended"));
        };
        if !matches!(seen.state, 'S' | 'T' | 'I') {
            return Err(format!("process {process}, thread {thread} ({}) is in state {}", seen.name, seen.state));
        }
        switches.insert((process, thread), seen.switches);
    }
    Ok(())
}

/// All processes below `root`, with their parents.
fn descendants(root: u32) -> Vec<(u32, Option<u32>)> {
    let parents: BTreeMap<u32, u32> = numbers("/proc")
        .filter_map(|process| Some((process, field(&read(&format!("/proc/{process}/status")), "PPid")?)))
        .collect();
    let mut below = BTreeSet::from([root]);
    let mut found = Vec::new();
    loop {
        let new: Vec<u32> = parents
            .iter()
            .filter(|(process, parent)| below.contains(parent) && !below.contains(process))
            .map(|(process, _)| *process)
            .collect();
        if new.is_empty() {
            return found;
        }
        found.extend(new.iter().map(|process| (*process, parents.get(process).copied())));
        below.extend(new);
    }
}

fn is_zombie(process: u32) -> bool {
    thread_of(&read(&format!("/proc/{process}/status"))).is_some_and(|thread| thread.state == 'Z')
}

fn thread_of(status: &str) -> Option<Thread> {
    let count = |name| field::<u64>(status, name);
    Some(Thread {
        name: field(status, "Name")?,
        state: field(status, "State")?,
        switches: count("voluntary_ctxt_switches")? + count("nonvoluntary_ctxt_switches")?,
    })
}

/// The first word of a line of proc_pid_status(5).
fn field<T: FromStr>(status: &str, name: &str) -> Option<T> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn numbers(directory: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tshard-0\nUmask:\t0022\nState:\tS (sleeping)\nPPid:\t7\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";

    #[test]
    fn a_threads_state_and_switches_are_read_from_its_status() {
        let thread = Thread { name: "shard-0".to_owned(), state: 'S', switches: 42 };
        assert_eq!(thread_of(STATUS), Some(thread));
        assert_eq!(field(STATUS, "PPid"), Some(7));
        assert_eq!(thread_of(""), None, "it has ended");
    }

    #[test]
    fn a_child_that_sleeps_is_seen_and_one_that_has_ended_is_awake_until_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep runs");
        let seen = descendants(std::process::id());
        assert!(seen.contains(&(child.id(), Some(std::process::id()))), "{seen:?}");
        child.kill().expect("a child");
        let mut switches = BTreeMap::new();
        // Killed: on its way out, and then a zombie, but not asleep.
        assert!(look_at(child.id(), &mut switches).is_err());
        child.wait().expect("a child");
        assert!(!descendants(std::process::id()).iter().any(|(process, _)| *process == child.id()));
    }
}
