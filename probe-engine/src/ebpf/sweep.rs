//! The netlink calls that take their time, on a thread of their own: namespaces are opened here, listeners dumped, routes
//! looked up, and path changes heard of.

use std::sync::Arc;

use super::answer::Why;
use super::sock_diag::DiagListener;
use super::target::{Place, Target};

/// From the watch.
#[derive(Clone, Debug)]
pub enum Question {
    /// Find out where the target is, and follow what leads to it until it is let go (the sweep's `Arc` is the last but one).
    Place(Arc<Target>),
    /// List the listeners of a namespace, of both families.
    Dump {
        /// Which.
        netns_cookie: u64,
    },
}

/// To the watch. A question gives its answer, in order; a dump gives parts and then its end.
#[derive(Clone, Debug)]
pub enum Told {
    /// The answer to [`Question::Place`], and again whenever it becomes another (its address came, or went away).
    Placed {
        /// Which.
        target: Arc<Target>,
        /// Where it is, or why it cannot be answered passively: `NotLocal`, `NetnsUnknown`, `TableFull`.
        place: Result<Place, Why>,
    },
    /// At most [`crate::limits::DUMP_PART_LEN`] listeners of a dump.
    Part {
        /// Of which namespace.
        netns_cookie: u64,
        /// In no order.
        listeners: Vec<DiagListener>,
    },
    /// The end of a dump.
    Dumped {
        /// Of which namespace.
        netns_cookie: u64,
        /// All of it was told. Otherwise (the netlink socket failed) nothing follows from a listener not being in it.
        complete: bool,
        /// The namespace has an sk_lookup program (BPF_PROG_QUERY).
        sk_lookup: bool,
    },
}
