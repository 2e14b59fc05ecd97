//! `serve tcp`: listens while it is up, healthy and ready.

use tokio::io::AsyncWriteExt;

use super::door::Door;
use super::health::{Health, State};
use super::{ServeError, TcpArgs};

pub(super) async fn serve(args: &TcpArgs, door: Door, health: Health) -> Result<(), ServeError> {
    door.attend(&health, State::is_ready, |mut guest| {
        let body = args.body.clone();
        tokio::spawn(async move {
            // A visitor that only wanted to connect is gone already.
            if guest.write_all(body.as_bytes()).await.is_ok() {
                guest.swallow().await;
            }
        });
    })
    .await
}
