//! Every bound of the engine, with the answer to "and when it is full?".

use std::time::Duration;

/// Shard threads at most, and by default the number of cores if that is smaller.
pub const SHARDS_MAX: usize = 4;

/// Commands waiting for one shard. Full: the manager waits, and with it its sources.
pub const SHARD_INBOX_LEN_MAX: usize = 4_096;

/// Commands that one turn takes from its inbox. More: they wait for the next turn.
pub const SHARD_COMMANDS_PER_TURN_MAX: usize = 256;

/// Attempts that one turn starts. More due: they keep their due time and go first in the next turn.
pub const STARTS_PER_TURN_MAX: usize = 256;

/// Attempts in flight on one shard's ring. Full: due attempts wait in due order until one ends (`rescheduled`).
pub const FLIGHTS_PER_SHARD_MAX: usize = 4_096;

/// httpGet attempts in flight on one shard's ring. Full: as above.
pub const HTTP_FLIGHTS_PER_SHARD_MAX: usize = 2_048;

/// Entries of a ring's submission queue. Full: the turn enters the kernel and goes on.
pub const RING_ENTRIES: u32 = 1_024;

/// Updates from one shard waiting for the results stage. Full: verdicts wait on the shard, the latest per
/// worker; reports are dropped and counted.
pub const UPDATES_LEN_MAX: usize = 8_192;

/// Pod updates from all sources waiting for the manager. Full: the source waits.
pub const POD_UPDATES_LEN_MAX: usize = 1_024;

/// Bytes of a response body that are read (`pkg/probe/http`, 10 KiB). More: cut, no error.
pub const HTTP_BODY_BYTES_MAX: usize = 10 * 1024;

/// Bytes of a response's status line and headers, each interim response apart. More: the attempt fails.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 * 1024;

/// Header fields of a response. More: the attempt fails.
pub const HTTP_HEADERS_MAX: usize = 128;

/// Interim (1xx) responses before the final one. More: the attempt fails.
pub const HTTP_INTERIM_MAX: usize = 5;

/// Requests of one httpGet attempt, redirects included (net/http's default). More: the attempt fails.
pub const HTTP_REQUESTS_MAX: usize = 10;

/// Bytes of an exec probe's output that are kept. More: dropped, no error.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// Threads of the worker pool.
pub const POOL_THREADS: usize = 2;

/// HTTPS and redirected HTTP attempts being made at once. Full: the next ones queue.
pub const POOL_HTTPS_CONCURRENT_MAX: usize = 256;

/// gRPC attempts being made at once. Full: the next ones queue.
pub const POOL_GRPC_CONCURRENT_MAX: usize = 256;

/// Exec attempts being made at once. Full: the next ones queue.
pub const POOL_EXEC_CONCURRENT_MAX: usize = 32;

/// Attempts queued per pool handler. Full: the attempt waits on its shard until its next due time, then is missed.
pub const POOL_QUEUE_LEN_MAX: usize = 1_024;

/// First wait after trouble of our own; doubles.
pub const LOCAL_BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Longest wait after trouble of our own.
pub const LOCAL_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Nothing but trouble of our own for this long (or 5 periods): ProbeUnknown, and an urgent attempt.
pub const LOCAL_MAX: Duration = Duration::from_secs(30);

/// A deadline judged later than this is judged again after the same time (design: own lateness).
pub const LATE_LOOK: Duration = Duration::from_millis(50);

/// A shard that has not finished a turn for this long fails /livez.
pub const SHARD_STALL: Duration = Duration::from_secs(10);

/// Events kept for `events`. More: the oldest go.
pub const EVENTS_LEN_MAX: usize = 10_000;

/// Events that a watcher may be behind. More: it is told that it lost its place.
pub const EVENT_WATCH_LAG_MAX: usize = 1_024;

/// Pods. More: the source's update is refused with an error.
pub const PODS_MAX: usize = 250_000;

/// Bytes of one container log file before it is rotated.
pub const LOG_FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Log files kept per container, the current one included. More: the oldest goes.
pub const LOG_FILES_MAX: usize = 5;

/// Bytes of one manifest file. Larger: refused with an error.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of an event's message and of a shown output. More: cut.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// Levels of lists and maps in a manifest. Deeper: the document is refused with an error.
pub const MANIFEST_DEPTH_MAX: usize = 64;

/// Values of one document that anchors hold and aliases and merge keys copy. More: the document is refused with an error.
pub const MANIFEST_ALIAS_NODES_MAX: usize = 100_000;

/// Wait after a change in a manifest directory, so that a file is read when its editor is done with it.
pub const MANIFEST_SETTLE: Duration = Duration::from_millis(100);

/// Time between two looks at the manifests where inotify cannot be used.
pub const MANIFEST_POLL: Duration = Duration::from_secs(10);

/// Problems of one manifest file that are kept for /readyz and logged. More: only counted.
pub const MANIFEST_PROBLEMS_LEN_MAX: usize = 100;
