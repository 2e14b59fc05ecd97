//! How a command that follows something comes back to a daemon that has gone.

use std::path::Path;
use std::time::Duration;

use tonic::{Code, Status};

use super::client::Link;

/// Why a stream has ended without an error.
pub(super) const ENDED: &str = "it ended the stream, so it is shutting down";

/// Waits between two tries: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Tries to reach a daemon, each after a longer wait than the one before.
pub(super) struct Retry {
    wait: Duration,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self { wait: RETRY_MIN }
    }

    /// Waits, and tries until there is a daemon that answers.
    pub(super) async fn link(&mut self, path: &Path) -> Link {
        loop {
            tokio::time::sleep(self.wait).await;
            self.wait = (2 * self.wait).min(RETRY_MAX);
            if let Ok(link) = Link::open_at(path).await {
                return link;
            }
        }
    }
}

/// `why`: escaped.
pub(super) fn tell_lost(path: &Path, why: &str) {
    eprintln!("warning: lost the daemon at {} ({why}); waiting for it", path.display());
}

/// Asking again would get the same answer.
pub(super) fn is_for_good(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
    )
}
