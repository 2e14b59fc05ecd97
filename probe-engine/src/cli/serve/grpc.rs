//! `serve grpc`: the health service of grpc.health.v1, over plaintext HTTP/2.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthService, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::door::Door;
use super::health::{Health, State};
use super::{GrpcArgs, ServeError};

/// Accepted connections that gRPC has not taken yet.
const ARRIVALS_LEN_MAX: usize = 128;

/// A service whose health can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// As asked for in a health check.
    pub name: String,
    /// While the server is well.
    pub serving: bool,
}

impl Service {
    pub(super) fn parse(text: &str) -> Result<Service, String> {
        match text.rsplit_once('=') {
            Some((name, "SERVING")) => Ok(Service { name: name.to_owned(), serving: true }),
            Some((name, "NOT_SERVING")) => Ok(Service { name: name.to_owned(), serving: false }),
            _ => Err("must be NAME=SERVING or NAME=NOT_SERVING".to_owned()),
        }
    }
}

pub(super) async fn serve(args: &GrpcArgs, door: Door, health: Health) -> Result<(), ServeError> {
    let (arrivals, arrived) = mpsc::channel(ARRIVALS_LEN_MAX);
    let service = Checks { services: args.services.clone(), delay: args.delay, health: health.clone() };
    let server = tonic::transport::Server::builder()
        .add_service(HealthServer::new(service))
        .serve_with_incoming(ReceiverStream::new(arrived).map(Ok::<_, std::io::Error>));
    let doorman = door.attend(&health, args.common.listens(), |guest| {
        // Full: the connection is dropped, and the visitor tries again.
        let _ = arrivals.try_send(guest);
    });
    tokio::select! {
        result = doorman => result,
        result = server => Ok(result?),
    }
}

struct Checks {
    services: Vec<Service>,
    delay: Duration,
    health: Health,
}

impl Checks {
    /// What this service says of itself while it is well; none where it is unknown.
    fn find(&self, name: &str) -> Option<bool> {
        let known = self.services.iter().find(|service| service.name == name);
        known.map(|service| service.serving).or(name.is_empty().then_some(true))
    }
}

fn answer(serving: bool, state: &State) -> HealthCheckResponse {
    let status = if serving && state.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl HealthService for Checks {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        sleep(self.delay).await;
        match self.find(&request.get_ref().service) {
            Some(serving) => Ok(Response::new(answer(serving, &self.health.state()))),
            None => Err(Status::not_found("unknown service")),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let serving = self.find(&request.get_ref().service);
        let states = WatchStream::new(self.health.watch()).map(move |state| {
            Ok(match serving {
                Some(serving) => answer(serving, &state),
                None => HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() },
            })
        });
        Ok(Response::new(Box::pin(states)))
    }
}
