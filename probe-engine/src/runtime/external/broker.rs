//! Between exec attempts, which wait on the pool's threads, and the one stream of the embedder that runs their commands.
//!
//! Bounds: [`limits::EXEC_CALLS_LEN_MAX`] calls that have no answer; of calls that nobody waits for any more only those are told
//! that the stream has taken. The deadline is the attempt's: an embedder that is slow, or reads nothing, holds nobody up.
//!
//! **Invariant:** a call has exactly one end: an answer of its own stream, its deadline, or its stream's end. What comes later,
//! from another stream, or twice, is passed over.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_core::id::{ContainerId, ContainerName, PodUid};
use tokio::sync::{Notify, oneshot};
use tracing::{debug, info};

use crate::limits;
use crate::prober::exec::Execution;
use crate::results::cut;
use crate::runtime::Instance;

/// A command that the embedder is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Of its stream.
    pub id: u64,
    /// `metadata.uid`
    pub pod: PodUid,
    /// Its container.
    pub container: ContainerName,
    /// The instance.
    pub container_id: ContainerId,
    /// Program and arguments.
    pub command: Box<[Box<str>]>,
    /// Nobody waits longer; `None` = until it is cancelled.
    pub limit: Option<Duration>,
}

/// What the embedder is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Run this.
    Call(Call),
    /// Nobody waits for the call of this ID any more.
    Cancel(u64),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It ran, and wrote this.
    Exited {
        /// Its exit code.
        exit_code: i32,
        /// What is beyond [`limits::EXEC_OUTPUT_BYTES_MAX`] is left out.
        output: Vec<u8>,
    },
    /// It could not be run, or its end is not known.
    Error(String),
}

/// Why a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// Another has taken its place.
    #[error("another ServeExec stream has taken the place of this one")]
    Replaced,
    /// It was closed.
    #[error("the stream has ended")]
    Closed,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Broker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<Arc<Stream>>,
    /// Calls that have no answer, of that stream.
    pending: HashMap<u64, oneshot::Sender<End>>,
    /// What the stream has not taken yet.
    queue: VecDeque<Item>,
    ids_given: u64,
}

/// One stream of an embedder; the newest is the one that serves.
#[derive(Debug, Default)]
struct Stream {
    wake: Notify,
}

/// The end that serves: dropped, or [`Server::close`]d, it takes its calls with it.
#[derive(Debug)]
pub struct Server {
    broker: Arc<Broker>,
    stream: Arc<Stream>,
}

impl Broker {
    /// Begins to serve, in the place of whoever did: that one's calls have failed.
    #[must_use]
    pub fn serve(self: &Arc<Self>) -> Server {
        let stream = Arc::new(Stream::default());
        let replaced = {
            let mut state = self.lock();
            state.fail_all();
            state.stream.replace(Arc::clone(&stream))
        };
        if let Some(replaced) = &replaced {
            replaced.wake.notify_one();
        }
        info!(replaced = replaced.is_some(), "an embedder runs the commands of exec probes");
        Server { broker: Arc::clone(self), stream }
    }

    /// Has a command run in an instance, and waits for its end, at most `limit`. A dropped future cancels it.
    pub async fn run(&self, instance: &Instance, command: &[Box<str>], limit: Option<Duration>) -> Execution {
        let (mut asked, answer) = match self.ask(instance, command, limit) {
            Ok(asked) => asked,
            Err(why) => return Execution::NotRun { why: why.into() },
        };
        let answer = match limit {
            Some(limit) => tokio::time::timeout(limit, answer).await,
            None => Ok(answer.await),
        };
        asked.is_over = answer.is_ok();
        match answer {
            Ok(Ok(End::Exited { exit_code, mut output })) => {
                output.truncate(limits::EXEC_OUTPUT_BYTES_MAX);
                Execution::Exited { exit_code, stdout: output, stderr: Vec::new() }
            }
            Ok(Ok(End::Error(why))) => Execution::NotRun { why: cut(&why, limits::MESSAGE_BYTES_MAX).into() },
            Ok(Err(_)) => Execution::NotRun { why: "the embedder's ServeExec stream ended before it answered".into() },
            // Nothing was asked of the container yet: that is no failure of it.
            Err(_) if asked.is_queued() => {
                Execution::NotRun { why: "the embedder did not take the command within its deadline".into() }
            }
            Err(_) => Execution::TimedOut { after: limit.unwrap_or_default() },
        }
    }

    fn ask(
        &self,
        instance: &Instance,
        command: &[Box<str>],
        limit: Option<Duration>,
    ) -> Result<(Asked<'_>, oneshot::Receiver<End>), &'static str> {
        let mut state = self.lock();
        let Some(stream) = state.stream.clone() else {
            return Err("no embedder runs commands: it has to call ServeExec");
        };
        if state.pending.len() >= limits::EXEC_CALLS_LEN_MAX {
            return Err("the embedder has not answered as many calls as it may be asked at once");
        }
        state.ids_given += 1;
        let id = state.ids_given;
        let Instance { pod, container, id: container_id } = instance.clone();
        let (end, answer) = oneshot::channel();
        state.pending.insert(id, end);
        state.queue.push_back(Item::Call(Call { id, pod, container, container_id, command: command.into(), limit }));
        stream.wake.notify_one();
        Ok((Asked { broker: self, id, is_over: false }, answer))
    }

    /// Nobody waits for this call any more.
    fn cancel(&self, id: u64) {
        let mut state = self.lock();
        if state.pending.remove(&id).is_none() {
            // Its stream is over.
            return;
        }
        let before = state.queue.len();
        state.queue.retain(|item| !matches!(item, Item::Call(call) if call.id == id));
        if state.queue.len() == before {
            state.queue.push_back(Item::Cancel(id));
            if let Some(stream) = &state.stream {
                stream.wake.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panic left half done is a call that ends at its deadline.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Their askers hear that the stream is over.
    fn fail_all(&mut self) {
        self.pending.clear();
        self.queue.clear();
    }

    fn is_of(&self, stream: &Arc<Stream>) -> bool {
        self.stream.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, stream))
    }
}

impl Server {
    /// What to tell the embedder next.
    ///
    /// # Errors
    /// Why there is nothing any more. Cancel-safe.
    pub async fn next(&self) -> Result<Item, Over> {
        loop {
            {
                let mut state = self.broker.lock();
                if !state.is_of(&self.stream) {
                    return Err(if state.stream.is_some() { Over::Replaced } else { Over::Closed });
                }
                if let Some(item) = state.queue.pop_front() {
                    return Ok(item);
                }
            }
            self.stream.wake.notified().await;
        }
    }

    /// What the embedder says of a call.
    pub fn answer(&self, id: u64, end: End) {
        let waiting = {
            let mut state = self.broker.lock();
            if state.is_of(&self.stream) { state.pending.remove(&id) } else { None }
        };
        match waiting {
            // Its asker gave up in this moment: that is its deadline.
            Some(waiting) => drop(waiting.send(end)),
            None => debug!(id, "an answer to an exec call that nobody waits for"),
        }
    }

    /// The embedder has gone.
    pub fn close(&self) {
        let mut state = self.broker.lock();
        if state.is_of(&self.stream) {
            state.stream = None;
            state.fail_all();
            info!("no embedder runs the commands of exec probes any more");
        }
        drop(state);
        self.stream.wake.notify_one();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// A call that somebody waits for.
struct Asked<'a> {
    broker: &'a Broker,
    id: u64,
    is_over: bool,
}

impl Asked<'_> {
    /// The stream has not taken it.
    fn is_queued(&self) -> bool {
        let state = self.broker.lock();
        state.queue.iter().any(|item| matches!(item, Item::Call(call) if call.id == self.id))
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.broker.cancel(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance { pod: "uid".into(), container: "c".into(), id: "cri://1".into() }
    }

    fn command() -> Box<[Box<str>]> {
        ["cat".into(), "/healthy".into()].into()
    }

    /// An attempt that waits up to `limit`.
    fn attempt(broker: &Arc<Broker>, limit: Duration) -> tokio::task::JoinHandle<Execution> {
        let broker = Arc::clone(broker);
        tokio::spawn(async move { broker.run(&instance(), &command(), Some(limit)).await })
    }

    async fn call(server: &Server) -> Call {
        match server.next().await {
            Ok(Item::Call(call)) => call,
            other => panic!("no call: {other:?}"),
        }
    }

    fn exited(exit_code: i32, output: &[u8]) -> End {
        End::Exited { exit_code, output: output.to_owned() }
    }

    const LONG: Duration = Duration::from_secs(3_600);

    fn why(execution: Execution) -> String {
        match execution {
            Execution::NotRun { why } => why.into(),
            other => panic!("it ran: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_call_says_whose_container_it_is_and_its_answer_is_the_end_of_the_command() {
        let broker = Arc::<Broker>::default();
        let server = broker.serve();
        let waiting = attempt(&broker, LONG);
        let call = call(&server).await;
        assert_eq!((call.pod.as_str(), call.container.as_str(), call.container_id.as_str()), ("uid", "c", "cri://1"));
        assert_eq!((&call.command, call.limit), (&command(), Some(LONG)));
        server.answer(call.id, exited(3, b"ill"));
        let end = waiting.await.expect("no panic");
        assert_eq!(end, Execution::Exited { exit_code: 3, stdout: b"ill".into(), stderr: Vec::new() });
    }

    #[tokio::test]
    async fn what_is_beyond_the_output_that_is_kept_is_left_out() {
        let broker = Arc::<Broker>::default();
        let server = broker.serve();
        let waiting = attempt(&broker, LONG);
        let id = call(&server).await.id;
        server.answer(id, exited(0, &[b'x'; limits::EXEC_OUTPUT_BYTES_MAX + 1]));
        let Execution::Exited { stdout, .. } = waiting.await.expect("no panic") else { panic!("it ran") };
        assert_eq!(stdout.len(), limits::EXEC_OUTPUT_BYTES_MAX);
    }

    #[tokio::test]
    async fn without_an_embedder_nothing_is_run() {
        let broker = Arc::<Broker>::default();
        let end = broker.run(&instance(), &command(), Some(LONG)).await;
        assert_eq!(why(end), "no embedder runs commands: it has to call ServeExec");
        drop(broker.serve());
        let end = broker.run(&instance(), &command(), Some(LONG)).await;
        assert!(why(end).starts_with("no embedder runs commands"));
    }

    #[tokio::test]
    async fn an_embedder_that_cannot_run_it_says_why() {
        let broker = Arc::<Broker>::default();
        let server = broker.serve();
        let waiting = attempt(&broker, LONG);
        server.answer(call(&server).await.id, End::Error("no such container".to_owned()));
        assert_eq!(why(waiting.await.expect("no panic")), "no such container");
    }

    // Paused: the wait is over at once.
    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_the_attempts_and_what_comes_later_is_passed_over() {
        let broker = Arc::<Broker>::default();
        let server = broker.serve();
        let limit = Duration::from_secs(1);
        let waiting = attempt(&broker, limit);
        let id = call(&server).await.id;
        assert_eq!(waiting.await.expect("no panic"), Execution::TimedOut { after: limit });
        assert_eq!(server.next().await, Ok(Item::Cancel(id)));
        server.answer(id, exited(0, b"late"));
        server.answer(id, exited(0, b"and twice"));
        server.answer(77, exited(0, b"never asked"));
        // The next one is not confused by that.
        let waiting = attempt(&broker, LONG);
        let next = call(&server).await.id;
        server.answer(next, exited(0, b"in time"));
        let end = waiting.await.expect("no panic");
        assert_eq!(end, Execution::Exited { exit_code: 0, stdout: b"in time".into(), stderr: Vec::new() });
        assert!(broker.lock().pending.is_empty() && broker.lock().queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ran_out_of_time_before_it_was_taken_is_never_told_and_no_failure() {
        let broker = Arc::<Broker>::default();
        let server = broker.serve();
        let end = broker.run(&instance(), &command(), Some(Duration::from_secs(1))).await;
        assert!(matches!(&end, Execution::NotRun { why } if why.contains("did not take")), "{end:?}");
        assert!(broker.lock().queue.is_empty(), "an embedder that reads nothing fills nothing");
        drop(server);
    }

    #[tokio::test]
    async fn an_attempt_that_is_given_up_is_cancelled() {
        let broker = Arc::<Broker>::default();
        let server = broker.serve();
        let waiting = attempt(&broker, LONG);
        let id = call(&server).await.id;
        waiting.abort();
        assert_eq!(server.next().await, Ok(Item::Cancel(id)));
    }

    #[tokio::test]
    async fn a_new_stream_takes_the_place_of_the_old_one_whose_calls_have_failed() {
        let broker = Arc::<Broker>::default();
        let old = broker.serve();
        let waiting = attempt(&broker, LONG);
        let id = call(&old).await.id;
        let new = broker.serve();
        assert!(why(waiting.await.expect("no panic")).contains("ended before it answered"));
        assert_eq!(old.next().await, Err(Over::Replaced));
        old.answer(id, exited(0, b"of another stream"));
        let waiting = attempt(&broker, LONG);
        let of_new = call(&new).await.id;
        assert_ne!(of_new, id);
        old.answer(of_new, exited(0, b"not asked"));
        drop(old);
        new.answer(of_new, exited(1, b""));
        let end = waiting.await.expect("no panic");
        assert_eq!(end, Execution::Exited { exit_code: 1, stdout: Vec::new(), stderr: Vec::new() });
    }

    #[tokio::test]
    async fn a_stream_that_ends_takes_its_calls_with_it() {
        let broker = Arc::<Broker>::default();
        let server = broker.serve();
        let waiting = [attempt(&broker, LONG), attempt(&broker, LONG)];
        let _taken = call(&server).await;
        server.close();
        for waiting in waiting {
            assert!(why(waiting.await.expect("no panic")).contains("ended before it answered"));
        }
        assert_eq!(server.next().await, Err(Over::Closed));
        assert!(broker.lock().queue.is_empty());
    }

    #[tokio::test]
    async fn no_more_calls_are_open_than_may_be() {
        let broker = Arc::<Broker>::default();
        let _server = broker.serve();
        let mut asked = Vec::new();
        for _ in 0..limits::EXEC_CALLS_LEN_MAX {
            match broker.ask(&instance(), &command(), None) {
                Ok(call) => asked.push(call),
                Err(why) => panic!("there is room: {why}"),
            }
        }
        let end = broker.run(&instance(), &command(), Some(LONG)).await;
        assert!(why(end).contains("not answered as many calls"));
        asked.clear();
        assert!(broker.lock().queue.is_empty() && broker.lock().pending.is_empty());
    }
}
