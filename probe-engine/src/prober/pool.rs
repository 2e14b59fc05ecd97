//! pool

use probe_core::action::AttemptId;
use probe_core::time::Instant;

use super::Request;
use crate::shard::metrics::HandlerKind;

/// Where a followed redirect leads.
pub type Resume = super::http::Target;

/// One attempt for the pool.
#[derive(Clone, Debug)]
pub struct Job {
    /// The shard that gets the replies.
    pub shard: usize,
    /// Names the attempt in the replies.
    pub attempt: AttemptId,
    /// Chooses the lane.
    pub handler: HandlerKind,
    /// What to do.
    pub request: Request,
    /// When the attempt began, where a shard began it.
    pub deadline_from: Option<Instant>,
    /// The redirect to follow; `None` = the probe's own URL.
    pub resume: Option<Resume>,
    /// HTTP requests that the attempt has made already.
    pub requests_made: u8,
}

/// A shard's way into the pool.
#[derive(Clone)]
pub struct PoolHandle;

impl PoolHandle {
    /// Queues a job; gives it back when its lane's queue is full, or the pool has ended.
    #[expect(clippy::result_large_err, reason = "the job goes back to its owner, without a box per attempt")]
    pub fn try_submit(&self, job: Job) -> Result<(), Job> {
        Err(job)
    }
}
