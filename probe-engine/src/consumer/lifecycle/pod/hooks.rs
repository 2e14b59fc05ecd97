//! A pod's hooks: when they are run, and what comes of it.
//!
//! **Invariant:** a hook ends with its instance: what still runs then is cut off, and has failed.

use std::sync::Arc;

use probe_core::id::ContainerId;
use probe_core::spec::Hook;

use super::slot::{RunningHook, SlotPhase};
use super::{Called, PodWorker};
use crate::consumer::events::EventType;
use crate::consumer::lifecycle::hook::{Done, HookError, HookRun, When};

impl PodWorker {
    /// Starts a hook of a running container; whether it has such a one.
    pub(super) fn run_hook(&mut self, index: usize, when: When) -> bool {
        let (Some(hook), Some(id)) = (self.hook(index, when).cloned(), self.slots[index].status.id.clone()) else {
            return false;
        };
        let run = HookRun {
            pod: Arc::clone(&self.pod),
            container: self.slots[index].name.clone(),
            id: id.clone(),
            hook,
            runtime: Arc::clone(&self.context.runtime),
            clock: self.context.clock,
        };
        let task = self.calls.spawn(async move { Called::Hook { index, id, when, result: run.run().await } });
        self.slots[index].hook = Some(RunningHook { when, task });
        true
    }

    pub(super) fn hook_ended(&mut self, index: usize, id: &ContainerId, when: When, result: Result<Done, HookError>) {
        let slot = &mut self.slots[index];
        let is_running = slot.hook.as_ref().is_some_and(|hook| hook.when == when);
        if !is_running || slot.status.id.as_ref() != Some(id) {
            // Cut off while its end was under way to us: that has been told.
            return;
        }
        slot.hook = None;
        let error = match result {
            Ok(done) => {
                if let Some(address) = done.fell_back {
                    self.fell_back(index, &address);
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = &error {
            self.hook_failed(index, when, error);
        }
        match (when, error) {
            (When::PreStop, _) => self.pre_stop_done(index),
            (When::PostStart, Some(error)) => self.kill_after_post_start(index, error),
            (When::PostStart, None) => self.post_start_done(index),
        }
    }

    /// The instance has ended, or its pod is being ended, before the hook has.
    pub(super) fn hook_cut_off(&mut self, index: usize) {
        if let Some(when) = self.slots[index].abort_hook() {
            self.context.stats.hook_cut_off(self.hook(index, when));
            self.hook_failed(index, when, "container terminated before the hook finished");
        }
    }

    /// The event says no more than that: what a server answers may hold secrets, and is for the log.
    fn hook_failed(&self, index: usize, when: When, error: &str) {
        let (reason, message) = when.failed();
        tracing::warn!(pod = %self.pod.name, container = %self.slots[index].name, error, "{message}");
        self.event(index, EventType::Warning, reason, message.to_owned(), None);
    }

    fn fell_back(&self, index: usize, address: &str) {
        self.context.stats.http_fallback();
        let message = format!("request to HTTPS lifecycle hook {address} got HTTP response, retry with HTTP succeeded");
        self.event(index, EventType::Warning, "LifecycleHTTPFallback", message, None);
    }

    fn hook(&self, index: usize, when: When) -> Option<&Hook> {
        let container = self.container(index);
        match when {
            When::PostStart => container.post_start(),
            When::PreStop => container.pre_stop(),
        }
    }

    fn post_start_done(&mut self, index: usize) {
        let is_started = self.container(index).probes.startup.is_none();
        let slot = &mut self.slots[index];
        slot.is_started = is_started;
        slot.phase = SlotPhase::Idle;
        self.start_is_over();
        self.start_next();
    }
}
