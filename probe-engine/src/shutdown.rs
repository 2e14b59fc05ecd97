//! The word that it is time to end.

use tokio::sync::watch;

/// Waits for true. A sender that is gone means the same.
pub(crate) async fn told(signal: &mut watch::Receiver<bool>) {
    let _ = signal.wait_for(|end| *end).await;
}
