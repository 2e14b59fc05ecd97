//! What one attempt saw ([`Outcome`]) and what is stored after thresholds ([`Verdict`]).

use alloc::boxed::Box;
use core::fmt;

/// What one attempt saw. Texts are at most 10 KiB and those of the kubelet where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered well.
    Success(Box<str>),
    /// Counts as a success, with a `ProbeWarning` event (a redirect that is not followed).
    Warning(Box<str>),
    /// The target answered badly, or not in time.
    Failure(Box<str>),
    /// The attempt could not be made or read (`(result, err)` with an error in the kubelet): tried again at
    /// once, up to [`crate::worker::ATTEMPTS_MAX`] in all, then discarded with an event.
    Error(Box<str>),
    /// Trouble of our own, which says nothing of the target: discarded, counted, tried again later.
    Local(LocalCause),
}

/// Why an [`Outcome::Local`] says nothing of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalCause {
    /// EMFILE: this process is out of descriptors.
    ProcessFiles,
    /// ENFILE: the node is out of descriptors.
    SystemFiles,
    /// ENOBUFS: no buffer space.
    Buffers,
    /// ENOMEM: no memory.
    Memory,
    /// EADDRNOTAVAIL with the ephemeral ports towards the destination used up.
    Ports,
    /// The ring could not take the request.
    RingFull,
    /// The pool could not take the request, or ended while it was at work.
    Pool,
    /// EAGAIN from fork or clone: no process could be made.
    Processes,
}

impl LocalCause {
    /// Every cause, in the order of the enum (metrics make one series each).
    pub const ALL: [LocalCause; 8] = [
        LocalCause::ProcessFiles,
        LocalCause::SystemFiles,
        LocalCause::Buffers,
        LocalCause::Memory,
        LocalCause::Ports,
        LocalCause::RingFull,
        LocalCause::Pool,
        LocalCause::Processes,
    ];

    /// As written in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LocalCause::ProcessFiles => "emfile",
            LocalCause::SystemFiles => "enfile",
            LocalCause::Buffers => "enobufs",
            LocalCause::Memory => "enomem",
            LocalCause::Ports => "ports",
            LocalCause::RingFull => "ring_full",
            LocalCause::Pool => "pool",
            LocalCause::Processes => "processes",
        }
    }

    /// A sentence for people: what is short and what to do.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            LocalCause::ProcessFiles => "the daemon is out of file descriptors (EMFILE); raise its LimitNOFILE",
            LocalCause::SystemFiles => "the node is out of file descriptors (ENFILE); raise fs.file-max",
            LocalCause::Buffers => "the kernel has no buffer space (ENOBUFS)",
            LocalCause::Memory => "the kernel has no memory for the attempt (ENOMEM)",
            LocalCause::Ports => {
                "all ephemeral ports towards the target are in use (EADDRNOTAVAIL); widen net.ipv4.ip_local_port_range"
            }
            LocalCause::RingFull => "the shard's ring is full",
            LocalCause::Pool => "the worker pool could not take the attempt",
            LocalCause::Processes => "no process could be made (EAGAIN); raise the daemon's TasksMax or pids limit",
        }
    }
}

impl fmt::Display for LocalCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The stored result of a probe, after thresholds (`results_manager.go`, `Result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Nothing is known yet: a startup probe's initial value.
    Unknown,
    /// Healthy.
    Success,
    /// Unhealthy.
    Failure,
}

impl Verdict {
    /// As shown to people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Unknown => "Unknown",
            Verdict::Success => "Success",
            Verdict::Failure => "Failure",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use std::format;

    use super::*;

    #[test]
    fn every_local_cause_has_a_label_and_a_sentence_of_its_own() {
        let labels: BTreeSet<_> = LocalCause::ALL.map(LocalCause::as_str).into();
        let sentences: BTreeSet<_> = LocalCause::ALL.map(LocalCause::sentence).into();
        assert_eq!((labels.len(), sentences.len()), (LocalCause::ALL.len(), LocalCause::ALL.len()));
        for label in labels {
            assert!(!label.is_empty() && label.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{label}");
        }
    }

    #[test]
    fn the_sentence_of_an_errno_names_it() {
        let of_errno = LocalCause::ALL.into_iter().filter(|cause| cause.as_str().starts_with("en"));
        assert!(of_errno.clone().count() == 3 && LocalCause::ProcessFiles.sentence().contains("EMFILE"));
        for cause in of_errno {
            assert!(cause.sentence().contains(&cause.as_str().to_uppercase()), "{cause}");
        }
    }

    #[test]
    fn causes_and_verdicts_are_shown_by_their_names() {
        for cause in LocalCause::ALL {
            assert_eq!(format!("{cause}"), cause.as_str());
        }
        let shown = [Verdict::Unknown, Verdict::Success, Verdict::Failure].map(|verdict| format!("{verdict}"));
        assert_eq!(shown, ["Unknown", "Success", "Failure"]);
    }
}
