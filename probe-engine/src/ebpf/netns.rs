//! Network namespaces: how a target names its own, and the ones that are held open.

use std::sync::Arc;

/// Where a target's address is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsRef {
    /// The daemon's own namespace.
    Own,
    /// The one that this path opens, as the runtime says.
    Path(Arc<str>),
}
