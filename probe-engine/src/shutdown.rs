//! The word that it is time to end.

use tokio::sync::watch;

/// Waits for true. A sender that is gone means the same. Without a value in the result, so that nothing is held while others are
/// awaited.
pub(crate) async fn told(signal: &mut watch::Receiver<bool>) {
    let _ = signal.wait_for(|end| *end).await;
}

/// The same for who has it to give away.
pub(crate) async fn heard(mut signal: watch::Receiver<bool>) {
    told(&mut signal).await;
}
