//! sd_notify: READY once the sources have been read, WATCHDOG while every shard turns, STOPPING at the end.
//! Source: sd_notify(3), sd_watchdog_enabled(3).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::health::Health;
use crate::shutdown;

/// How often it is looked whether the sources have been read.
const LOOK: Duration = Duration::from_millis(200);

/// Keeps the service manager informed until `shutdown` turns true. Returns at once where none asked
/// (`NOTIFY_SOCKET` is not set).
pub async fn supervise(health: Health, shutdown: watch::Receiver<bool>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    let notify = |state: NotifyState<'_>| {
        if let Err(error) = sd_notify::notify(&[state]) {
            debug!(%error, "sd_notify");
        }
    };
    tell(health, shutdown, watchdog, notify).await;
}

/// The loop behind [`supervise`]: `watchdog` = the time without a sign after which the manager acts.
async fn tell(
    health: Health,
    mut shutdown: watch::Receiver<bool>,
    watchdog: Option<Duration>,
    mut notify: impl FnMut(NotifyState<'_>),
) {
    // A third: two signs may be late or lost.
    let beat = watchdog.map_or(LOOK, |limit| (limit / 3).clamp(Duration::from_millis(1), LOOK));
    let mut ticks = interval(beat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told_ready, mut told_stalled) = (false, false);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown::told(&mut shutdown) => break,
        }
        let is_live = health.is_live();
        if !is_live && !told_stalled {
            warn!("a shard is stuck: no sign to the service manager's watchdog until it turns again");
        }
        told_stalled = !is_live;
        if watchdog.is_some() && is_live {
            notify(NotifyState::Watchdog);
        }
        if !told_ready && health.is_synced().await {
            notify(NotifyState::Ready);
            told_ready = true;
        }
        if told_ready && watchdog.is_none() {
            // Nothing more to tell before the end.
            shutdown::told(&mut shutdown).await;
            break;
        }
    }
    notify(NotifyState::Stopping);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::clock;
    use crate::results::{Config, Input, Stage, channel};

    #[tokio::test]
    async fn the_service_manager_hears_ready_after_the_sources_and_watchdog_while_live() {
        let (inputs, results, inbox) = channel();
        let (events, _events) = tokio::sync::mpsc::channel(1);
        let config = Config {
            manager_start: clock::now(),
            sources: vec!["manifests"],
            queues: Vec::new(),
            wake: Arc::default(),
            events,
            lifecycle: None,
        };
        tokio::spawn(Stage::new(config, inbox).run());
        let health = Health::new(vec![Arc::new(AtomicU64::new(clock::now().as_nanos()))], results);
        let (stop, stopping) = watch::channel(false);
        let (told_in, mut told) = tokio::sync::mpsc::unbounded_channel();
        let notify = move |state: NotifyState<'_>| told_in.send(state.to_string()).expect("the test listens");
        let task = tokio::spawn(tell(health, stopping, Some(Duration::from_secs(3)), notify));
        assert_eq!(told.recv().await.as_deref(), Some("WATCHDOG=1"));
        inputs.send(Input::Synced("manifests")).await.expect("the stage runs");
        while told.recv().await.as_deref() != Some("READY=1") {}
        stop.send(true).expect("it listens");
        let mut last = None;
        while let Some(state) = told.recv().await {
            last = Some(state);
        }
        assert_eq!(last.as_deref(), Some("STOPPING=1"));
        task.await.expect("it ends");
    }
}
