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

/// Attempts that one turn answers from kernel state, beside those that it starts. More due: as above.
pub const PASSIVE_PER_TURN_MAX: usize = 4_096;

/// Attempts in flight on one shard's ring, or fewer where the daemon may open few descriptors: see [`flights_max`]. Full: due
/// attempts wait in due order until one ends (`rescheduled`).
pub const FLIGHTS_PER_SHARD_MAX: usize = 8_192;

/// Descriptors that are not for attempts on rings, beside those of network namespaces: the pool's, the servers', the threads'.
pub const OTHER_DESCRIPTORS: u64 = 1_024;

/// Attempts in flight on the ring of each of so many shards where the process may open `nofile` descriptors: of these a
/// quarter is left to network namespaces and [`OTHER_DESCRIPTORS`] to everything else, but a quarter is for attempts in any case.
#[must_use]
pub fn flights_max(nofile: u64, shards: usize) -> usize {
    let quarter = nofile / 4;
    let all = (nofile - quarter).saturating_sub(OTHER_DESCRIPTORS).max(quarter);
    usize::try_from(all).map_or(usize::MAX, |all| all / shards.max(1)).clamp(1, FLIGHTS_PER_SHARD_MAX)
}

/// httpGet attempts in flight on one shard's ring. Full: as above.
pub const HTTP_FLIGHTS_PER_SHARD_MAX: usize = 2_048;

/// Entries of a ring's submission queue. Full: the turn enters the kernel and goes on.
pub const RING_ENTRIES: u32 = 1_024;

/// Entries of a ring's completion queue: two (an operation's and its cancel's) per flight. Full: the kernel keeps the
/// rest until there is room (FEAT_NODROP).
pub const RING_COMPLETIONS: u32 = 2 * FLIGHTS_PER_SHARD_MAX as u32;

/// Replies of the pool waiting for one shard: two (started, done) of every attempt that the pool's lanes can hold.
/// Full: the pool's thread waits for the shard.
pub const POOL_REPLIES_LEN_MAX: usize =
    2 * (3 * POOL_QUEUE_LEN_MAX + POOL_HTTPS_CONCURRENT_MAX + POOL_GRPC_CONCURRENT_MAX + POOL_EXEC_CONCURRENT_MAX);

/// How soon a shard offers its waiting attempts to a full pool again. An attempt that ends there makes it sooner.
pub const POOL_RETRY: Duration = Duration::from_millis(10);

/// So long at most an attempt that has ended on the pool waits for a turn that its shard makes anyway; it wakes a shard that
/// means to sleep longer. On a shard with 100 attempts a second hardly a due time is further away.
pub const POOL_REPLY_WAIT_MAX: Duration = probe_core::schedule::GRID;

/// Bytes of a buffer that responses are read into, one per httpGet in flight that waits for its response.
pub const RECV_BUFFER_BYTES: usize = 4 * 1024;

/// Read buffers (and codecs) that a shard keeps for the next attempts. More: freed.
pub const RECV_BUFFERS_SPARE_MAX: usize = 256;

/// A step that waited for the shard's thread for less than this is not worth asking the kernel about (design: own lateness).
pub const GIVE_BACK_MIN: Duration = Duration::from_millis(1);

/// What a shard gives its attempts in flight, and then the results stage, at shutdown. Over: it ends all the same.
pub const SHARD_SHUTDOWN_MAX: Duration = Duration::from_secs(5);

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

/// Bytes of the URL that a redirect leads to: a relative one, escaped, grows with each. More: the attempt fails.
pub const HTTP_URL_BYTES_MAX: usize = 16 * 1024;

/// Bytes of an exec probe's output that are kept. More: dropped, no error.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// How long the request of a lifecycle hook may take. The kubelet sets no limit: a preStop hook is waited for only as long as the
/// grace period is, a postStart hook until its container ends.
pub const HOOK_REQUEST_MAX: Duration = Duration::from_hours(24);

/// Bytes of the state file. More: pods without a place are left out and counted; a file that is larger is not read.
pub const STATE_BYTES_MAX: usize = 256 << 20;

/// Bytes of one pod in it. More: the pod is left out.
pub const STATE_POD_BYTES_MAX: usize = 64 << 10;

/// The state file is looked at this often, unless the operator says otherwise: what changed since is lost when the daemon is killed.
pub const STATE_INTERVAL: Duration = Duration::from_secs(5);

/// On a node whose state takes long to put together: a hundred times as long as that took, and no longer than this.
pub const STATE_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// The longest back-off that is taken over from a state file.
pub const STATE_BACKOFF_MAX: Duration = Duration::from_secs(300);

/// How long a hook is tried again that trouble of our own (no descriptor, no memory) keeps from being run. Then it has failed.
pub const HOOK_LOCAL_MAX: Duration = Duration::from_secs(30);

/// How long the end of the daemon waits for the last writing of the state file, so that a state directory that hangs holds nobody up.
pub const STATE_END_MAX: Duration = Duration::from_secs(5);

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
pub const PODS_MAX: usize = 500_000;
const _: () = assert!(PODS_MAX <= probe_core::scheduler::PODS_MAX);

/// Bytes of one container log file before it is rotated.
pub const LOG_FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Log files kept per container instance, the current one included. More: the oldest goes. Kept are the logs of the
/// newest instance and of the one before it.
pub const LOG_FILES_MAX: usize = 5;

/// Bytes of a Pod that comes through the control API. Larger: refused with an error.
pub const API_MANIFEST_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of what the control API says of a request that it refuses, as they stand in the answer's trailer, of which clients take 8
/// to 16 KiB. More: cut; of a manifest's errors, those left out are counted.
pub const API_ERROR_BYTES_MAX: usize = 6 * 1024;

/// Calls of WatchEvents and WatchNode at a time, each. More: refused (RESOURCE_EXHAUSTED).
pub const API_EVENT_WATCHERS_MAX: usize = 256;

/// Pods of a SyncPods call that are added between two looks at whether the daemon ends. More: further parts.
pub const API_PODS_ADDED_PER_PART: usize = 256;

/// Pods of a SyncPods call whose problems are told. More: only counted.
pub const SYNC_PROBLEMS_LEN_MAX: usize = 100;

/// Problems of each of them that are told. More: only counted.
pub const SYNC_PROBLEMS_PER_POD_MAX: usize = 20;

/// So far may a time that an embedder tells lie ahead of the daemon's clock: it counts as now. Further: refused with an error.
pub const EMBEDDER_CLOCK_AHEAD_MAX: Duration = Duration::from_secs(10);

/// Bytes of a containerID that an embedder tells. More: refused with an error.
pub const CONTAINER_ID_BYTES_MAX: usize = 512;

/// Bytes of a path (PATH_MAX). More: refused with an error.
pub const PATH_BYTES_MAX: usize = 4_096;

/// Commands that an embedder has been asked to run and has not answered, as many as `--exec-concurrent-max` can be. Full: the
/// attempt is discarded.
pub const EXEC_CALLS_LEN_MAX: usize = 1_024;

/// Bytes of one manifest file. Larger: refused with an error.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of an event's message and of a shown output. More: cut.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// Name lookups at once (each occupies a thread until the resolver gives up). Full: the next ones wait inside
/// their attempt's deadline, then the attempt is local trouble.
pub const RESOLVES_CONCURRENT_MAX: usize = 64;

/// Addresses of one name that are tried. More: the rest is not tried.
pub const RESOLVED_ADDRS_MAX: usize = 16;

/// Longest TLS handshake beside the attempt's deadline (net/http's default). Longer: the attempt fails.
pub const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Servers whose TLS sessions are kept (a few KB each: the server's certificates are in a session). More: those whose
/// sessions are too old go; if none is, the new one's attempts make full handshakes.
pub const TLS_SESSIONS_PEERS_MAX: usize = 8_192;

/// TLS sessions kept per server: an attempt of liveness and one of readiness. More: the oldest go.
pub const TLS_SESSIONS_PER_PEER_MAX: usize = 2;

/// A session is resumed, and handed on by resumed connections, for at most so long after its full handshake. Older: a full
/// handshake. So a server that can no longer make one (a lost key) is found out after this.
pub const TLS_FULL_HANDSHAKE_EVERY: Duration = Duration::from_secs(60);

/// A server that failed when a session was offered is offered none for so long.
pub const TLS_RESUMPTION_PAUSE: Duration = Duration::from_secs(600);

/// Connections waiting to be accepted on the control socket. Full: connect(2) waits.
pub const API_BACKLOG_LEN: i32 = 64;

/// Connections of the control API at once. Full: further ones wait in the backlog.
pub const API_CONNECTIONS_MAX: usize = 64;

/// Requests being answered on one connection of the control API. Full: further ones wait.
pub const API_REQUESTS_PER_CONNECTION_MAX: usize = 16;

/// Requests and streams open on one connection of the control API, those that wait included. Full: the client waits before it asks.
pub const API_STREAMS_PER_CONNECTION_MAX: u32 = 128;

/// Bytes of one request's headers to the control API. Larger: refused (431).
pub const API_HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Connections of the control API over TCP at once. Full: clients who have shown their certificates wait for a place until
/// [`API_HANDSHAKE_MAX`] is over, and are closed. The unix socket has places of its own.
pub const API_TCP_CONNECTIONS_MAX: usize = 64;

/// TLS handshakes of the control API under way at once. Full: the oldest is ended, so that peers who say nothing keep nobody out.
pub const API_HANDSHAKES_MAX: usize = 64;

/// How long a client of the control API over TCP may take to show its certificate. Longer: closed.
pub const API_HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How often a client of the control API over TCP is asked whether it is still there.
pub const API_PING_EVERY: Duration = Duration::from_secs(30);

/// How long it may take to answer. Longer: closed.
pub const API_PING_ANSWER_MAX: Duration = Duration::from_secs(20);

/// How often a line is logged about refused clients of the control API over TCP. More: counted, told in the next.
pub const API_REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(60);

/// How often the control API's certificates are looked at.
pub const API_CERTIFICATES_LOOK_EVERY: Duration = Duration::from_secs(10);

/// Bytes of a PEM file of the control API. Larger: refused.
pub const API_PEM_BYTES_MAX: u64 = 1024 * 1024;

/// How often the control API's health service looks whether the daemon is live and ready.
pub const API_HEALTH_LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bytes of one request to the control API. Larger: refused (OUT_OF_RANGE).
pub const API_REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of one answer of the control API. Larger: refused by the client (OUT_OF_RANGE).
pub const API_RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request to the control API that is not answered in this time fails (streams: until their first part).
pub const API_DEADLINE: Duration = Duration::from_secs(60);

/// Bytes of a label selector. Longer: refused (INVALID_ARGUMENT).
pub const API_SELECTOR_BYTES_MAX: usize = 4 * 1024;

/// Pods in one part of an answer. More: further parts.
pub const API_PODS_PER_PART: usize = 256;

/// Parts of an answer made ahead of a slow client. Full: the answer waits.
pub const API_PARTS_AHEAD_MAX: usize = 4;

/// Bytes of a log in one part of an answer. More: further parts.
pub const API_LOG_PART_BYTES: usize = 32 * 1024;

/// A triggered probe that gives no outcome in this time beyond its own deadline is given up on.
pub const TRIGGER_WAIT: Duration = Duration::from_secs(5);

/// Threads of the pool that run nothing but exec attempts: making a process blocks its thread for as long as
/// the program's file system does. Stuck: exec attempts queue, nothing else is concerned.
pub const POOL_EXEC_THREADS: usize = 1;

/// Time between two wake-ups of a pool thread without a reason: below most deadlines, so that setting one of them need not
/// interrupt the thread's wait.
pub const POOL_TICK: Duration = Duration::from_millis(500);

/// What attempts on the pool get to end by themselves at shutdown. Over: cut off, answered as trouble of our own.
pub const POOL_SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Time that a runtime gets beyond an exec attempt's deadline to say how it ended. Over: the attempt has timed out.
pub const EXEC_ANSWER_MARGIN: Duration = Duration::from_secs(2);

/// How long a killed exec process is waited for. Over (it hangs in the kernel): reaped when it ends.
pub const EXEC_REAP_MAX: Duration = Duration::from_secs(1);

/// Bytes of a gRPC health response's message (tonic's default). More: the attempt fails.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that a gRPC attempt keeps to write them in one piece. More: the connection waits until these are written.
pub const GRPC_WRITE_BYTES_MAX: usize = 16 * 1024;

/// Longest that an exec process may wait for us to read its output, where it fills a pipe (64 KiB) that fast: until then
/// nothing is read, as most have ended by then. Longer: read as it comes.
pub const EXEC_UNREAD_MAX: Duration = Duration::from_millis(20);

/// How long a gRPC connection gets to say goodbye. Over: closed without it.
pub const GRPC_CLOSE_MAX: Duration = Duration::from_millis(100);

/// Logs being streamed at once. More: refused (RESOURCE_EXHAUSTED).
pub const API_LOG_STREAMS_MAX: usize = 64;

/// Inputs of the manager waiting for the results stage. Full: the manager waits, and with it its sources.
pub const RESULTS_INPUTS_LEN_MAX: usize = 1_024;

/// Questions waiting for the results stage. Full: the askers wait.
pub const RESULTS_ASKS_LEN_MAX: usize = 256;

/// Updates that the results stage takes from one shard before it looks at its other inputs. More: next round.
pub const RESULTS_UPDATES_PER_ROUND_MAX: usize = 1_024;

/// Deltas of a shard's counts that wait to be used again. Full: let go.
pub const SPARE_METRICS_LEN_MAX: usize = 2;

/// Probes that have metric series of their own. More: series are kept per pod until a tenth of them has gone.
pub const METRIC_PROBES_MAX: usize = 10_000;

/// Pods that have metric series of their own. More: probes' series are kept per handler, and those of pods end, until a tenth
/// of the pods has gone.
pub const METRIC_PODS_MAX: usize = 10_000;

/// An attempt that succeeded and took at least this part of its timeout is a near miss.
pub const NEAR_TIMEOUT_PERCENT: u32 = 80;

/// The shortest latency that can be one: timeouts are whole seconds.
pub const NEAR_MIN: Duration = Duration::from_millis(10 * NEAR_TIMEOUT_PERCENT as u64);

/// So long the dashboard marks a probe that had one.
pub const NEAR_RECENT: Duration = Duration::from_mins(10);

/// Handshakes that each shard asks the kernel about each second only to measure them, beside those that it asks about anyway.
/// More: not measured.
pub const HANDSHAKE_SAMPLES_MAX: u32 = 64;

/// Probes that have histograms of their own: those that somebody watches, and those that fail. More: a watch is refused, a
/// failing probe waits for its next failure; both are counted.
pub const DETAILED_PROBES_MAX: usize = 1_024;

/// Places of these that failing probes may fill: the last quarter is left to whoever wants to watch. More: as above.
pub const DETAILED_FAILING_MAX: usize = DETAILED_PROBES_MAX / 4 * 3;

/// Bytes that the histograms of such a probe take, latency and lateness, after a day of an attempt a second that fill each bucket
/// within a factor of eight (measured by a test): 96 MiB for all of them. Those of most probes lie closer together.
pub const DETAILED_PROBE_BYTES: usize = 96 * 1024;

/// A probe has histograms of its own from its first failure until so long after its last.
pub const DETAILED_AFTER_FAILURE: Duration = Duration::from_mins(15);

/// A pod's page is watching it so long; whoever looks on asks again within that.
pub const DETAILED_AFTER_LOOK: Duration = Duration::from_secs(60);

/// Seconds of the heatmap that are kept, a column each. More: the oldest go.
pub const HEATMAP_COLUMNS_MAX: usize = 600;

/// Time between two looks at the node for its overview.
pub const OVERVIEW_PERIOD: Duration = Duration::from_millis(500);

/// The state file is told to be unwritable when its last writing failed and it has not been current for so long.
pub const STATE_UNWRITTEN_MAX: Duration = Duration::from_secs(30);

/// The same where no writing has failed: one that hangs never does. Longer than any time between two looks.
pub const STATE_HANGING_MAX: Duration = Duration::from_mins(10);

/// How long a push of metrics may take, connecting included. Over: it has failed, and the next is made at its time.
pub const OTLP_TIMEOUT: Duration = Duration::from_secs(10);

/// Pods that a reader looks at before the results stage goes on with its other work. More: in further parts.
pub const RESULTS_PODS_PER_PART: usize = 2_048;

/// Pods that are gone, kept for those who watch. More: the oldest are forgotten, and a watcher that has not taken them yet gets all
/// pods anew.
pub const GONE_PODS_LEN_MAX: usize = 16_384;

/// Streams of WatchPods at once. More: refused (RESOURCE_EXHAUSTED).
pub const API_POD_WATCHERS_MAX: usize = 64;

/// Streams of WatchResults at once; each remembers what it has sent, some 100 bytes a probe. More: refused (RESOURCE_EXHAUSTED).
pub const API_RESULT_WATCHERS_MAX: usize = 4;

/// Streams of WatchLatency at once; each remembers the histograms that it has sent. More: refused (RESOURCE_EXHAUSTED).
pub const API_LATENCY_WATCHERS_MAX: usize = 16;

/// Between two looks of one watcher at what has changed, where something changes all the time. The first change after a quiet
/// time is told at once.
pub const WATCH_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Callers waiting for the next report of a probe. More: refused with an error.
pub const REPORT_WAITERS_MAX: usize = 1_024;

/// Longest pause of a probe, from when it is asked for. Longer: refused with an error.
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Pods that one pause is about and that get an event each. More: the log's line alone tells of it.
pub const PAUSE_EVENTS_MAX: usize = 256;

/// Events waiting for the events stage. Full: dropped and counted.
pub const NEW_EVENTS_LEN_MAX: usize = 4_096;

/// Questions and watchers waiting for the events stage. Full: the askers wait.
pub const EVENT_ASKS_LEN_MAX: usize = 256;

/// Commands that the manager keeps for one shard whose inbox is full. Full: the manager takes no more updates
/// until there is room, and with it its sources wait.
pub const MANAGER_BACKLOG_LEN_MAX: usize = 1_024;

/// How long the manager waits before it offers a kept command to a full shard again.
pub const MANAGER_RETRY: Duration = Duration::from_millis(1);

/// Pages of the admin server that are being written, or have not been read yet. More: wait for their turn, and get 503 where it
/// does not come within [`ADMIN_ANSWER_TIMEOUT`].
pub const ADMIN_REQUESTS_CONCURRENT_MAX: usize = 16;

/// Connections of the admin server. More: wait in the kernel's accept queue.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

/// How long a client of the admin server may take for its request's head, or keep an idle connection. Longer:
/// closed.
pub const ADMIN_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the answer of the admin server may take. Longer: 503.
pub const ADMIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client of the admin server may leave unread what its kernel has no more room for. Longer: the connection is reset.
pub const ADMIN_UNREAD_MAX: Duration = Duration::from_secs(60);

/// How long a client of the admin server may take to read a page, or the dashboard's table. Longer: its connection is closed.
pub const ADMIN_SENT_MAX: Duration = Duration::from_secs(60);

/// Bytes of a request's line and headers to the admin server. More: refused with 431.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long connections of the admin server may finish their requests at shutdown. Longer: closed.
pub const ADMIN_DRAIN: Duration = Duration::from_secs(2);

/// Browsers that follow the dashboard's stream at once. More: refused with 503 and a sentence.
pub const DASHBOARD_STREAMS_MAX: usize = 16;

/// How long a browser may leave the stream's next frame unread; frames made meanwhile it never sees. Longer: its stream ends.
pub const DASHBOARD_STALL: Duration = Duration::from_secs(30);

/// Pods in the dashboard's table. More: the first ones that are found, and the page says how many there are.
pub const DASHBOARD_PODS_MAX: usize = 20_000;

/// Changed pods, and pods that went, in one frame of the dashboard's stream. More: they come with the next frames.
pub const DASHBOARD_CHANGES_PER_FRAME_MAX: usize = 2_048;

/// Pods whose rows the dashboard asks for by name at once. More: the first ones.
pub const DASHBOARD_ROWS_ASKED_MAX: usize = 128;

/// Whole tables of the dashboard that are being written, or have not been read yet. More: as of [`ADMIN_REQUESTS_CONCURRENT_MAX`].
pub const DASHBOARD_TABLES_CONCURRENT_MAX: usize = 2;

/// Changes of verdicts and of readiness that are kept for the timelines of pods, about 64 bytes each. More: the oldest go.
pub const TIMELINE_LEN_MAX: usize = 16_384;

/// Changes in the timeline of one pod's page. More: the newest ones, and the page says since when they are all.
pub const DASHBOARD_TIMELINE_LEN_MAX: usize = 2_000;

/// Bytes of a probe's last message in the dashboard's table. More: cut; the pod's page shows the rest.
pub const DASHBOARD_MESSAGE_BYTES_MAX: usize = 160;

/// Bytes of what a probe asks for in the dashboard's table. More: cut.
pub const DASHBOARD_TARGET_BYTES_MAX: usize = 96;

/// Bytes of one line of a container's output. Longer: written in parts, each marked `P` (CRI log format).
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;

/// Pods that are gone whose logs are kept. More: the oldest go.
pub const LOG_DEAD_PODS_MAX: usize = 256;

/// How long an ended container's pipes are read on while some process still holds them. Longer: the rest is lost.
pub const LOG_DRAIN_MAX: Duration = Duration::from_secs(1);

/// Runtime events waiting for the lifecycle. Full: the ended container's task waits.
pub const RUNTIME_EVENTS_LEN_MAX: usize = 1_024;

/// How long a container may take to disappear after SIGKILL (a process in uninterruptible sleep does not die).
/// Longer: stopping it is an error, and is tried again.
pub const KILL_MAX: Duration = Duration::from_secs(30);

/// Messages waiting for one pod's lifecycle. Full: the sender waits; the pod never waits for a sender.
pub const POD_INBOX_LEN_MAX: usize = 32;

/// Connections that a test server of `serve` holds at once. More: they wait in its listener's queue.
pub const SERVE_CONNECTIONS_MAX: usize = 1_024;

/// Levels of lists and maps in a manifest. Deeper: the document is refused with an error.
pub const MANIFEST_DEPTH_MAX: usize = 64;

/// Values of one document that anchors hold and aliases and merge keys copy. More: the document is refused with an error.
pub const MANIFEST_ALIAS_NODES_MAX: usize = 100_000;

/// Bytes of the texts among them. More: as above.
pub const MANIFEST_ALIAS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of all texts of a pod in which `$(VAR)` references stand, after these are replaced: an entry of `env` may refer to those
/// before it, and so on, which doubles with each. Linux takes 128 KiB a text. More: the pod is refused with an error.
pub const EXPANDED_BYTES_MAX: usize = 1024 * 1024;

/// Values of one kind (texts, label lists, probes, containers ..) that pods share. Full: what is not shared goes, else
/// all do, and sharing begins anew.
pub const INTERNED_LEN_MAX: usize = 16_384;

/// Threads that read manifest files at once, and files being read. More files: wait for their turn.
pub const MANIFEST_READERS_MAX: usize = 8;

/// Pods that come or go at once and are logged one by one. More: one line for all, and each at DEBUG.
pub const LOG_PODS_EACH_MAX: usize = 16;

/// Updates that the manager takes at once. More: next round.
pub const MANAGER_UPDATES_PER_ROUND_MAX: usize = 256;

/// Wait after a change in a manifest directory, so that a file is read when its editor is done with it.
pub const MANIFEST_SETTLE: Duration = Duration::from_millis(100);

/// A manifest file is read again, whatever its times say, when it was read so soon after its last change: file systems'
/// times are as coarse as 2 s (FAT), and a second change in that time would not show.
pub const MANIFEST_STAMP_AGE_MIN: Duration = Duration::from_secs(3);

/// Ports of a network namespace that a look between two sweeps is at. Something changed at more: it is at all of them. The
/// kernel goes through all listeners for each port (and reports those of that port alone), so that more gain nothing.
pub const LOOK_PORTS_MAX: usize = 4;

/// Time between two looks at the manifests where inotify cannot be used, or links lead to where it is not.
pub const MANIFEST_POLL: Duration = Duration::from_secs(10);

/// Problems of one manifest file that are kept for /readyz and logged. More: only counted.
pub const MANIFEST_PROBLEMS_LEN_MAX: usize = 100;

/// Errors of one document that are told one by one, and as many warnings. More: only counted.
pub const DOCUMENT_PROBLEMS_LEN_MAX: usize = 1_000;

/// Bytes of the field path of one problem with a manifest. More: cut.
pub const PROBLEM_PATH_BYTES_MAX: usize = 1_024;

/// Bytes of the text of one problem with a manifest. More: cut.
pub const PROBLEM_MESSAGE_BYTES_MAX: usize = 4_096;

/// Bytes of a manifest's value that the text of a problem shows. More: cut.
pub const PROBLEM_VALUE_BYTES_MAX: usize = 1_024;

/// Messages waiting for the lifecycle. Full: the manager and the results stage keep theirs, the latest per pod and probe.
pub const LIFECYCLE_INPUTS_LEN_MAX: usize = 1_024;

/// How long requests to the control API may go on after the daemon was told to end. Longer: cut off.
pub const API_DRAIN: Duration = Duration::from_secs(2);

/// Targets of tcpSocket probes that are watched, about 100 bytes each in the tables of the watch and the sweep. More: the
/// rest is always connected for real (`table_full`).
pub const TARGETS_MAX: usize = 1_048_576;

/// Targets that one sweep visits at least, to see whether anybody holds them still.
pub const TARGETS_VISITED_MIN: usize = 4_096;

/// Sweeps in which every target is visited once, where there are many. One that nobody holds stays in the tables so long.
pub const TARGETS_VISIT_SWEEPS: usize = 32;

/// Of so many targets, how many one sweep visits.
pub(crate) const fn targets_visited(len: usize) -> usize {
    let part = len.div_ceil(TARGETS_VISIT_SWEEPS);
    if part > TARGETS_VISITED_MIN { part } else { TARGETS_VISITED_MIN }
}

/// Network namespaces that are held open for their targets. More: their targets are always connected for real.
pub const NAMESPACES_MAX: usize = 1_024;

/// Listeners in the table. More: unknown ones are learned from dumps only, when a target depends on them.
pub const LISTENERS_MAX: usize = 131_072;

/// Bytes of the ring buffer of listener events. Full: the program counts the drop, and the table is made anew by sock_diag.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// Messages from shards waiting for the watch, which takes no more than it has questions for the sweep
/// ([`SWEEP_QUESTIONS_LEN_MAX`]). Full: a registration is tried again at the target's next attempt.
pub const WATCH_INBOX_LEN_MAX: usize = 16_384;

/// Listeners in one part of a dump; between two parts the watch reads the ring buffer. More: further parts.
pub const DUMP_PART_LEN: usize = 1_024;

/// Parts of dumps, and other answers of the sweep, waiting for the watch. Full: the sweep waits.
pub const SWEEP_ANSWERS_LEN_MAX: usize = 64;

/// Questions waiting for the sweep. Full: asked again at the next sweep.
pub const SWEEP_QUESTIONS_LEN_MAX: usize = 4_096;

/// Time between two sweeps over the listeners that probes depend on.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// A look at a target's listeners holds so long. Older: a real connect.
pub const LOOK_AGE_MAX: Duration = Duration::from_millis(2_500);

/// A listener that an event announced and that no dump has shown for this long never came to be.
pub const TENTATIVE_MAX: Duration = Duration::from_secs(1);

/// Shortest `passiveMaxAgeSeconds`. Shorter: refused with an error.
pub const PASSIVE_MAX_AGE_MIN: Duration = Duration::from_secs(1);

/// Longest `passiveMaxAgeSeconds`. Longer: refused with an error.
pub const PASSIVE_MAX_AGE_MAX: Duration = Duration::from_secs(3_600);

/// Longest `pathRecheckMaxSeconds`. Longer: refused with an error.
pub const PATH_RECHECK_MAX: Duration = Duration::from_secs(300);

/// Most audits of passive answers a second. More: refused with an error.
pub const PASSIVE_AUDIT_PER_SECOND_MAX: u16 = 1_000;

/// Two contradicted audits in two namespaces within this: all leases are void.
pub const CONTRADICTIONS_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of the kernel's BTF that are read. More: no passive answers.
pub const BTF_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long the netlink sockets are waited for. Longer: the dump is given up and tried at the next sweep.
pub const NETLINK_WAIT_MAX: Duration = Duration::from_secs(2);

/// Bytes of one answer or notification on a netlink socket (the kernel makes none larger). Longer: it counts as lost.
pub const NETLINK_MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// Bytes of unread path changes that the kernel keeps per namespace. Full: everything counts as changed.
pub const PATH_CHANGES_BYTES_MAX: usize = 1024 * 1024;

/// Notifications read from one namespace before the others are looked at. More: they wait for the next round.
pub const PATH_CHANGES_PER_ROUND_MAX: usize = 256;

/// Exact sock_diag queries made at once in one namespace. More: the lease is not granted, the next attempt is real.
pub const DIAG_LOOKUPS_CONCURRENT_MAX: usize = 2;

/// Events and triggers of the watch that wait to be handed on. More: dropped and counted; the gauges still tell.
pub const WATCH_NOTICES_LEN_MAX: usize = 16_384;

/// First wait before another dump is asked for, to confirm or refute a listener that an event announced; doubles up to
/// [`SWEEP_PERIOD`].
pub const CONFIRM_WAIT_MIN: Duration = Duration::from_millis(1);

/// Dumps of one namespace beside those of the sweeps take at most one part in this many of the time.
pub const CONFIRM_SHARE: u32 = 10;

/// Time between two self-tests.
pub const SELF_TEST_PERIOD: Duration = Duration::from_secs(1);

/// Listener events that the watch takes from the ring buffer before it looks at its other inputs. More: next round.
pub const EVENTS_PER_ROUND_MAX: usize = 1_024;

/// Messages of shards that the watch takes before it looks at its other inputs. More: next round.
pub const WATCH_MESSAGES_PER_ROUND_MAX: usize = 1_024;

/// How long the watch waits for a record of the ring buffer that a processor has begun and not finished. Longer: the look
/// is given up, the next one tries again.
pub const RECORD_WAIT_MAX: Duration = Duration::from_millis(2);

/// Leases of one shard that are looked at each second to tell how many stand. More: these, each second others, stand for all.
pub const LEASES_COUNTED_MAX: u64 = 4_096;

/// Passive answers of a shard between two audits, at least. Fewer: the audit waits for them.
pub const AUDIT_ATTEMPTS_APART_MIN: u32 = 50;

/// Messages of the control API that `top` has not taken in. Full: its feed waits, and the daemon tells it that it lost its place.
pub const TOP_MESSAGES_LEN_MAX: usize = 1_024;

/// Keys that `top` has not looked at. Full: the terminal keeps them.
pub const TOP_KEYS_LEN_MAX: usize = 64;

/// Bars of five seconds that `top` remembers for its curves: as many as the widest terminal has room for. More: the oldest go.
pub const TOP_BARS_LEN_MAX: usize = 500;

/// Events on a pod's page of `top`. More: the oldest go.
pub const TOP_EVENTS_LEN_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_on_rings_leave_descriptors_for_everything_else() {
        assert_eq!(flights_max(20_000, 2), 6_988);
        assert_eq!(flights_max(1_024, 2), 128, "a quarter in any case");
        assert_eq!(flights_max(1_048_576, 4), FLIGHTS_PER_SHARD_MAX);
        assert_eq!(flights_max(0, 0), 1);
    }
}
