//! Whether a test server is well: what its schedule says until the control path says otherwise.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// It has come up.
    pub(super) started: bool,
    /// It works.
    pub(super) healthy: bool,
    /// It wants traffic.
    pub(super) ready: bool,
    /// The control path decides on `healthy`, the schedule no more.
    controlled: bool,
}

impl State {
    /// Up, working, wanting traffic.
    pub(super) fn is_ready(&self) -> bool {
        self.started && self.healthy && self.ready
    }
}

/// A server's state, shared by its tasks.
#[derive(Clone, Debug)]
pub(super) struct Health(watch::Sender<State>);

impl Health {
    /// Not up yet, and well.
    pub(super) fn new() -> Health {
        Health(watch::Sender::new(State { started: false, healthy: true, ready: true, controlled: false }))
    }

    pub(super) fn state(&self) -> State {
        *self.0.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Carries out the query of `/control`: `healthy=`, `ready=` and `started=`, each `true` or `false`.
    ///
    /// # Errors
    /// Nothing is changed; the text names the parameter and what is allowed.
    pub(super) fn control(&self, query: &str) -> Result<State, String> {
        let mut state = self.state();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let on = match &*value {
                "true" => true,
                "false" => false,
                other => return Err(format!("{name}: {other:?} is neither true nor false")),
            };
            match &*name {
                "healthy" => (state.healthy, state.controlled) = (on, true),
                "ready" => state.ready = on,
                "started" => state.started = on,
                other => return Err(format!("{other:?} is unknown; known are healthy, ready and started")),
            }
        }
        self.0.send_replace(state);
        Ok(state)
    }

    fn by_schedule(&self, change: impl FnOnce(&mut State)) {
        self.0.send_modify(|state| {
            let before = *state;
            change(state);
            if before.controlled {
                state.healthy = before.healthy;
            }
        });
    }
}

/// When a server changes by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Comes up.
    pub(super) start_after: Duration,
    /// Fails, counted from there.
    pub(super) fail_after: Option<Duration>,
    /// Is well again, counted from there; then all over.
    pub(super) recover_after: Option<Duration>,
}

impl Schedule {
    /// Ends when nothing changes any more.
    pub(super) async fn run(self, health: &Health) {
        if !self.start_after.is_zero() {
            sleep(self.start_after).await;
        }
        health.by_schedule(|state| state.started = true);
        let Some(fail_after) = self.fail_after else { return };
        loop {
            sleep(fail_after).await;
            health.by_schedule(|state| state.healthy = false);
            let Some(recover_after) = self.recover_after else { return };
            sleep(recover_after).await;
            health.by_schedule(|state| state.healthy = true);
        }
    }
}
