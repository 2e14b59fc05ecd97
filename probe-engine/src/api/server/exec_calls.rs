//! ServeExec: commands of exec probes, run by the embedder.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Parts;
use crate::api::v1::{self, exec_result, serve_exec_response};
use crate::runtime::external::broker::{Broker, Call, End, Item, Server};
use crate::{limits, shutdown};

/// See the proto. `ended`: true once the server is to end.
pub(super) fn serve(
    broker: &Arc<Broker>,
    answers: Streaming<v1::ServeExecRequest>,
    mut ended: watch::Receiver<bool>,
) -> Parts<v1::ServeExecResponse> {
    let server = broker.serve();
    let (to, from) = mpsc::channel(limits::API_PARTS_AHEAD_MAX);
    tokio::spawn(async move {
        let why = tokio::select! {
            heard = hear(&server, answers) => heard.err(),
            () = ask(&server, &to) => None,
            () = to.closed() => None,
            () = shutdown::told(&mut ended) => None,
        };
        // With it go the calls that it has not answered.
        drop(server);
        if let Some(why) = why {
            tokio::select! {
                // Where the connection has gone nobody hears it.
                _ = to.send(Err(why)) => {}
                () = shutdown::told(&mut ended) => {}
            }
        }
    });
    ReceiverStream::new(from)
}

/// Until the embedder says no more. An error where it said what cannot be read: a message too large, or none of these.
async fn hear(server: &Server, mut answers: Streaming<v1::ServeExecRequest>) -> Result<(), Status> {
    while let Some(request) = answers.message().await? {
        if let Some(result) = request.result {
            server.answer(result.id, end_of(result));
        }
    }
    Ok(())
}

/// Until nothing is asked of this stream any more, or nobody reads it.
async fn ask(server: &Server, to: &mpsc::Sender<Result<v1::ServeExecResponse, Status>>) {
    loop {
        let next = server.next().await;
        let is_over = next.is_err();
        let item = next.map(wire).map_err(|over| Status::aborted(over.to_string()));
        if to.send(item).await.is_err() || is_over {
            return;
        }
    }
}

fn end_of(result: v1::ExecResult) -> End {
    match result.end {
        Some(exec_result::End::ExitCode(exit_code)) => End::Exited { exit_code, output: result.output },
        Some(exec_result::End::Error(why)) => End::Error(why),
        None => End::Error("the embedder's answer has neither exit_code nor error".to_owned()),
    }
}

fn wire(item: Item) -> v1::ServeExecResponse {
    let item = match item {
        Item::Call(call) => serve_exec_response::Item::Call(wire_call(call)),
        Item::Cancel(id) => serve_exec_response::Item::Cancel(v1::ExecCancel { id }),
    };
    v1::ServeExecResponse { item: Some(item) }
}

fn wire_call(of: Call) -> v1::ExecCall {
    let timeout_ms = |limit: Duration| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    v1::ExecCall {
        id: of.id,
        pod_uid: of.pod.to_string(),
        container: of.container.to_string(),
        container_id: of.container_id.to_string(),
        command: of.command.into_iter().map(String::from).collect(),
        timeout_ms: of.limit.map_or(u32::MAX, timeout_ms),
    }
}
