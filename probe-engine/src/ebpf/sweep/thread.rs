//! The thread `ebpf-sweep`: waits for questions and announcements, and answers through a bounded queue.
//!
//! **Invariant:** announcements are read between any two questions: a dump is the longest that a void waits for.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Question, Sweep, SweepError, Told};
use crate::clock;
use crate::ebpf::settings::PassiveSettings;
use crate::ebpf::stats::EbpfStats;
use crate::limits;
use crate::shard::kernel::Waker;

/// The watch's end. Dropping it ends the thread and waits for it.
#[derive(Debug)]
pub struct SweepHandle {
    /// None while it is being dropped.
    queues: Option<(Sender<Question>, Receiver<Told>)>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    own_cookie: u64,
}

/// Starts the thread, in the calling thread's network namespace. `watch` is woken when it has told something.
///
/// # Errors
/// See [`SweepError`].
pub fn spawn(
    settings: &PassiveSettings,
    seed: u64,
    stats: Arc<EbpfStats>,
    watch: Waker,
) -> Result<SweepHandle, SweepError> {
    let start = |call| move |source| SweepError::Start { call, source };
    let sweep = Sweep::new(settings, seed, stats)?;
    let own_cookie = sweep.own_cookie();
    let waker = Waker::new().map_err(start("eventfd"))?;
    let (questions, asked) = bounded(limits::SWEEP_QUESTIONS_LEN_MAX);
    let (answers, told) = bounded(limits::SWEEP_ANSWERS_LEN_MAX);
    let thread = thread::Builder::new().name("ebpf-sweep".into()).spawn({
        let waker = waker.clone();
        move || run(sweep, &asked, &answers, &waker, &watch)
    });
    let thread = thread.map_err(start("clone"))?;
    Ok(SweepHandle { queues: Some((questions, told)), waker, thread: Some(thread), own_cookie })
}

impl SweepHandle {
    /// Gives the question back when there is no room: ask again at the next sweep.
    ///
    /// # Errors
    /// The question.
    pub fn ask(&self, question: Question) -> Result<(), Question> {
        let Some((questions, _)) = &self.queues else {
            return Err(question);
        };
        match questions.try_send(question) {
            Err(TrySendError::Full(question)) => Err(question),
            // The thread has panicked: nobody will ever answer, and whoever kept the question would keep it for ever.
            Err(TrySendError::Disconnected(_)) => Ok(()),
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
        }
    }

    /// What it has told and nobody has taken yet. Never waits.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        self.queues.as_ref().and_then(|(_, told)| told.try_recv().ok())
    }

    /// `SO_NETNS_COOKIE` of the daemon's namespace.
    #[must_use]
    pub fn own_cookie(&self) -> u64 {
        self.own_cookie
    }
}

impl Drop for SweepHandle {
    fn drop(&mut self) {
        // With the queues gone it neither waits for room nor takes another question.
        self.queues = None;
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread ebpf-sweep panicked: a bug of probe-engine");
        }
    }
}

fn run(mut sweep: Sweep, questions: &Receiver<Question>, answers: &Sender<Told>, waker: &Waker, watch: &Waker) {
    // Once the handle is gone nobody wants the answers, nor those to the questions that are left.
    let is_over = Cell::new(false);
    let mut tell = |told| {
        is_over.set(is_over.get() || answers.send(told).is_err());
        watch.wake();
    };
    let mut prune_at = clock::now() + limits::SWEEP_PERIOD;
    loop {
        wait(&sweep, waker, prune_at);
        sweep.handle_readable(clock::now(), &mut tell);
        loop {
            match questions.try_recv() {
                Ok(question) => sweep.ask(question, clock::now(), &mut tell),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
            if is_over.get() {
                return;
            }
            sweep.handle_readable(clock::now(), &mut tell);
        }
        if clock::now() >= prune_at {
            sweep.prune(clock::now(), &mut tell);
            prune_at = clock::now() + limits::SWEEP_PERIOD;
        }
    }
}

/// Until there are questions or announcements, or it is time to prune.
fn wait(sweep: &Sweep, waker: &Waker, prune_at: probe_core::time::Instant) {
    // Rounded up: waking a moment early would only wait again.
    let wait_ms = u16::try_from(clock::until(prune_at).as_millis() + 1).unwrap_or(u16::MAX);
    let mut fds = [PollFd::new(waker.fd().as_fd(), PollFlags::POLLIN), PollFd::new(sweep.as_fd(), PollFlags::POLLIN)];
    // EINTR, and whatever else: the loop looks at everything anyway.
    if poll(&mut fds, PollTimeout::from(wait_ms)).is_ok() && fds[0].any().unwrap_or_default() {
        // It is readable, so this does not block.
        let _ = waker.fd().read();
        waker.heard();
    }
}
