use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bounded = async { timeout(Duration::from_secs(30), future).await };
    runtime.block_on(bounded).expect("the test is over in time")
}

fn argv(words: &[&str]) -> Vec<Box<str>> {
    words.iter().map(|word| Box::from(*word)).collect()
}

fn run_words(words: &[&str], limit: Option<Duration>) -> Outcome {
    let command = argv(words);
    block_on(run(host_command(&command), limit)).outcome(&command)
}

fn shell(script: &str) -> Outcome {
    run_words(&["/bin/sh", "-c", script], Some(Duration::from_secs(20)))
}

fn success(text: &str) -> Outcome {
    Outcome::Success(text.into())
}

/// A pipe that a process and its children hold open: readable (end of file) once all of them are gone.
fn held_pipe() -> (io::PipeReader, io::PipeWriter) {
    io::pipe().expect("a pipe")
}

/// Makes the command inherit the pipe's writing end as its stdin's neighbour: through `/proc/<us>/fd`.
fn fd_path(writer: &io::PipeWriter) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd())
}

/// Waits for the end of file, 10 s at most.
fn ends(reader: &io::PipeReader) -> bool {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(10_000u16)).expect("poll") == 1
}

#[test]
fn x01_exit_0_is_a_success_with_its_output() {
    assert_eq!(run_words(&["printf", "OK"], None), success("OK"));
}

#[test]
fn x03_output_over_10_kib_is_cut_at_10240_bytes() {
    let outcome = shell("yes 0123456 | head -c 300000");
    let Outcome::Success(text) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(text.len(), 10_240);
    assert!(text.starts_with("0123456\n"));
}

#[test]
fn x05_a_non_zero_exit_is_a_failure_with_its_output() {
    let outcome = shell("echo on stdout; echo on stderr >&2; exit 1");
    assert_eq!(outcome, Outcome::Failure("on stdout\non stderr\n".into()));
}

#[test]
fn x06_a_timeout_is_a_failure_with_the_error_as_output() {
    let outcome = run_words(&["sleep", "60"], Some(Duration::from_secs(1)));
    let text = "command timed out: \"sleep 60\" timed out after 1s";
    assert_eq!(outcome, Outcome::Failure(text.into()));
}

#[test]
fn p15_arguments_are_passed_as_they_are_without_a_shell() {
    let outcome = run_words(&["printf", "%s|", "some", "script", "a  b", "$HOME", "*", ""], None);
    assert_eq!(outcome, success("some|script|a  b|$HOME|*||"));
}

#[test]
fn p17_of_11_kib_of_output_the_first_10_are_kept() {
    let outcome = shell("head -c 10240 /dev/zero | tr '\\0' a; head -c 1024 /dev/zero | tr '\\0' b");
    assert_eq!(outcome, success(&"a".repeat(10_240)));
}

#[test]
fn stdout_comes_before_stderr_whatever_was_written_first() {
    assert_eq!(shell("echo err >&2; echo out"), success("out\nerr\n"));
}

#[test]
fn the_cut_counts_both_outputs_together() {
    let outcome = shell("head -c 10000 /dev/zero | tr '\\0' o; head -c 10000 /dev/zero | tr '\\0' e >&2");
    let Outcome::Success(text) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(text.len(), 10_240);
    assert_eq!(text.find('e'), Some(10_000));
}

#[test]
fn output_that_is_no_utf8_is_replaced_and_still_bounded() {
    let outcome = shell("head -c 10240 /dev/zero | tr '\\0' '\\377'");
    let Outcome::Success(text) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(text.len() <= 10_240 && text.starts_with('\u{fffd}'));
}

#[test]
fn stdin_is_empty() {
    assert_eq!(shell("cat"), success(""));
}

#[test]
fn death_by_a_signal_is_a_failure() {
    assert_eq!(shell("echo last words; kill -9 $$"), Outcome::Failure("last words\n".into()));
}

#[test]
fn a_background_child_that_holds_the_pipes_does_not_delay_the_verdict_and_lives_on() {
    let (reader, writer) = held_pipe();
    let started = crate::clock::now();
    let script = format!("exec 9>{}; sleep 60 & echo $!; exit 1", fd_path(&writer));
    let outcome = shell(&script);
    drop(writer);
    let took = crate::clock::now() - started;
    assert!(took < Duration::from_secs(20), "{took:?}");
    let Outcome::Failure(text) = outcome else {
        panic!("{outcome:?}");
    };
    let pid = Pid::from_raw(text.trim().parse().expect("a pid"));
    let alive = nix::sys::signal::kill(pid, None);
    nix::sys::signal::kill(pid, Signal::SIGKILL).expect("our own process");
    assert_eq!(alive, Ok(()));
    assert!(ends(&reader));
}

#[test]
fn a_background_child_that_writes_without_end_does_not_hold_the_attempt() {
    // The writer dies of SIGPIPE when the attempt closes its end.
    assert!(matches!(shell("yes & exit 0"), Outcome::Success(_)));
    let outcome = run_words(&["yes"], Some(Duration::from_millis(200)));
    assert!(matches!(outcome, Outcome::Failure(text) if text.ends_with("timed out after 200ms")));
}

#[test]
fn the_timeout_kills_the_whole_group() {
    let (reader, writer) = held_pipe();
    let script = format!("exec 9>{}; trap '' TERM; sleep 60 & sleep 60", fd_path(&writer));
    let outcome = run_words(&["/bin/sh", "-c", &script], Some(Duration::from_millis(300)));
    drop(writer);
    assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
    assert!(ends(&reader));
}

#[test]
fn giving_up_kills_the_whole_group_and_leaves_no_zombie() {
    let (reader, writer) = held_pipe();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let script = format!("exec 9>{}; sleep 60 & echo $$ > {}; sleep 60", fd_path(&writer), file.path().display());
    let command = argv(&["/bin/sh", "-c", &script]);
    block_on(async {
        let pid_written = async {
            while !fs::read_to_string(file.path()).is_ok_and(|pid| pid.ends_with('\n')) {
                // tidy: the content of a file has no event here
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            outcome = run(host_command(&command), None) => panic!("{outcome:?}"),
            () = pid_written => {}
        }
        drop(writer);
        assert!(ends(&reader));
        let pid = fs::read_to_string(file.path()).expect("the pid");
        let pid = pid.trim();
        // tokio reaps what was dropped whenever its runtime turns.
        while is_zombie(pid) {
            // tidy: that somebody else has reaped a process has no event
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

fn is_zombie(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

#[test]
fn a_command_on_the_host_has_no_headers_of_the_collector() {
    let host = host_command(&argv(&["true"]));
    assert_eq!(host.get_envs().collect::<Vec<_>>(), [(OsStr::new(HEADERS_ENV), None)]);
}

#[test]
fn a_missing_program_is_an_error() {
    let outcome = run_words(&["no-such-program-anywhere"], None);
    let text = "failed to start exec: exec: \"no-such-program-anywhere\": executable file not found in $PATH";
    assert_eq!(outcome, Outcome::Error(text.into()));
    let outcome = run_words(&["/no/such/program"], None);
    let text = "failed to start exec: exec: \"/no/such/program\": no such file or directory";
    assert_eq!(outcome, Outcome::Error(text.into()));
}

#[test]
fn a_file_that_is_not_executable_is_an_error() {
    let outcome = run_words(&["/etc/passwd"], None);
    let text = "failed to start exec: exec: \"/etc/passwd\": permission denied";
    assert_eq!(outcome, Outcome::Error(text.into()));
}

#[test]
fn a_missing_working_directory_is_an_error_that_says_so() {
    let command = argv(&["true"]);
    let mut host = host_command(&command);
    host.current_dir("/no/such/directory");
    let outcome = block_on(run(host, None)).outcome(&command);
    let text = "failed to start exec: exec: \"true\": working directory /no/such/directory: no such directory";
    assert_eq!(outcome, Outcome::Error(text.into()));
}

#[test]
fn want_of_processes_descriptors_or_memory_is_trouble_of_our_own() {
    let table = [
        (libc::EAGAIN, LocalCause::Processes),
        (libc::EMFILE, LocalCause::ProcessFiles),
        (libc::ENFILE, LocalCause::SystemFiles),
        (libc::ENOMEM, LocalCause::Memory),
    ];
    for (errno, expected) in table {
        let error = io::Error::from_raw_os_error(errno);
        match not_run(&error, Path::new("true"), None) {
            Execution::Local(cause) => assert_eq!(cause, expected),
            other => panic!("{other:?}"),
        }
    }
}
