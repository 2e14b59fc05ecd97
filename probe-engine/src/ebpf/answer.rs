//! How a tcpSocket probe was answered, and why not without a connection.

use std::fmt;

/// How an attempt was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// No attempt yet, or not a tcpSocket probe.
    #[default]
    None,
    /// From kernel state.
    Passive,
    /// By a connection.
    Real(Why),
}

/// Why an attempt made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Passive answers are switched off, for the daemon or for the pod.
    Off,
    /// The kernel program is not there.
    Unavailable,
    /// The target's address is not one of its namespace.
    NotLocal,
    /// The pod's network namespace is not known, or could not be opened.
    NetnsUnknown,
    /// There are more targets or namespaces than are watched (`limits.rs`).
    TableFull,
    /// The first attempt of a container instance.
    First,
    /// The attempt before did not succeed.
    Failing,
    /// The lease had reached its age.
    Renewed,
    /// A listener of the port opened or closed.
    Changed,
    /// Such an event is still to be confirmed.
    Tentative,
    /// What leads to the target (link, address, route) is gone or another.
    PathChanged,
    /// Something on the way may have changed (a new nftables generation, a route nearby): checked again.
    PathRechecked,
    /// The accept queue of a listener that could answer is full.
    AcceptQueueFull,
    /// It is not being emptied.
    AcceptStalled,
    /// A listener that could answer lost connection requests.
    ListenerDrops,
    /// No listener that could answer was found.
    NoListener,
    /// The last look at the listeners is too old.
    LookOld,
    /// Chosen at random, to check on the answers.
    Audited,
    /// An audit contradicted passive answers in this namespace, or in two.
    Contradicted,
    /// The program did not report what the daemon itself did.
    SelfTest,
    /// Somebody else took the connection: the port at which it was accepted.
    TakenBy(u16),
    /// It was accepted in another network namespace.
    TakenElsewhere,
    /// The kernel did not show who took the connection.
    NotShown,
    /// The namespace has an IP_TRANSPARENT listener.
    Transparent,
    /// The namespace has an sk_lookup program.
    SkLookup,
    /// Whether it has one may not be asked (CAP_NET_ADMIN).
    SkLookupUnknown,
    /// Asked for: early detection, or `probe-engine probe`.
    Triggered,
}

impl Why {
    /// One of each, for metrics that make one series per cause.
    pub const ALL: [Why; 27] = [
        Why::Off,
        Why::Unavailable,
        Why::NotLocal,
        Why::NetnsUnknown,
        Why::TableFull,
        Why::First,
        Why::Failing,
        Why::Renewed,
        Why::Changed,
        Why::Tentative,
        Why::PathChanged,
        Why::PathRechecked,
        Why::AcceptQueueFull,
        Why::AcceptStalled,
        Why::ListenerDrops,
        Why::NoListener,
        Why::LookOld,
        Why::Audited,
        Why::Contradicted,
        Why::SelfTest,
        Why::TakenBy(0),
        Why::TakenElsewhere,
        Why::NotShown,
        Why::Transparent,
        Why::SkLookup,
        Why::SkLookupUnknown,
        Why::Triggered,
    ];

    /// Position in [`Why::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        let kind = std::mem::discriminant(&self);
        Why::ALL.iter().position(|why| std::mem::discriminant(why) == kind).unwrap_or_default()
    }

    /// As a metric label: snake case, without the port.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::Off => "off",
            Why::Unavailable => "unavailable",
            Why::NotLocal => "not_local",
            Why::NetnsUnknown => "netns_unknown",
            Why::TableFull => "table_full",
            Why::First => "first",
            Why::Failing => "failing",
            Why::Renewed => "renewed",
            Why::Changed => "changed",
            Why::Tentative => "tentative",
            Why::PathChanged => "path_changed",
            Why::PathRechecked => "path_rechecked",
            Why::AcceptQueueFull => "accept_queue_full",
            Why::AcceptStalled => "accept_stalled",
            Why::ListenerDrops => "listener_drops",
            Why::NoListener => "no_listener",
            Why::LookOld => "look_old",
            Why::Audited => "audited",
            Why::Contradicted => "contradicted",
            Why::SelfTest => "self_test",
            Why::TakenBy(_) => "taken_by_other",
            Why::TakenElsewhere => "taken_elsewhere",
            Why::NotShown => "not_shown",
            Why::Transparent => "transparent",
            Why::SkLookup => "sk_lookup",
            Why::SkLookupUnknown => "sk_lookup_unknown",
            Why::Triggered => "triggered",
        }
    }
}

impl fmt::Display for Why {
    /// For people: `renewed`, `taken by :15006`, `accept queue full`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::TakenBy(port) => write!(f, "taken by :{port}"),
            Why::TakenElsewhere => f.write_str("taken in another network namespace"),
            Why::First => f.write_str("first"),
            Why::NetnsUnknown => f.write_str("network namespace unknown"),
            Why::SkLookup => f.write_str("sk_lookup program in its namespace"),
            Why::SkLookupUnknown => {
                f.write_str("sk_lookup programs in its namespace may not be asked for (CAP_NET_ADMIN)")
            }
            Why::Transparent => f.write_str("IP_TRANSPARENT listener in its namespace"),
            other => f.write_str(&other.as_str().replace('_', " ")),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::None => Ok(()),
            Answer::Passive => f.write_str("passive"),
            Answer::Real(why) => write!(f, "real: {why}"),
        }
    }
}

impl Answer {
    /// For an atomic: the kind in the low byte, the port above.
    #[must_use]
    pub fn to_bits(self) -> u32 {
        match self {
            Answer::None => 0,
            Answer::Passive => 1,
            Answer::Real(why) => {
                let port = if let Why::TakenBy(port) = why { port } else { 0 };
                (u32::from(port) << 8) | (2 + why.index() as u32)
            }
        }
    }

    /// What [`Answer::to_bits`] made.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        match bits & 0xFF {
            0 => Answer::None,
            1 => Answer::Passive,
            kind => match Why::ALL.get(kind as usize - 2) {
                Some(Why::TakenBy(_)) => Answer::Real(Why::TakenBy((bits >> 8) as u16)),
                Some(why) => Answer::Real(*why),
                None => Answer::None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_its_bits() {
        let all = Why::ALL.into_iter().chain([Why::TakenBy(15_006)]).map(Answer::Real);
        for answer in all.chain([Answer::None, Answer::Passive]) {
            assert_eq!(Answer::from_bits(answer.to_bits()), answer);
        }
    }

    #[test]
    fn people_read_who_took_the_connection() {
        assert_eq!(Answer::Real(Why::TakenBy(15_006)).to_string(), "real: taken by :15006");
        assert_eq!(Answer::Real(Why::AcceptQueueFull).to_string(), "real: accept queue full");
        let unknown = Answer::Real(Why::SkLookupUnknown).to_string();
        assert!(unknown.contains("CAP_NET_ADMIN"), "{unknown}");
    }
}
